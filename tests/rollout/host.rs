//! One host of a fleet: a directory, an instance with ports of its own, a Loki that keeps account, and load.

use bench::load::{self, Rotation, Workload, Writer};
use bench::product::Setup;
use bench::stub::{Accounting, Fault, Options, Stub, Verified};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long something that must happen is waited for. No test asserts a time.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const LINGER: &str = "linger: 50ms";
/// As the sink has it; a version that sends under another one is refused what was pushed.
const TENANT: &str = "${TENANT:-fleet}";
pub const OTHER_TENANT: &str = "other";
/// Lines a second into the files of one host, and how long there is between two pushes.
const FILE_RATE: u64 = 40;
const PUSH_INTERVAL: Duration = Duration::from_millis(100);

pub struct Host {
    pub name: String,
    pub dir: PathBuf,
    pub setup: Setup,
    pub stub: Stub,
    /// It asks for this one.
    token: Option<String>,
    load: Option<Load>,
}

struct Load {
    writer: Writer,
    stop: Arc<AtomicBool>,
    pusher: JoinHandle<BTreeSet<String>>,
}

impl Host {
    /// Runs `program`, under load. It asks who one is where there is a token, of which this is the line.
    pub fn start(
        fleet: &Path,
        name: &str,
        program: &Path,
        token: Option<(String, String)>,
    ) -> Host {
        let dir = fleet.join(name);
        let stub = Stub::start(Options {
            keep_entries: 100_000,
            auth: true,
            ..Options::new(Accounting::PerLine)
        });
        let stub = stub.unwrap();
        let refused = Fault::OfTenant {
            tenant: OTHER_TENANT.into(),
            fault: Box::new(Fault::Refuse {
                needle: format!(" to {name}"),
                status: 400,
                text: "no such lines here\n".into(),
                rest_stored: true,
            }),
        };
        stub.set_fault(refused);
        let mut setup = Setup::new(program, &dir, &stub.url());
        setup.sink_keys = vec![LINGER.into(), format!("tenant: {TENANT:?}")];
        setup.cores = "{ shards: 1 }".into();
        setup.wal = "{ bytes_max: 64MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
        (setup.server_listen, setup.metrics_listen) = (free(), free());
        let (token, line) = token.unzip();
        setup.server_keys =
            line.map(|line| format!("auth: {{ tokens: [{line}] }}")).into_iter().collect();
        fs::create_dir_all(setup.logs()).unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::copy(program, dir.join("bin/log-capturer")).unwrap();
        fs::write(dir.join("config.yaml"), setup.yaml()).unwrap();
        let mut host = Host { name: name.into(), dir, setup, stub, token, load: None };
        let started = Command::new(host.service("start").remove(0))
            .args(&host.service("start")[1..])
            .status();
        assert!(started.unwrap().success(), "{name} does not start\n{}", host.log());
        host.load = Some(host.begin());
        host
    }

    /// The command that starts or stops it.
    pub fn service(&self, action: &str) -> Vec<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rollout/service.sh");
        let port = self.setup.server_listen.rsplit(':').next().unwrap();
        let test = std::process::id().to_string();
        let words = [script.to_str().unwrap(), action, self.dir.to_str().unwrap(), port, &test];
        words.map(str::to_owned).into()
    }

    fn begin(&self) -> Load {
        let writer = Writer::start(load::Options {
            dir: self.setup.logs(),
            text: Workload::service().text,
            files: 2,
            rate: FILE_RATE,
            lines: u64::MAX,
            seed: 7,
            first_sequence: 0,
            lines_per_write: 1,
            rotation: Rotation::Never,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (url, name, until) = (self.url(), self.name.clone(), stop.clone());
        let agent = agent(self.token.as_deref());
        let pusher = std::thread::spawn(move || push(&agent, &url, &name, &until));
        Load { writer: writer.unwrap(), stop, pusher }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.setup.server_listen)
    }

    pub fn pid(&self) -> i32 {
        fs::read_to_string(self.dir.join("pid")).unwrap().trim().parse().unwrap()
    }

    /// What runs.
    pub fn version(&self) -> String {
        let answer = agent(self.token.as_deref()).get(format!("{}/version", self.url())).call();
        let said = answer.unwrap().body_mut().read_to_string().unwrap();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        said["version"].as_str().unwrap().to_owned()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("product.log")).unwrap_or_default()
    }

    /// Every line that was written, and every one that was acknowledged, has arrived.
    pub fn assert_nothing_is_lost(&mut self) -> Verified {
        let Load { writer, stop, pusher } = self.load.take().unwrap();
        let written = writer.stop().unwrap();
        stop.store(true, Ordering::Relaxed);
        let acknowledged = pusher.join().unwrap();
        let arrived = self.stub.wait_for_lines(written.lines_in_all(), PATIENCE);
        let verified = self.stub.verify(&written);
        assert!(
            arrived && verified.lost + verified.corrupted + verified.unwritten == 0,
            "{}: {verified:#?}\n{}",
            self.name,
            self.log()
        );
        let start = Instant::now();
        loop {
            let entries = self.stub.entries().into_iter();
            let there: BTreeSet<String> =
                entries.map(|of| String::from_utf8(of.line).unwrap()).collect();
            let lost = acknowledged.difference(&there).count();
            if lost == 0 {
                break;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{}: {lost} pushes are lost\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(acknowledged.len() > 100, "{}: hardly any load", self.name);
        verified
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(Load { stop, .. }) = &self.load {
            stop.store(true, Ordering::Relaxed);
        }
        let pid = fs::read_to_string(self.dir.join("pid")).ok();
        let pid = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            // It may have ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// One line after the other, each until it is acknowledged.
fn push(agent: &ureq::Agent, url: &str, name: &str, stop: &AtomicBool) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let line = format!("push {} to {name}", acknowledged.len());
        let sent = agent.post(format!("{url}/loki/api/v1/raw?job=pushed")).send(line.as_bytes());
        if sent.is_ok_and(|answer| answer.status() == 204) {
            acknowledged.insert(line);
        }
        std::thread::sleep(PUSH_INTERVAL);
    }
    acknowledged
}

fn agent(token: Option<&str>) -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let config = config.timeout_global(Some(PATIENCE));
    let Some(token) = token else { return config.build().into() };
    let bearer = format!("Bearer {token}");
    let with_it = move |mut asked: ureq::http::Request<ureq::SendBody>,
                        next: ureq::middleware::MiddlewareNext| {
        asked.headers_mut().insert("authorization", bearer.parse().unwrap());
        next.handle(asked)
    };
    config.middleware(with_it).build().into()
}

/// An address that nobody has now, and nobody is given who just connects: below what those get.
fn free() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let port = ports.find(|port| TcpListener::bind(address(*port)).is_ok());
    address(port.expect("one is free")).to_string()
}
