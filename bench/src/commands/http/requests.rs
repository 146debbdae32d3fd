//! One line a request, as fast as they are answered: the product wholly on one CPU, and nginx in turn.

use super::super::{Bed, Error as RunError, median, require};
use super::nginx::Nginx;
use super::wrk::{Body, Load, Wrk};
use super::{Commits, Cpus, LIMIT, LOGS, Options, PUSH, json_of, setup, stop};
use crate::load::{LineSum, Lines, Workload};
use crate::measure::{mib, now_ns};
use crate::product::Product;
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Stub};
use std::net::SocketAddr;
use std::time::Duration;

/// Of nginx' requests per second; what is aimed at is 0.7.
const RATIO_MIN: f64 = 0.5;
/// In % of its CPU: below, somebody else was the limit, and its requests per second say nothing.
const NGINX_BUSY_MIN: f64 = 80.0;

/// A run of either.
struct Run {
    load: Load,
    cpu: Duration,
    rss_peak_bytes: u64,
    /// The median, of the product.
    commit_ms: f64,
}

impl Run {
    fn rate(&self) -> f64 {
        self.load.answered as f64 / self.load.elapsed.as_secs_f64()
    }
}

/// Where the requests go, and what they are.
struct Kind {
    path: &'static str,
    body: Body,
    line: String,
}

pub fn run(options: &Options, cpus: &Cpus, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    Nginx::program()?;
    let line = line();
    let mut body = Vec::new();
    json_of(&line, &mut body);
    let text = serde_json::to_string(&line).expect("a text");
    let before = "{\"streams\": [{\"stream\": {\"job\": \"bench\"}, \"values\": [[\"".to_owned();
    let kinds = [
        (LOGS, Body::Fixed(String::from_utf8_lossy(&body).into_owned())),
        (PUSH, Body::Stamped(before, format!("\", {text}]]}}]}}"))),
    ];
    for (path, body) in kinds {
        pairs(&Kind { path, body, line: line.clone() }, options, cpus, bed, report)?;
    }
    Ok(())
}

/// As a service logs them.
fn line() -> String {
    let workload = Workload::service();
    let mut line = Vec::new();
    Lines::new(&workload.text, workload.seed, 0).next(now_ns(), &mut line);
    String::from_utf8_lossy(line.trim_ascii_end()).into_owned()
}

