//! The same lines through other agents, one after the other, round after round.
//!
//! A peer is data, a file in `bench/peers/`: how it is started and on which configuration. Loss and
//! repetition are results here; that the product's own are none is required.

use super::{Bed, Error as RunError, median, on_path, require, require_exactly_once, time};
use crate::load::corpus::{self, Corpus};
use crate::load::{self, Rotation, Workload, Writer};
use crate::measure::{QUANTILES, mib};
use crate::product::{Setup, process_usage};
use crate::report::{Figure, Report};
use crate::stub::{Accounting, Stub};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NAMED: [(&str, &str); 3] = [
    ("fluent-bit", include_str!("../../peers/fluent-bit.toml")),
    ("fluent-bit-memory", include_str!("../../peers/fluent-bit-memory.toml")),
    ("vector", include_str!("../../peers/vector.toml")),
];
const OWN: &str = "log-capturer";
/// A peer that has delivered nothing new for so long has delivered all that it will.
const STALL: Duration = Duration::from_secs(15);
const STOP_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no peer is on PATH: looked for {0}: install one, or give --peer FILE")]
    None(String),
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("peer {name}: {source}")]
    Toml { name: String, source: Box<toml::de::Error> },
    #[error("peer {name}: cannot run {binary}: {source}")]
    Start { name: String, binary: String, source: std::io::Error },
    #[error("peer {name} ended by itself: {status}\n{log}")]
    Ended { name: String, status: std::process::ExitStatus, log: String },
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// A workload whose lines are timed.
    #[arg(long, default_value = "service")]
    workload: String,
    /// Lines of the backlog, over all files.
    #[arg(long, default_value_t = 1_000_000)]
    lines: u64,
    /// Lines a second, live.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// How long live lines are written.
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "20s")]
    duration: Duration,
    /// How often; the medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One more peer: a TOML file as those in bench/peers/.
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
}

/// How an agent is run. In `args` and `config`, ${logs}, ${url}, ${host}, ${port}, ${data} and
/// ${config} are replaced.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    #[serde(skip)]
    name: String,
    about: String,
    /// Names on PATH, or paths; the first that is there is taken.
    binaries: Vec<String>,
    #[serde(default)]
    version: Vec<String>,
    args: Vec<String>,
    config_file: String,
    config: String,
}

impl Peer {
    fn read(name: &str, text: &str) -> Result<Peer, Error> {
        let peer: Peer = toml::from_str(text)
            .map_err(|source| Error::Toml { name: name.into(), source: Box::new(source) })?;
        Ok(Peer { name: name.into(), ..peer })
    }

    /// The product, run as the others are.
    fn own(binary: &Path) -> Peer {
        let mut setup = Setup::new(binary, Path::new("${data}"), "${url}");
        setup.include = vec!["${logs}/*.log".into()];
        Peer {
            name: OWN.into(),
            about: "this product".into(),
            binaries: vec![binary.display().to_string()],
            version: vec!["--version".into()],
            args: ["run", "--config", "${config}"].map(String::from).into(),
            config_file: "config.yaml".into(),
            config: setup.yaml(),
        }
    }

    fn binary(&self) -> Option<PathBuf> {
        self.binaries.iter().find_map(|name| on_path(name))
    }

    fn version(&self) -> String {
        let Some(binary) = self.binary() else { return "not found".into() };
        let output = Command::new(binary).args(&self.version).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown version").trim().to_owned()
    }

