//! As fast as it goes: a backlog of files, every line durable before it is sent.

use super::{Error, require};
use crate::demo::mib;
use crate::limit;
use crate::load::corpus::{self, Text};
use crate::product::{Product, Setup};
use crate::record::{Figure, Target};
use crate::stub::{Accounting, Options, Stub};
use std::path::Path;
use std::time::{Duration, Instant};

const LINES: u64 = 2_000_000;
const FILES: u32 = 4;
const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

pub fn run(binary: &Path) -> Result<Vec<Figure>, Error> {
    let least = Target::AtLeast(2e6);
    let mut figures = of_text(binary, "key-value lines", Text::Plain, Some(least))?;
    // Random ids and checksums compress badly: most of the work is snappy's then.
    figures.extend(of_text(binary, "lines with random ids", Text::Marked, None)?);
    Ok(figures)
}

fn of_text(
    binary: &Path,
    name: &str,
    text: Text,
    target: Option<Target>,
) -> Result<Vec<Figure>, Error> {
    let dir = tempfile::tempdir()?;
    let corpus_dir = dir.path().join("corpus");
    std::fs::create_dir(&corpus_dir)?;
    let corpus = corpus::prepare_text(&corpus_dir, LINES, FILES, 1, text)?;
    let mut rates = Vec::new();
    let mut limits = Vec::new();
    let mut walls = Vec::new();
    let mut peak = 0;
    let mut pushes = 1.0;
    for _ in 0..RUNS {
        let limit = limit::encode(&corpus.files)?;
        limits.push(limit.lines as f64 / limit.cpu.as_secs_f64());
        let once = once(binary, &corpus_dir)?;
        rates.push(LINES as f64 / once.cpu.as_secs_f64());
        walls.push(LINES as f64 / once.wall.as_secs_f64());
        pushes = once.pushes;
        peak = peak.max(once.rss_peak_bytes);
    }
    let (rate, limit) = (median(&mut rates), median(&mut limits));
    let figure = |what: &str, value, unit| Figure::new(format!("{name}: {what}"), value, unit);
    let mut all_in = figure("lines per CPU second, all in", rate, "lines/s");
    all_in.target = target;
    Ok(vec![
        all_in,
        figure("best of the runs", rates[rates.len() - 1], "lines/s"),
        figure("encode limit", limit, "lines/s"),
        figure("share of the encode limit", rate / limit * 100.0, "%"),
        figure("lines per second of wall time", median(&mut walls), "lines/s"),
        figure("lines per push", LINES as f64 / pushes, "lines"),
        figure("bytes per line", corpus.written.bytes as f64 / LINES as f64, "B"),
        figure("peak memory", mib(peak), "MiB").target(Target::AtMost(100.0)),
    ])
}

struct Once {
    pushes: f64,
    cpu: Duration,
    wall: Duration,
    rss_peak_bytes: u64,
}

fn once(binary: &Path, corpus: &Path) -> Result<Once, Error> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(Options::new(Accounting::Count))?;
    let mut setup = Setup::new(binary, dir.path(), &stub.url());
    setup.include = vec![format!("{}/*.log", corpus.display())];
    // One core for the whole product; the stub has the others.
    setup.cpus = vec![0];
    let start = Instant::now();
    let product = Product::start(&setup)?;
    let all = stub.wait_until(LIMIT, |stats| stats.entries >= LINES);
    let wall = start.elapsed();
    require(all, || format!("only {} lines arrived\n{}", stub.entries_taken(), product.log()))?;
    let usage = product.usage()?;
    let pushes = product.metric("log_capturer_pushes_accepted_total")?;
    product.stop(LIMIT)?;
    let entries = stub.entries_taken();
    require(entries == LINES, || format!("expected {LINES} lines, found {entries}"))?;
    Ok(Once { pushes, cpu: usage.cpu, wall, rss_peak_bytes: usage.rss_peak_bytes })
}

/// Sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
