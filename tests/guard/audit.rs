//! Who changed something, or was to.

use super::client::Keys;
use super::{bearer, http2, start, tokens};
use crate::bed::{Bed, eventually, stop};
use bench::product::Product;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

fn entries(product: &Product, query: &str, headers: &[&str]) -> Vec<Value> {
    let path = format!("/security/audit{query}");
    let answer = Keys::none().ask(product.api, "GET", &path, headers, "").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let value = answer.json();
    let document = crate::api::document::Document::served();
    document.check("get", "/security/audit", 200, "application/json", &value);
    value["entries"].as_array().unwrap().clone()
}

fn told(entry: &Value) -> (&str, &str, &str, u64) {
    let text = |name: &str| entry[name].as_str().unwrap();
    (text("who"), text("method"), text("path"), entry["status"].as_u64().unwrap())
}

#[test]
fn whoever_changes_something_or_was_to_is_kept() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{}] }}", tokens())];
    let product = start(&bed, &Keys::none());
    let post = |path, headers: &[&str], body| {
        Keys::none().ask(product.api, "POST", path, headers, body).unwrap().status
    };
    let operate = bearer("operate");
    assert_eq!(post("/config/reload", &[&operate], ""), 200);
    assert_eq!(post("/dlq/purge", &[&operate], "[]"), 400);
    assert_eq!(post("/dlq/purge", &[&operate, "origin: http://here"], ""), 403);
    assert_eq!(post("/config/rollback", &[&bearer("read")], ""), 403);
    assert_eq!(
        post(
            "/dlq/reprocess",
            &["authorization: Bearer planted-token-wrong"],
            "planted-token-body"
        ),
        401
    );
    // What changes nothing is not kept, whoever asks.
    Keys::none().ask(product.api, "GET", "/stats", &[], "").unwrap();
    product.signal(Signal::HUP);
    eventually("all are kept", &product, || entries(&product, "", &[&operate]).len() == 6);
    let all = entries(&product, "", &[&operate]);
    let newest: Vec<_> = all.iter().map(told).collect();
    assert_eq!(newest[0], ("signal", "SIGHUP", "/config/reload", 200));
    assert_eq!(
        newest[1..],
        [
            ("unknown", "POST", "/dlq/reprocess", 401),
            ("token read", "POST", "/config/rollback", 403),
            ("token operate", "POST", "/dlq/purge", 403),
            ("token operate", "POST", "/dlq/purge", 400),
            ("token operate", "POST", "/config/reload", 200),
        ]
    );
    assert!(all[1..].iter().all(|entry| entry["peer"] == "127.0.0.1") && all[0]["peer"].is_null());
    // As many of what was done as of what was refused.
    let two = entries(&product, "?limit=1", &[&operate]);
    assert_eq!(two, all[..2]);
    for query in ["?limit=0", "?limit=1001", "?limit=a", "?count=1", "?limit=1&limit=1"] {
        let path = format!("/security/audit{query}");
        let answer = Keys::none().ask(product.api, "GET", &path, &[&operate], "").unwrap();
        assert_eq!(answer.status, 400, "{query}");
    }
    let file = bed.setup.data_dir().join("audit.jsonl");
    product.kill();
    // What was answered stands on the disk; half a line of a crash costs no other.
    let text = fs::read_to_string(&file).unwrap();
    let refused = fs::read_to_string(file.with_file_name("audit-refused.jsonl")).unwrap();
    assert_eq!((text.lines().count(), refused.lines().count()), (3, 3), "{text}{refused}");
    assert!(!text.contains("planted") && !refused.contains("planted"), "{text}{refused}");
    fs::write(&file, format!("{text}{{\"time\":\"20")).unwrap();
    let product = start(&bed, &Keys::none());
    assert_eq!(entries(&product, "", &[&operate]), all);
    assert_eq!(
        Keys::none().ask(product.api, "POST", "/dlq/purge", &[&operate], "").unwrap().status,
        200
    );
    assert_eq!(
        told(&entries(&product, "?limit=1", &[&operate])[0]),
        ("token operate", "POST", "/dlq/purge", 200)
    );
    stop(product);
}

#[test]
fn without_tokens_it_is_loopback_and_a_changed_file_that_is_watched() {
    let mut bed = Bed::new();
    bed.setup.more = vec!["reload: { watch: true }".into()];
    let product = start(&bed, &Keys::none());
    let answer = Keys::none().ask(product.api, "POST", "/dlq/purge", &[], "").unwrap();
    assert_eq!(answer.json(), json!({ "entries": 0 }));
    bed.setup.drain_timeout = "3s".into();
    fs::write(bed.setup.dir.join("config.yaml"), bed.setup.yaml()).unwrap();
    eventually("the change is kept", &product, || entries(&product, "", &[]).len() == 2);
    let all = entries(&product, "", &[]);
    let newest: Vec<_> = all.iter().map(told).collect();
    assert_eq!(newest[0], ("watch", "WATCH", "/config/reload", 200));
    assert_eq!(newest[1], ("loopback", "POST", "/dlq/purge", 200));
    stop(product);
}

#[test]
fn many_who_are_refused_displace_nothing_that_was_done() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{}] }}", tokens())];
    let product = start(&bed, &Keys::none());
    let operate = bearer("operate");
    let post = |headers: &[&str]| {
        Keys::none().ask(product.api, "POST", "/dlq/purge", headers, "").unwrap().status
    };
    assert_eq!(post(&[&operate]), 200);
    for _ in 0..1_100 {
        assert_eq!(post(&[&bearer("read")]), 403);
    }
    let failures = (0..100).filter(|_| post(&["authorization: Bearer wrong"]) == 429).count();
    assert!(failures > 10, "{failures}");
    assert_eq!(post(&[&operate]), 200);
    eventually("all are kept", &product, || {
        entries(&product, "?limit=1000", &[&operate]).len() == 1_002
    });
    let all = entries(&product, "?limit=1000", &[&operate]);
    let statuses: Vec<u64> = all.iter().map(|entry| told(entry).3).collect();
    assert_eq!((statuses[0], statuses[1_001]), (200, 200), "the oldest is there");
    // Of those who fail too often, nothing.
    assert!(!statuses.contains(&429));
    stop(product);
}

#[test]
fn what_was_changed_is_kept_although_the_request_was_broken_off() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{}] }}", tokens())];
    let product = start(&bed, &Keys::none());
    let mut stream = TcpStream::connect(product.api).unwrap();
    let asked = [
        http2::start(),
        http2::post(1, "/config/reload", "Bearer planted-token-operate"),
        http2::cancel(1),
    ];
    stream.write_all(&asked.concat()).unwrap();
    let _ = stream.read(&mut [0; 1024]).unwrap();
    let operate = bearer("operate");
    eventually("it is kept", &product, || entries(&product, "", &[&operate]).len() == 1);
    let all = entries(&product, "", &[&operate]);
    assert_eq!(told(&all[0]), ("token operate", "POST", "/config/reload", 200));
    stop(product);
}
