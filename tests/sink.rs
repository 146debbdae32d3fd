//! Whatever Loki answers, or does not: nothing is lost, and what can pass passes.

use crate::bed::{Bed, eventually, stop};
use bench::load::{Rotation, Written};
use bench::stub::{Away, Fault, Limits, Rate, Reason};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

fn write(bed: &Bed, lines: u64) -> Written {
    bed.writer(20_000, lines, Rotation::Never).wait().unwrap()
}

#[test]
fn failures_that_pass_lose_nothing() {
    let bed = Bed::new();
    let product = bed.start();
    let writer = bed.writer(10_000, 30_000, Rotation::Never);
    let faults = [
        Fault::answer(500, "sick\n"),
        Fault::answer(503, "overloaded\n"),
        Fault::Answer { status: 429, text: "slow down\n".into(), retry_after: Some("1".into()) },
        Fault::answer(502, "<html>bad gateway</html>"),
        Fault::answer(504, ""),
        Fault::Reset,
        Fault::answer(408, "too slow\n"),
    ];
    let count = faults.len() as u64;
    for fault in faults {
        bed.stub.script_fault(fault, 1);
    }
    let written = writer.wait().unwrap();
    let verified = bed.assert_complete(&written);
    assert_eq!(verified.repeated, 0, "nothing was stored by those that failed");
    let faults = bed.stub.stats().faults;
    assert_eq!(faults.answered + faults.reset, count);
    // A reset of a connection that was kept is no failure: the push goes out on a new one at once.
    let retried = product.metric(r#"log_capturer_pushes_total{verdict="retried"}"#).unwrap();
    assert!((count as f64 - 1.0..=count as f64).contains(&retried), "{retried} of {count}");
    stop(product);
}

#[test]
fn a_push_whose_answer_is_lost_shows_once() {
    let bed = Bed::new();
    let product = bed.start();
    bed.stub.script_fault(Fault::LostAnswer, 5);
    let written = write(&bed, 20_000);
    let verified = bed.assert_complete(&written);
    assert!(verified.repeated > 0, "it was sent again");
    assert_eq!(verified.repeated_visibly, 0, "byte for byte");
    assert_eq!(bed.stub.stats().faults.answers_lost, 5);
    stop(product);
}

#[test]
fn while_the_sink_refuses_service_everything_is_kept() {
    for status in [260, 401, 403, 404, 201, 302] {
        let bed = Bed::new();
        let product = bed.start();
        bed.stub.set_fault(Fault::answer(status, "not now\n"));
        let written = write(&bed, 2_000);
        let held = r#"log_capturer_pushes_total{verdict="held"}"#;
        eventually("a push is held", &product, || product.metric(held).unwrap() > 0.0);
        assert_eq!(bed.stub.stats().received, 0);
        assert!(product.log().contains("the sink refuses pushes"), "{}", product.log());
        bed.stub.heal();
        bed.assert_exactly_once(&written);
        stop(product);
    }
}

#[test]
fn through_an_outage_memory_holds_no_more_than_its_share_and_order_is_kept() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    let writer = bed.writer(50_000, 200_000, Rotation::Rename { lines: 20_000, keep: 10 });
    std::thread::sleep(Duration::from_millis(500));
    bed.stub.go_away(Away::Refusing);
    let written = writer.wait().unwrap();
    bed.stub.heal();
    bed.assert_complete(&written);
    let read_back = product.metric("log_capturer_backlog_frames_total").unwrap();
    assert!(read_back > 0.0, "the log was read back");
    let peak = product.usage().unwrap().rss_peak_bytes;
    assert!(peak < 100 << 20, "{peak} bytes");
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    stop(product);
}

