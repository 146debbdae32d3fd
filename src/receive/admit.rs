//! What Loki would refuse is refused at this door, with Loki's words: so nothing that was accepted
//! here is turned away there.

use crate::labels::Pair;
use jiff::{SignedDuration, Timestamp};
use std::borrow::Cow;
use std::time::Duration;

/// The limits of the Loki behind this door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub line_bytes_max: usize,
    pub label_names_max: usize,
    pub label_name_bytes_max: usize,
    pub label_value_bytes_max: usize,
    /// Structured metadata of a line: names and values, and how many pairs.
    pub metadata_bytes_max: usize,
    pub metadata_pairs_max: usize,
    pub age_max: Duration,
    pub future_max: Duration,
}

/// Beyond this, labels are not looked at.
pub const LABELS_BYTES_MAX: usize = 64 << 10;
/// Loki counts it to nobody's charge, since it adds it itself.
const SERVICE_NAME: &str = "service_name";
/// Loki's own streams have labels that begin so.
const RESERVED: &str = "__";

/// Why an entry, or all entries of a stream, are refused while others may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("error at least one label pair is required per stream")]
    MissingLabels,
    #[error("entry for stream '{labels}' has {found} label names; limit {max}")]
    LabelNames { labels: String, found: usize, max: usize },
    #[error("stream '{labels}' has label name too long: '{name}'")]
    LabelName { labels: String, name: String },
    #[error("stream '{labels}' has label value too long: '{value}'")]
    LabelValue { labels: String, value: String },
    #[error("stream '{labels}' has duplicate label name: '{name}'")]
    DuplicateLabel { labels: String, name: String },
    #[error("stream '{labels}' has a reserved label name: '{name}'")]
    ReservedLabel { labels: String, name: String },
    #[error(
        "entry for stream '{labels}' has timestamp too old: {found}, oldest acceptable timestamp \
         is: {oldest}"
    )]
    TooOld { labels: String, found: String, oldest: String },
    #[error("entry for stream '{labels}' has timestamp too new: {found}")]
    TooNew { labels: String, found: String },
    #[error(
        "max entry size '{max}' bytes exceeded for stream '{labels}' while adding an entry with \
         length '{found}' bytes"
    )]
    LineTooLong { labels: String, found: usize, max: usize },
    #[error(
        "stream '{labels}' has structured metadata too large: '{found}' bytes, limit: '{max}' bytes"
    )]
    MetadataTooLarge { labels: String, found: usize, max: usize },
    #[error("stream '{labels}' has too many structured metadata labels: '{found}', limit: '{max}'")]
    MetadataTooMany { labels: String, found: usize, max: usize },
}

/// What [`Refusal::reason`] may say.
pub const REASONS: [&str; 11] = [
    "missing_labels",
    "max_label_names_per_series",
    "label_name_too_long",
    "label_value_too_long",
    "duplicate_label_names",
    "reserved_label_name",
    "greater_than_max_sample_age",
    "too_far_in_future",
    "line_too_long",
    "structured_metadata_too_large",
    "structured_metadata_too_many",
];

impl Refusal {
    /// As Loki names it in its metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::MissingLabels => "missing_labels",
            Refusal::LabelNames { .. } => "max_label_names_per_series",
            Refusal::LabelName { .. } => "label_name_too_long",
            Refusal::LabelValue { .. } => "label_value_too_long",
            Refusal::DuplicateLabel { .. } => "duplicate_label_names",
            Refusal::ReservedLabel { .. } => "reserved_label_name",
            Refusal::TooOld { .. } => "greater_than_max_sample_age",
            Refusal::TooNew { .. } => "too_far_in_future",
            Refusal::LineTooLong { .. } => "line_too_long",
            Refusal::MetadataTooLarge { .. } => "structured_metadata_too_large",
            Refusal::MetadataTooMany { .. } => "structured_metadata_too_many",
        }
    }
}

/// What counts of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    pub stamp_ns: i64,
    pub line_bytes: usize,
    pub metadata_bytes: usize,
    pub metadata_pairs: usize,
}

/// The limits at one moment.
#[derive(Debug, Clone)]
pub struct Door<'a> {
    limits: &'a Limits,
    oldest_ns: i64,
    newest_ns: i64,
}

static UNLIMITED: Limits = Limits {
    line_bytes_max: usize::MAX,
    label_names_max: usize::MAX,
    label_name_bytes_max: usize::MAX,
    label_value_bytes_max: usize::MAX,
    metadata_bytes_max: usize::MAX,
    metadata_pairs_max: usize::MAX,
    age_max: Duration::MAX,
    future_max: Duration::MAX,
};

