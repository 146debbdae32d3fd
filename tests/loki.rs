//! Against a real Loki, where LOKI_URL names one (such as http://127.0.0.1:3100); skipped where not.

use crate::bed::{BINARY, PATIENCE, eventually, stop};
use bench::load::{self, Rotation, Workload, Writer};
use bench::measure::now_ns;
use bench::product::{Product, Setup};
use std::path::Path;
use std::sync::Arc;

#[test]
fn what_is_written_is_queried_back_complete_in_order_and_with_its_labels() {
    let Ok(url) = std::env::var("LOKI_URL") else {
        eprintln!("skipped: LOKI_URL is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let start_ns = now_ns();
    let mut setup = Setup::new(Path::new(BINARY), dir.path(), &url);
    setup.file_keys = vec![format!("labels: {{ job: test, run: \"{start_ns}\" }}")];
    setup.sink_keys = vec!["labels: { host: \"a\\\"b\\\\c\" }".into()];
    let product = Product::start(&setup).unwrap();
    let text = Workload::service().text;
    let writer = Writer::start(load::Options {
        dir: setup.logs(),
        text: Arc::clone(&text),
        files: 3,
        rate: 20_000,
        lines: 60_000,
        seed: 11,
        first_sequence: 0,
        lines_per_write: 1,
        rotation: Rotation::Rename { lines: 5_000, keep: 3 },
    });
    let mut written = writer.unwrap().wait().unwrap();
    // What Loki may choke on, as lines of a fourth writer.
    let mut odd = Vec::new();
    load::Lines::new(&text, 1, 3).next(start_ns, &mut odd);
    std::fs::write(setup.logs().join("odd.log"), &odd).unwrap();
    written.lines.push(1);
    let all = written.lines_in_all() as f64;
    let sent = || product.metric("log_capturer_push_entries_total").unwrap();
    eventually("all lines are accepted", &product, || sent() >= all);
    stop(product);

    let selector = format!("{{run=\"{start_ns}\"}}");
    let start = std::time::Instant::now();
    let entries = loop {
        let entries = bench::loki::query(&url, &selector, start_ns).unwrap();
        if entries.len() as u64 >= written.lines_in_all() || start.elapsed() > PATIENCE {
            break entries;
        }
    };
    let verified = bench::loki::verify(&entries, &written);
    assert!(verified.exactly_once(), "{verified:#?}");
    for entry in &entries {
        assert_eq!(entry.labels["job"], "test");
        assert_eq!(entry.labels["host"], "a\"b\\c");
        assert!(entry.labels["filename"].starts_with(&setup.logs().display().to_string()));
    }
    let streams: std::collections::BTreeSet<_> = entries.iter().map(|e| &e.labels).collect();
    assert_eq!(streams.len(), 4);
}
