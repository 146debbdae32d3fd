//! The product as a process: started on a configuration, watched, stopped and killed.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const NAME: &str = "log-capturer";
const START_TIME_MAX: Duration = Duration::from_secs(20);
const WAIT_STEP: Duration = Duration::from_millis(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{NAME} was not found in {looked}: build it (cargo build --release), or set \
         LOG_CAPTURER_BIN"
    )]
    NotFound { looked: String },
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{NAME} did not start: {status}\n{log}")]
    Exited { status: ExitStatus, log: String },
    #[error("{NAME} was not ready within {START_TIME_MAX:?}\n{log}")]
    NotReady { log: String },
    #[error("{NAME} did not end within {limit:?}\n{log}")]
    NotEnded { limit: Duration, log: String },
    #[error("{url}: {source}")]
    Http { url: String, source: Box<ureq::Error> },
    #[error("/proc tells nothing of process {pid}: {source}: has it ended?")]
    Proc { pid: u32, source: io::Error },
}

/// Where the product is: LOG_CAPTURER_BIN, beside this program, or in the target directory.
pub fn find() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("LOG_CAPTURER_BIN") {
        return Ok(path.into());
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let target = Path::new("target/release").join(NAME);
    let looked: Vec<PathBuf> = beside.into_iter().chain([target]).collect();
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::NotFound { looked: format!("{looked:?}") }),
    }
}

/// What the product is started with. The texts are YAML, put in as they are.
#[derive(Debug, Clone)]
pub struct Setup {
    pub binary: PathBuf,
    /// Holds `data/`, `config.yaml` and `product.log`.
    pub dir: PathBuf,
    pub include: Vec<String>,
    /// More keys of the one entry of `sources.files`, each on a line of its own.
    pub file_keys: Vec<String>,
    pub url: String,
    /// More keys of the sink.
    pub sink_keys: Vec<String>,
    /// More sinks, each a line such as `other: { type: loki, url: "http://127.0.0.1:3100" }`.
    pub more_sinks: Vec<String>,
    pub server_listen: String,
    /// More keys of `server`.
    pub server_keys: Vec<String>,
    pub metrics_listen: String,
    /// More keys of `metrics`.
    pub metrics_keys: Vec<String>,
    /// More sections, each a line such as `canary: { enabled: true }`.
    pub more: Vec<String>,
    pub cores: String,
    pub wal: String,
    pub drain_timeout: String,
    /// The CPUs that the process may use; all where it is empty.
    pub cpus: Vec<usize>,
    /// More of its environment.
    pub env: Vec<(String, String)>,
}

impl Setup {
    #[must_use]
    pub fn new(binary: &Path, dir: &Path, url: &str) -> Setup {
        Setup {
            binary: binary.into(),
            dir: dir.into(),
            include: vec![dir.join("logs/*.log").display().to_string()],
            file_keys: Vec::new(),
            url: url.into(),
            sink_keys: Vec::new(),
            more_sinks: Vec::new(),
            server_listen: "127.0.0.1:0".into(),
            server_keys: Vec::new(),
            metrics_listen: "127.0.0.1:0".into(),
            metrics_keys: Vec::new(),
            more: Vec::new(),
            cores: "{}".into(),
            wal: "{}".into(),
            drain_timeout: "10s".into(),
            cpus: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Where the log files of the default `include` are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    #[must_use]
    pub fn yaml(&self) -> String {
        let file_keys: String = self.file_keys.iter().map(|key| format!("      {key}\n")).collect();
        let sink_keys: String = self.sink_keys.iter().map(|key| format!("    {key}\n")).collect();
        let more_sinks: String = self.more_sinks.iter().map(|sink| format!("  {sink}\n")).collect();
        let server_keys: String = self.server_keys.iter().map(|key| format!("  {key}\n")).collect();
        let metrics_keys: String =
            self.metrics_keys.iter().map(|key| format!("  {key}\n")).collect();
        let more: String = self.more.iter().map(|section| format!("{section}\n")).collect();
        format!(
            "version: 1\ndata_dir: {:?}\ndrain_timeout: {}\ncores: {}\nsources:\n  files:\n    \
             - include: {:?}\n{file_keys}sinks:\n  loki:\n    url: {:?}\n{sink_keys}{more_sinks}wal: {}\n\
             server:\n  listen: {:?}\n{server_keys}\
             metrics:\n  listen: {:?}\n{metrics_keys}{more}",
            self.data_dir(),
            self.drain_timeout,
            self.cores,
            self.include,
            self.url,
            self.wal,
            self.server_listen,
            self.metrics_listen,
        )
    }
}

/// A running product; killed when it is dropped.
pub struct Product {
    child: Child,
    log: PathBuf,
    log_start: u64,
    pub api: SocketAddr,
    pub metrics: SocketAddr,
}

/// What the process took so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub rss_bytes: u64,
    pub rss_peak_bytes: u64,
    pub descriptors: u64,
}

impl Product {
    /// Starts it and waits until it is ready.
    pub fn start(setup: &Setup) -> Result<Product, Error> {
        let mut product = Product::spawn(setup)?;
        let start = Instant::now();
        while !product.is_ready() {
            product.still_runs()?;
            if start.elapsed() > START_TIME_MAX {
                return Err(Error::NotReady { log: product.log() });
            }
            std::thread::sleep(WAIT_STEP);
        }
        Ok(product)
    }

