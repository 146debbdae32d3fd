//! Every endpoint, asked rightly and wrongly.

use super::document::{self, Document};
use super::{ask, assert_error, get, level, show};
use crate::abuse::client::{Client, JSON};
use crate::answers::ask::order;
use crate::bed::{Bed, eventually, stop};
use log_capturer::receive::Endpoint;
use serde_json::{Value, json};

const LINES: u64 = 1_000;
/// `line 0000`, and its end.
const LINE_BYTES: u64 = 10;

fn lines() -> String {
    (0..LINES).map(|number| format!("line {number:04}\n")).collect()
}

#[test]
fn each_endpoint_has_the_right_figures() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: [0], egress: 0 }".into();
    bed.setup.file_keys = vec!["partial_line_timeout: 1h".into()];
    let product = bed.start();
    bed.append("a.log", lines());
    bed.append("b.log", "without its end");
    let acked = || {
        let stats = show(&product, "/stats");
        stats["latency"]["source_to_ack"]["loki"]["since_start"]["lines"] == LINES
            && stats["sinks"][0]["unacked_lines"] == 0
            && stats["wal"]["bytes"].as_u64().unwrap() > 0
    };
    eventually("the lines are acked, and that is seen", &product, acked);

    let stats = show(&product, "/stats");
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&stats["lines_total"], &stats["ready"]), (&json!(LINES), &json!(true)), "{stats}");
    assert_eq!(stats["bytes_total"], LINES * LINE_BYTES, "{stats}");
    let sink = &stats["sinks"][0];
    assert_eq!((&sink["sink"], &sink["state"]), (&json!("loki"), &json!("passes")), "{sink}");
    assert_eq!((&sink["lines_total"], &sink["reason"]), (&json!(LINES), &Value::Null), "{sink}");
    assert!(sink["pushes"]["accepted"].as_u64() >= Some(1), "{sink}");
    assert!(sink["body_bytes_total"].as_u64() > Some(0), "{sink}");
    assert_eq!((&sink["lag_seconds"], &sink["in_flight"]), (&json!(0.0), &json!(0)), "{sink}");
    assert!(stats["process"]["resident_bytes"].as_u64() > Some(1 << 20), "{stats}");
    assert!(stats["data_dir"]["free_bytes"].as_u64() <= stats["data_dir"]["size_bytes"].as_u64());
    assert_eq!(stats["dlq"]["entries"], 0, "{stats}");

    let shards = show(&product, "/shards");
    let [shard] = &shards["shards"].as_array().unwrap()[..] else { panic!("{shards}") };
    assert_eq!((&shard["shard"], &shard["cpu"]), (&json!(0), &json!(0)));
    assert_eq!((&shard["lines_total"], &shard["files_watched"]), (&json!(LINES), &json!(2)));
    assert_eq!((&shard["wal_full"], &shard["unacked_frames"]), (&json!(false), &json!(0)));

    // What was overdue and is acked counts twice until the shard looks again.
    let settled = || show(&product, "/slo/status")["windows"]["5m"]["lines"] == LINES;
    eventually("the lines are counted once", &product, settled);
    let slo = show(&product, "/slo/status");
    let objective = json!({ "latency_seconds": 0.5, "ratio": 0.99, "lines_per_second": 10_000.0 });
    assert_eq!(slo["objective"], objective);
    for window in ["5m", "1h", "6h", "3d"] {
        assert_eq!(slo["windows"][window]["lines"], LINES, "{slo}");
    }

    let (_, health) = ask(&product, "/health");
    for check in ["queue", "sink_connectivity", "dead_letters"] {
        assert_eq!(level(&health, check), "healthy", "{health}");
    }
    for service in ["shards", "discovery", "http", "sinks"] {
        assert_eq!(health["services"][service]["status"], "healthy", "{health}");
    }
    assert_eq!(health["checks"]["queue"]["full"], false, "{health}");
    let descriptors = &health["checks"]["file_descriptors"];
    assert!(descriptors["open"].as_u64() > Some(5), "{health}");
    assert_eq!(health["services"]["shards"]["running"], 1, "{health}");

    assert_eq!(show(&product, "/ready"), "ready\n");
    assert_eq!(show(&product, "/version"), json!({ "version": env!("CARGO_PKG_VERSION") }));
    let sinks = show(&product, "/sinks");
    assert_eq!(sinks["sinks"][0]["sink"], "loki");
    let tenant = &sinks["sinks"][0]["tenants"][0];
    assert_eq!((&tenant["tenant"], &tenant["state"]), (&json!(""), &json!("closed")), "{sinks}");
    let dlq = show(&product, "/dlq/stats");
    assert_eq!((&dlq["entries"], &dlq["queues"][0]["sink"]), (&json!(0), &json!("loki")), "{dlq}");
    assert_eq!(dlq["queues"][0]["oldest_unix_ms"], Value::Null, "{dlq}");

    let config = show(&product, "/config");
    assert_eq!(config["data_dir"], bed.setup.data_dir().display().to_string());
    assert_eq!(config["cores"]["shards"], json!([0]), "{config}");
    assert_eq!(config["sinks"]["loki"]["linger"], "5ms", "{config}");
    assert_eq!(config["slo"]["latency"], "500ms", "a default: {config}");
    let (_, _, text) = get(product.api, "/openapi.json", &[]);
    assert_eq!(text, document::TEXT);
    show(&product, "/openapi.json");
    stop(product);
}

