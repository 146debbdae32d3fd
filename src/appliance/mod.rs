//! Start, run and stop: which threads there are, and what each is given.
//!
//! Threads: this one (signals, the watchdog, the deadline, changes of the configuration), `shard-N` (one
//! for each shard, pinned), `egress-S-N` (the senders of sink S, on the egress CPU), `discover` (on the
//! egress CPU, too).
//!
//! What stands on one configuration is a [`generation::Generation`]. Where another configuration takes
//! over, a generation makes way for the next as if the process stopped and started again: what is in is
//! made durable, pushes under way are answered, and the next one recovers the log. So there is one way in
//! which anything begins, for every key. Shards' threads, listeners and connections stay.

mod generation;
mod ground;

use crate::entrance::Entrance;
use crate::guard::audit::{Audit, Entry};
use crate::guard::{Guard, Listener, Post, Prepared};
use crate::ingest::ShardError;
use crate::monitor::{INTERVAL, Monitor};
use crate::panel::{Control, Panels, status_of};
use crate::settings::{Asked, Outcome, Settings};
use crate::state::StateError;
use crate::{options, own_log, server, systemd};
use config::Config;
use generation::{Clients, Generation, Work};
use ground::{Ground, Listeners};
use io::format::Cursor;
use io::http::{self, Doorman};
use perf::errors::ErrorKey;
use shards::bell::Bell;
use shards::executor::{self, ExecutorError};
use shards::ring::Ring;
use shards::stop::Phase;
use shards::topology::{self, TopologyError};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
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
pub enum Report {
    Recovered {
        cursors: Vec<Cursor>,
    },
    Ended {
        shard: usize,
        result: Result<(), ShardError>,
    },
    Discovered {
        generation: u64,
    },
    DiscoveryFailed {
        generation: u64,
        error: String,
    },
    Stop,
    /// Another configuration is to be put in force.
    Change(Asked),
}

/// Registered with each shard's ring for direct I/O.
pub(crate) const IO_MEMORY_BYTES: usize = 4 << 20;
/// What is left of the drain deadline for the last checkpoint.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// How long the configuration in force may take to make way: pushes and requests that take longer are
/// broken off, and made again by whoever made them.
const YIELD_TIME: Duration = Duration::from_secs(5);

/// Runs until a signal, and then until everything is drained or the deadline is over.
pub fn run(settings: Settings) -> Result<(), RunError> {
    abort_on_panic();
    let config = settings.in_force();
    let (ground, listeners) = Ground::take(&config)?;
    let (report, reports) = mpsc::channel();
    let guard = Arc::new(guard(&config)?);
    forward_signals(report.clone(), guard.clone())?;
    tracing::info!(
        version = crate::version(),
        shards = ?ground.plan.shards, egress = ground.plan.egress,
        data_dir = %config.data_dir.display(),
        api = %address(&listeners.apis[0])?,
        metrics = %address(&listeners.metrics)?,
        "starting"
    );
    settings.started();
    let generation = Generation::new(config.clone(), Clients::of(&config)?, &ground, None);
    let cpus = (0..ground.shards).map(|shard| ground.cpu(shard)).collect();
    let mut monitor = Monitor::new(
        options::monitor(&config, cpus),
        generation.status.clone(),
        generation.egresses.clone(),
        generation.desk.clone(),
    );
    // Whoever asks while the log is recovered finds a report.
    monitor.look(ground.shards, true);
    let control = Arc::new(Control::new(report.clone()));
    let panels = Arc::new(Panels::new(generation.panel(&ground, &control, &guard)));
    let works = start_shards(&ground, &config, listeners, (&panels, &guard), &report)?;
    let mut run = Running {
        ground,
        settings,
        generation,
        monitor,
        panels,
        control,
        guard,
        works,
        report,
        alive: 0,
        cursors: Vec::new(),
        recovered: 0,
        next: None,
        pending: None,
        error: None,
        deadline: None,
    };
    run.begin();
    run.finish(&reports)
}

fn address(listener: &TcpListener) -> Result<std::net::SocketAddr, RunError> {
    listener.local_addr().map_err(|error| RunError::Setup(error.to_string()))
}

/// The state of this thread.
struct Running {
    ground: Ground,
    settings: Settings,
    generation: Generation,
    monitor: Monitor,
    panels: Arc<Panels>,
    control: Arc<Control>,
    guard: Arc<Guard>,
    /// To each shard.
    works: Vec<Arc<Ring<Work>>>,
    report: mpsc::Sender<Report>,
    /// Shards of this generation that have not ended.
    alive: usize,
    cursors: Vec<Cursor>,
    recovered: usize,
    /// What takes over once they have.
    next: Option<Next>,
    /// What is in force as soon as it is ready, and what is different then.
    pending: Option<Asked>,
    error: Option<RunError>,
    deadline: Option<Instant>,
}

