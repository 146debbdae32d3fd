//! The predecessor's log entries: what their fields mean.

use super::json::{Log, Logs, Text};
use crate::labels;
use std::collections::BTreeMap;
use std::fmt::Write;

/// An entry that was checked.
#[derive(Debug, PartialEq)]
pub struct Entry<'a> {
    pub labels: BTreeMap<&'a str, String>,
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

const LEVEL: &str = "level";
const SOURCE_TYPE: &str = "source_type";
const SOURCE_ID: &str = "source_id";
/// Of an entry that does not say where it comes from: Loki takes no entry without any label.
const SOURCE_TYPE_DEFAULT: &str = "api";

/// Checks all entries; one that is wrong refuses the request.
pub fn read<'a>(logs: &Logs<'a>, entries_max: usize) -> Result<Vec<Entry<'a>>, BadLog> {
    let found = logs.as_slice();
    if found.len() > entries_max {
        let expected = format!("at most {entries_max} entries, found {}", found.len());
        return Err(BadLog { field: "the array".into(), expected });
    }
    let entry = |(at, log)| {
        read_one(log).map_err(|bad: BadLog| match logs {
            Logs::One(_) => bad,
            Logs::Many(_) => BadLog { field: format!("[{at}].{}", bad.field), ..bad },
        })
    };
    found.iter().enumerate().map(entry).collect()
}

fn read_one<'a>(log: &Log<'a>) -> Result<Entry<'a>, BadLog> {
    let bad = |field: &str, expected: &str| {
        Err(BadLog { field: field.to_owned(), expected: expected.to_owned() })
    };
    let message = log.message.as_ref().and_then(Text::as_text);
    let Some(line) = message.filter(|message| !message.is_empty()) else {
        return bad("message", "a text that is not empty");
    };
    let mut labels = BTreeMap::new();
    for (name, value) in &log.labels {
        if !labels::is_name(name) {
            let mut field = String::from("labels.");
            let _ = write!(field, "{:?}", &name[..name.floor_char_boundary(100)]);
            return bad(&field, "a name of letters, digits and _, no digit first");
        }
        labels.insert(*name, value.to_string());
    }
    for (name, value) in
        [(LEVEL, &log.level), (SOURCE_TYPE, &log.source_type), (SOURCE_ID, &log.source_id)]
    {
        if let Some(value) = value {
            labels.insert(name, value.to_string());
        }
    }
    labels.retain(|_, value| !value.is_empty());
    if !labels.contains_key(SOURCE_TYPE) {
        labels.insert(SOURCE_TYPE, SOURCE_TYPE_DEFAULT.to_owned());
    }
    let stamp_ns = match &log.timestamp {
        None | Some(Text::Text("")) => None,
        Some(text) => match stamp(text) {
            Some(ns) => Some(ns),
            None => {
                return bad(
                    "timestamp",
                    "RFC 3339 as in \"2026-01-31T12:00:00.5Z\", or the Unix time in s, ms, us or ns",
                );
            }
        },
    };
    Ok(Entry { labels, line, stamp_ns })
}

/// A number is taken for the unit in which it lies between the years 1973 and 5138.
fn stamp(text: &Text<'_>) -> Option<i64> {
    let scaled = |number: i128| {
        let unit = match number.unsigned_abs() {
            0..100_000_000_000 => 1_000_000_000,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            _ => 1,
        };
        i64::try_from(number.checked_mul(unit)?).ok()
    };
    match text {
        Text::Truth(_) => None,
        Text::Integer(number) => scaled(*number),
        // Seconds with a fraction, as some clocks give them.
        Text::Float(number) if number.abs() < 1e11 => {
            Some(whole(number.trunc()) * 1_000_000_000 + whole((number.fract() * 1e9).round()))
        }
        Text::Float(number) if number.abs() < 9.2e18 => scaled(whole(*number).into()),
        Text::Float(_) => None,
        Text::Text(text) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => i64::try_from(time.as_nanosecond()).ok(),
            Err(_) => scaled(text.parse().ok()?),
        },
    }
}

#[expect(clippy::cast_possible_truncation, reason = "those of more than an i64 are refused before")]
fn whole(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::json;

    fn with<T>(text: &str, look: impl FnOnce(Result<Vec<Entry<'_>>, BadLog>) -> T) -> T {
        let mut body = text.as_bytes().to_vec();
        let logs: Logs<'_> = json::read(&mut body, 8).unwrap();
        look(read(&logs, 3))
    }

    #[test]
    fn an_entry_is_labels_a_line_and_maybe_a_time() {
        let text = r#"{"message": "it\nburns", "level": "error", "source_id": "7",
            "labels": {"n": 1, "f": 0.5, "b": true, "e": "", "level": "x"}, "else": {},
            "timestamp": "2023-11-14T22:13:20.000000001Z"}"#;
        with(text, |entries| {
            let [entry] = &entries.unwrap()[..] else { panic!() };
            let labels: Vec<_> = entry.labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let expected = [
                ("b", "true"),
                ("f", "0.5"),
                ("level", "error"),
                ("n", "1"),
                ("source_id", "7"),
                ("source_type", "api"),
            ];
            assert_eq!(labels, expected);
            assert_eq!(
                (entry.line, entry.stamp_ns),
                ("it\nburns", Some(1_700_000_000_000_000_001))
            );
        });
        with(r#"[{"message": "a"}, {"message": "b", "labels": null}]"#, |entries| {
            assert_eq!(entries.unwrap().len(), 2);
        });
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
            with(&format!(r#"{{"message": "a", "timestamp": {text}}}"#), |entries| {
                assert_eq!(entries.unwrap()[0].stamp_ns, Some(expected), "{text}");
            });
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (text, field) in [
            ("{}", "message"),
            (r#"{"message": ""}"#, "message"),
            (r#"{"message": 7}"#, "message"),
            (r#"[{"message": "a"}, {"level": "b"}]"#, "[1].message"),
            (r#"{"message": "a", "labels": {"a.b": "c"}}"#, "labels.\"a.b\""),
            (r#"{"message": "a", "timestamp": "yesterday"}"#, "timestamp"),
            (r#"{"message": "a", "timestamp": true}"#, "timestamp"),
            (r#"{"message": "a", "timestamp": 1e300}"#, "timestamp"),
            (r#"[{"message": "a"}, {"message": "a"}, {"message": "a"}, {}]"#, "the array"),
        ] {
            with(text, |entries| assert_eq!(entries.unwrap_err().field, field, "{text}"));
        }
    }
}
