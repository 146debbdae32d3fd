//! Hours of what happens on a host: rotations, a sink that is slow, refuses or resets, restarts.

use super::{Bed, Error, Lines, require, time};
use crate::load::{self, Writer};
use crate::measure::{Timeline, latency_figures, mib};
use crate::product::{Product, Setup};
use crate::report::{Figure, Report, Target};
use crate::stub::{Accounting, Fault, Stub};
use clap::Args;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// After a start, memory is still growing into its work.
const WARM_UP: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    lines: Lines,
    /// How long in all.
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "4h")]
    duration: Duration,
    /// How often the sink has a fault for some seconds.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1m")]
    fault_every: Duration,
    /// How often the product is restarted: by kill -9 and by SIGTERM in turn.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10m")]
    restart_every: Duration,
    /// Chooses the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Default)]
struct Counts {
    faults: u64,
    terms: u64,
    kills: u64,
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), Error> {
    let workload = options.lines.workload()?;
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let setup = Setup::new(&bed.binary, dir.path(), &stub.url());
    let mut product = Product::start(&setup)?;
    let writer = Writer::start(load::Options::live(&workload, setup.logs(), u64::MAX))?;
    let mut timeline = Timeline::start(setup.data_dir());
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut counts = Counts::default();
    // When each run of the product began.
    let mut lives = vec![Duration::ZERO];
    let (mut next_fault, mut next_restart) = (options.fault_every, options.restart_every);
    let bar = bed.progress("soak", options.duration.as_secs());
    while timeline.elapsed() < options.duration {
        let now = timeline.elapsed();
        if now >= next_fault {
            let (fault, pushes) = fault(&mut rng);
            stub.script_fault(fault, pushes);
            counts.faults += 1;
            next_fault = now + options.fault_every;
        }
        if now >= next_restart {
            if lives.len() % 2 == 1 {
                product.kill();
                counts.kills += 1;
            } else {
                // It may take as long as the drain, while the sink has a fault.
                let status = product.stop(LIMIT)?;
                require(status.success(), || format!("after SIGTERM: {status}"))?;
                counts.terms += 1;
            }
            product = Product::start(&setup)?;
            lives.push(timeline.elapsed());
            next_restart = timeline.elapsed() + options.restart_every;
        }
        timeline.look(&product, &stub)?;
        bar.set_position(now.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
    stub.heal();
    let written = writer.stop()?;
    let _ = stub.wait_for_lines(written.lines_in_all(), LIMIT);
    let (usage, log) = (product.usage()?, product.log());
    let status = product.stop(LIMIT)?;
    require(status.success(), || format!("after SIGTERM: {status}\n{log}"))?;
    let verified = stub.verify(&written);
    require(verified.complete(), || format!("expected every line: {verified:?}\n{log}"))?;

    let descriptors = timeline.samples.iter().map(|s| s.usage.descriptors).max().unwrap_or(0);
    let peak = timeline.samples.iter().map(|s| s.usage.rss_bytes).max().unwrap_or(0);
    let group = format!("{} lines/s for {:?}", workload.rate, options.duration);
    let mut figures = vec![
        Figure::plain("lines written", written.lines_in_all() as f64, "lines"),
        Figure::less("lines lost", verified.lost as f64, "lines").target(Target::AtMost(0.0)),
        Figure::less("lines sent again", verified.repeated as f64, "lines"),
        Figure::less("lines twice in a query", verified.repeated_visibly as f64, "lines"),
        Figure::plain("rotations", written.rotations as f64, ""),
        Figure::plain("faults of the sink", counts.faults as f64, ""),
        Figure::plain("restarts by SIGTERM", counts.terms as f64, ""),
        Figure::plain("restarts by kill -9", counts.kills as f64, ""),
        Figure::less("memory at most", mib(peak), "MiB"),
        Figure::less("descriptors at most", descriptors as f64, "open"),
        Figure::less("descriptors at the end", usage.descriptors as f64, "open"),
    ];
    match slope(&timeline, &lives) {
        Some(slope) => figures.push(Figure::less("memory slope", slope, "MiB/h")),
        None => eprintln!("no memory slope: no run of the product was longer than {WARM_UP:?}"),
    }
    figures.extend(latency_figures("end to end", &stub.latency()));
    report.add(&group, figures);
    report.plots.extend(timeline.plots(""));
    Ok(())
}

fn fault(rng: &mut fastrand::Rng) -> (Fault, u64) {
    let pushes = rng.u64(1..20);
    let fault = match rng.u8(0..6) {
        0 => Fault::Delay(Duration::from_millis(rng.u64(50..2_000))),
        1 => Fault::answer(429, "too many requests\n"),
        2 => Fault::answer(503, "overloaded\n"),
        3 => Fault::Reset,
        4 => Fault::LostAnswer,
        _ => Fault::SlowBody(Duration::from_millis(rng.u64(50..2_000))),
    };
    (fault, pushes)
}

/// Least squares within each run of the product after its warm-up, weighted by its samples.
fn slope(timeline: &Timeline, lives: &[Duration]) -> Option<f64> {
    let ends = lives.iter().skip(1).copied().chain([Duration::MAX]);
    let (mut above, mut below) = (0.0, 0.0);
    for (start, end) in lives.iter().zip(ends) {
        let points: Vec<(f64, f64)> = timeline
            .samples
            .iter()
            .filter(|s| s.at >= *start + WARM_UP && s.at < end)
            .map(|s| (s.at.as_secs_f64() / 3_600.0, mib(s.usage.rss_bytes)))
            .collect();
        let count = points.len().max(1) as f64;
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
        above += points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>();
        below += points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    }
    (below > 0.0).then_some(above / below)
}
