//! `log-capturer baseline save | compare`: what instances do in a window, kept, and held against another.

pub mod compare;
pub mod file;

use crate::ask::{Failure, Server, Text};
use crate::table::{self, row};
use crate::window::figures::Figures;
use crate::window::target::{self, Target, TargetArgs, TargetError, window_time};
use crate::window::{Window, prometheus};
use clap::{Args, Subcommand};
use compare::{Name, Row, Tolerances, Verdict};
use file::{Baseline, FileError};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SAVE: &str = "\
Exit code: 0; 1 it failed, or an instance was not seen twice; 78 wrong arguments.";
const COMPARE: &str = "\
Names for --tolerance: lines_per_second, bytes_per_second, errors, dead_letters and threads may be 10% worse by \
default; cpu, memory and open_fds 20%; source_to_ack and stages 25%. A difference of 2 ms is none. What moves by \
itself so much that the difference may be on either side is \"not enough data\".

Exit code: 0 nothing is worse; 1 something is; 2 they cannot be compared, or too little was measured; 78 wrong \
arguments, or a file that is no baseline.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take the figures of instances over a window, and keep them in a file.
    ///
    /// Rates, latency by stage (p50, p95, p99), errors by reason, dead letters, CPU, memory and how fast it grows,
    /// descriptors, threads, restarts, breaker openings. Of the lines of that window, and of no others.
    #[command(after_help = SAVE)]
    Save(Save),
    /// Two such files side by side, with verdicts.
    #[command(after_help = COMPARE)]
    Compare(Compare),
}

#[derive(Debug, Args)]
#[group(id = "from", required = true, args = ["targets", "prometheus"])]
pub struct Save {
    #[command(flatten)]
    targets: TargetArgs,
    /// A Prometheus that scrapes them, such as http://127.0.0.1:9090: the window is the time that just passed.
    #[arg(long, value_name = "URL", conflicts_with = "targets")]
    prometheus: Option<String>,
    /// Which instances it is asked for.
    #[arg(
        long,
        value_name = "LABELS",
        default_value = "job=\"log_capturer\"",
        conflicts_with = "targets"
    )]
    selector: String,
    /// How long the window is, from 1s to 168h.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = window_time)]
    over: Duration,
    /// Where it is kept.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Compare {
    /// What was.
    before: PathBuf,
    /// What is.
    after: PathBuf,
    /// By how much a figure may be worse. Repeat it.
    #[arg(long = "tolerance", value_name = "NAME=10%", value_parser = compare::parse_tolerance)]
    tolerances: Vec<(Name, f64)>,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{0}")]
    File(#[from] FileError),
    #[error("{0}; give the address of a Prometheus, such as --prometheus http://127.0.0.1:9090")]
    Prometheus(Failure),
    #[error(
        "--prometheus {0}: expected the address of a Prometheus, such as http://127.0.0.1:9090"
    )]
    PrometheusUrl(Text),
    #[error("{instance}: expected two looks in the window, found {found}{why}; {fix}")]
    Unseen { instance: String, found: usize, why: String, fix: &'static str },
    #[error("Prometheus knows no instance with {{{0}}} in that time; give another --selector")]
    NoInstance(Text),
    #[error("these cannot be compared: {0}")]
    Incomparable(Text),
    #[error("something is worse")]
    Worse,
    #[error(
        "too little was measured for a verdict; take both over a longer time (--for), or with more lines"
    )]
    NotEnough,
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl CommandError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, 2 where there is no verdict, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Target(_) | CommandError::PrometheusUrl(_) => 78,
            CommandError::File(FileError::Disk { action: "write", .. }) => 1,
            CommandError::File(_) => 78,
            CommandError::Incomparable(_) | CommandError::NotEnough => 2,
            _ => 1,
        }
    }
}

pub fn run(command: &Command) -> Result<(), CommandError> {
    match command {
        Command::Save(options) => save(options),
        Command::Compare(options) => compare(options),
    }
}

fn save(options: &Save) -> Result<(), CommandError> {
    let windows = match &options.prometheus {
        Some(url) => {
            let wrong = || CommandError::PrometheusUrl(Text::of(url));
            let server = Server::new(url).ok_or_else(wrong)?;
            let windows = prometheus::windows(&server, &options.selector, options.over);
            windows.map_err(CommandError::Prometheus)?
        }
        None => watch(&mut options.targets.open()?, options.targets.interval, options.over),
    };
    if windows.is_empty() {
        return Err(CommandError::NoInstance(Text::of(&options.selector)));
    }
    for window in &windows {
        seen_twice(window, options.prometheus.is_some())?;
    }
    let baseline = Baseline::new(windows.iter().map(Figures::of).collect());
    baseline.write(&options.out)?;
    let out = &mut BufWriter::new(std::io::stdout().lock());
    let printed = print_saved(&baseline, out).and_then(|()| out.flush());
    printed.map_err(CommandError::Output)
}

