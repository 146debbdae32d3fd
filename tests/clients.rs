//! Clients that others wrote deliver through the product: what they send is answered as they expect
//! it, and arrives. Scripts and configurations are in `tests/clients/`; .ci/run installs what they
//! need, and where it is missing a test says so and ends.

use crate::bed::{Bed, eventually, stop};
use bench::measure::now_ns;
use bench::product::Product;
use bench::stub::Kept;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const LINES: usize = 500;
/// What every script logs, after its number.
pub const REST: &str = ": \"quoted\", \\ and ü";

/// Where .ci/run puts the libraries.
pub fn libraries() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Whether a client is here.
pub fn has(what: &str, is_here: bool, how: &str) -> bool {
    if !is_here {
        eprintln!("skipped: {what} is missing; install it: {how} (.ci/run does)");
    }
    is_here
}

pub fn runs(program: impl AsRef<Path>, args: &[&str]) -> bool {
    let output = Command::new(program.as_ref()).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs a client to its end.
fn run(product: &Product, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let status = output.status;
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}\n{}", product.log());
    out.into_owned()
}

fn text(entry: &Kept) -> String {
    String::from_utf8_lossy(&entry.line).into_owned()
}

/// Every line that a script logs, once, in one stream.
fn assert_logged(entries: &[Kept], labels: &str) {
    let of: Vec<_> = entries.iter().filter(|entry| entry.labels == labels).collect();
    assert_eq!(of.len(), LINES, "of {labels}: {:?}", entries.first());
    let found: BTreeSet<_> = of.into_iter().map(text).collect();
    let expected: BTreeSet<_> = (0..LINES).map(|number| format!("line {number}{REST}")).collect();
    assert_eq!(found, expected);
}

/// The status and the text that curl is given.
fn curl(product: &Product, path: &str, args: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]);
    let printed = run(product, command.args(args).arg(format!("http://{}{path}", product.api)));
    let (text, status) = printed.rsplit_once('\n').expect("a status");
    (status.parse().unwrap(), text.to_owned())
}

const JSON: [&str; 2] = ["--header", "Content-Type: application/json"];

