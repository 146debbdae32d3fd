//! Lines held against the objective, and how long each stage of their way takes.

use super::{ask, level, show};
use crate::answers::ask::{Pushed, numbered, push};
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::product::Product;
use bench::stub::Fault;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LINES: usize = 100;
const WINDOWS: [&str; 4] = ["5m", "1h", "6h", "3d"];

/// Pushes lines and waits until all are acked and held against the objective; gives what is then said of it.
fn judged(bed: &Bed, product: &Product) -> Value {
    push(product, "", &[Pushed::now("a", numbered("line", LINES))]);
    bed.entries(LINES);
    let mut slo = Value::Null;
    eventually("the lines are held against the objective", product, || {
        let stats = show(product, "/stats");
        slo = stats["slo"].clone();
        slo["windows"]["5m"]["lines"] == LINES && stats["sinks"][0]["unacked_lines"] == 0
    });
    slo
}

fn late(slo: &Value) -> u64 {
    slo["windows"]["5m"]["late"].as_u64().unwrap()
}

#[test]
fn late_lines_burn_the_error_budget() {
    let bed = Bed::new();
    bed.stub.set_fault(Fault::Delay(Duration::from_millis(700)));
    let product = bed.start();
    let before = show(&product, "/slo/status");
    assert_eq!((late(&before), &before["met"]), (0, &json!(true)), "{before}");
    assert_eq!(before["error_budget_remaining_ratio"], 1.0, "{before}");
    let slo = judged(&bed, &product);
    // All of them, where one in a hundred may be late.
    for window in WINDOWS {
        let expected = json!({ "lines": LINES, "late": LINES, "ratio": 0.0, "burn_rate": 100.0 });
        assert_eq!(slo["windows"][window], expected, "{slo}");
    }
    assert_eq!(slo["error_budget_remaining_ratio"], -99.0, "{slo}");
    assert_eq!(slo["met"], false, "{slo}");
    eventually("health sees it", &product, || {
        let (status, health) = ask(&product, "/health");
        assert_eq!(status, 200, "{health}");
        level(&health, "objective") == "degraded"
    });
    assert_eq!(show(&product, "/stats")["slo"]["met"], false);
    let burns = product.metric("log_capturer_slo_burn_rate{window=\"5m\"}").unwrap();
    assert!((99.0..=101.0).contains(&burns), "{burns}");
    stop(product);
}

#[test]
fn the_objective_is_what_the_configuration_says() {
    let mut bed = Bed::new();
    bed.setup.more = vec!["slo: { lines_per_second: 7, latency: 10m, ratio: 0.9 }".into()];
    bed.stub.set_fault(Fault::Delay(Duration::from_millis(700)));
    let product = bed.start();
    let slo = judged(&bed, &product);
    let objective = json!({ "latency_seconds": 600.0, "ratio": 0.9, "lines_per_second": 7.0 });
    assert_eq!((&slo["objective"], late(&slo)), (&objective, 0), "{slo}");
    assert_eq!((&slo["met"], &slo["windows"]["5m"]["ratio"]), (&json!(true), &json!(1.0)), "{slo}");
    assert_eq!(product.metric("log_capturer_slo_objective_seconds").unwrap(), 600.0);
    stop(product);
}

/// Of lines that wait it is known that they are late before anyone has taken them.
#[test]
fn lines_that_are_overdue_burn_while_they_wait() {
    let mut bed = Bed::new();
    bed.setup.more = vec!["slo: { latency: 100ms }".into()];
    bed.stub.go_away(bench::stub::Away::Refusing);
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("line", LINES))]);
    eventually("they count", &product, || late(&show(&product, "/slo/status")) == LINES as u64);
    assert_eq!(show(&product, "/stats")["sinks"][0]["unacked_lines"], LINES);
    bed.stub.heal();
    bed.entries(LINES);
    eventually("they count once", &product, || {
        let stats = show(&product, "/stats");
        stats["sinks"][0]["unacked_lines"] == 0 && late(&stats["slo"]) == LINES as u64
    });
    stop(product);
}

const STAGES: [&str; 5] = ["read", "pipeline", "seal", "append", "sync"];
const SINK_STAGES: [&str; 3] = ["handoff", "send", "ack"];

