//! Lines by HTTP, in parts: small requests as fast as they go beside nginx, a rate of them, large
//! pushes, many connections that say nothing, and bodies that are bombs.
//!
//! What is measured has the first CPU, or all; the stub and whoever sends have the others.

mod bomb;
mod idle;
mod nginx;
mod push;
mod rate;
mod requests;
mod wrk;

use super::{Bed, Error as RunError, require, time};
use crate::load::{self, Client, Lines, Workload, Written, client};
use crate::measure::Stage;
use crate::product::{Product, Setup};
use crate::report::Report;
use crate::stub::Stub;
use clap::{Args, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// How long lines may take to arrive, and a product to end.
const LIMIT: Duration = Duration::from_secs(60);
/// Of one request and its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const LOGS: &str = "/api/v1/logs";
const PUSH: &str = "/loki/api/v1/push";
const RAW: &str = "/loki/api/v1/raw";
/// The stub's and the product's own descriptors.
const DESCRIPTORS_SPARE: u64 = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{program} is not on PATH: install the Debian package {program}, or choose other parts by \
         --part rate,push,idle,bomb"
    )]
    Missing { program: &'static str },
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{program} ended: {status}\n{text}")]
    Ended { program: &'static str, status: ExitStatus, text: String },
    #[error("nginx does not take requests as expected: {what}\n{log}")]
    Nginx { what: String, log: String },
    #[error("wrk's output has no figures:\n{text}")]
    Wrk { text: String },
    #[error("{wanted} descriptors are needed and {max} allowed: raise the hard limit (ulimit -Hn)")]
    Descriptors { wanted: u64, max: u64 },
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    part: Vec<Part>,
    /// How long each load lasts, and idle connections are looked on.
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "10s")]
    duration: Duration,
    /// How often requests and pushes are measured; the medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Of requests and rate.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Requests a second, of one line each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Of pushes: a workload's name (`list` shows them) or the path of a TOML file.
    #[arg(long, default_value = "key-value")]
    workload: String,
    /// Lines of all pushes; the workload's where it is not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    lines: Option<u64>,
    /// Connections of which pushes come.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    push_connections: u32,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=900_000))]
    idle: u32,
    /// What the gzip bomb decodes to.
    #[arg(long, value_name = "MIB", default_value_t = 10 << 10, value_parser = clap::value_parser!(u32).range(1..))]
    bomb_mib: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One line a request, as fast as they are answered, by wrk; nginx in turn.
    Requests,
    /// One line a request, at a rate.
    Rate,
    /// Pushes of 100 kB, as fast as they are answered.
    Push,
    /// Connections that are kept and say nothing.
    Idle,
    /// Small bodies that decode to large ones.
    Bomb,
}

impl Part {
    const ALL: [Part; 5] = [Part::Requests, Part::Rate, Part::Push, Part::Idle, Part::Bomb];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().expect("none is hidden").get_name())
    }
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    let cpus = Cpus::keep_off_the_first()?;
    for part in Part::ALL.into_iter().filter(|part| options.part.contains(part)) {
        match part {
            Part::Requests => requests::run(options, &cpus, bed, report),
            Part::Rate => rate::run(options, &cpus, bed, report),
            Part::Push => push::run(options, &cpus, bed, report),
            Part::Idle => idle::run(options, &cpus, bed, report),
            Part::Bomb => bomb::run(options, &cpus, bed, report),
        }?;
    }
    Ok(())
}

/// The CPUs that may be used: one for what is measured, and the others; the same where there is one.
struct Cpus {
    all: Vec<usize>,
    first: usize,
    others: Vec<usize>,
}

impl Cpus {
    /// From now on this thread, and whatever it starts, leaves the first CPU alone.
    fn keep_off_the_first() -> Result<Cpus, std::io::Error> {
        let allowed = sched_getaffinity(None)?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let first = all[0];
        let others = if all.len() > 1 { all[1..].to_vec() } else { all.clone() };
        let mut set = CpuSet::new();
        others.iter().for_each(|cpu| set.set(*cpu));
        sched_setaffinity(None, &set)?;
        Ok(Cpus { all, first, others })
    }

    /// As `taskset -c` has it.
    fn list(cpus: &[usize]) -> String {
        cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

/// A product that may use all CPUs, and answers when lines are on disk.
fn setup(bed: &Bed, dir: &tempfile::TempDir, stub: &Stub, cpus: &Cpus) -> Setup {
    let mut setup = Setup::new(&bed.binary, dir.path(), &stub.url());
    setup.server_keys = vec!["ack: durable".into()];
    setup.cpus.clone_from(&cpus.all);
    setup
}

/// Ends it, which must go well; gives what it has said.
fn stop(product: Product) -> Result<String, RunError> {
    let log = product.log();
    let status = product.stop(LIMIT)?;
    require(status.success(), || format!("the product's {status}\n{log}"))?;
    Ok(log)
}

/// How long the disk took, which every answer waits for.
struct Commits(Option<Stage>);

impl Commits {
    fn of(product: &Product) -> Result<Commits, RunError> {
        let stages = Stage::of(product)?;
        Ok(Commits(stages.into_iter().find(|stage| stage.name == "wal commit")))
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |stage| stage.quantile(quantile).as_secs_f64() * 1e3)
    }
}

/// One writer's marked lines, each a request to `/api/v1/logs`.
struct Posts {
    lines: Lines,
    line: Vec<u8>,
    body: Vec<u8>,
    request: Vec<u8>,
}

impl Posts {
    fn new(workload: &Workload, writer: u32) -> Posts {
        let lines = Lines::new(&workload.text, workload.seed, writer);
        Posts { lines, line: Vec::new(), body: Vec::new(), request: Vec::new() }
    }

    /// Posts the next line, which must be taken.
    fn post(
        &mut self,
        addr: SocketAddr,
        client: &mut Client,
        time_ns: i64,
    ) -> Result<(), RunError> {
        self.line.clear();
        self.lines.next(time_ns, &mut self.line);
        json_of(&String::from_utf8_lossy(self.line.trim_ascii_end()), &mut self.body);
        self.request.clear();
        client::post(LOGS, JSON, &self.body, &mut self.request);
        let status = client.send(&self.request).map_err(load::Error::client(addr))?;
        require((200..300).contains(&status), || {
            format!("the product answered a line with {status}: {}", client.text())
        })
    }

    fn made(&self) -> u64 {
        self.lines.made()
    }
}

const JSON: &str = "Content-Type: application/json\r\n";

fn json_of(line: &str, body: &mut Vec<u8>) {
    body.clear();
    body.extend_from_slice(b"{\"message\": ");
    serde_json::to_writer(&mut *body, line).expect("a Vec takes everything");
    body.push(b'}');
}

/// Each line that was answered is at the stub, once and in its writer's order. Writers share the
/// endpoint's stream, and the order between shards is nobody's promise.
fn require_answered(stub: &Stub, lines: Vec<u64>, log: &str) -> Result<(), RunError> {
    let written = Written { lines, ..Written::default() };
    let mut verified = stub.verify(&written);
    verified.out_of_order = 0;
    super::require_exactly_once(&verified, log)
}

/// So many descriptors for this process, and for those that it starts.
fn allow_descriptors(wanted: u64) -> Result<(), Error> {
    let wanted = wanted + DESCRIPTORS_SPARE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if let Some(max) = maximum.filter(|max| *max < wanted) {
        return Err(Error::Descriptors { wanted, max });
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .map_err(|_| Error::Descriptors { wanted, max: current.unwrap_or(0) })
}
