//! A stream's labels as Loki reads them: `{filename="/var/log/app.log", job="varlogs"}`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Loki's default for max_label_value_length.
const VALUE_BYTES_MAX: usize = 2048;

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Renders labels sorted by name, values quoted and escaped, so that no value can break out.
#[must_use]
pub fn render(labels: &BTreeMap<String, String>) -> String {
    render_all(labels.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Likewise, of pairs that are sorted.
#[must_use]
pub fn render_pairs(pairs: &[Pair<'_>]) -> String {
    render_all(pairs.iter().map(|(name, value)| (*name, value.as_ref())))
}

/// The names were checked.
fn render_all<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in pairs.enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(out, "{comma}{name}=\"");
        escape(value, &mut out);
        out.push('"');
    }
    out.push('}');
    out
}

/// The labels of a file: what the configuration gives all files of its kind, and its name.
#[must_use]
pub fn of_file(fixed: &BTreeMap<String, String>, path: &Path) -> String {
    let mut labels = fixed.clone();
    let mut name = path.to_string_lossy().into_owned();
    name.truncate(name.floor_char_boundary(VALUE_BYTES_MAX));
    labels.insert("filename".into(), name);
    render(&labels)
}

/// Whether Loki reads these labels as they came: an empty one is none to it, and a value with this
/// character is to be escaped.
#[must_use]
pub fn is_plain(text: &str, pairs: &[Pair<'_>]) -> bool {
    pairs.iter().all(|(_, value)| !value.is_empty()) && !text.contains(REPLACEMENT)
}

/// As Go's strconv.Unquote wants it.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Loki's parser takes the last for a character that is broken.
            c if c.is_control() || c == REPLACEMENT => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
}

/// Why a text is no set of labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{expected} expected at byte {at}")]
pub struct LabelsError {
    pub expected: &'static str,
    pub at: usize,
}

/// One label, borrowed where nothing had to be unescaped.
pub type Pair<'a> = (&'a str, Cow<'a, str>);

/// Reads labels as Loki writes and reads them: `{name="value", …}`, with Go's escapes, also in single
/// quotes and raw in backquotes; in their order, whatever their number.
pub fn parse(text: &str) -> Result<Vec<Pair<'_>>, LabelsError> {
    let mut at = Parser { text, at: 0 };
    let mut pairs = Vec::new();
    at.space();
    at.expect(b'{', "{")?;
    at.space();
    while !at.take(b'}') {
        let name = at.name()?;
        at.space();
        at.expect(b'=', "=")?;
        at.space();
        let value = at.value()?;
        pairs.push((name, value));
        at.space();
        if !at.take(b',') {
            at.expect(b'}', ", or }")?;
            break;
        }
        at.space();
    }
    at.space();
    if at.at < text.len() { Err(at.error("the end")) } else { Ok(pairs) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, expected: &'static str) -> LabelsError {
        LabelsError { expected, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), LabelsError> {
        if self.take(byte) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> Result<&'a str, LabelsError> {
        let rest = &self.text[self.at..];
        let len = rest.bytes().take_while(|byte| is_name_byte(*byte)).count();
        if len == 0 || rest.as_bytes()[0].is_ascii_digit() {
            return Err(self.error("a label name"));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn value(&mut self) -> Result<Cow<'a, str>, LabelsError> {
        let quote = self.peek().filter(|byte| matches!(byte, b'"' | b'\'' | b'`'));
        let Some(quote) = quote else { return Err(self.error("a quoted value")) };
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let stop = |byte: u8| byte == quote || quote != b'`' && matches!(byte, b'\\' | b'\n');
        let mut owned = String::new();
        let mut from = start;
        loop {
            let len = bytes[self.at..].iter().position(|byte| stop(*byte));
            let Some(len) = len else {
                self.at = bytes.len();
                return Err(self.error("the end of the value"));
            };
            self.at += len;
            match bytes[self.at] {
                byte if byte == quote => break,
                b'\n' => return Err(self.error("\\n in place of a line break")),
                _ => {
                    owned.push_str(&self.text[from..self.at]);
                    owned.push(self.escape(quote)?);
                    from = self.at;
                }
            }
        }
        let last = &self.text[from..self.at];
        self.at += 1;
        if from == start {
            return Ok(Cow::Borrowed(last));
        }
        owned.push_str(last);
        Ok(Cow::Owned(owned))
    }

    /// What stands behind a backslash, as Go's strconv reads it.
    fn escape(&mut self, quote: u8) -> Result<char, LabelsError> {
        let unknown = self.error("an escape that Go knows");
        let rest = &self.text.as_bytes()[self.at + 1..];
        let Some(kind) = rest.first().copied() else { return Err(unknown) };
        let simple = match kind {
            b'a' => '\u{7}',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'v' => '\u{b}',
            b'\\' => '\\',
            byte if byte == quote => char::from(quote),
            _ => {
                let (skip, digits, radix) = match kind {
                    b'x' => (1, 2, 16),
                    b'u' => (1, 4, 16),
                    b'U' => (1, 8, 16),
                    b'0'..=b'7' => (0, 3, 8),
                    _ => return Err(unknown),
                };
                let digits = rest.get(skip..skip + digits).ok_or_else(|| unknown.clone())?;
                let text = std::str::from_utf8(digits).map_err(|_| unknown.clone())?;
                let all = text.chars().all(|c| c.is_digit(radix));
                let code = u32::from_str_radix(text, radix).ok().filter(|_| all);
                // A byte beyond ASCII would be a part of a character: not in a text.
                let code = code.filter(|code| matches!(kind, b'u' | b'U') || *code < 0x80);
                let found = code.and_then(char::from_u32).ok_or(unknown)?;
                self.at += 1 + skip + digits.len();
                return Ok(found);
            }
        };
        self.at += 2;
        Ok(simple)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether Loki takes it for the name of a label.
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(is_name_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_quoted() {
        let fixed = BTreeMap::from([("job".to_owned(), "varlogs".to_owned())]);
        let labels = of_file(&fixed, Path::new("/var/log/a.log"));
        assert_eq!(labels, r#"{filename="/var/log/a.log", job="varlogs"}"#);
    }

    #[test]
    fn no_value_breaks_out() {
        let name = "a\",b=\"x\\\n\t\u{1}ü";
        let labels = of_file(&BTreeMap::new(), Path::new(name));
        assert_eq!(labels, "{filename=\"a\\\",b=\\\"x\\\\\\n\\t\\u0001ü\"}");
    }

    #[test]
    fn a_long_path_is_cut_to_what_loki_takes() {
        let labels = of_file(&BTreeMap::new(), Path::new(&"ü".repeat(2000)));
        assert_eq!(labels.len(), "{filename=\"\"}".len() + VALUE_BYTES_MAX);
    }

    #[test]
    fn what_is_rendered_is_read_as_it_was() {
        for value in ["", "a\",b=\"x\\\n\t\u{1}ü", "plain", "\u{7f}\u{10ffff}", "\u{fffd}"] {
            let labels = BTreeMap::from([("a".to_owned(), value.to_owned())]);
            let text = render(&labels);
            assert_eq!(parse(&text).unwrap(), [("a", Cow::from(value))], "{text}");
            assert!(!text.contains('\u{fffd}'), "{text}");
        }
        assert_eq!(parse("{}").unwrap(), []);
    }

    #[test]
    fn labels_are_read_as_loki_reads_them() {
        let text = " { b = 'x\\'\"' , _a1=`\\n`,c=\"\\x41\\101\\u00fc\\U0001F600\", } ";
        let found = parse(text).unwrap();
        let expected = [("b", "x'\""), ("_a1", "\\n"), ("c", "AAü😀")];
        assert_eq!(found, expected.map(|(name, value)| (name, Cow::from(value))));
        for (text, at) in [
            ("", 0),
            ("a=\"b\"", 0),
            ("{a=\"b\"", 6),
            ("{a=\"b", 5),
            ("{a=b}", 3),
            ("{1a=\"b\"}", 1),
            ("{a-b=\"c\"}", 2),
            ("{a=\"b\" c=\"d\"}", 7),
            ("{,}", 1),
            ("{a=\"b\",,}", 7),
            ("{a=\"b\"}x", 7),
            ("{\u{c}a=\"b\"}", 1),
            ("{a=\"\n\"}", 4),
            ("{a=\"\\q\"}", 4),
            ("{a=\"\\'\"}", 4),
            ("{a=\"\\xff\"}", 4),
            ("{a=\"\\u+123\"}", 4),
            ("{a=\"\\ud800\"}", 4),
            ("{a=\"\\", 4),
        ] {
            assert_eq!(parse(text).map_err(|error| error.at), Err(at), "{text}");
        }
    }
}