#[test]
fn the_stages_are_not_longer_than_the_whole_way() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: [0], egress: 0 }".into();
    bed.stub.set_fault(Fault::Delay(Duration::from_millis(200)));
    let product = bed.start();
    // In one frame, so that each of them takes as long in every stage.
    let start = Instant::now();
    push(&product, "", &[Pushed::now("a", numbered("line", LINES))]);
    bed.entries(LINES);
    let measured = || {
        let latency = &show(&product, "/stats")["latency"];
        latency["source_to_ack"]["loki"]["since_start"]["lines"] == LINES
            && latency["stages"]["ack"]["loki"]["since_start"]["lines"] == LINES
    };
    eventually("they are measured", &product, measured);
    let took = start.elapsed().as_secs_f64();
    let latency = show(&product, "/stats")["latency"].clone();
    let whole = &latency["source_to_ack"]["loki"]["since_start"];
    let of_sinks = SINK_STAGES.map(|name| &latency["stages"][name]["loki"]["since_start"]);
    let stages = STAGES.map(|name| &latency["stages"][name]["since_start"]);
    let mut sum = 0.0;
    for stage in stages.into_iter().chain(of_sinks) {
        assert_eq!(stage["lines"], LINES, "every line goes through it: {latency}");
        sum += stage["p50_seconds"].as_f64().unwrap();
    }
    let longest = whole["max_seconds"].as_f64().unwrap();
    // Histograms are exact within 0.8 %, and the news of an ack is no part of the whole.
    let ack = latency["stages"]["ack"]["loki"]["since_start"]["p50_seconds"].as_f64().unwrap();
    assert!(sum - ack <= longest * 1.02 + 0.001, "{sum} s of {longest} s: {latency}");
    assert!(sum >= longest * 0.9, "they leave nothing out, {sum} s of {longest} s: {latency}");
    let send = of_sinks[1]["p50_seconds"].as_f64().unwrap();
    assert!((0.198..=took).contains(&send), "the sink takes 0.2 s: {latency}");
    assert!(longest <= took, "{longest} s in {took} s");
    let mut before = 0.0;
    for name in ["p50", "p90", "p95", "p99", "p999", "max"] {
        let at = whole[format!("{name}_seconds")].as_f64().unwrap();
        assert!(at >= before, "{whole}");
        before = at;
    }
    assert_eq!(latency["http_answer"]["since_start"]["lines"], 1, "one request: {latency}");
    assert!(latency["commit"]["since_start"]["lines"].as_u64() >= Some(1), "{latency}");
    stop(product);
}

#[test]
fn where_nothing_is_measured_the_objective_is_held_all_the_same() {
    let mut bed = Bed::new();
    bed.setup.metrics_keys = vec!["latency: false".into()];
    bed.stub.set_fault(Fault::Delay(Duration::from_millis(700)));
    let product = bed.start();
    let slo = judged(&bed, &product);
    assert_eq!(late(&slo), LINES as u64, "{slo}");
    let stats = show(&product, "/stats");
    let mut spans = 0;
    each_span(&stats["latency"], &mut |span| {
        spans += 1;
        assert_eq!(*span, json!({ "since_start": null, "last_minute": null }), "{stats}");
    });
    assert_eq!(spans, 3 + STAGES.len() + SINK_STAGES.len());
    assert_eq!(product.metric("log_capturer_source_to_ack_seconds_count").unwrap(), 0.0);
    let (_, health) = ask(&product, "/health");
    assert_eq!(health["checks"]["commit_latency"]["p99_seconds"], Value::Null, "{health}");
    assert_eq!(level(&health, "commit_latency"), "healthy", "{health}");
    stop(product);
}

fn each_span(value: &Value, look: &mut impl FnMut(&Value)) {
    let Some(members) = value.as_object() else { return };
    if members.contains_key("since_start") {
        return look(value);
    }
    members.values().for_each(|member| each_span(member, look));
}

#[test]
fn live_lines_are_counted_and_rated() {
    let bed = Bed::new();
    let product = bed.start();
    let written = bed.writer(1_000, 5_000, bench::load::Rotation::Never).wait().unwrap();
    assert!(bed.stub.wait_for_lines(written.lines_in_all(), PATIENCE));
    eventually("they are counted", &product, || {
        show(&product, "/stats")["lines_total"] == written.lines_in_all()
    });
    let stats = show(&product, "/stats");
    let rate = |of: &Value| of["lines_per_second"].as_f64().unwrap();
    let shards = show(&product, "/shards");
    let by_shard: f64 = shards["shards"].as_array().unwrap().iter().map(rate).sum();
    assert!(rate(&stats) > 0.0 && rate(&stats) <= 6_000.0, "{stats}");
    assert!(by_shard > 0.0, "{shards}");
    let lines = |of: &Value| of["lines_total"].as_u64().unwrap();
    let lines: u64 = shards["shards"].as_array().unwrap().iter().map(lines).sum();
    assert_eq!(lines, written.lines_in_all(), "{shards}");
    stop(product);
}
