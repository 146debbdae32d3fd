//! Whether the appliance is well: figures against limits, and nothing else.
//!
//! | check | warning | degraded | critical |
//! |---|---|---|---|
//! | queue: the log's share of its quota | 75 % | 90 % | full: nothing is taken in |
//! | memory: resident, of what the host or the control group allows | 80 % | 90 % | 95 % |
//! | disk_space: free, of the file system of data_dir | below 10 % | 5 % | 2 % |
//! | sink_connectivity | a tenant is not served | a sink serves nobody, or lags over a minute | |
//! | file_descriptors: open, of the limit | 70 % | 85 % | 95 % |
//! | commit_latency: p99 of the last minute | 100 ms | 1 s | 10 s |
//! | dead_letters | some were added within 10 minutes; the fullest queue at 50 % | 80 % | 95 %, where it does not drop the oldest: acks wait soon |
//! | objective: burn rate over 5 m and 1 h | 6 | 14.4 | |
//!
//! The whole is as its worst part. A sink that is away is no reason to send clients elsewhere, since their
//! lines are taken in: that is never critical.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Healthy,
    Warning,
    Degraded,
    Critical,
}

/// What is held against the limits.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub queue_bytes: u64,
    pub queue_bytes_max: u64,
    pub queue_full: bool,
    pub resident_bytes: u64,
    pub memory_bytes_max: u64,
    pub free_bytes: u64,
    pub size_bytes: u64,
    pub open_fds: u64,
    pub max_fds: u64,
    pub commit_p99_seconds: Option<f64>,
    pub dead: u64,
    pub dead_added: u64,
    pub dead_bytes: u64,
    pub dead_bytes_max: u64,
    /// How full the fullest of the queues is that wait where they are, and of those that drop the oldest.
    pub dead_share: f64,
    pub dead_share_dropping: f64,
    pub sinks: Vec<SinkFigures>,
    pub burn_rate_5m: f64,
    pub burn_rate_1h: f64,
    pub shards: ShardFigures,
    pub ready: bool,
    pub stopping: bool,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct SinkFigures {
    pub sink: String,
    /// Those that were met.
    pub tenants: usize,
    /// Of them, those to whom nothing but probes is sent.
    pub failing: usize,
    pub lag_seconds: f64,
    /// Of one that fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct ShardFigures {
    pub running: usize,
    pub expected: usize,
    /// They gave no sign of life for long.
    pub silent: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    pub status: Level,
    #[serde(flatten)]
    pub figures: Map<String, Value>,
    /// What it is about, and what to do where it is not well.
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Health {
    pub status: Level,
    pub services: BTreeMap<&'static str, Check>,
    pub checks: BTreeMap<&'static str, Check>,
}

/// The names of the checks.
pub const CHECKS: [&str; 8] = [
    "commit_latency",
    "dead_letters",
    "disk_space",
    "file_descriptors",
    "memory",
    "objective",
    "queue",
    "sink_connectivity",
];

/// A sink that takes everything, and for so long not the oldest.
const LAG_SECONDS_MAX: f64 = 60.0;

impl Health {
    #[must_use]
    pub fn judge(figures: &Figures) -> Health {
        let checks: BTreeMap<&'static str, Check> = [
            ("queue", queue(figures)),
            ("memory", memory(figures)),
            ("disk_space", disk_space(figures)),
            ("sink_connectivity", sinks(figures)),
            ("file_descriptors", descriptors(figures)),
            ("commit_latency", commits(figures)),
            ("dead_letters", dead_letters(figures)),
            ("objective", objective(figures)),
        ]
        .into();
        let services: BTreeMap<&'static str, Check> = [
            ("shards", shards(figures)),
            ("discovery", started(figures, "files are followed")),
            ("http", started(figures, "lines are taken in")),
            ("sinks", Check { figures: Map::new(), ..checks["sink_connectivity"].clone() }),
        ]
        .into();
        let all = checks.values().chain(services.values());
        let status = all.map(|check| check.status).max().expect("there are some");
        Health { status, services, checks }
    }

    /// What is not well, the worst first.
    #[must_use]
    pub fn alarms(&self) -> Vec<Value> {
        let mut all: Vec<_> = self.services.iter().filter(|(name, _)| **name != "sinks").collect();
        all.extend(&self.checks);
        all.retain(|(_, check)| check.status > Level::Healthy);
        all.sort_by_key(|(_, check)| std::cmp::Reverse(check.status));
        let alarm = |(name, check): (&&str, &Check)| json!({ "check": name, "status": check.status, "message": check.message });
        all.into_iter().map(alarm).collect()
    }
}

