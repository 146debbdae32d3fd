//! Loki's clock is not ours: what counts is whether Loki takes it.

use super::ask::{
    HOUR, Pushed, SECOND, letters, numbered, push, stored_of, text, wait_for_letters,
};
use crate::bed::{Bed, eventually, stop};
use bench::load::Rotation;
use bench::measure::now_ns;
use bench::stub::{Limits, Reason as Refused};
use log_capturer::dlq::Reason;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn what_is_too_old_by_lokis_clock_is_not_sent_and_what_is_not_arrives() {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push("age_max: 4h".into());
    bed.stub.set_limits(Limits { age_max: Duration::from_hours(4), ..Limits::loki() });
    bed.stub.set_clock_ahead(2 * 3600);
    let product = bed.start();
    // From the first answer on, its clock is known.
    push(&product, "", &[Pushed::now("a", ["first".into()])]);
    bed.entries(1);
    let now_ns = now_ns();
    let hours = |hours: i64| now_ns - hours * HOUR;
    push(
        &product,
        "",
        &[
            Pushed::at("a", hours(3), numbered("old by its clock", 20)),
            Pushed::at("b", hours(5), numbered("old by both", 20)),
            Pushed::at("c", hours(1), numbered("not old", 20)),
            Pushed::at("d", now_ns, numbered("new", 20)),
        ],
    );
    let records = wait_for_letters(&bed, &product, 40);
    for record in &records {
        assert_eq!((&record.reason, record.status), (&Reason::TooOld, None), "{record:?}");
    }
    let kept: BTreeSet<String> = records.iter().map(text).collect();
    let old = [numbered("old by its clock", 20), numbered("old by both", 20)].concat();
    assert_eq!(kept, old.into_iter().collect());
    bed.entries(41);
    assert_eq!(stored_of(&bed, "c"), numbered("not old", 20));
    assert_eq!(stored_of(&bed, "d"), numbered("new", 20));
    assert_eq!(bed.stub.stats().entries_refused, 0, "Loki saw none of them");
    // Nothing gets younger, and a clock that is set right again is seen.
    bed.stub.set_clock_ahead(0);
    push(&product, "", &[Pushed::at("e", now_ns, ["sees the clock".into()])]);
    bed.entries(42);
    push(&product, "", &[Pushed::at("f", hours(3), numbered("old by its clock", 20))]);
    bed.entries(62);
    assert_eq!(stored_of(&bed, "f"), numbered("old by its clock", 20));
    assert_eq!(letters(&product), 40);
    stop(product);
}

/// Its clock is not known before its first answer: what it refuses then, it says so itself.
#[test]
fn before_its_clock_is_known_loki_says_itself_what_is_too_old() {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push("age_max: 4h".into());
    bed.stub.set_limits(Limits { age_max: Duration::from_hours(4), ..Limits::loki() });
    bed.stub.set_clock_ahead(2 * 3600);
    let product = bed.start();
    let mut lines = Pushed::now("a", numbered("line", 20));
    lines.lines[7].0 -= 3 * HOUR;
    push(&product, "", &[lines]);
    let records = wait_for_letters(&bed, &product, 1);
    assert_eq!((text(&records[0]).as_str(), &records[0].reason), ("line 7", &Reason::TooOld));
    bed.entries(19);
    stop(product);
}

#[test]
fn a_skew_of_either_kind_loses_no_good_line() {
    // Behind by less than the future that Loki takes: ten minutes.
    for ahead_s in [3600, 24 * 3600, 20, -20, -540] {
        let bed = Bed::new();
        bed.stub.set_clock_ahead(ahead_s);
        let product = bed.start();
        let written = bed.writer(20_000, 5_000, Rotation::Never).wait().unwrap();
        bed.assert_exactly_once(&written);
        assert_eq!(letters(&product), 0, "{ahead_s}");
        assert_eq!(bed.stub.stats().entries_refused, 0, "{ahead_s}");
        stop(product);
    }
}

/// To such a clock our lines come from the future: they are kept until it is set.
#[test]
fn a_clock_that_is_far_behind_loses_no_line() {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push("dlq: { reprocess: { interval: 1s, age_min: 0s } }".into());
    bed.stub.set_clock_ahead(-5 * 3600);
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("line", 50))]);
    eventually("they are kept", &product, || letters(&product) == 50);
    assert!(bed.stub.stats().refused[&Refused::TooNew] >= 50);
    bed.stub.set_clock_ahead(0);
    eventually("they are sent again", &product, || letters(&product) == 0);
    bed.entries(50);
    assert_eq!(stored_of(&bed, "a"), numbered("line", 50), "in order");
    assert!(bed.stub.entries().iter().all(|entry| now_ns() - entry.timestamp_ns < 300 * SECOND));
    stop(product);
}

/// The wall clock of this host is set back and forward by two hours while lines come, and over a kill.
#[test]
fn a_clock_that_jumps_leaves_streams_in_their_order_and_loses_nothing() {
    const FAKE: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !std::path::Path::new(FAKE).exists() {
        eprintln!("skipped: there is no {FAKE} (package faketime)");
        return;
    }
    let mut bed = Bed::new();
    let offset = bed.setup.dir.join("offset");
    let set = |text: &str| std::fs::write(&offset, text).unwrap();
    let env = [
        ("LD_PRELOAD", FAKE),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // Timers go on as they do: no clock of theirs can be set.
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    bed.setup.env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    bed.setup.sink_keys.push("limits: { future_max: 24h }".into());
    bed.stub.set_limits(Limits { ahead_max: Duration::from_hours(24), ..Limits::loki() });
    set("+0");
    let mut product = bed.start();
    let mut count = 0;
    for (round, clock) in ["+0", "-7200", "+0", "+7200", "-7200", "+0"].into_iter().enumerate() {
        set(clock);
        if round == 4 {
            product.kill();
            product = bed.start();
        }
        for _ in 0..40 {
            bed.append("app.log", format!("line {count}\n"));
            count += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        bed.lines(count);
    }
    let mut entries = bed.stub.entries();
    entries.sort_by_key(|entry| entry.timestamp_ns);
    let stamps: Vec<i64> = entries.iter().map(|entry| entry.timestamp_ns).collect();
    assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "no two have one timestamp");
    let lines: Vec<String> =
        entries.into_iter().map(|entry| String::from_utf8(entry.line).unwrap()).collect();
    assert_eq!(lines, numbered("line", count), "in their order");
    // It was set forward, and that was seen.
    assert!(stamps[count - 1] > now_ns() + HOUR, "{}", stamps[count - 1]);
    assert_eq!(letters(&product), 0);
    stop(product);
}
