//! Against a real Loki, where LOKI_URL names one (such as http://127.0.0.1:3100); skipped where not.

use crate::bed::{BINARY, PATIENCE, agent, eventually, stop};
use crate::clients;
use bench::load::{self, Rotation, Workload, Writer, proto};
use bench::measure::now_ns;
use bench::product::{Product, Setup};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Where a real Loki is.
pub fn loki() -> Option<String> {
    let url = std::env::var("LOKI_URL").ok();
    if url.is_none() {
        eprintln!("skipped: LOKI_URL is not set");
    }
    url
}

/// Asks until so many entries are there, or nothing more is to be hoped for.
pub fn query(url: &str, selector: &str, start_ns: i64, count: u64) -> Vec<bench::loki::Entry> {
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
    let agent = agent();
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
    assert_eq!(product.metric(r#"log_capturer_pushes_total{verdict="rejected"}"#).unwrap(), 0.0);
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

/// A field of a message, whatever is in it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    proto::varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

/// A timestamp's message.
fn time(seconds: i64, nanos: i64) -> Vec<u8> {
    let mut message = vec![0x08];
    proto::varint(seconds.cast_unsigned(), &mut message);
    message.push(0x10);
    proto::varint(nanos.cast_unsigned(), &mut message);
    message
}

/// A push of one entry as protobuf, with pairs of structured metadata.
fn protobuf(labels: &[u8], time: &[u8], line: &[u8], metadata: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut entry = [field(1, time), field(2, line)].concat();
    for (name, value) in metadata {
        entry.extend(field(3, &[field(1, name), field(2, value)].concat()));
    }
    field(1, &[field(1, labels), field(2, &entry)].concat())
}

#[test]
fn what_loki_refuses_is_refused_with_its_status_and_so_is_little_else() {
    let Some(url) = loki() else { return };
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    let product = Product::start(&setup).unwrap();
    let now = now_ns();
    let hour = 3_600_000_000_000_i64;
    let json_of = |labels: serde_json::Value, values: serde_json::Value| {
        ("application/json", json!({"streams": [{"stream": labels, "values": values}]}).to_string())
    };
    let (stamp, of) = (now.to_string(), json!({"a": "b"}));
    let many = |count: usize| -> Texts {
        (0..count).map(|number| (format!("l{number:03}"), "x".to_owned())).collect()
    };
    let long = "x".repeat(3000);
    let line = |stamp: i64, line: &str| json!([[stamp.to_string(), line]]);
    let jsons = [
        json_of(of.clone(), line(now, "good")),
        json_of(of.clone(), line(now, "")),
        json_of(of.clone(), json!([])),
        json_of(json!({"a-b": "y"}), line(now, "x")),
        json_of(json!({"a.b": "y"}), line(now, "x")),
        json_of(json!({"": "y"}), line(now, "x")),
        json_of(json!({"1a": "y"}), line(now, "x")),
        json_of(json!(many(15)), line(now, "x")),
        json_of(json!(many(16)), line(now, "x")),
        json_of(json!({"a": long}), line(now, "x")),
        json_of(json!({long.as_str(): "y"}), line(now, "x")),
        json_of(of.clone(), line(now - 200 * hour, "x")),
        json_of(of.clone(), line(now + hour, "x")),
        json_of(of.clone(), line(0, "x")),
        json_of(of.clone(), line(-1, "x")),
        json_of(of.clone(), json!([["now", "x"]])),
        json_of(of.clone(), json!([["", "x"]])),
        json_of(of.clone(), json!([["1.5", "x"]])),
        json_of(of.clone(), json!([[now, "x"]])),
        json_of(of.clone(), json!([[stamp, 7]])),
        json_of(of.clone(), json!([[stamp, null]])),
        json_of(of.clone(), json!([[stamp, "x", {}, "more"]])),
        json_of(of.clone(), json!([[stamp, "x", {"k": 7}]])),
        json_of(of.clone(), json!([[stamp, "x", {"a-b": "v"}]])),
        json_of(of.clone(), json!([[stamp, "x", {"": "v"}]])),
        json_of(of.clone(), json!([[stamp, "x", "k"]])),
        json_of(of.clone(), json!([[stamp, "x", many(128)]])),
        json_of(of.clone(), json!([[stamp, "x", many(129)]])),
        json_of(of.clone(), json!([[stamp, "x", {"k": "v".repeat(65_000)}]])),
        json_of(of.clone(), json!([[stamp, "x", {"k": "v".repeat(66_000)}]])),
        json_of(of.clone(), line(now, &"x".repeat(256 << 10))),
        json_of(of.clone(), line(now, &"x".repeat((256 << 10) + 1))),
        ("application/json", "{\"streams\":[]}".into()),
        ("application/json", "{}".into()),
        ("application/json", "[]".into()),
        ("application/json", String::new()),
        ("application/json", "{\"streams\":[{\"stream\":{\"a\":\"b\"}".into()),
        ("application/json; charset=utf-8", json_of(of.clone(), line(now, "kind")).1),
        ("text/plain", "x".into()),
        ("application/x-protobuf", "x".into()),
    ];
    // Loki takes them, having named their streams or left out what it does not understand.
    let strict_jsons = [
        json_of(json!({}), line(now, "x")),
        json_of(json!({"__x": "y"}), line(now, "x")),
        json_of(json!({"a": ""}), line(now, "x")),
        json_of(json!({"a": 7}), line(now, "x")),
        json_of(json!({"a": null}), line(now, "x")),
        json_of(of.clone(), json!([[stamp]])),
        ("application/json", json_of(of.clone(), line(now, "x")).1 + " and more"),
    ];
    let mut pushes = Vec::new();
    let alike = jsons.into_iter().map(|push| (push, false));
    for ((kind, body), strict) in alike.chain(strict_jsons.map(|push| (push, true))) {
        let shown: String = body.chars().take(120).collect();
        pushes.push((shown, kind, body.into_bytes(), strict));
    }
    let sixteen: Vec<_> = many(16).iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    let when = time(now / 1_000_000_000, now % 1_000_000_000);
    let snappy = |push: &[u8]| snap::raw::Encoder::new().compress_vec(push).unwrap();
    // An empty label is none: with its service discovery, Loki gives such a stream a label of its own.
    let strict_labels = ["{__x=\"y\"}", "{}", "{a=\"\"}", "", "{\"a\"=\"c\"}", "{a=\"b\"} # why"];
    let labels = [
        "{a=\"b\"}",
        " { a = \"b\" , c='d', e=`f` , } ",
        &format!("{{{}}}", sixteen.join(", ")),
        "{a=\"1\", b=\"2\", a=\"3\"}",
        "{a=\"1\", a=\"1\"}",
        "{a=\"\\x41\\u00fc\\101\"}",
        "{",
        "{a=\"b\"",
        "a=\"b\"",
        "{a=b}",
        "{a=\"b\" c=\"d\"}",
        "{a=\"b}",
        "{a=\"\\q\"}",
        "{a=\"b\"} and more",
        "{a=\"two\nlines\"}",
        "{a=`two\nlines`}",
        "{1a=\"b\"}",
        "{a.b=\"c\"}",
        "{a!=\"b\"}",
        "{a=~\"b\"}",
        "{ü=\"b\"}",
        "{,}",
        "{,a=\"b\"}",
        "{a=\"b\",,c=\"d\"}",
    ];
    let alike = labels.into_iter().map(|labels| (labels, false));
    for (labels, strict) in alike.chain(strict_labels.map(|labels| (labels, true))) {
        let body = snappy(&protobuf(labels.as_bytes(), &when, b"x", &[]));
        pushes.push((labels.to_owned(), "application/x-protobuf", body, strict));
    }
    let seconds = now / 1_000_000_000;
    let of_metadata = |pairs: &[(&[u8], &[u8])]| protobuf(b"{a=\"b\"}", &when, b"x", pairs);
    let of_time = |seconds, nanos| protobuf(b"{a=\"b\"}", &time(seconds, nanos), b"x", &[]);
    let labels = field(1, b"{a=\"b\"}");
    let entry = field(2, &[field(1, &when), field(2, b"x")].concat());
    let alike = [
        ("metadata", of_metadata(&[(b"k", b"v"), (b"l", b"")])),
        ("metadata without a name", of_metadata(&[(b"", b"v")])),
        ("metadata without anything", of_metadata(&[(b"", b"")])),
        ("metadata twice", of_metadata(&[(b"k", b"v"), (b"k", b"w")])),
        ("metadata named as a label", of_metadata(&[(b"a", b"v")])),
        ("metadata with an odd name", of_metadata(&[(b"a b-c.d/\"e\"", b"v")])),
        ("metadata with a name in two lines", of_metadata(&[(b"a\nb", b"v")])),
        ("metadata with a name of Loki's", of_metadata(&[(b"__a__", b"v")])),
        ("metadata with a name of no text", of_metadata(&[(b"\xff", b"v")])),
        ("a line of no text", protobuf(b"{a=\"b\"}", &when, b"\xff\xfe\0", &[])),
        ("an empty line", protobuf(b"{a=\"b\"}", &when, b"", &[])),
        ("labels of no text", protobuf(b"{a=\"\xff\"}", &when, b"x", &[])),
        ("a label with a null", protobuf(b"{a=\"\\x00\"}", &when, b"x", &[])),
        ("a label of half a character", protobuf(b"{a=\"\\ud800\"}", &when, b"x", &[])),
        ("too many nanoseconds", of_time(seconds, 1_000_000_000)),
        ("nanoseconds below none", of_time(seconds, -1)),
        ("a time before all times", of_time(i64::MIN, 0)),
        ("a time after all times", of_time(i64::MAX, 999_999_999)),
        ("a stream without entries", field(1, &labels)),
        ("labels twice", field(1, &[&labels[..], &field(1, b"{c=\"d\"}"), &entry].concat())),
        ("labels at the end", field(1, &[&entry[..], &labels].concat())),
        ("an entry without a time", field(1, &[&labels[..], &field(2, &field(2, b"x"))].concat())),
        ("an entry without anything", field(1, &[&labels[..], &field(2, b"")].concat())),
        ("an unknown field", [field(1, &[&labels[..], &entry].concat()), field(15, b"x")].concat()),
        ("nothing", Vec::new()),
        ("the start of a push", field(1, &[&labels[..], &entry].concat())[..20].to_vec()),
    ];
    let strict_pushes = [
        ("metadata with a value of no text", of_metadata(&[(b"k", b"\xff\0")])),
        ("a label that makes no text", protobuf(b"{a=\"\\xff\"}", &when, b"x", &[])),
        ("a stream without labels", field(1, &entry)),
    ];
    let alike = alike.into_iter().map(|push| (push, false));
    for ((shown, push), strict) in alike.chain(strict_pushes.map(|push| (push, true))) {
        pushes.push((shown.to_owned(), "application/x-protobuf", snappy(&push), strict));
    }
    let agent = agent();
    let post = |to: &str, kind: &str, body: &[u8]| {
        let sent = agent.post(format!("{to}/loki/api/v1/push")).content_type(kind).send(body);
        let mut answer = sent.unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let own = format!("http://{}", product.api);
    let mut others = Vec::new();
    for (shown, kind, body, strict) in &pushes {
        let (expected, found) = (post(&url, kind, body), post(&own, kind, body));
        let wanted = match expected.0 {
            204 if *strict => 400,
            // What it takes for its own failure is the client's all the same, whenever it is sent.
            500 => 400,
            status => status,
        };
        if found.0 != wanted || (*strict && expected.0 != 204) {
            others.push(format!("{kind} {shown}\n  Loki: {expected:?}\n  here: {found:?}"));
        }
    }
    assert!(others.is_empty(), "{} of {}:\n{}", others.len(), pushes.len(), others.join("\n"));
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    assert_eq!(product.metric(r#"log_capturer_pushes_total{verdict="rejected"}"#).unwrap(), 0.0);
    stop(product);
}

#[test]
fn what_clients_of_others_log_is_queried_back() {
    let Some(url) = loki() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start_ns = now_ns();
    let mut setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    setup.server_keys = vec![format!("labels: {{ run: \"{start_ns}\" }}")];
    let product = Product::start(&setup).unwrap();
    let lines = clients::LINES as u64;
    let mut expected = Vec::new();
    for (job, count, logged) in [
        ("python", lines, clients::log_by_python(&product)),
        ("winston", 2 * lines, clients::log_by_winston(&product)),
        ("syslog-ng", lines, clients::ship_by_syslog_ng(&product, dir.path())),
    ] {
        if logged {
            expected.push((job, count));
        }
    }
    stop(product);
    for (job, count) in expected {
        let selector = format!("{{run=\"{start_ns}\",job=\"{job}\"}}");
        let entries = query(&url, &selector, start_ns, count);
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        for entry in &entries {
            *times.entry(entry.line.clone()).or_default() += 1;
        }
        for number in 0..lines {
            let line = format!("line {number}{}", clients::REST);
            assert_eq!(times.get(&line), Some(&(count / lines)), "{job}: {line}");
        }
        assert_eq!(entries.len() as u64, count, "{job}");
    }
}
