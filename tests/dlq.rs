//! `log-capturer dlq …`: what Loki refused is shown, exported, sent again and removed.

use crate::bed::{BINARY, Bed, agent, eventually, stop};
use bench::product::Product;
use bench::stub::{Accounting, Away, Fault, Options, Stub};
use io::format::{FormatVersion, segment_name};
use io::plain::PlainDisk;
use io::plain::run;
use log_capturer::dlq::{Dlq, FrameInfo, Origin, Reason, Record};
use log_capturer::options;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
const QUOTA: u64 = 64 << 20;

struct Place {
    stub: Stub,
    listen: String,
    dir: TempDir,
}

struct Output {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl Place {
    fn new() -> Place {
        let stub =
            Stub::start(Options { keep_entries: 10_000, ..Options::new(Accounting::PerLine) });
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        Place { stub: stub.unwrap(), listen: "127.0.0.1:0".into(), dir }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn queue(&self, shard: usize, sink: &str) -> Dlq<PlainDisk> {
        let options = options::dlq_of(&self.data_dir(), sink, shard, QUOTA, FormatVersion::NEWEST);
        let disk = PlainDisk::open(&options.dir, &options.quarantine).unwrap();
        run(Dlq::open(disk, options)).unwrap().0
    }

    fn put(&self, shard: usize, records: &[Record]) -> Vec<FrameInfo> {
        let dlq = self.queue(shard, "loki");
        run(dlq.put(records)).unwrap();
        let frames = run(dlq.frames()).unwrap();
        run(dlq.close()).unwrap();
        frames
    }

    fn command(&self, args: &[&str], from: &[&str]) -> Command {
        let config = self.dir.path().join("config.yaml");
        let (data_dir, url, listen) = (self.data_dir(), self.stub.url(), &self.listen);
        let yaml = format!(
            "version: 1\ndata_dir: {data_dir:?}\nsinks: {{ loki: {{ url: {url:?} }} }}\n\
             server: {{ listen: {listen:?}, auth: {{ allow_unauthenticated: true }} }}\n",
        );
        fs::write(&config, yaml).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("dlq").args(args);
        match from {
            ["config"] => command.arg("--config").arg(config),
            ["data"] => command.arg("--data-dir").arg(data_dir),
            more => command.args(more),
        };
        command
    }

    fn run_from(&self, args: &[&str], from: &[&str]) -> Output {
        let output = self.command(args, from).output().unwrap();
        Output {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_from(args, &["config"])
    }

    fn good(&self, args: &[&str]) -> String {
        let Output { code, out, errors } = self.run(args);
        assert_eq!(code, Some(0), "{args:?}: {errors}");
        assert_eq!(self.run_from(&["list"], &["data"]).code, Some(0));
        out
    }

    fn exported(&self, args: &[&str]) -> Vec<Record> {
        let out = self.good(&[&["export"], args].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn lines(&self, args: &[&str]) -> BTreeSet<String> {
        self.exported(args).into_iter().map(|record| text(record.line)).collect()
    }

    fn arrived(&self) -> BTreeSet<String> {
        self.stub.entries().into_iter().map(|entry| text(entry.line)).collect()
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn record(line: &str, job: &str) -> Record {
    let now_ns = perf::clock::unix_ns();
    Record {
        sink: "loki".into(),
        tenant: String::new(),
        labels: format!("{{job=\"{job}\"}}"),
        timestamp_ns: now_ns - 60 * SECOND,
        line: line.into(),
        metadata: Vec::new(),
        origin: Origin { shard: 1, frame: 77 },
        arrived_ns: now_ns - 60 * SECOND,
        reason: Reason::Refused,
        status: Some(400),
        text: "no, thanks".into(),
        attempts: 0,
        first_rejected_ns: now_ns - 3 * 3600 * SECOND,
        rejected_ns: now_ns - 50 * SECOND,
    }
}

fn old(line: &str) -> Record {
    let record = record(line, "old");
    let timestamp_ns = record.timestamp_ns - 30 * DAY;
    Record { timestamp_ns, reason: Reason::TooOld, ..record }
}

#[test]
fn what_waits_is_listed_shown_and_exported() {
    let place = Place::new();
    assert!(place.good(&["list"]).contains("no dead-letter queue under"));
    let mut odd = record("\u{1b}[31mred\n", "a");
    odd.metadata = vec![("trace".into(), "1".into())];
    odd.tenant = "team-a".into();
    place.put(0, &[record("one", "a"), old("two")]);
    place.put(1, &[odd.clone()]);

    let table = place.good(&["list"]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!(rows[1][..5], ["0", "loki", "all", "2", "2"], "{table}");
    assert!(rows[1][6].starts_with("3h0m"), "{table}");
    assert_eq!(rows[1][8..], ["refused", "1,", "too_old", "1"], "{table}");
    assert_eq!(place.good(&["list", "--frames"]).lines().count(), 6);
    let json: Value = serde_json::from_str(&place.good(&["list", "--frames", "--json"])).unwrap();
    let queues = json["queues"].as_array().unwrap();
    assert_eq!((queues.len(), &queues[0]["entries"]), (2, &2.into()));
    assert_eq!(queues[0]["reasons"]["too_old"], 1);
    assert_eq!(queues[0]["list"].as_array().unwrap().len(), 2);

    let shown = place.good(&["show", "--filter", "tenant=team-a"]);
    for part in [
        "shard 1, sink loki, frame 1",
        "line      \\u{1b}[31mred\\n",
        "metadata  trace=1",
        "reason    refused (400)",
        "answer    no, thanks",
        "origin    shard 1, frame 77",
    ] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    assert_eq!(place.good(&["show", "--limit", "2"]).matches("shard 0,").count(), 2);

    assert_eq!(place.exported(&["--filter", "label.job=a", "--filter", "tenant=team-a"]), [odd]);
    assert_eq!(place.lines(&["--filter", "reason=too_old"]), set(&["two"]));
    assert_eq!(place.exported(&["--filter", "newer=1h"]), []);
    assert_eq!(place.exported(&["--filter", "older=1h"]).len(), 3);
    // Whoever reads it may have enough.
    let many: Vec<Record> = (0..20_000).map(|n| record(&format!("line {n}"), "a")).collect();
    place.put(0, &many);
    let mut child = place.command(&["export"], &["data"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("{\"sink\":\"loki\""), "{first}");
    assert!(child.wait().unwrap().success());
    assert_eq!(place.exported(&[]).len(), 20_003);
}

#[test]
fn what_matches_is_purged_and_nothing_else() {
    let place = Place::new();
    place.put(0, &[record("one", "a"), record("two", "b"), old("three")]);
    place.put(1, &[record("four", "b")]);
    let refused = place.run(&["purge"]);
    assert_eq!(refused.code, Some(78));
    assert!(refused.errors.contains("or --all"), "{}", refused.errors);
    let by = ["purge", "--filter", "label.job=b"];
    let said = place.good(&[&by[..], &["--dry-run"]].concat());
    assert_eq!(said, "2 entries would be removed\n");
    assert_eq!(place.exported(&[]).len(), 4);
    assert_eq!(place.good(&by), "2 entries were removed\n");
    assert_eq!(place.lines(&[]), set(&["one", "three"]));
    assert_eq!(place.good(&["purge", "--filter", "sink=other"]), "0 entries were removed\n");
    let all = place.run_from(&["purge", "--all"], &["data"]);
    assert_eq!((all.code, all.out.as_str()), (Some(0), "2 entries were removed\n"));
    assert_eq!(place.exported(&[]), []);
}

#[test]
fn what_passes_now_leaves_the_queue() {
    let place = Place::new();
    let mut of_tenant = record("four", "b");
    of_tenant.tenant = "team-a".into();
    of_tenant.metadata = vec![("trace".into(), "1".into())];
    place.put(0, &[record("one", "a"), record("two", "a"), of_tenant.clone()]);
    place.put(3, &[record("three", "a")]);
    let needs = place.run_from(&["replay"], &["data"]);
    assert_eq!(needs.code, Some(78));
    assert!(needs.errors.contains("expected --config FILE"), "{}", needs.errors);
    assert_eq!(place.good(&["replay", "--dry-run"]), "4 entries would be sent\n");
    let said = place.good(&["replay", "--filter", "line~o", "--label", "replayed=yes"]);
    assert_eq!(said, "3 entries were accepted, 0 refused again, 0 not tried\n");
    assert_eq!(place.lines(&[]), set(&["three"]));
    assert_eq!(place.arrived(), set(&["one", "two", "four"]));
    let entries = place.stub.entries();
    let four = entries.iter().find(|entry| entry.line == b"four").unwrap();
    assert_eq!(four.labels, "{job=\"b\", replayed=\"yes\"}");
    assert_eq!((&four.tenant, four.timestamp_ns), (&of_tenant.tenant, of_tenant.timestamp_ns));
    assert_eq!(four.metadata, of_tenant.metadata);
    place.good(&["replay"]);
    assert_eq!(place.exported(&[]), []);
}

#[test]
fn one_bad_entry_does_not_keep_the_others_and_gets_through_with_the_present_time() {
    let place = Place::new();
    let mut records: Vec<Record> = (0..20).map(|n| record(&format!("line {n}"), "a")).collect();
    for n in [7, 13] {
        records[n].timestamp_ns -= 30 * DAY;
    }
    place.put(0, &records);
    let output = place.run(&["replay"]);
    assert_eq!(output.code, Some(1));
    assert_eq!(output.out, "18 entries were accepted, 2 refused again, 0 not tried\n");
    assert_eq!(place.arrived().len(), 18);
    let left = place.exported(&[]);
    assert_eq!(left.len(), 2);
    for record in &left {
        assert_eq!((record.attempts, record.status), (1, Some(400)));
        assert_eq!(record.reason, Reason::TooOld, "{}", record.text);
        assert!(record.text.contains("too old"), "{}", record.text);
        assert!(record.rejected_ns > record.first_rejected_ns);
    }
    place.good(&["replay", "--restamp", "--filter", "reason=too_old"]);
    assert_eq!(place.exported(&[]), []);
    let entries = place.stub.entries();
    let stamps: Vec<i64> = left
        .iter()
        .map(|record| {
            let entry = entries.iter().find(|entry| entry.line == record.line).unwrap();
            let own = record.timestamp_ns.to_string();
            assert_eq!(entry.metadata, [("original_timestamp".into(), own)]);
            entry.timestamp_ns
        })
        .collect();
    assert!(stamps[0] < stamps[1] && perf::clock::unix_ns() - stamps[0] < 600 * SECOND);
}

#[test]
fn a_sink_that_takes_nothing_changes_nothing() {
    let place = Place::new();
    place.put(0, &[record("one", "a")]);
    place.stub.set_fault(Fault::answer(401, "who are you?\n"));
    let output = place.run(&["replay"]);
    assert_eq!(output.code, Some(1));
    assert!(output.errors.contains("401: who are you?; the rest is kept"), "{}", output.errors);
    place.stub.go_away(Away::Refusing);
    let output = place.run(&["replay"]);
    assert_eq!((output.code, &output.out[..23]), (Some(1), "0 entries were accepted"));
    assert_eq!(place.exported(&[])[0].attempts, 0);
    place.stub.heal();
    place.good(&["replay"]);
    assert_eq!(place.arrived(), set(&["one"]));
}

#[test]
fn a_queue_of_a_sink_that_is_not_configured_is_kept() {
    let place = Place::new();
    let dlq = place.queue(0, "gone");
    run(dlq.put(&[Record { sink: "gone".into(), ..record("one", "a") }])).unwrap();
    run(dlq.close()).unwrap();
    let output = place.run(&["replay"]);
    assert_eq!(output.code, Some(1));
    assert!(output.errors.contains("no such sink is configured"), "{}", output.errors);
    assert_eq!(place.lines(&["--filter", "sink=gone"]), set(&["one"]));
}

#[test]
fn what_is_given_wrongly_is_78() {
    let place = Place::new();
    for (args, from, expected) in [
        (&["list"][..], &[][..], "--config"),
        (&["list"], &["--config", "/nothing"], "cannot be read"),
        (&["list"], &["--data-dir", "/nothing"], "expected that of a log-capturer"),
        (&["list", "--config", "x"], &["data"], "cannot be used with"),
        (&["shwo"], &["data"], "show"),
        (&[], &["data"], "Usage"),
        (&["export", "--filter", "colour=red"], &["data"], "reason=too_old, status=400"),
        (&["purge", "--all", "--filter", "status=400"], &["data"], "cannot be used with"),
        (&["replay", "--label", "1=2"], &["config"], "expected NAME=VALUE"),
    ] {
        let Output { code, out, errors } = place.run_from(args, from);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{args:?}: {errors}");
        assert!(errors.contains(expected), "{args:?}: {errors}");
    }
    assert_eq!(place.run_from(&["--help"], &[]).code, Some(0));
}

/// Of a request, and how long its body is.
fn head_of(reader: &mut impl BufRead) -> (String, usize) {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(number) = line.to_lowercase().strip_prefix("content-length: ") {
            length = number.trim().parse().unwrap();
        }
        head.push_str(&line);
        if line == "\r\n" {
            return (head, length);
        }
    }
}

#[test]
fn a_process_that_runs_is_asked() {
    let mut place = Place::new();
    place.put(0, &[record("one", "a")]);
    let lock = File::create(place.data_dir().join("lock")).unwrap();
    lock.lock().unwrap();
    // Reading needs nobody.
    assert_eq!(place.lines(&[]), set(&["one"]));
    for command in [&["purge", "--all"][..], &["purge", "--filter", "status=400"]] {
        let output = place.run_from(command, &["data"]);
        assert_eq!(output.code, Some(1));
        assert!(output.errors.contains("that runs: give --config FILE"), "{}", output.errors);
    }
    let unknown_port = place.run(&["purge", "--all"]).errors;
    assert!(unknown_port.contains("on which port"), "{unknown_port}");

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    place.listen = format!("0.0.0.0:{}", server.local_addr().unwrap().port());
    let serve = |status: &'static str, answer: &'static str| {
        let server = server.try_clone().unwrap();
        std::thread::spawn(move || {
            // First it is asked whether it is there.
            let (stream, _) = server.accept().unwrap();
            let (head, _) = head_of(&mut BufReader::new(&stream));
            assert!(head.starts_with("GET /ready "), "{head}");
            (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            let (stream, _) = server.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            let (head, length) = head_of(&mut reader);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer_length = answer.len();
            let head_of_answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {answer_length}\r\n\r\n");
            (&stream).write_all((head_of_answer + answer).as_bytes()).unwrap();
            (head, serde_json::from_slice::<Value>(&body).unwrap())
        })
    };
    let asked = serve("200 OK", "{\"entries\":1}\n");
    let args = ["replay", "--filter", "reason=too_old", "--filter", "older=1h", "--label", "a=b"];
    assert_eq!(place.good(&[&args[..], &["--restamp"]].concat()), "{\"entries\":1}\n");
    let (head, body) = asked.join().unwrap();
    assert!(head.starts_with("POST /dlq/reprocess HTTP/1.1\r\n"), "{head}");
    let expected = serde_json::json!({
        "filter": ["reason=too_old", "older=3600s"], "labels": { "a": "b" }, "restamp": true,
    });
    assert_eq!(body, expected);
    let asked = serve("500 Oh", "{\"error\":\"busy\"}");
    let output = place.run(&["purge", "--all"]);
    assert_eq!(output.code, Some(1));
    assert!(output.errors.contains("500") && output.errors.contains("busy"), "{}", output.errors);
    assert!(asked.join().unwrap().0.starts_with("POST /dlq/purge "));
    assert_eq!(place.lines(&[]), set(&["one"]), "nothing was touched here");
    drop(server);
    let output = place.run(&["purge", "--all"]);
    assert!(
        output.errors.contains("which was asked: no answer from http://127.0.0.1:"),
        "{}",
        output.errors
    );
    drop(lock);
    assert_eq!(place.good(&["purge", "--all"]), "1 entries were removed\n");
}

#[test]
fn damage_is_said_and_the_rest_is_read_and_sent() {
    let place = Place::new();
    let mut frames = Vec::new();
    for line in ["one", "two", "three"] {
        frames = place.put(0, &[record(line, "a")]);
    }
    // Each run has a segment of its own; the middle one is hit.
    let dir = options::dlq_dir(&place.data_dir(), 0, "loki");
    let at = frames[1].place;
    let file = fs::OpenOptions::new().write(true).open(dir.join(segment_name(at.segment))).unwrap();
    file.write_all_at(&[0x55; 8], at.next_offset + 200).unwrap();
    let output = place.run(&["export"]);
    assert_eq!(output.code, Some(0));
    assert!(
        output.errors.contains("shard 0, sink loki: 1 frames are damaged"),
        "{}",
        output.errors
    );
    assert_eq!(place.lines(&[]), set(&["one", "three"]));
    let json: Value = serde_json::from_str(&place.good(&["list", "--json"])).unwrap();
    assert_eq!(json["queues"][0]["damaged_frames"], 1);
    // A tail that is being written is no damage.
    let last = frames[2].place;
    let segment = dir.join(segment_name(last.segment));
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&[0x55; 512], last.next_offset + 4096).unwrap();
    fs::write(dir.join("00000000000000000009.wal.tmp"), "half").unwrap();
    assert_eq!(place.lines(&[]), set(&["one", "three"]));
    assert!(dir.join("00000000000000000009.wal.tmp").exists());
    let output = place.run(&["replay"]);
    assert_eq!(output.code, Some(0), "{}", output.errors);
    assert!(output.errors.contains("are damaged"), "{}", output.errors);
    assert_eq!(place.arrived(), set(&["one", "three"]));
    let aside = place.data_dir().join("quarantine/shard-00-dlq-loki");
    assert_eq!(fs::read_dir(aside).unwrap().count(), 1);
}

fn ask(product: &Product, path: &str, origin: Option<&str>, body: &str) -> (u16, Value) {
    let mut request = agent().post(format!("http://{}{path}", product.api));
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let mut answer = request.send(body).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

fn held(product: &Product) -> f64 {
    product.metric("log_capturer_dlq_entries").unwrap_or(0.0)
}

#[test]
fn a_process_that_runs_keeps_what_is_refused_and_sends_it_when_asked() {
    let bed = Bed::new();
    let product = bed.start();
    let refuse = || Fault::Refuse {
        needle: "bad".into(),
        status: 400,
        text: "entry for stream '{labels}' is refused".into(),
        rest_stored: true,
    };
    bed.stub.set_fault(refuse());
    bed.append("a.log", "good 1\nbad 2\ngood 3\nbad 4\ngood 5\nbad 6\n");
    assert_eq!(bed.texts(3), ["good 1", "good 3", "good 5"]);
    eventually("all are in the queue", &product, || held(&product) == 3.0);
    // A page in a browser on this host is not who is meant.
    let (status, _) = ask(&product, "/dlq/purge", Some("http://elsewhere.example"), "");
    assert_eq!((status, held(&product)), (403, 3.0));
    let some = r#"{"filter": ["reason=too_old"]}"#;
    assert_eq!(ask(&product, "/dlq/purge", None, some).1["entries"], 0);
    // Asked for while the sink refuses them still: they stay.
    assert_eq!(ask(&product, "/dlq/reprocess", None, "").1["entries"], 3);
    let replayed =
        || product.metric("log_capturer_dlq_replayed_frames_total").unwrap_or(0.0) >= 1.0;
    eventually("they were sent again", &product, replayed);
    assert_eq!(held(&product), 3.0);
    stop(product);
    let product = bed.start();
    assert_eq!(held(&product), 3.0);
    // Each goes as its own order says, though the orders come before anything can be sent.
    bed.stub.set_fault(Fault::answer(503, "not now"));
    for line in [2, 4, 6] {
        let order =
            format!(r#"{{"filter": ["line~bad {line}"], "labels": {{"order": "{line}"}}}}"#);
        assert_eq!(ask(&product, "/dlq/reprocess", None, &order).1["entries"], 1);
    }
    bed.stub.heal();
    assert_eq!(bed.texts(6), ["bad 2", "bad 4", "bad 6", "good 1", "good 3", "good 5"]);
    for entry in bed.stub.entries() {
        let line = text(entry.line);
        let order = line.strip_prefix("bad ").map(|line| format!("order=\"{line}\""));
        let is_so = order.as_ref().is_none_or(|order| entry.labels.contains(order));
        assert!(is_so, "{line} {}", entry.labels);
    }
    eventually("the queue is empty", &product, || held(&product) == 0.0);
    bed.stub.set_fault(refuse());
    bed.append("a.log", "bad 8\n");
    eventually("it is in the queue", &product, || held(&product) == 1.0);
    assert_eq!(ask(&product, "/dlq/purge", None, "").1["entries"], 1);
    stop(product);
}
