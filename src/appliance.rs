//! Start, run and stop: which threads there are, and what each is given.
//!
//! Threads: this one (signals, the watchdog, the deadline), `shard-N` (one for each shard, pinned),
//! `egress-S-N` (the senders of sink S, on the egress CPU), `discover` (on the egress CPU, too).

use crate::desk::{Desk, Slot};
use crate::dlq::Reason;
use crate::egress::Egress;
use crate::handoff::Lane;
use crate::ingest::{self, FileEvent, Links, ShardError, SinkLinks};
use crate::intake::{self, Intake};
use crate::monitor::{Board, INTERVAL, Monitor};
use crate::panel::Panel;
use crate::push::Client;
use crate::receive::{self, Receiver};
use crate::server::{self, Status};
use crate::sightings::Sightings;
use crate::state::{State, StateError};
use crate::{canary, discover, options, own_log, place, systemd};
use config::Config;
use io::format::{Cursor, FormatVersion};
use io::http::{self, Doorman};
use perf::errors::ErrorKey;
use perf::metrics::Metrics;
use perf::recorder::{Recorder, Times};
use shards::bell::Bell;
use shards::executor::{self, ExecutorError};
use shards::rate::Rates;
use shards::ring::Ring;
use shards::stop::{Phase, Stop};
use shards::topology::{self, Plan, TopologyError};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Why the appliance did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The operator has to change something: exit 78.
    #[error("{0}")]
    Setup(String),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("shard {shard}: {source}")]
    Shard { shard: usize, source: ShardError },
    #[error("discovery: {0}")]
    Discovery(String),
}

impl RunError {
    /// 78 (EX_CONFIG) where a restart changes nothing, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Setup(_) => 78,
            RunError::State(error) => error.exit_code(),
            RunError::Shard { source, .. } if source.is_setup() => 78,
            RunError::Shard { .. } | RunError::Discovery(_) => 1,
        }
    }
}

impl From<TopologyError> for RunError {
    fn from(error: TopologyError) -> RunError {
        RunError::Setup(error.to_string())
    }
}

impl From<ExecutorError> for RunError {
    fn from(error: ExecutorError) -> RunError {
        RunError::Setup(error.to_string())
    }
}

/// What the other threads tell this one.
enum Report {
    Recovered { cursors: Vec<Cursor> },
    Ended { shard: usize, result: Result<(), ShardError> },
    Discovered,
    DiscoveryFailed(String),
    Signal,
}

