//! What stands in lines, as data: templates with fields that a seeded generator fills.
//!
//! A template is literal text with `${field}` or `${field:argument}` in it:
//!
//! | field | gives |
//! |---|---|
//! | `rfc3339`, `rfc3339:9` | the line's time, `2026-01-01T00:00:00.000000Z`, with so many digits behind the point (6) |
//! | `clf` | the line's time as web servers write it, `01/Jan/2026:00:00:00 +0000` |
//! | `int:A..B` | a number from A to below B |
//! | `skewed:MAX` | a number up to MAX, mostly small, as durations and sizes are |
//! | `hex:N` | N random hexadecimal digits |
//! | `ip` | an address, 10.0.0.1 to 10.3.31.255 |
//! | `word:LIST` | one of the words of that list |
//! | `pad:N` | N bytes of words |
//! | `mark` | who wrote the line, which one it is, when, and its checksum: `id=W:S t=NS crc=HEX` |
//! | `id` | who wrote the line and which one it is: `id=W:S` |

use fastrand::Rng;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const WORDS: [&str; 24] = [
    "request", "the", "user", "cache", "of", "timeout", "upstream", "for", "order", "retry", "and",
    "session", "queue", "worker", "index", "payment", "with", "response", "node", "commit",
    "replica", "token", "stream", "page",
];

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "${{{0}}} is not a field: expected rfc3339, clf, int, skewed, hex, ip, word, pad, mark or id"
    )]
    Field(String),
    #[error("${{{field}}}: expected {expected}")]
    Argument { field: String, expected: &'static str },
    #[error("a field begins and does not end: expected }} after ${{{0}")]
    Open(String),
    #[error(
        "expected ${{mark}} or ${{id}} once, found {0}: a line that is not marked cannot be verified"
    )]
    Marks(usize),
    #[error("a template is one line: list the lines of a record, without newlines")]
    Newline,
    #[error("expected at least one record with a weight above 0, each with at least one line")]
    Empty,
}

/// Records by weight; a record is one line, or several that belong together, as a stack trace's.
#[derive(Debug, Clone)]
pub struct Text {
    records: Vec<Record>,
    weight: u32,
}

#[derive(Debug, Clone)]
struct Record {
    /// This record's weight and those before it.
    weight_below: u32,
    lines: Vec<Template>,
}

#[derive(Debug, Clone)]
struct Template(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Literal(Vec<u8>),
    Rfc3339 { digits: usize },
    Clf,
    Int(Range<u32>),
    Skewed(u32),
    Hex(usize),
    Ip,
    Word(Vec<String>),
    Pad(usize),
    Mark,
    Id,
}

/// Where the generator is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    record: usize,
    line: usize,
}

/// What a line is about to say of itself.
pub struct Stamp<'a> {
    pub writer: u32,
    pub sequence: u64,
    pub time_ns: i64,
    pub clock: &'a mut Clock,
}

impl Text {
    /// `records`: weight and lines of each.
    pub fn new(
        records: &[(u32, Vec<String>)],
        words: &BTreeMap<String, Vec<String>>,
    ) -> Result<Text, Error> {
        let mut text = Text { records: Vec::new(), weight: 0 };
        for (weight, lines) in records {
            text.weight = text.weight.saturating_add(*weight);
            let lines: Vec<_> =
                lines.iter().map(|line| Template::read(line, words)).collect::<Result<_, _>>()?;
            if lines.is_empty() || *weight == 0 {
                return Err(Error::Empty);
            }
            text.records.push(Record { weight_below: text.weight, lines });
        }
        if text.records.is_empty() { Err(Error::Empty) } else { Ok(text) }
    }

    /// Whether every line says when it was written, and has a checksum.
    #[must_use]
    pub fn timed(&self) -> bool {
        let mut lines = self.records.iter().flat_map(|record| &record.lines);
        lines.all(|line| line.0.iter().any(|piece| matches!(piece, Piece::Mark)))
    }

