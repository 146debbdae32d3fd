//! Loki as a state machine: what it stores of a push, and what it says of it.

use super::files::{Kind, Line, labels};
use crate::part::Part;
use crate::track::Job;
use crate::verdict::Answer;
use io::sim::{Events, below, one_in};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct SimLoki {
    /// Timestamp and text of each line, the first time that it came.
    pub stored: BTreeMap<Line, (i64, Vec<u8>)>,
    /// The last line of each stream that came first.
    last: BTreeMap<usize, Line>,
    /// Streams that did not rest for long.
    known: BTreeSet<usize>,
    /// Streams that it takes nothing of.
    pub limited: BTreeSet<usize>,
    /// Streams that it does not know are refused.
    pub no_more_streams: bool,
    /// What is older than this was too old once, by the clock of that time.
    pub oldest_ns: i64,
    /// Larger pushes are an overload.
    pub bytes_max: Option<usize>,
    pub state: State,
    pub pushes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Up,
    /// Answers are lost, after or before it stored.
    Flaky,
    Down,
    Unauthorized,
}

impl SimLoki {
    pub fn push(&mut self, job: &Job, seed: &mut u64, events: &Events) -> Answer {
        self.pushes += 1;
        let status =
            |code, text: &str| Answer::Status { code, retry_after: None, text: text.to_owned() };
        match self.state {
            State::Down => {
                events.count("outage");
                return match below(seed, 3) {
                    0 => Answer::Broken("refused".into()),
                    1 => status(503, "no service"),
                    _ => status(500, "empty ring"),
                };
            }
            State::Unauthorized => {
                events.count("unauthorized");
                return status(401, "no org id");
            }
            State::Flaky if one_in(seed, 2) => {
                events.count("lost answer");
                if one_in(seed, 2) {
                    let _ = self.take(job, seed, events);
                }
                return Answer::Broken("timed out".into());
            }
            State::Up | State::Flaky => {}
        }
        self.take(job, seed, events)
    }

    /// Stores what it may, and says one thing of the rest.
    fn take(&mut self, job: &Job, seed: &mut u64, events: &Events) -> Answer {
        let status =
            |code, text: &str| Answer::Status { code, retry_after: None, text: text.to_owned() };
        if self.bytes_max.is_some_and(|max| job.raw_bytes() > max && job.entries() > 1) {
            events.count("push too large");
            return match below(seed, 2) {
                0 => status(413, "request body too large"),
                _ => status(429, "ingestion rate limit exceeded for user fake"),
            };
        }
        let parts: Vec<Part> = job.pieces.iter().map(|piece| Part::of(&piece.frame.body)).collect();
        let entries = || parts.iter().flat_map(Part::entries);
        if entries().any(|entry| Line::parse(entry.line).1 == Kind::Poison) {
            events.count("who is poison");
            return status(500, "panic");
        }
        let (mut bad, mut limited) = (false, false);
        let last = entries().last().map(|entry| Line::parse(entry.line).0.stream);
        for entry in entries() {
            let (line, kind) = Line::parse(entry.line);
            assert_eq!(entry.labels, labels(line.stream), "a line in another stream");
            if self.no_more_streams && !self.known.contains(&line.stream) {
                // What its ingesters say of the last stream is told, and of others not.
                if Some(line.stream) == last {
                    limited = true;
                } else {
                    events.count("lost behind a 204");
                }
            } else if self.limited.contains(&line.stream) {
                limited = true;
            } else if kind == Kind::Bad {
                bad = true;
            } else {
                self.store(line, entry.stamp_ns, entry.line);
            }
        }
        match (limited, bad) {
            (true, true) => {
                events.count("masked error");
                // It says one of the two.
                if one_in(seed, 2) {
                    status(400, "Max entry size '262144' bytes exceeded")
                } else {
                    status(429, "Per stream rate limit exceeded (limit: 3MB/sec)")
                }
            }
            (true, false) => {
                events.count("stream limited");
                if self.no_more_streams {
                    events.count("no more streams");
                }
                status(429, "Per stream rate limit exceeded (limit: 3MB/sec)")
            }
            (false, true) => {
                events.count("push refused");
                status(400, "Max entry size '262144' bytes exceeded")
            }
            (false, false) => status(204, ""),
        }
    }

    /// All streams rested.
    pub fn forget_streams(&mut self) {
        self.known.clear();
    }

    fn store(&mut self, line: Line, stamp_ns: i64, text: &[u8]) {
        self.known.insert(line.stream);
        if let Some((known_ns, known)) = self.stored.get(&line) {
            // The same once more is dropped; anything else would be stored twice.
            assert_eq!((*known_ns, &known[..]), (stamp_ns, text), "{line:?} came twice");
            return;
        }
        // What was too old for a while, and went when the clock was set back, is late.
        let late = stamp_ns < self.oldest_ns && self.last.get(&line.stream) > Some(&line);
        let last = if late { None } else { self.last.insert(line.stream, line) };
        if let Some(last) = last {
            assert!(last < line, "{line:?} came after {last:?}");
            let (before_ns, _) = self.stored[&last];
            assert!(before_ns < stamp_ns, "{line:?} is older than {last:?}");
        }
        self.stored.insert(line, (stamp_ns, text.to_owned()));
    }

    /// What it is going to be for a while.
    pub fn turn(&mut self, seed: &mut u64) {
        self.state =
            [State::Up, State::Up, State::Flaky, State::Down, State::Unauthorized][below(seed, 5)];
        self.bytes_max = one_in(seed, 3).then(|| 200 + below(seed, 2_000));
        self.no_more_streams = one_in(seed, 3);
        self.limited.clear();
        if one_in(seed, 2) {
            self.limited.insert(below(seed, 3));
        }
    }
}