/// From discovery to one shard; where it is full, discovery waits.
const EVENTS_MAX: usize = 4096;
/// Registered with each shard's ring for direct I/O.
pub(crate) const IO_MEMORY_BYTES: usize = 4 << 20;
/// Connections that wait to be accepted; the kernel's net.core.somaxconn limits it further.
const LISTEN_BACKLOG: i32 = 4096;
/// What is left of the drain deadline for the last checkpoint.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// Runs until a signal, and then until everything is drained or the deadline is over.
pub fn run(config: &Config) -> Result<(), RunError> {
    abort_on_panic();
    let descriptors = raise_descriptors();
    executor::check_io_uring()?;
    let plan = Plan::of_this_machine(&options::topology(config))?;
    let _lock = lock_data_dir(&config.data_dir)?;
    let writes = format(&config.data_dir)?;
    let apis = bind_shared(config.server.listen, plan.shards.len(), "server.listen")?;
    let metrics_listener = bind(config.metrics.listen, "metrics.listen")?;
    let (report, reports) = mpsc::channel();
    forward_signals(report.clone())?;

    // Shards that an earlier run had and this one has not: their logs are sent all the same.
    let count = plan.shards.len().max(shards_on_disk(&config.data_dir)?);
    options::check_shares(config, count).map_err(RunError::Setup)?;
    let sinks: Vec<String> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
    let status = Arc::new(Status {
        ready: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
        metrics: metrics(config, count, &sinks),
        board: Board::default(),
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = ?plan.shards, egress = plan.egress, data_dir = %config.data_dir.display(),
        api = %apis[0].local_addr().map_err(|e| RunError::Setup(e.to_string()))?,
        metrics = %metrics_listener.local_addr().map_err(|e| RunError::Setup(e.to_string()))?,
        "starting"
    );

    let stop = Stop::default();
    let egress_bells: Vec<Arc<Bell>> = sinks.iter().map(|_| Arc::new(Bell::default())).collect();
    egress_bells.iter().for_each(|bell| stop.rings(bell.clone()));
    let links: Vec<Links> =
        (0..count).map(|shard| link(&sinks, &egress_bells, &stop, &status, shard)).collect();
    let slots = links.iter().flat_map(|links| links.sinks.iter().map(|sink| sink.slot.clone()));
    let desk = Arc::new(Desk::new(slots.collect()));
    let mut egresses = Vec::new();
    for (sink, bell) in egress_bells.into_iter().enumerate() {
        egresses.push(start_egress(config, sink, &plan, &links, bell, &stop)?);
    }
    let cpus = (0..count).map(|shard| plan.shards[shard % plan.shards.len()]).collect();
    let mut monitor = Monitor::new(
        options::monitor(config, cpus),
        status.clone(),
        egresses.clone(),
        desk.clone(),
    );
    // Whoever asks while the log is recovered finds a report.
    monitor.look(count);
    let panel = Arc::new(Panel {
        status: status.clone(),
        desk,
        egresses,
        listing: Arc::default(),
        egress_cpu: plan.egress,
        sightings: links.iter().map(|links| links.sightings.clone()).collect(),
        config: options::shown(config),
    });
    let (doorman, rates) =
        (Arc::new(options::doorman(config, descriptors)), Arc::new(options::rates(config)));
    let (mut apis, mut metrics_listener) = (apis.into_iter(), Some(metrics_listener));
    for (number, links) in links.iter().enumerate() {
        let cpu = plan.shards[number % plan.shards.len()];
        // Those that only send what an earlier run left have none.
        let api = apis.next().map(|listener| Api {
            listener,
            http: options::http(config),
            doorman: doorman.clone(),
            receive: options::receive(config, number, count),
            canary: options::canary(config, number),
            rates: rates.clone(),
        });
        let listeners = Listeners { api, metrics: metrics_listener.take() };
        let options = (options::shard(config, number, count, writes), options::intake(config));
        start_shard(options, cpu, links.clone(), listeners, &panel, report.clone())?;
    }

    let mut cursors = Vec::new();
    let mut run = Running { stop, status, monitor, alive: count, error: None, deadline: None };
    for _ in 0..count {
        match reports.recv() {
            Ok(Report::Recovered { cursors: more }) => cursors.extend(more),
            Ok(other) => {
                // Stopped, or failed, before it began.
                run.take(other, config.drain_timeout);
                return run.finish(&reports, config.drain_timeout);
            }
            Err(_) => unreachable!("this thread holds a sender"),
        }
    }
    start_discovery(config, &plan, links, cursors, &run, report)?;
    run.finish(&reports, config.drain_timeout)
}

/// The state of this thread once all others run.
struct Running {
    stop: Stop,
    status: Arc<Status>,
    monitor: Monitor,
    alive: usize,
    error: Option<RunError>,
    deadline: Option<Instant>,
}

impl Running {
    fn finish(
        mut self,
        reports: &mpsc::Receiver<Report>,
        drain_timeout: Duration,
    ) -> Result<(), RunError> {
        let interval = systemd::watchdog_interval().unwrap_or(INTERVAL).min(INTERVAL);
        let mut look_at = Instant::now();
        while self.alive > 0 {
            let now = Instant::now();
            if look_at <= now {
                self.monitor.look(self.alive);
                look_at = now + interval;
            }
            let next = self.deadline.into_iter().chain([look_at]).min().expect("one at least");
            let wait = next.saturating_duration_since(Instant::now());
            match reports.recv_timeout(wait) {
                Ok(report) => self.take(report, drain_timeout),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.monitor.is_live() {
                systemd::alive();
            }
            if self.deadline.is_some_and(|at| at <= Instant::now()) {
                if self.stop.phase() == Phase::Leaving {
                    tracing::warn!(
                        error_key = ErrorKey::DrainCutShort.name(),
                        "a shard did not end in time; what is durable stays so"
                    );
                    break;
                }
                tracing::info!("the drain deadline is over; the rest stays in the log");
                self.stop.advance(Phase::Leaving);
                self.deadline = Some(Instant::now() + LEAVE_TIME);
            }
        }
        self.stop.advance(Phase::Leaving);
        match self.error {
            None => {
                tracing::info!("stopped");
                Ok(())
            }
            Some(error) => Err(error),
        }
    }

    fn take(&mut self, report: Report, drain_timeout: Duration) {
        match report {
            Report::Recovered { .. } => {}
            Report::Discovered => {
                if self.stop.phase() == Phase::Running {
                    self.status.ready.store(true, Ordering::Release);
                    self.monitor.look(self.alive);
                    systemd::ready();
                    tracing::info!("ready");
                }
            }
            Report::Signal if self.stop.phase() > Phase::Running => {
                tracing::warn!(
                    error_key = ErrorKey::DrainCutShort.name(),
                    "a second signal: leaving at once; what is durable stays so"
                );
                own_log::finish();
                std::process::exit(130);
            }
            Report::Signal => {
                tracing::info!(?drain_timeout, "stopping: sources are closed, the log drains");
                self.drain(drain_timeout);
            }
            Report::Ended { shard, result } => {
                self.alive -= 1;
                if let Err(source) = result {
                    tracing::error!(
                        error_key = ErrorKey::ShardFailed.name(),
                        shard, error = %source,
                        "a shard failed; stopping"
                    );
                    self.error.get_or_insert(RunError::Shard { shard, source });
                    self.drain(drain_timeout);
                }
            }
            Report::DiscoveryFailed(error) => {
                tracing::error!(
                    error_key = ErrorKey::DiscoveryFailed.name(),
                    error,
                    "discovery failed; stopping"
                );
                self.error.get_or_insert(RunError::Discovery(error));
                self.drain(drain_timeout);
            }
        }
    }

    fn drain(&mut self, drain_timeout: Duration) {
        self.status.ready.store(false, Ordering::Release);
        self.status.stopping.store(true, Ordering::Release);
        systemd::stopping();
        self.stop.advance(Phase::Draining);
        let time = drain_timeout.saturating_sub(LEAVE_TIME.min(drain_timeout / 4));
        self.deadline.get_or_insert(Instant::now() + time);
    }
}

/// With what is known from the start.
fn metrics(config: &Config, shards: usize, sinks: &[String]) -> Metrics {
    let times = Times::new(shards, sinks.len(), config.slo.latency, config.metrics.latency);
    let reasons: Vec<&str> = Reason::names().chain(["other"]).collect();
    let metrics = Metrics::new(shards, sinks, &reasons, times);
    let version = env!("CARGO_PKG_VERSION");
    metrics.info("log_capturer_build_info", "Constant 1; what runs.", "version", version);
    let hash = options::hash(config);
    let help = "Constant 1; a hash of the configuration in force, without its secrets.";
    metrics.info("log_capturer_config_info", help, "hash", &hash);
    // Each is there before it happens: else nobody would see the first.
    let receive = metrics.receive();
    receive::admit::REASONS.iter().for_each(|reason| receive.refused(reason, 0));
    metrics.whole.reloads.inc();
    metrics.whole.reload_successful.set(1);
    metrics.whole.reload_success_time.set((perf::clock::unix_ns() / 1_000_000) as f64 / 1e3);
    metrics
}

fn link(
    sinks: &[String],
    egress_bells: &[Arc<Bell>],
    stop: &Stop,
    status: &Status,
    shard: usize,
) -> Links {
    let (source_bell, ack_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    stop.rings(source_bell.clone());
    stop.rings(ack_bell.clone());
    let metrics = &status.metrics;
    Links {
        events: Arc::new(Ring::new(EVENTS_MAX, source_bell.clone())),
        sightings: Arc::new(Sightings::new(source_bell.clone())),
        source_bell,
        sinks: sinks
            .iter()
            .zip(egress_bells)
            .enumerate()
            .map(|(at, (sink, egress_bell))| {
                let lane = || Arc::new(Lane::new(egress_bell.clone(), ack_bell.clone()));
                SinkLinks {
                    lane: lane(),
                    replays: lane(),
                    slot: Arc::new(Slot::new(shard, sink, ack_bell.clone())),
                    counts: metrics.sinks[at].clone(),
                    dead: metrics.dlq[at].clone(),
                    route: metrics.routes[shard][at].clone(),
                    times: metrics.times.sink(at),
                }
            })
            .collect(),
        ack_bell,
        stop: stop.clone(),
        times: metrics.times.shard(shard),
        counts: metrics.shards[shard].clone(),
    }
}

fn start_egress(
    config: &Config,
    sink: usize,
    plan: &Plan,
    links: &[Links],
    bell: Arc<Bell>,
    stop: &Stop,
) -> Result<Arc<Egress>, RunError> {
    let client = options::client(&config.sinks[sink]);
    let senders = client.connections;
    let links = || links.iter().map(|links| &links.sinks[sink]);
    let first = links().next().expect("there is a shard");
    let (counts, times) = (first.counts.clone(), first.times.clone());
    let lanes = links().flat_map(|sink| [sink.lane.clone(), sink.replays.clone()]);
    let egress = Arc::new(Egress::new(
        lanes.collect(),
        Client::new(&client).map_err(RunError::Setup)?,
        options::egress(&config.sinks[sink], links().count()),
        bell,
        stop.clone(),
        counts,
        times,
    ));
    for number in 0..senders {
        let (egress, cpu) = (egress.clone(), plan.egress);
        // Never joined: a sender may be inside a push when the process leaves, and that push is
        // sent again by the next run.
        spawn(&format!("egress-{sink}-{number}"), move || {
            pin(cpu);
            egress.run();
        });
    }
    Ok(egress)
}

/// What one shard listens on.
struct Listeners {
    api: Option<Api>,
    metrics: Option<TcpListener>,
}

struct Api {
    listener: TcpListener,
    http: http::Options,
    doorman: Arc<Doorman>,
    receive: receive::Options,
    canary: Option<canary::Options>,
    rates: Arc<Rates>,
}

fn start_shard(
    (options, intake): (ingest::Options, intake::Options),
    cpu: usize,
    links: Links,
    listeners: Listeners,
    panel: &Arc<Panel>,
    report: mpsc::Sender<Report>,
) -> Result<(), RunError> {
    let panel = panel.clone();
    let shard = options.number;
    let executor =
        executor::Options { name: format!("shard-{shard}"), cpu, io_memory_bytes: IO_MEMORY_BYTES };
    let handle = executor::spawn(&executor, move || async move {
        let intake = Rc::new(Intake::new(intake));
        let times = Rc::new(Recorder::new(links.times.clone()));
        if let Some(Api { listener, http, doorman, receive, canary, rates }) = listeners.api {
            let (counts, requests) = (links.counts.clone(), panel.status.metrics.receive());
            let (intake, times) = (intake.clone(), times.clone());
            let receiver =
                Rc::new(Receiver::new(receive, intake, rates, counts.clone(), requests, times));
            if let Some(options) = canary {
                let stop = links.stop.clone();
                let canary = canary::run(options, receiver.clone(), counts, stop);
                glommio::spawn_local(canary).detach();
            }
            server::serve_api(listener, http, doorman, panel.clone(), receiver);
        }
        if let Some(listener) = listeners.metrics {
            server::serve_metrics(listener, panel.status.clone());
        }
        let recovered = report.clone();
        let result = ingest::run(options, links, intake, times, move |found| {
            // Nobody listens any more where the process is leaving.
            let _ = recovered.send(Report::Recovered { cursors: found.cursors });
        })
        .await;
        let _ = report.send(Report::Ended { shard, result });
    })?;
    // Its end is reported, not joined: a shard that hangs must not hold up the exit.
    drop(handle);
    Ok(())
}

fn start_discovery(
    config: &Config,
    plan: &Plan,
    links: Vec<Links>,
    cursors: Vec<Cursor>,
    run: &Running,
    report: mpsc::Sender<Report>,
) -> Result<(), RunError> {
    let events: Vec<Arc<Ring<FileEvent>>> = links.into_iter().map(|links| links.events).collect();
    let (stop, status, cpu) = (run.stop.clone(), run.status.clone(), plan.egress);
    let options = options::discovery(config);
    let discovery = discover::Discovery::new(options, cursors, events, plan.shards.len())
        .map_err(|error| RunError::Setup(error.to_string()))?;
    spawn("discover", move || {
        pin(cpu);
        let ready = report.clone();
        let ended = discovery.run(&stop, &status.metrics, move || {
            let _ = ready.send(Report::Discovered);
        });
        if let Err(error) = ended {
            let _ = report.send(Report::DiscoveryFailed(error.to_string()));
        }
    });
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 << 10)
        .spawn(work)
        .expect("a thread can be started");
}

fn pin(cpu: usize) {
    if let Err(error) = topology::pin(cpu) {
        tracing::warn!(
            error_key = ErrorKey::ThreadUnpinned.name(),
            cpu, %error,
            "a thread cannot be pinned; it runs anywhere"
        );
    }
}

fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).map_err(|error| cannot_listen(address, key, &error))
}

