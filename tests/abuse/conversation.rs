//! Requests that share a connection, break off or ask first.

use super::client::{
    Client, JSON, LOGS, MIB, RAW, assert_serves, grown, is_end, lines_of, request, text,
};
use crate::bed::{Bed, eventually, stop};
use std::io::Write;
use std::time::Duration;

#[test]
fn who_closes_its_half_is_answered_and_who_goes_leaves_nothing_behind() {
    let mut bed = Bed::new();
    // So that answers are waited for.
    bed.setup.wal = "{ commit_interval: 300ms }".into();
    let product = bed.start();
    assert_serves(&product);
    let mut client = Client::connect(product.api);
    client.send(request(RAW, "", "half closed\n"));
    client.half_close();
    client.expect(204);
    client.expect_end();
    drop(client);
    let open = || product.usage().unwrap().descriptors;
    let before = open();
    for number in 0..50 {
        let mut client = Client::connect(product.api);
        client.send(request(RAW, "", format!("gone {number}\n")));
        // What is not read when it closes makes the kernel send a reset in place of an end.
        if number % 2 == 0 {
            client.half_close();
        }
    }
    let gone = |line: &String| line.starts_with("gone ");
    eventually("those that ended in order arrive", &product, || {
        let lines: Vec<_> = bed.stub.entries().iter().map(text).filter(gone).collect();
        (0..50).step_by(2).all(|number| lines.contains(&format!("gone {number}")))
    });
    eventually("their descriptors are closed", &product, || open() <= before);
    assert_serves(&product);
    stop(product);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let bed = Bed::new();
    let product = bed.start();
    let mut requests = Vec::new();
    for number in 0..50 {
        requests.extend(request(RAW, "", format!("line {number}\n")));
        requests.extend(request(LOGS, JSON, format!(r#"{{"message":"log {number}"}}"#)));
        requests.extend(request("/nowhere", "", "x"));
        requests.extend(request(LOGS, JSON, "{}"));
    }
    let mut client = Client::connect(product.api);
    client.send(&requests);
    client.half_close();
    for _ in 0..50 {
        for status in [204, 202, 404, 400] {
            client.expect(status);
        }
    }
    client.expect_end();
    let lines = lines_of(&bed, &product);
    let of = |kind: &str| -> Vec<_> {
        lines.iter().filter(|line| line.starts_with(kind)).cloned().collect()
    };
    let expected = |kind: &str| -> Vec<_> { (0..50).map(|n| format!("{kind} {n}")).collect() };
    assert_eq!(of("line"), expected("line"));
    assert_eq!(of("log"), expected("log"));
    stop(product);
}

#[test]
fn who_reads_no_answer_is_held_up_and_holds_up_nobody() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let mut client = Client::connect(product.api);
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let requests = "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let held_up = (0..10_000).find_map(|_| client.stream.write_all(requests.as_bytes()).err());
    let error = held_up.expect("its requests are read no further");
    assert!(!is_end(&error), "{error}");
    assert_serves(&product);
    let grown = grown(&product, before);
    assert!(grown < 8 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn a_body_is_asked_for_only_where_it_is_wanted() {
    let bed = Bed::new();
    let product = bed.start();
    let head = |path: &str, rest: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{rest}\r\n")
    };
    let mut client = Client::connect(product.api);
    for _ in 0..2 {
        client.send(head(RAW, "content-length: 9\r\n"));
        client.expect(100);
        client.send("expected\n");
        client.expect(204);
    }
    let length = "content-length: 1000000000\r\n";
    for (path, rest, status) in [
        (RAW, length.to_owned(), 413),
        (RAW, "content-length: 9\r\ncontent-encoding: zstd\r\n".into(), 400),
        ("/loki/api/v1/raw?1=2", "content-length: 9\r\n".into(), 400),
        ("/nowhere", "content-length: 9\r\n".into(), 404),
    ] {
        let mut client = Client::connect(product.api);
        client.send(head(path, &rest));
        client.expect(status);
        client.expect_end();
    }
    assert_eq!(lines_of(&bed, &product).len(), 2);
    stop(product);
}
