//! What comes as JSON: Loki's push format, and the predecessor's log entries.
//!
//! The parser writes unescaped texts over the body it reads and lends them out: no text is copied.

use super::admit::Measure;
use super::push::{BadPush, Size};
use crate::labels;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use simd_json::{Node, Tape};
use std::collections::BTreeMap;
use std::fmt;

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

/// A push: `{"streams": [{"stream": {…}, "values": [["ns", "line", {…}?], …]}, …]}`.
#[derive(Debug, Deserialize)]
pub struct Push<'a> {
    #[serde(borrow, default)]
    pub streams: Vec<Stream<'a>>,
}

#[derive(Debug, Deserialize)]
pub struct Stream<'a> {
    #[serde(borrow, default)]
    pub stream: BTreeMap<&'a str, &'a str>,
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub values: Vec<Entry<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub stamp_ns: i64,
    pub line: &'a str,
    pub metadata: Vec<(&'a str, &'a str)>,
}

impl Push<'_> {
    /// What refuses the push as a whole.
    pub fn check(&self, size: Size) -> Result<(), BadPush> {
        let counts = [
            ("too many streams in one request", self.streams.len(), size.streams_max),
            (
                "too many lines in one request",
                self.streams.iter().map(|stream| stream.values.len()).sum(),
                size.entries_max,
            ),
        ];
        for (what, found, max) in counts {
            if found > max {
                return Err(BadPush::TooMany { what, found, max });
            }
        }
        let mut names = self.streams.iter().flat_map(|stream| stream.stream.keys());
        match names.find(|name| !labels::is_name(name)) {
            Some(name) => Err(BadPush::LabelName(name.chars().take(100).collect())),
            None => Ok(()),
        }
    }
}

impl Entry<'_> {
    pub fn measure(&self) -> Measure {
        Measure {
            stamp_ns: self.stamp_ns,
            line_bytes: self.line.len(),
            metadata_bytes: self
                .metadata
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum(),
            metadata_pairs: self.metadata.len(),
        }
    }
}

/// Reads a body, which is written over.
pub fn read<'a, T: Deserialize<'a>>(body: &'a mut [u8], depth_max: usize) -> Result<T, BadJson> {
    Shape::of(body).check_depth(depth_max)?;
    simd_json::serde::from_slice(body).map_err(|error| BadJson::Form(error.to_string()))
}

/// Reads a body, which is written over, without making anything of it but a node of each value, in
/// `bytes_max` at most.
pub fn read_nodes(
    body: &mut [u8],
    depth_max: usize,
    bytes_max: usize,
) -> Result<Tape<'_>, BadJson> {
    let shape = Shape::of(body);
    shape.check_depth(depth_max)?;
    let max = bytes_max / size_of::<Node<'_>>();
    if shape.nodes > max {
        return Err(BadJson::Large { max });
    }
    simd_json::to_tape(body).map_err(|error| BadJson::Form(error.to_string()))
}

/// What is seen of a body before it is read.
struct Shape {
    /// How deep arrays and objects stand in one another.
    depth: usize,
    /// Values and names, at most.
    nodes: usize,
}

impl Shape {
    fn of(body: &[u8]) -> Shape {
        let (mut depth, mut deepest) = (0_usize, 0);
        // Before each but the first stands a sign that stands before no other.
        let mut nodes = 1;
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
                    deepest = deepest.max(depth);
                    nodes += 1;
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' | b':' => nodes += 1,
                _ => {}
            }
        }
        Shape { depth: deepest, nodes }
    }

    fn check_depth(&self, max: usize) -> Result<(), BadJson> {
        if self.depth > max { Err(BadJson::Deep { max }) } else { Ok(()) }
    }
}

fn or_null<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl<'de> Deserialize<'de> for Entry<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Parts;

        impl<'de> Visitor<'de> for Parts {
            type Value = Entry<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[\"<Unix time in ns>\", \"<line>\"] with an object of metadata or not")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Entry<'de>, A::Error> {
                let missing = |what| A::Error::custom(format_args!("an entry without its {what}"));
                let stamp: &str = parts.next_element()?.ok_or_else(|| missing("timestamp"))?;
                let stamp_ns = stamp.parse().map_err(|_| {
                    A::Error::custom("a timestamp that is no Unix time in nanoseconds, as a text")
                })?;
                let line = parts.next_element()?.ok_or_else(|| missing("line"))?;
                let metadata = parts.next_element::<Pairs<'_>>()?.unwrap_or_default().0;
                while parts.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entry { stamp_ns, line, metadata })
            }
        }

        from.deserialize_seq(Parts)
    }
}