struct Next {
    config: Arc<Config>,
    clients: Clients,
    guard: Prepared,
    asked: Asked,
}

impl Running {
    /// Sets this generation to work.
    fn begin(&mut self) {
        self.alive = self.ground.shards;
        (self.recovered, self.deadline) = (0, None);
        self.cursors.clear();
        self.generation.start_senders(&self.ground);
        for (shard, work) in self.works.iter().zip(self.generation.works(&self.ground)) {
            assert!(shard.push(work).is_ok(), "a shard has one work at a time");
        }
    }

    fn finish(mut self, reports: &mpsc::Receiver<Report>) -> Result<(), RunError> {
        let interval = systemd::watchdog_interval().unwrap_or(INTERVAL).min(INTERVAL);
        let mut look_at = Instant::now();
        while self.goes_on() {
            let now = Instant::now();
            if look_at <= now {
                self.look();
                self.watch_settings();
                look_at = now + interval;
            }
            let next = self.deadline.into_iter().chain([look_at]).min().expect("one at least");
            let wait = next.saturating_duration_since(Instant::now());
            match reports.recv_timeout(wait) {
                Ok(report) => self.take(report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("this thread holds a sender"),
            }
            if self.monitor.is_live() {
                systemd::alive();
            }
            if self.deadline.is_some_and(|at| at <= Instant::now()) && !self.hurry() {
                break;
            }
        }
        self.generation.stop.advance(Phase::Leaving);
        match self.error {
            None => {
                tracing::info!("stopped");
                Ok(())
            }
            Some(error) => Err(error),
        }
    }

    /// Whether there is anything left to wait for. Where all shards have made way, the next generation
    /// begins.
    fn goes_on(&mut self) -> bool {
        if self.alive > 0 {
            return true;
        }
        let Some(next) = self.next.take() else { return false };
        if self.error.is_some() {
            next.asked.answer(Outcome::Failed("the process stops".into()));
            return false;
        }
        self.put_in_force(next);
        true
    }

    /// The deadline is over: false where there is nothing left to do about it.
    fn hurry(&mut self) -> bool {
        let makes_way = self.next.is_some();
        if self.phase() == Phase::Leaving && makes_way {
            // It ends, and only then may others have the log; the watchdog sees to one that does not.
            self.deadline = None;
            return true;
        }
        if self.phase() == Phase::Leaving {
            tracing::warn!(
                error_key = ErrorKey::DrainCutShort.name(),
                "a shard did not end in time; what is durable stays so"
            );
            return false;
        }
        if makes_way {
            tracing::warn!(
                error_key = ErrorKey::DrainCutShort.name(),
                "making way takes too long: pushes and requests under way are broken off"
            );
        } else {
            tracing::info!("the drain deadline is over; the rest stays in the log");
        }
        self.generation.stop.advance(Phase::Leaving);
        self.deadline = Some(Instant::now() + LEAVE_TIME);
        true
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Recovered { cursors } => {
                self.cursors.extend(cursors);
                self.recovered += 1;
                if self.recovered == self.ground.shards && self.phase() == Phase::Running {
                    self.discover();
                }
            }
            Report::Discovered { generation } => {
                if generation == self.generation.number && self.phase() == Phase::Running {
                    self.ready();
                }
            }
            Report::Stop if self.generation.status.stopping.load(Ordering::Acquire) => {
                tracing::warn!(
                    error_key = ErrorKey::DrainCutShort.name(),
                    "a second signal: leaving at once; what is durable stays so"
                );
                own_log::finish();
                std::process::exit(130);
            }
            Report::Stop => {
                let drain_timeout = self.generation.config.drain_timeout;
                tracing::info!(?drain_timeout, "stopping: sources are closed, the log drains");
                self.drain();
            }
            Report::Change(asked) => self.change(asked),
            Report::Ended { shard, result } => {
                self.alive -= 1;
                if let Err(source) = result {
                    tracing::error!(
                        error_key = ErrorKey::ShardFailed.name(),
                        shard, error = %source,
                        "a shard failed; stopping"
                    );
                    self.fail(RunError::Shard { shard, source });
                }
            }
            Report::DiscoveryFailed { generation, .. } if generation != self.generation.number => {}
            Report::DiscoveryFailed { error, .. } => {
                tracing::error!(
                    error_key = ErrorKey::DiscoveryFailed.name(),
                    error,
                    "discovery failed; stopping"
                );
                self.fail(RunError::Discovery(error));
            }
        }
    }