/// `message` where all is well, and what to do where not.
fn check(status: Level, figures: Value, message: &str, fix: &str) -> Check {
    let Value::Object(figures) = figures else { unreachable!("figures have names") };
    let message = match status {
        Level::Healthy => message.to_owned(),
        _ => format!("{message}: {fix}"),
    };
    Check { status, figures, message }
}

/// The level that is reached, of limits for each.
fn level(figure: f64, [warning, degraded, critical]: [f64; 3]) -> Level {
    match figure {
        figure if figure >= critical => Level::Critical,
        figure if figure >= degraded => Level::Degraded,
        figure if figure >= warning => Level::Warning,
        _ => Level::Healthy,
    }
}

fn share(part: u64, of: u64) -> f64 {
    let share = if of == 0 { 0.0 } else { part as f64 / of as f64 };
    (share * 10_000.0).round() / 10_000.0
}

/// To what is worth reading.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn queue(of: &Figures) -> Check {
    let ratio = share(of.queue_bytes, of.queue_bytes_max);
    let status =
        if of.queue_full { Level::Critical } else { level(ratio, [0.75, 0.9, f64::INFINITY]) };
    check(
        status,
        json!({
            "used_bytes": of.queue_bytes, "limit_bytes": of.queue_bytes_max, "ratio": ratio,
            "full": of.queue_full,
        }),
        &format!("the write-ahead log takes {} of its quota", percent(ratio)),
        "see whether the sink takes lines (GET /sinks), then raise wal.bytes_max or free disk space",
    )
}

fn memory(of: &Figures) -> Check {
    let ratio = share(of.resident_bytes, of.memory_bytes_max);
    check(
        level(ratio, [0.8, 0.9, 0.95]),
        json!({
            "resident_bytes": of.resident_bytes, "limit_bytes": of.memory_bytes_max,
            "ratio": ratio,
        }),
        &format!("{} of the memory is resident here", percent(ratio)),
        "lower server.limits.bodies_bytes_max and server.streams_max, or give it more memory",
    )
}

fn disk_space(of: &Figures) -> Check {
    let free = share(of.free_bytes, of.size_bytes);
    // Not known is not full.
    let used = if of.size_bytes == 0 { 0.0 } else { 1.0 - free };
    check(
        level(used, [0.9, 0.95, 0.98]),
        json!({
            "free_bytes": of.free_bytes, "size_bytes": of.size_bytes, "free_ratio": free,
        }),
        &format!("{} of the file system of data_dir is free", percent(free)),
        "free some, or lower wal.bytes_max",
    )
}

fn sinks(of: &Figures) -> Check {
    let level = |sink: &SinkFigures| match sink {
        sink if sink.failing > 0 && sink.failing == sink.tenants => Level::Degraded,
        sink if sink.lag_seconds >= LAG_SECONDS_MAX => Level::Degraded,
        sink if sink.failing > 0 => Level::Warning,
        _ => Level::Healthy,
    };
    let status = of.sinks.iter().map(level).max().unwrap_or_default();
    let unwell = of.sinks.iter().filter(|sink| level(sink) > Level::Healthy);
    let unwell: Vec<String> = unwell
        .map(|sink| match &sink.reason {
            Some(reason) => format!("{} ({reason})", sink.sink),
            None => format!("{} (lags {:.0} s)", sink.sink, sink.lag_seconds),
        })
        .collect();
    let message = match unwell.is_empty() {
        true => "all sinks take lines".to_owned(),
        false => format!("lines wait for {}", unwell.join(", ")),
    };
    let fix = "they are kept in the log; see GET /sinks";
    check(status, json!({ "sinks": of.sinks }), &message, fix)
}

