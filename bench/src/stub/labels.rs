//! Reads a stream's labels as Loki does: `{a="b", c="d"}`, the values as Go quotes them.

use std::fmt::Write;

/// Names and values, sorted by name, with the text Loki shows for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    pub pairs: Vec<(String, String)>,
    pub canonical: String,
}

/// Why labels cannot be read, as Loki says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("1:{column}: parse error: {what}", column = .at + 1)]
pub struct LabelsError {
    at: usize,
    what: &'static str,
}

pub fn parse(text: &[u8]) -> Result<Labels, LabelsError> {
    let text = std::str::from_utf8(text)
        .map_err(|e| LabelsError { at: e.valid_up_to(), what: "invalid UTF-8 rune" })?;
    let mut cursor = Cursor { text, at: 0 };
    cursor.expect('{', "unexpected input, expected \"{\"")?;
    let mut pairs = Vec::new();
    loop {
        cursor.skip_space();
        if cursor.take('}') {
            break;
        }
        if !pairs.is_empty() {
            cursor.expect(',', "unexpected input in label set, expected \",\" or \"}\"")?;
            cursor.skip_space();
            if cursor.take('}') {
                break;
            }
        }
        let name = cursor.name()?;
        cursor.skip_space();
        cursor.expect('=', "unexpected input in label set, expected \"=\"")?;
        cursor.skip_space();
        pairs.push((name, cursor.quoted()?));
    }
    cursor.skip_space();
    if cursor.at != text.len() {
        return Err(cursor.error("unexpected input after the label set"));
    }
    pairs.sort();
    let canonical = render(&pairs);
    Ok(Labels { pairs, canonical })
}

fn render(pairs: &[(String, String)]) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in pairs.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{name}=\"");
        for c in value.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out.push('}');
    out
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn error(&self, what: &'static str) -> LabelsError {
        LabelsError { at: self.at, what }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char, what: &'static str) -> Result<(), LabelsError> {
        if self.take(wanted) { Ok(()) } else { Err(self.error(what)) }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> Result<String, LabelsError> {
        let start = self.at;
        match self.peek() {
            Some('a'..='z' | 'A'..='Z' | '_') => {}
            _ => return Err(self.error("unexpected character in label set, expected a label name")),
        }
        while matches!(self.peek(), Some('a'..='z' | 'A'..='Z' | '_' | '0'..='9')) {
            self.at += 1;
        }
        Ok(self.text[start..self.at].to_owned())
    }

    fn quoted(&mut self) -> Result<String, LabelsError> {
        let quote = match self.peek() {
            Some(q @ ('"' | '\'' | '`')) => q,
            _ => return Err(self.error("unexpected input in label set, expected string")),
        };
        self.at += 1;
        let mut value = Vec::new();
        loop {
            match self.next() {
                None => return Err(self.error("unterminated quoted string")),
                Some(c) if c == quote => break,
                Some('\0') => return Err(self.error("unexpected NUL in a label value")),
                Some('\n') if quote != '`' => {
                    return Err(self.error("unterminated quoted string"));
                }
                Some('\\') if quote != '`' => self.escape(quote, &mut value)?,
                Some(c) => value.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        String::from_utf8(value).map_err(|_| self.error("label value is not valid UTF-8"))
    }

    fn escape(&mut self, quote: char, value: &mut Vec<u8>) -> Result<(), LabelsError> {
        let byte = match self.next() {
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some(c) if c == quote => u8::try_from(c).unwrap_or(b'"'),
            Some('x') => self.byte(16, 2)?,
            Some('0'..='7') => {
                self.at -= 1;
                self.byte(8, 3)?
            }
            Some('u') => return self.rune(4, value),
            Some('U') => return self.rune(8, value),
            _ => return Err(self.error("unknown escape sequence")),
        };
        value.push(byte);
        Ok(())
    }

    fn digits(&mut self, radix: u32, count: usize) -> Result<u32, LabelsError> {
        let bad = self.error("illegal character in escape sequence");
        let text = self.text.get(self.at..self.at + count).ok_or_else(|| bad.clone())?;
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad);
        }
        self.at += count;
        u32::from_str_radix(text, radix).map_err(|_| bad)
    }

    fn byte(&mut self, radix: u32, count: usize) -> Result<u8, LabelsError> {
        let value = self.digits(radix, count)?;
        u8::try_from(value).map_err(|_| self.error("escape sequence is larger than a byte"))
    }

    fn rune(&mut self, count: usize, value: &mut Vec<u8>) -> Result<(), LabelsError> {
        let code = self.digits(16, count)?;
        let c = char::from_u32(code)
            .ok_or_else(|| self.error("escape sequence is an invalid Unicode code point"))?;
        value.extend(c.encode_utf8(&mut [0; 4]).bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}")).pairs
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn labels_are_sorted_and_rendered_one_way() {
        let labels = parse(br#"{ job = "x",filename="/a b/\"c\".log", }"#).unwrap();
        assert_eq!(labels.canonical, r#"{filename="/a b/\"c\".log", job="x"}"#);
        assert_eq!(parse(labels.canonical.as_bytes()).unwrap(), labels);
        assert_eq!(parse(b"{}").unwrap().pairs, []);
    }

    #[test]
    fn values_are_unquoted_as_go_does() {
        assert_eq!(pairs(r#"{a="\x41\101\u00e9\U0001f600\t\\"}"#), [pair("a", "AAé😀\t\\")]);
        assert_eq!(pairs(r"{a='it\'s', b=`\n`}"), [pair("a", "it's"), pair("b", r"\n")]);
        assert_eq!(pairs(r#"{a="\xc3\xa9"}"#), [pair("a", "é")]);
    }

    #[test]
    fn what_loki_cannot_read_is_refused() {
        for text in [
            "",
            "a=\"b\"",
            "{a=\"b\"",
            "{a}",
            "{a=b}",
            "{1a=\"b\"}",
            "{a-b=\"c\"}",
            "{a.b=\"c\"}",
            "{a=\"b\" c=\"d\"}",
            "{,}",
            "{a=\"b\"} x",
            "{a=\"\\q\"}",
            "{a=\"\\xff\"}",
            "{a=\"\\ud800\"}",
            "{a=\"\\u+041\"}",
            "{a=\"b\nc\"}",
            "{a=\"\0\"}",
            "{é=\"b\"}",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?} was accepted");
        }
        assert!(parse(b"{a=\"\xff\"}").is_err());
    }
}
