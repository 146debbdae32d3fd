//! Against a real Loki, where LOKI_URL names one (such as http://127.0.0.1:3100); skipped where not.

use crate::bed::{BINARY, PATIENCE, eventually, stop};
use bench::load::{self, Rotation, Workload, Writer, proto};
use bench::measure::now_ns;
use bench::product::{Product, Setup};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Where a real Loki is.
fn loki() -> Option<String> {
    let url = std::env::var("LOKI_URL").ok();
    if url.is_none() {
        eprintln!("skipped: LOKI_URL is not set");
    }
    url
}

/// Asks until so many entries are there, or nothing more is to be hoped for.
fn query(url: &str, selector: &str, start_ns: i64, count: u64) -> Vec<bench::loki::Entry> {
    let start = Instant::now();
    loop {
        let entries = bench::loki::query(url, selector, start_ns).unwrap();
        if entries.len() as u64 >= count || start.elapsed() > PATIENCE {
            return entries;
        }
    }
}

#[test]
fn what_is_written_is_queried_back_complete_in_order_and_with_its_labels() {
    let Some(url) = loki() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start_ns = now_ns();
    let mut setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    setup.file_keys = vec![format!("labels: {{ job: test, run: \"{start_ns}\" }}")];
    setup.sink_keys = vec!["labels: { host: \"a\\\"b\\\\c\" }".into()];
    let product = Product::start(&setup).unwrap();
    let text = Workload::service().text;
    let writer = Writer::start(load::Options {
        dir: setup.logs(),
        text: Arc::clone(&text),
        files: 3,
        rate: 20_000,
        lines: 60_000,
        seed: 11,
        first_sequence: 0,
        lines_per_write: 1,
        rotation: Rotation::Rename { lines: 5_000, keep: 3 },
    });
    let mut written = writer.unwrap().wait().unwrap();
    // What Loki may choke on, as lines of a fourth writer.
    let mut odd = Vec::new();
    load::Lines::new(&text, 1, 3).next(start_ns, &mut odd);
    std::fs::write(setup.logs().join("odd.log"), &odd).unwrap();
    written.lines.push(1);
    let all = written.lines_in_all() as f64;
    let sent = || product.metric("log_capturer_push_entries_total").unwrap();
    eventually("all lines are accepted", &product, || sent() >= all);
    stop(product);

    let selector = format!("{{run=\"{start_ns}\"}}");
    let entries = query(&url, &selector, start_ns, written.lines_in_all());
    let verified = bench::loki::verify(&entries, &written);
    assert!(verified.exactly_once(), "{verified:#?}");
    for entry in &entries {
        assert_eq!(entry.labels["job"], "test");
        assert_eq!(entry.labels["host"], "a\"b\\c");
        assert!(entry.labels["filename"].starts_with(&setup.logs().display().to_string()));
    }
    let streams: BTreeSet<_> = entries.iter().map(|e| &e.labels).collect();
    assert_eq!(streams.len(), 4);
}

