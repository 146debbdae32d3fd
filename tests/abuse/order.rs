//! What an answer promises: memory or disk, order, and the end of the process.

use super::client::{Client, JSON, LOGS, RAW, assert_serves, assert_told_to_wait, missing, text};
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::stub::Away;
use rustix::process::Signal;
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn an_answer_from_memory_waits_for_no_disk_and_arrives_after_a_stop() {
    for by_query in [true, false] {
        let mut bed = Bed::new();
        bed.setup.wal = "{ commit_interval: 1s }".into();
        if !by_query {
            bed.setup.server_keys = vec!["ack: memory".into()];
        }
        let product = bed.start();
        let commits = || product.metric("log_capturer_wal_commits_total").unwrap();
        let mut client = Client::connect(product.api);
        let mut post = |ack: &str, line: String| {
            let path = format!("{RAW}&{ack}");
            assert_eq!(client.post(&path, "", line).expect("an answer").status, 204);
        };
        let memory = if by_query { "ack=memory" } else { "" };
        let mut posted = 0;
        eventually("an answer comes before the disk has it", &product, || {
            post("ack=durable", format!("durable {posted}"));
            let before = commits();
            post(memory, format!("memory {posted}"));
            posted += 1;
            commits() == before
        });
        stop(product);
        let lines: HashSet<String> = bed.entries(2 * posted).iter().map(text).collect();
        let expected =
            (0..posted).flat_map(|n| [format!("durable {n}"), format!("memory {n}")]).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn lines_of_one_stream_over_many_connections_keep_the_order_of_each() {
    for shards in 1..=2 {
        assert_keeps_order(shards);
    }
}

fn assert_keeps_order(shards: usize) {
    const CONNECTIONS: usize = 8;
    const POSTS: usize = 100;
    let mut bed = Bed::new();
    bed.setup.cores = format!("{{ shards: {shards}, egress: 0 }}");
    let product = bed.start();
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let product = &product;
            scope.spawn(move || {
                let mut client = Client::connect(product.api);
                for post in 0..POSTS {
                    let line = |at: usize| format!("{connection} {:04}", 2 * post + at);
                    let answer = if post % 2 == 0 {
                        let path = "/loki/api/v1/raw?source_type=api";
                        client.post(path, "", format!("{}\n{}\n", line(0), line(1)))
                    } else {
                        let log = |at| json!({"message": line(at)});
                        client.post(LOGS, JSON, json!([log(0), log(1)]).to_string())
                    };
                    let status = answer.expect("an answer").status;
                    assert!(matches!(status, 202 | 204), "{status}");
                }
            });
        }
    });
    let mut entries = bed.entries(2 * POSTS * CONNECTIONS);
    entries.sort_by_key(|entry| entry.timestamp_ns);
    let mut of_each = vec![Vec::new(); CONNECTIONS];
    for entry in &entries {
        let line = text(entry);
        let (connection, number) = line.split_once(' ').unwrap();
        of_each[connection.parse::<usize>().unwrap()].push(number.parse::<usize>().unwrap());
    }
    for numbers in of_each {
        assert_eq!(numbers, (0..2 * POSTS).collect::<Vec<_>>());
    }
    let distinct: BTreeSet<_> = entries.iter().map(|entry| entry.timestamp_ns).collect();
    assert_eq!(distinct.len(), entries.len(), "two lines have one timestamp");
    stop(product);
}

#[test]
fn sigterm_among_requests_loses_none_that_was_answered() {
    let bed = Bed::new();
    let product = bed.start();
    let answered = Mutex::new(Vec::new());
    let refused = AtomicBool::new(false);
    thread::scope(|scope| {
        for connection in 0..8 {
            let (answered, refused, api) = (&answered, &refused, product.api);
            scope.spawn(move || {
                let mut client = Client::connect(api);
                for number in 0.. {
                    let line = format!("{connection} {number}");
                    match client.post(RAW, "", &line) {
                        Some(answer) if answer.status == 204 => answered.lock().unwrap().push(line),
                        Some(answer) => {
                            assert_eq!(answer.status, 503, "{answer:?}");
                            refused.store(true, Ordering::Relaxed);
                            return;
                        }
                        None => return,
                    }
                }
            });
        }
        eventually("requests are under way", &product, || answered.lock().unwrap().len() > 200);
        product.signal(Signal::TERM);
    });
    println!("told to wait: {}, else closed", refused.load(Ordering::Relaxed));
    assert!(product.wait(PATIENCE).unwrap().success());
    let product = bed.start();
    let answered = answered.into_inner().unwrap();
    eventually("every one arrives", &product, || missing(&bed, &answered) == 0);
    assert_serves(&product);
    stop(product);
}

#[test]
fn while_it_drains_posts_are_told_to_wait_and_what_was_answered_before_is_kept() {
    let bed = Bed::new();
    let product = bed.start();
    bed.stub.go_away(Away::Refusing);
    assert_serves(&product);
    let mut old = Client::connect(product.api);
    assert_eq!(old.get("/ready").expect("an answer").status, 200);
    product.signal(Signal::TERM);
    eventually("it says that it stops", &product, || !product.is_ready());
    for client in [&mut old, &mut Client::connect(product.api)] {
        assert_told_to_wait(&client.post(RAW, "", "too late\n").expect("an answer"), 503);
        assert_eq!(client.get("/ready").expect("an answer").status, 503);
    }
    bed.stub.heal();
    assert!(product.wait(PATIENCE).unwrap().success());
    assert_eq!(bed.entries(1).iter().map(text).collect::<Vec<_>>(), ["well-behaved"]);
}
