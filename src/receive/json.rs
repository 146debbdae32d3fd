//! JSON as it is parsed: where it stands, within limits, no text copied. Loki's push format in it.
//!
//! The parser writes unescaped texts over the body it reads and lends them out. What it finds is
//! walked twice: to check all of it before any is taken in, and to take it in.

use super::admit::Measure;
use super::push::{BadPush, Size};
use crate::labels;
use simd_json::prelude::*;
use simd_json::{Buffers, Tape};
use std::collections::BTreeMap;

pub use simd_json::tape::{Array, Object, Value};

/// Why a body is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJson {
    #[error("the body is no JSON of the expected form: {0}")]
    Form(String),
    #[error("the body is nested deeper than {max} levels")]
    Deep { max: usize },
    #[error("the body has more than {max} values and names")]
    Large { max: usize },
}

/// What is parsed at all: each value and name takes memory, however short it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub depth_max: usize,
    pub values_max: usize,
}

/// Keeps its memory from one body to the next, unless that was a large one.
pub struct Parser {
    limits: Limits,
    buffers: Buffers,
    tape: Tape<'static>,
}

/// Bodies up to this size are parsed in memory that is kept.
const KEPT_BYTES_MAX: usize = 256 << 10;

impl Parser {
    #[must_use]
    pub fn new(limits: Limits) -> Parser {
        Parser { limits, buffers: Buffers::default(), tape: Tape::null() }
    }

    /// Parses a body, which is written over, and gives what `read` makes of it.
    pub fn parse<T, E: From<BadJson>>(
        &mut self,
        body: &mut [u8],
        read: impl FnOnce(Value<'_, '_>) -> Result<T, E>,
    ) -> Result<T, E> {
        check(body, self.limits)?;
        let kept = body.len() <= KEPT_BYTES_MAX;
        let mut fresh = (!kept).then(Buffers::default);
        let buffers = fresh.as_mut().unwrap_or(&mut self.buffers);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let done = match simd_json::fill_tape(body, buffers, &mut tape) {
            Ok(()) => read(tape.as_value()),
            Err(error) => Err(BadJson::Form(error.to_string()).into()),
        };
        if kept {
            self.tape = tape.reset();
        }
        done
    }
}

/// Parses a body, which is written over, into a node of each value.
pub fn nodes(body: &mut [u8], limits: Limits) -> Result<Tape<'_>, BadJson> {
    check(body, limits)?;
    simd_json::to_tape(body).map_err(|error| BadJson::Form(error.to_string()))
}

/// Holds a body to its limits before it is parsed.
fn check(body: &[u8], limits: Limits) -> Result<(), BadJson> {
    let (depth, values) = extent(body);
    if depth > limits.depth_max {
        return Err(BadJson::Deep { max: limits.depth_max });
    }
    if values > limits.values_max {
        return Err(BadJson::Large { max: limits.values_max });
    }
    Ok(())
}

/// How deep arrays and objects stand in one another, and how many values and names there are at most.
fn extent(body: &[u8]) -> (usize, usize) {
    let (mut depth, mut deepest, mut values) = (0_usize, 0, 1);
    let (mut in_text, mut escaped) = (false, false);
    for byte in body {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                values += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' | b':' => values += 1,
            _ => {}
        }
    }
    (deepest, values)
}

/// A push that was checked:
/// `{"streams": [{"stream": {…}, "values": [["ns", "line", {…}?], …]}, …]}`.
#[derive(Clone, Copy)]
pub struct Push<'t, 'a>(Option<Array<'t, 'a>>);

pub struct Stream<'t, 'a> {
    pub labels: BTreeMap<&'a str, &'a str>,
    values: Option<Array<'t, 'a>>,
}

/// Structured metadata is an object of texts.
pub struct Entry<'t, 'a> {
    pub stamp_ns: i64,
    pub line: &'a str,
    metadata: Option<Value<'t, 'a>>,
}

fn form(expected: &str) -> BadJson {
    BadJson::Form(format!("expected {expected}"))
}

/// A member that is an array, or nothing where it is missing or null.
fn array<'t, 'a>(
    object: Object<'t, 'a>,
    name: &'static str,
) -> Result<Option<Array<'t, 'a>>, BadJson> {
    match object.get(name) {
        Some(value) if !value.is_null() => {
            let array = value.as_array();
            array.map(Some).ok_or_else(|| form(&format!("an array as {name:?}")))
        }
        _ => Ok(None),
    }
}