    /// Appends the next line, without its newline.
    pub(super) fn write(
        &self,
        position: &mut Position,
        rng: &mut Rng,
        stamp: Stamp<'_>,
        out: &mut Vec<u8>,
    ) {
        if position.line == 0 {
            let pick = rng.u32(0..self.weight);
            position.record = self.records.partition_point(|record| record.weight_below <= pick);
        }
        let lines = &self.records[position.record].lines;
        lines[position.line].write(rng, stamp, out);
        position.line = (position.line + 1) % lines.len();
    }
}

impl Template {
    fn read(text: &str, words: &BTreeMap<String, Vec<String>>) -> Result<Template, Error> {
        if text.contains('\n') {
            return Err(Error::Newline);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once("${") {
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.into()));
            }
            let (field, after) =
                after.split_once('}').ok_or_else(|| Error::Open(after.to_owned()))?;
            pieces.push(Piece::read(field, words)?);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.into()));
        }
        match pieces.iter().filter(|piece| matches!(piece, Piece::Mark | Piece::Id)).count() {
            1 => Ok(Template(pieces)),
            other => Err(Error::Marks(other)),
        }
    }

    fn write(&self, rng: &mut Rng, mut stamp: Stamp<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        let mut crc_at = None;
        for piece in &self.0 {
            piece.write(rng, &mut stamp, out);
            if matches!(piece, Piece::Mark) {
                crc_at = Some(out.len() - start);
            }
        }
        if let Some(at) = crc_at {
            super::line::seal(&mut out[start..], at);
        }
    }
}

impl Piece {
    fn read(text: &str, words: &BTreeMap<String, Vec<String>>) -> Result<Piece, Error> {
        let (name, argument) = text.split_once(':').unwrap_or((text, ""));
        let wrong = |expected| Error::Argument { field: text.to_owned(), expected };
        let number = |max: u32, expected| {
            argument.parse::<u32>().ok().filter(|n| (1..=max).contains(n)).ok_or(wrong(expected))
        };
        Ok(match name {
            "rfc3339" if argument.is_empty() => Piece::Rfc3339 { digits: 6 },
            "rfc3339" => Piece::Rfc3339 { digits: number(9, "1 to 9 digits")? as usize },
            "clf" => Piece::Clf,
            "int" => {
                let range = argument.split_once("..").and_then(|(low, high)| {
                    let range = low.parse().ok()?..high.parse().ok()?;
                    (!range.is_empty()).then_some(range)
                });
                Piece::Int(range.ok_or(wrong("two numbers, A..B, A below B"))?)
            }
            "skewed" => Piece::Skewed(number(u32::MAX - 1, "a number above 0")?),
            "hex" => Piece::Hex(number(1_024, "1 to 1024 digits")? as usize),
            "ip" => Piece::Ip,
            "word" => {
                let list = words.get(argument).filter(|list| !list.is_empty());
                Piece::Word(list.ok_or(wrong("the name of a list in [words]"))?.clone())
            }
            "pad" => Piece::Pad(number(16 << 20, "1 to 16777216 bytes")? as usize),
            "mark" => Piece::Mark,
            "id" => Piece::Id,
            _ => return Err(Error::Field(text.to_owned())),
        })
    }

    fn write(&self, rng: &mut Rng, stamp: &mut Stamp<'_>, out: &mut Vec<u8>) {
        match self {
            Piece::Literal(bytes) => out.extend_from_slice(bytes),
            Piece::Rfc3339 { digits } => stamp.clock.rfc3339(stamp.time_ns, *digits, out),
            Piece::Clf => stamp.clock.clf(stamp.time_ns, out),
            Piece::Int(range) => int(rng.u32(range.clone()), out),
            Piece::Skewed(max) => {
                let top = rng.u32(1..=*max);
                int(rng.u32(0..=top), out);
            }
            Piece::Hex(digits) => {
                for _ in 0..*digits {
                    out.push(b"0123456789abcdef"[rng.usize(0..16)]);
                }
            }
            Piece::Ip => {
                out.extend_from_slice(b"10.");
                int(rng.u32(0..4), out);
                out.push(b'.');
                int(rng.u32(0..32), out);
                out.push(b'.');
                int(rng.u32(1..256), out);
            }
            Piece::Word(list) => out.extend_from_slice(list[rng.usize(0..list.len())].as_bytes()),
            Piece::Pad(len) => {
                let end = out.len() + len;
                while out.len() < end {
                    out.extend_from_slice(WORDS[rng.usize(0..WORDS.len())].as_bytes());
                    out.push(b' ');
                }
                out.truncate(end);
            }
            Piece::Mark => super::line::mark(stamp, out),
            Piece::Id => super::line::id(stamp, out),
        }
    }
}

