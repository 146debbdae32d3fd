//! A load of every kind, and an account of what of it was acknowledged.

use crate::abuse::client::noise;
use crate::answers::ask::{exported, text};
use crate::bed::{Bed, PATIENCE, agent, stop};
use bench::product::Product;
use bench::stub::{Away, Fault};
use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Lines from a file and by HTTP, some of which the sink refuses, and what of them was acknowledged.
pub struct Load {
    pub bed: Bed,
    number: u64,
    pub acknowledged: BTreeSet<String>,
}

impl Load {
    pub fn new() -> Load {
        Load::with(Bed::new())
    }

    pub fn with(mut bed: Bed) -> Load {
        bed.setup.wal = "{ bytes_max: 64MiB, segment_bytes: 1MiB, ring_bytes_max: 1MiB }".into();
        bed.setup.sink_keys = vec!["linger: 1ms".into(), "dlq: { bytes_max: 64MiB }".into()];
        bed.setup.drain_timeout = "1s".into();
        let load = Load { bed, number: 0, acknowledged: BTreeSet::new() };
        load.heal();
        load
    }

    pub fn heal(&self) {
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
    pub fn step(&mut self, product: &Product) {
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
    pub fn leave_a_backlog(&mut self) {
        let product = self.bed.start();
        (0..20).for_each(|_| self.step(&product));
        self.bed.entries(20);
        self.bed.stub.go_away(Away::Refusing);
        (0..150).for_each(|_| self.step(&product));
        product.kill();
        self.heal();
    }

    pub fn spawn(&mut self, rule: &str) -> Product {
        self.bed.setup.env = vec![("LOG_CAPTURER_FAILPOINTS".into(), rule.into())];
        let product = Product::spawn(&self.bed.setup).unwrap_or_else(|error| panic!("{error}"));
        self.bed.setup.env.clear();
        product
    }

    /// Goes on until the process has ended; how it did.
    pub fn until_it_ends(&mut self, mut product: Product, rule: &str) -> ExitStatus {
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
    pub fn assert_nothing_is_lost(&self, case: &str) {
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
            // What is refused is found by halves: many pushes, on a busy machine.
            assert!(start.elapsed() < 5 * PATIENCE, "{case}: {lost} lines are lost\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        stop(product);
        let log = self.bed.product_log();
        for wrong in ["are lost", "is damaged", "panicked"] {
            assert!(!log.contains(wrong), "{case}: {wrong}\n{log}");
        }
    }
}
