//! Single lines that Loki does not take: they go to the dead-letter queue, alone and with Loki's words,
//! and all others to Loki.

use super::ask::{
    HOUR, Pushed, SECOND, letters, line, numbered, push, stored_of, text, wait_for_letters,
};
use crate::bed::{Bed, eventually, stop};
use bench::load::Written;
use bench::measure::now_ns;
use bench::stub::{Accounting, Away, Fault, Limits, Options, Reason as Refused};
use log_capturer::dlq::Reason;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

const BAD: &str = "the one bad line";

/// Among so many is the bad one: as many as a debug build sends in some seconds.
fn many() -> u64 {
    std::env::var("LINES").map_or(500_000, |lines| lines.parse().expect("LINES is a number"))
}

/// A backlog in which one line more stands in the middle of the first file.
fn corpus_with_a_bad_line(bed: &Bed) -> Written {
    let corpus = bed.corpus(many(), 2);
    let mut text = fs::read(&corpus.files[0]).unwrap();
    let middle = text.len() / 2;
    let at = middle + memchr::memchr(b'\n', &text[middle..]).unwrap() + 1;
    text.splice(at..at, format!("{BAD}\n").into_bytes());
    fs::write(&corpus.files[0], text).unwrap();
    corpus.written
}

fn assert_one_bad_line_goes_alone(rest_stored: bool) {
    let bed = Bed::with(Options::new(Accounting::PerLine));
    let written = corpus_with_a_bad_line(&bed);
    let said = "stream '{labels}' has a line that nobody can read\n".to_owned();
    let fault = Fault::Refuse { needle: BAD.into(), status: 400, text: said, rest_stored };
    bed.stub.set_fault(fault);
    let product = bed.start();
    bed.assert_complete(&written);
    let records = wait_for_letters(&bed, &product, 1);
    assert_eq!(text(&records[0]), BAD);
    assert_eq!((records[0].status, &records[0].reason), (Some(400), &Reason::Refused));
    let labels = &records[0].labels;
    assert_eq!(records[0].text, format!("stream '{labels}' has a line that nobody can read"));
    let stats = bed.stub.stats();
    assert!(stats.faults.refused > 1, "it was looked for");
    let more = stats.arrived - stats.pushes_stored;
    println!("{more} more pushes of {} for one bad line of {}", stats.arrived, many());
    assert!(more <= 60, "{more} more pushes");
    stop(product);
}

#[test]
fn one_bad_line_of_many_goes_alone_to_the_dead_letter_queue_in_few_requests() {
    assert_one_bad_line_goes_alone(true);
}

#[test]
fn one_line_for_which_loki_refuses_whole_pushes_goes_alone_in_few_requests() {
    assert_one_bad_line_goes_alone(false);
}

#[test]
fn one_row_older_than_loki_takes_goes_alone_with_lokis_words() {
    let bed = Bed::new();
    // Less than the product knows of.
    bed.stub.set_limits(Limits { age_max: Duration::from_hours(1), ..Limits::loki() });
    let product = bed.start();
    let mut batch = Pushed::now("a", numbered("row", 100));
    batch.lines[50].0 -= 2 * HOUR;
    push(&product, "", &[batch, Pushed::now("b", numbered("other", 100))]);
    let records = wait_for_letters(&bed, &product, 1);
    assert_eq!(text(&records[0]), "row 50");
    assert_eq!((records[0].status, &records[0].reason), (Some(400), &Reason::TooOld));
    assert!(records[0].text.contains("has timestamp too old"), "{}", records[0].text);
    bed.entries(199);
    let mut expected = numbered("row", 100);
    expected.remove(50);
    assert_eq!(stored_of(&bed, "a"), expected, "once, and in order");
    assert_eq!(stored_of(&bed, "b"), numbered("other", 100));
    let stats = bed.stub.stats();
    assert!(stats.refused[&Refused::TooOld] > 0);
    assert_eq!(stats.entries_hidden, 0);
    stop(product);
}

