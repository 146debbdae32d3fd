//! The objective: 10,000 lines/s live, and how late each line is.

use super::{Bed, Error, Lines, require, require_exactly_once, time};
use crate::load::{self, Writer};
use crate::measure::{Stage, Timeline, latency_figures, mib, own_cpu};
use crate::product::{Product, Setup};
use crate::receiver::Receiver;
use crate::report::{Figure, Plot, Report, Scale, Series, Target, curve};
use crate::stub::{Accounting, Script};
use clap::Args;
use std::time::{Duration, Instant};

/// How long the last lines may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Of this program, at the objective's rate.
const HARNESS_CPU_PERCENT_MAX: f64 = 5.0;
/// What is promised at 10,000 lines/s by linger: p99 in ms, CPU in % of a core, peak memory in MiB.
const PROMISES: [(&str, f64, f64, f64); 2] = [("50ms", 75.0, 4.0, 40.0), ("0ms", 20.0, 8.0, 40.0)];

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    lines: Lines,
    /// How long lines are written.
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "60s")]
    duration: Duration,
    /// `linger` of the sink; repeat it to measure one after the other.
    #[arg(long, default_values = ["50ms", "0ms"])]
    linger: Vec<String>,
    /// The objective.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "500ms")]
    p99_max: Duration,
    /// What the stub does wrong: answer=STATUS, delay=TIME, reset, lost-answer, slow-body=TIME, masked,
    /// partial=ONE_OF, or another that bench/README.md lists, several at once with + between them,
    /// with :PUSHES for how often. Repeat it for one after the other.
    #[arg(long)]
    fault: Vec<Script>,
    /// A real Loki in place of the stub.
    #[arg(long, value_name = "URL", conflicts_with = "fault")]
    loki: Option<String>,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    let mut curves = Vec::new();
    for linger in &options.linger {
        curves.extend(once(options, linger, bed, report)?);
    }
    if !curves.is_empty() {
        let title = "latency by percentile, end to end".into();
        let (x, y, scale) = ("percentile".into(), "ms".into(), Scale::Percentile);
        report.plots.insert(0, Plot { title, x, y, scale, series: curves });
    }
    Ok(())
}

fn once(
    options: &Options,
    linger: &str,
    bed: &Bed,
    report: &mut Report,
) -> Result<Option<Series>, Error> {
    let workload = options.lines.workload()?;
    let dir = tempfile::tempdir()?;
    let accounting = bed.stub_options(Accounting::PerLine);
    let receiver = Receiver::start(options.loki.as_deref(), accounting)?;
    let mut setup = Setup::new(&bed.binary, dir.path(), &receiver.url());
    setup.file_keys = receiver.file_keys();
    setup.sink_keys = vec![format!("linger: {linger}")];
    let product = Product::start(&setup)?;
    if let Some(stub) = receiver.stub() {
        options.fault.iter().cloned().for_each(|script| stub.script(script));
    }
    let (before, own_before, start) = (product.usage()?, own_cpu(), Instant::now());
    let seconds = options.duration.as_secs_f64();
    let lines = crate::product::whole(workload.rate as f64 * seconds).max(1);
    let writer = Writer::start(load::Options::live(&workload, setup.logs(), lines))?;
    let mut timeline = Timeline::start(setup.data_dir());
    let bar = bed.progress(&format!("slo, linger {linger}"), lines);
    while !writer.finished() {
        if let Some(stub) = receiver.stub() {
            timeline.look(&product, stub)?;
        }
        bar.set_position(writer.lines());
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
    let written = writer.wait()?;
    let (usage, own) = (product.usage()?, own_cpu());
    let elapsed = start.elapsed().as_secs_f64();
    receiver.await_taken(&product, written.lines_in_all(), LIMIT)?;
    let (stages, log) = (Stage::of(&product)?, product.log());
    let status = product.stop(LIMIT)?;
    require(status.success(), || format!("the product's {status}\n{log}"))?;
    let verified = receiver.verify(&written)?;
    if options.fault.is_empty() {
        require_exactly_once(&verified, &log)?;
    } else {
        require(verified.complete(), || format!("expected every line: {verified:?}\n{log}"))?;
    }

    let group = format!("{} lines/s, linger {linger}", workload.rate);
    let achieved = written.lines_in_all() as f64 / written.elapsed.as_secs_f64();
    let cores = |cpu: Duration| cpu.as_secs_f64() / elapsed * 100.0;
    let mut figures = vec![
        Figure::more("rate", achieved, "lines/s")
            .target(Target::AtLeast(workload.rate as f64 * 0.99)),
    ];
    let objective_ms = options.p99_max.as_secs_f64() * 1e3;
    let promise = PROMISES.iter().find(|(of, ..)| *of == linger && workload.rate == 10_000);
    let p99_max =
        Target::AtMost(promise.map_or(objective_ms, |(_, p99, ..)| p99.min(objective_ms)));
    let end_to_end = match receiver.stub() {
        Some(stub) => latency_figures("end to end", &stub.latency()),
        None => {
            stages.iter().filter(|s| s.name == "source to ack").flat_map(Stage::figures).collect()
        }
    };
    figures.extend(
        end_to_end.into_iter().map(|figure| {
            if figure.name.ends_with(" p99") { figure.target(p99_max) } else { figure }
        }),
    );
    figures.extend(
        stages
            .iter()
            .flat_map(Stage::figures)
            .map(|figure| Figure { name: format!("stage {}", figure.name), ..figure }),
    );
    let mut cost = [
        Figure::less("CPU", cores(usage.cpu.saturating_sub(before.cpu)), "% of a core"),
        Figure::less("peak memory", mib(usage.rss_peak_bytes), "MiB"),
    ];
    if let Some((_, _, cpu, memory)) = promise {
        cost = cost.map(|figure| {
            let most = if figure.name == "CPU" { *cpu } else { *memory };
            figure.target(Target::AtMost(most))
        });
    }
    figures.extend(cost);
    figures.extend([Figure::less(
        "latest line written",
        written.late_max.as_secs_f64() * 1e3,
        "ms",
    )]);
    let mut harness =
        Figure::less("harness CPU", cores(own.saturating_sub(own_before)), "% of a core");
    if workload.rate == 10_000 {
        harness = harness.target(Target::AtMost(HARNESS_CPU_PERCENT_MAX));
    }
    figures.push(harness);
    report.add(&group, figures);
    let Some(stub) = receiver.stub() else { return Ok(None) };
    report.plots.extend(timeline.plots(&group));
    let latency = stub.latency();
    let series = Series::new(format!("linger {linger}"), curve(&latency));
    report.latencies.push((format!("linger {linger}"), latency));
    Ok(Some(series))
}
