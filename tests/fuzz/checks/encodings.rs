//! Bodies in every content encoding, in pieces of any size.

use flate2::Compression;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use io::http::{BodyError, BodyMemory};
use log_capturer::receive::body::{BadBody, Decoder, Encoding, Limits, unsnap};
use std::io::{Read, Write};
use std::rc::Rc;

/// Room for what the ratio does not hold for, and for some more.
const LIMITS: Limits = Limits { decoded_bytes_max: 3 << 19, ratio_max: 100 };
const MEMORY_BYTES: usize = 4 << 20;

const FORMS: [Form; 5] = [Form::Plain, Form::Gzip, Form::Zlib, Form::Deflate, Form::Snappy];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Gzip,
    Zlib,
    Deflate,
    Snappy,
}

impl Form {
    fn encoding(self) -> Encoding {
        match self {
            Form::Plain => Encoding::Identity,
            Form::Gzip => Encoding::Gzip,
            Form::Zlib | Form::Deflate => Encoding::Deflate,
            Form::Snappy => Encoding::Snappy,
        }
    }

    fn encoded(self, text: &[u8]) -> Vec<u8> {
        let level = Compression::fast();
        let written = match self {
            Form::Plain => Ok(text.to_vec()),
            Form::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(text).and_then(|()| encoder.finish())
            }
            Form::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(text).and_then(|()| encoder.finish())
            }
            Form::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(text).and_then(|()| encoder.finish())
            }
            Form::Snappy => {
                return snap::raw::Encoder::new().compress_vec(text).expect("a short text");
            }
        };
        written.expect("writing to memory does not fail")
    }
}

/// The first byte says which encoding, the second the size of pieces, and the rest is what is decoded
/// and a text to be encoded.
pub fn encodings(data: &[u8]) {
    let [which, pieces, rest @ ..] = data else { return };
    let form = FORMS[usize::from(*which) % FORMS.len()];
    check(form, rest, *pieces);
    let decoded = decode(form.encoding(), &form.encoded(rest), sizes(*pieces));
    // Nothing that short is too much.
    assert_eq!(decoded.as_deref(), Ok(rest), "{form:?}");
}

fn check(form: Form, body: &[u8], pieces: u8) {
    let whole = decode(form.encoding(), body, std::iter::repeat(body.len().max(1)));
    let parts = decode(form.encoding(), body, sizes(pieces));
    match (&whole, &parts) {
        (Ok(whole), Ok(parts)) => assert!(whole == parts, "{form:?}"),
        // A part that came may be far smaller than what it decodes to, and the whole not.
        (_, Err(BadBody::Ratio { .. })) => {}
        (Err(BadBody::Broken { .. }), Err(BadBody::Broken { .. })) => {}
        (whole, parts) => {
            assert_eq!(whole.as_ref().err(), parts.as_ref().err(), "{form:?}");
        }
    }
    if let Ok(whole) = whole {
        assert!(whole.len() <= LIMITS.decoded_bytes_max);
        assert_eq!(Ok(whole), again(form.encoding(), body), "{form:?}");
    }
}

/// By the decoders that read where the product's write.
fn again(encoding: Encoding, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut found = Vec::new();
    let read = match encoding {
        Encoding::Identity => return Ok(body.to_vec()),
        Encoding::Snappy => {
            let found = snap::raw::Decoder::new().decompress_vec(body);
            return found.map_err(|error| error.to_string());
        }
        Encoding::Gzip => MultiGzDecoder::new(body).read_to_end(&mut found),
        Encoding::Deflate
            if body[0] & 0x0f == 8 && u16::from_be_bytes([body[0], body[1]]).is_multiple_of(31) =>
        {
            ZlibDecoder::new(body).read_to_end(&mut found)
        }
        Encoding::Deflate => DeflateDecoder::new(body).read_to_end(&mut found),
    };
    read.map(|_| found).map_err(|error| error.to_string())
}

/// Of pieces, none empty.
fn sizes(seed: u8) -> impl Iterator<Item = usize> {
    let mut state = u32::from(seed);
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 24) as usize % (1 + usize::from(seed))
    })
}

/// Decodes a body that comes in pieces; all memory that it took is given back.
fn decode(
    encoding: Encoding,
    body: &[u8],
    sizes: impl Iterator<Item = usize>,
) -> Result<Vec<u8>, BadBody> {
    let memory = Rc::new(BodyMemory::new(MEMORY_BYTES));
    let decoded = decode_in(&memory, encoding, body, sizes);
    assert_eq!(memory.left(), MEMORY_BYTES);
    assert_ne!(decoded, Err(BadBody::Read(BodyError::Crowded)), "one body has room");
    decoded
}

fn decode_in(
    memory: &Rc<BodyMemory>,
    encoding: Encoding,
    mut body: &[u8],
    mut sizes: impl Iterator<Item = usize>,
) -> Result<Vec<u8>, BadBody> {
    let mut decoder = Decoder::new(encoding, Some(body.len()), LIMITS, memory)?;
    while !body.is_empty() {
        let size = sizes.next().unwrap_or(1).min(body.len());
        let (piece, rest) = body.split_at(size);
        decoder.put(piece)?;
        body = rest;
    }
    let mut body = decoder.finish()?;
    if encoding == Encoding::Snappy {
        body = unsnap(&body.bytes, LIMITS, memory)?;
    }
    assert!(MEMORY_BYTES - memory.left() >= body.bytes.capacity(), "it was granted");
    Ok(body.bytes)
}
