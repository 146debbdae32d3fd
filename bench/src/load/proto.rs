//! Push bodies written by hand: the encoding that the limit measures, that HTTP load sends, and that
//! the stub's tests are made of.

use std::collections::BTreeMap;

const FIELD_1: u8 = 1 << 3 | 2;
const FIELD_2: u8 = 2 << 3 | 2;
const FIELD_3: u8 = 3 << 3 | 2;

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// An entry of a stream with its field's head: its timestamp and its line.
#[inline]
pub fn entry(timestamp_ns: u64, line: &[u8], out: &mut Vec<u8>) {
    // Tag and length before each: on the stack, since the lengths come first.
    let mut head = [0_u8; 32];
    let mut at = 0;
    for (tag, value) in [(0x08, timestamp_ns / 1_000_000_000), (0x10, timestamp_ns % 1_000_000_000)]
    {
        head[at] = tag;
        at = varint_into(&mut head, at + 1, value);
    }
    let stamp_len = at;
    head[at] = FIELD_2;
    at = varint_into(&mut head, at + 1, line.len() as u64);
    let mut before = [0_u8; 16];
    before[0] = FIELD_2;
    let mut end = varint_into(&mut before, 1, (2 + at + line.len()) as u64);
    before[end] = FIELD_1;
    end = varint_into(&mut before, end + 1, stamp_len as u64);
    out.extend_from_slice(&before[..end]);
    out.extend_from_slice(&head[..at]);
    out.extend_from_slice(line);
}

/// An entry with structured metadata.
pub fn entry_with(
    timestamp_ns: u64,
    line: &[u8],
    metadata: &BTreeMap<String, String>,
    out: &mut Vec<u8>,
) {
    let mut plain = Vec::with_capacity(line.len() + 32);
    entry(timestamp_ns, line, &mut plain);
    // Behind the head: tag and length.
    let head = 1 + plain[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let mut body = plain.split_off(head);
    for (name, value) in metadata {
        let mut pair = Vec::with_capacity(name.len() + value.len() + 8);
        field(FIELD_1, name.as_bytes(), &mut pair);
        field(FIELD_2, value.as_bytes(), &mut pair);
        field(FIELD_3, &pair, &mut body);
    }
    field(FIELD_2, &body, out);
}

fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint_into(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = (value & 0x7f) as u8;
    at + 1
}

/// A push's element of one stream; `entries` as [`entry`] wrote them.
pub fn stream(labels: &str, entries: &[u8], out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(labels.len() + 8);
    field(FIELD_1, labels.as_bytes(), &mut body);
    out.push(FIELD_1);
    varint((body.len() + entries.len()) as u64, out);
    out.extend_from_slice(&body);
    out.extend_from_slice(entries);
}