    /// Starts it and waits until its addresses are known.
    pub fn spawn(setup: &Setup) -> Result<Product, Error> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        fs::create_dir_all(setup.logs()).map_err(file("create", &setup.logs()))?;
        let config = setup.dir.join("config.yaml");
        fs::write(&config, setup.yaml()).map_err(file("write", &config))?;
        let log = setup.dir.join("product.log");
        let output =
            File::options().create(true).append(true).open(&log).map_err(file("create", &log))?;
        let log_start = output.metadata().map_or(0, |meta| meta.len());
        let mut command = if setup.cpus.is_empty() {
            Command::new(&setup.binary)
        } else {
            let cpus: Vec<String> = setup.cpus.iter().map(usize::to_string).collect();
            let mut command = Command::new("taskset");
            command.arg("-c").arg(cpus.join(",")).arg(&setup.binary);
            command
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .envs(setup.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(file("run", &setup.binary))?;
        let unknown = SocketAddr::from(([0; 4], 0));
        let mut product = Product { child, log, log_start, api: unknown, metrics: unknown };
        let start = Instant::now();
        loop {
            let log = product.log();
            if let (Some(api), Some(metrics)) = (address(&log, "api"), address(&log, "metrics")) {
                (product.api, product.metrics) = (api, metrics);
                return Ok(product);
            }
            product.still_runs()?;
            if start.elapsed() > START_TIME_MAX {
                return Err(Error::NotReady { log });
            }
            std::thread::sleep(WAIT_STEP);
        }
    }

    fn still_runs(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Error::Exited { status, log: self.log() }),
            _ => Ok(()),
        }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said since it was started.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(self.log_start).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        ureq::get(format!("http://{}/ready", self.api)).call().is_ok()
    }

    /// All metrics in Prometheus' text format.
    pub fn metrics_text(&self) -> Result<String, Error> {
        let url = format!("http://{}/metrics", self.metrics);
        ureq::get(&url)
            .call()
            .and_then(|mut response| response.body_mut().read_to_string())
            .map_err(|source| Error::Http { url, source: Box::new(source) })
    }

    /// A metric, or those of it with a label (`name{label="value"}`), summed over its labels; 0 where it is
    /// not there.
    pub fn metric(&self, name: &str) -> Result<f64, Error> {
        Ok(metric(&self.metrics_text()?, name))
    }

    pub fn usage(&self) -> Result<Usage, Error> {
        usage(self.pid()).map_err(|source| Error::Proc { pid: self.pid(), source })
    }