type Texts = BTreeMap<String, String>;

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> Texts {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Values and lines that quoting, escaping or splitting may break.
const ODD: [&str; 7] = [
    "plain",
    "a\",b=\"x",
    "}{ {{.}} ${HOME} %s %22",
    "back\\slash\\\" \\n \\u0041",
    "tab\tand \u{1b}[31mred\u{1b}[0m",
    "ü 😀 \u{202e}left \u{2028}",
    "<script>&amp;'`",
];

#[test]
fn what_is_pushed_is_queried_back_exactly() {
    let Some(url) = loki() else { return };
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    let product = Product::start(&setup).unwrap();
    let start_ns = now_ns();
    let run = start_ns.to_string();
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let post = |path: &str, kind: &str, body: &[u8]| {
        let url = format!("http://{}{path}", product.api);
        let mut answer = agent.post(url).content_type(kind).send(body).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        assert!(matches!(answer.status().as_u16(), 202 | 204), "{path}: {text}");
    };
    let json_kind = "application/json";
    // Labels, line and metadata; and the timestamp where the client gives it.
    let mut expected: BTreeSet<(Texts, String, Texts)> = BTreeSet::new();
    let mut stamps: BTreeMap<(Texts, String), i64> = BTreeMap::new();
    for (number, odd) in (0..).zip(ODD) {
        let stamp = start_ns + number;
        // Under a name that no label has: Loki would change it.
        let metadata = texts([("trace_id", "0af7"), ("remark", odd)]);
        let lines = [odd.to_owned(), format!("two\nlines of {odd}")];
        for line in &lines {
            let labels = |by: &str, more: &[(&str, &str)]| {
                let mut labels = texts([("run", &run), ("by", by), ("odd", odd)]);
                labels.extend(more.iter().map(|(n, v)| (n.to_string(), v.to_string())));
                labels
            };
            // No two of a stream have one time: the query tells them apart by it.
            let stamp = stamp + i64::from(line != odd) * 1000;

            let of = labels("json", &[]);
            let values = json!([[stamp.to_string(), line, metadata]]);
            let push = json!({"streams": [{"stream": of, "values": values}]});
            post("/loki/api/v1/push", json_kind, push.to_string().as_bytes());
            stamps.insert((of.clone(), line.clone()), stamp);
            expected.insert((of, line.clone(), metadata.clone()));

            let of = labels("protobuf", &[]);
            let (mut entries, mut push) = (Vec::new(), Vec::new());
            proto::entry_with(stamp.cast_unsigned(), line.as_bytes(), &metadata, &mut entries);
            // JSON's quoting is also Go's.
            let quoted = of.iter().map(|(n, v)| format!("{n}={}", json!(v))).collect::<Vec<_>>();
            proto::stream(&format!("{{{}}}", quoted.join(", ")), &entries, &mut push);
            let push = snap::raw::Encoder::new().compress_vec(&push).unwrap();
            post("/loki/api/v1/push", "application/x-protobuf", &push);
            stamps.insert((of.clone(), line.clone()), stamp);
            expected.insert((of, line.clone(), metadata.clone()));

            let of = labels("log", &[]);
            let more = [("level", "info"), ("source_type", "t"), ("source_id", "7")];
            let micros = stamp / 1000;
            let log = json!({
                "message": line, "labels": of, "level": "info", "source_type": "t",
                "source_id": "7", "timestamp": micros,
            });
            post("/api/v1/logs", json_kind, log.to_string().as_bytes());
            let of = labels("log", &more);
            stamps.insert((of.clone(), line.clone()), micros * 1000);
            expected.insert((of, line.clone(), Texts::new()));

            for (by, kind) in [("array", json_kind), ("rows", "application/x-ndjson")] {
                let of = labels(by, &[]);
                let first = json!({"message": line, "labels": of}).to_string();
                let second = json!({"message": format!("{line} 2"), "labels": of}).to_string();
                let body = match by {
                    "array" => format!("[{first},{second}]"),
                    _ => format!("{first}\n{second}\n"),
                };
                post("/api/v1/logs", kind, body.as_bytes());
                let of = labels(by, &[("source_type", "api")]);
                expected.insert((of.clone(), line.clone(), Texts::new()));
                expected.insert((of, format!("{line} 2"), Texts::new()));
            }
        }
        let hex: String = odd.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/loki/api/v1/raw?run={run}&by=raw&odd={hex}");
        post(&path, "text/plain", format!("{odd}\r\n\n{odd} again").as_bytes());
        let of = texts([("run", &run), ("by", "raw"), ("odd", odd)]);
        expected.insert((of.clone(), odd.to_owned(), Texts::new()));
        expected.insert((of, format!("{odd} again"), Texts::new()));
    }
    let sent = || product.metric("log_capturer_push_entries_total").unwrap();
    eventually("all lines are accepted", &product, || sent() >= expected.len() as f64);
    assert_eq!(product.metric("log_capturer_pushes_rejected_total").unwrap(), 0.0);
    stop(product);

    let selector = format!("{{run=\"{run}\"}}");
    // The times of the logs were cut to microseconds.
    let found = query(&url, &selector, start_ns - 1000, expected.len() as u64);
    let count = found.len();
    let found = found.into_iter().map(|mut entry| {
        // Loki's own guess, of streams that have none.
        entry.labels.remove("service_name");
        let known = (entry.labels, entry.line);
        if let Some(stamp) = stamps.get(&known) {
            assert_eq!(entry.timestamp_ns, *stamp, "{known:?}");
        }
        (known.0, known.1, entry.metadata)
    });
    let found: BTreeSet<_> = found.collect();
    let (missing, strange): (Vec<_>, Vec<_>) =
        (expected.difference(&found).collect(), found.difference(&expected).collect());
    assert!(missing.is_empty() && strange.is_empty(), "{missing:#?} {strange:#?}");
    assert_eq!(count, expected.len(), "something shows twice");
}
