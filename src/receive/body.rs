//! Content encodings: what came is decoded within limits, however small a bomb it came as.

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use io::http::{BodyError, BodyMemory, Buffer, Grant};
use std::io::Write;
use std::rc::Rc;

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
    #[error("{0}")]
    Read(#[from] BodyError),
}

impl BadBody {
    fn of(bad: BodyError, max: usize) -> BadBody {
        match bad {
            BodyError::TooLarge { .. } => BadBody::TooLarge { max },
            other => BadBody::Read(other),
        }
    }
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

/// Decodes a body while it comes.
pub struct Decoder(Form);

enum Form {
    Plain(Bounded),
    Inflate {
        form: &'static str,
        decoder: Box<dyn Inflate>,
    },
    /// The name means zlib by the standard, and a bare stream by what many send: two bytes tell.
    Deflate {
        first: Vec<u8>,
        bounded: Bounded,
    },
}

impl Decoder {
    /// For a body of `declared` bytes, where that is known.
    pub fn new(
        encoding: Encoding,
        declared: Option<usize>,
        limits: Limits,
        memory: &Rc<BodyMemory>,
    ) -> Result<Decoder, BadBody> {
        let room = match encoding {
            Encoding::Identity | Encoding::Snappy => declared.unwrap_or(0),
            Encoding::Gzip | Encoding::Deflate => 0,
        };
        let bounded = Bounded::new(room, limits, memory)?;
        Ok(Decoder(match encoding {
            Encoding::Identity | Encoding::Snappy => Form::Plain(bounded),
            Encoding::Gzip => {
                Form::Inflate { form: "gzip", decoder: Box::new(MultiGzDecoder::new(bounded)) }
            }
            Encoding::Deflate => Form::Deflate { first: Vec::new(), bounded },
        }))
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<(), BadBody> {
        match &mut self.0 {
            Form::Plain(bounded) => bounded.put(bytes),
            Form::Inflate { form, decoder } => {
                decoder.bounded().encoded_bytes += bytes.len();
                let done = decoder.write_all(bytes);
                decoder.bounded().outcome(form, done)
            }
            Form::Deflate { first, bounded } => {
                first.extend_from_slice(bytes);
                if first.len() < 2 {
                    return Ok(());
                }
                let first = std::mem::take(first);
                let bounded = bounded.take();
                let decoder: Box<dyn Inflate> = if is_zlib(&first) {
                    Box::new(ZlibDecoder::new(bounded))
                } else {
                    Box::new(DeflateDecoder::new(bounded))
                };
                self.0 = Form::Inflate { form: "deflate", decoder };
                self.put(&first)
            }
        }
    }

    /// The body, decoded to its end.
    pub fn finish(self) -> Result<Body, BadBody> {
        let bounded = match self.0 {
            Form::Plain(bounded) => bounded,
            Form::Inflate { form, mut decoder } => {
                let done = decoder.end();
                decoder.bounded().outcome(form, done)?;
                decoder.bounded().take()
            }
            Form::Deflate { .. } => {
                let error = "it has less than two bytes".to_owned();
                return Err(BadBody::Broken { form: "deflate", error });
            }
        };
        let (bytes, grant) = bounded.buffer.expect("it was not taken before").into_parts();
        Ok(Body { bytes, _grant: grant })
    }
}

/// A body in memory that was granted.
#[derive(Debug)]
pub struct Body {
    pub bytes: Vec<u8>,
    _grant: Grant,
}

/// Decodes a snappy block; the length that it declares is checked before anything is allocated.
pub fn unsnap(block: &[u8], limits: Limits, memory: &Rc<BodyMemory>) -> Result<Body, BadBody> {
    let broken =
        |error: snap::Error| BadBody::Broken { form: "snappy block", error: error.to_string() };
    let declared = snap::raw::decompress_len(block).map_err(broken)?;
    limits.check(declared, block.len())?;
    let grant = memory.grant(declared)?;
    let bytes = snap::raw::Decoder::new().decompress_vec(block).map_err(broken)?;
    Ok(Body { bytes, _grant: grant })
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
    /// None when it was taken.
    buffer: Option<Buffer>,
    encoded_bytes: usize,
    limits: Limits,
    over: Option<BadBody>,
}

impl Bounded {
    fn new(room: usize, limits: Limits, memory: &Rc<BodyMemory>) -> Result<Bounded, BadBody> {
        let max = limits.decoded_bytes_max;
        let buffer = Buffer::new(memory, room, max).map_err(|bad| BadBody::of(bad, max))?;
        Ok(Bounded { buffer: Some(buffer), encoded_bytes: 0, limits, over: None })
    }

