//! The values of attributes and bodies, and the texts that Loki makes of them.

use std::borrow::Cow;
use std::fmt::Write;

#[derive(Debug, Clone, Default, PartialEq)]
pub enum Value<'a> {
    #[default]
    Empty,
    /// As it came: nobody promises that it is UTF-8.
    Text(&'a [u8]),
    Truth(bool),
    Integer(i64),
    Float(f64),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Value<'a>>),
    Map(Vec<Attribute<'a>>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attribute<'a> {
    pub name: &'a [u8],
    pub value: Value<'a>,
}

/// JSON has no form for a number that is infinite or none.
struct NoForm;

impl<'a> Value<'a> {
    /// The value as a text: what is made of others is JSON, as Go writes it. Loki has an empty text
    /// for a list or a map with a number that JSON has no form for.
    pub fn text(&self) -> Cow<'a, [u8]> {
        let mut out = String::new();
        match self {
            Value::Empty => {}
            Value::Text(text) => return Cow::Borrowed(text),
            Value::Truth(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Value::Integer(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) if number.is_nan() => out.push_str("NaN"),
            Value::Float(f64::INFINITY) => out.push_str("Infinity"),
            Value::Float(f64::NEG_INFINITY) => out.push_str("-Infinity"),
            Value::Float(number) => put_float(*number, &mut out),
            Value::Bytes(bytes) => put_base64(bytes, &mut out),
            Value::List(_) | Value::Map(_) => {
                if self.put_json(&mut out).is_err() {
                    out.clear();
                }
            }
        }
        Cow::Owned(out.into_bytes())
    }

    /// No deeper than it was read.
    fn put_json(&self, out: &mut String) -> Result<(), NoForm> {
        match self {
            Value::Empty => out.push_str("null"),
            Value::Text(text) => put_json_text(text, out),
            Value::Truth(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Value::Integer(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) if !number.is_finite() => return Err(NoForm),
            Value::Float(number) => put_float(*number, out),
            // To Go, no bytes are none.
            Value::Bytes(bytes) if bytes.is_empty() => out.push_str("null"),
            Value::Bytes(bytes) => {
                out.push('"');
                put_base64(bytes, out);
                out.push('"');
            }
            Value::List(list) => {
                out.push('[');
                for (at, value) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    value.put_json(out)?;
                }
                out.push(']');
            }
            Value::Map(map) => {
                // In the order of the names; of those with one name, the last counts.
                let mut sorted: Vec<_> = map.iter().collect();
                sorted.sort_by_key(|attribute| attribute.name);
                out.push('{');
                let runs = sorted.chunk_by(|a, b| a.name == b.name);
                for (at, attribute) in runs.filter_map(|run| run.last()).enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    put_json_text(attribute.name, out);
                    out.push(':');
                    attribute.value.put_json(out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }
}

/// The shortest digits that are read back as this number; with an exponent where it is very small
/// or very large.
fn put_float(number: f64, out: &mut String) {
    if number == 0.0 || (1e-6..1e21).contains(&number.abs()) {
        let _ = write!(out, "{number}");
        return;
    }
    let start = out.len();
    let _ = write!(out, "{number:e}");
    if let Some(at) = out[start..].find('e').map(|at| start + at + 1)
        && !out[at..].starts_with('-')
    {
        out.insert(at, '+');
    }
}

fn put_json_text(text: &[u8], out: &mut String) {
    out.push('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..' ' | '\u{2028}' | '\u{2029}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|_| out.push_str("\\ufffd"));
    }
    out.push('"');
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn put_base64(bytes: &[u8], out: &mut String) {
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for at in 0..4 {
            let sign = BASE64[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { char::from(sign) } else { '=' });
        }
    }
}

/// Of either alphabet, padded or not, as a reader of protobuf's JSON has to take it.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let signs = text.trim_end_matches('=').as_bytes();
    if text.len() - signs.len() > 2 || signs.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(signs.len() / 4 * 3 + 2);
    for chunk in signs.chunks(4) {
        let mut bits = 0;
        for sign in chunk {
            let value = match sign {
                b'A'..=b'Z' => sign - b'A',
                b'a'..=b'z' => sign - b'a' + 26,
                b'0'..=b'9' => sign - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value<'_>) -> String {
        String::from_utf8(value.text().into_owned()).unwrap()
    }

    fn pair<'a>(name: &'a str, value: Value<'a>) -> Attribute<'a> {
        Attribute { name: name.as_bytes(), value }
    }

    #[test]
    fn every_type_has_a_text() {
        let bytes = |bytes: &'static [u8]| Value::Bytes(bytes.into());
        for (value, expected) in [
            (Value::Empty, ""),
            (Value::Text(b"<a>\n\"&"), "<a>\n\"&"),
            (Value::Truth(true), "true"),
            (Value::Truth(false), "false"),
            (Value::Integer(i64::MIN), "-9223372036854775808"),
            (bytes(b""), ""),
            (bytes(b"\xff"), "/w=="),
            (bytes(b"\xff\xfe"), "//4="),
            (bytes(b"abc"), "YWJj"),
            (bytes(b"abcd"), "YWJjZA=="),
            (Value::List(vec![]), "[]"),
            (Value::Map(vec![]), "{}"),
            (
                Value::List(vec![
                    Value::Empty,
                    Value::Text("<ü>&\u{1}\u{8}\u{c}\n\"\\\u{2028}\u{7f}".as_bytes()),
                    Value::Text(b"a\xff\xfeb"),
                    Value::Truth(true),
                    Value::Integer(7),
                    Value::Float(1e21),
                    bytes(b"a"),
                    bytes(b""),
                    Value::List(vec![]),
                ]),
                "[null,\"<ü>&\\u0001\\b\\f\\n\\\"\\\\\\u2028\u{7f}\",\"a\\ufffd\\ufffdb\",true,7,\
                 1e+21,\"YQ==\",null,[]]",
            ),
            (
                Value::Map(vec![
                    pair("b", Value::Integer(1)),
                    pair("a", Value::Map(vec![pair("x\"", Value::Empty)])),
                    pair("b", Value::Integer(2)),
                    pair("", Value::Truth(false)),
                ]),
                "{\"\":false,\"a\":{\"x\\\"\":null},\"b\":2}",
            ),
            (Value::List(vec![Value::Integer(1), Value::Float(f64::NAN)]), ""),
            (Value::Map(vec![pair("a", Value::Float(f64::INFINITY))]), ""),
        ] {
            assert_eq!(text(&value), expected, "{value:?}");
        }
        assert_eq!(Value::Text(b"\xff").text().as_ref(), b"\xff", "a text keeps its bytes");
    }

    #[test]
    fn numbers_are_as_go_writes_them() {
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (123_456_789.0, "123456789"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(text(&Value::Float(number)), expected);
        }
    }

    #[test]
    fn base64_is_read_in_every_form() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YQ", Some(b"a")),
            ("//79", Some(b"\xff\xfe\xfd")),
            ("__79", Some(b"\xff\xfe\xfd")),
            ("YWJjZA==", Some(b"abcd")),
            ("Y", None),
            ("YQ===", None),
            ("YQ=a", None),
            ("Y Q=", None),
        ] {
            assert_eq!(from_base64(text).as_deref(), expected, "{text}");
        }
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        put_base64(&bytes, &mut text);
        assert_eq!(from_base64(&text), Some(bytes));
    }
}
