//! What Prometheus has kept, and what it and Grafana say of the instances.

use super::fake::Fake;
use super::{EASY, begin_on, finish, metrics, rule, save, url, verify, write};
use crate::bed::{Bed, stop};
use crate::observe::prometheus::Prometheus;
use crate::tools::json;
use bench::load::Rotation;
use bench::stub::Away;
use std::fs;

#[test]
fn dashboards_are_asked_for_with_a_token() {
    let bed = Bed::new();
    let product = bed.start();
    let dir = &bed.setup.dir;
    let grafana = Fake::new(|path, head| match path.strip_prefix("/api/dashboards/uid/") {
        _ if !head.to_lowercase().contains("authorization: bearer secret") => (401, "{}".into()),
        Some("log-capturer-critical") => {
            (200, r#"{"dashboard":{"uid":"log-capturer-critical"}}"#.into())
        }
        _ => (404, "{}".into()),
    });
    let ask = |more: &[&str]| {
        let url = grafana.url();
        let args = [&["--for", "1s", "--grafana", &url], more].concat();
        let (_, verdict) = verify(dir, &[&product], EASY, &args);
        let all = verdict["rules"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|of| of["rule"] == "grafana_dashboard");
        all.map(|of| (of["verdict"].clone(), of["why"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let token = write(dir, "token", "secret\n");
    let with = ask(&["--grafana-token-file", &token]);
    assert_eq!(with[0], ("go".into(), "log-capturer-critical is there".into()));
    assert!(
        with[1].0 == "no_go" && with[1].1.contains("log-capturer-shards is not there"),
        "{with:?}"
    );
    let without = ask(&[]);
    assert!(without.iter().all(|(_, why)| why.contains("--grafana-token-file")), "{without:?}");
    stop(product);
}

/// A Prometheus that scrapes the product: the same figures out of what it has kept, and what it says of targets, rules
/// and alerts.
#[test]
fn a_prometheus_is_asked() {
    let bed = Bed::new();
    let product = bed.start();
    let Some(prometheus) = Prometheus::start(&[product.metrics]) else { return };
    let writer = bed.writer(1_000, u64::MAX, Rotation::Never);
    let dir = &bed.setup.dir;
    prometheus.eventually("it has looked often enough", || {
        let looks = prometheus.query("count_over_time(log_capturer_ready[20s]) >= 12");
        let rules = prometheus.query("count(instance:log_capturer_lines:rate5m)");
        !looks.is_empty() && !rules.is_empty()
    });
    let file = dir.join("kept.json").display().to_string();
    let asked = ["--prometheus", prometheus.url(), "--for", "10s", "--out", &file];
    let saved = save(&asked);
    assert_eq!(saved.code, Some(0), "{}", saved.errors);
    let kept = json(&fs::read_to_string(&file).unwrap());
    let figures = &kept["instances"][0];
    assert_eq!(figures["instance"], product.metrics.to_string());
    assert!(figures["looks"].as_u64().unwrap() >= 8, "{figures:#}");
    assert!(figures["lines_per_second"].as_f64().unwrap() > 100.0, "{figures:#}");
    let whole = figures["latency"]
        .as_array()
        .unwrap()
        .iter()
        .find(|way| way["of"] == "source_to_ack")
        .unwrap();
    assert!(whole["sink"] == "loki" && whole["lines"].as_f64().unwrap() > 1_000.0, "{whole}");
    assert!(whole["p99_seconds"].as_f64().unwrap() > 0.0, "{whole}");
    let none = save(&[&asked[..], &["--selector", "job=\"other\""]].concat());
    assert_eq!(none.code, Some(1), "{}", none.errors);
    assert!(none.errors.contains("knows no instance with {job=\"other\"}"), "{}", none.errors);
    let wrong = save(&[&asked[..], &["--selector", "job="]].concat());
    assert_eq!(wrong.code, Some(1), "{}", wrong.errors);
    assert!(wrong.errors.contains("400"), "{}", wrong.errors);

    let ask =
        || verify(dir, &[&product], EASY, &["--for", "4s", "--prometheus", prometheus.url()]).1;
    let verdict = ask();
    for name in ["prometheus_targets", "prometheus_rules"] {
        assert_eq!(rule(&verdict, name)["verdict"], "go", "{}", rule(&verdict, name));
    }
    bed.stub.go_away(Away::Refusing);
    prometheus.eventually("Loki is missed", || prometheus.fires("BreakerOpen", product.metrics));
    let verdict = ask();
    let alerts = rule(&verdict, "prometheus_alerts");
    let why = alerts["why"].as_str().unwrap();
    assert!(alerts["verdict"] == "no_go" && why.contains("LogCapturerBreakerOpen on "), "{alerts}");
    // Another one is well, whatever fires elsewhere; and it may be called otherwise there.
    let fake = Fake::instance(|_| 30e6);
    let watched = |url: &str, metrics: &str| {
        let args = [
            "--targets",
            url,
            "--metrics",
            metrics,
            "--for",
            "1s",
            "--prometheus",
            prometheus.url(),
        ];
        let (child, path) = begin_on(dir, EASY, &args);
        finish(child, &path).1
    };
    let verdict = watched(&fake.url(), &fake.url());
    for name in ["prometheus_targets", "prometheus_alerts"] {
        let judged = rule(&verdict, name);
        let why = judged["why"].as_str().unwrap();
        assert_eq!(judged["verdict"], "not_enough_data", "{judged}");
        assert!(why.contains(&product.metrics.to_string()), "{judged}");
    }
    let (url, metrics) = (url(&product), metrics(&product));
    product.kill();
    prometheus.eventually("it is missed", || {
        prometheus.targets().iter().any(|target| target["health"] == "down")
    });
    let verdict = watched(&url, &metrics);
    let targets = rule(&verdict, "prometheus_targets");
    assert!(
        targets["verdict"] == "no_go" && targets["why"].as_str().unwrap().contains("not up: "),
        "{targets}"
    );
    drop(writer);
}