/// Texts by their names.
fn pairs<'t, 'a>(
    object: &Object<'t, 'a>,
) -> impl Iterator<Item = Option<(&'a str, &'a str)>> + use<'t, 'a> {
    object.iter().map(|(name, value)| Some((name, value.into_string()?)))
}

impl<'t, 'a> Push<'t, 'a> {
    /// Checks all of it.
    pub fn read(value: Value<'t, 'a>, size: Size) -> Result<Push<'t, 'a>, super::Error> {
        let object = value.as_object().ok_or_else(|| form("an object"))?;
        let push = Push(array(object, "streams")?);
        let found = push.len();
        if found > size.streams_max {
            let what = "too many streams in one request";
            return Err(BadPush::TooMany { what, found, max: size.streams_max }.into());
        }
        let mut found = 0;
        for stream in push.read_streams() {
            let stream = stream?;
            if let Some(name) = stream.labels.keys().find(|name| !labels::is_name(name)) {
                return Err(BadPush::LabelName(name.chars().take(100).collect()).into());
            }
            found += stream.len();
            if found > size.entries_max {
                let what = "too many lines in one request";
                return Err(BadPush::TooMany { what, found, max: size.entries_max }.into());
            }
            for entry in stream.read_entries() {
                if entry?.metadata().any(|(name, _)| name.is_empty()) {
                    return Err(BadPush::MetadataName.into());
                }
            }
        }
        Ok(push)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.map_or(0, |streams| streams.len())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn streams(self) -> impl Iterator<Item = Stream<'t, 'a>> {
        self.read_streams().map(|stream| stream.expect("it was read before"))
    }

    fn read_streams(self) -> impl Iterator<Item = Result<Stream<'t, 'a>, BadJson>> {
        self.0.into_iter().flat_map(|streams| streams.iter()).map(|value| {
            let object = value.as_object().ok_or_else(|| form("an object for each stream"))?;
            let mut labels = BTreeMap::new();
            if let Some(value) = object.get("stream") {
                let found = value.as_object().ok_or_else(|| form("an object as \"stream\""))?;
                for pair in pairs(&found) {
                    let (name, value) = pair.ok_or_else(|| form("texts as labels"))?;
                    labels.insert(name, value);
                }
            }
            Ok(Stream { labels, values: array(object, "values")? })
        })
    }
}

impl<'t, 'a> Stream<'t, 'a> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.map_or(0, |values| values.len())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry<'t, 'a>> + use<'t, 'a> {
        self.read_entries().map(|entry| entry.expect("it was read before"))
    }

    fn read_entries(&self) -> impl Iterator<Item = Result<Entry<'t, 'a>, BadJson>> + use<'t, 'a> {
        self.values.into_iter().flat_map(|values| values.iter()).map(|value| {
            let bad = || {
                form("entries as [\"<Unix time in ns>\", \"<line>\"] with an object of metadata or not")
            };
            let parts = value.as_array().ok_or_else(bad)?;
            let mut parts = parts.iter();
            let stamp = parts.next().and_then(|stamp| stamp.into_string()).ok_or_else(bad)?;
            let line = parts.next().and_then(|line| line.into_string()).ok_or_else(bad)?;
            let metadata = parts.next();
            if let Some(metadata) = metadata {
                let metadata = metadata.as_object().ok_or_else(bad)?;
                pairs(&metadata).try_for_each(|pair| pair.map(drop)).ok_or_else(bad)?;
            }
            let stamp_ns = stamp.parse().map_err(|_| bad())?;
            Ok(Entry { stamp_ns, line, metadata })
        })
    }
}

impl<'t, 'a> Entry<'t, 'a> {
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'t, 'a> {
        let found = self.metadata.and_then(|metadata| metadata.as_object());
        let found = found.into_iter().flat_map(|metadata| pairs(&metadata));
        found.map(|pair| pair.expect("it was read before"))
    }