impl Door<'static> {
    /// Everything passes.
    pub const OPEN: Door<'static> =
        Door { limits: &UNLIMITED, oldest_ns: i64::MIN, newest_ns: i64::MAX };
}

impl<'a> Door<'a> {
    #[must_use]
    pub fn new(limits: &'a Limits, now_ns: i64) -> Door<'a> {
        let ns = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Door {
            limits,
            oldest_ns: now_ns.saturating_sub(ns(limits.age_max)).max(0),
            newest_ns: now_ns.saturating_add(ns(limits.future_max)),
        }
    }

    /// Whether a stream may have these labels, of which `text` is the rendered form.
    pub fn labels(&self, text: &str, pairs: &[Pair<'_>]) -> Result<(), Refusal> {
        let labels = || shown(text);
        if pairs.is_empty() {
            return Err(Refusal::MissingLabels);
        }
        let found = pairs.iter().filter(|(name, _)| *name != SERVICE_NAME).count();
        let max = self.limits.label_names_max;
        if found > max {
            return Err(Refusal::LabelNames { labels: labels(), found, max });
        }
        for (at, (name, value)) in pairs.iter().enumerate() {
            if name.len() > self.limits.label_name_bytes_max {
                return Err(Refusal::LabelName { labels: labels(), name: shown(name) });
            }
            if value.len() > self.limits.label_value_bytes_max {
                return Err(Refusal::LabelValue { labels: labels(), value: shown(value) });
            }
            if name.starts_with(RESERVED) {
                return Err(Refusal::ReservedLabel { labels: labels(), name: shown(name) });
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Refusal::DuplicateLabel { labels: labels(), name: shown(name) });
            }
        }
        Ok(())
    }

    /// Whether an entry of the stream with these labels may pass.
    #[inline]
    pub fn entry(&self, labels: &str, entry: &Measure) -> Result<(), Refusal> {
        let passes = entry.stamp_ns >= self.oldest_ns
            && entry.stamp_ns <= self.newest_ns
            && self.fits(entry);
        if passes { Ok(()) } else { Err(self.refusal(shown(labels), entry)) }
    }

    /// Whether an entry is small enough, whatever its time.
    #[inline]
    #[must_use]
    pub fn fits(&self, entry: &Measure) -> bool {
        entry.line_bytes <= self.limits.line_bytes_max
            && entry.metadata_bytes <= self.limits.metadata_bytes_max
            && entry.metadata_pairs <= self.limits.metadata_pairs_max
    }

    /// In the order in which Loki looks.
    #[cold]
    fn refusal(&self, labels: String, entry: &Measure) -> Refusal {
        let limits = self.limits;
        if entry.stamp_ns < self.oldest_ns {
            let (found, oldest) = (rfc3339(entry.stamp_ns), rfc3339(self.oldest_ns));
            Refusal::TooOld { labels, found, oldest }
        } else if entry.stamp_ns > self.newest_ns {
            Refusal::TooNew { labels, found: rfc3339(entry.stamp_ns) }
        } else if entry.line_bytes > limits.line_bytes_max {
            Refusal::LineTooLong { labels, found: entry.line_bytes, max: limits.line_bytes_max }
        } else if entry.metadata_bytes > limits.metadata_bytes_max {
            let max = limits.metadata_bytes_max;
            Refusal::MetadataTooLarge { labels, found: entry.metadata_bytes, max }
        } else {
            let max = limits.metadata_pairs_max;
            Refusal::MetadataTooMany { labels, found: entry.metadata_pairs, max }
        }
    }
}

/// What was refused of a request, for its answer and the counters.
#[derive(Debug, Default)]
pub struct Refused {
    /// Each different refusal, and how many entries it met; a few, and the number of the others.
    texts: Vec<(String, u64)>,
    others: u64,
    pub reasons: Vec<(&'static str, u64)>,
    pub entries: u64,
}

/// How many different refusals an answer tells of.
const TEXTS_MAX: usize = 10;

impl Refused {
    pub fn add(&mut self, refusal: &Refusal, entries: u64) {
        self.entries += entries;
        debug_assert!(REASONS.contains(&refusal.reason()));
        match self.reasons.iter_mut().find(|(reason, _)| *reason == refusal.reason()) {
            Some((_, count)) => *count += entries,
            None => self.reasons.push((refusal.reason(), entries)),
        }
        if self.texts.len() == TEXTS_MAX {
            // No text for those that would not be shown.
            self.others += entries;
            return;
        }
        let text = refusal.to_string();
        match self.texts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += entries,
            None => self.texts.push((text, entries)),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }
}

impl std::fmt::Display for Refused {
    /// As Loki groups its errors.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let [(text, 1)] = &self.texts[..] {
            return f.write_str(text);
        }
        for (at, (text, count)) in self.texts.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{count} errors like: {text}")?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, "; and {others} more"),
        }
    }
}

