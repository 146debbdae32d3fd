//! The objective: 10,000 lines/s live.

use super::{Error, require};
use crate::demo::{Latency, mib, millis, of_histogram};
use crate::load::{self, Rotation, Writer};
use crate::product::{Product, Setup};
use crate::record::{Figure, Target};
use crate::stub::{Accounting, Options, Stub};
use std::path::Path;
use std::time::{Duration, Instant};

const RATE: u64 = 10_000;
const SECONDS: u64 = 30;
const LIMIT: Duration = Duration::from_secs(30);

pub fn run(binary: &Path) -> Result<Vec<Figure>, Error> {
    let mut figures = Vec::new();
    for (linger, p99_max, cpu_max) in [("50ms", 75.0, 4.0), ("0ms", 20.0, 8.0)] {
        let once = once(binary, linger)?;
        let ms = |time| millis(time);
        let name = |what: &str| format!("linger {linger}: {what}");
        figures.extend([
            Figure::new(name("latency p50"), ms(once.latency.p50), "ms"),
            Figure::new(name("latency p95"), ms(once.latency.p95), "ms"),
            Figure::new(name("latency p99"), ms(once.latency.p99), "ms")
                .target(Target::AtMost(p99_max)),
            Figure::new(name("latency max"), ms(once.latency.max), "ms"),
            Figure::new(name("CPU"), once.cpu * 100.0, "% of a core")
                .target(Target::AtMost(cpu_max)),
            Figure::new(name("peak memory"), mib(once.rss_peak_bytes), "MiB")
                .target(Target::AtMost(40.0)),
        ]);
    }
    Ok(figures)
}

struct Once {
    latency: Latency,
    /// Cores.
    cpu: f64,
    rss_peak_bytes: u64,
}

fn once(binary: &Path, linger: &str) -> Result<Once, Error> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(Options::new(Accounting::PerLine))?;
    let mut setup = Setup::new(binary, dir.path(), &stub.url());
    setup.sink_keys = vec![format!("linger: {linger}")];
    let product = Product::start(&setup)?;
    let before = product.usage()?;
    let start = Instant::now();
    let writer = Writer::start(load::Options {
        dir: setup.logs(),
        files: 4,
        rate: RATE,
        lines: RATE * SECONDS,
        seed: 1,
        lines_per_write: 1,
        rotation: Rotation::Rename { lines: 20_000, keep: 3 },
    })?;
    let written = writer.wait()?;
    let usage = product.usage()?;
    let elapsed = start.elapsed();
    let _ = stub.wait_for_lines(written.lines_in_all(), LIMIT);
    product.stop(LIMIT)?;
    let verified = stub.verify(&written);
    require(verified.exactly_once(), || format!("{verified:?}"))?;
    Ok(Once {
        latency: of_histogram(&stub.latency()),
        cpu: (usage.cpu - before.cpu).as_secs_f64() / elapsed.as_secs_f64(),
        rss_peak_bytes: usage.rss_peak_bytes,
    })
}