#[test]
fn curl_reaches_every_endpoint() {
    if !has("curl", runs("curl", &["--version"]), "apt-get install curl") {
        return;
    }
    let bed = Bed::new();
    let product = bed.start();
    let push = |line: &str| {
        let now = now_ns();
        format!(
            r#"{{"streams":[{{"stream":{{"job":"push"}},"values":[["{now}","{line}",{{"k":"v"}}]]}}]}}"#
        )
    };
    let file = bed.setup.dir.join("push.gz");
    let mut gzip = GzEncoder::new(fs::File::create(&file).unwrap(), Compression::default());
    gzip.write_all(push("zipped").as_bytes()).unwrap();
    gzip.finish().unwrap();
    let zipped = format!("@{}", file.display());
    let lines = bed.setup.dir.join("lines");
    fs::write(&lines, "raw one\r\nraw two\n\nraw three").unwrap();
    let lines = format!("@{}", lines.display());
    let ndjson = "{\"message\":\"row one\"}\n{\"message\":\"row two\"}\n";
    let with = |args: &[&'static str], body: &str| -> Vec<String> {
        args.iter()
            .map(|arg| arg.to_string())
            .chain(["--data-binary".into(), body.into()])
            .collect()
    };
    let post = |path: &str, args: Vec<String>| {
        curl(&product, path, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let api = "/loki/api/v1/push";
    assert_eq!(post(api, with(&JSON, &push("pushed"))), (204, String::new()));
    let gzip = [JSON[0], JSON[1], "--header", "Content-Encoding: gzip"];
    assert_eq!(post(api, with(&gzip, &zipped)), (204, String::new()));
    let chunked = [JSON[0], JSON[1], "--header", "Transfer-Encoding: chunked"];
    assert_eq!(post(api, with(&chunked, &push("in chunks"))), (204, String::new()));
    // Curl calls any data a form, where nobody says otherwise.
    assert_eq!(
        post("/loki/api/v1/raw?job=raw&odd=%22%2C", with(&[], &lines)),
        (204, String::new())
    );
    let (status, text) = post("/api/v1/logs", with(&JSON, r#"{"message":"one","level":"info"}"#));
    assert_eq!(status, 202, "{text}");
    assert!(text.contains(r#""status":"accepted""#), "{text}");
    let (status, text) = post("/api/v1/logs", with(&JSON, r#"[{"message":"a"},{"message":"b"}]"#));
    assert!(status == 202 && text.contains("2 log entries"), "{status} {text}");
    let rows = ["--header", "Content-Type: application/x-ndjson"];
    let (status, text) = post("/api/v1/logs", with(&rows, ndjson));
    assert!(status == 202 && text.contains("2 log entries"), "{status} {text}");
    assert_eq!(curl(&product, "/ready", &[]), (200, "ready\n".into()));
    let (status, text) = curl(&product, "/health", &[]);
    assert!(status == 200 && text.contains(r#""status":"healthy""#), "{status} {text}");
    assert_eq!(curl(&product, "/ready", &["--head"]).0, 200);

    let entries = bed.entries(11);
    let of = |labels: &str| -> Vec<String> {
        entries.iter().filter(|entry| entry.labels == labels).map(self::text).collect()
    };
    assert_eq!(of("{job=\"push\"}"), ["pushed", "zipped", "in chunks"]);
    assert_eq!(of("{job=\"raw\", odd=\"\\\",\"}"), ["raw one", "raw two", "raw three"]);
    assert_eq!(of("{level=\"info\", source_type=\"api\"}"), ["one"]);
    assert_eq!(of("{source_type=\"api\"}"), ["a", "b", "row one", "row two"]);
    let metadata = [("k".to_owned(), "v".to_owned())];
    assert!(entries.iter().all(|e| e.labels != "{job=\"push\"}" || e.metadata == metadata));
    stop(product);
}

/// Logs [`LINES`] by a library for Python; false where it is missing.
pub fn log_by_python(product: &Product) -> bool {
    let python = libraries().join("venv/bin/python");
    let here = runs(&python, &["-c", "import logging_loki"]);
    if !has("python-logging-loki", here, "pip install python-logging-loki, in target/clients/venv")
    {
        return false;
    }
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let mut command = Command::new(python);
    run(product, command.arg(script("python_logging_loki.py")).args([&url, &LINES.to_string()]));
    true
}

#[test]
fn python_logs_through_its_library() {
    let bed = Bed::new();
    let product = bed.start();
    if log_by_python(&product) {
        let labels = r#"{job="python", logger="app", odd="a\",b=\"x", severity="warning"}"#;
        assert_logged(&bed.entries(LINES), labels);
    }
    stop(product);
}

/// Logs [`LINES`] by a library for Node.js, in both forms; false where it is missing.
pub fn log_by_winston(product: &Product) -> bool {
    let modules = libraries().join("node_modules");
    let here = runs("node", &["--version"]) && modules.join("winston-loki").is_dir();
    let snappy = modules.join("snappy").is_dir();
    let how = "npm install --prefix target/clients winston winston-loki";
    if !has("winston-loki", here && snappy, how) {
        return false;
    }
    let url = format!("http://{}", product.api);
    for form in ["protobuf", "json"] {
        let mut command = Command::new("node");
        command.env("NODE_PATH", &modules).arg(script("winston_loki.js"));
        run(product, command.args([&url, &LINES.to_string(), form]));
    }
    true
}

#[test]
fn winston_logs_through_its_library_as_protobuf_and_as_json() {
    let bed = Bed::new();
    let product = bed.start();
    if log_by_winston(&product) {
        let entries = bed.entries(2 * LINES);
        for form in ["protobuf", "json"] {
            let labels = format!(r#"{{form="{form}", job="winston", level="info", odd="a, b"}}"#);
            assert_logged(&entries, &labels);
        }
    }
    stop(product);
}

/// Structured metadata as Loki makes it of what OTLP brings, whatever its order.
fn assert_metadata(entry: &Kept, expected: &[(&str, &str)]) {
    let found: BTreeMap<_, _> = entry.metadata.iter().map(|(n, v)| (&n[..], &v[..])).collect();
    assert_eq!(found, expected.iter().copied().collect(), "{}", text(entry));
}

#[test]
fn many_requests_at_once_share_a_connection_by_http_2() {
    let here = runs("curl", &["--version"]) && runs("h2load", &["--version"]);
    if !has("curl or h2load", here, "apt-get install curl nghttp2-client") {
        return;
    }
    let bed = Bed::new();
    let product = bed.start();
    let body = bed.setup.dir.join("body");
    fs::write(&body, "by h2load").unwrap();
    let api = format!("http://{}/loki/api/v1/raw?job=http2", product.api);
    let mut command = Command::new("h2load");
    command.args(["--requests", &LINES.to_string(), "--clients", "2"]);
    let printed = run(
        &product,
        command.args(["--max-concurrent-streams", "16", "--data"]).arg(&body).arg(&api),
    );
    assert!(printed.contains(&format!("{LINES} succeeded, 0 failed")), "{printed}");
    // What is refused says so, and each connection ends when its client is done.
    let said = |path: &str, args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--http2-prior-knowledge", "--silent", "--output", "/dev/null"]);
        command.args(["--write-out", "%{http_version} %{http_code}"]).args(args);
        run(&product, command.arg(format!("http://{}{path}", product.api)))
    };
    assert_eq!(said("/ready", &[]), "2 200");
    assert_eq!(said("/api/v1/logs", &["--data", "{}"]), "2 400");
    let entries = bed.entries(LINES);
    assert!(entries.iter().all(|entry| text(entry) == "by h2load"));
    stop(product);
}

#[test]
fn curl_sends_otlp_as_json() {
    if !has("curl", runs("curl", &["--version"]), "apt-get install curl") {
        return;
    }
    let bed = Bed::new();
    let product = bed.start();
    let text = |value: &str| json!({"stringValue": value});
    let now = now_ns();
    let logs = json!({"resourceLogs": [{
        "resource": {"attributes": [
            {"key": "service.name", "value": text("curl")},
            {"key": "odd.key", "value": text("a\",b=\"x")},
        ]},
        "scopeLogs": [{
            "scope": {"name": "shell", "version": "1"},
            "logRecords": [{
                "timeUnixNano": now.to_string(), "severityNumber": 9, "severityText": "INFO",
                "body": text("by curl"),
                "attributes": [{"key": "http.status", "value": {"intValue": "200"}}],
                "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
            }],
        }],
    }]});
    let logs = logs.to_string();
    let args = [JSON[0], JSON[1], "--data-binary", &logs];
    let (status, answer) = curl(&product, "/otlp/v1/logs", &args);
    assert!(matches!(status, 200 | 204), "{status} {answer}");
    let entries = bed.entries(1);
    assert_eq!(entries[0].labels, "{service_name=\"curl\"}");
    assert_eq!((&entries[0].line[..], entries[0].timestamp_ns), (&b"by curl"[..], now));
    let expected = [
        ("http_status", "200"),
        ("odd_key", "a\",b=\"x"),
        ("scope_name", "shell"),
        ("scope_version", "1"),
        ("severity_number", "9"),
        ("severity_text", "INFO"),
        ("span_id", "eee19b7ec3c1b174"),
        ("trace_id", "5b8efff798038103d269b633813fc60c"),
    ];
    assert_metadata(&entries[0], &expected);
    stop(product);
}

#[test]
fn opentelemetry_logs_through_its_sdk() {
    let python = libraries().join("venv/bin/python");
    let here = runs(&python, &["-c", "import opentelemetry.exporter.otlp.proto.http"]);
    let how = "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http, in \
               target/clients/venv";
    if !has("the OpenTelemetry SDK", here, how) {
        return;
    }
    let bed = Bed::new();
    let product = bed.start();
    let url = format!("http://{}/otlp/v1/logs", product.api);
    let mut command = Command::new(python);
    run(&product, command.arg(script("otel.py")).args([&url, &LINES.to_string()]));
    let entries = bed.entries(2 * LINES);
    for compression in ["none", "gzip"] {
        assert_logged(&entries, &format!("{{service_name=\"otel-{compression}\"}}"));
    }
    for entry in &entries {
        let line = text(entry);
        let number = line.strip_prefix("line ").and_then(|rest| rest.split(':').next());
        let expected = [
            ("number", number.expect("a number")),
            ("odd", "a\",b=\"x"),
            ("scope_name", "app"),
            ("severity_number", "13"),
            ("severity_text", "WARN"),
            ("user_id", "u-7"),
        ];
        assert_metadata(entry, &expected);
    }
    stop(product);
}

/// A client that runs until it is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ships a file of [`LINES`], which grows, by syslog-ng; false where it is missing.
pub fn ship_by_syslog_ng(product: &Product, dir: &Path) -> bool {
    let how = "apt-get install syslog-ng-core syslog-ng-mod-http";
    if !has("syslog-ng", runs("syslog-ng", &["--version"]), how) {
        return false;
    }
    let taken = || product.metric("log_capturer_logs_processed_total").unwrap();
    let before = taken();
    let dir = dir.join("syslog-ng");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("messages");
    let mut lines = OpenOptions::new().create(true).append(true).open(&file).unwrap();
    let mut write = |from: usize, to: usize| {
        (from..to).for_each(|number| writeln!(lines, "line {number}{REST}").unwrap());
    };
    write(0, LINES / 2);
    let config = fs::read_to_string(script("syslog-ng.conf")).unwrap();
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let config = config.replace("FILE", file.to_str().unwrap()).replace("URL", &url);
    let path = dir.join("syslog-ng.conf");
    fs::write(&path, config).unwrap();
    let output = fs::File::create(dir.join("output")).unwrap();
    let mut command = Command::new("syslog-ng");
    command.args(["--foreground", "--no-caps", "--stderr"]);
    for (option, name) in
        [("--persist-file", "persist"), ("--pidfile", "pid"), ("--control", "ctl")]
    {
        command.arg(option).arg(dir.join(name));
    }
    command.arg("--cfgfile").arg(&path).stdin(Stdio::null()).stderr(output);
    let mut running = Running(command.spawn().unwrap());
    let said = || fs::read_to_string(dir.join("output")).unwrap_or_default();
    let mut arrived = |count: usize| {
        eventually(&format!("{count} lines arrive"), product, || {
            assert!(running.0.try_wait().unwrap().is_none(), "syslog-ng ended: {}", said());
            taken() - before >= count as f64
        });
    };
    arrived(LINES / 2);
    write(LINES / 2, LINES);
    arrived(LINES);
    true
}

#[test]
fn syslog_ng_ships_a_file_that_grows() {
    let bed = Bed::new();
    let product = bed.start();
    if !ship_by_syslog_ng(&product, &bed.setup.dir) {
        return stop(product);
    }
    assert_logged(&bed.entries(LINES), "{job=\"syslog-ng\"}");
    let pushes = product.metric("log_capturer_http_requests_total").unwrap();
    assert!(pushes < LINES as f64 / 2.0, "{pushes} requests are no batches");
    stop(product);
}
