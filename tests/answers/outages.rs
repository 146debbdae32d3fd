//! Loki fails, and the product is restarted meanwhile; one sink fails and the other does not.

use super::ask::{letters, line, order, wait_for_letters};
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::load::{Rotation, Written};
use bench::stub::{Accounting, Away, Fault, Options, Stub};

fn write(bed: &Bed, lines: u64) -> Written {
    bed.writer(20_000, lines, Rotation::Never).wait().unwrap()
}

#[test]
fn killed_while_loki_answers_500_nothing_is_lost_or_repeated() {
    let bed = Bed::new();
    bed.stub.set_fault(Fault::answer(500, "sick\n"));
    let product = bed.start();
    let written = write(&bed, 20_000);
    let answered = |stats: &bench::stub::Stats| stats.faults.answered >= 3;
    assert!(bed.stub.wait_until(PATIENCE, answered));
    product.kill();
    let product = bed.start();
    let before = bed.stub.stats().faults.answered;
    let again = |stats: &bench::stub::Stats| stats.faults.answered > before;
    assert!(bed.stub.wait_until(PATIENCE, again), "{}", product.log());
    assert_eq!(bed.stub.stats().received, 0);
    bed.stub.heal();
    bed.assert_exactly_once(&written);
    assert_eq!(letters(&product), 0);
    stop(product);
}

/// What is stored and answered 500 all the same is sent again, and a query shows it once.
#[test]
fn killed_while_loki_stores_and_answers_500_everything_shows_once() {
    let bed = Bed::new();
    let product = bed.start();
    bed.stub.set_fault(Fault::StoredAnswer { status: 500, text: "too late\n".into() });
    let written = write(&bed, 5_000);
    let answered = |stats: &bench::stub::Stats| stats.faults.answered_stored >= 3;
    assert!(bed.stub.wait_until(PATIENCE, answered));
    product.kill();
    let product = bed.start();
    bed.stub.heal();
    let verified = bed.assert_complete(&written);
    assert!(verified.repeated > 0);
    stop(product);
}

#[test]
fn stopped_while_loki_always_answers_429_nothing_is_lost() {
    let mut bed = Bed::new();
    bed.setup.drain_timeout = "2s".into();
    let limited = "ingestion rate limit exceeded for user fake\n";
    bed.stub.set_fault(Fault::answer(429, limited));
    let mut product = bed.start();
    let written = write(&bed, 20_000);
    for _ in 0..3 {
        let before = bed.stub.stats().faults.answered;
        let again = |stats: &bench::stub::Stats| stats.faults.answered > before;
        assert!(bed.stub.wait_until(PATIENCE, again), "{}", product.log());
        stop(product);
        product = bed.start();
    }
    assert_eq!(bed.stub.stats().received, 0);
    bed.stub.heal();
    bed.assert_exactly_once(&written);
    assert_eq!(letters(&product), 0);
    stop(product);
}

/// A second sink, and the receiver behind it.
fn second_sink(bed: &mut Bed, keys: &str) -> Stub {
    let options = Options { keep_entries: 100_000, ..Options::new(Accounting::PerLine) };
    let other = Stub::start(options).unwrap();
    let url = other.url();
    let sink = format!("other: {{ type: loki, url: {url:?}, linger: 5ms, {keys} }}");
    bed.setup.more_sinks.push(sink);
    other
}

#[test]
fn a_black_hole_of_a_sink_takes_nothing_from_the_other_and_gets_everything_in_the_end() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ ring_bytes_max: 1MiB }".into();
    bed.setup.drain_timeout = "2s".into();
    let other = second_sink(&mut bed, "timeout: 500ms");
    other.go_away(Away::Silent);
    let mut product = bed.start();
    let mut lines = 0;
    for round in 0..3_u64 {
        // One line after the other, each of them waited for.
        for n in 0..20 {
            bed.append("waits.log", format!("{round} {n}\n"));
            lines += 1;
            let arrived = bed.stub.wait_until(PATIENCE, |stats| stats.unmarked >= lines);
            assert!(arrived, "line {n} of round {round}\n{}", product.log());
        }
        if round == 0 {
            // More than memory holds.
            let corpus = bed.corpus(60_000, 2);
            let all = bed.stub.wait_for_lines(corpus.written.lines_in_all(), PATIENCE);
            assert!(all, "{:?}\n{}", bed.stub.stats(), product.log());
            assert!(bed.stub.verify(&corpus.written).lost == 0);
        }
        assert_eq!(other.stats().entries, 0, "it is a black hole");
        if round < 2 {
            stop(product);
            product = bed.start();
        }
    }
    let faults = other.stats().faults;
    assert!(faults.swallowed > 0, "{faults:?}");
    let received = bed.stub.stats();
    assert_eq!((received.repeated, received.unmarked_repeated), (0, 0), "nothing is sent again");
    other.heal();
    let all = other.wait_until(PATIENCE, |stats| {
        stats.received >= received.received && stats.unmarked >= lines
    });
    assert!(all, "{:?}\n{}", other.stats(), product.log());
    let of = |stub: &Stub| -> Vec<String> {
        let entries = stub.entries();
        entries.iter().filter(|e| e.labels.contains("waits.log")).map(line).collect()
    };
    let waited: Vec<String> =
        (0..3).flat_map(|r| (0..20).map(move |n| format!("{r} {n}"))).collect();
    assert_eq!((of(&bed.stub), of(&other)), (waited.clone(), waited));
    let stats = other.stats();
    assert_eq!((stats.out_of_order, stats.repeated_visibly, stats.corrupted), (0, 0, 0));
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    stop(product);
}

#[test]
fn each_sink_has_a_dead_letter_queue_of_its_own() {
    let mut bed = Bed::new();
    let other = second_sink(&mut bed, "dlq: { reprocess: { attempts_max: 0 } }");
    let text = "no\n".to_owned();
    let (needle, rest_stored) = ("bad".to_owned(), true);
    other.set_fault(Fault::Refuse { needle, status: 400, text, rest_stored });
    let product = bed.start();
    bed.append("a.log", "good\nbad\ngood too\n");
    assert_eq!(bed.texts(3), ["good", "bad", "good too"]);
    let records = wait_for_letters(&bed, &product, 1);
    assert_eq!((records[0].sink.as_str(), records[0].line.as_slice()), ("other", &b"bad"[..]));
    assert!(other.wait_until(PATIENCE, |stats| stats.unmarked - stats.unmarked_repeated >= 2));
    other.heal();
    let body = r#"{ "filter": ["sink=loki"] }"#;
    assert_eq!(order(&product, "/dlq/reprocess", body).1["entries"], 0);
    let body = r#"{ "filter": ["sink=other"] }"#;
    assert_eq!(order(&product, "/dlq/reprocess", body).1["entries"], 1);
    eventually("it is accepted", &product, || letters(&product) == 0);
    assert_eq!(other.entries().len(), 3);
    assert_eq!(bed.stub.stats().unmarked, 3, "nothing of it is the other's");
    stop(product);
}