fn cannot_listen(address: SocketAddr, key: &str, error: &std::io::Error) -> RunError {
    RunError::Setup(format!(
        "{key}: cannot listen on {address}: {error}; is another instance running? choose \
         another address or stop it"
    ))
}

/// As many listeners on one address: the kernel spreads connections over them.
fn bind_shared(address: SocketAddr, count: usize, key: &str) -> Result<Vec<TcpListener>, RunError> {
    // Sharing is for this process alone: another that listens already is not to be joined.
    drop(bind(address, key)?);
    let mut address = address;
    let mut listeners = Vec::new();
    for _ in 0..count {
        let listener =
            shared_listener(address).map_err(|error| cannot_listen(address, key, &error))?;
        address = listener.local_addr().map_err(|error| cannot_listen(address, key, &error))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn shared_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{self, AddressFamily, SocketType, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = net::SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// How many descriptors this process may have: as many as it is allowed to, and not the few that shells
/// and service managers give by default for the sake of old programs.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    (if raised { limit.maximum } else { before }).unwrap_or(u64::MAX)
}

/// A panic is a bug, and a thread less would be an appliance that stands still and looks well: it ends
/// the process instead. What is durable stays so, and the service manager starts it again.
fn abort_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if own_log::is_started() {
            own_log::panicked(panic);
        } else {
            say(panic);
        }
        std::process::abort();
    }));
}

