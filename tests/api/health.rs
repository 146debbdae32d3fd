//! What turns health, and that it turns back: nothing that passes leaves a mark.

use super::{ask, assert_error, level, show};
use crate::abuse::client::{Client, RAW, noise};
use crate::answers::ask::{Pushed, letters, numbered, order, push};
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::product::Product;
use bench::stub::{Away, Fault};
use rustix::process::Signal;
use serde_json::json;

/// Lines that come late turn the objective, which is not what is looked at here.
const PATIENT: &str = "slo: { latency: 10m }";

fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.setup.more = vec![PATIENT.into()];
    bed
}

#[test]
fn a_sink_that_is_away_degrades_it_and_lines_are_taken_all_the_same() {
    let bed = bed();
    let product = bed.start();
    let is = |expected: &str| level(&ask(&product, "/health").1, "sink_connectivity") == expected;
    push(&product, "", &[Pushed::now("a", numbered("before", 1))]);
    bed.entries(1);
    eventually("the sink is well", &product, || is("healthy"));
    bed.stub.go_away(Away::Refusing);
    push(&product, "", &[Pushed::now("a", numbered("during", 1))]);
    eventually("the sink is seen to be away", &product, || is("degraded"));

    let (status, health) = ask(&product, "/health");
    assert_eq!((status, &health["ready"]), (200, &json!(true)), "{health}");
    assert_ne!(health["status"], "healthy");
    let check = &health["checks"]["sink_connectivity"];
    let sink = &check["sinks"][0];
    assert_eq!((&sink["sink"], &sink["failing"]), (&json!("loki"), &json!(1)), "{check}");
    assert!(!sink["reason"].as_str().unwrap().is_empty(), "{check}");
    assert!(check["message"].as_str().unwrap().contains("lines wait for loki"), "{check}");
    assert_eq!(health["services"]["sinks"]["status"], "degraded", "{health}");
    let sinks = show(&product, "/sinks");
    assert_ne!(sinks["sinks"][0]["tenants"][0]["state"], "closed", "{sinks}");
    let stats = show(&product, "/stats");
    assert_eq!(stats["sinks"][0]["state"], "failing", "{stats}");
    let alarms = stats["alarms"].as_array().unwrap();
    assert!(alarms.iter().any(|alarm| alarm["check"] == "sink_connectivity"), "{stats}");
    assert_eq!(show(&product, "/ready"), "ready\n");
    assert!(product.log().contains("health is worse"), "{}", product.log());

    bed.stub.heal();
    eventually("the sink is well again", &product, || is("healthy"));
    bed.entries(2);
    eventually("nothing waits", &product, || {
        show(&product, "/stats")["sinks"][0]["unacked_lines"] == 0
    });
    stop(product);
}

/// Posts until there is no room.
fn fill(product: &Product) {
    let mut client = Client::connect(product.api);
    for number in 0..5_000 {
        match client.post(RAW, "", noise(number, 200_000)).expect("an answer").status {
            503 if product.metric("log_capturer_wal_full").unwrap() > 0.0 => return,
            status => assert!(matches!(status, 204 | 503), "{status}"),
        }
    }
    panic!("it never fills: {}", product.log());
}