    fn ready(&mut self) {
        self.generation.status.ready.store(true, Ordering::Release);
        self.generation.show_success();
        self.look();
        systemd::ready();
        tracing::info!("ready");
        if let Some(asked) = self.pending.take() {
            let (changes, warning) =
                self.settings.put_in_force(self.generation.config.clone(), &asked);
            let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
            tracing::info!(keys = keys.join(" "), "the configuration is changed");
            asked.answer(Outcome::Changed { changes, warning });
        }
    }

    fn look(&mut self) {
        // Where all make way for others, none is missing.
        let running = if self.next.is_some() { self.ground.shards } else { self.alive };
        self.monitor.look(running, self.recovered < self.ground.shards);
        self.guard.look();
    }

    fn phase(&self) -> Phase {
        self.generation.stop.phase()
    }

    fn discover(&mut self) {
        let cursors = std::mem::take(&mut self.cursors);
        let report = self.report.clone();
        if let Err(error) = self.generation.start_discovery(&self.ground, cursors, report) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: RunError) {
        self.error.get_or_insert(error);
        self.drain();
    }

    fn drain(&mut self) {
        let status = &self.generation.status;
        status.ready.store(false, Ordering::Release);
        status.stopping.store(true, Ordering::Release);
        systemd::stopping();
        if let Some(Next { asked, .. }) = self.next.take() {
            asked.answer(Outcome::Failed("the process stops".into()));
        }
        self.pending = None;
        let drain_timeout = self.generation.config.drain_timeout;
        let time = drain_timeout.saturating_sub(LEAVE_TIME.min(drain_timeout / 4));
        let now = Instant::now();
        if self.phase() == Phase::Yielding {
            // Its senders go, so nothing more is sent: what is under way becomes durable, and that is all.
            self.deadline = Some(now + LEAVE_TIME.min(time));
        } else {
            self.generation.stop.advance(Phase::Draining);
            self.deadline.get_or_insert(now + time);
        }
    }

    /// Looks whether the file was changed, where that is wanted.
    fn watch_settings(&mut self) {
        if self.is_settled() && self.settings.has_changed() {
            self.change(unheard(&self.guard, "watch", "WATCH"));
        }
    }

    /// Nothing is under way that a change would have to wait for.
    fn is_settled(&self) -> bool {
        let changes = self.next.is_some() || self.pending.is_some();
        self.phase() == Phase::Running && self.generation.status.is_ready() && !changes
    }

    /// Checks the configuration that is asked for, and has the one in force make way for it. Where it
    /// cannot be put in force, the one in force goes on.
    fn change(&mut self, asked: Asked) {
        if !self.is_settled() {
            let why = "starting, stopping, or changing already; ask again later";
            tracing::info!(why, "the configuration is not looked at now");
            return asked.answer(Outcome::Busy(why.into()));
        }
        systemd::reloading();
        let checked = self.settings.check(&asked).and_then(|config| {
            let guard = config.as_ref().unwrap_or(&self.generation.config);
            let guard = options::guard(guard).prepare().map_err(Outcome::Refused)?;
            let Some(config) = config else {
                self.guard.renew(guard);
                return Ok(None);
            };
            self.ground
                .check_quota(&config)
                .map_err(|error| Outcome::Refused(error.to_string()))?;
            let clients =
                Clients::of(&config).map_err(|error| Outcome::Refused(error.to_string()))?;
            Ok(Some((config, clients, guard)))
        });
        let whole = &self.generation.status.metrics.whole;
        match checked {
            Ok(None) => {
                whole.reload_successful.set(1);
                systemd::ready();
                asked.answer(Outcome::Unchanged);
            }
            Ok(Some((config, clients, guard))) => {
                tracing::info!("the configuration changes: the one in force makes way");
                self.next = Some(Next { config: Arc::new(config), clients, guard, asked });
                self.generation.stop.advance(Phase::Yielding);
                self.deadline = Some(Instant::now() + YIELD_TIME);
            }
            Err(outcome) => {
                whole.reloads_failed.inc();
                whole.reload_successful.set(0);
                systemd::ready();
                tracing::error!(
                    error_key = ErrorKey::ReloadFailed.name(),
                    error = %outcome,
                    "the configuration is not changed; the one in force goes on"
                );
                asked.answer(outcome);
            }
        }
    }