#[test]
fn positions_tell_what_is_read_and_what_is_not() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: [0], egress: 0 }".into();
    bed.setup.file_keys = vec!["partial_line_timeout: 1h".into()];
    bed.append("a.log", lines());
    bed.append("b.log", "first\nwithout its end");
    bed.append("c.log", "");
    let product = bed.start();
    let position = |name: &str| {
        let all = show(&product, "/positions");
        let path = bed.log(name).display().to_string();
        let all = all["positions"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["path"] == path)
    };
    let offset = |name: &str| position(name).and_then(|one| one["offset"].as_u64());
    eventually("a.log is read", &product, || offset("a.log") == Some(LINES * LINE_BYTES));
    eventually("b.log is read", &product, || offset("b.log") == Some(6));
    let (a, b) = (position("a.log").unwrap(), position("b.log").unwrap());
    assert_eq!((&a["size"], &a["lag_bytes"]), (&json!(LINES * LINE_BYTES), &json!(0)), "{a}");
    assert_eq!((&b["size"], &b["lag_bytes"]), (&json!(21), &json!(15)), "{b}");
    assert_eq!(a["shard"], 0, "{a}");
    assert!(a["labels"].as_str().unwrap().contains("a.log\"}"), "{a}");

    let names = |query: &str| -> Vec<String> {
        let shown = show(&product, &format!("/positions{query}"));
        assert_eq!((&shown["total"], &shown["lag_bytes"]), (&json!(3), &json!(15)), "{shown}");
        let all = shown["positions"].as_array().unwrap().iter();
        let path = |one: &Value| one["path"].as_str().unwrap().rsplit_once('/').unwrap().1.into();
        all.map(path).collect()
    };
    assert_eq!(names(""), ["b.log", "a.log", "c.log"], "those with most to read first");
    assert_eq!(names("?sort=path"), ["a.log", "b.log", "c.log"]);
    assert_eq!(names("?limit=1"), ["b.log"]);
    assert_eq!(names("?limit=2&sort=path"), ["a.log", "b.log"]);
    // Until it is forgotten, it is shown beside the one that has its name now.
    std::fs::remove_file(bed.log("c.log")).unwrap();
    bed.append("c.log", "another file\n");
    let path = bed.log("c.log").display().to_string();
    eventually("what has the name now is read", &product, || {
        let shown = show(&product, "/positions");
        let mut of = shown["positions"].as_array().unwrap().iter().filter(|of| of["path"] == path);
        of.any(|of| of["offset"] == 13 && of["size"] == 13)
    });
    stop(product);
}