#[test]
fn what_gets_too_old_while_loki_is_away_is_not_sent_and_what_is_new_flows() {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push("age_max: 60s".into());
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", ["first".into()])]);
    bed.entries(1);
    bed.stub.go_away(Away::Refusing);
    let near_ns = now_ns() - 57 * SECOND;
    for round in 0..10 {
        let old = Pushed::at("a", near_ns + round, numbered(&format!("near {round}"), 10));
        let older = Pushed::at("b", near_ns - HOUR, numbered(&format!("older {round}"), 10));
        let new = |job| Pushed::now(job, numbered(&format!("new {round}"), 10));
        push(&product, "", &[old, new("a"), older, new("b"), new("c")]);
    }
    let refusals =
        || product.metric(r#"log_capturer_pushes_total{verdict="retried"}"#).unwrap() > 0.0;
    eventually("Loki is missed", &product, refusals);
    // Until they are older than Loki takes.
    while now_ns() <= near_ns + 61 * SECOND {
        std::thread::sleep(Duration::from_millis(100));
    }
    bed.stub.come_back();
    let new: BTreeSet<String> = (0..10).flat_map(|r| numbered(&format!("new {r}"), 10)).collect();
    bed.entries(301);
    for job in ["a", "b", "c"] {
        let stored = stored_of(&bed, job);
        let stored: BTreeSet<String> = stored.into_iter().filter(|line| line != "first").collect();
        assert_eq!(stored, new, "{job}");
    }
    let records = wait_for_letters(&bed, &product, 200);
    for record in &records {
        assert_eq!((record.status, &record.reason), (None, &Reason::TooOld), "{record:?}");
    }
    let old: BTreeSet<String> = records.iter().map(text).collect();
    assert_eq!(old.len(), 200, "each once");
    assert!(old.iter().all(|line| line.starts_with("near") || line.starts_with("older")));
    let stats = bed.stub.stats();
    assert_eq!((stats.entries_refused, stats.entries), (0, 301), "Loki saw none of them");
    stop(product);
}

#[test]
fn a_line_on_which_loki_fails_ends_in_the_dead_letter_queue_and_the_others_pass() {
    let bed = Bed::new();
    let said = "rpc error: code = Unknown desc = runtime error: index out of range\n".to_owned();
    let (needle, rest_stored) = ("poison".to_owned(), false);
    bed.stub.set_fault(Fault::Refuse { needle, status: 500, text: said, rest_stored });
    let product = bed.start();
    for job in ["sick", "well"] {
        push(&product, "", &[Pushed::now(job, ["first".into()])]);
    }
    bed.entries(2);
    let lines = numbered("sick", 8);
    let mut batch = lines.clone();
    batch.insert(5, "poison".into());
    push(&product, "", &[Pushed::now("sick", batch), Pushed::now("well", ["second".into()])]);
    // Others pass all the time: only so does it show what is at fault.
    let mut passed = 0;
    eventually("it is given up", &product, || {
        push(&product, "", &[Pushed::now("well", [format!("passes {passed}")])]);
        passed += 1;
        std::thread::sleep(Duration::from_millis(100));
        letters(&product) > 0
    });
    let meanwhile = stored_of(&bed, "well").len();
    assert!(meanwhile > passed / 2, "{meanwhile} of {passed} passed meanwhile");
    let records = wait_for_letters(&bed, &product, 1);
    assert_eq!((text(&records[0]).as_str(), &records[0].reason), ("poison", &Reason::Failing));
    assert_eq!(records[0].status, Some(500));
    assert!(records[0].text.contains("index out of range"), "{}", records[0].text);
    bed.entries(2 + 8 + 1 + passed);
    assert_eq!(stored_of(&bed, "sick")[1..], lines, "in order");
    let mut of_well = stored_of(&bed, "well");
    assert_eq!(of_well.len(), 2 + passed);
    of_well.dedup();
    assert_eq!(of_well.len(), 2 + passed, "once");
    let tries = bed.stub.stats().faults.refused;
    println!("{tries} pushes failed for one line, while {passed} passed");
    assert!((12..=48).contains(&tries), "{tries} pushes failed for one line");
    assert!(bed.stub.entries().iter().all(|entry| !line(entry).contains("poison")));
    stop(product);
}
