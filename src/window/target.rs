//! An instance that runs: how it is looked at.

use super::exposition;
use super::look::Look;
use crate::ask::{Access, AccessArgs, AccessError, Failure, Server, Text};
use crate::health::Level;
use clap::Args;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const METRICS_BYTES_MAX: u64 = 16 << 20;
/// What it is about is for people.
const UNWELL_MAX: usize = 300;

/// Which instances, and for how long.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// server.listen of each instance, such as http://127.0.0.1:8401, with commas between them.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub targets: Vec<String>,
    /// metrics.listen of each, in the same order, such as http://127.0.0.1:8001. Without it, GET /config of each says
    /// where it is.
    #[arg(long, value_name = "URL", value_delimiter = ',', requires = "targets")]
    pub metrics: Vec<String>,
    /// How often each is looked at, from 500ms to 1h. What it tells is up to two seconds old.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    pub interval: Duration,
    #[command(flatten)]
    pub access: AccessArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(500)..=Duration::from_secs(3600), "from 500ms to 1h")
}

/// How long a window may be.
pub fn window_time(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600), "from 1s to 168h")
}

fn within(
    text: &str,
    range: std::ops::RangeInclusive<Duration>,
    expected: &str,
) -> Result<Duration, String> {
    let time = config::parse_duration(text)?;
    if range.contains(&time) { Ok(time) } else { Err(expected.into()) }
}

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("{flag} {url}: expected the address of an instance, such as {example}")]
    Url { flag: &'static str, url: Text, example: &'static str },
    #[error(
        "--metrics has {metrics} addresses and --targets {targets}: give one for each, in the same order"
    )]
    Count { metrics: usize, targets: usize },
    #[error("{0}")]
    Access(#[from] AccessError),
    #[error("--targets names {0} twice: name each instance once")]
    Twice(Text),
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Target {
    api: Server,
    /// Not known until it was asked.
    metrics: Option<Server>,
    access: Access,
}

/// What was seen at once.
#[derive(Debug, Clone)]
pub struct Seen {
    pub look: Look,
    pub health: Option<Health>,
}

/// What `GET /health` said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub status: Level,
    /// The checks that are not well.
    pub unwell: String,
    /// Each sink serves none of its tenants.
    pub breakers_all_open: bool,
}

impl TargetArgs {
    pub fn open(&self) -> Result<Vec<Target>, TargetError> {
        let wrong =
            |flag, url: &String, example| TargetError::Url { flag, url: Text::of(url), example };
        if !self.metrics.is_empty() && self.metrics.len() != self.targets.len() {
            let (metrics, targets) = (self.metrics.len(), self.targets.len());
            return Err(TargetError::Count { metrics, targets });
        }
        let access = self.access.open()?;
        let mut opened: Vec<Target> = Vec::new();
        for (at, url) in self.targets.iter().enumerate() {
            let api = Server::known(url, &access)
                .ok_or_else(|| wrong("--targets", url, "http://127.0.0.1:8401"))?;
            if opened.iter().any(|other| other.api.url() == api.url()) {
                return Err(TargetError::Twice(Text::of(url)));
            }
            let metrics = self.metrics.get(at).map(|url| {
                Server::known(url, &access)
                    .ok_or_else(|| wrong("--metrics", url, "http://127.0.0.1:8001"))
            });
            opened.push(Target { api, metrics: metrics.transpose()?, access: access.clone() });
        }
        Ok(opened)
    }
}

impl Target {
    /// Its address, by which it is called.
    #[must_use]
    pub fn name(&self) -> String {
        Text::of(self.api.url()).to_string()
    }

