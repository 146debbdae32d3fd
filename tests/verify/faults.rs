//! What goes wrong is no-go, and ends it at once where it should.

use super::fake::Fake;
use super::{EASY, begin, begin_on, ended_early, finish, free, looked, push, rule, save, verify};
use crate::abuse::client::noise;
use crate::bed::{Bed, PATIENCE, agent, eventually, stop};
use crate::observe::prometheus::health;
use bench::load::Rotation;
use bench::stub::{Away, Fault};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn loki_away_ends_it_at_once() {
    let bed = Bed::new();
    let product = bed.start();
    let writer = bed.writer(100, u64::MAX, Rotation::Never);
    let (mut child, path) = begin(&bed.setup.dir, &[&product], EASY, &["--for", "1h"]);
    looked(&mut child);
    bed.stub.go_away(Away::Refusing);
    let ended = finish(child, &path);
    ended_early(&ended, "every breaker is open");
    assert_eq!(rule(&ended.1, "breakers")["verdict"], "no_go");
    drop(writer);
}

#[test]
fn a_slow_loki_ends_it_at_once() {
    let bed = Bed::new();
    bed.stub.set_fault(Fault::Delay(Duration::from_secs(2)));
    let product = bed.start();
    let writer = bed.writer(1_000, u64::MAX, Rotation::Never);
    let rules =
        EASY.replace("p99_max: off", "p99_max: 1s").replace("p99_max: 60s", "p99_max: 500ms");
    let ended = verify(&bed.setup.dir, &[&product], &rules, &["--for", "1h"]);
    ended_early(&ended, "p99 ");
    let judged = rule(&ended.1, "p99");
    assert_eq!(
        (&judged["verdict"], &judged["limit"], &judged["unit"]),
        (&"no_go".into(), &0.5.into(), &"s".into())
    );
    assert!(judged["figure"].as_f64().unwrap() > 1.0, "{judged}");
    drop(writer);
}

#[test]
fn refused_lines_end_it_at_once() {
    let bed = Bed::new();
    let product = bed.start();
    let (mut child, path) = begin(&bed.setup.dir, &[&product], EASY, &["--for", "1h"]);
    looked(&mut child);
    assert_eq!(push(&product, "", &"good\n".repeat(1_200)), 204);
    // Older than Loki takes.
    let entries: Vec<String> = (0..200).map(|at| format!("[\"{}\",\"old\"]", 1_000 + at)).collect();
    let body = format!(
        "{{\"streams\":[{{\"stream\":{{\"job\":\"old\"}},\"values\":[{}]}}]}}",
        entries.join(",")
    );
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let answer = agent()
        .post(&url)
        .header("content-type", "application/json")
        .send(body.as_bytes())
        .unwrap();
    assert_eq!(answer.status(), 400);
    let ended = finish(child, &path);
    ended_early(&ended, "error rate 14.286 %, of at most 5.000 %");
    let judged = rule(&ended.1, "error_rate");
    assert!(judged["why"].as_str().unwrap().contains("200 lines"), "{judged}");
    stop(product);
}

#[test]
fn a_few_refused_lines_are_enough_where_they_are_all_there_is() {
    let bed = Bed::new();
    let product = bed.start();
    let (mut child, path) = begin(&bed.setup.dir, &[&product], EASY, &["--for", "1h"]);
    looked(&mut child);
    let entries: Vec<String> = (0..40).map(|at| format!("[\"{}\",\"old\"]", 1_000 + at)).collect();
    let body = format!(
        "{{\"streams\":[{{\"stream\":{{\"job\":\"old\"}},\"values\":[{}]}}]}}",
        entries.join(",")
    );
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let post = agent().post(&url).header("content-type", "application/json");
    assert_eq!(post.send(body.as_bytes()).unwrap().status(), 400);
    let ended = finish(child, &path);
    ended_early(&ended, "error rate 100.000 %, of at most 5.000 % (of 40 lines)");
    assert_eq!(rule(&ended.1, "error_rate")["verdict"], "no_go");
    stop(product);
}

