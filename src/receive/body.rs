//! Content encodings: what came is decoded within limits, however small a bomb it came as.

use flate2::write::{DeflateDecoder, GzDecoder, ZlibDecoder};
use std::io::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// After decoding.
    pub decoded_bytes_max: usize,
    /// Decoded to encoded, beyond the first [`RATIO_FREE_BYTES`].
    pub ratio_max: usize,
}

/// A short text may well be all the same.
const RATIO_FREE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Snappy,
    Gzip,
    Deflate,
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    #[error("Content-Encoding {0:?} not supported; there is gzip, deflate and snappy")]
    Encoding(String),
    #[error("the body is no {form}: {error}")]
    Broken { form: &'static str, error: String },
    #[error("request body too large: more than {max} bytes when decoded")]
    TooLarge { max: usize },
    #[error("request body too large: it decodes to more than {max} times its size")]
    Ratio { max: usize },
}

impl Encoding {
    pub fn of(header: Option<&str>) -> Result<Encoding, BadBody> {
        match header.map(str::trim).unwrap_or_default() {
            "" | "identity" => Ok(Encoding::Identity),
            "snappy" => Ok(Encoding::Snappy),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "deflate" => Ok(Encoding::Deflate),
            other => Err(BadBody::Encoding(other.chars().take(100).collect())),
        }
    }
}

/// Decodes a body whole.
pub fn decode(encoding: Encoding, body: Vec<u8>, limits: Limits) -> Result<Vec<u8>, BadBody> {
    match encoding {
        Encoding::Identity if body.len() > limits.decoded_bytes_max => {
            Err(BadBody::TooLarge { max: limits.decoded_bytes_max })
        }
        Encoding::Identity => Ok(body),
        Encoding::Snappy => unsnap(&body, limits),
        Encoding::Gzip => inflate("gzip", GzDecoder::new(Bounded::new(&body, limits)), &body),
        // The name means zlib by the standard, and a bare stream by what many send.
        Encoding::Deflate if is_zlib(&body) => {
            inflate("deflate", ZlibDecoder::new(Bounded::new(&body, limits)), &body)
        }
        Encoding::Deflate => {
            inflate("deflate", DeflateDecoder::new(Bounded::new(&body, limits)), &body)
        }
    }
}

/// Decodes a snappy block; the length that it declares is checked before anything is allocated.
pub fn unsnap(body: &[u8], limits: Limits) -> Result<Vec<u8>, BadBody> {
    let broken =
        |error: snap::Error| BadBody::Broken { form: "snappy block", error: error.to_string() };
    let declared = snap::raw::decompress_len(body).map_err(broken)?;
    limits.check(declared, body.len())?;
    snap::raw::Decoder::new().decompress_vec(body).map_err(broken)
}

impl Limits {
    fn check(&self, decoded: usize, encoded: usize) -> Result<(), BadBody> {
        if decoded > self.decoded_bytes_max {
            return Err(BadBody::TooLarge { max: self.decoded_bytes_max });
        }
        if decoded > RATIO_FREE_BYTES && decoded / self.ratio_max > encoded {
            return Err(BadBody::Ratio { max: self.ratio_max });
        }
        Ok(())
    }
}

/// As RFC 1950 has it: deflate, and a check of the two bytes.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}

/// Takes decoded bytes, no more than the limits allow.
struct Bounded {
    decoded: Vec<u8>,
    encoded_bytes: usize,
    limits: Limits,
    over: Option<BadBody>,
}

impl Bounded {
    fn new(body: &[u8], limits: Limits) -> Bounded {
        let decoded = Vec::with_capacity((body.len() * 4).min(limits.decoded_bytes_max));
        Bounded { decoded, encoded_bytes: body.len(), limits, over: None }
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Err(over) = self.limits.check(self.decoded.len() + bytes.len(), self.encoded_bytes) {
            self.over = Some(over);
            return Err(std::io::Error::other("too large"));
        }
        self.decoded.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A decoder that writes what it decodes to a [`Bounded`].
trait Inflate: Write {
    fn bounded(&mut self) -> &mut Bounded;
    fn end(&mut self) -> std::io::Result<()>;
}

macro_rules! inflate {
    ($($decoder:ident),*) => {$(
        impl Inflate for $decoder<Bounded> {
            fn bounded(&mut self) -> &mut Bounded {
                self.get_mut()
            }

            fn end(&mut self) -> std::io::Result<()> {
                self.try_finish()
            }
        }
    )*};
}

inflate!(GzDecoder, ZlibDecoder, DeflateDecoder);

fn inflate(form: &'static str, mut decoder: impl Inflate, body: &[u8]) -> Result<Vec<u8>, BadBody> {
    let done = decoder.write_all(body).and_then(|()| decoder.end());
    let bounded = decoder.bounded();
    match (bounded.over.take(), done) {
        (Some(over), _) => Err(over),
        (None, Err(error)) => Err(BadBody::Broken { form, error: error.to_string() }),
        (None, Ok(())) => Ok(std::mem::take(&mut bounded.decoded)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    const LIMITS: Limits = Limits { decoded_bytes_max: 4 << 20, ratio_max: 100 };

    fn text(bytes: usize) -> Vec<u8> {
        (0..).flat_map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(bytes).collect()
    }

    fn encoded(text: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text).unwrap();
        zlib.write_all(text).unwrap();
        bare.write_all(text).unwrap();
        vec![
            (Encoding::Identity, text.to_vec()),
            (Encoding::Snappy, snap::raw::Encoder::new().compress_vec(text).unwrap()),
            (Encoding::Gzip, gzip.finish().unwrap()),
            (Encoding::Deflate, zlib.finish().unwrap()),
            (Encoding::Deflate, bare.finish().unwrap()),
        ]
    }

    #[test]
    fn every_encoding_is_decoded() {
        for bytes in [0, 1, 1000, 3 << 20] {
            let text = text(bytes);
            for (encoding, body) in encoded(&text) {
                assert!(decode(encoding, body, LIMITS).unwrap() == text, "{encoding:?} {bytes}");
            }
        }
    }

    #[test]
    fn a_bomb_is_stopped_on_its_way() {
        for (encoding, body) in encoded(&vec![b'x'; 3 << 20]) {
            let decoded = decode(encoding, body, LIMITS);
            match encoding {
                // Snappy makes nothing 100 times smaller.
                Encoding::Identity | Encoding::Snappy => assert!(decoded.is_ok()),
                _ => assert_eq!(decoded, Err(BadBody::Ratio { max: 100 })),
            }
        }
        for (encoding, body) in encoded(&text(5 << 20)) {
            assert_eq!(decode(encoding, body, LIMITS), Err(BadBody::TooLarge { max: 4 << 20 }));
        }
        // It declares 4 GiB.
        let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        let decoded = decode(Encoding::Snappy, lie.to_vec(), LIMITS);
        assert_eq!(decoded, Err(BadBody::TooLarge { max: 4 << 20 }));
    }

    #[test]
    fn what_is_broken_is_said() {
        for (encoding, mut body) in encoded(&text(1000)).into_iter().skip(1) {
            body.truncate(body.len() - 3);
            let decoded = decode(encoding, body, LIMITS);
            assert!(matches!(decoded, Err(BadBody::Broken { .. })), "{encoding:?} {decoded:?}");
            let decoded = decode(encoding, b"\xff\xffgarbage".to_vec(), LIMITS);
            assert!(decoded.is_err(), "{encoding:?} {decoded:?}");
        }
        assert!(matches!(Encoding::of(Some("zstd")), Err(BadBody::Encoding(_))));
    }
}