/// What of a client's text is repeated to it.
fn shown(text: &str) -> String {
    const SHOWN_BYTES_MAX: usize = 1000;
    let cut = text.floor_char_boundary(SHOWN_BYTES_MAX);
    let shown =
        if cut < text.len() { Cow::from(format!("{}…", &text[..cut])) } else { text.into() };
    shown.into_owned()
}

fn rfc3339(ns: i64) -> String {
    let second = SignedDuration::from_secs(ns.div_euclid(1_000_000_000));
    let time = Timestamp::UNIX_EPOCH.saturating_add(second);
    time.map_or_else(|_| format!("{ns} ns"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels;

    const HOUR: Duration = Duration::from_secs(3600);

    fn limits() -> Limits {
        Limits {
            line_bytes_max: 10,
            label_names_max: 2,
            label_name_bytes_max: 5,
            label_value_bytes_max: 6,
            metadata_bytes_max: 8,
            metadata_pairs_max: 2,
            age_max: HOUR,
            future_max: HOUR,
        }
    }

    #[test]
    fn labels_are_refused_with_the_words_of_loki() {
        let limits = limits();
        let door = Door::new(&limits, 0);
        for (text, expected) in [
            ("{a=\"1\", b=\"2\"}", ""),
            (
                "{a=\"1\", b=\"2\", service_name=\"3\"}",
                "stream '{a=\"1\", b=\"2\", service_name=\"3\"}' has label name too long: 'service_name'",
            ),
            ("{}", "error at least one label pair is required per stream"),
            (
                "{a=\"1\", b=\"2\", c=\"3\"}",
                "entry for stream '{a=\"1\", b=\"2\", c=\"3\"}' has 3 label names; limit 2",
            ),
            ("{a=\"1234567\"}", "stream '{a=\"1234567\"}' has label value too long: '1234567'"),
            ("{a=\"1\", a=\"1\"}", "stream '{a=\"1\", a=\"1\"}' has duplicate label name: 'a'"),
            ("{__a=\"1\"}", "stream '{__a=\"1\"}' has a reserved label name: '__a'"),
        ] {
            let found = door.labels(text, &labels::parse(text).unwrap());
            assert_eq!(
                found.map_or_else(|refusal| refusal.to_string(), |()| String::new()),
                expected
            );
        }
    }

    #[test]
    fn entries_are_refused_with_the_words_of_loki() {
        let limits = limits();
        let now = 1_700_000_000_000_000_000;
        let hour = 3_600_000_000_000;
        let door = Door::new(&limits, now);
        let good = Measure { stamp_ns: now, line_bytes: 10, metadata_bytes: 8, metadata_pairs: 2 };
        for (entry, expected) in [
            (good, ""),
            (Measure { stamp_ns: now - hour, ..good }, ""),
            (Measure { stamp_ns: now + hour, ..good }, ""),
            (
                Measure { stamp_ns: now - hour - 1, line_bytes: 11, ..good },
                "entry for stream '{}' has timestamp too old: 2023-11-14T21:13:19Z, oldest \
                 acceptable timestamp is: 2023-11-14T21:13:20Z",
            ),
            (
                Measure { stamp_ns: now + hour + 1, ..good },
                "entry for stream '{}' has timestamp too new: 2023-11-14T23:13:20Z",
            ),
            (
                Measure { line_bytes: 11, ..good },
                "max entry size '10' bytes exceeded for stream '{}' while adding an entry with \
                 length '11' bytes",
            ),
            (
                Measure { metadata_bytes: 9, ..good },
                "stream '{}' has structured metadata too large: '9' bytes, limit: '8' bytes",
            ),
            (
                Measure { metadata_pairs: 3, ..good },
                "stream '{}' has too many structured metadata labels: '3', limit: '2'",
            ),
        ] {
            let found = door.entry("{}", &entry);
            assert_eq!(
                found.map_or_else(|refusal| refusal.to_string(), |()| String::new()),
                expected
            );
        }
    }

    #[test]
    fn a_million_refusals_make_a_short_answer() {
        let mut refused = Refused::default();
        refused.add(&Refusal::MissingLabels, 1);
        for found in 0..1000 {
            refused.add(&Refusal::LabelNames { labels: "x".repeat(500), found, max: 2 }, 1000);
        }
        assert_eq!(refused.entries, 1_000_001);
        assert_eq!(
            refused.reasons,
            [("missing_labels", 1), ("max_label_names_per_series", 1_000_000)]
        );
        let text = refused.to_string();
        assert!(text.len() < 10_000 && text.ends_with("; and 991000 more"), "{text}");
    }
}