    fn start(&self, logs: &Path, dir: &Path, stub: &Stub) -> Result<Running, Error> {
        let data = dir.join("peer-data");
        let config = dir.join(&self.config_file);
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        let fill = |text: &str| {
            text.replace("${logs}", &logs.display().to_string())
                .replace("${url}", &stub.url())
                .replace("${host}", &stub.addr().ip().to_string())
                .replace("${port}", &stub.addr().port().to_string())
                .replace("${data}", &data.display().to_string())
                .replace("${config}", &config.display().to_string())
        };
        fs::create_dir_all(&data).map_err(file(&data))?;
        fs::write(&config, fill(&self.config)).map_err(file(&config))?;
        let log = dir.join("peer.log");
        let output = File::create(&log).map_err(file(&log))?;
        let errors = output.try_clone().map_err(file(&log))?;
        let binary = self.binary().ok_or_else(|| Error::None(self.binaries.join(", ")))?;
        // One core for each of them; the stub has the others.
        let child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(&binary)
            .args(self.args.iter().map(|arg| fill(arg)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|source| {
                let (name, binary) = (self.name.clone(), binary.display().to_string());
                Error::Start { name, binary, source }
            })?;
        Ok(Running { child, name: self.name.clone(), log })
    }
}

struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

/// Kills it where it was not stopped.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn still_runs(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Error::Ended {
                name: self.name.clone(),
                status,
                log: fs::read_to_string(&self.log).unwrap_or_default(),
            }),
            _ => Ok(()),
        }
    }

    fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = kill_process(pid.expect("a process id"), Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < STOP_TIME_MAX && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One run of one of them.
struct Run {
    cpu: f64,
    seconds: f64,
    peak_mib: f64,
    received: u64,
    lost: u64,
    repeated: u64,
    /// Milliseconds.
    latencies: [f64; QUANTILES.len()],
}

pub fn run(options: &Options, bed: &Bed, report: &mut Report) -> Result<(), RunError> {
    let peers = peers(options, bed)?;
    let workload =
        Workload { lines: options.lines, rate: options.rate, ..Workload::live(&options.workload)? };
    let dir = tempfile::tempdir()?;
    let corpus = corpus::prepare(dir.path(), &workload)?;
    let runs = peers.len() as u64 * u64::from(options.rounds) * 2;
    let bar = bed.progress("peers", runs);
    let mut backlogs: Vec<Vec<Run>> = peers.iter().map(|_| Vec::new()).collect();
    let mut lives: Vec<Vec<Run>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (at, peer) in peers.iter().enumerate() {
            backlogs[at].push(backlog(peer, &corpus, dir.path(), bed)?);
            bar.inc(1);
            lives[at].push(live(peer, &workload, options.duration, bed)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let middle = |runs: &[Run], value: &dyn Fn(&Run) -> f64| {
        median(&mut runs.iter().map(value).collect::<Vec<f64>>())
    };
    // The product comes first: the others are multiples of it.
    let mut own = Vec::new();
    for ((peer, backlog), live) in peers.iter().zip(&backlogs).zip(&lives) {
        let group = format!("{} ({})", peer.name, peer.version());
        let mut figures = vec![
            Figure::less(
                "backlog: CPU seconds per million lines",
                middle(backlog, &|r| r.cpu / r.received.max(1) as f64 * 1e6),
                "s",
            ),
            Figure::more(
                "backlog: lines per second of wall time",
                middle(backlog, &|r| r.received as f64 / r.seconds),
                "lines/s",
            ),
            Figure::less("backlog: peak memory", middle(backlog, &|r| r.peak_mib), "MiB"),
            Figure::less("live: CPU", middle(live, &|r| r.cpu / r.seconds * 100.0), "% of a core"),
            Figure::less("live: peak memory", middle(live, &|r| r.peak_mib), "MiB"),
        ];
        for (at, (name, _)) in QUANTILES.iter().enumerate() {
            let ms = middle(live, &|r| r.latencies[at]);
            figures.push(Figure::less(format!("live: end to end {name}"), ms, "ms"));
        }
        if peer.name == OWN {
            own.clone_from(&figures);
        } else {
            let ratios: Vec<Figure> = figures
                .iter()
                .zip(&own)
                // Too little to be seen: CPU is counted in ticks of 10 ms.
                .filter(|(_, own)| own.value > 0.0)
                .map(|(theirs, own)| {
                    Figure::plain(
                        format!("{}, to {OWN}'s", theirs.name),
                        theirs.value / own.value,
                        "x",
                    )
                })
                .collect();
            figures.extend(ratios);
        }
        let all = || backlog.iter().chain(live);
        figures.extend([
            Figure::less(
                "lines lost, all runs",
                all().map(|r| r.lost).sum::<u64>() as f64,
                "lines",
            ),
            Figure::less(
                "lines repeated, all runs",
                all().map(|r| r.repeated).sum::<u64>() as f64,
                "lines",
            ),
        ]);
        report.add(&group, figures);
    }
    Ok(())
}

fn peers(options: &Options, bed: &Bed) -> Result<Vec<Peer>, Error> {
    let mut peers = vec![Peer::own(&bed.binary)];
    for (name, text) in NAMED {
        let peer = Peer::read(name, text)?;
        if peer.binary().is_some() {
            peers.push(peer);
        } else {
            eprintln!(
                "{name} ({}) is left out: {} is not on PATH",
                peer.about,
                peer.binaries.join(", ")
            );
        }
    }
    for path in &options.peer {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::File { path: path.clone(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let peer = Peer::read(&name, &text)?;
        if peer.binary().is_none() {
            return Err(Error::None(peer.binaries.join(", ")));
        }
        peers.push(peer);
    }
    if peers.len() == 1 {
        return Err(Error::None(NAMED.map(|(name, _)| name).join(", ")));
    }
    Ok(peers)
}

fn backlog(peer: &Peer, corpus: &Corpus, logs: &Path, bed: &Bed) -> Result<Run, RunError> {
    let dir = tempfile::tempdir()?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let start = Instant::now();
    let mut running = peer.start(logs, dir.path(), &stub)?;
    let seconds = await_all(&mut running, &stub, corpus.written.lines_in_all(), start)?;
    finish(peer, running, &stub, &corpus.written, Duration::ZERO, seconds)
}

fn live(peer: &Peer, workload: &Workload, time: Duration, bed: &Bed) -> Result<Run, RunError> {
    let dir = tempfile::tempdir()?;
    let logs = dir.path().join("logs");
    fs::create_dir(&logs)?;
    let stub = Stub::start(bed.stub_options(Accounting::PerLine))?;
    let workload = Workload { rotation: Rotation::Never, ..workload.clone() };
    // A line in each file first: what it takes to start is not measured.
    let before = Workload { rate: 1_000, ..workload.clone() };
    let first = u64::from(workload.files);
    let written = Writer::start(load::Options::live(&before, logs.clone(), first))?.wait()?;
    let mut running = peer.start(&logs, dir.path(), &stub)?;
    await_all(&mut running, &stub, written.lines_in_all(), Instant::now())?;
    let _ = stub.take_latency_window();
    let cpu = process_usage(running.child.id())?.cpu;
    let start = Instant::now();
    let lines = (workload.rate * time.as_secs().max(1)).max(first);
    let mut rest = load::Options::live(&workload, logs, lines);
    rest.first_sequence = 1;
    let mut written = Writer::start(rest)?.wait()?;
    let seconds = start.elapsed().as_secs_f64();
    let all: u64 = written.lines.iter().sum();
    await_all(&mut running, &stub, all, Instant::now())?;
    written.elapsed = start.elapsed();
    finish(peer, running, &stub, &written, cpu, seconds)
}

/// Seconds from `start` until all lines, or the last that came, were there.
fn await_all(running: &mut Running, stub: &Stub, lines: u64, start: Instant) -> Result<f64, Error> {
    let (mut received, mut news) = (0, Instant::now());
    loop {
        let now = stub.received_in_all();
        if now > received {
            (received, news) = (now, Instant::now());
        }
        if now >= lines || news.elapsed() > STALL {
            return Ok((news - start).as_secs_f64());
        }
        running.still_runs()?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn finish(
    peer: &Peer,
    running: Running,
    stub: &Stub,
    written: &load::Written,
    cpu_before: Duration,
    seconds: f64,
) -> Result<Run, RunError> {
    let usage = process_usage(running.child.id())?;
    let log = running.log.clone();
    running.stop();
    let verified = stub.verify(written);
    let text = fs::read_to_string(log).unwrap_or_default();
    if peer.name == OWN {
        require_exactly_once(&verified, &text)?;
    }
    require(verified.received > 0, || format!("{} delivered nothing\n{text}", peer.name))?;
    let window = stub.take_latency_window();
    Ok(Run {
        cpu: usage.cpu.saturating_sub(cpu_before).as_secs_f64(),
        seconds,
        peak_mib: mib(usage.rss_peak_bytes),
        received: verified.received,
        lost: verified.lost,
        repeated: verified.repeated,
        latencies: QUANTILES.map(|(_, quantile)| window.value_at_quantile(quantile) as f64 / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_that_comes_along_can_be_read() {
        for (name, text) in NAMED {
            let peer = Peer::read(name, text).unwrap();
            assert!(peer.config.contains("${logs}"), "{name}");
        }
        let error = Peer::read("x", "about = 3").unwrap_err().to_string();
        assert!(error.starts_with("peer x: "), "{error}");
    }
}
