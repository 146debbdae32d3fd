//! As fast as it goes: a backlog, every line durable before it is sent.

use super::{Bed, Error, median, require, require_same};
use crate::limit;
use crate::load::corpus::{self, Corpus};
use crate::load::{Pushes, Workload};
use crate::measure::{Timeline, mib};
use crate::product::{Product, Setup};
use crate::receiver::Receiver;
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Stub};
use clap::{Args, ValueEnum};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);
const CONNECTIONS: usize = 4;
/// Of a push that is sent by HTTP.
const PUSH_TEXT_BYTES: usize = 1 << 20;
/// What the stub must take at least, as a multiple of what the product sends.
const STUB_HEADROOM: f64 = 2.0;
/// What measuring may cost of the CPU.
const MEASURING_MAX: f64 = 2.0;
/// What is promised of one workload, in lines per CPU second.
const PROMISE: (&str, f64) = ("key-value", 2e6);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// A workload's name (`list` shows them) or the path of a TOML file; repeat it for several.
    #[arg(long, default_values = ["key-value", "service"])]
    workload: Vec<String>,
    /// Lines of the backlog, over all files; the workload's where it is not given.
    #[arg(long)]
    lines: Option<u64>,
    /// How often; the medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How the lines come to the product.
    #[arg(long, value_enum, default_value_t = Via::Files)]
    via: Via,
    /// A real Loki in place of the stub, once; rates are Loki's limits then.
    #[arg(long, value_name = "URL")]
    loki: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// Files that are there when it starts.
    Files,
    /// Push requests to its API, as fast as they are answered.
    Http,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    for name in &options.workload {
        let workload = Workload::named(name)?;
        let lines = options.lines.unwrap_or(workload.lines);
        require(lines > 0, || "expected --lines above 0".into())?;
        of_workload(options, &Workload { lines, ..workload }, bed, report)?;
    }
    Ok(())
}

fn of_workload(
    options: &Options,
    workload: &Workload,
    bed: &Bed,
    report: &mut Report,
) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let corpus = corpus::prepare(dir.path(), workload)?;
    let runs = if options.loki.is_some() { 1 } else { options.runs };
    let bar = bed.progress(&format!("saturate, {}", workload.name), u64::from(runs));
    let (mut rates, mut limits, mut walls, mut stubs) = (vec![], vec![], vec![], vec![]);
    let (mut peak, mut pushes) = (0, 1.0);
    let mut costs = Vec::new();
    let lines = corpus.written.lines_in_all() as f64;
    for run in 0..runs {
        let limit = limit::encode(&corpus.files)?;
        limits.push(limit.lines as f64 / limit.cpu.as_secs_f64());
        stubs.push(stub_capacity(&corpus, bed)?);
        let job = |measures: bool| {
            let setup = move |setup: &mut Setup| {
                if !measures {
                    setup.metrics_keys.push("latency: false".into());
                }
            };
            let job = Job { setup, via: options.via, loki: options.loki.as_deref() };
            once(&corpus, dir.path(), bed, &job)
        };
        // What the product measures of its latency costs something: beside one that does not, in turn.
        let (once, blind) = if run % 2 == 0 {
            let blind = job(false)?;
            (job(true)?, blind)
        } else {
            (job(true)?, job(false)?)
        };
        costs.push((once.cpu.as_secs_f64() / blind.cpu.as_secs_f64() - 1.0) * 100.0);
        rates.push(lines / once.cpu.as_secs_f64());
        walls.push(lines / once.wall.as_secs_f64());
        pushes = once.pushes;
        peak = peak.max(once.rss_peak_bytes);
        report.plots.retain(|plot| !plot.title.starts_with(&format!("{}:", workload.name)));
        report.plots.extend(once.timeline.plots(&workload.name));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (rate, limit, wall) = (median(&mut rates), median(&mut limits), median(&mut walls));
    let bytes_per_line = corpus.written.bytes as f64 / lines;
    let stub = median(&mut stubs);
    let mut all_in = Figure::more("lines per CPU second, all in", rate, "lines/s");
    if workload.name == PROMISE.0 && options.loki.is_none() {
        all_in = all_in.target(Target::AtLeast(PROMISE.1));
    }
    report.add(
        &workload.name,
        [
            all_in,
            Figure::less("CPU seconds per million lines", 1e6 / rate, "s"),
            Figure::more("best of the runs", rates[rates.len() - 1], "lines/s"),
            Figure::plain("encode limit", limit, "lines/s"),
            Figure::more("share of the encode limit", rate / limit * 100.0, "%"),
            Figure::more("lines per second of wall time", wall, "lines/s"),
            Figure::more("text per second of wall time", wall * bytes_per_line / 1e6, "MB/s"),
            Figure::plain("lines per push", lines / pushes, "lines"),
            Figure::plain("bytes per line", bytes_per_line, "B"),
            Figure::less("peak memory", mib(peak), "MiB").target(Target::AtMost(100.0)),
            Figure::less("CPU for measuring latency", median(&mut costs), "%")
                .target(Target::AtMost(MEASURING_MAX)),
            Figure::plain("stub alone, text per CPU second", stub * bytes_per_line / 1e6, "MB/s"),
            // Per second of its CPU to what comes in per second.
            Figure::plain("stub alone, as a multiple of the product", stub / wall, "x")
                .target(Target::AtLeast(STUB_HEADROOM)),
        ],
    );
    Ok(())
}