fn forward_signals(report: mpsc::Sender<Report>) -> Result<(), RunError> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .map_err(|error| RunError::Setup(format!("signals cannot be handled: {error}")))?;
    spawn("signals", move || {
        for _ in signals.forever() {
            if report.send(Report::Signal).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Makes `data_dir` where it is missing, and keeps everyone else out while this process runs.
fn lock_data_dir(data_dir: &Path) -> Result<fs::File, RunError> {
    let setup = |what: String| RunError::Setup(what);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|error| {
        setup(format!("data_dir {}: cannot be made: {error}", data_dir.display()))
    })?;
    let meta = fs::metadata(data_dir)
        .map_err(|error| setup(format!("data_dir {}: {error}", data_dir.display())))?;
    place::check_mode(data_dir, meta.mode()).map_err(setup)?;
    let path = data_dir.join("lock");
    let file = fs::File::create(&path).map_err(|error| {
        setup(format!("{}: {error}; data_dir has to be writable", path.display()))
    })?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => setup(format!(
            "data_dir {} is in use by another log-capturer; stop it, or give this one a data_dir \
             of its own",
            data_dir.display()
        )),
        fs::TryLockError::Error(error) => setup(format!("{}: {error}", path.display())),
    })?;
    Ok(file)
}

/// Before any shard starts and changes its own log: all of them are of a format that this program reads.
/// Which one is written.
fn format(data_dir: &Path) -> Result<FormatVersion, RunError> {
    let state = State::read(data_dir)?;
    state.check()?;
    let writes = state.settle(data_dir);
    if writes < FormatVersion::NEWEST {
        tracing::info!(
            format = writes.number(),
            newest = FormatVersion::NEWEST.number(),
            "an older format is written, so that the version before this one can be started again; once it \
             is not to be, stop this one and run: log-capturer state finalize --data-dir {}",
            data_dir.display()
        );
    }
    Ok(writes)
}

/// Those of earlier runs.
fn shards_on_disk(data_dir: &Path) -> Result<usize, RunError> {
    place::shards_before(data_dir)
        .map_err(|error| RunError::Setup(format!("data_dir {}: {error}", data_dir.display())))
}
