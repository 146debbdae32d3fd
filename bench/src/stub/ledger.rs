//! Which marked lines arrived, and how: four bytes a line, so that hours fit into memory.

use std::collections::HashMap;

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
    /// By sequence number: 0 where nothing arrived, else a print of the first delivery's timestamp.
    prints: Vec<u32>,
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
        let Ok(at) = usize::try_from(sequence) else { return Receipt::Unaccounted };
        let writer = self.writers.entry(writer).or_default();
        if at >= writer.prints.len() {
            let more = (sequence - writer.prints.len() as u64).saturating_add(1);
            if more > self.lines_max - self.lines_held {
                return Receipt::Unaccounted;
            }
            self.lines_held += more;
            writer.prints.resize(at + 1, 0);
        }
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
        let end = usize::try_from(written).unwrap_or(usize::MAX).min(writer.prints.len());
        writer.prints[..end].iter().filter(|print| **print != 0).count() as u64
    }

    pub fn writers(&self) -> impl Iterator<Item = u32> {
        self.writers.keys().copied()
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
    fn neighbouring_timestamps_have_other_prints() {
        let prints: std::collections::HashSet<u32> =
            (0..1_000).map(|i| print_of(1_767_225_600_000_000_000 + i)).collect();
        assert!(prints.len() > 990);
    }
}
