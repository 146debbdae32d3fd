//! The distribution's Prometheus on the product, with the rules that are shipped; only their times are
//! shortened.

use crate::bed::{PATIENCE, agent};
use bench::product::Product;
use serde_json::Value;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub struct Prometheus {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// None, and said so, where there is none on this host.
    pub fn start(targets: &[SocketAddr]) -> Option<Prometheus> {
        if Command::new("prometheus").arg("--version").output().is_err() {
            eprintln!(
                "skipped: there is no prometheus on this host; install it (apt-get install prometheus)"
            );
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        shorten(&dir.path().join("rules"));
        let targets: Vec<String> = targets.iter().map(|target| format!("{target:?}")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [rules/*.yaml]\n\
             scrape_configs: [{{ job_name: log_capturer, static_configs: [{{ targets: {targets:?} }}] }}]\n",
        );
        let config = config.replace("\"\\\"", "\"").replace("\\\"\"", "\"");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={port}"))
            .arg("--log.level=warn")
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Prometheus { child, url: format!("http://{port}"), dir };
        prometheus.eventually("it is ready", || {
            agent()
                .get(format!("{}/-/ready", prometheus.url))
                .call()
                .is_ok_and(|a| a.status() == 200)
        });
        Some(prometheus)
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn get(&self, path: &str) -> Value {
        let url = format!("{}/api/v1/{path}", self.url);
        let mut answer = agent().get(&url).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    /// The results of a query.
    #[must_use]
    pub fn query(&self, query: &str) -> Vec<Value> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.get(&format!("query?query={query}"));
        answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {answer}")).clone()
    }

    /// Every target: whether it is up.
    #[must_use]
    pub fn targets(&self) -> Vec<Value> {
        self.get("targets")["data"]["activeTargets"].as_array().unwrap().clone()
    }

    /// The rules that cannot be evaluated.
    #[must_use]
    pub fn broken_rules(&self) -> Vec<Value> {
        let rules = self.get("rules");
        let groups = rules["data"]["groups"].as_array().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
        rules.filter(|rule| rule["health"] == "err").cloned().collect()
    }

    /// Whether it fires on this instance.
    #[must_use]
    pub fn fires(&self, alert: &str, instance: SocketAddr) -> bool {
        let alerts = self.get("alerts");
        alerts["data"]["alerts"].as_array().unwrap().iter().any(|found| {
            found["labels"]["alertname"] == format!("LogCapturer{alert}")
                && found["labels"]["instance"] == instance.to_string()
                && found["state"] == "firing"
        })
    }

    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < 2 * PATIENCE, "never happened: {what}\n{log}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is shipped, but nothing has to hold for minutes, and everything is looked at once a second.
fn shorten(to: &Path) {
    fs::create_dir(to).unwrap();
    for file in
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/rules")).unwrap()
    {
        let file = file.unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        let short = text.lines().map(|line| match line.trim_start().split_once(": ") {
            Some(("for", _)) => line[..line.find("for").unwrap()].to_owned() + "for: 1s",
            Some(("interval", _)) => {
                line[..line.find("interval").unwrap()].to_owned() + "interval: 1s"
            }
            _ => line.to_owned(),
        });
        fs::write(to.join(file.file_name()), short.collect::<Vec<_>>().join("\n")).unwrap();
    }
}

/// `GET /health`: its status, and that of a check.
pub fn health(product: &Product, check: &str) -> (u16, String, String) {
    let mut answer = agent().get(format!("http://{}/health", product.api)).call().unwrap();
    let status = answer.status().as_u16();
    let health = answer.body_mut().read_to_string().unwrap();
    let health: Value = serde_json::from_str(&health).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (status, text(&health["status"]), text(&health["checks"][check]["status"]))
}
