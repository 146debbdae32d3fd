//! One line a request, on an open-loop schedule: how late each is answered, counted from when it was
//! due.

use super::super::{Bed, Error as RunError};
use super::{ANSWER_LIMIT, Commits, Cpus, LIMIT, Options, Posts, require_answered, setup, stop};
use crate::load::{self, Client, Workload};
use crate::measure::{mib, now_ns, own_cpu};
use crate::product::{Product, whole};
use crate::report::{Figure, Plot, Report, Scale, Series, Target, curve};
use crate::stub::{Accounting, Stub};
use hdrhistogram::Histogram;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const P99_MAX_MS: f64 = 10.0;
/// The first requests come this much later than their connections.
const START: Duration = Duration::from_millis(50);
/// A minute: what takes longer counts as one.
const LATENCY_US_MAX: u64 = 60_000_000;

/// The times at which requests are due, taken in turn by all connections.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    start_ns: i64,
    rate: u64,
    requests: u64,
    connections: u32,
}

/// What one connection, or all, came to.
struct Sent {
    lines: Vec<u64>,
    /// Microseconds from when a request was due to its answer.
    latency: Histogram<u64>,
    /// The most that a request was sent after it was due.
    late_max: Duration,
}

pub fn run(options: &Options, cpus: &Cpus, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let product = Product::start(&setup(bed, &dir, &stub, cpus))?;
    let (before, own_before) = (product.usage()?, own_cpu());
    let bar = bed.progress("rate", 1);
    let schedule = Schedule {
        start: Instant::now() + START,
        start_ns: now_ns() + i64::try_from(START.as_nanos()).expect("a moment"),
        rate: options.rate,
        requests: whole(options.rate as f64 * options.duration.as_secs_f64()).max(1),
        connections: options.connections,
    };
    let sent = send(schedule, product.api)?;
    let elapsed = schedule.start.elapsed().as_secs_f64();
    let (after, own) = (product.usage()?, own_cpu());
    bar.finish_and_clear();
    let _ = stub.wait_for_lines(schedule.requests, LIMIT);
    let commits = Commits::of(&product)?;
    let log = stop(product)?;
    require_answered(&stub, sent.lines, &log)?;

    let cores = |cpu: Duration| cpu.as_secs_f64() / elapsed * 100.0;
    let quantile = |latency: &Histogram<u64>, quantile| {
        latency.value_at_quantile(quantile) as f64 / 1e3 // ms
    };
    let (answer, end_to_end) = (&sent.latency, stub.latency());
    let achieved = schedule.requests as f64 / elapsed;
    report.add(
        &format!("{} one-line posts/s", options.rate),
        [
            Figure::more("rate", achieved, "requests/s")
                .target(Target::AtLeast(options.rate as f64 * 0.99)),
            Figure::less("answered p50", quantile(answer, 0.5), "ms"),
            Figure::less("answered p99", quantile(answer, 0.99), "ms")
                .target(Target::AtMost(P99_MAX_MS)),
            Figure::less("answered p99.9", quantile(answer, 0.999), "ms"),
            Figure::less("answered max", quantile(answer, 1.0), "ms"),
            Figure::less("stage wal commit p50", commits.ms(0.5), "ms"),
            Figure::less("stage wal commit p99", commits.ms(0.99), "ms"),
            Figure::less("stage wal commit max", commits.ms(1.0), "ms"),
            Figure::less("at the stub p50", quantile(&end_to_end, 0.5), "ms"),
            Figure::less("at the stub p99", quantile(&end_to_end, 0.99), "ms"),
            Figure::less("CPU", cores(after.cpu.saturating_sub(before.cpu)), "% of a core"),
            Figure::less("peak memory", mib(after.rss_peak_bytes), "MiB"),
            Figure::less("latest request sent", sent.late_max.as_secs_f64() * 1e3, "ms"),
            Figure::plain("harness CPU", cores(own.saturating_sub(own_before)), "% of a core"),
        ],
    );
    report.plots.push(Plot {
        title: "latency by percentile, one-line posts".into(),
        x: "percentile".into(),
        y: "ms".into(),
        scale: Scale::Percentile,
        series: vec![
            Series::new("answered", curve(answer)),
            Series::new("at the stub", curve(&end_to_end)),
        ],
    });
    report.latencies.push(("http answered".into(), sent.latency));
    Ok(())
}

fn send(schedule: Schedule, addr: SocketAddr) -> Result<Sent, RunError> {
    let workload = Workload::service();
    let workload = &workload;
    let all: Vec<Result<Sent, RunError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..schedule.connections)
            .map(|number| scope.spawn(move || connection(schedule, number, workload, addr)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(load::Error::Panicked.into())))
            .collect()
    });
    let mut sent = Sent::default();
    for one in all {
        let one = one?;
        sent.lines.extend(one.lines);
        sent.latency.add(&one.latency).expect("their ranges are the same");
        sent.late_max = sent.late_max.max(one.late_max);
    }
    Ok(sent)
}

/// Its share of the requests, one at a time; one that has to wait keeps its time.
fn connection(
    schedule: Schedule,
    number: u32,
    workload: &Workload,
    addr: SocketAddr,
) -> Result<Sent, RunError> {
    let mut client = Client::connect(addr, ANSWER_LIMIT).map_err(load::Error::client(addr))?;
    let mut posts = Posts::new(workload, number);
    let mut sent = Sent::default();
    for request in (u64::from(number)..schedule.requests).step_by(schedule.connections as usize) {
        let due = Duration::from_secs_f64(request as f64 / schedule.rate as f64);
        let (at, due_ns) = (schedule.start + due, i64::try_from(due.as_nanos()).expect("a run"));
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        sent.late_max = sent.late_max.max(at.elapsed());
        posts.post(addr, &mut client, schedule.start_ns + due_ns)?;
        sent.latency.saturating_record(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    sent.lines = vec![posts.made()];
    Ok(sent)
}

impl Default for Sent {
    fn default() -> Sent {
        let latency = Histogram::new_with_max(LATENCY_US_MAX, 3)
            .expect("a minute in microseconds at three digits is in range");
        Sent { lines: Vec::new(), latency, late_max: Duration::ZERO }
    }
}
