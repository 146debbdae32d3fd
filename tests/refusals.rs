//! What becomes of what a real Loki refuses. Where LOKI_URL names one with its default limits; and where
//! LOKI_LIMITED_URL names a fresh one that takes few streams, of which LOKI_LIMITED_STREAMS says how many
//! (`limits_config: { max_global_streams_per_user: 12 }`). Skipped where not.

use crate::bed::{BINARY, PATIENCE, eventually, stop};
use crate::loki::{loki, query};
use bench::measure::now_ns;
use bench::product::{Product, Setup};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const HOUR_NS: i64 = 3_600_000_000_000;

fn push(product: &Product, streams: &[Value]) {
    let body = json!({ "streams": streams }).to_string();
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let sent = ureq::post(url).content_type("application/json").send(body);
    assert_eq!(sent.unwrap().status(), 204);
}

/// Everything in the dead-letter queues, by the command that operators use.
fn letters(setup: &Setup) -> Vec<Value> {
    let mut command = Command::new(BINARY);
    let ran = command.args(["dlq", "export", "--data-dir"]).arg(setup.data_dir()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Good lines among such as Loki refuses, through a door that lets them pass.
fn mixed(age_key: &str) {
    let Some(url) = loki() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    setup.sink_keys = vec![
        "limits: { line_bytes_max: 1MiB, label_names_max: 50, age_max: 720h }".into(),
        age_key.into(),
    ];
    let product = Product::start(&setup).unwrap();
    let start_ns = now_ns();
    let run = start_ns.to_string();
    let of = |kind: &str| json!({ "run": run, "kind": kind });
    let mut many = of("many");
    (0..20).for_each(|n| many[format!("label_{n}")] = "x".into());
    let long = "x".repeat(300_000);
    let mut good = BTreeMap::new();
    let (mut bad, mut stamp) = (0, start_ns);
    for round in 0..40 {
        let mut values = Vec::new();
        let mut next = || {
            stamp += 1;
            stamp.to_string()
        };
        for number in 0..25 {
            let line = format!("good {round} {number}");
            good.insert(line.clone(), 1);
            values.push(json!([next(), line]));
            match (round % 10, number) {
                (3, 7 | 8) => {
                    values.push(json!([(start_ns - 200 * HOUR_NS).to_string(), "too old"]))
                }
                (5, 12) => values.push(json!([next(), long])),
                _ => continue,
            }
            bad += 1;
        }
        let mut streams = vec![json!({ "stream": of("good"), "values": values })];
        if round % 20 == 11 {
            streams.insert(0, json!({ "stream": many, "values": [[next(), "too many labels"]] }));
            bad += 1;
        }
        push(&product, &streams);
    }
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    assert_eq!(product.metric("log_capturer_dlq_entries").unwrap(), f64::from(bad));
    stop(product);

    let entries = query(&url, &format!("{{run=\"{run}\"}}"), start_ns, good.len() as u64);
    let mut found: BTreeMap<String, i32> = BTreeMap::new();
    entries.into_iter().for_each(|entry| *found.entry(entry.line).or_default() += 1);
    assert!(found == good, "{} found of {}", found.len(), good.len());
    let older = bench::loki::query(&url, &format!("{{run=\"{run}\"}}"), start_ns - 210 * HOUR_NS);
    assert_eq!(older.unwrap(), []);

    let mut kinds: BTreeMap<&str, i32> = BTreeMap::new();
    let letters = letters(&setup);
    for letter in &letters {
        let (line, text) = (letter["line"].as_str().unwrap(), letter["text"].as_str().unwrap());
        let (kind, says) = match line {
            "too old" if letter["status"].is_null() => ("too old", "older than the sink takes"),
            "too old" => ("too old", "timestamp too old"),
            "too many labels" => ("too many labels", "label names; limit 15"),
            _ if line == long => ("too long", "max entry size"),
            other => panic!("{other:?} is in the queue: {text}"),
        };
        assert!(text.contains(says), "{kind}: {text}");
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(letters.len(), usize::try_from(bad).unwrap());
    assert_eq!(kinds, BTreeMap::from([("too long", 4), ("too many labels", 2), ("too old", 8)]));
}

#[test]
fn of_a_mix_the_good_is_in_loki_and_the_others_with_its_words_in_the_queue() {
    mixed("age_max: 720h");
}

#[test]
fn what_is_too_old_does_not_go_to_loki_at_all() {
    mixed("age_max: 167h");
}

#[test]
fn new_streams_beyond_the_limit_do_not_vanish_behind_a_204() {
    let (Ok(url), Ok(max)) =
        (std::env::var("LOKI_LIMITED_URL"), std::env::var("LOKI_LIMITED_STREAMS"))
    else {
        eprintln!("skipped: LOKI_LIMITED_URL and LOKI_LIMITED_STREAMS are not set");
        return;
    };
    let max: usize = max.parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    setup.cores = "{ shards: 1 }".into();
    let product = Product::start(&setup).unwrap();
    let start_ns = now_ns();
    let run = start_ns.to_string();
    let streams = 3 * max;
    let mut stamp = start_ns;
    let mut of = |stream: &str, lines: usize| {
        let mut values = Vec::new();
        for number in 0..lines {
            stamp += 1;
            values.push(json!([stamp.to_string(), format!("{stream} {number}")]));
        }
        json!({ "stream": { "run": run, "s": stream }, "values": values })
    };
    // Of one push that mixes them, Loki would tell of the last one only.
    let all: Vec<Value> = (0..streams).map(|stream| of(&format!("new {stream}"), 5)).collect();
    push(&product, &[of("known", 1)]);
    push(&product, &all);
    let mut total = (1 + 5 * streams) as f64;
    let start = Instant::now();
    let (mut stored, mut set_aside) = (0.0, 0.0);
    while start.elapsed() < 4 * PATIENCE && stored + set_aside < total {
        // Others pass meanwhile: only so does it show that it is not Loki as a whole.
        push(&product, &[of("known", 1)]);
        total += 1.0;
        std::thread::sleep(std::time::Duration::from_millis(300));
        set_aside = product.metric("log_capturer_dlq_entries").unwrap();
        if set_aside > 0.0 {
            stored = query_all(&url, &run, start_ns);
        }
    }
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    stop(product);
    let letters = letters(&setup);
    let stored = query_all(&url, &run, start_ns);
    assert_eq!(stored + letters.len() as f64, total, "every line is in one of the two");
    assert!(letters.len() >= 5 * (streams - max), "{}", letters.len());
    for letter in &letters {
        assert_eq!(letter["status"], 429, "{letter}");
        assert_eq!(letter["reason"], "stream_limited", "{letter}");
    }
}

fn query_all(url: &str, run: &str, start_ns: i64) -> f64 {
    query(url, &format!("{{run=\"{run}\"}}"), start_ns, 0).len() as f64
}
