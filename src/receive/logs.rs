//! The predecessor's log entries: `{"message", "level"?, "source_type"?, "source_id"?, "labels"?,
//! "timestamp"?}`, one or many; fields that are not known are left out.

use super::json::{Array, BadJson, Object, Value};
use crate::labels::{self, Pair};
use simd_json::prelude::*;
use std::borrow::Cow;

/// An entry that was checked.
#[derive(Debug, PartialEq)]
pub struct Entry<'a> {
    /// In no order, each name once.
    pub labels: Vec<Pair<'a>>,
    pub line: &'a str,
    /// The client's, where it gave one.
    pub stamp_ns: Option<i64>,
}

/// Which field of which entry is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}")]
pub struct BadLog {
    pub field: String,
    pub expected: String,
}

impl BadLog {
    fn new(field: impl Into<String>, expected: impl Into<String>) -> BadLog {
        BadLog { field: field.into(), expected: expected.into() }
    }
}

const LEVEL: &str = "level";
const SOURCE_TYPE: &str = "source_type";
const SOURCE_ID: &str = "source_id";
/// Of an entry that does not say where it comes from: Loki takes no entry without any label.
const SOURCE_TYPE_DEFAULT: &str = "api";
/// More labels are refused whatever they are: then no name is looked for in them.
const LABELS_LOOKED_AT_MAX: usize = 64;
const SCALAR: &str = "a text, a number, true or false";

/// Entries that were checked, all of them: one that is wrong refuses the request.
pub enum Logs<'t, 'a> {
    One(Option<Entry<'a>>),
    Many(Array<'t, 'a>),
}

impl<'t, 'a> Logs<'t, 'a> {
    pub fn read(value: Value<'t, 'a>, entries_max: usize) -> Result<Logs<'t, 'a>, super::Error> {
        if let Some(log) = value.as_object() {
            return Ok(Logs::One(Some(read_one(log)?)));
        }
        let expected = "expected one log entry, or an array of log entries";
        let list = value.as_array().ok_or_else(|| BadJson::Form(expected.into()))?;
        let found = list.len();
        if found > entries_max {
            let expected = format!("at most {entries_max} entries, found {found}");
            return Err(BadLog::new("the array", expected).into());
        }
        for (at, value) in list.iter().enumerate() {
            let log = value.as_object().ok_or_else(|| BadLog::new(format!("[{at}]"), "an object"));
            let named = |bad: BadLog| BadLog { field: format!("[{at}].{}", bad.field), ..bad };
            read_one(log?).map_err(named)?;
        }
        Ok(Logs::Many(list))
    }

    pub fn entries(self) -> impl Iterator<Item = Entry<'a>> + use<'t, 'a> {
        let (one, many) = match self {
            Logs::One(entry) => (entry, None),
            Logs::Many(list) => (None, Some(list)),
        };
        let many = many.into_iter().flat_map(|list| list.iter()).map(|value| {
            let log = value.as_object().expect("it was read before");
            read_one(log).expect("it was read before")
        });
        one.into_iter().chain(many)
    }
}

fn read_one<'a>(log: Object<'_, 'a>) -> Result<Entry<'a>, BadLog> {
    let line = log.get("message").and_then(|message| message.into_string());
    let Some(line) = line.filter(|line| !line.is_empty()) else {
        return Err(BadLog::new("message", "a text that is not empty"));
    };
    let mut pairs = Vec::new();
    if let Some(value) = log.get("labels").filter(|value| !value.is_null()) {
        let found = value.as_object().ok_or_else(|| BadLog::new("labels", "an object"))?;
        for (name, value) in found.iter() {
            let field = || format!("labels.{:?}", &name[..name.floor_char_boundary(100)]);
            if !labels::is_name(name) {
                return Err(BadLog::new(
                    field(),
                    "a name of letters, digits and _, no digit first",
                ));
            }
            set(&mut pairs, name, text(value).ok_or_else(|| BadLog::new(field(), SCALAR))?);
        }
    }
    for name in [LEVEL, SOURCE_TYPE, SOURCE_ID] {
        if let Some(value) = log.get(name).filter(|value| !value.is_null()) {
            set(&mut pairs, name, text(value).ok_or_else(|| BadLog::new(name, SCALAR))?);
        }
    }
    pairs.retain(|(_, value)| !value.is_empty());
    if !pairs.iter().any(|(name, _)| *name == SOURCE_TYPE) {
        pairs.push((SOURCE_TYPE, SOURCE_TYPE_DEFAULT.into()));
    }
    let stamp_ns = match log.get("timestamp").filter(|value| !value.is_null()) {
        None => None,
        Some(value) if value.into_string() == Some("") => None,
        Some(value) => Some(stamp(value).ok_or_else(|| {
            let expected =
                "RFC 3339 as in \"2026-01-31T12:00:00.5Z\", or the Unix time in s, ms, us or ns";
            BadLog::new("timestamp", expected)
        })?),
    };
    Ok(Entry { labels: pairs, line, stamp_ns })
}

/// The last of a name counts.
fn set<'a>(pairs: &mut Vec<Pair<'a>>, name: &'a str, value: Cow<'a, str>) {
    if pairs.len() < LABELS_LOOKED_AT_MAX {
        pairs.retain(|(earlier, _)| *earlier != name);
    }
    pairs.push((name, value));
}

