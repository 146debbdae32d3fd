//! What a running instance tells, as far as it is shown. All of it may be missing but its version: another
//! version tells other things. No text in it can be a command to a terminal.

use super::Wrong;
use crate::ask::{Access, Server, Text};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What was measured last is there.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
/// Shards answer for their files when their log has room, and within 5 s.
const SOURCES_TIME_MAX: Duration = Duration::from_secs(8);
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// Sources that are asked for.
pub const SOURCES: usize = 200;

/// None where it is not told.
pub type Number = Option<f64>;

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Stats {
    pub version: Text,
    #[serde(flatten)]
    pub told: Told,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Told {
    pub uptime_seconds: Number,
    pub ready: Option<bool>,
    pub status: Text,
    pub lines_per_second: Number,
    pub bytes_per_second: Number,
    pub latency: Latency,
    pub shards: Vec<Shard>,
    pub sinks: Vec<Sink>,
    pub wal: Wal,
    pub dlq: Dlq,
    pub process: Process,
    pub data_dir: DataDir,
    pub slo: Slo,
    pub alarms: Vec<Alarm>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// By sink.
    pub source_to_ack: BTreeMap<Text, Spans>,
    pub http_answer: Spans,
    pub commit: Spans,
    pub stages: BTreeMap<Text, Stage>,
}

#[derive(Debug, Clone)]
pub enum Stage {
    Whole(Spans),
    BySink(BTreeMap<Text, Spans>),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Spans {
    pub last_minute: Option<Quantiles>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    pub p50_seconds: Number,
    pub p95_seconds: Number,
    pub p99_seconds: Number,
    pub max_seconds: Number,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Shard {
    pub shard: Number,
    pub cpu: Number,
    pub lines_per_second: Number,
    pub busy_ratio: Number,
    pub wal_bytes: Number,
    pub wal_bytes_max: Number,
    pub wal_full: bool,
    pub unacked_frames: Number,
    pub files_watched: Number,
    pub lag_bytes: Number,
    pub lag_seconds: Number,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Sink {
    pub sink: Text,
    pub state: Text,
    pub reason: Option<Text>,
    pub in_flight: Number,
    pub breakers_open: Number,
    pub pushes: Pushes,
    pub lines_per_second: Number,
    pub lag_seconds: Number,
    pub unacked_lines: Number,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Pushes {
    pub accepted: Number,
    pub retried: Number,
    pub split: Number,
    pub isolated: Number,
    pub held: Number,
    pub rejected: Number,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Wal {
    pub bytes: Number,
    pub bytes_max: Number,
    pub full: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Dlq {
    pub entries: Number,
    pub bytes: Number,
    pub bytes_max: Number,
    pub by_reason: BTreeMap<Text, Number>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    pub cpu_ratio: Number,
    pub resident_bytes: Number,
    pub open_fds: Number,
    pub max_fds: Number,
    pub threads: Number,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct DataDir {
    pub free_bytes: Number,
    pub size_bytes: Number,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Slo {
    pub objective: Objective,
    pub error_budget_remaining_ratio: Number,
    pub met: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Objective {
    pub latency_seconds: Number,
    pub ratio: Number,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Alarm {
    pub check: Text,
    pub status: Text,
    pub message: Text,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Positions {
    pub positions: Vec<Source>,
    #[serde(default)]
    pub total: Number,
    #[serde(default)]
    pub lag_bytes: Number,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Source {
    pub path: Text,
    pub shard: Number,
    pub offset: Number,
    pub size: Number,
    pub lag_bytes: Number,
    pub lag_seconds: Number,
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Stage, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Stage;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("quantiles, or quantiles by sink")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Stage, M::Error> {
                let mut all = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<Text, Value>()? {
                    all.insert(name, value);
                }
                let spans = ["since_start", "last_minute"].map(Text::of);
                let error = M::Error::custom;
                if all.keys().any(|name| spans.contains(name)) {
                    let last = all.remove(&spans[1]).unwrap_or_default();
                    let last_minute = serde_json::from_value(last).map_err(error)?;
                    return Ok(Stage::Whole(Spans { last_minute }));
                }
                let sinks = all
                    .into_iter()
                    .map(|(sink, value)| Ok((sink, serde_json::from_value(value).map_err(error)?)));
                Ok(Stage::BySink(sinks.collect::<Result<_, _>>()?))
            }
        }

        from.deserialize_map(Read)
    }
}

/// How sources are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Lag,
    Path,
}

impl Sort {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Sort::Lag => "lag",
            Sort::Path => "path",
        }
    }

    #[must_use]
    pub fn other(self) -> Sort {
        match self {
            Sort::Lag => Sort::Path,
            Sort::Path => Sort::Lag,
        }
    }
}

/// Asks one instance.
#[derive(Debug, Clone)]
pub struct Client(Server);

impl Client {
    pub fn new(url: &str, access: &Access) -> Result<Client, Wrong> {
        Server::known(url, access).map(Client).ok_or_else(|| Wrong::Url(Text::of(url)))
    }

    #[must_use]
    pub fn of_instance(config: &config::Config, access: &Access) -> Option<Client> {
        Server::of_instance(config, access).map(Client)
    }

    #[must_use]
    pub fn url(&self) -> &str {
        self.0.url()
    }

    pub fn stats(&self) -> Result<Stats, Wrong> {
        Ok(self.0.json("/stats", ANSWER_TIME_MAX, ANSWER_BYTES_MAX)?)
    }

    pub fn positions(&self, sort: Sort) -> Result<Positions, Wrong> {
        let path = format!("/positions?sort={}&limit={SOURCES}", sort.name());
        Ok(self.0.json(&path, SOURCES_TIME_MAX, ANSWER_BYTES_MAX)?)
    }

    /// The configuration in force.
    pub fn config(&self) -> Result<Value, Wrong> {
        Ok(self.0.json("/config", ANSWER_TIME_MAX, ANSWER_BYTES_MAX)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_whole_or_by_sink() {
        let read = |text: &str| serde_json::from_str::<Stage>(text).unwrap();
        let q = r#"{"p50_seconds":0.5,"lines":3,"p95_seconds":null}"#;
        let Stage::Whole(spans) = read(&format!(r#"{{"since_start":null,"last_minute":{q}}}"#))
        else {
            panic!("whole")
        };
        assert_eq!(spans.last_minute.unwrap().p50_seconds, Some(0.5));
        assert!(
            matches!(read(r#"{"last_minute":null}"#), Stage::Whole(spans) if spans.last_minute.is_none())
        );
        let Stage::BySink(sinks) =
            read(&format!(r#"{{"loki":{{"last_minute":{q}}},"b\u001b":{{}}}}"#))
        else {
            panic!("by sink")
        };
        let names: Vec<&str> = sinks.keys().map(|name| &**name).collect();
        assert_eq!(names, ["b\\u{1b}", "loki"]);
    }

    #[test]
    fn only_what_tells_a_version_is_an_instance() {
        let read = |text| serde_json::from_str::<Stats>(text).map_err(|error| error.to_string());
        let stats = read(r#"{"version":"9.9.9","wal":{"news":1},"else":[]}"#).unwrap();
        assert_eq!((&*stats.version, stats.told.lines_per_second), ("9.9.9", None));
        for text in ["{}", "[]", "null", r#"{"version":3}"#, r#"{"version":"1","shards":7}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_has_a_scheme_and_a_host() {
        for url in ["http://127.0.0.1:8401", "https://logs.example/x/", "http://[::1]:1"] {
            assert!(Client::new(url, &Access::default()).is_ok(), "{url}");
        }
        for url in
            ["127.0.0.1:8401", "localhost", "ftp://a", "http://", "http://a/?b", "", "/stats"]
        {
            let error = Client::new(url, &Access::default()).unwrap_err().to_string();
            assert!(error.contains("such as http://127.0.0.1:8401"), "{url}: {error}");
        }
    }
}