    #[must_use]
    pub fn measure(&self) -> Measure {
        Measure {
            stamp_ns: self.stamp_ns,
            line_bytes: self.line.len(),
            metadata_bytes: self.metadata().map(|(name, value)| name.len() + value.len()).sum(),
            metadata_pairs: self.metadata().count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::Error;

    const LIMITS: Limits = Limits { depth_max: 8, values_max: 100 };
    const SIZE: Size = Size { streams_max: 2, entries_max: 3 };

    /// Labels, and each entry with its metadata.
    type Found = Vec<(Vec<(String, String)>, Vec<(i64, String, Vec<(String, String)>)>)>;

    fn owned<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn found(text: &str) -> Result<Found, Error> {
        let mut body = text.as_bytes().to_vec();
        Parser::new(LIMITS).parse(&mut body, |value| {
            let stream = |stream: Stream<'_, '_>| {
                let entry = |entry: Entry<'_, '_>| {
                    (entry.stamp_ns, entry.line.to_owned(), owned(entry.metadata()))
                };
                let entries = stream.entries().map(entry).collect();
                (owned(stream.labels.iter().map(|(n, v)| (*n, *v))), entries)
            };
            Push::read(value, SIZE).map(|push| push.streams().map(stream).collect())
        })
    }

    #[test]
    fn a_push_is_read() {
        let text = r#"{"streams": [{"stream": {"b": "ü\n", "a": "x\"y"}, "values": [
            ["1700000000000000001", "line\t1"], ["2", "", {"trace": "1", "é": "\u00e9"}]]},
            {"stream": {}, "values": null, "more": [1, {}]}], "else": 1}"#;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![
            (
                vec![pair("a", "x\"y"), pair("b", "ü\n")],
                vec![
                    (1_700_000_000_000_000_001, "line\t1".to_owned(), vec![]),
                    (2, String::new(), vec![pair("trace", "1"), pair("é", "é")]),
                ],
            ),
            (vec![], vec![]),
        ];
        assert_eq!(found(text).unwrap(), expected);
        assert_eq!(found("{}").unwrap(), vec![]);
    }

    #[test]
    fn what_is_no_push_is_refused() {
        for text in [
            "",
            "{",
            "7",
            r#"{"streams": {}}"#,
            r#"{"streams": [7]}"#,
            r#"{"streams": [{"stream": []}]}"#,
            r#"{"streams": [{"stream": {"a": 1}}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": {}}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [[1, "x"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1.5", "x"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1", "x", "y"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1", "x", {"y": 1}]]}]}"#,
            "{\"streams\": [{\"stream\": {\"a\": \"\u{1}\"}}]} x",
        ] {
            let found = found(text);
            assert!(matches!(found, Err(Error::Json(BadJson::Form(_)))), "{text}: {found:?}");
        }
        let name = found(r#"{"streams": [{"stream": {"a.b": "1"}}]}"#);
        assert!(matches!(name, Err(Error::Push(BadPush::LabelName(_)))), "{name:?}");
    }

    #[test]
    fn limits_hold_before_anything_is_built() {
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(found(&deep), Err(Error::Json(BadJson::Deep { max: 8 }))));
        found(r#"{"x": "[[[[[[[[[[\"[[[["}"#).unwrap();
        let large = format!("{{\"x\": [{}7]}}", "7,".repeat(98));
        let bad = found(&large);
        assert!(matches!(bad, Err(Error::Json(BadJson::Large { max: 100 }))), "{bad:?}");
        for (text, what) in [
            (r#"{"streams": [{}, {}, {}]}"#, "too many streams in one request"),
            (
                r#"{"streams": [{"values": [["1", ""], ["2", ""]]}, {"values": [["1", ""], ["2", ""]]}]}"#,
                "too many lines in one request",
            ),
        ] {
            let bad = found(text);
            assert!(
                matches!(bad, Err(Error::Push(BadPush::TooMany { what: w, .. })) if w == what),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn memory_is_used_again_and_remembers_nothing() {
        let mut parser = Parser::new(LIMITS);
        for text in ["[1, 2]", "{\"a\": \"b\"}", "[", "3"] {
            let mut body = text.as_bytes().to_vec();
            let found = parser.parse(&mut body, |value| Ok::<_, BadJson>(value.is_array()));
            match text {
                "[" => assert!(found.is_err()),
                _ => assert_eq!(found, Ok(text.starts_with('[')), "{text}"),
            }
        }
    }
}
