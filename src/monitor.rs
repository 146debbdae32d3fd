//! What the control thread does once a second: adds up what the others measured, holds it against the
//! objective and the limits, and leaves a report. Who asks the API gets the last one; nobody who asks
//! makes a shard stop for it.

use crate::desk::Desk;
use crate::egress::Egress;
use crate::health::{Figures, Health, Level, ShardFigures, SinkFigures, rounded};
use crate::lock;
use crate::server::Status;
use perf::errors::ErrorKey;
use perf::metrics::Metrics;
use perf::process::Process;
use perf::slo::{History, Lines, Objective, Window};
use perf::stage::{ShardTime, SinkTime};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    pub objective: Objective,
    pub sinks: Vec<String>,
    /// Those whose dead-letter queues drop the oldest.
    pub dropping: Vec<String>,
    /// Of each shard.
    pub cpus: Vec<usize>,
}

/// What the API tells.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub health: Health,
    pub stats: Value,
    pub slo: Value,
}

/// Where the last report lies.
#[derive(Default)]
pub struct Board(Mutex<Arc<Report>>);

impl Board {
    #[must_use]
    pub fn last(&self) -> Arc<Report> {
        lock(&self.0).clone()
    }
}

pub struct Monitor {
    options: Options,
    status: Arc<Status>,
    egresses: Vec<Arc<Egress>>,
    desk: Arc<Desk>,
    history: History,
    /// One a second.
    samples: VecDeque<Sample>,
    /// Entries that were put into dead-letter queues, at the end of each minute.
    dead: VecDeque<u64>,
    dead_at: Instant,
    /// When each shard gave a sign of life last.
    live: Vec<Instant>,
    started: Instant,
    memory_bytes_max: u64,
    /// As it was said last.
    level: Option<Level>,
}

/// What rates are made of.
#[derive(Debug, Clone, Default)]
struct Sample {
    at: Option<Instant>,
    /// Lines, bytes and CPU seconds of each shard.
    shards: Vec<(u64, u64, f64)>,
    /// Lines that each sink took.
    sinks: Vec<u64>,
    cpu: f64,
}

/// Rates are over so many seconds.
const SAMPLES: usize = 11;
/// "New" entries of a dead-letter queue are no older than so many minutes.
const DEAD_MINUTES: usize = 10;
/// A shard says every second that it lives.
const SILENT_TIME: Duration = Duration::from_secs(15);
/// How often the monitor looks.
pub const INTERVAL: Duration = Duration::from_secs(1);

impl Monitor {
    #[must_use]
    pub fn new(
        options: Options,
        status: Arc<Status>,
        egresses: Vec<Arc<Egress>>,
        desk: Arc<Desk>,
    ) -> Monitor {
        let now = Instant::now();
        let whole = &status.metrics.whole;
        whole.slo_seconds.set(options.objective.latency.as_secs_f64());
        whole.slo_ratio.set(options.objective.ratio);
        whole.slo_lines_per_second.set(options.objective.lines_per_second);
        let memory_bytes_max = memory_bytes_max();
        whole.memory_limit_bytes.set(i64::try_from(memory_bytes_max).unwrap_or(i64::MAX));
        Monitor {
            history: History::new(options.objective, now),
            samples: VecDeque::new(),
            dead: VecDeque::from([0]),
            dead_at: now,
            live: vec![now; status.metrics.shards.len()],
            started: now,
            memory_bytes_max,
            level: None,
            options,
            status,
            egresses,
            desk,
        }
    }

    /// What is looked at from now on. Where it counts on, what was seen before counts, too.
    pub fn follow(
        &mut self,
        options: Options,
        status: Arc<Status>,
        egresses: Vec<Arc<Egress>>,
        desk: Arc<Desk>,
    ) {
        if Arc::ptr_eq(&status, &self.status) {
            (self.options, self.egresses, self.desk) = (options, egresses, desk);
        } else {
            let (started, level) = (self.started, self.level);
            *self = Monitor { started, level, ..Monitor::new(options, status, egresses, desk) };
        }
    }

