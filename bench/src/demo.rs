//! The product seen at work: live logs with rotations, a receiver, and a verdict.

use crate::load::{self, Rotation, Workload, Writer, Written};
use crate::measure::{Stage, mib};
use crate::product::{self, Product, Setup, Usage, whole};
use crate::receiver::{self, Receiver};
use crate::stub::{self, Accounting, Verified};
use comfy_table::{Table, presets};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The objective.
const P99_MAX: Duration = Duration::from_millis(500);
const FILES: u32 = 4;
const ROTATIONS_PER_RUN: u64 = 5;
/// How long the last lines may take.
const ARRIVE_TIME_MAX: Duration = Duration::from_secs(30);
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct DemoOptions {
    pub seconds: u64,
    /// Lines per second.
    pub rate: u64,
    /// A real Loki instead of the stub.
    pub loki: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Product(#[from] product::Error),
    #[error(transparent)]
    Load(#[from] load::Error),
    #[error(transparent)]
    Receiver(#[from] receiver::Error),
    #[error("a temporary directory: {0}")]
    Dir(#[from] std::io::Error),
    #[error("expected --seconds and --rate above 0")]
    Nothing,
}

/// What a run has shown.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub verified: Verified,
    pub written: Written,
    pub rate: u64,
    /// Until a line was received; with a real Loki, until the push it was in was answered.
    pub latency: Latency,
    pub usage: Usage,
    pub running: Duration,
    pub clean_exit: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub max: Duration,
}

pub fn run(binary: &Path, options: &DemoOptions) -> Result<Verdict, Error> {
    if options.seconds == 0 || options.rate == 0 {
        return Err(Error::Nothing);
    }
    let dir = tempfile::Builder::new().prefix("log-capturer-demo-").tempdir()?;
    let accounting = stub::Options::new(Accounting::PerLine);
    let receiver = Receiver::start(options.loki.as_deref(), accounting)?;
    let mut setup = Setup::new(binary, dir.path(), &receiver.url());
    setup.file_keys = receiver.file_keys();
    let product = Product::start(&setup)?;
    println!(
        "{} lines/s into {FILES} files for {} s, renamed as they grow; {} takes them to {}",
        options.rate,
        options.seconds,
        binary.file_name().unwrap_or_default().to_string_lossy(),
        match &receiver {
            Receiver::Stub(_) => "a built-in receiver that decodes every push",
            Receiver::Loki { url, .. } => url,
        }
    );

    let started = Instant::now();
    let lines = options.rate * options.seconds;
    let writer = Writer::start(load::Options {
        dir: setup.logs(),
        text: Workload::service().text,
        files: FILES,
        rate: options.rate,
        lines,
        seed: u64::from(std::process::id()),
        first_sequence: 0,
        lines_per_write: 1,
        rotation: Rotation::Rename {
            lines: (lines / u64::from(FILES) / (ROTATIONS_PER_RUN + 1)).max(1),
            keep: 3,
        },
    })?;
    watch(&writer, &product, &receiver)?;
    let written = writer.wait()?;
    receiver.await_taken(&product, written.lines_in_all(), ARRIVE_TIME_MAX)?;
    let usage = product.usage()?;
    let running = started.elapsed();
    let stages = match receiver.stub() {
        Some(_) => Vec::new(),
        None => Stage::of(&product)?,
    };
    let clean_exit = product.stop(STOP_TIME_MAX)?.success();
    let verified = receiver.verify(&written)?;
    let latency = match receiver.stub() {
        Some(stub) => of_histogram(&stub.latency()),
        None => of_stage(&stages),
    };
    let rate = options.rate;
    let verdict = Verdict { verified, written, rate, latency, usage, running, clean_exit };
    println!("{}", verdict.table());
    Ok(verdict)
}

/// Shows how it goes until all lines are written.
fn watch(writer: &Writer, product: &Product, receiver: &Receiver) -> Result<(), Error> {
    let terminal = std::io::stdout().is_terminal();
    let step = if terminal { Duration::from_millis(500) } else { Duration::from_secs(5) };
    let (mut then, mut lines) = (Instant::now(), 0);
    while !writer.finished() {
        std::thread::sleep(Duration::from_millis(50));
        if then.elapsed() < step {
            continue;
        }
        let (usage, metrics) = (product.usage()?, product.metrics_text()?);
        let now = receiver.taken(product)?;
        let latency = match receiver.stub() {
            Some(stub) => of_histogram(&stub.take_latency_window()),
            None => of_stage(&Stage::all(&metrics)),
        };
        let text = format!(
            "{:>8.0} lines/s   p50 {:>6.1} ms   p99 {:>6.1} ms   log {:>5.1} MiB   memory {:>4.1} MiB",
            (now - lines) as f64 / then.elapsed().as_secs_f64(),
            millis(latency.p50),
            millis(latency.p99),
            mib(whole(product::metric(&metrics, "log_capturer_wal_bytes"))),
            mib(usage.rss_bytes),
        );
        if terminal {
            print!("\r{text}\x1b[K");
            std::io::stdout().flush()?;
        } else {
            println!("{text}");
        }
        (then, lines) = (Instant::now(), now);
    }
    if terminal {
        println!();
    }
    Ok(())
}

impl Verdict {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.rows().iter().all(|(.., holds)| *holds)
    }

    fn achieved(&self) -> f64 {
        self.written.lines_in_all() as f64 / self.written.elapsed.as_secs_f64()
    }

    fn rows(&self) -> Vec<(&'static str, String, String, bool)> {
        let Verified { written, received, lost, repeated, .. } = self.verified;
        let latency = self.latency;
        let rate = self.rate as f64;
        let cpu = self.usage.cpu.as_secs_f64() / self.running.as_secs_f64() * 100.0;
        let ms = |time| format!("{:.1} ms", millis(time));
        let none = String::new;
        vec![
            ("lines written", written.to_string(), none(), written > 0),
            ("lines received", received.to_string(), written.to_string(), received == written),
            ("lines lost", lost.to_string(), "0".into(), lost == 0),
            ("sent again", repeated.to_string(), none(), true),
            (
                "intact and in order",
                if self.verified.complete() { "yes" } else { "no" }.into(),
                "yes".into(),
                self.verified.complete(),
            ),
            ("rotations", self.written.rotations.to_string(), none(), true),
            (
                "rate",
                format!("{:.0} lines/s", self.achieved()),
                format!("{rate:.0} lines/s"),
                self.achieved() >= rate * 0.99,
            ),
            ("latency p50", ms(latency.p50), none(), true),
            ("latency p95", ms(latency.p95), none(), true),
            ("latency p99", ms(latency.p99), format!("< {}", ms(P99_MAX)), latency.p99 < P99_MAX),
            ("latency max", ms(latency.max), none(), true),
            ("CPU", format!("{cpu:.1} % of one core"), none(), true),
            ("peak memory", format!("{:.1} MiB", mib(self.usage.rss_peak_bytes)), none(), true),
            (
                "stopped by SIGTERM",
                if self.clean_exit { "exit 0" } else { "failed" }.into(),
                "exit 0".into(),
                self.clean_exit,
            ),
        ]
    }

    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(vec!["", "measured", "expected", ""]);
        for (what, measured, expected, holds) in self.rows() {
            let mark = match (holds, expected.is_empty()) {
                (true, true) => "",
                (true, false) => "ok",
                (false, _) => "FAILED",
            };
            table.add_row(vec![what.to_owned(), measured, expected, mark.to_owned()]);
        }
        table
    }
}

fn of_histogram(histogram: &hdrhistogram::Histogram<u64>) -> Latency {
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
    Latency {
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        max: Duration::from_micros(histogram.max()),
    }
}

/// As the product tells it.
fn of_stage(stages: &[Stage]) -> Latency {
    let Some(stage) = stages.iter().find(|stage| stage.name == "source to ack") else {
        return Latency::default();
    };
    let at = |quantile| stage.quantile(quantile);
    Latency { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