pub(super) fn int(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Formats times; what is the same for a whole second is kept.
#[derive(Debug, Default)]
pub struct Clock {
    second: Option<i64>,
    date_time: String,
    clf: String,
}

impl Clock {
    fn look(&mut self, ns: i64) {
        let second = ns.div_euclid(NANOS_PER_SECOND);
        if self.second != Some(second) {
            let time = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.date_time = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.clf = time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            self.second = Some(second);
        }
    }

    fn rfc3339(&mut self, ns: i64, digits: usize, out: &mut Vec<u8>) {
        self.look(ns);
        let mut nanos = [0; 9];
        // Nine digits fit.
        let _ = write!(&mut nanos[..], "{:09}", ns.rem_euclid(NANOS_PER_SECOND));
        out.extend_from_slice(self.date_time.as_bytes());
        out.push(b'.');
        out.extend_from_slice(&nanos[..digits]);
        out.push(b'Z');
    }

    fn clf(&mut self, ns: i64, out: &mut Vec<u8>) {
        self.look(ns);
        out.extend_from_slice(self.clf.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(template: &str) -> Result<Text, Error> {
        let words = BTreeMap::from([("levels".to_owned(), vec!["INFO".to_owned()])]);
        Text::new(&[(1, vec![template.to_owned()])], &words)
    }

    #[test]
    fn fields_give_what_they_say() {
        let text = read("${rfc3339} ${rfc3339:3} [${clf}] ${word:levels} ${pad:7}|${hex:4} ${id}")
            .unwrap();
        let mut out = Vec::new();
        let stamp = Stamp {
            writer: 3,
            sequence: 17,
            time_ns: 1_767_225_600_012_345_678,
            clock: &mut Clock::default(),
        };
        text.write(&mut Position::default(), &mut Rng::with_seed(1), stamp, &mut out);
        let line = String::from_utf8(out).unwrap();
        let start = "2026-01-01T00:00:00.012345Z 2026-01-01T00:00:00.012Z [01/Jan/2026:00:00:00 +0000] INFO ";
        let rest = line.strip_prefix(start).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(rest.find('|'), Some(7), "{line}");
        assert!(
            rest[13..].starts_with("id=3:17") && rest[8..12].bytes().all(|b| b.is_ascii_hexdigit()),
            "{line}"
        );
        assert!(!text.timed() && read("${mark}").unwrap().timed());
    }

    #[test]
    fn wrong_templates_are_errors_that_say_what_was_expected() {
        for (template, expected) in [
            ("${mark} ${colour}", "${colour} is not a field"),
            ("${mark} ${int:9..3}", "${int:9..3}: expected two numbers, A..B"),
            ("${mark} ${int:x}", "expected two numbers"),
            ("${mark} ${word:none}", "expected the name of a list in [words]"),
            ("${mark} ${hex:0}", "1 to 1024 digits"),
            ("${mark} ${rfc3339:10}", "1 to 9 digits"),
            ("${mark} ${pad", "a field begins and does not end"),
            ("no mark", "expected ${mark} or ${id} once, found 0"),
            ("${mark} ${id}", "found 2"),
            ("${mark}\nx", "a template is one line"),
        ] {
            let error = read(template).unwrap_err().to_string();
            assert!(error.contains(expected), "{template:?}: {error}");
        }
        assert_eq!(Text::new(&[], &BTreeMap::new()).unwrap_err(), Error::Empty);
        assert_eq!(Text::new(&[(1, vec![])], &BTreeMap::new()).unwrap_err(), Error::Empty);
    }
}
