//! What the product shows of itself, as those see it who watch it.

use crate::bed::{Bed, eventually, stop};

#[test]
fn a_canary_measures_the_whole_way_where_nobody_logs() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: 2 }".into();
    bed.setup.more =
        vec!["canary: { enabled: true, interval: 100ms, labels: { job: bird } }".into()];
    let product = bed.start();
    let of = |shard: usize| format!("{{job=\"bird\", shard=\"{shard}\"}}");
    let lines = |shard: usize| {
        let entries = bed.stub.entries();
        let own = entries.iter().filter(|entry| entry.labels == of(shard));
        own.map(|entry| String::from_utf8_lossy(&entry.line).into_owned()).collect::<Vec<_>>()
    };
    eventually("each shard has sent some", &product, || {
        (0..2).all(|shard| lines(shard).len() >= 5)
    });
    for shard in 0..2 {
        let expected = (1..).map(|number| format!("canary shard={shard} number={number}"));
        assert!(lines(shard).into_iter().zip(expected).all(|(line, expected)| line == expected));
    }
    eventually("the way was measured", &product, || {
        product.metric("log_capturer_source_to_ack_seconds_count").unwrap() >= 10.0
    });
    assert!(product.metric("log_capturer_canary_lines_total").unwrap() >= 10.0);
    assert_eq!(
        product.metric("log_capturer_logs_processed_total").unwrap(),
        0.0,
        "they are no logs"
    );
    stop(product);
}
