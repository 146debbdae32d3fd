//! The stub stores, refuses, masks and fails as Loki does.

mod faults;
mod limits;
mod wire;

use super::{Accounting, Away, Fault, Limits, Options, Rate, Stub};
use crate::load::{Lines, Written};
use crate::load::{Workload, proto};
use crate::measure::now_ns;
use std::time::Duration;

const LABELS: &str = r#"{job="a"}"#;
const PATIENCE: Duration = Duration::from_secs(20);

fn compressed(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).unwrap()
}

fn entry(timestamp_ns: i64, line: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    proto::entry(timestamp_ns.cast_unsigned(), line, &mut out);
    out
}

fn stream(labels: &str, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    proto::stream(labels, &entries.concat(), &mut out);
    out
}

fn push(streams: &[Vec<u8>]) -> Vec<u8> {
    streams.concat()
}

fn stub() -> Stub {
    let options = Options { keep_entries: 100, ..Options::new(Accounting::PerLine) };
    Stub::start(options).unwrap()
}

fn post_as(stub: &Stub, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.post(format!("{}/loki/api/v1/push", stub.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send(body).unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

/// Status and text; no status where the connection broke.
fn post(stub: &Stub, body: &[u8]) -> Option<(u16, String)> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(format!("{}/loki/api/v1/push", stub.url()));
    let mut response = request.content_type("application/x-protobuf").send(body).ok()?;
    Some((response.status().as_u16(), response.body_mut().read_to_string().unwrap()))
}

/// As [`post_streams`], of a tenant.
fn post_for(stub: &Stub, tenant: &str, streams: &[Vec<u8>]) -> (u16, String) {
    let headers = [("content-type", "application/x-protobuf"), ("x-scope-orgid", tenant)];
    post_as(stub, &headers, &compressed(&push(streams)))
}

/// One entry of now.
fn one(labels: &str, line: &[u8]) -> Vec<u8> {
    stream(labels, &[entry(now_ns(), line)])
}

fn post_streams(stub: &Stub, streams: &[Vec<u8>]) -> (u16, String) {
    post(stub, &compressed(&push(streams))).expect("an answer")
}

#[test]
fn what_is_stored_is_accounted_for() {
    let stub = stub();
    let now = now_ns();
    let mut lines = Lines::new(&Workload::service().text, 1, 0);
    let mut text = Vec::new();
    (0..3).for_each(|_| lines.next(now, &mut text));
    let entries: Vec<Vec<u8>> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .zip(now..)
        .map(|(line, stamp)| entry(stamp, line))
        .collect();
    let written = Written { lines: vec![3], ..Written::default() };
    assert_eq!(post_streams(&stub, &[stream(LABELS, &entries[..2])]).0, 204);
    assert_eq!(stub.verify(&written).lost, 1);
    assert_eq!(post_streams(&stub, &[stream(LABELS, &entries[2..])]).0, 204);
    assert!(stub.verify(&written).exactly_once());
    assert_eq!(post_streams(&stub, &[stream(LABELS, &entries[2..])]).0, 204);
    let again = stub.verify(&written);
    assert!(again.complete() && !again.exactly_once(), "{again:?}");
    let first = text.split(|byte| *byte == b'\n').next().unwrap();
    post_streams(&stub, &[stream(LABELS, &[entry(now + 9, first)])]);
    assert_eq!(stub.verify(&written).repeated_visibly, 1);
    assert_eq!(stub.streams(), [LABELS]);
}

#[test]
fn how_fast_a_backlog_comes_is_known_while_new_lines_come_too() {
    let stub = stub();
    let mut lines = Lines::new(&Workload::service().text, 1, 0);
    let mut push = || {
        let (now, mut line) = (now_ns(), Vec::new());
        lines.next(now, &mut line);
        line.pop();
        stream(LABELS, &[entry(now, &line)])
    };
    let old = [push(), push(), push()];
    assert_eq!(post_streams(&stub, &old[..1]).0, 204);
    assert_eq!(stub.backlog().rate(), 0.0);
    stub.watch_backlog();
    assert_eq!(post_streams(&stub, &old[1..2]).0, 204);
    let one = stub.backlog();
    assert!(one.lines == 1 && one.first == one.last && one.rate() > 0.0, "{one:?}");
    assert_eq!(post_streams(&stub, &old[2..]).0, 204);
    assert_eq!(post_streams(&stub, &[push()]).0, 204);
    let two = stub.backlog();
    assert!(two.lines == 2 && two.first == one.first && two.last > one.last, "{two:?}");
    assert_eq!(stub.stats().received, 4);
}

#[test]
fn a_broken_push_stores_nothing() {
    let stub = stub();
    assert_eq!(post(&stub, b"garbage").unwrap().0, 400);
    assert_eq!(post(&stub, &compressed(b"\x0a\xff")).unwrap().0, 400);
    let good = stream(LABELS, &[entry(now_ns(), b"x")]);
    let bad = stream("{job=", &[entry(now_ns(), b"x")]);
    let (status, text) = post_streams(&stub, &[good, bad]);
    assert_eq!(status, 400);
    assert!(text.contains("parse error"), "{text}");
    assert_eq!(stub.stats().entries, 0);
}

#[test]
fn what_a_limit_refuses_leaves_the_rest_stored() {
    let stub = stub();
    let old = now_ns() - 8 * 24 * 3_600_000_000_000;
    let long = vec![b'x'; 300_000];
    let entries = [entry(old, b"old"), entry(now_ns(), &long), entry(now_ns(), b"good")];
    let (status, text) = post_streams(&stub, &[stream(LABELS, &entries)]);
    assert_eq!(status, 400);
    assert!(text.contains("timestamp too old") && text.contains("Max entry size"), "{text}");
    assert_eq!((stub.stats().entries, stub.stats().entries_refused), (1, 2));
    let many: Vec<String> = (0..16).map(|n| format!("l{n}=\"x\"")).collect();
    let labels = format!("{{{}}}", many.join(", "));
    let (status, text) = post_streams(&stub, &[stream(&labels, &[entry(now_ns(), b"x")])]);
    assert_eq!(status, 400);
    assert!(text.contains("has 16 label names; limit 15"), "{text}");
}

#[test]
fn the_last_stream_masks_what_was_said_of_those_before() {
    let stub = stub();
    let now = now_ns();
    let late = now - 2 * 3_600_000_000_000;
    post_streams(&stub, &[stream(LABELS, &[entry(now, b"new")])]);
    let (behind, good) =
        (stream(LABELS, &[entry(late, b"late")]), stream(r#"{job="b"}"#, &[entry(now, b"good")]));
    assert_eq!(post_streams(&stub, &[good.clone(), behind.clone()]).0, 400);
    assert_eq!(post_streams(&stub, &[behind, good]).0, 204, "and the late line is gone");
    assert_eq!(stub.stats().entries_refused, 2);
}

#[test]
fn it_fails_as_it_is_told_and_counts_it() {
    let stub = stub();
    let body = compressed(&push(&[stream(LABELS, &[entry(now_ns(), b"x")])]));
    stub.script_fault(Fault::answer(260, "blocked\n"), 1);
    stub.script_fault(Fault::Reset, 1);
    assert_eq!(post(&stub, &body), Some((260, "blocked\n".into())));
    assert_eq!(post(&stub, &body), None);
    assert_eq!(stub.stats().entries, 0);
    stub.script_fault(Fault::LostAnswer, 1);
    assert_eq!(post(&stub, &body), None);
    assert_eq!(stub.stats().entries, 1);
    stub.go_away(Away::Refusing);
    assert!(stub.wait_until(PATIENCE, |stats| stats.faults.refusals == 1));
    assert!(std::net::TcpStream::connect(stub.addr()).is_err());
    stub.heal();
    while post(&stub, &body).is_none() {}
    let faults = stub.stats().faults;
    assert_eq!((faults.answered, faults.reset, faults.answers_lost), (1, 1, 1));
}

#[test]
fn json_and_compressed_pushes_are_read_as_loki_does() {
    use std::io::Write;
    let stub = stub();
    let json = format!(
        r#"{{"streams":[{{"stream":{{"job":"a"}},"values":[["{0}","plain"],["{0}","more",{{"k":"v"}}]]}}]}}"#,
        now_ns()
    );
    let kind = ("content-type", "application/json");
    assert_eq!(post_as(&stub, &[kind], json.as_bytes()).0, 204);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(json.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_eq!(post_as(&stub, &[kind, ("content-encoding", "gzip")], &gzip).0, 204);
    assert_eq!((stub.stats().entries, stub.streams()), (4, vec![LABELS.to_owned()]));
    assert_eq!(post_as(&stub, &[kind, ("content-encoding", "zstd")], &gzip).0, 400);
    assert_eq!(post_as(&stub, &[kind, ("content-encoding", "gzip")], b"x").0, 400);
    assert_eq!(post_as(&stub, &[kind], b"{}").0, 400);
    let pairs: Vec<String> = (0..129).map(|n| format!("\"k{n}\":\"v\"")).collect();
    let metadata = json.replace("\"k\":\"v\"", &pairs.join(","));
    let (status, text) = post_as(&stub, &[kind], metadata.as_bytes());
    assert!(status == 400 && text.contains("too many structured metadata labels"), "{text}");
}

#[test]
fn rates_and_missing_tenants_are_refused() {
    let limits = Limits {
        tenant_rate: Some(Rate { bytes_per_second: 1, burst_bytes: 200 }),
        stream_rate: Some(Rate { bytes_per_second: 1, burst_bytes: 100 }),
        ..Limits::loki()
    };
    let stub =
        Stub::start(Options { limits, auth: true, ..Options::new(Accounting::PerLine) }).unwrap();
    let push = |labels: &str, bytes: usize| {
        let body = compressed(&stream(labels, &[entry(now_ns(), &vec![b'x'; bytes])]));
        post_as(&stub, &[("content-type", "application/x-protobuf"), ("x-scope-orgid", "t")], &body)
    };
    let nobody = post_as(&stub, &[("content-type", "application/x-protobuf")], b"x");
    assert_eq!(nobody, (401, "no org id\n".into()));
    assert_eq!(push(LABELS, 90).0, 204);
    let (status, text) = push(LABELS, 90);
    assert!(status == 429 && text.contains("Per stream rate limit exceeded"), "{text}");
    let (status, text) = push(r#"{job="b"}"#, 90);
    assert!(status == 429 && text.contains("ingestion rate limit exceeded for user"), "{text}");
}

#[test]
fn it_hides_and_refuses_parts_of_pushes_when_told() {
    let stub = stub();
    let lines = |name: &str| {
        stream(&format!("{{job={name:?}}}"), &[0, 1, 2, 3].map(|n| entry(now_ns() + n, b"x")))
    };
    stub.script_fault(Fault::Masked, 1);
    assert_eq!(post_streams(&stub, &[lines("hidden"), lines("shown")]).0, 204);
    assert_eq!(stub.streams(), [r#"{job="shown"}"#]);
    stub.script_fault(Fault::Partial { one_of: 4 }, 1);
    let (status, text) = post_streams(&stub, &[lines("part")]);
    assert!(status == 400 && text.contains("has timestamp too old"), "{text}");
    assert_eq!((stub.stats().entries, stub.stats().entries_refused), (7, 5));
    stub.script_fault(Fault::SlowBody(Duration::from_millis(200)), 1);
    let (status, text) = post_streams(&stub, &[lines("late")]);
    assert!(status == 500 && !text.is_empty(), "{status} {text:?}");
    let faults = stub.stats().faults;
    assert_eq!((faults.masked, faults.partial, faults.slow_bodies), (1, 1, 1));
}

#[test]
fn counted_lines_are_held_against_the_whole_corpus() {
    let dir = tempfile::tempdir().unwrap();
    let workload = Workload { lines: 20_000, ..Workload::named("key-value").unwrap() };
    let corpus = crate::load::corpus::prepare(dir.path(), &workload).unwrap();
    let pushes = crate::load::Pushes::prepare(&corpus, 500_000).unwrap();
    let stub = Stub::start(Options::new(Accounting::Count)).unwrap();
    let sent = pushes.send(stub.addr(), 2).unwrap();
    assert!(sent.refusal.is_none() && sent.answers[&204] > 3, "{sent:?}");
    assert_eq!(stub.stats().sum, corpus.sum().unwrap());
    assert!(stub.cpu() > Duration::ZERO);
}

#[test]
fn tenants_are_kept_apart_and_metadata_is_kept() {
    let stub = stub();
    let kind = ("content-type", "application/json");
    let json = format!(
        r#"{{"streams":[{{"stream":{{"job":"a"}},"values":[["{}","x",{{"k":"v"}}]]}}]}}"#,
        now_ns()
    );
    for tenant in ["one", "two", "one"] {
        let headers = [kind, ("x-scope-orgid", tenant)];
        assert_eq!(post_as(&stub, &headers, json.as_bytes()).0, 204);
    }
    let kept = stub.entries();
    let tenants: Vec<&str> = kept.iter().map(|entry| entry.tenant.as_str()).collect();
    assert_eq!(tenants, ["one", "two"], "the third is the first again");
    assert_eq!(kept[0].metadata, [("k".to_owned(), "v".to_owned())]);
    stub.set_fault(Fault::Tenant { tenant: "one".into(), status: 429 });
    for (tenant, status) in [("one", 429), ("two", 204)] {
        let headers = [kind, ("x-scope-orgid", tenant)];
        assert_eq!(post_as(&stub, &headers, json.as_bytes()).0, status);
    }
    stub.heal();
    let unnamed = json.replace("\"k\"", "\"\"");
    let answer = post_as(&stub, &[kind], unnamed.as_bytes());
    assert_eq!(answer, (500, "label name is empty\n".into()));
}
