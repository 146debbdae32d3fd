//! Streams of which Loki refuses something: they hold up no other, and what Loki hides is not sent
//! where it could hide it.

use super::ask::{
    HOUR, Pushed, letters, line, make_known, numbered, push, stored_of, text, wait_for_letters,
};
use crate::abuse::client::noise;
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::load::{self, Rotation, Workload, Writer};
use bench::measure::now_ns;
use bench::stub::{
    Accounting, Away, Fault, Limits, Options, Rate, Reason as Refused, Stub, Travels,
};
use log_capturer::dlq::{Reason, Record};
use std::collections::BTreeSet;
use std::time::Duration;

fn job(name: &str) -> String {
    format!("{{job=\"{name}\"}}")
}

#[test]
fn while_many_lines_of_one_stream_are_refused_one_by_one_the_others_go_on() {
    const BAD: usize = 150;
    let bed = Bed::new();
    let product = bed.start();
    make_known(&bed, &product, &["sick", "well"]);
    let said = "stream '{labels}' has a bad line\n".to_owned();
    let (needle, rest_stored) = ("bad".to_owned(), false);
    bed.stub.set_faults(vec![
        Fault::Delay(Duration::from_millis(10)),
        Fault::Refuse { needle, status: 400, text: said, rest_stored },
    ]);
    let mut sick: Vec<String> =
        (0..BAD).flat_map(|n| [format!("bad {n}"), format!("good {n}")]).collect();
    sick.push("the end".into());
    push(&product, "", &[Pushed::now("sick", sick), Pushed::now("well", ["second".into()])]);
    let mut passed = 0;
    // Each is waited for, while the other stream is being looked through.
    while stored_of(&bed, "sick").last().is_none_or(|line| line != "the end") {
        push(&product, "", &[Pushed::now("well", [format!("passes {passed}")])]);
        passed += 1;
        let expected = 2 + passed;
        eventually("it passes", &product, || stored_of(&bed, "well").len() >= expected);
    }
    let records = wait_for_letters(&bed, &product, BAD as u64);
    let refused: BTreeSet<String> = records.iter().map(text).collect();
    assert_eq!(refused, numbered("bad", BAD).into_iter().collect());
    let good = stored_of(&bed, "sick");
    assert_eq!(good[1..=BAD], numbered("good", BAD), "in order");
    // By the order in which they came.
    let entries: Vec<String> = bed.stub.entries().iter().map(line).collect();
    let at = |wanted: &str| entries.iter().position(|line| line == wanted).unwrap();
    let meanwhile = entries[at("good 0")..at("the end")].iter();
    let meanwhile = meanwhile.filter(|line| line.starts_with("passes")).count();
    let faults = bed.stub.stats().faults;
    println!("{} pushes were refused, {meanwhile} lines passed meanwhile", faults.refused);
    assert!(faults.refused >= BAD as u64 && faults.delayed > 0);
    assert!(meanwhile >= 20, "{meanwhile} of {passed} lines passed meanwhile");
    stop(product);
}

/// Lines of as many files as given, each a stream of its own.
fn write_files(bed: &Bed, files: u32, lines: u64) -> load::Written {
    Writer::start(load::Options {
        dir: bed.setup.logs(),
        text: Workload::service().text,
        files,
        rate: 20_000,
        lines,
        seed: 7,
        first_sequence: 0,
        lines_per_write: 1,
        rotation: Rotation::Never,
    })
    .unwrap()
    .wait()
    .unwrap()
}

/// No error of one stream hid behind another stream's success, and every stream was created alone.
fn assert_nothing_was_hidden(bed: &Bed) {
    let stats = bed.stub.stats();
    assert_eq!(stats.entries_hidden, 0, "{stats:?} {:#?}", bed.stub.all_travels());
    for ((_, labels), Travels { created_alone, alone_first, .. }) in bed.stub.all_travels() {
        assert!(created_alone != Some(false), "{labels} was created in company");
        assert!(alone_first > 0, "{labels} first travelled in company");
    }
}