/// Lines that the stub takes per second of its thread's CPU, from pushes made before.
fn stub_capacity(corpus: &Corpus, bed: &Bed) -> Result<f64, Error> {
    let pushes = Pushes::prepare(corpus, PUSH_TEXT_BYTES)?;
    let stub = Stub::start(bed.stub_options(Accounting::Count))?;
    let sent = pushes.send(stub.addr(), 1)?;
    require(sent.answers.keys().all(|status| *status == 204), || {
        format!("the stub said {sent:?}")
    })?;
    require_same((corpus.sum()?, stub.stats().sum), "")?;
    Ok(pushes.lines as f64 / stub.cpu().as_secs_f64())
}

/// How a corpus is to be carried.
pub struct Job<'a, F: Fn(&mut Setup)> {
    /// What is set other than by default.
    pub setup: F,
    pub via: Via,
    pub loki: Option<&'a str>,
}

pub struct Once {
    pub pushes: f64,
    pub cpu: Duration,
    pub wall: Duration,
    pub rss_peak_bytes: u64,
    pub timeline: Timeline,
}

/// Carries the corpus under `files` once, all of the product on one core unless the job says otherwise.
pub fn once<F: Fn(&mut Setup)>(
    corpus: &Corpus,
    files: &Path,
    bed: &Bed,
    job: &Job<'_, F>,
) -> Result<Once, Error> {
    let dir = tempfile::tempdir()?;
    let receiver = Receiver::start(job.loki, bed.stub_options(Accounting::Count))?;
    let mut setup = Setup::new(&bed.binary, dir.path(), &receiver.url());
    setup.file_keys = receiver.file_keys();
    if job.via == Via::Files {
        setup.include = vec![format!("{}/*.log", files.display())];
    }
    // One core for the whole product; the stub has the others.
    setup.cpus = vec![0];
    (job.setup)(&mut setup);
    let pushes = match job.via {
        Via::Files => None,
        Via::Http => Some(Pushes::prepare(corpus, PUSH_TEXT_BYTES)?),
    };
    let lines = corpus.written.lines_in_all();
    let start = Instant::now();
    let product = Product::start(&setup)?;
    let mut timeline = Timeline::start(setup.data_dir());
    if let Some(pushes) = &pushes {
        let sent = pushes.send(product.api, CONNECTIONS)?;
        require(sent.refusal.is_none(), || {
            format!("the product refused pushes by HTTP at {}: {sent:?}", product.api)
        })?;
    }
    while receiver.taken(&product)? < lines && start.elapsed() < LIMIT {
        if let Some(stub) = receiver.stub() {
            timeline.look(&product, stub)?;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (wall, log) = (start.elapsed(), product.log());
    let usage = product.usage()?;
    let pushes = product.metric(r#"log_capturer_pushes_total{verdict="accepted"}"#)?;
    product.stop(LIMIT)?;
    require_same(receiver.sums(corpus)?, &log)?;
    Ok(Once { pushes, cpu: usage.cpu, wall, rss_peak_bytes: usage.rss_peak_bytes, timeline })
}
