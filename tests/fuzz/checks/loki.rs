//! A push as Loki reads it, which is what counts in the end: a second reader, as simple as can be.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub labels: String,
    pub stamp_ns: i128,
    pub line: Vec<u8>,
    pub metadata: Vec<(String, String)>,
}

type Bad = &'static str;

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

fn varint(message: &mut &[u8]) -> Result<u64, Bad> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().ok_or("a varint without end")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a varint of more than ten bytes")
}

fn low(number: u64) -> i32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// Loki takes 32 bits of a field's number.
fn fields(mut message: &[u8]) -> Result<Vec<(i32, Value<'_>)>, Bad> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let number = low(tag >> 3);
        if number <= 0 {
            return Err("an illegal tag");
        }
        let len = match tag & 7 {
            0 => {
                found.push((number, Value::Number(varint(&mut message)?)));
                continue;
            }
            1 => 8,
            2 => varint(&mut message)?,
            5 => 4,
            _ => return Err("a wire type that nobody sends"),
        };
        let len = usize::try_from(len).map_err(|_| "a length beyond memory")?;
        let (bytes, rest) = message.split_at_checked(len).ok_or("a field without end")?;
        message = rest;
        let value = if tag & 7 == 2 { Value::Bytes(bytes) } else { Value::Other };
        found.push((number, value));
    }
    Ok(found)
}

fn bytes<'a>(value: &Value<'a>) -> Result<&'a [u8], Bad> {
    if let Value::Bytes(bytes) = value { Ok(bytes) } else { Err("bytes expected") }
}

fn number(value: &Value<'_>) -> Result<u64, Bad> {
    if let Value::Number(number) = value { Ok(*number) } else { Err("a number expected") }
}

fn text(value: &Value<'_>) -> Result<String, Bad> {
    String::from_utf8(bytes(value)?.to_vec()).map_err(|_| "UTF-8 expected")
}

pub fn read(push: &[u8]) -> Result<Vec<Entry>, Bad> {
    let mut entries = Vec::new();
    for (_, stream) in fields(push)?.iter().filter(|(number, _)| *number == 1) {
        let first = entries.len();
        let mut labels = String::new();
        for (field, value) in fields(bytes(stream)?)? {
            match field {
                1 => labels = text(&value)?,
                2 => entries.push(entry(bytes(&value)?)?),
                3 => drop(number(&value)?),
                _ => {}
            }
        }
        entries[first..].iter_mut().for_each(|entry| entry.labels.clone_from(&labels));
    }
    Ok(entries)
}

fn entry(message: &[u8]) -> Result<Entry, Bad> {
    let (mut stamp_ns, mut line, mut metadata) = (0, Vec::new(), Vec::new());
    for (field, value) in fields(message)? {
        match field {
            1 => stamp_ns = stamp(bytes(&value)?)?,
            2 => line = bytes(&value)?.to_vec(),
            3 => metadata.push(pair(bytes(&value)?)?),
            // What was parsed of a line; nobody stores it.
            4 => drop(pair(bytes(&value)?)?),
            _ => {}
        }
    }
    Ok(Entry { labels: String::new(), stamp_ns, line, metadata })
}

fn stamp(message: &[u8]) -> Result<i128, Bad> {
    let (mut seconds, mut nanos) = (0, 0);
    for (field, value) in fields(message)? {
        match field {
            1 => seconds = number(&value)?.cast_signed(),
            2 => nanos = low(number(&value)?),
            _ => {}
        }
    }
    if !(0..1_000_000_000).contains(&nanos) {
        return Err("a second of nanoseconds expected");
    }
    Ok(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

fn pair(message: &[u8]) -> Result<(String, String), Bad> {
    let mut pair = (String::new(), String::new());
    for (field, value) in fields(message)? {
        match field {
            1 => pair.0 = text(&value)?,
            2 => pair.1 = text(&value)?,
            _ => {}
        }
    }
    Ok(pair)
}

/// Labels as the parser of PromQL takes them, which Loki reads them with; those whose value is empty
/// are none.
pub fn labels(text: &str) -> Result<Vec<(String, String)>, Bad> {
    let mut rest = text;
    let mut labels = Vec::new();
    token(&mut rest, "{").ok_or("{ expected")?;
    loop {
        if token(&mut rest, "}").is_some() {
            break;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("a name expected");
        }
        rest = behind;
        token(&mut rest, "=").ok_or("= expected")?;
        let value = quoted(&mut rest)?;
        if !value.is_empty() {
            labels.push((name.to_owned(), value));
        }
        if token(&mut rest, ",").is_none() {
            token(&mut rest, "}").ok_or("} expected")?;
            break;
        }
    }
    token(&mut rest, "").ok_or("")?;
    if rest.is_empty() { Ok(labels) } else { Err("the end expected") }
}

/// With the spaces around it.
fn token(rest: &mut &str, token: &str) -> Option<()> {
    const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
    *rest = rest.trim_start_matches(SPACE).strip_prefix(token)?.trim_start_matches(SPACE);
    Some(())
}

fn quoted(rest: &mut &str) -> Result<String, Bad> {
    let mut chars = rest.chars();
    let quote = chars.next().filter(|c| matches!(c, '"' | '\'' | '`')).ok_or("a quote expected")?;
    let mut value = String::new();
    loop {
        match chars.next().ok_or("a string without end")? {
            c if c == quote => break,
            // Its scanner takes this character for one that is broken.
            '\u{fffd}' => return Err("a character that is broken"),
            '\n' if quote != '`' => return Err("a line that ends in a string"),
            '\\' if quote != '`' => value.push(escaped(&mut chars, quote)?),
            c => value.push(c),
        }
    }
    *rest = chars.as_str();
    Ok(value)
}

fn escaped(chars: &mut std::str::Chars<'_>, quote: char) -> Result<char, Bad> {
    let kind = chars.next().ok_or("an escape without end")?;
    let (first, count, radix) = match kind {
        'a' => return Ok('\u{7}'),
        'b' => return Ok('\u{8}'),
        'f' => return Ok('\u{c}'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\u{b}'),
        '\\' => return Ok('\\'),
        c if c == quote => return Ok(c),
        '0'..='7' => (kind.to_digit(8), 2, 8),
        'x' => (Some(0), 2, 16),
        'u' => (Some(0), 4, 16),
        'U' => (Some(0), 8, 16),
        _ => return Err("an escape that nobody knows"),
    };
    let mut code = first.unwrap_or(0);
    for _ in 0..count {
        let digit = chars.next().and_then(|c| c.to_digit(radix)).ok_or("a digit expected")?;
        code = code.wrapping_mul(radix) | digit;
    }
    // Bytes that are no character alone are left out here.
    let alone = matches!(kind, 'u' | 'U') || code < 0x80;
    char::from_u32(code).filter(|_| alone).ok_or("an escape that is no character")
}
