//! It may be stopped or killed at any moment: what was acknowledged is never lost, and nothing shows
//! twice in a query.

use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::load::{Rotation, Writer};
use bench::stub::{Accounting, Away, Fault, Options, Verified};
use rustix::process::Signal;
use std::time::Duration;

const KILLS: u64 = 20;
const RATE: u64 = 5_000;
const ROTATION: Rotation = Rotation::Rename { lines: 4_000, keep: 50 };

fn bed() -> Bed {
    let mut bed = Bed::with(Options::new(Accounting::PerLine));
    bed.setup.sink_keys = vec!["linger: 5ms".into(), "push_bytes_max: 64KiB".into()];
    bed
}

/// Different for every turn, and the same for every run.
fn moment(turn: u64) -> Duration {
    Duration::from_millis(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xff)
}

fn endless(bed: &Bed) -> Writer {
    bed.writer(RATE, u64::MAX, ROTATION)
}

/// What was under way at a kill is sent again: per shard one push of 64 KiB, or of the one frame that
/// a chunk of 128 KiB filled.
fn assert_repeats_are_bounded(verified: &Verified, kills: u64) {
    const LINE_BYTES_MIN: u64 = 150;
    let most = kills * ((64 << 10) + (128 << 10)) / LINE_BYTES_MIN;
    println!("{} lines were sent again after {kills} kills, {most} at most", verified.repeated);
    assert!(verified.repeated <= most, "{} lines were sent again", verified.repeated);
    assert_eq!(verified.repeated_visibly, 0);
}

#[test]
fn sigterm_at_any_moment_loses_and_repeats_nothing() {
    let bed = bed();
    let writer = endless(&bed);
    for turn in 0..10 {
        let product = bed.start();
        std::thread::sleep(moment(turn));
        stop(product);
    }
    let product = bed.start();
    let written = writer.stop().unwrap();
    bed.assert_exactly_once(&written);
    stop(product);
}

#[test]
fn twenty_kills_under_load_lose_nothing() {
    let bed = bed();
    let writer = endless(&bed);
    for turn in 0..KILLS {
        let product = bed.start();
        std::thread::sleep(moment(turn));
        product.kill();
    }
    let product = bed.start();
    let written = writer.stop().unwrap();
    let verified = bed.assert_complete(&written);
    assert_repeats_are_bounded(&verified, KILLS);
    stop(product);
}

#[test]
fn twenty_kills_while_loki_is_down_lose_nothing() {
    let bed = bed();
    let writer = endless(&bed);
    for turn in 0..KILLS {
        bed.stub.heal();
        match turn % 3 {
            0 => bed.stub.go_away(Away::Refusing),
            1 => bed.stub.set_fault(Fault::answer(500, "the ingester is sick\n")),
            _ => {}
        }
        let product = bed.start();
        std::thread::sleep(moment(turn));
        product.kill();
    }
    bed.stub.go_away(Away::Refusing);
    let product = bed.start();
    std::thread::sleep(Duration::from_millis(500));
    product.kill();
    bed.stub.heal();
    let product = bed.start();
    let written = writer.stop().unwrap();
    let verified = bed.assert_complete(&written);
    assert_repeats_are_bounded(&verified, KILLS + 1);
    let faults = bed.stub.stats().faults;
    assert!(faults.refusals > 0 && faults.answered > 0, "{faults:?}");
    stop(product);
}

#[test]
fn kills_during_recovery_lose_nothing() {
    let bed = bed();
    bed.stub.go_away(Away::Refusing);
    let writer = endless(&bed);
    let product = bed.start();
    std::thread::sleep(Duration::from_secs(1));
    product.kill();
    for turn in 0..20_u32 {
        // Not ready yet: somewhere between opening the log and reading files.
        let product = bench::product::Product::spawn(&bed.setup).unwrap();
        std::thread::sleep(Duration::from_micros(500) * turn);
        product.kill();
    }
    bed.stub.heal();
    let product = bed.start();
    let written = writer.stop().unwrap();
    let verified = bed.assert_complete(&written);
    assert_eq!(verified.repeated_visibly, 0);
    stop(product);
}

#[test]
fn what_cannot_be_sent_before_the_deadline_is_sent_by_the_next_run() {
    let mut bed = bed();
    bed.setup.drain_timeout = "1s".into();
    for away in [Away::Refusing, Away::Silent] {
        bed.stub.go_away(away);
        let product = bed.start();
        let written = bed.writer(20_000, 5_000, Rotation::Never).wait().unwrap();
        let taken = "log_capturer_logs_processed_total";
        eventually("lines are taken", &product, || product.metric(taken).unwrap() > 0.0);
        stop(product);
        bed.stub.heal();
        let product = bed.start();
        bed.assert_complete(&written);
        stop(product);
        // The next round writes the same numbers again, into other files.
        bed = self::bed();
        bed.setup.drain_timeout = "1s".into();
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let bed = bed();
    bed.stub.go_away(Away::Silent);
    let product = bed.start();
    let written = bed.writer(20_000, 2_000, Rotation::Never).wait().unwrap();
    let swallowed = |stats: &bench::stub::Stats| stats.faults.swallowed > 0;
    assert!(bed.stub.wait_until(PATIENCE, swallowed));
    product.signal(Signal::TERM);
    eventually("the first is heard", &product, || product.log().contains("stopping"));
    product.signal(Signal::INT);
    let status = product.wait(Duration::from_secs(9)).expect("before the drain deadline");
    assert_eq!(status.code(), Some(130));
    bed.stub.heal();
    let product = bed.start();
    bed.assert_complete(&written);
    stop(product);
}

#[test]
fn a_stop_before_it_is_ready_is_a_stop() {
    let bed = bed();
    for turn in 0..10_u32 {
        let product = bench::product::Product::spawn(&bed.setup).unwrap();
        std::thread::sleep(Duration::from_millis(1) * turn);
        stop(product);
    }
}