#[test]
fn a_full_log_makes_it_critical_until_there_is_room() {
    let mut bed = bed();
    bed.setup.cores = "{ shards: [0], egress: 0 }".into();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    bed.stub.go_away(Away::Refusing);
    fill(&product);
    eventually("it is critical", &product, || ask(&product, "/health").0 == 503);
    let (_, health) = ask(&product, "/health");
    assert_eq!((&health["status"], &health["ready"]), (&json!("critical"), &json!(true)));
    let queue = &health["checks"]["queue"];
    assert_eq!((&queue["status"], &queue["full"]), (&json!("critical"), &json!(true)), "{queue}");
    assert_eq!(queue["limit_bytes"], 16 << 20, "{queue}");
    assert!(queue["used_bytes"].as_u64() <= Some(16 << 20), "{queue}");
    // It takes in nothing now, and does not leave a service for that.
    assert_eq!(show(&product, "/ready"), "ready\n");
    bed.append("a.log", noise(0, 1_000_000) + "\n");
    eventually("what waits in a file is seen", &product, || {
        let positions = show(&product, "/positions");
        positions["lag_bytes"].as_u64() > Some(0) && positions["total"] == 1
    });
    for path in ["/stats", "/shards", "/slo/status", "/dlq/stats", "/sinks", "/config"] {
        show(&product, path);
    }
    assert_eq!(show(&product, "/shards")["shards"][0]["wal_full"], true);
    bed.stub.heal();
    eventually("it is not critical any more", &product, || ask(&product, "/health").0 == 200);
    eventually("the file is read", &product, || show(&product, "/positions")["lag_bytes"] == 0);
    stop(product);
}

#[test]
fn dead_letters_are_a_warning() {
    let mut bed = bed();
    bed.setup.sink_keys.push("dlq: { reprocess: { attempts_max: 0 } }".into());
    bed.stub.set_fault(Fault::answer(400, "not this\n"));
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("bad", 5))]);
    eventually("they are kept", &product, || letters(&product) == 5);
    let seen = || level(&ask(&product, "/health").1, "dead_letters") == "warning";
    eventually("that is seen", &product, seen);
    let (status, health) = ask(&product, "/health");
    assert_eq!(status, 200, "{health}");
    let check = &health["checks"]["dead_letters"];
    assert_eq!((&check["entries"], &check["added_in_10m"]), (&json!(5), &json!(5)), "{check}");
    let stats = show(&product, "/stats");
    assert_eq!(stats["dlq"]["by_reason"]["refused"], 5, "{stats}");
    let dlq = show(&product, "/dlq/stats");
    let sum = |name: &str| -> u64 {
        dlq["queues"].as_array().unwrap().iter().map(|of| of[name].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("entries"), &dlq["entries"]), (5, &json!(5)), "{dlq}");
    let slo = show(&product, "/slo/status");
    assert_eq!(slo["windows"]["5m"]["late"], 5, "what does not arrive is late for good: {slo}");
    assert_eq!(order(&product, "/dlq/purge", "{}"), (200, json!({ "entries": 5 })));
    eventually("they are gone", &product, || show(&product, "/stats")["dlq"]["entries"] == 0);
    stop(product);
}

#[test]
fn while_it_starts_and_while_it_stops_it_is_not_ready_and_says_why() {
    let bed = bed();
    bed.stub.go_away(Away::Refusing);
    for number in 0..500 {
        bed.append(&format!("{number}.log"), "x\n");
    }
    let product = Product::spawn(&bed.setup).unwrap();
    let mut starting = 0;
    // From the first moment on, each answer is one that the document has.
    eventually("it is ready", &product, || {
        for path in ["/stats", "/shards", "/slo/status", "/sinks", "/dlq/stats", "/config"] {
            show(&product, path);
        }
        let (status, health) = ask(&product, "/health");
        let (ready, error) = ask(&product, "/ready");
        if status == 503 {
            starting += 1;
            assert_eq!(health["status"], "critical", "{health}");
        }
        if ready == 503 {
            assert_error(503, &error, "not ready");
        }
        ready == 200
    });
    println!("asked {starting} times before it was ready");

    eventually("a frame waits", &product, || {
        product.metric("log_capturer_wal_unacked_frames").unwrap() > 0.0
    });
    product.signal(Signal::TERM);
    eventually("it is not ready", &product, || ask(&product, "/ready").0 == 503);
    assert_error(503, &ask(&product, "/ready").1, "not ready: starting or stopping");
    eventually("it says why", &product, || {
        let (status, health) = ask(&product, "/health");
        assert_eq!((status, &health["ready"]), (503, &json!(false)), "{health}");
        health["services"]["http"]["message"].as_str().unwrap().starts_with("stopping")
    });
    bed.stub.heal();
    assert!(product.wait(PATIENCE).unwrap().success());
}