fn descriptors(of: &Figures) -> Check {
    let ratio = share(of.open_fds, of.max_fds);
    check(
        level(ratio, [0.7, 0.85, 0.95]),
        json!({ "open": of.open_fds, "limit": of.max_fds, "ratio": ratio }),
        &format!("{} of the descriptors are open", percent(ratio)),
        "raise LimitNOFILE, or lower server.limits.connections_max",
    )
}

fn commits(of: &Figures) -> Check {
    let p99 = of.commit_p99_seconds;
    check(
        level(p99.unwrap_or(0.0), [0.1, 1.0, 10.0]),
        json!({ "p99_seconds": p99 }),
        &match p99 {
            Some(p99) => format!("the disk takes {:.1} ms for a commit (p99)", p99 * 1e3),
            None => "nothing was written in the last minute".to_owned(),
        },
        "the disk of data_dir is slow or busy; put data_dir on one of its own",
    )
}

fn dead_letters(of: &Figures) -> Check {
    let ratio = rounded(of.dead_share.max(of.dead_share_dropping));
    // One that drops the oldest holds up nobody.
    let dropping = level(of.dead_share_dropping, [0.5, 0.8, f64::INFINITY]);
    let by_size = level(of.dead_share, [0.5, 0.8, 0.95]).max(dropping);
    let by_growth = if of.dead_added > 0 { Level::Warning } else { Level::Healthy };
    check(
        by_size.max(by_growth),
        json!({
            "entries": of.dead, "added_in_10m": of.dead_added, "bytes": of.dead_bytes,
            "limit_bytes": of.dead_bytes_max, "ratio": ratio,
        }),
        &format!("the dead-letter queues hold {} entries, {} of them new", of.dead, of.dead_added),
        "see why with log-capturer dlq list; then dlq reprocess or dlq purge",
    )
}

fn objective(of: &Figures) -> Check {
    let both = of.burn_rate_5m.min(of.burn_rate_1h);
    check(
        level(both, [6.0, 14.4, f64::INFINITY]),
        json!({ "burn_rate_5m": rounded(of.burn_rate_5m), "burn_rate_1h": rounded(of.burn_rate_1h) }),
        &format!("the error budget burns {both:.1} times as fast as it may"),
        "see GET /slo/status, and which stage takes the time in GET /stats",
    )
}

fn shards(of: &Figures) -> Check {
    let ShardFigures { running, expected, silent } = &of.shards;
    let status = match (running == expected, silent.is_empty()) {
        (true, true) => Level::Healthy,
        _ => Level::Critical,
    };
    let message = match silent.is_empty() {
        true => format!("{running} of {expected} shards run"),
        false => format!("shards {silent:?} give no sign of life"),
    };
    check(
        status,
        json!({ "running": running, "expected": expected, "silent": silent }),
        &message,
        "see the log; a restart loses nothing that was acknowledged",
    )
}

