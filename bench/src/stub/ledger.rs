//! Which marked lines arrived, and how: four bytes for each of the newest lines; older ones are settled,
//! so that a run of any length fits into memory.

use std::collections::{HashMap, VecDeque};

/// What one delivery was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    First,
    /// Sent again with the same timestamp: Loki shows one line.
    Repeated,
    /// Sent again with another timestamp: a duplicate that a user sees.
    RepeatedVisibly,
    /// No room was left to keep account of it.
    Unaccounted,
}

pub struct Ledger {
    writers: HashMap<u32, Writer>,
    lines_held: u64,
    lines_max: u64,
    writers_max: usize,
}

#[derive(Default)]
struct Writer {
    /// Sequence numbers below are settled: what of them had not arrived by then counts as lost.
    settled: u64,
    settled_missing: u64,
    /// By sequence number from `settled` on: 0 where nothing arrived, else a print of the first
    /// delivery's timestamp.
    prints: VecDeque<u32>,
    received: u64,
}

impl Ledger {
    pub fn new(lines_max: u64, writers_max: usize) -> Ledger {
        Ledger { writers: HashMap::new(), lines_held: 0, lines_max, writers_max }
    }

    pub fn record(&mut self, writer: u32, sequence: u64, timestamp_ns: i64) -> Receipt {
        if self.writers.len() == self.writers_max && !self.writers.contains_key(&writer) {
            return Receipt::Unaccounted;
        }
        let writer = self.writers.entry(writer).or_default();
        let Some(ahead) = sequence.checked_sub(writer.settled) else { return Receipt::Unaccounted };
        let more = ahead.saturating_add(1).saturating_sub(writer.prints.len() as u64);
        if more > 0 {
            let room = self.lines_max - self.lines_held;
            if more > room {
                // No other writer's: its lines may be on their way still.
                let Some(freed) = writer.settle(more - room) else { return Receipt::Unaccounted };
                self.lines_held -= freed;
            }
            self.lines_held += more;
            let len = usize::try_from(sequence - writer.settled + 1).expect("within lines_max");
            writer.prints.resize(len, 0);
        }
        let at = usize::try_from(sequence - writer.settled).expect("within lines_max");
        let print = print_of(timestamp_ns);
        let first = &mut writer.prints[at];
        if *first == 0 {
            *first = print;
            writer.received += 1;
            Receipt::First
        } else if *first == print {
            Receipt::Repeated
        } else {
            Receipt::RepeatedVisibly
        }
    }

    /// Distinct lines that arrived of a writer.
    pub fn received(&self, writer: u32) -> u64 {
        self.writers.get(&writer).map_or(0, |w| w.received)
    }

    pub fn received_in_all(&self) -> u64 {
        self.writers.values().map(|w| w.received).sum()
    }

    /// Lines of `0..written` that did not arrive.
    pub fn missing(&self, writer: u32, written: u64) -> u64 {
        written - self.within(writer, written)
    }

    /// Lines that arrived though the writer never wrote them.
    pub fn unwritten(&self, writer: u32, written: u64) -> u64 {
        self.received(writer) - self.within(writer, written)
    }

    fn within(&self, writer: u32, written: u64) -> u64 {
        let Some(writer) = self.writers.get(&writer) else { return 0 };
        let Some(unsettled) = written.checked_sub(writer.settled) else {
            // More was settled than was written: strangers' lines, which never come in order.
            return written.min(writer.settled - writer.settled_missing);
        };
        let end = usize::try_from(unsettled).unwrap_or(usize::MAX).min(writer.prints.len());
        let arrived = writer.prints.range(..end).filter(|print| **print != 0).count() as u64;
        writer.settled - writer.settled_missing + arrived
    }

    pub fn writers(&self) -> impl Iterator<Item = u32> {
        self.writers.keys().copied()
    }
}

impl Writer {
    /// Forgets the oldest lines, half of what is held but at least so many; None where fewer are held.
    fn settle(&mut self, least: u64) -> Option<u64> {
        let held = self.prints.len() as u64;
        let count = least.max(held / 2);
        if count > held {
            return None;
        }
        let end = usize::try_from(count).expect("within a VecDeque");
        self.settled_missing += self.prints.drain(..end).filter(|print| *print == 0).count() as u64;
        self.settled += count;
        Some(count)
    }
}

/// 31 well-mixed bits of a timestamp, never 0.
fn print_of(timestamp_ns: i64) -> u32 {
    let mixed = timestamp_ns.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // A shift by 32 leaves 32 bits.
    u32::try_from(mixed >> 32).expect("32 bits") | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_told_apart() {
        let mut ledger = Ledger::new(100, 2);
        assert_eq!(ledger.record(1, 5, 1_000), Receipt::First);
        assert_eq!(ledger.record(1, 5, 1_000), Receipt::Repeated);
        assert_eq!(ledger.record(1, 5, 1_001), Receipt::RepeatedVisibly);
        assert_eq!(ledger.record(1, 0, 900), Receipt::First);
        assert_eq!(ledger.received(1), 2);
        assert_eq!(ledger.missing(1, 6), 4);
        assert_eq!(ledger.missing(1, 10), 8);
        assert_eq!(ledger.unwritten(1, 5), 1);
        assert_eq!(ledger.missing(9, 3), 3);
    }

    #[test]
    fn memory_is_bounded() {
        let mut ledger = Ledger::new(10, 2);
        assert_eq!(ledger.record(1, 10, 1), Receipt::Unaccounted);
        assert_eq!(ledger.record(1, u64::MAX, 1), Receipt::Unaccounted);
        assert_eq!(ledger.record(1, 9, 1), Receipt::First);
        assert_eq!(ledger.record(2, 0, 1), Receipt::Unaccounted);
        assert_eq!(ledger.record(3, 0, 1), Receipt::Unaccounted);
    }

    #[test]
    fn old_lines_are_settled_and_stay_in_the_account() {
        let mut ledger = Ledger::new(10, 2);
        for sequence in (0..100).filter(|sequence| *sequence != 33) {
            assert_eq!(ledger.record(1, sequence, 5), Receipt::First, "{sequence}");
        }
        assert_eq!(ledger.received(1), 99);
        assert_eq!((ledger.missing(1, 100), ledger.unwritten(1, 100)), (1, 0));
        assert_eq!(ledger.missing(1, 103), 4);
        assert_eq!(ledger.record(1, 33, 5), Receipt::Unaccounted, "too late to be believed");
        assert_eq!(ledger.record(1, 99, 5), Receipt::Repeated);
    }

    #[test]
    fn neighbouring_timestamps_have_other_prints() {
        let prints: std::collections::HashSet<u32> =
            (0..1_000).map(|i| print_of(1_767_225_600_000_000_000 + i)).collect();
        assert!(prints.len() > 990);
    }
}
