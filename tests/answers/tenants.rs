//! One tenant that Loki refuses holds up no other.

use super::ask::{Pushed, breakers, get, letters, numbered, push, stored, taken_of, try_push};
use crate::abuse::client::noise;
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::measure::now_ns;
use bench::product::Product;
use bench::stub::Fault;
use std::collections::BTreeSet;

const SLOW: &str = "slow";
const LOCKED: &str = "locked";
const WELL: &str = "well";

const ROUNDS: usize = 20;
const LINES: usize = 200;
const LINE_BYTES: usize = 1000;
const FEW: usize = 20;

fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    // Less than what waits.
    bed.setup.wal = "{ ring_bytes_max: 1MiB }".into();
    bed.setup.drain_timeout = "2s".into();
    bed.stub.set_faults(vec![
        Fault::Tenant { tenant: SLOW.into(), status: 429 },
        Fault::Tenant { tenant: LOCKED.into(), status: 403 },
    ]);
    bed
}

/// Of a tenant that is refused: what does not fit into memory.
fn large(tenant: &str, round: usize) -> Vec<String> {
    let number = |n| (round * LINES + n) as u64;
    (0..LINES).map(|n| format!("{tenant} {}", noise(number(n), LINE_BYTES))).collect()
}

fn small(round: usize) -> Vec<String> {
    numbered(&format!("round {round}"), FEW)
}

/// One round of everybody; the one who is well gets it through at once.
fn round(bed: &Bed, product: &Product, round: usize) {
    for tenant in [SLOW, LOCKED] {
        push(product, tenant, &[Pushed::now("a", large(tenant, round))]);
    }
    push(product, WELL, &[Pushed::now("a", small(round))]);
    let expected = ((round + 1) * FEW) as u64;
    eventually("the healthy tenant's lines arrive", product, || taken_of(bed, WELL) >= expected);
}

fn assert_refused(bed: &Bed) {
    let stats = bed.stub.stats();
    for tenant in [SLOW, LOCKED] {
        let of = &stats.by_tenant[tenant];
        assert!(of.pushes > 0, "{tenant} was tried");
        assert_eq!(of.entries, 0, "{tenant}");
    }
    assert!(stats.faults.tenant >= 2, "{:?}", stats.faults);
}

/// Everything of everybody, once and in its order.
fn assert_all_there(bed: &Bed, rounds: usize) {
    for tenant in [SLOW, LOCKED] {
        let expected: Vec<String> = (0..rounds).flat_map(|round| large(tenant, round)).collect();
        let all = bed.stub.wait_until(PATIENCE, |stats| {
            stats.by_tenant.get(tenant).is_some_and(|of| of.entries >= expected.len() as u64)
        });
        assert!(all, "{tenant} has {}\n{}", taken_of(bed, tenant), bed.product_log());
        assert!(stored(bed, tenant) == expected, "{tenant} is in order");
        assert_eq!(taken_of(bed, tenant), expected.len() as u64, "{tenant}: once");
    }
    let expected: Vec<String> = (0..rounds).flat_map(small).collect();
    assert_eq!(stored(bed, WELL), expected);
    assert_eq!(taken_of(bed, WELL), expected.len() as u64, "nothing is sent again");
}

#[test]
fn tenants_that_are_refused_for_ever_hold_up_no_other_and_get_everything_once_they_are_not() {
    let bed = bed();
    let start_ms = now_ns() / 1_000_000;
    let product = bed.start();
    (0..ROUNDS).for_each(|n| round(&bed, &product, n));
    assert_refused(&bed);
    let seen = breakers(&product, "loki");
    for (tenant, reason) in [(SLOW, "429: not for slow"), (LOCKED, "403: not for locked")] {
        let of = &seen[tenant];
        assert!(of["state"] == "open" || of["state"] == "half-open", "{of}");
        assert!(of["reason"].as_str().unwrap().contains(reason), "{of}");
        let since = of["since_unix_ms"].as_i64().unwrap();
        assert!((start_ms..=now_ns() / 1_000_000).contains(&since), "{of}");
        assert!(of["failures"].as_u64().unwrap() > 0, "{of}");
    }
    assert_eq!(seen[WELL]["state"], "closed");
    assert_eq!(product.metric("log_capturer_breakers_open").unwrap(), 2.0);
    let unacked = "log_capturer_wal_unacked_frames";
    assert!(product.metric(unacked).unwrap() > 0.0);
    bed.stub.heal();
    assert_all_there(&bed, ROUNDS);
    let closed = || breakers(&product, "loki").values().all(|of| of["state"] == "closed");
    eventually("all are well", &product, closed);
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    stop(product);
}

#[test]
fn restarts_while_tenants_are_refused_send_nothing_of_the_others_again() {
    let bed = bed();
    for n in 0..4 {
        let product = bed.start();
        round(&bed, &product, n);
        // Exits with 0, whoever still waits.
        stop(product);
    }
    assert_refused(&bed);
    let product = bed.start();
    round(&bed, &product, 4);
    assert_refused(&bed);
    assert_eq!(taken_of(&bed, WELL), 5 * FEW as u64, "nothing is sent again");
    bed.stub.heal();
    assert_all_there(&bed, 5);
    stop(product);
}