    /// CPU time of the threads whose names begin so.
    pub fn thread_cpu(&self, name: &str) -> Result<Duration, Error> {
        thread_cpu(self.pid(), |thread| thread.starts_with(name))
            .map_err(|source| Error::Proc { pid: self.pid(), source })
    }

    /// From now on, the peak of the memory is counted anew.
    pub fn forget_peak(&self) -> Result<(), Error> {
        let pid = self.pid();
        fs::write(format!("/proc/{pid}/clear_refs"), "5")
            .map_err(|source| Error::Proc { pid, source })
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = kill_process(pid.expect("a process id"), signal);
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(self, limit: Duration) -> Result<ExitStatus, Error> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    pub fn wait(mut self, limit: Duration) -> Result<ExitStatus, Error> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(Error::NotEnded { limit, log: self.log() });
            }
            std::thread::sleep(WAIT_STEP);
        }
    }

    /// kill -9.
    pub fn kill(self) {
        drop(self);
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In any of the log's formats.
fn address(log: &str, name: &str) -> Option<SocketAddr> {
    let after = |before: String| log.find(&before).map(|at| at + before.len());
    let at = after(format!(" {name}=")).or_else(|| after(format!("\"{name}\":\"")))?;
    log[at..].split(|c: char| c.is_whitespace() || c == '"').next()?.parse().ok()
}

#[must_use]
pub fn metric(text: &str, name: &str) -> f64 {
    let (name, label) = name.split_once('{').unwrap_or((name, ""));
    let label = label.trim_end_matches('}');
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(labels) => labels.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            if labels.contains(label) { value.parse::<f64>().ok() } else { None }
        })
        .sum()
}

/// A metric's value that is a count: whole, and never below 0.
#[must_use]
pub fn whole(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = value as u64;
    whole
}

/// To the nanosecond, of the threads that there are; the product's stay.
pub fn usage(pid: u32) -> io::Result<Usage> {
    Ok(Usage { cpu: thread_cpu(pid, |_| true)?, ..process_usage(pid)? })
}

fn thread_cpu(pid: u32, counts: impl Fn(&str) -> bool) -> io::Result<Duration> {
    let mut cpu_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread that has just ended has nothing to tell.
        let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
        if counts(read("comm").trim_end()) {
            let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            cpu_ns += ns.unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(cpu_ns))
}

/// Of any process: CPU in clock ticks, threads that have ended included.
pub fn process_usage(pid: u32) -> io::Result<Usage> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(proc.join("stat"))?;
    // Behind the name, which may hold anything; utime and stime are the 12th and 13th from there.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    let cpu =
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    let status = fs::read_to_string(proc.join("status"))?;
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    Ok(Usage {
        cpu,
        rss_bytes: kib("VmRSS:"),
        rss_peak_bytes: kib("VmHWM:"),
        descriptors: fs::read_dir(proc.join("fd"))?.count() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# HELP a b\na{shard=\"0\"} 3\na{shard=\"1\"} 4\nab{shard=\"0\"} 9\nc 1.5\n";
        assert_eq!((metric(text, "a"), metric(text, "c"), metric(text, "d")), (7.0, 1.5, 0.0));
        assert_eq!(metric(text, "a{shard=\"1\"}"), 4.0);
    }

    #[test]
    fn addresses_are_found_in_the_log() {
        let log = "x INFO starting shards=[0] api=127.0.0.1:84 metrics=[::1]:80\n";
        assert_eq!(address(log, "api"), Some("127.0.0.1:84".parse().unwrap()));
        assert_eq!(address(log, "metrics"), Some("[::1]:80".parse().unwrap()));
        let log = "{\"msg\":\"starting\",\"api\":\"127.0.0.1:84\",\"metrics\":\"[::1]:80\"}\n";
        assert_eq!(address(log, "api"), Some("127.0.0.1:84".parse().unwrap()));
        assert_eq!(address(log, "metrics"), Some("[::1]:80".parse().unwrap()));
    }

    #[test]
    fn a_process_tells_what_it_took() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.rss_peak_bytes >= own.rss_bytes && own.rss_bytes > 0);
        assert!(own.descriptors >= 3);
    }
}
