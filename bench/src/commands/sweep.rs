//! How the cost grows: one thing is changed, all else stays.

use super::saturate::{Job, Via, once};
use super::{Bed, Error, require_exactly_once};
use crate::limit;
use crate::load::{self, Rotation, Workload, Writer, corpus};
use crate::measure::{latency_figures, mib};
use crate::product::{Product, Setup};
use crate::report::{Figure, Plot, Report, Scale, Series};
use crate::stub::{Accounting, Stub};
use clap::{Args, ValueEnum};
use std::fmt::Write;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const RATE: u64 = 10_000;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What is changed; repeat it for several. All where it is not given.
    #[arg(long, value_enum)]
    over: Vec<Over>,
    /// The values to take, in place of those that come with each: shards and files counts, bytes, or
    /// microseconds of the commit interval.
    #[arg(long, value_delimiter = ',')]
    values: Vec<u64>,
    /// Lines of each backlog.
    #[arg(long, default_value_t = 1_000_000)]
    lines: u64,
    /// How long each commit interval is measured live.
    #[arg(long = "for", value_name = "TIME", value_parser = super::time, default_value = "15s")]
    duration: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// Shards, over-committed where there are fewer CPUs; the product may use all of them.
    Shards,
    /// Files that are there; four hold the backlog, the others a line each.
    Files,
    /// Streams: the backlog is spread over as many files, each a stream of its own.
    Streams,
    /// Bytes of a line; the text stays as long in all.
    LineBytes,
    /// The least time between two commits, live at 10,000 lines/s with linger 0.
    CommitInterval,
}

impl Over {
    const ALL: [Over; 5] =
        [Over::Shards, Over::Files, Over::Streams, Over::LineBytes, Over::CommitInterval];

    fn name(self) -> &'static str {
        match self {
            Over::Shards => "shards",
            Over::Files => "files",
            Over::Streams => "streams",
            Over::LineBytes => "bytes per line",
            Over::CommitInterval => "commit interval, us",
        }
    }

    fn values(self) -> &'static [u64] {
        match self {
            Over::Shards => &[1, 2, 4, 8],
            Over::Files => &[4, 100, 1_000, 10_000],
            Over::Streams => &[1, 4, 16, 64, 256, 1_000],
            Over::LineBytes => &[100, 200, 500, 1_000, 4_000, 16_000],
            Over::CommitInterval => &[500, 2_000, 10_000, 50_000],
        }
    }
}

struct Point {
    value: u64,
    figures: Vec<Figure>,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    let overs = if options.over.is_empty() { &Over::ALL[..] } else { &options.over };
    for over in overs {
        let values = if options.values.is_empty() { over.values() } else { &options.values };
        let bar = bed.progress(&format!("sweep over {}", over.name()), values.len() as u64);
        let mut points = Vec::new();
        for value in values {
            let figures = match over {
                Over::CommitInterval => live(*value, options, bed)?,
                _ => backlog(*over, *value, options, bed)?,
            };
            points.push(Point { value: *value, figures });
            bar.inc(1);
        }
        bar.finish_and_clear();
        // What is plotted: the first figure of each point.
        let first = &points[0].figures[0];
        report.plots.push(Plot {
            title: format!("{} by {}", first.name, over.name()),
            x: over.name().into(),
            y: first.unit.clone(),
            scale: Scale::Log,
            series: vec![Series::new(
                "",
                points.iter().map(|p| (p.value as f64, p.figures[0].value)).collect(),
            )],
        });
        for point in points {
            report.add(&format!("{} {}", over.name(), point.value), point.figures);
        }
    }
    Ok(())
}

fn backlog(over: Over, value: u64, options: &Options, bed: &Bed) -> Result<Vec<Figure>, Error> {
    let dir = tempfile::tempdir()?;
    let mut workload = Workload { lines: options.lines, ..Workload::service() };
    match over {
        Over::Streams => workload.files = u32::try_from(value).unwrap_or(u32::MAX).max(1),
        Over::LineBytes => {
            workload = of_length(value, &workload)?;
            workload.lines = (options.lines * 190 / value.max(1)).max(1);
        }
        Over::Shards | Over::Files | Over::CommitInterval => {}
    }
    let mut corpus = corpus::prepare(dir.path(), &workload)?;
    if over == Over::Files {
        // Each of the others is a writer of its own.
        let more = Workload { files: 1, lines: 1, ..workload.clone() };
        for file in 4..value {
            let path = dir.path().join(format!("idle-{file}.log"));
            let mut line = Vec::new();
            let writer = u32::try_from(file).unwrap_or(u32::MAX);
            load::Lines::new(&more.text, more.seed, writer).next(corpus::START_NS, &mut line);
            std::fs::write(&path, &line)?;
            corpus.written.lines.push(1);
            corpus.written.bytes += line.len() as u64;
            corpus.files.push(path);
        }
    }
    let limit = limit::encode(&corpus.files)?;
    let set_up = |setup: &mut Setup| {
        if over == Over::Shards {
            setup.cpus = Vec::new();
            setup.cores = format!("{{ shards: {value} }}");
        }
    };
    let once = once(&corpus, dir.path(), bed, &Job { setup: set_up, via: Via::Files, loki: None })?;
    let lines = corpus.written.lines_in_all() as f64;
    let rate = lines / once.cpu.as_secs_f64();
    let limit = limit.lines as f64 / limit.cpu.as_secs_f64();
    Ok(vec![
        Figure::less("CPU seconds per million lines", 1e6 / rate, "s"),
        Figure::more("share of the encode limit", rate / limit * 100.0, "%"),
        Figure::more("lines per second of wall time", lines / once.wall.as_secs_f64(), "lines/s"),
        Figure::less("peak memory", mib(once.rss_peak_bytes), "MiB"),
    ])
}

/// Lines of about so many bytes.
fn of_length(bytes: u64, like: &Workload) -> Result<Workload, Error> {
    // The time and the mark around it.
    let pad = bytes.saturating_sub(84).max(1);
    let mut text = String::from("about = 'lines of one length'\n[[record]]\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "lines = ['${{rfc3339}} ${{pad:{pad}}} ${{mark}}']");
    let workload = Workload::read("line length", &text)?;
    Ok(Workload { files: like.files, seed: like.seed, ..workload })
}

fn live(interval_us: u64, options: &Options, bed: &Bed) -> Result<Vec<Figure>, Error> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let mut setup = Setup::new(&bed.binary, dir.path(), &stub.url());
    setup.sink_keys = vec!["linger: 0ms".into()];
    setup.wal = format!("{{ commit_interval: {interval_us}us }}");
    let product = Product::start(&setup)?;
    let (before, start) = (product.usage()?, Instant::now());
    let workload = Workload { rate: RATE, rotation: Rotation::Never, ..Workload::service() };
    let lines = RATE * options.duration.as_secs().max(1);
    let written = Writer::start(load::Options::live(&workload, setup.logs(), lines))?.wait()?;
    let (usage, elapsed) = (product.usage()?, start.elapsed());
    let _ = stub.wait_for_lines(written.lines_in_all(), LIMIT);
    let log = product.log();
    product.stop(LIMIT)?;
    require_exactly_once(&stub.verify(&written), &log)?;
    let cpu = usage.cpu.saturating_sub(before.cpu).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    let mut figures = vec![Figure::less("CPU", cpu, "% of a core")];
    figures.extend(latency_figures("end to end", &stub.latency()));
    Ok(figures)
}
