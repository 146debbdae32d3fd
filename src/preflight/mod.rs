//! `log-capturer preflight`: whether a deployment would go well, before it is made.
//!
//! Each area has a part that looks at the machine and one that judges what it saw, which the unit tests
//! try: [`configuration`] (what is written, and what of it is new), [`secrets`], [`host`] (kernel and
//! limits), [`cpus`], [`disk`] (`data_dir`), [`formats`] (what is in it), [`ports`], [`sources`],
//! [`certificates`], [`guard`] (who may come in), [`sinks`]. All of them say what they have to say: none stops another.
//!
//! Nothing is changed but by what measuring takes: a file without a name in `data_dir`, and one line to each
//! sink in a stream of its own.

pub mod certificates;
pub mod configuration;
pub mod cpus;
pub mod disk;
pub mod finding;
pub mod formats;
pub mod guard;
pub mod host;
pub mod ports;
pub mod processes;
pub mod running;
pub mod secrets;
mod served;
pub mod sinks;
pub mod sources;
mod trial;
mod trust;

use crate::ask::{Access, AccessArgs};
use crate::{options, place};
use clap::Args;
use config::{Config, Draft};
use finding::{Finding, worst};
use shards::topology::Plan;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

const CODES: &str = "\
Run it as the user, and with the limits, that log-capturer will run with.

JSON: {verdict (go, warnings or no-go), findings: [{name, of (which one, or null), level (ok, warning or \
no-go), found, figures (by names with units), fix (null where it is ok)}]}.

Exit code: 0 go; 1 warnings; 2 no-go, also where the answer cannot be written; 78 wrong arguments.";

/// Whether a deployment would go well: configuration, host, disk, ports, sources, sinks, secrets.
///
/// Changes nothing: what it writes in data_dir to measure it has no name there and is gone again. One line is
/// pushed to each sink, into the stream {job="log-capturer-preflight"}.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct Preflight {
    /// The configuration file (YAML) that is to be deployed; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Tell what changes against this configuration, and not against the instance that runs.
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Push no line to the sinks.
    #[arg(long)]
    pub no_push: bool,
    /// The program to go back to, where there is one: it is asked whether it would read what is there. The package keeps
    /// it there.
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "/usr/lib/log-capturer/previous/log-capturer"
    )]
    pub previous: PathBuf,
    /// As one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// As of sysexits' EX_CONFIG.
const EXIT_WRONG: u8 = 78;

impl Preflight {
    fn file(&self) -> &Path {
        if self.config == Path::new("-") { Path::new("/dev/stdin") } else { &self.config }
    }
}

/// Looks at everything, tells it on standard output, and gives the exit code.
pub fn run(preflight: &Preflight) -> u8 {
    let access = match preflight.access.open() {
        Ok(access) => access,
        Err(error) => {
            eprintln!("log-capturer preflight: {error}");
            return EXIT_WRONG;
        }
    };
    let findings = look(preflight, &access);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let said = if preflight.json {
        writeln!(out, "{:#}", finding::document(&findings))
    } else {
        finding::print(&findings, &mut out)
    };
    let (_, code) = worst(&findings).verdict();
    match said.and_then(|()| out.flush()) {
        // Whoever read it has enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("log-capturer preflight: standard output: {error}");
            finding::Level::NoGo.verdict().1
        }
        _ => code,
    }
}

fn look(preflight: &Preflight, access: &Access) -> Vec<Finding> {
    let draft = match Draft::load(preflight.file()) {
        Ok(draft) => draft,
        Err(errors) => {
            let mut findings = configuration::problems(errors.problems());
            findings.extend(host::look(None, 1));
            return findings;
        }
    };
    let mut findings = configuration::problems(draft.problems());
    let mut areas = Areas { draft: &draft, findings: &mut findings };
    areas.look(preflight, access);
    findings
}

/// What an area depends on may be wrong in the configuration: then it says that, and the others go on.
struct Areas<'a> {
    draft: &'a Draft,
    findings: &'a mut Vec<Finding>,
}

impl Areas<'_> {
    fn look(&mut self, preflight: &Preflight, access: &Access) {
        if let Some(config) = self.draft.sound(&[""]) {
            self.findings.extend(configuration::renamed(config));
        }
        self.area("config_change", &[""], |config| {
            configuration::changes(config, preflight.against.as_deref(), access)
        });
        self.area("secrets", &["sinks", "server", "metrics"], |config| {
            secrets::look(config, preflight.file())
        });
        let plan = self.draft.sound(&["cores"]).map(cpus::plan);
        if let Some(plan) = &plan {
            self.findings.extend(cpus::look(plan, self.draft.sound(&["cores"])));
        } else {
            self.skipped("cpus");
        }
        let plan = plan.and_then(Result::ok);
        let count = self.shards(plan.as_ref());
        self.findings.extend(host::look(self.draft.sound(&["sources", "server"]), count));
        self.area("data_dir", &["data_dir", "server.listen"], |config| disk::look(config, access));
        self.area("disk_space", &["data_dir", "wal", "sinks"], |config| disk::space(config, count));
        self.area("formats", &["data_dir"], |config| formats::look(config, &preflight.previous));
        self.area("ports", &["data_dir", "server.listen", "metrics.listen"], ports::look);
        self.area("sources", &["sources"], sources::look);
        self.area("listeners", &["server", "metrics"], guard::look);
        self.area("listener_tls_files", &["server", "metrics"], certificates::of_listeners);
        self.area("tls_files", &["sinks"], certificates::look);
        let push = !preflight.no_push;
        self.area("sink_address", &["sinks"], |config| sinks::look(config, push));
    }

    fn area(
        &mut self,
        name: &'static str,
        keys: &[&str],
        look: impl FnOnce(&Config) -> Vec<Finding>,
    ) {
        match self.draft.sound(keys) {
            Some(config) => self.findings.extend(look(config)),
            None => self.skipped(name),
        }
    }

    fn skipped(&mut self, name: &'static str) {
        self.findings.push(Finding::warning(
            name,
            "not looked at: the configuration is wrong where this depends on it",
            "correct the configuration, then run this again",
        ));
    }

    /// As a start counts them: those that an earlier run left are sent all the same.
    fn shards(&self, plan: Option<&Plan>) -> usize {
        let before = self.draft.sound(&["data_dir"]).map_or(0, |config| {
            // Where it cannot be read, the area of data_dir says so.
            place::shards_before(&config.data_dir).unwrap_or(0)
        });
        plan.map_or(1, |plan| plan.shards.len()).max(before)
    }
}

/// The nearest directory that is there.
fn nearest(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"))
}

/// A size for people.
fn size(bytes: u64) -> String {
    crate::top::view::bytes(bytes as f64)
}

/// All names of the sinks with the options of their clients.
fn clients(config: &Config) -> impl Iterator<Item = crate::push::Options> {
    config.sinks.iter().map(options::client)
}
