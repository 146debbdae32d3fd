//! One entry that the sink refused, with everything that is needed to send it again, and why it did
//! not pass.
//!
//! Its form is one line of JSON, for the disk, for `dlq export` and for whoever reads that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;

/// Of the sink's own words no more is kept.
pub const TEXT_BYTES_MAX: usize = 4 << 10;
/// Of the name of a reason that a later version gave.
const REASON_BYTES_MAX: usize = 64;

/// Why an entry is here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The sink refuses it for good, for a reason without a name here.
    Refused,
    /// Its time lies further back than the sink takes.
    TooOld,
    /// Larger than the sink takes.
    TooLarge,
    /// A limit of its stream or tenant that does not pass by waiting a moment.
    StreamLimited,
    /// The same failure again and again, for it alone.
    Failing,
    /// Nothing of its tenant passed, and it held up others.
    Held,
    /// A later version's.
    Other(String),
}

const REASONS: [(&str, Reason); 6] = [
    ("refused", Reason::Refused),
    ("too_old", Reason::TooOld),
    ("too_large", Reason::TooLarge),
    ("stream_limited", Reason::StreamLimited),
    ("failing", Reason::Failing),
    ("held", Reason::Held),
];

impl Reason {
    #[must_use]
    pub fn parse(name: &str) -> Reason {
        let known = REASONS.iter().find(|(known, _)| *known == name);
        known.map_or_else(
            || Reason::Other(name[..name.floor_char_boundary(REASON_BYTES_MAX)].into()),
            |(_, reason)| reason.clone(),
        )
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Reason::Other(name) => name,
            known => REASONS.iter().find(|(_, reason)| reason == known).expect("listed").0,
        }
    }

    /// Its name, where this version gives it: there are few of these.
    #[must_use]
    pub fn known_name(&self) -> &'static str {
        let known = REASONS.iter().find(|(_, reason)| reason == self);
        known.map_or("other", |(name, _)| name)
    }

    /// Whether sending it unchanged may ever help: nothing gets younger.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        *self != Reason::TooOld
    }

    /// The names that this version gives.
    pub fn names() -> impl Iterator<Item = &'static str> {
        REASONS.iter().map(|(name, _)| *name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Reason, D::Error> {
        Ok(Reason::parse(&Cow::<'de, str>::deserialize(from)?))
    }
}

/// The frame of the write-ahead log that it was refused with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub shard: u32,
    pub frame: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub sink: String,
    pub tenant: String,
    /// As Loki writes them: `{a="b"}`.
    pub labels: String,
    pub timestamp_ns: i64,
    pub line: Vec<u8>,
    /// Structured metadata, in its order.
    pub metadata: Vec<(String, String)>,
    pub origin: Origin,
    pub arrived_ns: i64,
    pub reason: Reason,
    /// Of the sink's answer; none where there was none.
    pub status: Option<u16>,
    /// The sink's own words, cut to [`TEXT_BYTES_MAX`].
    pub text: String,
    /// How often it was sent again from here and refused again.
    pub attempts: u32,
    pub first_rejected_ns: i64,
    pub rejected_ns: i64,
}

/// The JSON of a record. Of the two forms of a line there is one.
#[derive(Serialize, Deserialize)]
struct Form<'a> {
    #[serde(borrow)]
    sink: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    #[serde(borrow)]
    labels: Cow<'a, str>,
    timestamp_ns: i64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    line: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    line_base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    metadata: Cow<'a, [(String, String)]>,
    origin: Origin,
    arrived_ns: i64,
    reason: Cow<'a, Reason>,
    #[serde(default)]
    status: Option<u16>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(default)]
    attempts: u32,
    first_rejected_ns: i64,
    rejected_ns: i64,
}