fn pairs(
    kind: &Kind,
    options: &Options,
    cpus: &Cpus,
    bed: &Bed,
    report: &mut Report,
) -> Result<(), RunError> {
    let dir = tempfile::tempdir()?;
    let wrk = Wrk::new(dir.path(), &kind.body, cpus, options.connections, options.duration)?;
    let bar = bed.progress(&format!("requests, {}", kind.path), 2 * u64::from(options.runs));
    let (mut products, mut nginxes) = (Vec::new(), Vec::new());
    for run in 0..options.runs {
        // Neither is always the first.
        for of_product in [run % 2 == 0, run % 2 == 1] {
            if of_product {
                products.push(product(kind, &wrk, options, cpus, bed)?);
            } else {
                nginxes.push(nginx(kind, &wrk, cpus)?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let middle = |runs: &[Run], value: &dyn Fn(&Run) -> f64| {
        median(&mut runs.iter().map(value).collect::<Vec<f64>>())
    };
    let cost = |run: &Run| run.cpu.as_secs_f64() / run.load.answered as f64 * 1e6;
    let mut ratios: Vec<f64> =
        products.iter().zip(&nginxes).map(|(own, nginx)| own.rate() / nginx.rate()).collect();
    let mut cpu_ratios: Vec<f64> =
        products.iter().zip(&nginxes).map(|(own, nginx)| cost(nginx) / cost(own)).collect();
    let busy = |run: &Run| run.cpu.as_secs_f64() / run.load.elapsed.as_secs_f64() * 100.0;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let sender = |run: &Run| {
        let cpus = cpus.others.len() as f64;
        run.load.cpu.as_secs_f64() / run.load.elapsed.as_secs_f64() / cpus * 100.0
    };
    let peak = products.iter().map(|run| run.rss_peak_bytes).max().unwrap_or(0);
    report.add(
        &format!("one-line posts to {}", kind.path),
        [
            Figure::more("requests per second", middle(&products, &Run::rate), "requests/s"),
            Figure::plain("nginx: requests per second", middle(&nginxes, &Run::rate), "requests/s"),
            Figure::more("as a share of nginx'", median(&mut ratios), "x")
                .target(Target::AtLeast(RATIO_MIN)),
            Figure::more("per CPU second, as a share of nginx'", median(&mut cpu_ratios), "x"),
            Figure::less("p50", middle(&products, &|run| ms(run.load.p50)), "ms"),
            Figure::less("p99", middle(&products, &|run| ms(run.load.p99)), "ms"),
            Figure::less("stage wal commit p50", middle(&products, &|run| run.commit_ms), "ms"),
            Figure::plain("nginx: p99", middle(&nginxes, &|run| ms(run.load.p99)), "ms"),
            Figure::less("CPU seconds per million requests", middle(&products, &cost), "s"),
            Figure::plain("nginx: CPU seconds per million requests", middle(&nginxes, &cost), "s"),
            Figure::plain("share of its CPU", middle(&products, &busy), "%"),
            Figure::plain("nginx: share of its CPU", middle(&nginxes, &busy), "%")
                .target(Target::AtLeast(NGINX_BUSY_MIN)),
            Figure::less("peak memory", mib(peak), "MiB"),
            Figure::plain("wrk's share of its CPUs", middle(&products, &sender), "%"),
            Figure::plain("nginx: wrk's share of its CPUs", middle(&nginxes, &sender), "%"),
        ],
    );
    Ok(())
}

fn product(
    kind: &Kind,
    wrk: &Wrk,
    options: &Options,
    cpus: &Cpus,
    bed: &Bed,
) -> Result<Run, RunError> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::Count))?;
    let mut setup = setup(bed, &dir, &stub, cpus);
    setup.cpus = vec![cpus.first];
    let product = Product::start(&setup)?;
    let before = product.usage()?;
    let load = loaded("the product", wrk, product.api, kind.path)?;
    let _ = stub.wait_until(LIMIT, |stats| stats.entries >= load.answered);
    let (after, commits) = (product.usage()?, Commits::of(&product)?);
    let log = stop(product)?;
    // All lines are the same: so many of it.
    let sum = stub.stats().sum;
    let mut expected = LineSum::default();
    (0..sum.lines).for_each(|_| expected.add(kind.line.as_bytes()));
    super::super::require_same((expected, sum), &log)?;
    // Those that wrk did not wait for may have been taken as well.
    let most = load.answered + u64::from(options.connections);
    require((load.answered..=most).contains(&sum.lines), || {
        format!("{} requests were answered and {} lines arrived\n{log}", load.answered, sum.lines)
    })?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    let rss_peak_bytes = after.rss_peak_bytes;
    Ok(Run { load, cpu, rss_peak_bytes, commit_ms: commits.ms(0.5) })
}

fn nginx(kind: &Kind, wrk: &Wrk, cpus: &Cpus) -> Result<Run, RunError> {
    let dir = tempfile::tempdir()?;
    let nginx = Nginx::start(dir.path(), cpus.first)?;
    let before = nginx.usage()?;
    let load = loaded("nginx", wrk, nginx.addr, kind.path)?;
    let after = nginx.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    Ok(Run { load, cpu, rss_peak_bytes: after.rss_peak_bytes, commit_ms: 0.0 })
}

/// Nothing may have been refused, or there is nothing to compare.
fn loaded(who: &str, wrk: &Wrk, addr: SocketAddr, path: &str) -> Result<Load, RunError> {
    let load = wrk.run(addr, path)?;
    require(load.answered > 0 && load.refused == 0 && load.broken == 0, || {
        format!("{who} did not answer all of wrk's requests with success: {load:?}")
    })?;
    Ok(load)
}