/// A text, or a number or truth value that stands for one.
fn text<'a>(value: Value<'_, 'a>) -> Option<Cow<'a, str>> {
    if let Some(text) = value.into_string() {
        return Some(text.into());
    }
    let number = value.as_i64().map(|number| number.to_string());
    let number = number.or_else(|| value.as_u64().map(|number| number.to_string()));
    let number = number.or_else(|| value.as_f64().map(|number| number.to_string()));
    number.or_else(|| value.as_bool().map(|truth| truth.to_string())).map(Cow::from)
}

/// A number is taken for the unit in which it lies between the years 1973 and 5138.
fn stamp(value: Value<'_, '_>) -> Option<i64> {
    let scaled = |number: i128| {
        let unit = match number.unsigned_abs() {
            0..100_000_000_000 => 1_000_000_000,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            _ => 1,
        };
        i64::try_from(number.checked_mul(unit)?).ok()
    };
    if let Some(text) = value.into_string() {
        return match text.parse::<jiff::Timestamp>() {
            Ok(time) => i64::try_from(time.as_nanosecond()).ok(),
            Err(_) => scaled(text.parse().ok()?),
        };
    }
    if let Some(number) = value.as_i64() {
        return scaled(number.into());
    }
    if let Some(number) = value.as_u64() {
        return scaled(number.into());
    }
    match value.as_f64()? {
        // Seconds with a fraction, as some clocks give them.
        number if number.abs() < 1e11 => {
            let ns = whole(number.trunc()).checked_mul(1_000_000_000)?;
            ns.checked_add(whole((number.fract() * 1e9).round()))
        }
        number if number.abs() < 9.2e18 => scaled(whole(number).into()),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "those of more than an i64 are refused before")]
fn whole(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::{Error, json};

    fn with<T>(text: &str, look: impl FnOnce(Vec<Entry<'_>>) -> T) -> Result<T, Error> {
        let mut body = text.as_bytes().to_vec();
        let limits = json::Limits { depth_max: 8, values_max: 100 };
        json::Parser::new(limits).parse(&mut body, |value| {
            Logs::read(value, 3).map(|logs| look(logs.entries().collect()))
        })
    }

    #[test]
    fn an_entry_is_labels_a_line_and_maybe_a_time() {
        let text = r#"{"message": "it\nburns", "level": "error", "source_id": "7",
            "labels": {"n": 1, "n": 2, "f": 0.5, "b": true, "e": "", "level": "x"}, "else": {},
            "timestamp": "2023-11-14T22:13:20.000000001Z"}"#;
        with(text, |mut entries| {
            let entry = entries.pop().unwrap();
            let mut labels = entry.labels;
            labels.sort();
            let expected = [
                ("b", "true"),
                ("f", "0.5"),
                ("level", "error"),
                ("n", "2"),
                ("source_id", "7"),
                ("source_type", "api"),
            ];
            assert_eq!(labels, expected.map(|(name, value)| (name, Cow::from(value))));
            assert_eq!(
                (entry.line, entry.stamp_ns),
                ("it\nburns", Some(1_700_000_000_000_000_001))
            );
        })
        .unwrap();
        let two = r#"[{"message": "a"}, {"message": "b", "labels": null, "timestamp": ""}]"#;
        let lines = with(two, |entries| entries.iter().map(|e| e.line.to_owned()).collect());
        let lines: Vec<String> = lines.unwrap();
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn times_come_in_many_forms() {
        for (text, expected) in [
            ("1700000000", 1_700_000_000_000_000_000),
            ("1700000000.25", 1_700_000_000_250_000_000),
            ("1700000000123", 1_700_000_000_123_000_000),
            ("1700000000123456", 1_700_000_000_123_456_000),
            ("1700000000123456789", 1_700_000_000_123_456_789),
            ("\"1700000000123456789\"", 1_700_000_000_123_456_789),
            ("\"2023-11-14T23:13:20+01:00\"", 1_700_000_000_000_000_000),
        ] {
            let log = format!(r#"{{"message": "a", "timestamp": {text}}}"#);
            assert_eq!(
                with(&log, |entries| entries[0].stamp_ns).unwrap(),
                Some(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (text, field) in [
            ("{}", "message"),
            (r#"{"message": ""}"#, "message"),
            (r#"{"message": 7}"#, "message"),
            (r#"[{"message": "a"}, {"level": "b"}]"#, "[1].message"),
            (r#"[{"message": "a"}, 7]"#, "[1]"),
            (r#"{"message": "a", "labels": {"a.b": "c"}}"#, "labels.\"a.b\""),
            (r#"{"message": "a", "labels": {"a": {}}}"#, "labels.\"a\""),
            (r#"{"message": "a", "labels": []}"#, "labels"),
            (r#"{"message": "a", "level": ["b"]}"#, "level"),
            (r#"{"message": "a", "timestamp": "yesterday"}"#, "timestamp"),
            (r#"{"message": "a", "timestamp": true}"#, "timestamp"),
            (r#"{"message": "a", "timestamp": 1e300}"#, "timestamp"),
            (r#"{"message": "a", "timestamp": 99999999999.5}"#, "timestamp"),
            (r#"[{"message": "a"}, {"message": "a"}, {"message": "a"}, {}]"#, "the array"),
        ] {
            match with(text, |_| ()) {
                Err(Error::Log(bad)) => assert_eq!(bad.field, field, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(with("7", |_| ()), Err(Error::Json(BadJson::Form(_)))));
    }
}