    /// `running` shards have not ended; while others `recover` their logs, they are not waited for.
    pub fn look(&mut self, running: usize, recover: bool) {
        let now = Instant::now();
        let status = self.status.clone();
        let metrics = &status.metrics;
        let live = metrics.times.collect(now);
        // Who recovers a log has no sign of life to give.
        let waits = recover || !status.is_ready();
        for (at, _) in self.live.iter_mut().zip(live).filter(|(_, live)| *live || waits) {
            *at = now;
        }
        let process = Process::now().unwrap_or_default();
        self.sample(now, metrics, &process);
        let sinks = self.sinks(metrics);
        let windows = self.objective(now, metrics);
        let figures = self.figures(now, running, metrics, &process, sinks, &windows);
        let health = Health::judge(&figures);
        for (name, check) in &health.checks {
            metrics.health(name, check.status as i64);
        }
        metrics.whole.ready.set(i64::from(figures.ready));
        self.say(&health);
        let slo = self.slo(&windows);
        let stats = self.stats(now, metrics, &process, &figures, &health, &slo);
        *lock(&status.board.0) = Arc::new(Report { health, stats, slo });
    }

    fn sample(&mut self, now: Instant, metrics: &Metrics, process: &Process) {
        let shards = metrics.shards.iter();
        let shards =
            shards.map(|shard| (shard.lines.get(), shard.bytes.get(), shard.busy_seconds.get()));
        self.samples.push_back(Sample {
            at: Some(now),
            shards: shards.collect(),
            sinks: metrics.sinks.iter().map(|sink| sink.push_entries.get()).collect(),
            cpu: process.cpu.as_secs_f64(),
        });
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        let stored = stored(metrics);
        if now.duration_since(self.dead_at) >= Duration::from_secs(60) {
            self.dead_at = now;
            self.dead.push_back(stored);
            if self.dead.len() > DEAD_MINUTES {
                self.dead.pop_front();
            }
        }
    }

    /// How much more of something there is a second; 0 where too little is known.
    fn rate(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        let rate = || {
            let (first, last) = (self.samples.front()?, self.samples.back()?);
            let time = last.at?.saturating_duration_since(first.at?).as_secs_f64();
            (time > 0.0).then(|| (of(last) - of(first)) / time)
        };
        rounded(rate().unwrap_or(0.0))
    }

    fn sinks(&self, metrics: &Metrics) -> Vec<SinkFigures> {
        let now_ns = perf::clock::unix_ns();
        let figures = |(at, egress): (usize, &Arc<Egress>)| {
            let seen = egress.seen();
            let failing = || seen.iter().filter(|seen| seen.state != "closed");
            let routes = || metrics.routes.iter().map(|shard| &shard[at]);
            let since = routes().filter_map(perf::metrics::Route::behind_since_ns).min();
            let lag_ns = since.map_or(0, |since| now_ns.saturating_sub(since).max(0));
            let lag_seconds = rounded(lag_ns as f64 / 1e9);
            let counts = &metrics.sinks[at];
            counts.lag_seconds.set(lag_seconds);
            counts.unacked_lines.set(routes().map(perf::metrics::Route::unacked_lines).sum());
            SinkFigures {
                sink: egress.sink().to_owned(),
                tenants: seen.len(),
                failing: failing().count(),
                lag_seconds,
                reason: failing().next().map(|seen| seen.reason.clone()),
            }
        };
        self.egresses.iter().enumerate().map(figures).collect()
    }

    fn objective(&mut self, now: Instant, metrics: &Metrics) -> [Window; 4] {
        let mut lines = Lines::default();
        for sink in 0..self.egresses.len() {
            let (acked, late) = metrics.times.sink(sink).acked();
            lines.acked += acked;
            lines.late += late;
        }
        let routes = metrics.routes.iter().flatten();
        let overdue = routes.map(perf::metrics::Route::overdue_lines).sum();
        self.history.tick(now, lines, overdue);
        let whole = &metrics.whole;
        whole.slo_lines.inc_by(lines.acked.saturating_sub(whole.slo_lines.get()));
        whole.slo_lines_late.inc_by(lines.late.saturating_sub(whole.slo_lines_late.get()));
        whole.slo_budget.set(self.history.budget_left());
        let windows = self.history.windows();
        for window in &windows {
            metrics.burn_rate(window.name, window.burn_rate);
        }
        windows
    }