#[test]
fn kills_while_tenants_are_refused_lose_nothing() {
    let bed = bed();
    for n in 0..4 {
        let product = bed.start();
        round(&bed, &product, n);
        product.kill();
    }
    assert_refused(&bed);
    bed.stub.heal();
    let product = bed.start();
    for tenant in [SLOW, LOCKED] {
        let expected: Vec<String> = (0..4).flat_map(|round| large(tenant, round)).collect();
        eventually("a tenant that was refused gets all", &product, || {
            stored(&bed, tenant).len() >= expected.len()
        });
        assert!(stored(&bed, tenant) == expected, "{tenant} is in order");
    }
    let expected: Vec<String> = (0..4).flat_map(small).collect();
    assert_eq!(stored(&bed, WELL), expected, "byte for byte, where it was sent again");
    stop(product);
}

/// The log cannot hold what the others push while it keeps a tenant's first line.
#[test]
fn where_the_log_is_full_a_refused_tenant_goes_to_the_dead_letter_queue_and_the_others_go_on() {
    let mut bed = bed();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
    bed.setup.sink_keys.push("dlq: { reprocess: { interval: 1s, age_min: 0s } }".into());
    let mut product = bed.start();
    let of = |tenant, round: u64| numbered(&format!("{tenant} {round}"), 2);
    let large =
        |round| -> Vec<String> { (0..1000).map(|n| noise(round * 1000 + n, 1000)).collect() };
    const ROUNDS: u64 = 40;
    for round in 0..ROUNDS {
        for tenant in [SLOW, LOCKED] {
            push(&product, tenant, &[Pushed::now("a", of(tenant, round))]);
        }
        push(&product, WELL, &[Pushed::now("a", large(round))]);
        let expected = (round + 1) * 1000;
        eventually("the others go on", &product, || taken_of(&bed, WELL) >= expected);
        if round == ROUNDS / 2 {
            product.kill();
            product = bed.start();
        }
    }
    assert_refused(&bed);
    let dlq = get(&product, "/dlq/stats");
    assert!(dlq["entries"].as_u64() > Some(0), "{}", product.log());
    assert_eq!(dlq["queues"][0]["by_reason"]["held"], dlq["entries"], "{dlq}");
    bed.stub.heal();
    for tenant in [SLOW, LOCKED] {
        let expected: BTreeSet<String> = (0..ROUNDS).flat_map(|round| of(tenant, round)).collect();
        eventually("a tenant that was refused gets all", &product, || {
            stored(&bed, tenant).into_iter().collect::<BTreeSet<_>>() == expected
        });
    }
    eventually("the queue is empty", &product, || letters(&product) == 0);
    stop(product);
}

/// A single line that was tried so often that it waits for a time of its own.
#[test]
fn where_the_log_is_full_a_single_line_that_is_refused_goes_too() {
    let mut bed = bed();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    for tenant in [SLOW, LOCKED] {
        push(&product, tenant, &[Pushed::now("a", numbered(tenant, 1))]);
    }
    std::thread::sleep(std::time::Duration::from_secs(12));
    let large =
        |round| -> Vec<String> { (0..1000).map(|n| noise(round * 1000 + n, 1000)).collect() };
    for round in 0..30_u64 {
        eventually("there is room for the others", &product, || {
            try_push(&product, WELL, &[Pushed::now("a", large(round))])
        });
        let expected = (round + 1) * 1000;
        eventually("the others go on", &product, || taken_of(&bed, WELL) >= expected);
    }
    bed.stub.heal();
    stop(product);
}

/// Nothing of the others is in the log when it is full.
#[test]
fn a_tenant_that_is_refused_fills_the_log_and_the_others_go_on() {
    let mut bed = bed();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    let large = |round: u64, lines: u64| -> Vec<String> {
        (0..lines).map(|n| noise(round * 1000 + n, 1000)).collect()
    };
    push(&product, WELL, &[Pushed::now("a", numbered(WELL, 1))]);
    eventually("the others go on", &product, || taken_of(&bed, WELL) >= 1);
    // To the last block.
    for lines in [1000, 1] {
        let mut round = 0;
        while try_push(&product, LOCKED, &[Pushed::now("a", large(round, lines))]) {
            round += 1;
            assert!(round < 2000);
        }
    }
    eventually("there is room for the others", &product, || {
        try_push(&product, WELL, &[Pushed::now("a", numbered("more", 1))])
    });
    eventually("the others go on", &product, || taken_of(&bed, WELL) >= 2);
    bed.stub.heal();
    stop(product);
}

/// It is served, and no stream of it is taken: others have all that it may have.
#[test]
fn where_the_log_is_full_a_stream_that_is_limited_goes_too() {
    let mut bed = bed();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
    let text = "Maximum active stream limit exceeded, reduce the number of active streams".into();
    let (needle, rest_stored) = (SLOW.into(), false);
    bed.stub.set_faults(vec![Fault::Refuse { needle, status: 429, text, rest_stored }]);
    let product = bed.start();
    push(&product, SLOW, &[Pushed::now("a", numbered(SLOW, 2))]);
    let large =
        |round| -> Vec<String> { (0..1000).map(|n| noise(round * 1000 + n, 1000)).collect() };
    for round in 0..30_u64 {
        eventually("there is room for the others", &product, || {
            try_push(&product, WELL, &[Pushed::now("a", large(round))])
        });
        let expected = (round + 1) * 1000;
        eventually("the others go on", &product, || taken_of(&bed, WELL) >= expected);
    }
    assert_eq!(letters(&product), 2);
    bed.stub.heal();
    stop(product);
}