#[test]
fn bytes_of_a_file_that_are_lost_are_no_go() {
    let bed = Bed::new();
    let product = bed.start();
    let (mut child, path) =
        begin(&bed.setup.dir, &[&product], EASY, &["--for", "1h", "--fail-fast"]);
    looked(&mut child);
    // Half a line, seen and not taken, is gone with the truncation.
    bed.append("a.log", "first\n");
    bed.lines(1);
    bed.append("a.log", "0123456789");
    std::thread::sleep(Duration::from_millis(1_500));
    std::fs::write(bed.log("a.log"), "new\n").unwrap();
    let ended = finish(child, &path);
    ended_early(&ended, "--fail-fast: bytes_lost does not hold");
    let judged = rule(&ended.1, "bytes_lost");
    assert!(judged["verdict"] == "no_go" && judged["figure"].as_f64().unwrap() > 0.0, "{judged}");
    stop(product);
}

#[test]
fn dead_letters_are_no_go() {
    let bed = Bed::new();
    let fault = Fault::Refuse {
        needle: "bad".into(),
        status: 400,
        text: "entry for stream '{labels}' is bad\n".into(),
        rest_stored: true,
    };
    bed.stub.set_fault(fault);
    let product = bed.start();
    let rules = EASY.replace("triggers: { ", "triggers: { error_ratio_max: off, ");
    let (mut child, path) =
        begin(&bed.setup.dir, &[&product], &rules, &["--for", "1h", "--fail-fast"]);
    looked(&mut child);
    assert_eq!(push(&product, "", &"bad\n".repeat(120)), 204);
    let ended = finish(child, &path);
    ended_early(&ended, "--fail-fast: ");
    eventually("all are set aside", &product, || {
        product.metric("log_capturer_dlq_entries").unwrap() >= 120.0
    });
    let (output, verdict) = verify(&bed.setup.dir, &[&product], &rules, &["--for", "3s"]);
    // They were there before.
    assert_eq!(rule(&verdict, "dead_letters")["verdict"], "go", "{}", output.out);
    assert_eq!(rule(&verdict, "dead_letters")["figure"], 0.0);
    drop(product);
}

#[test]
fn a_restart_is_no_go() {
    let mut bed = Bed::new();
    (bed.setup.server_listen, bed.setup.metrics_listen) = (free(), free());
    let product = bed.start();
    let writer = bed.writer(100, u64::MAX, Rotation::Never);
    let rules =
        EASY.replace("triggers: { ", "triggers: { unreached_looks: 1000, unhealthy_looks: 1000, ");
    let (mut child, path) =
        begin(&bed.setup.dir, &[&product], &rules, &["--for", "1h", "--fail-fast"]);
    looked(&mut child);
    product.kill();
    // The kernel gives up what a ring was waiting on only after the process has ended.
    let start = Instant::now();
    let addresses = [&bed.setup.server_listen, &bed.setup.metrics_listen];
    while addresses.iter().any(|address| TcpListener::bind(address).is_err()) {
        assert!(start.elapsed() < PATIENCE, "the address of a process that was killed is in use");
        std::thread::sleep(Duration::from_millis(5));
    }
    let product = bed.start();
    let ended = finish(child, &path);
    ended_early(&ended, "--fail-fast: ");
    assert_eq!(rule(&ended.1, "restarts")["figure"], 1.0, "{}", ended.0.out);
    assert_eq!(rule(&ended.1, "restarts")["verdict"], "no_go");
    drop(writer);
    stop(product);
}

#[test]
fn an_instance_that_is_gone_ends_it_at_once() {
    let bed = Bed::new();
    let product = bed.start();
    let (mut child, path) = begin(&bed.setup.dir, &[&product], EASY, &["--for", "1h"]);
    looked(&mut child);
    product.kill();
    let ended = finish(child, &path);
    ended_early(&ended, "not reached 3 times in a row: no answer from http://127.0.0.1:");
    assert_eq!(rule(&ended.1, "reached")["verdict"], "no_go");
    // From the start on.
    let free = format!("http://{}", free());
    let (child, path) = begin_on(&bed.setup.dir, EASY, &["--targets", &free, "--for", "1h"]);
    ended_early(&finish(child, &path), "not reached 3 times in a row");
    let saved = save(&["--targets", &free, "--for", "1s", "--out", "/dev/null"]);
    assert_eq!(saved.code, Some(1), "{}", saved.errors);
    assert!(
        saved.errors.contains("expected two looks in the window, found 0 (no answer"),
        "{}",
        saved.errors
    );
}

