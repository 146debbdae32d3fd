//! Several sinks, several tenants: none is held up by another, and each gets everything.

use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::load::Rotation;
use bench::product::Product;
use bench::stub::{Accounting, Away, Fault, Options, Stub};

fn push(product: &Product, tenant: &str, line: &str) {
    let url = format!("http://{}/loki/api/v1/raw?job=a", product.api);
    let request = ureq::post(url).header("x-scope-orgid", tenant);
    let answer = request.header("content-type", "text/plain").send(line).unwrap();
    assert_eq!(answer.status(), 204);
}

fn texts(bed: &Bed, tenant: &str) -> Vec<String> {
    let mut of: Vec<_> =
        bed.stub.entries().into_iter().filter(|entry| entry.tenant == tenant).collect();
    of.sort_by_key(|entry| entry.timestamp_ns);
    of.into_iter().map(|entry| String::from_utf8(entry.line).unwrap()).collect()
}

#[test]
fn a_sink_that_is_away_holds_up_no_other_and_gets_everything_later() {
    let mut bed = Bed::new();
    let far =
        Stub::start(Options { keep_entries: 10, ..Options::new(Accounting::PerLine) }).unwrap();
    let url = far.url();
    bed.setup
        .sink_keys
        .push(format!("timeout: 2s\n  far:\n    type: loki\n    url: {url:?}\n    linger: 5ms"));
    bed.setup.drain_timeout = "1s".into();
    far.go_away(Away::Refusing);
    let product = bed.start();
    let written = bed.writer(20_000, 40_000, Rotation::Never).wait().unwrap();
    bed.assert_complete(&written);
    product.kill();
    let product = bed.start();
    far.heal();
    let lines = written.lines_in_all();
    assert!(far.wait_for_lines(lines, PATIENCE), "{:?}\n{}", far.stats(), bed.product_log());
    let verified = far.verify(&written);
    assert!(verified.complete(), "{verified:#?}");
    bed.assert_complete(&written);
    stop(product);
}

#[test]
fn a_tenant_that_is_refused_holds_up_no_other_whatever_happens() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    bed.setup.cores = "{ shards: 1 }".into();
    bed.setup.drain_timeout = "1s".into();
    bed.stub.set_fault(Fault::Tenant { tenant: "sick".into(), status: 403 });
    let product = bed.start();
    // More frames than are ever under way, each of them small.
    let sick: Vec<String> = (0..1500).map(|n| format!("s{n}")).collect();
    sick.iter().for_each(|line| push(&product, "sick", line));
    let mut well: Vec<String> = (0..50).map(|n| format!("w{n}")).collect();
    well.iter().for_each(|line| push(&product, "well", line));
    eventually("the other gets its lines", &product, || texts(&bed, "well") == well);
    product.kill();
    let product = bed.start();
    push(&product, "well", "again");
    well.push("again".into());
    eventually("it goes on", &product, || texts(&bed, "well") == well);
    // Its position alone is behind now, and nothing newer is sent before it is acked.
    std::thread::sleep(std::time::Duration::from_secs(3));
    product.kill();
    bed.stub.heal();
    let product = bed.start();
    eventually("and so does the sick one", &product, || texts(&bed, "sick") == sick);
    assert_eq!(texts(&bed, "well"), well);
    stop(product);
}

/// As above, for longer than the log lasts.
#[test]
fn a_sink_that_is_away_for_longer_than_the_log_lasts_holds_up_no_other() {
    let mut bed = Bed::new();
    let far =
        Stub::start(Options { keep_entries: 10, ..Options::new(Accounting::PerLine) }).unwrap();
    let url = far.url();
    bed.setup.sink_keys.push(format!(
        "timeout: 2s\n  far:\n    type: loki\n    url: {url:?}\n    linger: 5ms\n    \
         dlq: {{ reprocess: {{ interval: 1s, age_min: 0s }} }}"
    ));
    bed.setup.drain_timeout = "1s".into();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
    far.go_away(Away::Refusing);
    let product = bed.start();
    let written = bed.writer(100_000, 600_000, Rotation::Never).wait().unwrap();
    bed.assert_complete(&written);
    let written_bytes = product.metric("log_capturer_frame_body_bytes_total").unwrap();
    assert!(written_bytes > (20 << 20) as f64, "{written_bytes} is not more than the log holds");
    product.kill();
    let product = bed.start();
    far.heal();
    let lines = written.lines_in_all();
    assert!(far.wait_for_lines(lines, PATIENCE), "{:?}\n{}", far.stats(), bed.product_log());
    let verified = far.verify(&written);
    assert_eq!((verified.lost, verified.corrupted, verified.unwritten), (0, 0, 0), "{verified:#?}");
    bed.assert_complete(&written);
    stop(product);
}