#[test]
fn new_streams_travel_alone_and_those_beyond_lokis_number_get_in_once_there_is_room() {
    let bed = Bed::new();
    bed.stub.set_limits(Limits { streams_max: 4, ..Limits::loki() });
    let product = bed.start();
    let written = write_files(&bed, 10, 5_000);
    let limited = |stats: &bench::stub::Stats| {
        let refused = stats.refused.get(&Refused::StreamLimit).copied().unwrap_or(0);
        refused > 0 && stats.received >= 4 * 500
    };
    let reached = bed.stub.wait_until(PATIENCE, limited);
    assert!(reached, "{:?}\n{}", bed.stub.stats(), product.log());
    assert_eq!(bed.stub.streams().len(), 4);
    bed.stub.set_limits(Limits::loki());
    bed.assert_complete(&written);
    assert_eq!(bed.stub.streams().len(), 10);
    assert_nothing_was_hidden(&bed);
    assert_eq!(letters(&product), 0);
    stop(product);
}

#[test]
fn what_stays_beyond_lokis_number_of_streams_ends_in_the_dead_letter_queue() {
    const STREAMS: usize = 8;
    const KNOWN: usize = 3;
    let bed = Bed::new();
    bed.stub.set_limits(Limits { streams_max: KNOWN, ..Limits::loki() });
    let product = bed.start();
    let jobs: Vec<String> = (0..STREAMS).map(|n| format!("job-{n}")).collect();
    make_known(&bed, &product, &["job-0", "job-1", "job-2"]);
    let all: Vec<Pushed> = jobs.iter().map(|job| Pushed::now(job, numbered(job, 50))).collect();
    push(&product, "", &all);
    let expected = ((STREAMS - KNOWN) * 50) as u64;
    let mut passed = 0;
    eventually("they are given up", &product, || {
        push(&product, "", &[Pushed::now("job-0", [format!("passes {passed}")])]);
        passed += 1;
        std::thread::sleep(Duration::from_millis(100));
        letters(&product) >= expected
    });
    let records = wait_for_letters(&bed, &product, expected);
    let said = |record: &Record| record.text.starts_with("Maximum active stream limit exceeded");
    assert!(records.iter().all(|of| of.reason == Reason::StreamLimited && said(of)));
    let refused: BTreeSet<String> = records.iter().map(text).collect();
    let of = |jobs: &[String]| jobs.iter().flat_map(|job| numbered(job, 50)).collect();
    assert_eq!(refused, of(&jobs[KNOWN..]));
    bed.entries(KNOWN * 51 + passed);
    for job in &jobs[..KNOWN] {
        assert_eq!(stored_of(&bed, job)[1..=50], numbered(job, 50));
    }
    assert!(bed.stub.stats().refused[&Refused::StreamLimit] > 0);
    assert_nothing_was_hidden(&bed);
    for refused in &jobs[KNOWN..] {
        assert_eq!(bed.stub.travels("", &job(refused)).together, 0, "{refused}");
    }
    stop(product);
}

#[test]
fn a_stream_above_half_of_lokis_rate_travels_alone_and_none_of_its_lines_is_hidden() {
    let mut bed = Bed::new();
    let rate = Rate { bytes_per_second: 512 << 10, burst_bytes: 512 << 10 };
    bed.stub.set_limits(Limits { stream_rate: Some(rate), ..Limits::loki() });
    bed.setup.sink_keys.push("push_bytes_max: 64KiB".into());
    bed.setup.sink_keys.push("limits: { stream_rate: 512KiB }".into());
    let product = bed.start();
    make_known(&bed, &product, &["slow", "calm"]);
    // Two hot files, above the rate together with what is pushed, and streams in company.
    let hot = bed.writer(10_000, 20_000, Rotation::Never);
    let mut passed = 0;
    let pushes = |passed: &mut usize| {
        let lines = |job| Pushed::now(job, [format!("passes {passed}")]);
        push(&product, "", &[lines("slow"), lines("calm")]);
        *passed += 1;
        std::thread::sleep(Duration::from_millis(20));
    };
    while !bed.stub.wait_until(Duration::ZERO, |stats| {
        stats.refused.get(&Refused::StreamRate).is_some_and(|entries| *entries > 0)
    }) {
        pushes(&mut passed);
        assert!(passed < 1_000, "no stream was limited: {:?}", bed.stub.stats());
    }
    (0..50).for_each(|_| pushes(&mut passed));
    let written = hot.wait().unwrap();
    let all = bed.stub.wait_for_lines(written.lines_in_all(), PATIENCE);
    assert!(all, "{:?}\n{}", bed.stub.stats(), product.log());
    bed.entries(2 + 2 * passed);
    for job in ["slow", "calm"] {
        assert_eq!(stored_of(&bed, job)[1..], numbered("passes", passed), "{job}");
    }
    let verified = bed.stub.verify(&written);
    assert_eq!((verified.lost, verified.repeated_visibly, verified.out_of_order), (0, 0, 0));
    let company = bed.stub.all_travels();
    let together = |job: &str| company.iter().any(|((_, l), t)| l.contains(job) && t.together > 0);
    assert!(together("calm"), "somebody travelled in company");
    assert_nothing_was_hidden(&bed);
    assert_eq!(letters(&product), 0);
    stop(product);
}

