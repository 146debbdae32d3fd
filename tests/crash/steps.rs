//! Killed, or failing, at each step in turn: `io::failpoint` has the rules.

use super::load::Load;
use crate::bed::{PATIENCE, stop};
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Killed the first time that a step is reached, and some later times.
fn kill_at(steps: &[(&str, &[u64])]) {
    for (step, times) in steps {
        for time in *times {
            let rule = format!("{step}@{time}=kill");
            let mut load = Load::new();
            load.leave_a_backlog();
            let product = load.spawn(&rule);
            let status = load.until_it_ends(product, &rule);
            assert_eq!(status.signal(), Some(9), "{rule}: {status}\n{}", load.bed.product_log());
            load.assert_nothing_is_lost(&rule);
        }
    }
}

#[test]
fn killed_while_segments_and_checkpoints_are_made_nothing_is_lost() {
    kill_at(&[
        ("create.allocate", &[1, 2, 5]),
        ("create.write", &[1, 2, 5]),
        ("create.sync", &[1, 2, 5]),
        ("create.rename", &[1, 2, 5]),
        ("create.sync_directory", &[1, 2, 5]),
        ("create.done", &[1, 2, 5]),
        ("create.done:checkpoint", &[1, 4]),
        ("close", &[1, 3, 6]),
        ("checkpoint", &[1, 2]),
    ]);
}

#[test]
fn killed_while_it_is_read_and_written_nothing_is_lost() {
    kill_at(&[
        ("list", &[1, 2]),
        ("open", &[1, 2, 3]),
        ("read", &[1, 2, 4, 7]),
        ("write", &[1, 2, 7]),
        ("write.done", &[1, 2, 7]),
        ("write.done:dlq", &[1, 2]),
    ]);
}

#[test]
fn killed_between_disk_sink_and_client_nothing_is_lost() {
    kill_at(&[
        ("remove", &[1, 2]),
        ("remove.sync_directory", &[1, 2]),
        ("remove.done", &[1, 2]),
        ("committed", &[1, 9]),
        ("answer", &[1, 9]),
        ("push", &[1, 9]),
        ("push.answered", &[1, 9]),
        ("letters.stored", &[1, 4]),
    ]);
}

/// A write whose outcome is unknown goes to another segment, and nothing is acknowledged before.
#[test]
fn an_error_of_the_disk_is_survived_once() {
    for step in ["write:/wal/", "write.done:/wal/", "write.done:/dlq/", "create.sync:.wal"] {
        let rule = format!("{step}@3={EIO}");
        let mut load = Load::new();
        load.leave_a_backlog();
        let product = load.spawn(&rule);
        let start = Instant::now();
        while !product.log().contains("Input/output error") {
            assert!(start.elapsed() < PATIENCE, "{rule} was never reached\n{}", product.log());
            load.step(&product);
        }
        (0..20).for_each(|_| load.step(&product));
        stop(product);
        load.assert_nothing_is_lost(&rule);
    }
}

/// It does not go on with a disk that fails again, nor count anything as stored there.
#[test]
fn a_disk_that_fails_twice_ends_it_and_nothing_is_lost() {
    let rule = format!("write.done:/wal/@3..1000={EIO}");
    let mut load = Load::new();
    load.leave_a_backlog();
    let product = load.spawn(&rule);
    let status = load.until_it_ends(product, &rule);
    assert_eq!(status.code(), Some(1), "{status}\n{}", load.bed.product_log());
    load.assert_nothing_is_lost(&rule);
}

/// A full disk, wherever it shows: what comes waits, or is told, and goes on by itself.
#[test]
fn a_disk_that_is_full_for_a_while_is_back_pressure() {
    for step in ["create.allocate:.wal", "create.write:.wal", "create.allocate:checkpoint"] {
        let rule = format!("{step}@2..6={ENOSPC}");
        let mut load = Load::new();
        load.leave_a_backlog();
        let product = load.spawn(&rule);
        let start = Instant::now();
        while !product.log().contains("No space left on device") {
            assert!(start.elapsed() < PATIENCE, "{rule} was never reached\n{}", product.log());
            load.step(&product);
        }
        (0..20).for_each(|_| load.step(&product));
        stop(product);
        load.assert_nothing_is_lost(&rule);
    }
}
