//! The dead-letter queue of a process that runs: it sends again by itself, does what is asked of it,
//! and loses nothing, full or killed.

use super::ask::{
    HOUR, Pushed, command, config_of, exported, get, letters, line, make_known, numbered, order,
    push, stored, stored_of, text, wait_for_letters,
};
use crate::abuse::client::noise;
use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::measure::now_ns;
use bench::stub::{Away, Fault, Limits, Rate, Reason as Refused};
use log_capturer::dlq::Reason;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Nothing is sent again by itself.
const ONLY_ASKED: &str = "dlq: { reprocess: { attempts_max: 0 } }";

fn refuse(needle: &str) -> Fault {
    let text = "stream '{labels}' has a line that nobody can read\n".into();
    Fault::Refuse { needle: needle.into(), status: 400, text, rest_stored: true }
}

fn bed(keys: &str) -> Bed {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push(keys.into());
    bed
}

#[test]
fn what_is_refused_for_a_while_gets_through_by_itself_and_attempts_are_counted() {
    let bed = bed("dlq: { reprocess: { interval: 1s, age_min: 0s } }");
    bed.stub.set_fault(Fault::answer(400, "not yet\n"));
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("a", 20)), Pushed::now("b", numbered("b", 20))]);
    eventually("all are refused", &product, || letters(&product) == 40);
    let again = || {
        let records = exported(&bed);
        let of = |record: &log_capturer::dlq::Record| {
            record.attempts >= 2 && record.first_rejected_ns < record.rejected_ns
        };
        records.len() == 40 && records.iter().all(of)
    };
    eventually("all are sent again and refused again", &product, again);
    assert!(exported(&bed).iter().all(|of| of.text == "not yet" && of.status == Some(400)));
    assert_eq!(bed.stub.stats().entries, 0);
    bed.stub.heal();
    eventually("the queue is empty", &product, || letters(&product) == 0);
    bed.entries(40);
    for job in ["a", "b"] {
        assert_eq!(stored_of(&bed, job), numbered(job, 20), "in order");
    }
    assert_eq!(bed.stub.stats().unmarked, 40, "once");
    assert!(product.metric("log_capturer_dlq_replayed_frames_total").unwrap() > 0.0);
    stop(product);
}

