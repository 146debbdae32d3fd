//! The measurements. Each gives a [`Report`]; one whose lines did not arrive as they were written is
//! an error: it measured nothing.

pub mod compare;
mod http;
mod idle;
mod outage;
mod peers;
mod recover;
mod saturate;
mod slo;
mod soak;
mod sweep;

use crate::load::LineSum;
use crate::report::{self, Report};
use crate::stub::{Accounting, Verified};
use crate::{load, product, receiver, stub};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Product(#[from] product::Error),
    #[error(transparent)]
    Load(#[from] load::Error),
    #[error(transparent)]
    Workload(#[from] load::WorkloadError),
    #[error(transparent)]
    Stub(#[from] stub::Error),
    #[error(transparent)]
    Receiver(#[from] receiver::Error),
    #[error(transparent)]
    Report(#[from] report::Error),
    #[error(transparent)]
    Peer(#[from] peers::Error),
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("files: {0}")]
    Io(#[from] std::io::Error),
    #[error("the run is void: {0}")]
    Void(String),
}

#[derive(Debug, Clone, Subcommand)]
pub enum Measurement {
    /// Live lines at a rate, on an open-loop schedule: latency per stage and end to end, CPU, memory.
    Slo(slo::Options),
    /// A backlog as fast as it goes: lines per CPU second, as a share of the encode limit.
    Saturate(saturate::Options),
    /// How the cost grows with shards, files, streams, line size, commit interval.
    Sweep(sweep::Options),
    /// Loki is away while lines go on coming: memory, disk, time to catch up, loss.
    Outage(outage::Options),
    /// A full log after a kill: time to the first line sent, to all of them.
    Recover(recover::Options),
    /// Many files that nobody writes to: CPU, memory, descriptors.
    Idle(idle::Options),
    /// Hours at a rate with rotations, slow answers and restarts: memory slope, descriptors, loss.
    Soak(soak::Options),
    /// The same workload through other agents, in turn: CPU, memory, throughput, loss, as ratios.
    Peers(peers::Options),
    /// Lines by HTTP: small requests beside nginx, a rate, large pushes, idle connections, bombs.
    Http(http::Options),
}

impl Measurement {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Measurement::Slo(_) => "slo",
            Measurement::Saturate(_) => "saturate",
            Measurement::Sweep(_) => "sweep",
            Measurement::Outage(_) => "outage",
            Measurement::Recover(_) => "recover",
            Measurement::Idle(_) => "idle",
            Measurement::Soak(_) => "soak",
            Measurement::Peers(_) => "peers",
            Measurement::Http(_) => "http",
        }
    }

    pub fn run(&self, bed: &Bed) -> Result<Report, Error> {
        let mut report = Report::new(self.name());
        match self {
            Measurement::Slo(options) => slo::run(options, bed, &mut report),
            Measurement::Saturate(options) => saturate::run(options, bed, &mut report),
            Measurement::Sweep(options) => sweep::run(options, bed, &mut report),
            Measurement::Outage(options) => outage::run(options, bed, &mut report),
            Measurement::Recover(options) => recover::run(options, bed, &mut report),
            Measurement::Idle(options) => idle::run(options, bed, &mut report),
            Measurement::Soak(options) => soak::run(options, bed, &mut report),
            Measurement::Peers(options) => peers::run(options, bed, &mut report),
            Measurement::Http(options) => http::run(options, bed, &mut report),
        }?;
        Ok(report)
    }
}

/// What every measurement stands on.
pub struct Bed {
    pub binary: PathBuf,
    /// Where the stub listens; any free port where it is not said.
    pub stub_listen: Option<SocketAddr>,
    pub progress: bool,
}

impl Bed {
    fn stub_options(&self, accounting: Accounting) -> stub::Options {
        let mut options = stub::Options::new(accounting);
        options.listen = self.stub_listen.unwrap_or(options.listen);
        options
    }

    /// A bar on a terminal, and nothing elsewhere.
    fn progress(&self, what: &str, steps: u64) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(steps);
        let style = ProgressStyle::with_template("{msg:28} {wide_bar} {percent:>3} %  {elapsed}");
        bar.set_style(style.expect("a valid template"));
        bar.set_message(what.to_owned());
        bar
    }
}

/// Which lines, and where they go.
#[derive(Debug, Clone, Args)]
pub struct Lines {
    /// A workload's name (`list` shows them) or the path of a TOML file.
    #[arg(long, default_value = "service")]
    pub workload: String,
    /// Lines a second, over all files; the workload's where it is not given.
    #[arg(long)]
    pub rate: Option<u64>,
}

impl Lines {
    fn workload(&self) -> Result<load::Workload, Error> {
        let workload = load::Workload::live(&self.workload)?;
        let rate = self.rate.unwrap_or(workload.rate);
        if rate == 0 {
            return Err(Error::Void("expected --rate above 0".into()));
        }
        Ok(load::Workload { rate, ..workload })
    }
}

/// A time as humans write it: 500ms, 60s, 4h.
pub fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > Duration::ZERO => Ok(time),
        Ok(_) => Err("expected a time above 0".into()),
        Err(error) => Err(format!("{error}: expected a time such as 500ms, 60s or 4h")),
    }
}

/// A run that lost a line measures nothing.
fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Void(what())) }
}

fn require_exactly_once(verified: &Verified, log: &str) -> Result<(), Error> {
    require(verified.exactly_once(), || format!("expected each line once: {verified:?}\n{log}"))
}

fn require_same((expected, found): (LineSum, LineSum), log: &str) -> Result<(), Error> {
    require(expected == found, || format!("expected {expected:?}, found {found:?}\n{log}"))
}

/// A program by its name on PATH, or by its path.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let direct = name.contains('/').then(|| PathBuf::from(name));
    let mut places =
        direct.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(name)));
    places.find(|place| place.is_file())
}

/// Sorts; the middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