#[test]
fn what_is_asked_wrongly_is_told_so() {
    let bed = Bed::new();
    let product = bed.start();
    let mut client = Client::connect(product.api);
    let mut say = |method: &str, path: &str, headers: &str| {
        client.send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"));
        client.answer().expect("an answer")
    };
    let document = Document::served();
    let lines = Endpoint::ALL.map(Endpoint::path);
    for path in document.paths("get") {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let answer = say(method, path, "content-length: 0\r\n");
            assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")), "{path}");
            assert_error(405, &serde_json::from_str(&answer.text).unwrap(), "expected GET");
        }
    }
    for path in document.paths("post") {
        let answer = say("GET", path, "");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("post")), "{path}");
        // The others have forms of their own.
        if !lines.contains(&path) || path == "/api/v1/logs" {
            assert_error(405, &serde_json::from_str(&answer.text).unwrap(), "expected POST");
        }
    }
    for path in ["/", "/nothing", "/health/", "/Health", "/dlq", "/health%20"] {
        let answer = say("GET", path, "");
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error: Value = serde_json::from_str(&answer.text).unwrap();
        for known in document.paths("get").into_iter().chain(document.paths("post")) {
            assert_error(404, &error, known);
        }
    }
    for (query, says) in [
        ("limit=0", "limit: expected a number from 1 to 100000"),
        ("limit=100001", "limit: expected a number"),
        ("limit=", "limit: expected a number"),
        ("limit=1&limit=2", "limit: expected once"),
        ("sort=size", "sort: expected lag or path"),
        ("page=2", "there is limit and sort"),
    ] {
        let (status, error) = ask(&product, &format!("/positions?{query}"));
        assert_eq!(status, 400, "{query}");
        assert_error(400, &error, says);
    }
    for body in ["[]", "[[], {}, true]", "null", "7", "\"x\"", "{\"filter\": null}", "{} {}"] {
        for path in ["/dlq/purge", "/dlq/reprocess"] {
            let (status, error) = order(&product, path, body);
            assert_eq!(status, 400, "{body}");
            Document::served().check("post", path, status, "application/json", &error);
            assert_error(400, &error, "expected {\"filter\"");
        }
    }
    // A page in a browser may not change anything.
    let answer = say("POST", "/dlq/purge", "origin: http://here\r\ncontent-length: 0\r\n");
    assert_error(403, &serde_json::from_str(&answer.text).unwrap(), "without Origin");
    assert_eq!(answer.status, 403);
    let metrics = |method: &str| {
        let mut client = Client::connect(product.metrics);
        client.send(format!("{method} /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"));
        client.answer().expect("an answer")
    };
    let answer = metrics("POST");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")));
    stop(product);
}

#[test]
fn a_head_is_that_of_the_whole_answer() {
    let bed = Bed::new();
    let product = bed.start();
    for path in ["/health", "/ready", "/version", "/openapi.json", "/config", "/sinks", "/nothing"]
    {
        let mut client = Client::connect(product.api);
        let whole = client.get(path).expect("an answer");
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        client.half_close();
        let (mut head, mut line) = (String::new(), client.line());
        while !line.is_empty() {
            head.push_str(&line);
            line = client.line();
        }
        assert!(head.starts_with(&format!("http/1.1 {} ", whole.status)), "{path}: {head}");
        assert!(head.ends_with("\r\n\r\n"), "nothing behind it: {head}");
        let kind = whole.header("content-type").expect("a type");
        assert!(head.contains(&format!("content-type: {kind}\r\n")), "{path}: {head}");
        if !matches!(path, "/health" | "/nothing") {
            let length = whole.header("content-length").expect("a length");
            assert!(head.contains(&format!("content-length: {length}\r\n")), "{path}: {head}");
        }
    }
    stop(product);
}