    fn take(&mut self) -> Bounded {
        Bounded { buffer: self.buffer.take(), over: self.over.take(), ..*self }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BadBody> {
        let buffer = self.buffer.as_mut().expect("it was not taken before");
        let max = self.limits.decoded_bytes_max;
        buffer.put(bytes).map_err(|bad| BadBody::of(bad, max))
    }

    /// What stopped a decoder: a limit, or what it decodes.
    fn outcome(&mut self, form: &'static str, done: std::io::Result<()>) -> Result<(), BadBody> {
        match (self.over.take(), done) {
            (Some(over), _) => Err(over),
            (None, Err(error)) => Err(BadBody::Broken { form, error: error.to_string() }),
            (None, Ok(())) => Ok(()),
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let decoded = self.buffer.as_ref().map_or(0, Buffer::len) + bytes.len();
        let put = self.limits.check(decoded, self.encoded_bytes).and_then(|()| self.put(bytes));
        put.map(|()| bytes.len()).map_err(|over| {
            self.over = Some(over);
            std::io::Error::other("beyond a limit")
        })
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

inflate!(MultiGzDecoder, ZlibDecoder, DeflateDecoder);

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

    /// Decodes a body that comes in pieces, and says how much memory that took.
    fn decode(encoding: Encoding, body: &[u8], piece: usize) -> Result<Vec<u8>, BadBody> {
        let memory = Rc::new(BodyMemory::new(16 << 20));
        let mut decoder = Decoder::new(encoding, Some(body.len()), LIMITS, &memory)?;
        body.chunks(piece).try_for_each(|piece| decoder.put(piece))?;
        let body = decoder.finish()?;
        let body =
            if encoding == Encoding::Snappy { unsnap(&body.bytes, LIMITS, &memory)? } else { body };
        Ok(body.bytes)
    }

    #[test]
    fn every_encoding_is_decoded_however_it_comes() {
        for (bytes, piece) in [(0, 1), (1, 1), (1000, 1), (1000, 7), (3 << 20, 16 << 10)] {
            let text = text(bytes);
            for (encoding, body) in encoded(&text) {
                let decoded = decode(encoding, &body, piece).unwrap();
                assert!(decoded == text, "{encoding:?} {bytes}");
            }
        }
        // Members one behind the other are one text.
        let [.., (_, one), _, _] = &encoded(b"one ")[..] else { panic!() };
        assert_eq!(decode(Encoding::Gzip, &[&one[..], one].concat(), 5).unwrap(), b"one one ");
    }

    #[test]
    fn a_bomb_is_stopped_on_its_way() {
        for (encoding, body) in encoded(&vec![b'x'; 3 << 20]) {
            let decoded = decode(encoding, &body, 16 << 10);
            match encoding {
                // Snappy makes nothing 100 times smaller.
                Encoding::Identity | Encoding::Snappy => assert!(decoded.is_ok()),
                _ => assert_eq!(decoded, Err(BadBody::Ratio { max: 100 })),
            }
        }
        for (encoding, body) in encoded(&text(5 << 20)) {
            assert_eq!(decode(encoding, &body, 16 << 10), Err(BadBody::TooLarge { max: 4 << 20 }));
        }
        // It declares 4 GiB.
        let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        let decoded = decode(Encoding::Snappy, &lie, 16 << 10);
        assert_eq!(decoded, Err(BadBody::TooLarge { max: 4 << 20 }));
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_it_may() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![0; 100 << 20]).unwrap();
        let bomb = gzip.finish().unwrap();
        let memory = Rc::new(BodyMemory::new(4 << 20));
        let mut decoder = Decoder::new(Encoding::Gzip, None, LIMITS, &memory).unwrap();
        let refused = bomb.chunks(16 << 10).map(|piece| decoder.put(piece)).find_map(Result::err);
        assert_eq!(refused, Some(BadBody::Ratio { max: 100 }));
        let taken = decoder.finish().map(|body| body.bytes.len());
        assert!(taken.is_err() || taken == Ok(0), "{taken:?}");
    }

    #[test]
    fn what_is_broken_is_said() {
        for (encoding, mut body) in encoded(&text(1000)).into_iter().skip(1) {
            body.truncate(body.len() - 3);
            let decoded = decode(encoding, &body, 16 << 10);
            assert!(matches!(decoded, Err(BadBody::Broken { .. })), "{encoding:?} {decoded:?}");
            let decoded = decode(encoding, b"\xff\xffgarbage", 3);
            assert!(decoded.is_err(), "{encoding:?} {decoded:?}");
        }
        assert!(matches!(Encoding::of(Some("zstd")), Err(BadBody::Encoding(_))));
    }
}