fn started(of: &Figures, what: &str) -> Check {
    let (status, message) = match (of.ready, of.stopping) {
        (true, _) => (Level::Healthy, what.to_owned()),
        (false, true) => (Level::Critical, "stopping".to_owned()),
        (false, false) => (Level::Critical, "starting".to_owned()),
    };
    check(status, json!({}), &message, "nothing is taken in now")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Figures {
        Figures {
            queue_bytes_max: 1000,
            memory_bytes_max: 1000,
            free_bytes: 500,
            size_bytes: 1000,
            max_fds: 1000,
            sinks: vec![SinkFigures { sink: "loki".into(), tenants: 2, ..Default::default() }],
            shards: ShardFigures { running: 2, expected: 2, silent: Vec::new() },
            ready: true,
            ..Figures::default()
        }
    }

    #[test]
    fn each_figure_turns_its_own_check_at_its_limits() {
        let health = Health::judge(&well());
        assert_eq!((health.status, health.alarms()), (Level::Healthy, Vec::new()));
        assert_eq!(health.checks.keys().copied().collect::<Vec<_>>(), CHECKS);
        type Set = fn(&mut Figures);
        let cases: [(&str, Level, Set); 27] = [
            ("queue", Level::Healthy, |of| of.queue_bytes = 749),
            ("queue", Level::Warning, |of| of.queue_bytes = 750),
            ("queue", Level::Degraded, |of| of.queue_bytes = 1000),
            ("queue", Level::Critical, |of| of.queue_full = true),
            ("memory", Level::Warning, |of| of.resident_bytes = 800),
            ("memory", Level::Degraded, |of| of.resident_bytes = 900),
            ("memory", Level::Critical, |of| of.resident_bytes = 950),
            ("disk_space", Level::Warning, |of| of.free_bytes = 100),
            ("disk_space", Level::Degraded, |of| of.free_bytes = 50),
            ("disk_space", Level::Critical, |of| of.free_bytes = 20),
            ("disk_space", Level::Healthy, |of| (of.free_bytes, of.size_bytes) = (0, 0)),
            ("sink_connectivity", Level::Warning, |of| of.sinks[0].failing = 1),
            ("sink_connectivity", Level::Degraded, |of| of.sinks[0].failing = 2),
            ("sink_connectivity", Level::Degraded, |of| of.sinks[0].lag_seconds = 60.0),
            ("file_descriptors", Level::Warning, |of| of.open_fds = 700),
            ("file_descriptors", Level::Degraded, |of| of.open_fds = 850),
            ("file_descriptors", Level::Critical, |of| of.open_fds = 950),
            ("commit_latency", Level::Warning, |of| of.commit_p99_seconds = Some(0.1)),
            ("commit_latency", Level::Degraded, |of| of.commit_p99_seconds = Some(1.0)),
            ("commit_latency", Level::Critical, |of| of.commit_p99_seconds = Some(10.0)),
            ("dead_letters", Level::Warning, |of| {
                (of.dead, of.dead_added) = (1, 1);
            }),
            ("dead_letters", Level::Critical, |of| of.dead_share = 0.95),
            ("dead_letters", Level::Degraded, |of| of.dead_share_dropping = 1.0),
            ("objective", Level::Healthy, |of| of.burn_rate_5m = 100.0),
            ("objective", Level::Warning, |of| (of.burn_rate_5m, of.burn_rate_1h) = (6.0, 7.0)),
            ("objective", Level::Degraded, |of| (of.burn_rate_5m, of.burn_rate_1h) = (99.0, 14.4)),
            ("objective", Level::Healthy, |of| of.dead_added = 0),
        ];
        for (name, expected, set) in cases {
            let mut figures = well();
            set(&mut figures);
            let health = Health::judge(&figures);
            let check = &health.checks[name];
            assert_eq!((check.status, health.status), (expected, expected), "{name}: {check:?}");
            let alarms = health.alarms();
            assert_eq!(alarms.len(), usize::from(expected > Level::Healthy), "{name}: {alarms:?}");
        }
    }

    #[test]
    fn without_its_shards_or_before_it_is_ready_it_is_critical() {
        let sets: [fn(&mut Figures); 3] =
            [|of| of.shards.running = 1, |of| of.shards.silent = vec![1], |of| of.ready = false];
        for set in sets {
            let mut figures = well();
            set(&mut figures);
            let health = Health::judge(&figures);
            assert_eq!(health.status, Level::Critical, "{health:?}");
        }
    }
}