#[test]
fn what_is_asked_for_is_sent_again_with_labels_and_the_present_time() {
    let bed = bed(ONLY_ASKED);
    bed.stub.set_limits(Limits { age_max: Duration::from_hours(1), ..Limits::loki() });
    bed.stub.set_fault(refuse("bad"));
    let product = bed.start();
    let old_ns = now_ns() - 2 * HOUR;
    let old = Pushed::at("old", old_ns, numbered("old", 5));
    push(&product, "", &[old, Pushed::now("bad", numbered("bad", 5))]);
    wait_for_letters(&bed, &product, 10);
    let how = json!({
        "filter": ["reason=too_old"], "labels": { "replayed": "yes" }, "restamp": true,
    });
    let answer = order(&product, "/dlq/reprocess", &how.to_string());
    assert_eq!(answer, (200, json!({ "entries": 5 })));
    eventually("they are accepted", &product, || letters(&product) == 5);
    let entries = bed.entries(5);
    for (entry, n) in entries.iter().zip(0..) {
        assert_eq!(entry.labels, "{job=\"old\", replayed=\"yes\"}");
        assert_eq!(line(entry), format!("old {n}"));
        let own = (old_ns + n).to_string();
        assert_eq!(entry.metadata, [("original_timestamp".to_owned(), own)]);
        assert!(now_ns() - entry.timestamp_ns < HOUR);
    }
    // What is refused again stays, and says so.
    let answer = order(&product, "/dlq/reprocess", "{}");
    assert_eq!(answer, (200, json!({ "entries": 5 })));
    let again = || {
        let records = exported(&bed);
        records.len() == 5 && records.iter().all(|of| of.attempts == 1)
    };
    eventually("they are refused again", &product, again);
    let answer = order(&product, "/dlq/purge", r#"{ "filter": ["line~bad 3"] }"#);
    assert_eq!(answer, (200, json!({ "entries": 1 })));
    assert_eq!(letters(&product), 4);
    bed.stub.heal();
    assert_eq!(order(&product, "/dlq/reprocess", "").0, 200);
    eventually("they are accepted", &product, || letters(&product) == 0);
    bed.entries(9);
    let mut expected = numbered("bad", 5);
    expected.remove(3);
    assert_eq!(stored_of(&bed, "bad"), expected);
    stop(product);
}

#[test]
fn the_commands_ask_the_process_that_runs() {
    let bed = bed(ONLY_ASKED);
    bed.stub.set_fault(refuse("bad"));
    let product = bed.start();
    let streams = ["a", "b", "c"].map(|job| Pushed::now(job, numbered("bad", 5)));
    push(&product, "", &streams);
    wait_for_letters(&bed, &product, 15);
    bed.stub.heal();
    let config = config_of(&bed, &product);
    let run = |args: &[&str]| {
        let output = command(&[args, &["--config", &config]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run(&["replay", "--filter", "label.job=a", "--label", "by=hand"]);
    assert_eq!(said, "{\"entries\":5}\n");
    eventually("they are accepted", &product, || letters(&product) == 10);
    let entries = bed.entries(5);
    assert!(entries.iter().all(|entry| entry.labels == "{by=\"hand\", job=\"a\"}"));
    assert_eq!(run(&["purge", "--filter", "label.job=b"]), "{\"entries\":5}\n");
    assert_eq!(letters(&product), 5);
    assert_eq!(run(&["replay"]), "{\"entries\":5}\n");
    eventually("they are accepted", &product, || letters(&product) == 0);
    bed.entries(10);
    assert_eq!(stored_of(&bed, "c"), numbered("bad", 5));
    assert_eq!(stored_of(&bed, "b"), [""; 0]);
    stop(product);
}

#[test]
fn orders_that_mean_nothing_are_refused_with_the_reason() {
    let bed = bed(ONLY_ASKED);
    bed.stub.set_fault(refuse("bad"));
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("bad", 5))]);
    wait_for_letters(&bed, &product, 5);
    for path in ["/dlq/reprocess", "/dlq/purge"] {
        for (body, says) in [
            ("{", "expected {\"filter\""),
            ("[1]", "expected {\"filter\""),
            (r#"{"fliter": []}"#, "unknown field `fliter`"),
            (r#"{"filter": "reason=too_old"}"#, "expected {\"filter\""),
            (r#"{"filter": ["colour=red"]}"#, "reason=too_old, status=400"),
            (r#"{"filter": ["status=1"]}"#, "from 100 to 599"),
            (r#"{"filter": ["older=soon"]}"#, "a time such as 90s"),
            (r#"{"labels": {"1a": "b"}}"#, "expected a label name, found \"1a\""),
            (r#"{"restamp": "yes"}"#, "expected {\"filter\""),
            (&"x".repeat(100_000), ""),
        ] {
            let (status, answer) = order(&product, path, body);
            assert_eq!(status, 400, "{path} {body}: {answer}");
            assert!(answer["error"].as_str().unwrap().contains(says), "{path} {body}: {answer}");
        }
    }
    let (status, answer) = order(&product, "/sinks", "{}");
    assert_eq!((status, &answer["error"]), (405, &"expected GET".into()));
    assert_eq!(letters(&product), 5, "nothing was done");
    let stats = get(&product, "/dlq/stats");
    assert_eq!(stats["queues"][0]["by_reason"]["refused"], 5, "{stats}");
    assert_eq!(bed.stub.stats().entries, 0);
    stop(product);
}

/// So large that few fill a queue.
const LARGE_BYTES: usize = 200 << 10;
const LARGE: u64 = 200;

fn write_large(bed: &Bed) -> BTreeSet<String> {
    let lines: Vec<String> = (0..LARGE).map(|n| noise(n, LARGE_BYTES)).collect();
    bed.append("large.log", lines.join("\n") + "\n");
    lines.into_iter().collect()
}

fn full_bed(when_full: &str) -> Bed {
    let mut bed = bed(&format!(
        "dlq: {{ bytes_max: 16MiB, when_full: {when_full}, reprocess: {{ attempts_max: 0 }} }}"
    ));
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
    bed.stub.set_fault(Fault::answer(400, "no\n"));
    bed
}

#[test]
fn a_full_dead_letter_queue_makes_sources_wait_and_a_purge_lets_them_go_on() {
    let bed = full_bed("wait");
    let all = write_large(&bed);
    let product = bed.start();
    let said = || product.log().contains("refused entries cannot be stored");
    eventually("the queue is full", &product, said);
    let full = || product.metric("log_capturer_wal_full").unwrap() == 1.0;
    eventually("the log is full behind it", &product, full);
    assert!(product.is_ready(), "it waits, and that is no failure");
    let stats = get(&product, "/dlq/stats");
    let queue = &stats["queues"][0];
    assert!(queue["bytes"].as_u64() <= queue["bytes_max"].as_u64(), "{stats}");
    assert_eq!(queue["dropped"], 0, "{stats}");
    let before: BTreeSet<String> = exported(&bed).iter().map(text).collect();
    assert!(before.len() < all.len(), "not all have room");
    assert_eq!(stored(&bed, "").len(), 0);
    bed.stub.heal();
    let (status, answer) = order(&product, "/dlq/purge", "");
    assert_eq!((status, &answer["entries"]), (200, &before.len().into()));
    let is_there = || {
        let mut there = before.clone();
        there.extend(stored(&bed, ""));
        there.extend(exported(&bed).iter().map(text));
        there == all
    };
    eventually("the others get through or are kept", &product, is_there);
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    assert!(is_there(), "nothing is lost");
    assert!(!stored(&bed, "").is_empty());
    stop(product);
}

#[test]
fn a_full_dead_letter_queue_that_may_drop_counts_what_it_drops() {
    let bed = full_bed("drop_oldest");
    let all = write_large(&bed);
    let product = bed.start();
    let counted = || {
        let dropped = product.metric("log_capturer_dlq_dropped_total").unwrap();
        letters(&product) as f64 + dropped >= LARGE as f64
    };
    eventually("all are stored or dropped", &product, counted);
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    let stats = get(&product, "/dlq/stats");
    let dropped = stats["queues"][0]["dropped"].as_u64().unwrap();
    assert!(dropped > 0, "{stats}");
    assert_eq!(dropped + letters(&product), LARGE, "{stats}");
    assert_eq!(product.metric("log_capturer_dlq_dropped_total").unwrap(), dropped as f64);
    let number = |line: &str| line.split(' ').next().unwrap().parse::<u64>().unwrap();
    let kept: Vec<u64> = exported(&bed).iter().map(|of| number(&text(of))).collect();
    assert_eq!(kept, (dropped..LARGE).collect::<Vec<_>>(), "the newest");
    assert_eq!(all.len() as u64, LARGE);
    stop(product);
}

#[test]
fn kills_in_the_middle_of_refusals_lose_nothing() {
    const COUNT: usize = 10;
    const TURNS: u64 = 8;
    let bed = bed(ONLY_ASKED);
    bed.stub.set_faults(vec![refuse("bad"), Fault::Delay(Duration::from_millis(3))]);
    let mut kept = Vec::new();
    for turn in 0..TURNS {
        let product = bed.start();
        let name = |what: &str| numbered(&format!("{what} {turn}"), COUNT);
        let both = name("bad").into_iter().zip(name("good")).flat_map(|(a, b)| [a, b]);
        push(&product, "", &[Pushed::now("a", both), Pushed::now("b", name("well"))]);
        std::thread::sleep(Duration::from_millis(turn * 97 + 50));
        product.kill();
        kept.push(exported(&bed).len());
    }
    let total = COUNT * usize::try_from(TURNS).unwrap();
    println!("after each kill, so many entries were kept: {kept:?}");
    let product = bed.start();
    let of = |what: &str| -> BTreeSet<String> {
        (0..TURNS).flat_map(|turn| numbered(&format!("{what} {turn}"), COUNT)).collect()
    };
    let kept = || exported(&bed).iter().map(text).collect::<BTreeSet<String>>();
    eventually("every refused line is kept", &product, || kept() == of("bad"));
    eventually("every other is in Loki", &product, || {
        let there: BTreeSet<String> = stored(&bed, "").into_iter().collect();
        of("good").union(&of("well")).cloned().collect::<BTreeSet<_>>() == there
    });
    assert!(bed.stub.stats().faults.refused > 0);
    assert_eq!(stored(&bed, "").len(), 2 * total, "what came twice is the same");
    // And none is lost on the way back.
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("all is acked", &product, || product.metric(unacked).unwrap() == 0.0);
    bed.stub.heal();
    order(&product, "/dlq/reprocess", "");
    eventually("the queue is empty", &product, || letters(&product) == 0);
    assert_eq!(stored(&bed, "").len(), 3 * total);
    stop(product);
}

/// Loki hides what it says of all streams of a push but the last: so streams that were limited before
/// are not sent together.
#[test]
fn what_was_limited_is_sent_again_stream_by_stream() {
    let bed = bed(ONLY_ASKED);
    let product = bed.start();
    let jobs = ["large-1", "large-2", "large-3", "small"];
    make_known(&bed, &product, &jobs);
    bed.stub.set_fault(Fault::answer(400, "Per stream rate limit exceeded\n"));
    let large = |job: &&str| (0..10).map(|n| noise(n, 200) + job).collect::<Vec<_>>();
    let of = |job: &&str| if *job == "small" { vec!["few".into()] } else { large(job) };
    let all: Vec<Pushed> = jobs.iter().map(|job| Pushed::now(job, of(job))).collect();
    push(&product, "", &all);
    let records = wait_for_letters(&bed, &product, 31);
    assert!(records.iter().all(|of| of.reason == Reason::StreamLimited), "{records:?}");
    let stats = get(&product, "/dlq/stats");
    assert_eq!(stats["queues"][0]["frames"], 1, "{stats}");
    bed.stub.heal();
    let rate = Rate { bytes_per_second: 1, burst_bytes: 1000 };
    bed.stub.set_limits(Limits { stream_rate: Some(rate), ..Limits::loki() });
    let sent = order(&product, "/dlq/reprocess", "");
    assert_eq!(sent, (200, json!({ "entries": 31 })));
    let limited = |stats: &bench::stub::Stats| stats.refused.contains_key(&Refused::StreamRate);
    assert!(bed.stub.wait_until(PATIENCE, limited));
    bed.stub.set_limits(Limits::loki());
    bed.entries(jobs.len() + 31);
    for job in jobs {
        assert_eq!(stored_of(&bed, job)[1..], of(&job), "{job}");
    }
    assert_eq!(bed.stub.stats().entries_hidden, 0);
    eventually("the queue is empty", &product, || letters(&product) == 0);
    stop(product);
}

#[test]
fn after_so_many_attempts_it_is_sent_again_only_when_asked_for() {
    let bed = bed("dlq: { reprocess: { interval: 1s, age_min: 0s, attempts_max: 2 } }");
    bed.stub.set_fault(refuse("bad"));
    let product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("bad", 5))]);
    let given_up = || get(&product, "/dlq/stats")["queues"][0]["exhausted"] == 5;
    eventually("it is not tried any more", &product, given_up);
    assert!(exported(&bed).iter().all(|record| record.attempts == 2));
    bed.stub.heal();
    assert_eq!(order(&product, "/dlq/reprocess", ""), (200, json!({ "entries": 5 })));
    eventually("they are accepted", &product, || letters(&product) == 0);
    bed.entries(5);
    assert_eq!(stored_of(&bed, "a"), numbered("bad", 5));
    stop(product);
}

#[test]
fn stopped_or_killed_while_letters_are_under_way_none_is_lost() {
    let mut bed = bed(ONLY_ASKED);
    bed.setup.drain_timeout = "1s".into();
    bed.stub.set_fault(refuse("bad"));
    let mut product = bed.start();
    push(&product, "", &[Pushed::now("a", numbered("bad", 20))]);
    wait_for_letters(&bed, &product, 20);
    for kill in [false, true] {
        bed.stub.heal();
        bed.stub.go_away(Away::Silent);
        let before = bed.stub.stats().faults.swallowed;
        assert_eq!(order(&product, "/dlq/reprocess", "").0, 200);
        let under_way = |stats: &bench::stub::Stats| stats.faults.swallowed > before;
        assert!(bed.stub.wait_until(PATIENCE, under_way));
        if kill {
            product.kill()
        } else {
            stop(product)
        }
        assert_eq!(exported(&bed).len(), 20);
        product = bed.start();
    }
    bed.stub.come_back();
    // Stored, and killed before that was heard.
    bed.stub.set_fault(Fault::LostAnswer);
    assert_eq!(order(&product, "/dlq/reprocess", "").0, 200);
    let lost = |stats: &bench::stub::Stats| stats.faults.answers_lost > 0;
    assert!(bed.stub.wait_until(PATIENCE, lost));
    product.kill();
    assert_eq!(exported(&bed).len(), 20);
    bed.stub.heal();
    let product = bed.start();
    assert_eq!(order(&product, "/dlq/reprocess", ""), (200, json!({ "entries": 20 })));
    eventually("they are accepted", &product, || letters(&product) == 0);
    assert_eq!(stored_of(&bed, "a"), numbered("bad", 20), "what came twice is the same");
    stop(product);
}
