//! The stub stores, refuses, masks and fails as Loki does.

use super::encode::{compressed, entry, push, stream};
use super::{Accounting, Away, Fault, Options, Stub};
use crate::demo::now_ns;
use crate::load::{Lines, Written};
use std::time::Duration;

const LABELS: &str = r#"{job="a"}"#;
const PATIENCE: Duration = Duration::from_secs(20);

fn stub() -> Stub {
    let options = Options { keep_entries: 100, ..Options::new(Accounting::PerLine) };
    Stub::start(options).unwrap()
}

/// Status and text; no status where the connection broke.
fn post(stub: &Stub, body: &[u8]) -> Option<(u16, String)> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(format!("{}/loki/api/v1/push", stub.url()));
    let mut response = request.content_type("application/x-protobuf").send(body).ok()?;
    Some((response.status().as_u16(), response.body_mut().read_to_string().unwrap()))
}

fn post_streams(stub: &Stub, streams: &[Vec<u8>]) -> (u16, String) {
    post(stub, &compressed(&push(streams))).expect("an answer")
}

#[test]
fn what_is_stored_is_accounted_for() {
    let stub = stub();
    let now = now_ns();
    let mut lines = Lines::new(1, 0);
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
