//! Loki is away while lines go on coming.

use super::{Bed, Error, Lines, require, time};
use crate::load::{self, Writer};
use crate::measure::{Timeline, mib};
use crate::product::{Product, Setup};
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Away, Fault, Stub};
use clap::{Args, ValueEnum};
use std::time::{Duration, Instant};

const BEFORE: Duration = Duration::from_secs(3);
/// What the drain is to be of the live rate, the live load going on.
const DRAIN_RATE_LEAST: f64 = 3.0;
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    lines: Lines,
    /// How long Loki is away.
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "60s")]
    duration: Duration,
    /// What happens to connections meanwhile.
    #[arg(long, value_enum, default_value_t = How::Refusing)]
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// They are refused.
    Refusing,
    /// They are accepted, and nothing is answered.
    Silent,
    /// Every push is answered 503.
    Answering503,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    let workload = options.lines.workload()?;
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let setup = Setup::new(&bed.binary, dir.path(), &stub.url());
    let product = Product::start(&setup)?;
    let writer = Writer::start(load::Options::live(&workload, setup.logs(), u64::MAX))?;
    let mut timeline = Timeline::start(setup.data_dir());
    let bar = bed.progress("outage", (BEFORE + options.duration).as_secs());
    let pass = |time: Duration, timeline: &mut Timeline| -> Result<(), Error> {
        let until = timeline.elapsed() + time;
        while timeline.elapsed() < until {
            timeline.look(&product, &stub)?;
            bar.set_position(timeline.elapsed().as_secs());
            std::thread::sleep(Duration::from_millis(20).min(time));
        }
        Ok(())
    };
    pass(BEFORE.min(options.duration), &mut timeline)?;
    match options.how {
        How::Refusing => stub.go_away(Away::Refusing),
        How::Silent => stub.go_away(Away::Silent),
        How::Answering503 => stub.set_fault(Fault::answer(503, "overloaded\n")),
    }
    let cpu = product.usage()?.cpu;
    pass(options.duration, &mut timeline)?;
    bar.finish_and_clear();
    let outage_cpu =
        product.usage()?.cpu.saturating_sub(cpu).as_secs_f64() / options.duration.as_secs_f64();
    let (received, peak) = (stub.received_in_all(), product.usage()?.rss_peak_bytes);
    let behind = writer.lines().saturating_sub(received);
    let log_bytes = product.metric("log_capturer_wal_bytes")?;
    let (healed, written_before) = (Instant::now(), writer.lines());
    stub.watch_backlog();
    stub.heal();
    // Caught up: no more than half a second of lines is missing.
    while writer.lines().saturating_sub(stub.received_in_all()) > workload.rate / 2 {
        require(healed.elapsed() < LIMIT, || format!("it did not catch up\n{}", product.log()))?;
        timeline.look(&product, &stub)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let caught_up = healed.elapsed().as_secs_f64();
    let all_rate = (stub.received_in_all() - received) as f64 / caught_up;
    let live_rate = (writer.lines() - written_before) as f64 / caught_up;
    let written = writer.stop()?;
    let _ = stub.wait_for_lines(written.lines_in_all(), LIMIT);
    timeline.look(&product, &stub)?;
    let (usage, log) = (product.usage()?, product.log());
    product.stop(LIMIT)?;
    let verified = stub.verify(&written);
    require(verified.complete(), || format!("expected every line: {verified:?}\n{log}"))?;
    let disk = timeline.samples.iter().map(|sample| sample.disk_bytes).max().unwrap_or(0);
    // Of the lines that were there when Loki came back, from the first of them to the last.
    let backlog = stub.backlog();
    require(backlog.lines > 0, || format!("nothing was left to drain\n{log}"))?;
    let drain_rate = backlog.rate();
    let in_disorder = verified.out_of_order + verified.out_of_sequence;
    report.add(
        &format!("{} lines/s, {:?} for {:?}", workload.rate, options.how, options.duration),
        [
            Figure::plain("lines behind at its end", behind as f64, "lines"),
            Figure::less("CPU meanwhile", outage_cpu * 100.0, "% of a core"),
            Figure::less("log at its end", log_bytes / f64::from(1 << 20), "MiB"),
            Figure::less("disk at most", mib(disk), "MiB"),
            Figure::less("peak memory meanwhile", mib(peak), "MiB").target(Target::AtMost(100.0)),
            Figure::less("until it had caught up", caught_up, "s"),
            Figure::plain("lines written meanwhile", live_rate, "lines/s"),
            Figure::plain("lines received meanwhile", all_rate, "lines/s"),
            Figure::less("until the drain began", backlog.first.as_secs_f64(), "s"),
            Figure::less("until the backlog was here", backlog.last.as_secs_f64(), "s"),
            Figure::more("drain rate", drain_rate, "lines/s"),
            Figure::more("drain rate to live rate", drain_rate / workload.rate as f64, "x")
                .target(Target::AtLeast(DRAIN_RATE_LEAST)),
            Figure::less("lines out of order", in_disorder as f64, "lines")
                .target(Target::AtMost(0.0)),
            Figure::less("lines lost", verified.lost as f64, "lines").target(Target::AtMost(0.0)),
            Figure::less("lines sent again", verified.repeated as f64, "lines"),
            Figure::less("lines twice in a query", verified.repeated_visibly as f64, "lines"),
            Figure::less("peak memory in all", mib(usage.rss_peak_bytes), "MiB")
                .target(Target::AtMost(100.0)),
        ],
    );
    report.plots.extend(timeline.plots(""));
    Ok(())
}