    fn figures(
        &self,
        now: Instant,
        running: usize,
        metrics: &Metrics,
        process: &Process,
        sinks: Vec<SinkFigures>,
        windows: &[Window; 4],
    ) -> Figures {
        let sum = |of: fn(&perf::metrics::Shard) -> i64| {
            u64::try_from(metrics.shards.iter().map(of).sum::<i64>()).unwrap_or(0)
        };
        let (free_bytes, size_bytes) = self.disk();
        metrics.whole.data_dir_free_bytes.set(i64::try_from(free_bytes).unwrap_or(i64::MAX));
        metrics.whole.data_dir_size_bytes.set(i64::try_from(size_bytes).unwrap_or(i64::MAX));
        let of_sinks = |of: fn(&perf::metrics::Sink) -> i64| {
            u64::try_from(metrics.sinks.iter().map(of).sum::<i64>()).unwrap_or(0)
        };
        let stored = stored(metrics);
        Figures {
            queue_bytes: sum(|shard| shard.wal_bytes.get()),
            queue_bytes_max: sum(|shard| shard.wal_bytes_max.get()),
            queue_full: metrics.shards.iter().any(|shard| shard.wal_full.get() > 0),
            resident_bytes: process.resident_bytes,
            memory_bytes_max: self.memory_bytes_max,
            free_bytes,
            size_bytes,
            open_fds: process.open_fds,
            max_fds: process.max_fds,
            commit_p99_seconds: metrics
                .times
                .shard_spans(ShardTime::Commit)
                .last_minute
                .map(|quantiles| quantiles.p99_seconds),
            dead: metrics.dlq.iter().map(perf::metrics::ByReason::all_entries).sum(),
            dead_added: stored.saturating_sub(self.dead.front().copied().unwrap_or(0)),
            dead_bytes: of_sinks(|sink| sink.dlq_bytes.get()),
            dead_bytes_max: of_sinks(|sink| sink.dlq_bytes_max.get()),
            dead_share: self.dead_share(false),
            dead_share_dropping: self.dead_share(true),
            sinks,
            burn_rate_5m: windows[0].burn_rate,
            burn_rate_1h: windows[1].burn_rate,
            shards: ShardFigures {
                running,
                expected: metrics.shards.len(),
                silent: self.silent(now),
            },
            ready: self.status.ready.load(Ordering::Acquire),
            stopping: self.status.stopping.load(Ordering::Acquire),
        }
    }

    /// How full the fullest dead-letter queue is, of those that drop the oldest or of the others.
    fn dead_share(&self, dropping: bool) -> f64 {
        let slots = self.desk.slots().iter();
        let slots = slots.filter(|slot| self.options.dropping.contains(&slot.sink) == dropping);
        // What an empty one takes is no figure.
        let stats = slots.filter_map(|slot| slot.stats()).filter(|stats| stats.entries > 0);
        stats.map(|stats| stats.bytes as f64 / stats.usable_bytes_max as f64).fold(0.0, f64::max)
    }

    /// Shards that run and give no sign of life.
    fn silent(&self, now: Instant) -> Vec<usize> {
        let silent = |(_, at): &(usize, &Instant)| now.duration_since(**at) >= SILENT_TIME;
        self.live.iter().enumerate().filter(silent).map(|(shard, _)| shard).collect()
    }