#[test]
fn late_lines_travel_alone_and_those_too_far_behind_are_found() {
    let bed = Bed::new();
    let product = bed.start();
    make_known(&bed, &product, &["late", "other"]);
    let now_ns = now_ns();
    for round in 0..20 {
        // Behind what Loki takes, within it, and as new as can be; the late stream comes first.
        let behind_ns = now_ns - 2 * HOUR + round;
        let mut late = Pushed::at("late", behind_ns, [format!("too late {round}")]);
        let within = Pushed::at("late", now_ns - HOUR / 4 + round, [format!("late {round}")]);
        late.lines.extend(within.lines);
        let new = |job| Pushed::now(job, [format!("new {round}")]);
        push(&product, "", &[late, new("late"), new("other")]);
    }
    let records = wait_for_letters(&bed, &product, 20);
    let refused: BTreeSet<String> = records.iter().map(text).collect();
    assert_eq!(refused, numbered("too late", 20).into_iter().collect());
    for record in &records {
        assert!(record.text.contains("entry too far behind"), "{}", record.text);
        assert_eq!((&record.reason, record.status), (&Reason::TooOld, Some(400)));
    }
    bed.entries(2 + 3 * 20);
    let stored: BTreeSet<String> = stored_of(&bed, "late").into_iter().collect();
    let expected = [numbered("late", 20), numbered("new", 20), vec!["first".into()]].concat();
    assert_eq!(stored, expected.into_iter().collect());
    assert_eq!(stored_of(&bed, "other")[1..], numbered("new", 20));
    assert!(bed.stub.stats().refused[&Refused::TooFarBehind] > 0);
    assert_nothing_was_hidden(&bed);
    stop(product);
}

/// Streams that each come at less than half of Loki's rate, and after an outage all at once.
#[test]
fn what_waited_through_an_outage_is_not_sent_in_company_faster_than_loki_takes_it() {
    let mut bed = Bed::new();
    let rate = Rate { bytes_per_second: 1 << 20, burst_bytes: 2 << 20 };
    bed.stub.set_limits(Limits { stream_rate: Some(rate), ..Limits::loki() });
    bed.setup.sink_keys.push("limits: { stream_rate: 1MiB }".into());
    let product = bed.start();
    bed.append("app-0.log", "first\n");
    bed.append("app-1.log", "first\n");
    bed.entries(2);
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    bed.stub.go_away(Away::Refusing);
    // Some 280 KiB a second of each, for twelve seconds.
    let written = bed.writer(3_000, 36_000, Rotation::Never).wait().unwrap();
    bed.stub.come_back();
    let all = bed.stub.wait_for_lines(written.lines_in_all(), PATIENCE);
    let stats = bed.stub.stats();
    assert!(all, "{stats:?}\n{}", product.log());
    assert!(stats.refused[&Refused::StreamRate] > 0, "{stats:?}");
    assert_eq!(stats.entries_hidden, 0, "{stats:?}");
    let verified = bed.stub.verify(&written);
    assert_eq!((verified.lost, verified.repeated_visibly, verified.out_of_order), (0, 0, 0));
    assert_eq!(letters(&product), 0);
    stop(product);
}