#[test]
fn lines_are_answered_as_the_document_says() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["limits: { body_bytes_max: 4KiB }".into()];
    let product = bed.start();
    let old = r#"{"message":"x","timestamp":1000000000}"#;
    let large = "x".repeat(5_000);
    let export = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[
        {"timeUnixNano":"1000000000","body":{"stringValue":"x"}}]}]}]}"#;
    for (path, query, kind, body, expected) in [
        ("/loki/api/v1/push", "", JSON, r#"{"streams":[]}"#, 422),
        ("/loki/api/v1/push", "", "", "x", 400),
        ("/loki/api/v1/push", "?ack=maybe", JSON, r#"{"streams":[]}"#, 400),
        ("/loki/api/v1/push", "", JSON, &large, 413),
        ("/loki/api/v1/raw", "", "", "x", 400),
        ("/loki/api/v1/raw", "?a.b=1", "", "x", 400),
        ("/loki/api/v1/raw", "?job=a", "content-encoding: gz\u{ef}p\r\n", "x", 400),
        ("/loki/api/v1/raw", "?job=a", "content-encoding: br\r\n", "x", 400),
        ("/api/v1/logs", "", JSON, r#"{"message":"x"}"#, 202),
        ("/api/v1/logs", "", JSON, r#"[]"#, 202),
        ("/api/v1/logs", "?ack=memory", JSON, r#"{"message":"x"}"#, 202),
        ("/api/v1/logs", "", JSON, old, 400),
        ("/api/v1/logs", "", JSON, "", 400),
        ("/api/v1/logs", "", JSON, &large, 413),
        ("/otlp/v1/logs", "", JSON, "{}", 200),
        ("/otlp/v1/logs", "", JSON, export, 200),
        ("/otlp/v1/logs", "", JSON, "[]", 400),
        ("/otlp/v1/logs", "", "content-type: text/plain\r\n", "x", 415),
    ] {
        let mut client = Client::connect(product.api);
        let answer = client.post(&format!("{path}{query}"), kind, body).expect("an answer");
        assert_eq!(answer.status, expected, "{path}{query}: {}", answer.text);
        let kind = answer.header("content-type").expect("a type");
        let value = match kind {
            "application/json" => serde_json::from_str(&answer.text).unwrap(),
            _ => Value::String(answer.text.clone()),
        };
        Document::served().check("post", path, answer.status, kind, &value);
        if path == "/api/v1/logs" && expected != 202 {
            assert_error(expected, &value, "");
        }
    }
    stop(product);
}

#[test]
fn metrics_come_in_the_form_that_is_asked_for() {
    const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let bed = Bed::new();
    let product = bed.start();
    for (accept, expected) in [
        (None, TEXT),
        (Some("*/*"), TEXT),
        (Some("application/openmetrics-text"), OPEN),
        // Prometheus' own.
        (
            Some(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
                 */*;q=0.2",
            ),
            OPEN,
        ),
        (Some("application/openmetrics-text;q=0.3,text/plain;q=0.4"), TEXT),
        (Some("application/openmetrics-text;q=0"), TEXT),
        (Some("text/html"), TEXT),
    ] {
        let headers: Vec<_> = accept.iter().map(|accept| ("accept", *accept)).collect();
        let (status, kind, text) = get(product.metrics, "/metrics", &headers);
        assert_eq!((status, kind.as_str()), (200, expected), "{accept:?}");
        let open = expected == OPEN;
        assert_eq!(text.ends_with("# EOF\n"), open);
        let family = format!(
            "# TYPE log_capturer_logs_processed{} counter",
            if open { "" } else { "_total" }
        );
        assert!(text.contains(&family), "{text}");
        assert!(text.contains("\nlog_capturer_logs_processed_total{"), "{text}");
        assert!(text.contains("log_capturer_stage_seconds_bucket{"), "{text}");
    }
    stop(product);
}