    /// All by which others may call it.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let metrics = self.metrics.as_ref().map(|metrics| metrics.url().to_owned());
        std::iter::once(self.api.url().to_owned()).chain(metrics).collect()
    }

    /// `with_health`: that is asked for, too.
    pub fn look(&mut self, start: Instant, with_health: bool) -> Result<Seen, String> {
        let text = |failure: Failure| failure.to_string();
        let health = with_health.then(|| self.health()).transpose().map_err(text)?;
        let known = match &self.metrics {
            Some(known) => known.clone(),
            None => self.find_metrics().map_err(text)?,
        };
        let hint = |failure: Failure| {
            format!("{failure}; where metrics.listen is reached elsewhere, give it with --metrics")
        };
        let at = start.elapsed().as_secs_f64();
        let body = known.success("/metrics", ANSWER_TIME_MAX, METRICS_BYTES_MAX).map_err(hint)?;
        let samples = exposition::parse(&String::from_utf8_lossy(&body));
        let look = samples.and_then(|samples| Look::of(at, &samples));
        let look = look.map_err(|what| hint(known.unlike("/metrics", &what)))?;
        self.metrics = Some(known);
        Ok(Seen { look, health })
    }

    /// `metrics.listen` as the instance says it, on the host that is asked.
    fn find_metrics(&self) -> Result<Server, Failure> {
        let config: Value = self.api.json("/config", ANSWER_TIME_MAX, CONFIG_BYTES_MAX)?;
        let said = config["metrics"]["listen"].as_str().unwrap_or_default();
        let unlike = |what: &str| {
            self.api.unlike("/config", &format!("{what}; give its address with --metrics"))
        };
        let listen: SocketAddr = said
            .parse()
            .map_err(|_| unlike(&format!("expected metrics.listen in it, found {said:?}")))?;
        if listen.port() == 0 {
            return Err(unlike("its metrics.listen has no fixed port"));
        }
        let host = match listen.ip() {
            ip if ip.is_unspecified() || ip.is_loopback() => self.api.host(),
            _ => SocketAddr::new(listen.ip(), 0).to_string().trim_end_matches(":0").to_owned(),
        };
        let scheme = if config["metrics"]["tls"].is_object() { "https" } else { "http" };
        let url = format!("{scheme}://{host}:{}", listen.port());
        // What it says is no reason to send the token elsewhere, or in clear.
        let is_weaker = scheme == "http" && self.api.url().starts_with("https:");
        let trusted = host == self.api.host() && !is_weaker;
        let stranger = self.access.without_token();
        Server::known(&url, if trusted { &self.access } else { &stranger })
            .ok_or_else(|| unlike("its metrics.listen is no address"))
    }

    fn health(&self) -> Result<Health, Failure> {
        let (status, body) = self.api.get("/health", ANSWER_TIME_MAX, CONFIG_BYTES_MAX)?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Health::of(&said).unwrap_or_else(|| Health {
            status: Level::Critical,
            unwell: format!("GET /health answers {status}, and not as log-capturer does"),
            breakers_all_open: false,
        }))
    }
}

impl Health {
    /// None where it is no health.
    fn of(said: &Value) -> Option<Health> {
        let level = |value: &Value| serde_json::from_value::<Level>(value.clone()).ok();
        let status = level(&said["status"])?;
        let parts =
            [&said["services"], &said["checks"]].into_iter().filter_map(Value::as_object).flatten();
        let unwell = parts.filter(|(_, check)| level(&check["status"]) != Some(Level::Healthy));
        let unwell: Vec<String> = unwell
            .map(|(name, check)| {
                format!("{name}: {}", check["message"].as_str().unwrap_or_default())
            })
            .collect();
        let unwell: String = unwell.join("; ").chars().take(UNWELL_MAX).collect();
        let sinks = said["checks"]["sink_connectivity"]["sinks"].as_array();
        let all_open = |sink: &Value| {
            let count = |key| sink[key].as_u64().unwrap_or(0);
            count("failing") > 0 && count("failing") == count("tenants")
        };
        let breakers_all_open =
            sinks.is_some_and(|all| !all.is_empty() && all.iter().all(all_open));
        Some(Health { status, unwell: Text::of(&unwell).to_string(), breakers_all_open })
    }
}

/// Looks at all of them at once.
pub fn look_at(
    targets: &mut [Target],
    start: Instant,
    with_health: bool,
) -> Vec<Result<Seen, String>> {
    std::thread::scope(|scope| {
        let look = |target| scope.spawn(move || Target::look(target, start, with_health));
        let all: Vec<_> = targets.iter_mut().map(look).collect();
        let joined = all.into_iter().map(|look| look.join().expect("a look does not panic"));
        joined.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn health_is_told_with_what_is_unwell() {
        let sinks = |failing| json!([{ "sink": "loki", "tenants": 1, "failing": failing }]);
        let said = |failing: u64| {
            json!({
                "status": "degraded", "services": { "sinks": { "status": "healthy" } },
                "checks": { "sink_connectivity": { "status": "degraded", "message": "lines wait", "sinks": sinks(failing) } },
            })
        };
        let health = Health::of(&said(1)).unwrap();
        assert_eq!(
            (health.status, health.unwell.as_str()),
            (Level::Degraded, "sink_connectivity: lines wait")
        );
        assert!(health.breakers_all_open && !Health::of(&said(0)).unwrap().breakers_all_open);
        assert_eq!(Health::of(&json!({ "status": "fine" })), None);
        assert_eq!(Health::of(&json!("healthy")), None);
    }

    #[test]
    fn arguments_are_checked_together() {
        let open = |targets: &[&str], metrics: &[&str]| {
            let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
            let interval = Duration::from_secs(1);
            let access = AccessArgs::default();
            let args =
                TargetArgs { targets: texts(targets), metrics: texts(metrics), interval, access };
            args.open().map(|all| all.len()).map_err(|error| error.to_string())
        };
        assert_eq!(open(&["http://a:1", "http://b:1/"], &[]), Ok(2));
        assert!(open(&["a:1"], &[]).unwrap_err().contains("such as http://127.0.0.1:8401"));
        assert!(open(&["http://a"], &["x"]).unwrap_err().contains("such as http://127.0.0.1:8001"));
        assert!(open(&["http://a", "http://a/"], &[]).unwrap_err().contains("twice"));
        assert!(
            open(&["http://a"], &["http://a", "http://b"]).unwrap_err().contains("one for each")
        );
    }
}
