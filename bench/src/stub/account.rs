//! What is kept of entries that were stored: marks, order, latency, and the entries themselves.

use super::Kept;
use super::decode::{Entry, Metadata};
use super::ledger::Receipt;
use super::receive::Store;
use crate::load::{Mark, Reading};
use std::hash::BuildHasher;

/// Lines that were written before it, and came after it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    pub since_ns: i64,
    pub lines: u64,
    pub first_ns: i64,
    pub last_ns: i64,
}

impl Store {
    pub(super) fn account(
        &mut self,
        stream: usize,
        entry: &Entry<'_>,
        metadata: Metadata<'_>,
        received_ns: i64,
    ) {
        self.stats.entries += 1;
        self.stats.line_bytes += entry.line.len() as u64;
        let fresh = self.keep(stream, entry, metadata);
        let mark = match Mark::read(entry.line) {
            Reading::Intact(mark) => mark,
            Reading::Corrupted => {
                self.stats.corrupted += 1;
                return;
            }
            Reading::Unmarked => {
                self.stats.unmarked += 1;
                self.stats.unmarked_repeated += u64::from(!fresh);
                return;
            }
        };
        match self.ledger.record(mark.writer, mark.sequence, entry.timestamp_ns) {
            Receipt::First => {}
            Receipt::Repeated => {
                self.stats.repeated += 1;
                return;
            }
            Receipt::RepeatedVisibly => {
                self.stats.repeated += 1;
                self.stats.repeated_visibly += 1;
                return;
            }
            Receipt::Unaccounted => {
                self.stats.unaccounted += 1;
                return;
            }
        }
        self.stats.received += 1;
        self.note_backlog(mark, received_ns);
        let latency_us = u64::try_from((received_ns - mark.written_ns) / 1_000).unwrap_or(0);
        self.latency.saturating_record(latency_us);
        self.latency_window.saturating_record(latency_us);
        self.check_order(stream, mark, entry.timestamp_ns);
    }

    /// A line that was there before somebody began to look on, and is here now.
    fn note_backlog(&mut self, mark: Mark, received_ns: i64) {
        let backlog = &mut self.backlog;
        if mark.written_ns < backlog.since_ns && received_ns >= backlog.since_ns {
            if backlog.lines == 0 {
                backlog.first_ns = received_ns;
            }
            backlog.lines += 1;
            backlog.last_ns = backlog.last_ns.max(received_ns);
        }
    }

    /// Of first deliveries: timestamps of a stream strictly increase, and so do, with them, the
    /// sequence numbers of a writer.
    fn check_order(&mut self, stream: usize, mark: Mark, timestamp_ns: i64) {
        let stream = &mut self.tenants.streams[stream];
        if timestamp_ns <= stream.last_first_ns {
            self.stats.out_of_order += 1;
        }
        stream.last_first_ns = stream.last_first_ns.max(timestamp_ns);
        // The ledger bounds the number of writers.
        let head = stream.heads.entry(mark.writer).or_insert((i64::MIN, 0));
        if head.0 == i64::MIN {
            *head = (timestamp_ns, mark.sequence);
            return;
        }
        if (timestamp_ns > head.0) != (mark.sequence > head.1) {
            self.stats.out_of_sequence += 1;
        }
        if timestamp_ns > head.0 {
            *head = (timestamp_ns, mark.sequence);
        }
    }

    /// Keeps the entry for a test to look at; false if it is kept already.
    fn keep(&mut self, stream: usize, entry: &Entry<'_>, metadata: Metadata<'_>) -> bool {
        if self.keep_entries == 0 {
            return true;
        }
        let pairs = metadata.pairs();
        let print = self.hasher.hash_one((stream, entry.timestamp_ns, entry.line, &pairs));
        if self.kept_prints.contains(&print) {
            return false;
        }
        if self.kept.len() < self.keep_entries {
            self.kept_prints.insert(print);
            self.kept.push(Kept {
                tenant: self.tenants.streams[stream].tenant.clone(),
                labels: self.tenants.streams[stream].labels.clone(),
                timestamp_ns: entry.timestamp_ns,
                line: entry.line.to_vec(),
                metadata: pairs,
            });
        } else {
            self.stats.not_kept += 1;
        }
        true
    }
}
