//! A log that is full when the process is killed: until it ships again.

use super::{Bed, Error, require};
use crate::load::corpus::{self, Corpus};
use crate::load::{Pushes, Workload};
use crate::measure::mib;
use crate::product::{Product, Setup};
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Away, Stub};
use clap::Args;
use std::path::Path;
use std::time::{Duration, Instant};

/// Of the pushes that fill the log.
const PUSH_TEXT_BYTES: usize = 1_000_000;
const LINES: u64 = 500_000;
const CONNECTIONS: usize = 4;
const SHIPS_AFTER_MOST: f64 = 5.0;
const LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What the log may hold, GiB; it is filled up to that.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    gib: u64,
    /// How many shards share it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    shards: u64,
    #[arg(long, default_value = "service")]
    workload: String,
    /// Where the log is: a directory on the disk that is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// Times from the start of the process.
struct Run {
    log_bytes: f64,
    ready: Duration,
    first: Duration,
    all: Duration,
    peak_bytes: u64,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let corpus = corpus::prepare(
        dir.path(),
        &Workload { lines: LINES, ..Workload::named(&options.workload)? },
    )?;
    let mut sizes = vec![1, options.gib];
    sizes.dedup();
    let bar = bed.progress("recover", sizes.len() as u64);
    for gib in sizes {
        let run = once(gib, &corpus, options, bed)?;
        bar.inc(1);
        let log_gib = run.log_bytes / f64::from(1 << 30);
        let seconds = |time: Duration| time.as_secs_f64();
        report.add(
            &format!("a log of {gib} GiB, full, {} shards", options.shards),
            [
                Figure::plain("log at the kill", log_gib, "GiB"),
                Figure::less("until it was ready", seconds(run.ready), "s"),
                Figure::less("the same for each GiB", seconds(run.ready) / log_gib, "s"),
                Figure::less("until the first line was here", seconds(run.first), "s")
                    .target(Target::AtMost(SHIPS_AFTER_MOST)),
                Figure::less("until all were here", seconds(run.all), "s"),
                Figure::more("drained", mib_of(run.log_bytes) / seconds(run.all), "MiB/s"),
                Figure::less("peak memory", mib(run.peak_bytes), "MiB")
                    .target(Target::AtMost(100.0 * options.shards as f64)),
            ],
        );
    }
    bar.finish_and_clear();
    Ok(())
}

fn mib_of(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn once(gib: u64, corpus: &Corpus, options: &Options, bed: &Bed) -> Result<Run, Error> {
    let parent = options.dir.as_deref().unwrap_or(Path::new(".")).to_owned();
    let dir = tempfile::tempdir_in(parent)?;
    let stub = Stub::start(bed.stub_options(Accounting::Count))?;
    let mut setup = Setup::new(&bed.binary, dir.path(), &stub.url());
    setup.wal = format!("{{ bytes_max: {gib}GiB }}");
    setup.cores = format!("{{ shards: {} }}", options.shards);
    // What is sent once more is stored once more, and told apart by nobody.
    let pushes = Pushes::prepare(corpus, PUSH_TEXT_BYTES)?;
    stub.go_away(Away::Refusing);
    let product = Product::start(&setup)?;
    let mut accepted = 0_u64;
    loop {
        let sent = pushes.send(product.api, CONNECTIONS)?;
        accepted += sent.answers.get(&204).copied().unwrap_or(0);
        if sent.refusal.is_some() {
            require(sent.answers.contains_key(&503), || format!("not full, but {sent:?}"))?;
            break;
        }
    }
    let log_bytes = product.metric("log_capturer_wal_bytes")?;
    product.kill();
    stub.heal();
    let started = Instant::now();
    let product = Product::spawn(&setup)?;
    let (mut ready, mut first) = (None, None);
    while ready.is_none() || first.is_none() {
        ready = ready.or_else(|| product.is_ready().then(|| started.elapsed()));
        first = first.or_else(|| (stub.stats().pushes_stored > 0).then(|| started.elapsed()));
        require(started.elapsed() < LIMIT, || format!("it never shipped\n{}", product.log()))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    // What was answered is here in the end; of what was refused, some may be as well.
    let least = accepted * (pushes.lines / pushes.count() as u64);
    let unacked = || product.metric("log_capturer_wal_unacked_frames");
    while stub.stats().entries < least || unacked()? > 0.0 {
        let late = || format!("{least} entries never came: {:?}\n{}", stub.stats(), product.log());
        require(started.elapsed() < LIMIT, late)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let all = started.elapsed();
    let usage = product.usage()?;
    product.stop(LIMIT)?;
    let (ready, first) = (ready.expect("waited for"), first.expect("likewise"));
    Ok(Run { log_bytes, ready, first, all, peak_bytes: usage.rss_peak_bytes })
}
