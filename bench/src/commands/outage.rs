//! Loki is away for a minute while lines go on coming.

use super::{Error, require};
use crate::demo::mib;
use crate::load::{self, Rotation, Writer};
use crate::product::{Product, Setup};
use crate::record::{Figure, Target};
use crate::stub::{Accounting, Away, Options, Stub};
use std::path::Path;
use std::time::{Duration, Instant};

const RATE: u64 = 10_000;
const BEFORE: Duration = Duration::from_secs(3);
const OUTAGE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);

pub fn run(binary: &Path) -> Result<Vec<Figure>, Error> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(Options::new(Accounting::PerLine))?;
    let setup = Setup::new(binary, dir.path(), &stub.url());
    let product = Product::start(&setup)?;
    let writer = Writer::start(load::Options {
        dir: setup.logs(),
        files: 4,
        rate: RATE,
        lines: u64::MAX,
        seed: 1,
        lines_per_write: 1,
        rotation: Rotation::Rename { lines: 20_000, keep: 3 },
    })?;
    std::thread::sleep(BEFORE);
    stub.go_away(Away::Refusing);
    let cpu = product.usage()?.cpu;
    std::thread::sleep(OUTAGE);
    let outage_cpu = (product.usage()?.cpu - cpu).as_secs_f64() / OUTAGE.as_secs_f64();
    let behind = writer.lines() - stub.received_in_all();
    let peak = product.usage()?.rss_peak_bytes;
    let log_bytes = product.metric("log_capturer_wal_bytes")?;
    let healed = Instant::now();
    stub.heal();
    // Caught up: no more than half a second of lines is missing.
    while writer.lines() - stub.received_in_all().min(writer.lines()) > RATE / 2 {
        require(healed.elapsed() < LIMIT, || format!("it did not catch up\n{}", product.log()))?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let caught_up = healed.elapsed();
    let written = writer.stop()?;
    let _ = stub.wait_for_lines(written.lines_in_all(), LIMIT);
    let usage = product.usage()?;
    product.stop(LIMIT)?;
    let verified = stub.verify(&written);
    require(verified.complete(), || format!("{verified:?}"))?;
    Ok(vec![
        Figure::new("lines behind at the end of the outage", behind as f64, "lines"),
        Figure::new("CPU during the outage", outage_cpu * 100.0, "% of a core"),
        Figure::new("log on disk at its end", log_bytes / f64::from(1 << 20), "MiB"),
        Figure::new("peak memory through the outage", mib(peak), "MiB")
            .target(Target::AtMost(100.0)),
        Figure::new("until it had caught up", caught_up.as_secs_f64(), "s"),
        Figure::new("lines sent again", verified.repeated as f64, "lines"),
        Figure::new("peak memory in all", mib(usage.rss_peak_bytes), "MiB")
            .target(Target::AtMost(100.0)),
    ])
}
