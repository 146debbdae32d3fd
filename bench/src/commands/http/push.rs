//! Loki's pushes of 100 kB, which the product passes on as they came, as fast as they are answered.

use super::super::{Bed, Error as RunError, median, require, require_same};
use super::{Cpus, LIMIT, Options, setup, stop};
use crate::load::corpus::{self, Corpus};
use crate::load::{Pushes, Workload};
use crate::measure::{mib, own_cpu};
use crate::product::{Product, Usage};
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Stub};
use std::time::Duration;

const PUSH_TEXT_BYTES: usize = 100_000;
/// What the names of its threads begin with: a number follows.
const SHARD: &str = "shard-0-";
/// Of text, per CPU second of the shard.
const SHARD_MB_MIN: f64 = 400.0;

struct Run {
    /// From the first push to the last answer.
    wall: Duration,
    /// Until all had arrived.
    shard: Duration,
    usage: Usage,
    own: Duration,
}

pub fn run(options: &Options, cpus: &Cpus, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    let workload = Workload::named(&options.workload)?;
    let lines = options.lines.unwrap_or(workload.lines);
    let dir = tempfile::tempdir()?;
    let corpus = corpus::prepare(dir.path(), &Workload { lines, ..workload })?;
    let pushes = Pushes::prepare(&corpus, PUSH_TEXT_BYTES)?;
    let bar = bed.progress("push", options.runs.into());
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        runs.push(once(&corpus, &pushes, options, cpus, bed)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let text_mb = pushes.text_bytes as f64 / 1e6;
    let middle =
        |value: &dyn Fn(&Run) -> f64| median(&mut runs.iter().map(value).collect::<Vec<f64>>());
    let peak = runs.iter().map(|run| run.usage.rss_peak_bytes).max().unwrap_or(0);
    report.add(
        &format!("pushes of 100 kB, {}", options.workload),
        [
            Figure::more(
                "text per second of wall time",
                middle(&|run| text_mb / run.wall.as_secs_f64()),
                "MB/s",
            ),
            Figure::more(
                "text per CPU second of the shard",
                middle(&|run| text_mb / run.shard.as_secs_f64()),
                "MB/s",
            )
            .target(Target::AtLeast(SHARD_MB_MIN)),
            Figure::more(
                "text per CPU second, all in",
                middle(&|run| text_mb / run.usage.cpu.as_secs_f64()),
                "MB/s",
            ),
            Figure::more(
                "pushes per second",
                middle(&|run| pushes.count() as f64 / run.wall.as_secs_f64()),
                "pushes/s",
            ),
            Figure::plain(
                "text per push",
                pushes.text_bytes as f64 / pushes.count() as f64 / 1e3,
                "kB",
            ),
            Figure::plain(
                "sent per push",
                pushes.bytes() as f64 / pushes.count() as f64 / 1e3,
                "kB",
            ),
            Figure::less("peak memory", mib(peak), "MiB").target(Target::AtMost(100.0)),
            Figure::plain(
                "harness CPU per GB of text",
                middle(&|run| run.own.as_secs_f64() / text_mb * 1e3),
                "s",
            ),
        ],
    );
    Ok(())
}

fn once(
    corpus: &Corpus,
    pushes: &Pushes,
    options: &Options,
    cpus: &Cpus,
    bed: &Bed,
) -> Result<Run, RunError> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::Count))?;
    let mut setup = setup(bed, &dir, &stub, cpus);
    let egress = cpus.others.last().copied().unwrap_or(cpus.first);
    setup.cores = format!("{{ shards: [{}], egress: {egress} }}", cpus.first);
    let product = Product::start(&setup)?;
    let (before, shard_before) = (product.usage()?, product.thread_cpu(SHARD)?);
    let own_before = own_cpu();
    let sent = pushes.send(product.api, options.push_connections as usize)?;
    require(sent.refusal.is_none(), || format!("the product refused pushes: {sent:?}"))?;
    let _ = stub.wait_until(LIMIT, |stats| stats.entries >= pushes.lines);
    let (after, shard) = (product.usage()?, product.thread_cpu(SHARD)?);
    let own = own_cpu().saturating_sub(own_before);
    let log = stop(product)?;
    require_same((corpus.sum()?, stub.stats().sum), &log)?;
    let shard = shard.saturating_sub(shard_before);
    require(shard > Duration::ZERO, || format!("no thread is named {SHARD}N"))?;
    let usage = Usage { cpu: after.cpu.saturating_sub(before.cpu), ..after };
    Ok(Run { wall: sent.elapsed, shard, usage, own })
}