fn is_empty(pairs: &[(String, String)]) -> bool {
    pairs.is_empty()
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.line).ok();
        let form = Form {
            sink: (&self.sink).into(),
            tenant: (&self.tenant).into(),
            labels: (&self.labels).into(),
            timestamp_ns: self.timestamp_ns,
            line: text.map(Cow::from),
            line_base64: text.is_none().then(|| BASE64.encode(&self.line).into()),
            metadata: (&self.metadata).into(),
            origin: self.origin,
            arrived_ns: self.arrived_ns,
            reason: Cow::Borrowed(&self.reason),
            status: self.status,
            text: limit_text(&self.text).into(),
            attempts: self.attempts,
            first_rejected_ns: self.first_rejected_ns,
            rejected_ns: self.rejected_ns,
        };
        form.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Record, D::Error> {
        let form = Form::deserialize(from)?;
        let line = match (form.line, form.line_base64) {
            (Some(line), None) => line.into_owned().into_bytes(),
            (None, Some(line)) => BASE64
                .decode(line.as_bytes())
                .map_err(|error| de::Error::custom(format!("line_base64: {error}")))?,
            _ => return Err(de::Error::custom("either line or line_base64 is expected")),
        };
        Ok(Record {
            sink: form.sink.into_owned(),
            tenant: form.tenant.into_owned(),
            labels: form.labels.into_owned(),
            timestamp_ns: form.timestamp_ns,
            line,
            metadata: form.metadata.into_owned(),
            origin: form.origin,
            arrived_ns: form.arrived_ns,
            reason: form.reason.into_owned(),
            status: form.status,
            text: form.text.into_owned(),
            attempts: form.attempts,
            first_rejected_ns: form.first_rejected_ns,
            rejected_ns: form.rejected_ns,
        })
    }
}

/// As much of the sink's words as is kept.
#[must_use]
pub fn limit_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

impl Record {
    /// One line of JSON, its end included.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("a record is JSON, and memory takes it");
        out.push(b'\n');
    }

    /// Refused once more.
    pub fn rejected_again(
        &mut self,
        reason: Option<Reason>,
        status: Option<u16>,
        text: &str,
        now_ns: i64,
    ) {
        self.reason = reason.unwrap_or_else(|| self.reason.clone());
        self.status = status;
        self.text = limit_text(text).to_owned();
        self.attempts = self.attempts.saturating_add(1);
        self.rejected_ns = now_ns;
    }

    #[cfg(test)]
    pub fn for_tests(line: &str) -> Record {
        Record {
            sink: "loki".into(),
            tenant: String::new(),
            labels: "{job=\"test\"}".into(),
            timestamp_ns: 1_700_000_000_000_000_000,
            line: line.into(),
            metadata: Vec::new(),
            origin: Origin { shard: 0, frame: 7 },
            arrived_ns: 1_700_000_000_000_000_001,
            reason: Reason::Refused,
            status: Some(400),
            text: "no".into(),
            attempts: 0,
            first_rejected_ns: 1_700_000_001_000_000_000,
            rejected_ns: 1_700_000_001_000_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(record: &Record) -> Record {
        let mut text = Vec::new();
        record.write_line(&mut text);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_record_is_one_line_and_comes_back_as_it_was() {
        let mut record = Record::for_tests("two\nlines \u{1} ü \" \\");
        assert_eq!(through(&record), record);
        record.line = vec![0xff, 0, 10, 13, 200];
        record.metadata = vec![("a".into(), "1".into()), ("a".into(), "\n".into())];
        record.status = None;
        record.reason = Reason::Other("of_tomorrow".into());
        assert_eq!(through(&record), record);
        record.text = "ü".repeat(TEXT_BYTES_MAX);
        assert_eq!(through(&record).text.len(), TEXT_BYTES_MAX);
    }

    #[test]
    fn reasons_have_names_and_those_of_tomorrow_survive() {
        for name in Reason::names().chain(["of_tomorrow"]) {
            assert_eq!(Reason::parse(name).name(), name);
        }
        assert!(matches!(Reason::parse("of_tomorrow"), Reason::Other(_)));
        assert_eq!(Reason::parse(&"x".repeat(1000)).name().len(), REASON_BYTES_MAX);
    }

    #[test]
    fn a_later_versions_record_is_read_and_half_a_one_is_not() {
        let mut text = Vec::new();
        Record::for_tests("x").write_line(&mut text);
        let text = String::from_utf8(text).unwrap();
        let later = text.replacen('{', "{\"colour\":\"red\",", 1);
        assert_eq!(serde_json::from_str::<Record>(&later).unwrap(), Record::for_tests("x"));
        for (from, to) in [
            ("\"line\":\"x\"", "\"line_base64\":\"?\""),
            ("\"line\":\"x\",", ""),
            ("\"line\":\"x\"", "\"line\":\"x\",\"line_base64\":\"eA==\""),
            ("\"rejected_ns\":17", "\"rejected_ns\":\"\",\"x\":17"),
        ] {
            assert!(text.contains(from));
            assert!(serde_json::from_str::<Record>(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
