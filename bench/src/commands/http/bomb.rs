//! Small bodies that say that they decode to large ones: each must be refused, and cost little memory.

use super::super::{Bed, Error as RunError, require};
use super::{
    ANSWER_LIMIT, Cpus, LIMIT, LOGS, Options, PUSH, Posts, RAW, require_answered, setup, stop,
};
use crate::load::{self, Client, Workload, client};
use crate::measure::{mib, now_ns};
use crate::product::Product;
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Stub};
use flate2::{Compress, Compression, Crc, FlushCompress};
use std::time::{Duration, Instant};

const GROWTH_MAX_MIB: f64 = 32.0;
const GZIP: &str = "Content-Encoding: gzip\r\n";
const SNAPPY: &str = "Content-Encoding: snappy\r\n";
const PROTOBUF: &str = "Content-Type: application/x-protobuf\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
/// The largest length that a snappy block can declare, 4 GiB less one byte, and a literal.
const SNAPPY_BOMB: [u8; 9] = [0xff, 0xff, 0xff, 0xff, 0x0f, 3 << 2, b'a', b'b', b'c'];

/// What came of one.
struct Hit {
    status: u16,
    growth_bytes: u64,
    elapsed: Duration,
}

pub fn run(options: &Options, cpus: &Cpus, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    let gzip = gzip_bomb(options.bomb_mib);
    let bombs: [(&str, &str, &[&str], &[u8]); 6] = [
        ("gzip", PUSH, &[PROTOBUF, GZIP], &gzip),
        ("gzip", LOGS, &[JSON, GZIP], &gzip),
        ("gzip", RAW, &[GZIP], &gzip),
        ("snappy", PUSH, &[PROTOBUF], &SNAPPY_BOMB),
        ("snappy", LOGS, &[JSON, SNAPPY], &SNAPPY_BOMB),
        ("snappy", RAW, &[SNAPPY], &SNAPPY_BOMB),
    ];
    let mut figures = vec![
        Figure::plain("gzip bomb", gzip.len() as f64 / 1e6, "MB"),
        Figure::plain("gzip bomb, decoded", f64::from(options.bomb_mib), "MiB"),
    ];
    let bar = bed.progress("bomb", bombs.len() as u64);
    for (form, path, headers, body) in bombs {
        let mut request = Vec::with_capacity(body.len() + 256);
        client::post(path, &headers.concat(), body, &mut request);
        let hit = hit(&request, cpus, bed)?;
        bar.inc(1);
        require(matches!(hit.status, 400 | 413), || {
            format!("{form} bomb to {path}: expected 400 or 413, found {}", hit.status)
        })?;
        let of = |what: &str| format!("{form} bomb to {path}: {what}");
        figures.extend([
            Figure::less(of("memory"), mib(hit.growth_bytes), "MiB")
                .target(Target::AtMost(GROWTH_MAX_MIB)),
            Figure::less(of("time"), hit.elapsed.as_secs_f64() * 1e3, "ms"),
            Figure::plain(of("status"), hit.status.into(), ""),
        ]);
    }
    bar.finish_and_clear();
    report.add("bombs", figures);
    Ok(())
}

/// A product of its own for each: memory that one has left to it is not seen with the next.
fn hit(request: &[u8], cpus: &Cpus, bed: &Bed) -> Result<Hit, RunError> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let product = Product::start(&setup(bed, &dir, &stub, cpus))?;
    let addr = product.api;
    let connect = || Client::connect(addr, ANSWER_LIMIT).map_err(load::Error::client(addr));
    // What the first line costs is not the bomb's.
    let mut posts = Posts::new(&Workload::service(), 0);
    posts.post(addr, &mut connect()?, now_ns())?;
    product.forget_peak()?;
    let before = product.usage()?;
    let start = Instant::now();
    let status = connect()?.send_unwanted(request).map_err(load::Error::client(addr))?;
    let elapsed = start.elapsed();
    let after = product.usage()?;
    require(product.is_ready(), || format!("not ready after a bomb\n{}", product.log()))?;
    posts.post(addr, &mut connect()?, now_ns())?;
    let _ = stub.wait_for_lines(posts.made(), LIMIT);
    let log = stop(product)?;
    require_answered(&stub, vec![posts.made()], &log)?;
    let growth_bytes = after.rss_peak_bytes.saturating_sub(before.rss_bytes);
    Ok(Hit { status, growth_bytes, elapsed })
}

/// So many MiB of zeros as valid gzip: one MiB is compressed, and the same block repeated.
fn gzip_bomb(mib: u32) -> Vec<u8> {
    const BLOCK_BYTES: usize = 1 << 20;
    let zeros = vec![0; BLOCK_BYTES];
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    // A full flush ends it at a byte's edge, and nothing behind it refers to anything before it.
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(&zeros, &mut block, FlushCompress::Full).expect("there is room");
    assert_eq!(compress.total_in(), BLOCK_BYTES as u64);
    let (mut crc, mut of_block) = (Crc::new(), Crc::new());
    of_block.update(&zeros);
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
    for _ in 0..mib {
        bomb.extend_from_slice(&block);
        crc.combine(&of_block);
    }
    // The last block, which is empty; the checksum, and the length modulo 4 GiB.
    bomb.extend_from_slice(&[3, 0]);
    bomb.extend_from_slice(&crc.sum().to_le_bytes());
    bomb.extend_from_slice(&(mib << 20).to_le_bytes());
    bomb
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_bombs_are_what_they_say() {
        let bomb = gzip_bomb(5);
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(&bomb[..]).read_to_end(&mut decoded).unwrap();
        assert!(decoded.len() == 5 << 20 && decoded.iter().all(|byte| *byte == 0));
        let (five, six) = (bomb.len(), gzip_bomb(6).len());
        assert!((six - five) * (10 << 10) < 11_000_000, "{} a MiB", six - five);
        assert_eq!(snap::raw::decompress_len(&SNAPPY_BOMB).unwrap(), u32::MAX as usize);
    }
}