/// One stream that comes by many connections, and so to several shards: all of them together count.
#[test]
fn a_stream_that_comes_to_several_shards_is_hot_by_what_all_of_them_get() {
    let mut bed = Bed::new();
    let rate = Rate { bytes_per_second: 160 << 10, burst_bytes: 200 << 10 };
    bed.stub.set_limits(Limits { stream_rate: Some(rate), ..Limits::loki() });
    bed.setup.cores = "{ shards: 4 }".into();
    bed.setup.sink_keys.push("push_bytes_max: 64KiB".into());
    bed.setup.sink_keys.push("limits: { stream_rate: 256KiB }".into());
    let product = bed.start();
    make_known(&bed, &product, &["hot", "calm"]);
    let mut count = 2;
    let both = |hot: Vec<String>, calm: String| {
        push(&product, "", &[Pushed::now("hot", hot), Pushed::now("calm", [calm])]);
    };
    // Each shard knows both.
    for n in 0..40 {
        both(vec![format!("known {n}")], format!("known {n}"));
        count += 2;
    }
    let limited = |stats: &bench::stub::Stats| stats.refused.contains_key(&Refused::StreamRate);
    for n in 0..600_u64 {
        if n >= 100 && bed.stub.wait_until(Duration::ZERO, limited) {
            break;
        }
        both((0..20).map(|m| noise(n * 100 + m, 1000)).collect(), n.to_string());
        count += 21;
        std::thread::sleep(Duration::from_millis(60));
    }
    bed.entries(count);
    let stats = bed.stub.stats();
    assert!(stats.refused[&Refused::StreamRate] > 0, "{stats:?}");
    assert_eq!(stats.entries_hidden, 0, "{stats:?}");
    assert_eq!(letters(&product), 0);
    stop(product);
}

/// A push of one stream that is more than Loki takes of it at once, ever.
#[test]
fn what_is_above_the_burst_of_its_stream_is_sent_in_parts() {
    let mut bed = Bed::new();
    let rate = Rate { bytes_per_second: 150 << 10, burst_bytes: 150 << 10 };
    bed.stub.set_limits(Limits { stream_rate: Some(rate), ..Limits::loki() });
    bed.setup.sink_keys.push("limits: { stream_rate: 150KiB }".into());
    let product = bed.start();
    make_known(&bed, &product, &["burst"]);
    let lines: Vec<String> = (0..900).map(|n| noise(n, 1000)).collect();
    push(&product, "", &[Pushed::now("burst", lines.clone())]);
    bed.entries(1 + lines.len());
    assert_eq!(stored_of(&bed, "burst")[1..], lines);
    let stats = bed.stub.stats();
    assert!(stats.refused[&Refused::StreamRate] > 0, "{stats:?}");
    assert_eq!((stats.entries_hidden, letters(&product)), (0, 0), "{stats:?}");
    stop(product);
}

/// A stream that has arrived at one sink travels with others there, though another sink is away; and to
/// that one it goes alone first, when it comes back.
#[test]
fn a_sink_that_is_away_does_not_keep_streams_apart_for_the_other() {
    let mut bed = Bed::new();
    let far = Stub::start(Options::new(Accounting::PerLine)).unwrap();
    let url = far.url();
    bed.setup
        .sink_keys
        .push(format!("timeout: 2s\n  far:\n    type: loki\n    url: {url:?}\n    linger: 5ms"));
    far.go_away(Away::Refusing);
    let product = bed.start();
    let jobs: Vec<String> = (0..6).map(|n| format!("job-{n}")).collect();
    let mut count = 0;
    let mut round = || {
        let lines = |job: &String| Pushed::now(job, [format!("line {count}")]);
        push(&product, "", &jobs.iter().map(lines).collect::<Vec<_>>());
        count += 1;
        bed.entries(count * jobs.len());
    };
    round();
    // That sink stands still.
    std::thread::sleep(Duration::from_secs(4));
    let together =
        || -> u64 { bed.stub.all_travels().values().map(|travels| travels.together).sum() };
    let before = together();
    (0..20).for_each(|_| round());
    let rounds = together() - before;
    assert!(rounds >= 19 * jobs.len() as u64, "{rounds}: {:#?}", bed.stub.all_travels());
    far.come_back();
    let lines = (count * jobs.len()) as u64;
    let all = far.wait_until(PATIENCE, |stats| stats.unmarked - stats.unmarked_repeated >= lines);
    assert!(all, "{:?}\n{}", far.stats(), product.log());
    for ((_, labels), Travels { created_alone, .. }) in far.all_travels() {
        assert!(created_alone != Some(false), "{labels} was created in company");
    }
    assert_eq!(far.stats().out_of_order, 0);
    stop(product);
}
