//! What the operator wrote, checked: file -> tree -> [`Config`], with all errors at once.
//!
//! The steps stand in their order: the YAML becomes a [`tree`] that knows its lines, variables are
//! put in ([`expand`]), values are read ([`read`], [`units`]), and [`check`] knows the keys. Each
//! component gets its own options from the result; none sees the [`Config`]. A [`Draft`] is what was read where
//! something is wrong.

mod tree;

mod expand;

mod units;

mod secret;

mod read;

mod client;
mod guard;

mod check;
mod dlq;
mod log;

mod draft;
mod error;

mod offsets;

pub mod rollout;

pub use dlq::{Dlq, Reprocess, WhenFull};
pub use draft::Draft;
pub use error::{Errors, Problem};
pub use guard::{ListenTls, MetricsAuth, Role, ServerAuth, Token};
pub use log::{Format, Level, Log};
pub use offsets::{Offset, offsets};
pub use secret::{REDACTED, Secret};
pub use units::{duration_text, parse_duration};

use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration that was checked. Printed, it is a file that reads as the same configuration,
/// unless a secret stands in it as a text: that is printed as [`REDACTED`], which is refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// What to say of keys that were read by the name they had before.
    #[serde(skip)]
    pub renamed: Vec<String>,
    pub version: u32,
    pub data_dir: PathBuf,
    #[serde(serialize_with = "units::print_duration")]
    pub drain_timeout: Duration,
    pub cores: Cores,
    pub sources: Sources,
    #[serde(serialize_with = "check::print_sinks")]
    pub sinks: Vec<Sink>,
    pub wal: Wal,
    pub server: Server,
    pub metrics: Metrics,
    pub slo: Slo,
    pub canary: Canary,
    pub log: Log,
    pub reload: Reload,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cores {
    pub shards: Shards,
    pub egress: Egress,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Shards {
    #[serde(serialize_with = "check::print_auto")]
    Auto,
    Count(usize),
    Cpus(Vec<usize>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Egress {
    #[serde(serialize_with = "check::print_auto")]
    Auto,
    Cpu(usize),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sources {
    pub files: Vec<FileSource>,
    #[serde(serialize_with = "units::print_duration")]
    pub reconcile_interval: Duration,
    pub open_files_max: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileSource {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub start_at: StartAt,
    pub follow_symlinks: bool,
    #[serde(serialize_with = "units::print_bytes")]
    pub line_bytes_max: usize,
    pub long_lines: LongLines,
    #[serde(serialize_with = "units::print_duration")]
    pub partial_line_timeout: Duration,
}

/// Where reading begins in a file that was never seen before and is there at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    Beginning,
    End,
}

/// What becomes of a line longer than `line_bytes_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LongLines {
    Split,
    Truncate,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    pub name: String,
    pub kind: SinkKind,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SinkKind {
    Loki(Loki),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loki {
    /// Of the push endpoint.
    pub url: String,
    pub tenant: String,
    pub labels: BTreeMap<String, String>,
    #[serde(serialize_with = "units::print_bytes")]
    pub push_bytes_max: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub linger: Duration,
    pub connections: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub timeout: Duration,
    /// Older entries are not sent: they go to the dead-letter queue.
    #[serde(serialize_with = "units::print_duration")]
    pub age_max: Duration,
    pub tls: Tls,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    pub proxy: Proxy,
    /// By their names in small letters.
    pub headers: BTreeMap<String, Secret>,
    pub limits: LokiLimits,
    pub dlq: Dlq,
}

/// What is not given is as a browser has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tls {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    Basic(Basic),
    Bearer(Bearer),
}

/// The password is a text or in a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Basic {
    pub username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// Likewise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bearer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Proxy {
    #[serde(serialize_with = "client::print_none")]
    None,
    #[serde(serialize_with = "client::print_environment")]
    Environment,
    At(Secret),
}

/// What Loki refuses, as its operator has set it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LokiLimits {
    #[serde(serialize_with = "units::print_bytes")]
    pub line_bytes_max: usize,
    pub label_names_max: usize,
    #[serde(serialize_with = "units::print_bytes")]
    pub label_name_bytes_max: usize,
    #[serde(serialize_with = "units::print_bytes")]
    pub label_value_bytes_max: usize,
    #[serde(serialize_with = "units::print_bytes")]
    pub metadata_bytes_max: usize,
    pub metadata_pairs_max: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub age_max: Duration,
    #[serde(serialize_with = "units::print_duration")]
    pub future_max: Duration,
    /// How far an entry may be behind the newest of its stream.
    #[serde(serialize_with = "units::print_duration")]
    pub behind_max: Duration,
    /// Of one stream, a second.
    #[serde(serialize_with = "units::print_bytes")]
    pub stream_rate: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wal {
    #[serde(serialize_with = "units::print_bytes")]
    pub bytes_max: u64,
    #[serde(serialize_with = "units::print_bytes")]
    pub segment_bytes: u64,
    #[serde(serialize_with = "units::print_duration")]
    pub commit_interval: Duration,
    #[serde(serialize_with = "units::print_bytes")]
    pub ring_bytes_max: u64,
}

/// Where lines may be pushed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Server {
    pub listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenTls>,
    pub auth: ServerAuth,
    pub ack: Ack,
    pub labels: BTreeMap<String, String>,
    /// Whether a request may name its tenant.
    pub tenant_header: bool,
    /// Of a shard.
    pub streams_max: usize,
    /// Bytes of bodies a second, of all clients and of each; 0: any number.
    #[serde(serialize_with = "units::print_bytes")]
    pub rate_max: u64,
    #[serde(serialize_with = "units::print_bytes")]
    pub client_rate_max: u64,
    pub limits: ServerLimits,
}

/// When a push is answered with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    Durable,
    Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerLimits {
    pub connections_max: usize,
    pub address_connections_max: usize,
    #[serde(serialize_with = "units::print_bytes")]
    pub head_bytes_max: usize,
    pub headers_max: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub head_timeout: Duration,
    #[serde(serialize_with = "units::print_duration")]
    pub idle_timeout: Duration,
    #[serde(serialize_with = "units::print_bytes")]
    pub body_bytes_max: usize,
    /// Of all bodies that a shard reads at once.
    #[serde(serialize_with = "units::print_bytes")]
    pub bodies_bytes_max: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub body_timeout: Duration,
    #[serde(serialize_with = "units::print_bytes")]
    pub body_rate_min: u64,
    #[serde(serialize_with = "units::print_bytes")]
    pub decoded_bytes_max: usize,
    pub decoded_ratio_max: usize,
    pub json_depth_max: usize,
    pub json_values_max: usize,
    pub request_streams_max: usize,
    pub request_lines_max: usize,
    /// How long the disk is waited for.
    #[serde(serialize_with = "units::print_duration")]
    pub answer_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metrics {
    pub listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenTls>,
    pub auth: MetricsAuth,
    /// Whether the time that lines take is measured.
    pub latency: bool,
}

/// The objective: so many of the lines acked in so long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Slo {
    pub lines_per_second: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub latency: Duration,
    pub ratio: f64,
}

/// A line that the product writes by itself, so that there is a latency where nobody logs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Canary {
    pub enabled: bool,
    #[serde(serialize_with = "units::print_duration")]
    pub interval: Duration,
    pub labels: BTreeMap<String, String>,
}

/// How the configuration is changed while the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reload {
    /// By itself, where the file is another one.
    pub watch: bool,
}