fn seen_twice(window: &Window, from_prometheus: bool) -> Result<(), CommandError> {
    if window.looks >= 2 {
        return Ok(());
    }
    let why = window.error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
    let fix = match from_prometheus {
        true => "take a longer --for than twice its scrape_interval",
        false => "start it, or take a longer --for",
    };
    Err(CommandError::Unseen { instance: window.instance.clone(), found: window.looks, why, fix })
}

/// Looks at the targets at the beginning, at every interval, and at the end.
fn watch(targets: &mut [Target], interval: Duration, over: Duration) -> Vec<Window> {
    let named = |target: &Target| Window::new(target.name(), over.as_secs_f64());
    let mut windows: Vec<Window> = targets.iter().map(named).collect();
    let start = Instant::now();
    loop {
        let began = start.elapsed();
        for (window, seen) in windows.iter_mut().zip(target::look_at(targets, start, false)) {
            window.take(seen);
        }
        if began >= over {
            return windows;
        }
        let next = (began + interval).min(over);
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
}

fn print_saved(baseline: &Baseline, out: &mut impl Write) -> std::io::Result<()> {
    let mut rows =
        vec![row(["INSTANCE", "TIME", "LINES", "LINES/S", "P99 TO ACK", "CPU", "MEMORY"])];
    rows.extend(baseline.instances.iter().map(|of| {
        let p99 = of.latency.iter().filter(|way| way.of == crate::window::look::TO_ACK);
        let p99 = p99.filter_map(|way| way.p99_seconds).reduce(f64::max);
        row([
            of.instance.clone(),
            format!("{:.0}s", of.seconds),
            format!("{:.0}", of.lines),
            format!("{:.1}", of.lines_per_second),
            p99.map_or_else(|| "-".into(), |p99| number(p99, "s")),
            format!("{:.3} cores", of.cpu_cores),
            number(of.memory_bytes, "B"),
        ])
    }));
    table::print(&rows, out)
}

/// As people read it.
#[must_use]
pub fn number(value: f64, unit: &str) -> String {
    match unit {
        "s" => format!("{:.1} ms", value * 1e3),
        "of lines" | "share" => format!("{:.3} %", value * 100.0),
        "B" | "B/s" | "B/h" if value.abs() < 1e6 => format!("{:.1} k{unit}", value / 1e3),
        "B" | "B/s" | "B/h" => format!("{:.1} M{unit}", value / 1e6),
        "1/s" => format!("{value:.1}"),
        "cores" => format!("{value:.3}"),
        _ => format!("{value:.0}"),
    }
}

fn compare(options: &Compare) -> Result<(), CommandError> {
    let (a, b) = (Baseline::read(&options.before)?, Baseline::read(&options.after)?);
    let tolerances = Tolerances::of(&options.tolerances);
    let pairs = compare::pairs(&a, &b).map_err(|why| CommandError::Incomparable(Text::of(&why)))?;
    let count = pairs.pairs.len();
    let rows = |(a, b): &(&Figures, &Figures)| compare::rows(a, b, &tolerances, count);
    let mut all: Vec<Row> = pairs.pairs.iter().flat_map(rows).collect();
    all.extend(pairs.alone.iter().map(|figures| compare::alone(figures)));
    let out = &mut BufWriter::new(std::io::stdout().lock());
    print_compared(&all, out).and_then(|()| out.flush()).map_err(CommandError::Output)?;
    let any = |verdict| all.iter().any(|row| row.verdict == verdict);
    if any(Verdict::Worse) {
        Err(CommandError::Worse)
    } else if any(Verdict::NotEnough) {
        Err(CommandError::NotEnough)
    } else {
        Ok(())
    }
}

fn print_compared(all: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    let mut rows =
        vec![row(["INSTANCE", "FIGURE", "BEFORE", "AFTER", "CHANGE", "ALLOWED", "VERDICT"])];
    rows.extend(all.iter().map(|of| {
        let shown =
            |value: Option<f64>| value.map_or_else(|| "-".into(), |value| number(value, of.unit));
        let change = match (of.before, of.after) {
            (Some(before), Some(after)) if before != 0.0 => {
                format!("{:+.1} %", (after - before) / before.abs() * 100.0)
            }
            _ => String::new(),
        };
        row([
            table::plain(&of.instance),
            table::plain(&of.name),
            shown(of.before),
            shown(of.after),
            change,
            of.tolerance.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)),
            of.verdict.text().to_owned(),
        ])
    }));
    table::print(&rows, out)
}
