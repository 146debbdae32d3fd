//! What a push is answered of which some is refused.

use super::limits::go_time;
use super::receive::Answer;

/// As many entries as Loki names in the answer for a stream.
const NAMED_MAX: usize = 10;

/// Errors of single entries and streams that leave the rest of the push alone.
#[derive(Default)]
pub struct Refused {
    /// What the stub was told to say, before all others.
    pub told: Option<Answer>,
    /// The distributor's: equal texts are counted.
    texts: Vec<(String, u64)>,
    /// The ingester's, of the last stream that it was asked to store: what it says of one hides
    /// what it said of those before, and an error of its own what the distributor found.
    ingester: Option<Answer>,
    /// Entries that the ingester refused, in all and of the last stream.
    ingester_all: u64,
    ingester_last: u64,
}

impl Refused {
    pub fn add(&mut self, text: String) {
        if let Some((_, count)) = self.texts.iter_mut().find(|(known, _)| *known == text) {
            *count += 1;
        } else if self.texts.len() < NAMED_MAX {
            self.texts.push((text, 1));
        }
    }

    /// What the ingester says of a stream, and how many of its entries it refused.
    pub fn ingester_said(&mut self, answer: Option<Answer>, entries: u64) {
        self.ingester = answer;
        self.ingester_all += entries;
        self.ingester_last = entries;
    }

    /// Entries that the ingester refused and the answer does not tell of.
    pub fn hidden(&self) -> u64 {
        let shown = if self.told.is_some() { 0 } else { self.ingester_last };
        self.ingester_all - shown
    }

    pub fn answer(self) -> Answer {
        if let Some(answer) = self.told.or(self.ingester) {
            return answer;
        }
        if self.texts.is_empty() {
            return Answer::stored();
        }
        let texts: Vec<String> = self
            .texts
            .into_iter()
            .map(|(text, count)| match count {
                1 => text,
                n => format!("{n} errors like: {text}"),
            })
            .collect();
        Answer::new(400, texts.join("; "))
    }
}

/// Entries of one stream that the ingester does not take.
#[derive(Default)]
pub struct Ignored {
    texts: String,
    count: u64,
}

impl Ignored {
    pub fn add(&mut self, timestamp_ns: i64, reason: impl FnOnce() -> String) {
        self.count += 1;
        if self.count <= NAMED_MAX as u64 {
            let (time, reason) = (go_time(timestamp_ns), reason());
            self.texts
                .push_str(&format!("entry with timestamp {time} ignored, reason: '{reason}',\n"));
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// None where it took all of so many.
    pub fn answer(self, status: u16, user: &str, entries: usize, labels: &str) -> Option<Answer> {
        if self.count == 0 {
            return None;
        }
        let Ignored { texts, count } = self;
        let text = format!(
            "{texts}user '{user}', total ignored: {count} out of {entries} for stream: {labels}\n"
        );
        Some(Answer::new(status, text))
    }
}
