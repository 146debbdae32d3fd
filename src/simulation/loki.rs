//! Loki as a state machine: what it stores of a push, and what it says of it.

use super::files::{Kind, Line, TENANTS, labels, tenant};
use crate::part::Part;
use crate::track::{Job, LARGE_BYTES};
use crate::verdict::Answer;
use io::format::Seq;
use io::sim::{Events, below, one_in};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

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
    /// Tenants that it serves otherwise than the rest.
    pub tenants: BTreeMap<&'static str, State>,
    /// Tenants of which something did not pass, whatever it held.
    pub failed: BTreeSet<&'static str>,
    /// What it takes of a stream.
    pub rate: Option<Rate>,
    buckets: BTreeMap<usize, Bucket>,
    /// Frames that were above the burst, and how large they were.
    above_burst: BTreeMap<Seq, usize>,
    /// Lines of frames that rotted: they may come once more, and late.
    pub loose: BTreeSet<Line>,
}

/// Of a stream: bytes a second, and at once after a rest.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub bytes: u64,
    pub burst: u64,
}

/// What a stream may still send just now.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    at: Instant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Up,
    /// Answers are lost, after or before it stored.
    Flaky,
    Down,
    Unauthorized,
    /// There is too much of it, whatever it is.
    Limited,
}

fn status(code: u16, text: &str) -> Answer {
    Answer::Status { code, retry_after: None, text: text.to_owned() }
}

impl SimLoki {
    pub fn new(rate: Option<Rate>) -> SimLoki {
        SimLoki { rate, ..SimLoki::default() }
    }

    /// A push of this tenant, as its frames name it.
    pub fn push(
        &mut self,
        of: &str,
        job: &Job,
        now: Instant,
        seed: &mut u64,
        events: &Events,
    ) -> Answer {
        let tenant = TENANTS.into_iter().find(|known| *known == of).expect("a tenant");
        let apart = self.tenants.get(tenant);
        if let Some(State::Unauthorized | State::Limited) = apart {
            events.count("one tenant refused");
        }
        let state = *apart.unwrap_or(&self.state);
        let answer = self.answer(state, tenant, job, now, seed, events);
        let fine = matches!(answer, Answer::Status { code: 204 | 400, .. });
        if !fine {
            self.failed.insert(tenant);
        }
        answer
    }

    fn answer(
        &mut self,
        state: State,
        tenant: &str,
        job: &Job,
        now: Instant,
        seed: &mut u64,
        events: &Events,
    ) -> Answer {
        match state {
            State::Limited => {
                return status(429, "ingestion rate limit exceeded for user");
            }
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
                    let _ = self.take(tenant, job, now, seed, events);
                }
                return Answer::Broken("timed out".into());
            }
            State::Up | State::Flaky => {}
        }
        self.take(tenant, job, now, seed, events)
    }

    /// Stores what it may, and says one thing of the rest.
    fn take(
        &mut self,
        of: &str,
        job: &Job,
        now: Instant,
        seed: &mut u64,
        events: &Events,
    ) -> Answer {
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
        let mut bytes: BTreeMap<usize, u64> = BTreeMap::new();
        for entry in entries() {
            *bytes.entry(Line::parse(entry.line).0.stream).or_default() += entry.line.len() as u64;
        }
        let fast: BTreeSet<usize> = bytes
            .into_iter()
            .filter(|(stream, bytes)| !self.is_within_rate(*stream, *bytes, now))
            .map(|(stream, _)| stream)
            .collect();
        for entry in entries() {
            let (line, kind) = Line::parse(entry.line);
            assert_eq!(entry.labels, labels(line.stream), "a line in another stream");
            assert_eq!(of, tenant(line.stream), "a line of another tenant");
            if fast.contains(&line.stream) {
                if Some(line.stream) == last {
                    limited = true;
                } else {
                    events.count("lost behind a 204");
                }
            } else if self.no_more_streams && !self.known.contains(&line.stream) {
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
        self.note_rate(job, &fast, events);
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

    /// Whether so much of a stream passes now; then it counts.
    fn is_within_rate(&mut self, stream: usize, bytes: u64, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        let full = Bucket { left: rate.burst, at: now };
        let bucket = self.buckets.entry(stream).or_insert(full);
        let passed = now.saturating_duration_since(bucket.at).as_millis();
        let more = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(rate.bytes) / 1000;
        bucket.left = bucket.left.saturating_add(more).min(rate.burst);
        bucket.at = now;
        let passes = bytes <= bucket.left;
        if passes {
            bucket.left -= bytes;
        }
        passes
    }

    /// Counts what its rate made of a push.
    fn note_rate(&mut self, job: &Job, fast: &BTreeSet<usize>, events: &Events) {
        let (seq, bytes) = (job.pieces[0].frame.seq, job.raw_bytes());
        if !fast.is_empty() {
            events.count("stream too fast");
            if self.rate.is_some_and(|rate| rate.burst < bytes as u64) && bytes > LARGE_BYTES {
                self.above_burst.insert(seq, bytes);
            }
        } else if self.above_burst.get(&seq).is_some_and(|whole| bytes < *whole) {
            events.count("burst in parts");
            self.above_burst.remove(&seq);
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
            let same = (*known_ns, &known[..]) == (stamp_ns, text);
            assert!(same || self.loose.contains(&line), "{line:?} came twice");
            return;
        }
        // What was too old for a while, and went when the clock was set back, is late.
        let too_old = stamp_ns < self.oldest_ns && self.last.get(&line.stream) > Some(&line);
        let late = too_old || self.loose.contains(&line);
        let last = if late { None } else { self.last.insert(line.stream, line) };
        if let Some(last) = last {
            assert!(last < line, "{line:?} came after {last:?}");
            let (before_ns, _) = self.stored[&last];
            // With a frame that rotted, the time that its stream was at may be lost.
            let follows = before_ns < stamp_ns || self.loose.contains(&last);
            assert!(follows, "{line:?} is older than {last:?}");
        }
        self.stored.insert(line, (stamp_ns, text.to_owned()));
    }

    /// It serves all.
    pub fn heal(&mut self) {
        self.state = State::Up;
        self.tenants.clear();
        self.limited.clear();
        self.no_more_streams = false;
        self.bytes_max = None;
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
        self.tenants.clear();
        if one_in(seed, 3) {
            let tenant = TENANTS[below(seed, TENANTS.len())];
            self.tenants.insert(tenant, sickness(seed));
        }
    }
}

/// How it may fail one tenant.
pub fn sickness(seed: &mut u64) -> State {
    [State::Unauthorized, State::Limited, State::Down][below(seed, 3)]
}
