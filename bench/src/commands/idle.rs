//! Many files, and nothing happens.

use super::{Bed, Error, require, time};
use crate::measure::{Timeline, mib};
use crate::product::{Product, Setup};
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Stub};
use clap::Args;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many files, each with one line.
    #[arg(long, default_value_t = 20_000)]
    files: u32,
    /// How long is looked on; the default is two reconciles of 30 s.
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "65s")]
    duration: Duration,
    /// How long it is given to come to rest: files are closed, the log is trimmed.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    settle: Duration,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::Count))?;
    let setup = Setup::new(&bed.binary, dir.path(), &stub.url());
    std::fs::create_dir(setup.logs())?;
    let mut expected = crate::load::LineSum::default();
    for file in 0..options.files {
        let line = format!("line id={file}:0");
        expected.add(line.as_bytes());
        std::fs::write(setup.logs().join(format!("{file}.log")), line + "\n")?;
    }
    let start = Instant::now();
    let product = Product::start(&setup)?;
    let all = stub.wait_until(LIMIT, |stats| stats.entries >= u64::from(options.files));
    require(all, || format!("only {} lines arrived\n{}", stub.entries_taken(), product.log()))?;
    let first_pass = start.elapsed();
    std::thread::sleep(options.settle);
    let before = product.usage()?;
    let mut timeline = Timeline::start(setup.data_dir());
    let bar = bed.progress("idle", options.duration.as_secs());
    while timeline.elapsed() < options.duration {
        // Once at the start and once at the end: looking costs as well.
        bar.set_position(timeline.elapsed().as_secs());
        std::thread::sleep(Duration::from_secs(1).min(options.duration));
    }
    bar.finish_and_clear();
    let after = product.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / timeline.elapsed().as_secs_f64();
    timeline.look(&product, &stub)?;
    let log = product.log();
    product.stop(LIMIT)?;
    super::require_same((expected, stub.stats().sum), &log)?;
    report.add(
        &format!("{} idle files", options.files),
        [
            Figure::less("CPU", cpu * 100.0, "% of a core").target(Target::AtMost(0.5)),
            Figure::less("descriptors", after.descriptors as f64, "open")
                .target(Target::AtMost(200.0)),
            Figure::less("memory", mib(after.rss_bytes), "MiB"),
            Figure::less("peak memory", mib(after.rss_peak_bytes), "MiB"),
            Figure::less("disk", mib(timeline.samples[0].disk_bytes), "MiB"),
            Figure::less("until all had been read", first_pass.as_secs_f64(), "s"),
        ],
    );
    Ok(())
}