/// An object of texts, in its order.
#[derive(Debug, Default)]
struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        from.deserialize_map(Entries)
    }
}

/// One log entry, or many.
#[derive(Debug)]
pub enum Logs<'a> {
    One(Box<Log<'a>>),
    Many(Vec<Log<'a>>),
}

/// `{"message", "level"?, "source_type"?, "source_id"?, "labels"?, "timestamp"?}`; fields that are
/// not known are left out.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub struct Log<'a> {
    #[serde(borrow, default)]
    pub message: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub level: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub source_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub source_id: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub labels: BTreeMap<&'a str, Text<'a>>,
    #[serde(borrow, default)]
    pub timestamp: Option<Text<'a>>,
}

/// A text, or a number or truth value that stands for one.
#[derive(Debug, Clone, PartialEq)]
pub enum Text<'a> {
    Text(&'a str),
    Integer(i128),
    Float(f64),
    Truth(bool),
}

impl<'a> Text<'a> {
    /// What is a text already.
    #[must_use]
    pub fn as_text(&self) -> Option<&'a str> {
        match self {
            Text::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Text(text) => f.write_str(text),
            Text::Integer(number) => number.fmt(f),
            Text::Float(number) => number.fmt(f),
            Text::Truth(truth) => truth.fmt(f),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl<'de> Visitor<'de> for Scalar {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::Text(text))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Text<'de>, E> {
                Ok(Text::Integer(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Text<'de>, E> {
                Ok(Text::Integer(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Text<'de>, E> {
                Ok(Text::Float(number))
            }

            fn visit_bool<E: Error>(self, truth: bool) -> Result<Text<'de>, E> {
                Ok(Text::Truth(truth))
            }
        }

        from.deserialize_any(Scalar)
    }
}

impl<'de> Deserialize<'de> for Logs<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Logs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one log entry, or an array of log entries")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Logs<'de>, A::Error> {
                let one = Log::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Logs::One(Box::new(one)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Logs<'de>, A::Error> {
                let mut logs = Vec::new();
                while let Some(log) = list.next_element()? {
                    logs.push(log);
                }
                Ok(Logs::Many(logs))
            }
        }

        from.deserialize_any(Either)
    }
}

impl<'a> Logs<'a> {
    #[must_use]
    pub fn as_slice(&self) -> &[Log<'a>] {
        match self {
            Logs::One(log) => std::slice::from_ref(log),
            Logs::Many(logs) => logs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, look: impl for<'a> FnOnce(Result<Push<'a>, BadJson>) -> T) -> T {
        look(read(&mut text.as_bytes().to_vec(), 8))
    }

    #[test]
    fn a_push_is_read() {
        let text = r#"{"streams": [{"stream": {"a": "x\"y", "b": "ü\n"}, "values": [
            ["1700000000000000001", "line\t1"], ["2", "", {"trace": "1", "é": "\u00e9"}]]},
            {"stream": {}, "values": null, "more": [1, {}]}], "else": 1}"#;
        with(text, |push| {
            let push = push.unwrap();
            let [first, second] = &push.streams[..] else { panic!("{push:?}") };
            assert_eq!(first.stream, BTreeMap::from([("a", "x\"y"), ("b", "ü\n")]));
            let entry = |stamp_ns, line, metadata| Entry { stamp_ns, line, metadata };
            assert_eq!(
                first.values,
                [
                    entry(1_700_000_000_000_000_001, "line\t1", vec![]),
                    entry(2, "", vec![("trace", "1"), ("é", "é")])
                ]
            );
            assert_eq!(first.values[1].measure().metadata_bytes, 10);
            assert!(second.stream.is_empty() && second.values.is_empty());
        });
    }

    #[test]
    fn what_is_no_push_is_refused() {
        for text in [
            "",
            "{",
            "7",
            r#"{"streams": {}}"#,
            r#"{"streams": [{"stream": {"a": 1}}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [[1, "x"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1.5", "x"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1"]]}]}"#,
            r#"{"streams": [{"stream": {"a": "1"}, "values": [["1", "x", "y"]]}]}"#,
            "{\"streams\": [{\"stream\": {\"a\": \"\u{1}\"}}]} x",
        ] {
            with(text, |push| assert!(matches!(push, Err(BadJson::Form(_))), "{text}: {push:?}"));
        }
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(1000), "]".repeat(1000));
        with(&deep, |push| assert_eq!(push.unwrap_err(), BadJson::Deep { max: 8 }));
        with(r#"{"x": "[[[[[[[[[[\"[[[["}"#, |push| assert!(push.is_ok(), "{push:?}"));
    }
}
