//! Hand-made pushes for the stub's own tests.

use hyper::body::Bytes;

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend(bytes);
}

pub fn entry(timestamp_ns: i64, line: &[u8]) -> Vec<u8> {
    let mut timestamp = vec![0x08];
    varint((timestamp_ns / 1_000_000_000).cast_unsigned(), &mut timestamp);
    timestamp.push(0x10);
    varint((timestamp_ns % 1_000_000_000).cast_unsigned(), &mut timestamp);
    let mut out = Vec::new();
    field(1, &timestamp, &mut out);
    field(2, line, &mut out);
    out
}

pub fn stream(labels: &str, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    field(1, labels.as_bytes(), &mut out);
    for entry in entries {
        field(2, entry, &mut out);
    }
    out
}

pub fn push(streams: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for stream in streams {
        field(1, stream, &mut out);
    }
    out
}

pub fn compressed(body: &[u8]) -> Bytes {
    snap::raw::Encoder::new().compress_vec(body).unwrap().into()
}
