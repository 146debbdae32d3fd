//! Killed, or failing, at each step that touches disk or network, in turn: what was acknowledged is at
//! the sink or in the dead-letter queue.

use crate::abuse::client::noise;
use crate::answers::ask::{exported, text};
use crate::bed::{Bed, PATIENCE, agent, stop};
use bench::product::Product;
use bench::stub::{Away, Fault};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Lines from a file and by HTTP, some of which the sink refuses, and what of them was acknowledged.
struct Load {
    bed: Bed,
    number: u64,
    acknowledged: BTreeSet<String>,
}

impl Load {
    fn new() -> Load {
        let mut bed = Bed::new();
        bed.setup.wal = "{ bytes_max: 64MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
        bed.setup.sink_keys = vec!["linger: 1ms".into(), "dlq: { bytes_max: 64MiB }".into()];
        bed.setup.drain_timeout = "1s".into();
        let load = Load { bed, number: 0, acknowledged: BTreeSet::new() };
        load.heal();
        load
    }

    fn heal(&self) {
        self.bed.stub.heal();
        let (needle, text) = ("bad".to_owned(), "no bad lines\n".to_owned());
        self.bed.stub.set_faults(vec![Fault::Refuse {
            needle,
            status: 400,
            text,
            rest_stored: true,
        }]);
    }

    fn next(&mut self, kind: &str) -> String {
        self.number += 1;
        format!("{kind} {}", noise(self.number, 2000))
    }

    /// A line in a file, and a few by HTTP.
    fn step(&mut self, product: &Product) {
        let line = self.next(if self.number.is_multiple_of(8) { "bad file" } else { "file" });
        self.bed.append("app.log", format!("{line}\n"));
        self.acknowledged.insert(line);
        let lines: Vec<String> =
            ["push", "push", "bad push", "push"].iter().map(|kind| self.next(kind)).collect();
        let url = format!("http://{}/loki/api/v1/raw?job=crash", product.api);
        let sent = agent().post(url).content_type("text/plain").send(lines.join("\n"));
        if sent.is_ok_and(|answer| answer.status() == 204) {
            self.acknowledged.extend(lines);
        }
    }

    /// A log that holds what was not sent, and a queue that holds what was refused.
    fn leave_a_backlog(&mut self) {
        let product = self.bed.start();
        (0..20).for_each(|_| self.step(&product));
        self.bed.entries(20);
        self.bed.stub.go_away(Away::Refusing);
        (0..150).for_each(|_| self.step(&product));
        product.kill();
        self.heal();
    }

    fn spawn(&mut self, rule: &str) -> Product {
        self.bed.setup.env = vec![("LOG_CAPTURER_FAILPOINTS".into(), rule.into())];
        let product = Product::spawn(&self.bed.setup).unwrap_or_else(|error| panic!("{error}"));
        self.bed.setup.env.clear();
        product
    }

    /// Goes on until the process has ended; how it did.
    fn until_it_ends(&mut self, mut product: Product, rule: &str) -> std::process::ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = product.ended() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{rule} was never reached\n{}", product.log());
            self.step(&product);
        }
    }

    /// The next run brings everything to where it belongs.
    fn assert_nothing_is_lost(&self, case: &str) {
        let product = self.bed.start();
        let start = Instant::now();
        loop {
            let mut there: BTreeSet<String> = exported(&self.bed).iter().map(text).collect();
            let refused = there.len();
            assert!(there.iter().all(|line| line.contains("bad")), "{case}: good ones are refused");
            let stored = self.bed.stub.entries();
            there.extend(stored.into_iter().map(|of| String::from_utf8(of.line).unwrap()));
            let lost = self.acknowledged.difference(&there).count();
            if lost == 0 {
                assert!(refused > 0, "{case}: the sink refused nothing");
                break;
            }
            let log = self.bed.product_log();
            assert!(start.elapsed() < PATIENCE, "{case}: {lost} lines are lost\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        stop(product);
        let log = self.bed.product_log();
        for wrong in ["are lost", "is damaged", "panicked"] {
            assert!(!log.contains(wrong), "{case}: {wrong}\n{log}");
        }
    }
}

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