#[test]
fn instances_that_differ_are_no_go() {
    let (one, other) = (Bed::new(), Bed::new());
    let (fast, slow) = (one.start(), other.start());
    let writers = [
        one.writer(1_000, u64::MAX, Rotation::Never),
        other.writer(300, u64::MAX, Rotation::Never),
    ];
    let rules = EASY.replace("spread_max: off", "spread_max: 10%");
    let (output, verdict) = verify(&one.setup.dir, &[&fast, &slow], &rules, &["--for", "6s"]);
    assert_eq!(output.code, Some(2), "{}{}", output.out, output.errors);
    let judged = rule(&verdict, "spread_rate");
    assert_eq!(judged["verdict"], "no_go", "{judged}");
    assert!(judged["figure"].as_f64().unwrap() > 0.3, "{judged}");
    assert_eq!(verdict["instances"].as_array().unwrap().len(), 2);
    drop(writers);
}

#[test]
fn a_critical_instance_ends_it_at_once() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 32MiB, segment_bytes: 1MiB }".into();
    bed.setup.sink_keys.push("dlq: { bytes_max: 64MiB }".into());
    let product = bed.start();
    bed.stub.go_away(Away::Refusing);
    let full = || noise(7, 200_000);
    eventually("the log fills", &product, || push(&product, "", &full()) == 503);
    eventually("it is critical", &product, || {
        push(&product, "", &full());
        health(&product, "queue").0 == 503
    });
    let rules = EASY.replace("triggers: { ", "triggers: { breakers_all_open: false, ");
    let ended = verify(&bed.setup.dir, &[&product], &rules, &["--for", "1h"]);
    ended_early(&ended, "critical 3 times in a row: ");
    assert_eq!(rule(&ended.1, "healthy")["verdict"], "no_go");
}

#[test]
fn a_leak_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let leak = Fake::instance(|looks| 30e6 + looks as f64 * 1e6);
    let steady = Fake::instance(|_| 30e6);
    let slope = |limit: &str| {
        EASY.replace(
            "memory_slope_max: off, throughput",
            &format!("memory_slope_max: {limit}, throughput"),
        )
        .replace("memory_slope_max: off }", "memory_slope_max: 20MB/h }")
    };
    let watch = |fake: &Fake, time: &str| {
        let url = fake.url();
        let args = ["--targets", &url, "--metrics", &url, "--for", time];
        let (child, path) = begin_on(dir.path(), &slope("10MB/h"), &args);
        finish(child, &path)
    };
    let ended = watch(&leak, "1h");
    ended_early(&ended, "memory grows by at least ");
    assert_eq!(rule(&ended.1, "memory_slope")["verdict"], "no_go");
    let slope = &ended.1["instances"][0]["memory_bytes_slope"];
    assert!(
        slope["per_hour"].as_f64().unwrap() > 1e9 && slope["standard_error"].is_number(),
        "{slope}"
    );
    let (output, verdict) = watch(&steady, "5s");
    assert_eq!(rule(&verdict, "memory_slope")["verdict"], "go", "{}", output.out);
}

#[test]
fn what_answers_otherwise_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let other = Fake::new(|_, _| (200, "<html>hello</html>".into()));
    let url = other.url();
    let saved = save(&["--targets", &url, "--metrics", &url, "--for", "1s", "--out", "/dev/null"]);
    assert!(saved.errors.contains("/metrics: expected a sample such as"), "{}", saved.errors);
    let saved = save(&["--targets", &url, "--for", "1s", "--out", "/dev/null"]);
    assert!(saved.errors.contains("/config: expected value"), "{}", saved.errors);
    let (child, path) =
        begin_on(dir.path(), EASY, &["--targets", &url, "--metrics", &url, "--for", "1h"]);
    ended_early(&finish(child, &path), "not reached 3 times in a row");
    // Names without end.
    let reason = |at: u32| format!("log_capturer_lines_refused_total{{reason=\"{at}\"}} 1\n");
    let many: String = (0..2_000).map(reason).collect();
    let many = Fake::new(move |_, _| (200, many.clone()));
    let url = many.url();
    let saved = save(&["--targets", &url, "--metrics", &url, "--for", "1s", "--out", "/dev/null"]);
    assert!(saved.errors.contains("no more than 1000 reasons"), "{}", saved.errors);
}
