//! Rates, the quota and the disk at their end.

use super::client::{Answer, Client, MIB, RAW, assert_told_to_wait, missing, noise};
use crate::bed::{Bed, eventually, stop};
use crate::crash::disks::Mounted;
use bench::product::Product;
use bench::stub::Away;
use std::net::Ipv4Addr;

/// Posts what uses up some seconds of 1 KiB a second.
fn post_much(product: &Product, source: Ipv4Addr) -> Answer {
    let answer = Client::from(source, product.api).post(RAW, "", "x".repeat(4000));
    answer.expect("an answer")
}

#[test]
fn who_sends_too_fast_is_told_how_long_to_wait_and_then_passes() {
    const OTHERS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];
    for (key, others_pass) in [("client_rate_max: 1KiB", true), ("rate_max: 1KiB", false)] {
        let mut bed = Bed::new();
        bed.setup.server_keys = vec![key.into()];
        let product = bed.start();
        assert_eq!(post_much(&product, Ipv4Addr::LOCALHOST).status, 204);
        assert_told_to_wait(&post_much(&product, Ipv4Addr::LOCALHOST), 429);
        // Some may share a cell by chance; all of them never do.
        let others = OTHERS.map(|other| post_much(&product, other).status);
        assert_eq!(others.contains(&204), others_pass, "{key}: {others:?}");
        let mut client = Client::connect(product.api);
        assert_eq!(client.get("/ready").expect("an answer").status, 200);
        eventually("it passes again", &product, || {
            client.post(RAW, "", "after a while").expect("an answer").status == 204
        });
        bed.entries(2);
        stop(product);
    }
}

/// Posts until there is no room; gives what was answered with success, and the refusal.
fn fill(product: &Product) -> (Vec<String>, Answer) {
    let mut client = Client::connect(product.api);
    let mut answered = Vec::new();
    for number in 0..5_000 {
        let line = noise(number, 200_000);
        let answer = client.post(RAW, "", &line).expect("an answer");
        if answer.status != 204 {
            return (answered, answer);
        }
        answered.push(line);
    }
    panic!("it never fills: {}", product.log());
}

/// Without room it says so and answers questions; with room again, what was answered arrives.
fn assert_fills_and_recovers(bed: &Bed, product: &Product) {
    bed.stub.go_away(Away::Refusing);
    let (answered, refusal) = fill(product);
    assert_told_to_wait(&refusal, 503);
    assert!(answered.len() > 10, "{}", answered.len());
    assert_eq!(product.metric("log_capturer_wal_full").unwrap(), 1.0);
    let mut client = Client::connect(product.api);
    assert_eq!(client.get("/ready").expect("an answer").status, 200);
    eventually("its health is critical", product, || {
        client.get("/health").expect("an answer").status == 503
    });
    bed.stub.heal();
    eventually("what was answered arrives", product, || missing(bed, &answered) == 0);
    eventually("posting works again", product, || {
        client.post(RAW, "", "room again").expect("an answer").status == 204
    });
    eventually("and arrives", product, || missing(bed, &["room again".to_owned()]) == 0);
    eventually("it is not full", product, || {
        product.metric("log_capturer_wal_full").unwrap() == 0.0
    });
}

#[test]
fn with_the_quota_used_up_posts_are_told_to_wait_and_none_that_was_taken_is_lost() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    assert_fills_and_recovers(&bed, &product);
    stop(product);
}

#[test]
fn with_the_disk_full_posts_are_told_to_wait_and_none_that_was_taken_is_lost() {
    let mut bed = Bed::new();
    let image = bed.setup.dir.join("disk");
    let _mounted = match Mounted::ext4(&image, &bed.setup.data_dir(), 32 * MIB) {
        Ok(mounted) => mounted,
        Err(reason) => {
            eprintln!("skipped: no small file system can be mounted: {reason}");
            return;
        }
    };
    bed.setup.wal = "{ segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    assert_fills_and_recovers(&bed, &product);
    stop(product);
}