/// Reads and checks a file, with the variables of this process.
pub fn load(file: &Path) -> Result<Config, Errors> {
    of_text(&read(file)?, file)
}

/// The text of a file, unchecked.
pub fn read(file: &Path) -> Result<String, Errors> {
    let failed = |error| Errors::of_file(&file.display().to_string(), &error);
    read_text(file, FILE_BYTES_MAX).map_err(failed)
}

/// More is no file that anybody wrote.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// All of a file or of a pipe; a device that never ends, or what is larger, is an error.
pub fn read_text(file: &Path, bytes_max: u64) -> std::io::Result<String> {
    let mut text = String::new();
    let mut limited = std::fs::File::open(file)?.take(bytes_max + 1);
    limited.read_to_string(&mut text)?;
    if text.len() as u64 <= bytes_max {
        return Ok(text);
    }
    let found = format!("expected no more than {bytes_max} bytes, found more");
    Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, found))
}

/// Checks what was read of a file, with the variables of this process.
pub fn of_text(text: &str, file: &Path) -> Result<Config, Errors> {
    parse(text, &file.display().to_string(), &variable)
}

/// Checks a text; `variable` is asked for the `${…}` in it.
pub fn parse(
    text: &str,
    file: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Errors> {
    Draft::parse(text, file, variable)?.checked()
}

/// The configuration of a run without a file: follow `paths` (files, globs, or directories, of which
/// all `*.log` at any depth) and push to `loki_url`.
pub fn quick(loki_url: &str, paths: &[String], data_dir: &Path) -> Result<Config, Errors> {
    let tree = check::quick_tree(loki_url, paths, data_dir);
    Draft::of(tree, "the command line", &variable).checked()
}

impl Config {
    /// As a file, all defaults written out.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a checked configuration can be printed")
    }
}

/// A variable of this process. `HOSTNAME` is always there: shells set it and service managers do not.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().or_else(|| {
        let uname = rustix::system::uname();
        (name == "HOSTNAME").then(|| uname.nodename().to_string_lossy().into_owned())
    })
}