#[test]
fn a_full_quota_makes_sources_wait_and_loses_nothing() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    bed.stub.go_away(Away::Refusing);
    let product = bed.start();
    let corpus = bed.corpus(400_000, 2);
    let full = || product.metric("log_capturer_wal_full").unwrap();
    eventually("the quota is used up", &product, || full() == 1.0);
    let log_bytes = product.metric("log_capturer_wal_bytes").unwrap();
    assert!(log_bytes <= f64::from(16 << 20), "{log_bytes}");
    assert!(product.is_ready(), "it waits, and that is no failure");
    bed.stub.heal();
    bed.assert_exactly_once(&corpus.written);
    eventually("it is not full any more", &product, || full() == 0.0);
    stop(product);
}

#[test]
fn a_silent_sink_is_given_up_in_time() {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push("timeout: 300ms".into());
    let product = bed.start();
    bed.stub.go_away(Away::Silent);
    let written = write(&bed, 2_000);
    let retried = r#"log_capturer_pushes_total{verdict="retried"}"#;
    eventually("it is tried again", &product, || product.metric(retried).unwrap() >= 2.0);
    bed.stub.heal();
    bed.assert_complete(&written);
    stop(product);
}

/// Answers one request with `answer`, again and again, until the connection breaks; gives the head
/// of the first.
fn serve_once(listener: &TcpListener, answer: &[u8], times: usize) -> String {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let lower = head.to_lowercase();
    let length = lower.split_once("content-length: ").expect("it has a length").1;
    let length: usize = length.split_once('\r').unwrap().0.parse().unwrap();
    reader.read_exact(&mut vec![0; length]).unwrap();
    for _ in 0..times {
        if (&stream).write_all(answer).is_err() {
            break;
        }
    }
    lower
}

#[test]
fn a_push_is_what_loki_expects_and_an_endless_answer_ends() {
    let mut bed = Bed::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    bed.setup.url = format!("http://{}/prefix", listener.local_addr().unwrap());
    bed.setup.sink_keys.push("tenant: team-a".into());
    let product = bed.start();
    bed.append("a.log", "x\n");
    // Ten gigabytes of an error, if anyone wants to read them.
    let mut answer = b"HTTP/1.1 500 oh\r\ncontent-length: 10000000000\r\n\r\n".to_vec();
    answer.resize(1 << 20, b'x');
    let head = serve_once(&listener, &answer, 10_000);
    assert!(head.starts_with("post /prefix/loki/api/v1/push http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
    assert!(head.contains("\r\nx-scope-orgid: team-a\r\n"), "{head}");
    // Then garbage, then an answer with a body where there should be none.
    serve_once(&listener, b"\x16\x03\x01 garbage\r\n\r\n", 1);
    serve_once(&listener, b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc", 1);
    let accepted = r#"log_capturer_pushes_total{verdict="accepted"}"#;
    eventually("it is accepted", &product, || product.metric(accepted).unwrap() == 1.0);
    assert!(product.usage().unwrap().rss_peak_bytes < 60 << 20);
    stop(product);
}

#[test]
fn what_is_too_much_for_one_push_is_sent_in_parts_and_the_size_is_learned() {
    let bed = Bed::new();
    let product = bed.start();
    // More than the tenant's burst in one push is answered 429, however often it is tried.
    let rate = Rate { bytes_per_second: 1 << 30, burst_bytes: 100 << 10 };
    bed.stub.set_limits(Limits { tenant_rate: Some(rate), ..Limits::loki() });
    bed.stub.go_away(Away::Refusing);
    let written = write(&bed, 60_000);
    bed.stub.come_back();
    bed.assert_complete(&written);
    let stats = bed.stub.stats();
    let over = stats.refused.get(&Reason::TenantRate).copied().unwrap_or(0);
    assert!(over > 0, "it was too much");
    assert_eq!(product.metric("log_capturer_dlq_stored_total").unwrap(), 0.0);
    let failed = stats.arrived - stats.pushes_stored;
    // Each shard finds it out for itself.
    assert!(failed <= 24, "{failed} of {} pushes failed before the size was known", stats.arrived);
    stop(product);
}
