//! Many files, and nothing happens.

use super::{Error, require};
use crate::demo::mib;
use crate::product::{Product, Setup};
use crate::record::{Figure, Target};
use crate::stub::{Accounting, Options, Stub};
use std::path::Path;
use std::time::{Duration, Instant};

const FILES: u32 = 20_000;
/// Two reconciles of 30 s.
const MEASURED: Duration = Duration::from_secs(65);
const LIMIT: Duration = Duration::from_secs(120);

pub fn run(binary: &Path) -> Result<Vec<Figure>, Error> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(Options::new(Accounting::Count))?;
    let setup = Setup::new(binary, dir.path(), &stub.url());
    std::fs::create_dir(setup.logs())?;
    for file in 0..FILES {
        std::fs::write(setup.logs().join(format!("{file}.log")), format!("line of {file}\n"))?;
    }
    let start = Instant::now();
    let product = Product::start(&setup)?;
    let all = stub.wait_until(LIMIT, |stats| stats.entries >= u64::from(FILES));
    require(all, || format!("only {} lines arrived\n{}", stub.entries_taken(), product.log()))?;
    let first_pass = start.elapsed();
    // Files at rest are closed, logs at rest are trimmed.
    std::thread::sleep(Duration::from_secs(5));
    let before = product.usage()?;
    let start = Instant::now();
    std::thread::sleep(MEASURED);
    let after = product.usage()?;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    product.stop(LIMIT)?;
    Ok(vec![
        Figure::new("files", f64::from(FILES), "files"),
        Figure::new("CPU", cpu * 100.0, "% of a core").target(Target::AtMost(0.5)),
        Figure::new("descriptors", after.descriptors as f64, "open").target(Target::AtMost(200.0)),
        Figure::new("memory", mib(after.rss_bytes), "MiB"),
        Figure::new("peak memory", mib(after.rss_peak_bytes), "MiB"),
        Figure::new("until all had been read", first_pass.as_secs_f64(), "s"),
    ])
}
