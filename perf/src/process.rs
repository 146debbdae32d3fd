//! What the process takes, by the names that all Prometheus clients use.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_fds: u64,
    pub max_fds: u64,
    pub threads: u64,
    /// Unix time in seconds.
    pub started_s: f64,
}

impl Process {
    /// None where `/proc` does not say.
    #[must_use]
    pub fn now() -> Option<Process> {
        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = procfs::ticks_per_second();
        let open_max = process.limits().ok()?.max_open_files.soft_limit;
        Some(Process {
            cpu: Duration::from_secs_f64((stat.utime + stat.stime) as f64 / ticks as f64),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            open_fds: process.fd_count().ok()? as u64,
            max_fds: match open_max {
                procfs::process::LimitValue::Value(max) => max,
                procfs::process::LimitValue::Unlimited => u64::MAX,
            },
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            started_s: booted_s() + stat.starttime as f64 / ticks as f64,
        })
    }

    fn families(&self) -> Vec<MetricFamily> {
        let cpu = self.cpu.as_secs_f64();
        FAMILIES
            .iter()
            .zip([
                cpu,
                self.resident_bytes as f64,
                self.virtual_bytes as f64,
                self.open_fds as f64,
                self.max_fds as f64,
                self.threads as f64,
                self.started_s,
            ])
            .map(|((name, help), value)| family(name, help, value))
            .collect()
    }
}

/// Unix time in seconds. From the clocks, since a sandbox may hide `/proc/stat`; and once, since a clock
/// that is set later must not look like a restart.
fn booted_s() -> f64 {
    static BOOTED_S: OnceLock<f64> = OnceLock::new();
    *BOOTED_S.get_or_init(|| {
        let up = clock_gettime(ClockId::Boottime);
        let up_s = up.tv_sec as f64 + up.tv_nsec as f64 / 1e9;
        crate::clock::unix_ns() as f64 / 1e9 - up_s
    })
}

const FAMILIES: [(&str, &str); 7] = [
    ("process_cpu_seconds_total", "CPU time taken, user and system."),
    ("process_resident_memory_bytes", "Memory that is in RAM."),
    ("process_virtual_memory_bytes", "Address space."),
    ("process_open_fds", "Descriptors that are open."),
    ("process_max_fds", "Descriptors that may be open."),
    ("process_threads", "Threads."),
    ("process_start_time_seconds", "When the process started, Unix time."),
];

fn family(name: &str, help: &str, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    let is_counter = name.ends_with("_total");
    if is_counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(if is_counter { MetricType::COUNTER } else { MetricType::GAUGE });
    family.set_metric(vec![metric]);
    family
}

/// Reads when it is asked.
pub struct ProcessCollector {
    descs: Vec<Desc>,
}

impl Default for ProcessCollector {
    fn default() -> ProcessCollector {
        let desc = |(name, help): &(&str, &str)| {
            Desc::new((*name).into(), (*help).into(), Vec::new(), HashMap::new()).expect("a name")
        };
        ProcessCollector { descs: FAMILIES.iter().map(desc).collect() }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        Process::now().map_or_else(Vec::new, |process| process.families())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let process = Process::now().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.threads >= 1 && (3..process.max_fds).contains(&process.open_fds));
        let age_s = crate::clock::unix_ns() as f64 / 1e9 - process.started_s;
        assert!((-2.0..3600.0).contains(&age_s), "{age_s}");
    }
}
