//! Lines that are pushed by HTTP: what is answered with success is on disk and arrives.

use crate::bed::{Bed, PATIENCE, agent, eventually, stop};
use bench::measure::now_ns;
use bench::product::Product;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Posts to the product's API, and gives the status and the text of the answer.
fn post(product: &Product, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let url = format!("http://{}{path}", product.api);
    let mut answer = agent().post(&url).header("content-type", kind).send(body).unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

/// Waits for so many lines, and gives their labels and texts, sorted.
fn arrived(bed: &Bed, count: u64) -> Vec<(String, String)> {
    let all = bed.stub.wait_until(PATIENCE, |stats| stats.unmarked >= count);
    let mut lines: Vec<_> = bed
        .stub
        .entries()
        .into_iter()
        .map(|entry| (entry.labels, String::from_utf8_lossy(&entry.line).into_owned()))
        .collect();
    lines.sort();
    assert!(all, "expected {count} lines, found {lines:?}\n{}", bed.product_log());
    lines
}

#[test]
fn every_endpoint_delivers_what_it_accepts() {
    let bed = Bed::new();
    let product = bed.start();
    let json = "application/json";
    let push = format!(
        r#"{{"streams":[{{"stream":{{"job":"push"}},"values":[["{}","pushed"]]}}]}}"#,
        now_ns()
    );
    let (status, text) = post(&product, "/loki/api/v1/push", json, push.as_bytes());
    assert_eq!((status, text.as_str()), (204, ""));
    let raw = "/loki/api/v1/raw?job=raw";
    let (status, text) = post(&product, raw, "text/plain", b"first\nsecond\n");
    assert_eq!(status, 204, "{text}");
    let log = br#"[{"message":"logged","level":"info","labels":{"job":"log"}}]"#;
    let (status, text) = post(&product, "/api/v1/logs", json, log);
    assert_eq!(status, 202, "{text}");
    assert!(text.contains(r#""status":"accepted""#), "{text}");
    let lines = arrived(&bed, 4);
    let of = |job: &str| -> Vec<&str> {
        let label = format!("job=\"{job}\"");
        lines.iter().filter(|(l, _)| l.contains(&label)).map(|(_, line)| line.as_str()).collect()
    };
    assert_eq!(of("push"), ["pushed"], "{lines:?}");
    assert_eq!(of("raw"), ["first", "second"], "{lines:?}");
    assert_eq!(of("log"), ["logged"], "{lines:?}");
    stop(product);
}

#[test]
fn what_loki_would_refuse_is_refused_with_the_reason_and_the_rest_arrives() {
    let bed = Bed::new();
    let product = bed.start();
    let json = "application/json";
    let mixed = format!(
        r#"{{"streams":[{{"stream":{{"job":"a"}},"values":[["1000000000","old"],["{}","good"]]}}]}}"#,
        now_ns()
    );
    let (status, text) = post(&product, "/loki/api/v1/push", json, mixed.as_bytes());
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("timestamp too old"), "{text}");
    let lines = arrived(&bed, 1);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].1, "good");

    for (path, body, said) in [
        ("/loki/api/v1/push", &br#"{"streams":[]}"#[..], "at least one valid stream"),
        ("/loki/api/v1/push", b"{\"streams\":", ""),
        ("/api/v1/logs", br#"{"level":"info"}"#, "message"),
        ("/api/v1/logs", br#"{"message":7}"#, "message"),
        ("/loki/api/v1/raw?a-b=c", b"line\n", "a-b"),
    ] {
        let (status, text) = post(&product, path, json, body);
        assert!((400..500).contains(&status), "{path}: {status} {text}");
        assert!(text.contains(said), "{path}: {text}");
    }
    // Nested too deeply, to break a parser that recurses.
    let deep = [&b"["[..]; 100_000].concat();
    assert_eq!(post(&product, "/api/v1/logs", json, &deep).0, 400);
    assert_eq!(post(&product, "/nowhere", json, b"x").0, 404);
    assert!(product.is_ready(), "it still answers");
    assert!(product.metric("log_capturer_lines_refused_total").unwrap() >= 1.0);
    stop(product);
}

#[test]
fn kill_9_under_load_loses_no_line_that_was_answered() {
    let bed = Bed::new();
    let posted = Arc::new(AtomicU64::new(0));
    let mut answered = Vec::new();
    for _ in 0..5 {
        let product = bed.start();
        let stopping = Arc::new(AtomicBool::new(false));
        let url = format!("http://{}/api/v1/logs", product.api);
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (posted, stopping, url) = (posted.clone(), stopping.clone(), url.clone());
                std::thread::spawn(move || {
                    let (agent, mut answered) = (agent(), Vec::new());
                    while !stopping.load(Ordering::Relaxed) {
                        let line = format!("line {}", posted.fetch_add(1, Ordering::Relaxed));
                        let body = format!(r#"{{"message":"{line}","labels":{{"job":"kill"}}}}"#);
                        match agent.post(&url).content_type("application/json").send(&body) {
                            Ok(answer) if answer.status() == 202 => answered.push(line),
                            _ => break,
                        }
                    }
                    answered
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(400));
        product.kill();
        stopping.store(true, Ordering::Relaxed);
        for client in clients {
            answered.extend(client.join().unwrap());
        }
    }
    assert!(answered.len() > 100, "only {} were answered", answered.len());
    let product = bed.start();
    let there = || -> HashSet<String> {
        let text = |line: Vec<u8>| String::from_utf8_lossy(&line).into_owned();
        bed.stub.entries().into_iter().map(|entry| text(entry.line)).collect()
    };
    let missing = || {
        let there = there();
        answered.iter().filter(|line| !there.contains(*line)).cloned().collect::<Vec<_>>()
    };
    eventually("every line that was answered arrives", &product, || missing().is_empty());
    stop(product);
}