    fn put_in_force(&mut self, Next { config, clients, guard, asked }: Next) {
        self.guard.put_in_force(guard);
        let next =
            Generation::new(config.clone(), clients, &self.ground, Some(&mut self.generation));
        let cpus = (0..self.ground.shards).map(|shard| self.ground.cpu(shard)).collect();
        self.monitor.follow(
            options::monitor(&config, cpus),
            next.status.clone(),
            next.egresses.clone(),
            next.desk.clone(),
        );
        self.panels.replace(next.panel(&self.ground, &self.control, &self.guard));
        own_log::set_level(config.log.level);
        self.generation = next;
        self.begin();
        self.pending = Some(asked);
    }
}

/// What one shard listens on, as long as the process lives.
struct Doors {
    api: Option<(TcpListener, http::Options, Arc<Doorman>)>,
    metrics: Option<TcpListener>,
}

/// Starts the threads of all shards, which wait for what they are to do.
fn start_shards(
    ground: &Ground,
    config: &Config,
    listeners: Listeners,
    shared: (&Arc<Panels>, &Arc<Guard>),
    report: &mpsc::Sender<Report>,
) -> Result<Vec<Arc<Ring<Work>>>, RunError> {
    let doorman = Arc::new(options::doorman(config, ground.descriptors));
    let (mut apis, mut metrics) = (listeners.apis.into_iter(), Some(listeners.metrics));
    let start = |shard| {
        let api = apis.next().map(|api| (api, options::http(config), doorman.clone()));
        let doors = Doors { api, metrics: metrics.take() };
        let bell = Arc::new(Bell::default());
        let works = Arc::new(Ring::new(1, bell.clone()));
        start_shard(shard, ground.cpu(shard), (works.clone(), bell), doors, shared, report)?;
        Ok(works)
    };
    (0..ground.shards).map(start).collect()
}

fn start_shard(
    shard: usize,
    cpu: usize,
    (works, bell): (Arc<Ring<Work>>, Arc<Bell>),
    doors: Doors,
    (panels, guard): (&Arc<Panels>, &Arc<Guard>),
    report: &mpsc::Sender<Report>,
) -> Result<(), RunError> {
    let (panels, guard, report) = (panels.clone(), guard.clone(), report.clone());
    let executor =
        executor::Options { name: format!("shard-{shard}"), cpu, io_memory_bytes: IO_MEMORY_BYTES };
    let handle = executor::spawn::<_, ()>(&executor, move || async move {
        let entrance = Rc::new(Entrance::default());
        if let Some((listener, http, doorman)) = doors.api {
            let post = Post::new(guard.clone(), Listener::Api);
            server::serve_api(listener, http, doorman, panels.clone(), entrance.clone(), post);
        }
        if let Some(listener) = doors.metrics {
            server::serve_metrics(listener, panels, Post::new(guard, Listener::Metrics));
        }
        let mut times = None;
        loop {
            if let Some(work) = works.pop() {
                let recorder = work.recorder(times.take());
                work.run(&entrance, &recorder, &report).await;
                times = Some(recorder);
            } else {
                bell.wait().await;
            }
        }
    })?;
    // Its end is the process's: a shard that hangs must not hold up the exit.
    drop(handle);
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
    thread.spawn(work).expect("a thread can be started")
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

fn guard(config: &Config) -> Result<Guard, RunError> {
    let prepared = options::guard(config).prepare().map_err(RunError::Setup)?;
    let audit = Audit::open(&config.data_dir).map_err(|error| {
        let data_dir = config.data_dir.display();
        RunError::Setup(format!("data_dir {data_dir}: the audit log cannot be opened: {error}"))
    })?;
    Ok(Guard::new(prepared, audit))
}

/// A reload for which nobody waits; what becomes of it is kept.
fn unheard(guard: &Arc<Guard>, who: &'static str, method: &'static str) -> Asked {
    let guard = guard.clone();
    Asked::unheard(move |outcome| {
        let status = status_of(outcome).as_u16();
        guard.audit.record(Entry::now(who, None, method, "/config/reload", status));
    })
}

fn forward_signals(report: mpsc::Sender<Report>, guard: Arc<Guard>) -> Result<(), RunError> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| RunError::Setup(format!("signals cannot be handled: {error}")))?;
    spawn("signals", move || {
        for signal in signals.forever() {
            let asked = match signal {
                SIGHUP => Report::Change(unheard(&guard, "signal", "SIGHUP")),
                _ => Report::Stop,
            };
            if report.send(asked).is_err() {
                return;
            }
        }
    });
    Ok(())
}