    /// Whether every shard goes on: if not, the service manager is to start the process anew.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.silent(Instant::now()).is_empty()
    }

    /// Free for this user, and in all; 0 where that is not known.
    fn disk(&self) -> (u64, u64) {
        match rustix::fs::statvfs(&self.options.data_dir) {
            Ok(stat) => (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize),
            Err(_) => (0, 0),
        }
    }

    /// Once, where it changes.
    fn say(&mut self, health: &Health) {
        if !self.status.ready.load(Ordering::Acquire) {
            return;
        }
        let now = health.status;
        let before = self.level.replace(now).unwrap_or(Level::Healthy);
        if now == before {
            return;
        }
        let worst = health.alarms().into_iter().next().unwrap_or_default();
        let (check, why) = (worst["check"].as_str(), worst["message"].as_str());
        if now > before {
            tracing::warn!(
                error_key = ErrorKey::HealthWorse.name(), status = ?now, check, why, "health is worse"
            );
        } else {
            tracing::info!(status = ?now, check, why, "health is better");
        }
    }

    fn slo(&self, windows: &[Window; 4]) -> Value {
        let Objective { latency, ratio, lines_per_second } = *self.history.objective();
        let of = |window: &Window| {
            let value = json!({
                "lines": window.lines, "late": window.late,
                "ratio": if window.lines == 0 { 1.0 } else {
                    rounded(1.0 - window.late as f64 / window.lines as f64)
                },
                "burn_rate": rounded(window.burn_rate),
            });
            (window.name.to_owned(), value)
        };
        let rate = self.rate(|sample| sample.shards.iter().map(|shard| shard.0 as f64).sum());
        json!({
            "objective": {
                "latency_seconds": latency.as_secs_f64(), "ratio": ratio,
                "lines_per_second": lines_per_second,
            },
            "windows": windows.iter().map(of).collect::<Map<_, _>>(),
            "error_budget_remaining_ratio": rounded(self.history.budget_left()),
            "lines_per_second": rate,
            // More than the objective is good, and less is no fault where nothing waits.
            "met": self.history.budget_left() > 0.0 && windows[0].burn_rate <= 1.0,
        })
    }

    fn stats(
        &self,
        now: Instant,
        metrics: &Metrics,
        process: &Process,
        figures: &Figures,
        health: &Health,
        slo: &Value,
    ) -> Value {
        let rates = |of: fn(&(u64, u64, f64)) -> f64| {
            self.rate(|sample| sample.shards.iter().map(of).sum())
        };
        json!({
            "version": crate::version(),
            "uptime_seconds": now.duration_since(self.started).as_secs(),
            "ready": figures.ready,
            "status": health.status,
            "lines_total": metrics.shards.iter().map(|shard| shard.lines.get()).sum::<u64>(),
            "bytes_total": metrics.shards.iter().map(|shard| shard.bytes.get()).sum::<u64>(),
            "lines_per_second": rates(|shard| shard.0 as f64),
            "bytes_per_second": rates(|shard| shard.1 as f64),
            "latency": self.latency(metrics),
            "shards": self.shard_stats(metrics),
            "sinks": self.sink_stats(metrics, figures),
            "wal": {
                "bytes": figures.queue_bytes, "bytes_max": figures.queue_bytes_max,
                "ratio": health.checks["queue"].figures["ratio"], "full": figures.queue_full,
            },
            "dlq": {
                "entries": figures.dead, "bytes": figures.dead_bytes,
                "bytes_max": figures.dead_bytes_max,
                "ratio": health.checks["dead_letters"].figures["ratio"],
                "by_reason": by_reason(metrics),
            },
            "process": {
                "cpu_seconds": process.cpu.as_secs_f64(), "cpu_ratio": self.rate(|s| s.cpu),
                "resident_bytes": process.resident_bytes, "open_fds": process.open_fds,
                "max_fds": process.max_fds, "threads": process.threads,
            },
            "data_dir": { "free_bytes": figures.free_bytes, "size_bytes": figures.size_bytes },
            "slo": slo,
            "alarms": health.alarms(),
        })
    }

    fn latency(&self, metrics: &Metrics) -> Value {
        let times = &metrics.times;
        let shard_stages = ShardTime::ALL
            .iter()
            .filter_map(|time| Some((time.stage()?.to_owned(), json!(times.shard_spans(*time)))));
        let mut stages: Map<String, Value> = shard_stages.collect();
        let mut to_ack = Map::new();
        for (at, sink) in self.options.sinks.iter().enumerate() {
            to_ack.insert(sink.clone(), json!(times.sink_spans(at, SinkTime::SourceToAck)));
        }
        for time in SinkTime::ALL {
            let Some(stage) = time.stage() else { continue };
            let by_sink = self.options.sinks.iter().enumerate();
            let by_sink =
                by_sink.map(|(at, sink)| (sink.clone(), json!(times.sink_spans(at, time))));
            stages.insert(stage.to_owned(), Value::Object(by_sink.collect()));
        }
        json!({
            "source_to_ack": to_ack,
            "http_answer": times.shard_spans(ShardTime::Answer),
            "commit": times.shard_spans(ShardTime::Commit),
            "stages": stages,
        })
    }

    fn shard_stats(&self, metrics: &Metrics) -> Vec<Value> {
        let of = |(at, shard): (usize, &perf::metrics::Shard)| {
            let rate = |of: fn(&(u64, u64, f64)) -> f64| self.rate(|s| of(&s.shards[at]));
            json!({
                "shard": at, "cpu": self.options.cpus[at],
                "lines_total": shard.lines.get(),
                "lines_per_second": rate(|shard| shard.0 as f64),
                "bytes_per_second": rate(|shard| shard.1 as f64),
                "busy_ratio": rate(|shard| shard.2),
                "wal_bytes": shard.wal_bytes.get(), "wal_bytes_max": shard.wal_bytes_max.get(),
                "wal_full": shard.wal_full.get() > 0,
                "unacked_frames": shard.wal_unacked_frames.get(),
                "files_watched": shard.files_watched.get(), "files_open": shard.files_open.get(),
                "lag_bytes": shard.lag_bytes.get(), "lag_seconds": shard.lag_seconds.get(),
            })
        };
        metrics.shards.iter().enumerate().map(of).collect()
    }

    fn sink_stats(&self, metrics: &Metrics, figures: &Figures) -> Vec<Value> {
        let of = |(at, (counts, sink)): (usize, (&perf::metrics::Sink, &SinkFigures))| {
            let credit = metrics.routes.iter().map(|shard| shard[at].gauges.credit.get());
            json!({
                "sink": sink.sink,
                "state": if sink.failing == 0 { "passes" } else { "failing" },
                "reason": sink.reason,
                "in_flight": counts.in_flight.get(),
                "breakers_open": counts.breakers_open.get(),
                "pushes": {
                    "accepted": counts.accepted.get(), "retried": counts.retried.get(),
                    "split": counts.split.get(), "isolated": counts.isolated.get(),
                    "held": counts.held.get(), "rejected": counts.rejected.get(),
                },
                "lines_total": counts.push_entries.get(),
                "lines_per_second": self.rate(|sample| sample.sinks[at] as f64),
                "body_bytes_total": counts.push_body_bytes.get(),
                "lag_seconds": sink.lag_seconds,
                "unacked_lines": counts.unacked_lines.get(),
                "clock_ahead_seconds": counts.clock_ahead_seconds.get(),
                "ring_credit_bytes": credit.sum::<i64>(),
            })
        };
        metrics.sinks.iter().zip(&figures.sinks).enumerate().map(of).collect()
    }
}

fn by_reason(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (reason, entries) in metrics.dlq.iter().flat_map(perf::metrics::ByReason::by_reason) {
        *all.entry(reason).or_insert(0) += entries;
    }
    all
}

/// Entries that were put into dead-letter queues, ever.
fn stored(metrics: &Metrics) -> u64 {
    metrics.dlq.iter().map(perf::metrics::ByReason::all_stored).sum()
}

/// What the control group allows, else what the host has.
fn memory_bytes_max() -> u64 {
    let host = rustix::system::sysinfo();
    let host = host.totalram as u64 * u64::from(host.mem_unit);
    let group = || {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        // The limit of any group above holds as well.
        let dirs = std::path::Path::new(&path).ancestors();
        let limits = dirs.filter_map(|dir| {
            let dir = dir.strip_prefix("/").ok()?;
            let file = std::path::Path::new("/sys/fs/cgroup").join(dir).join("memory.max");
            std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
        });
        limits.min()
    };
    group().unwrap_or(u64::MAX).min(host)
}
