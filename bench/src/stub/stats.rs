//! What the stub has counted, and the verdict on it.

use super::faults::FaultCounts;
use crate::load::LineSum;
use std::collections::BTreeMap;

/// Everything that was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Push requests read in full, whatever was answered.
    pub pushes: u64,
    /// Of them, those answered 204 with all stored (or masked as Loki does).
    pub pushes_stored: u64,
    /// Bodies as they came over the wire.
    pub wire_bytes: u64,
    /// Decompressed bodies of pushes that could be decoded.
    pub decoded_bytes: u64,
    /// Entries taken, the repeated ones too.
    pub entries: u64,
    pub line_bytes: u64,
    /// What all lines came to, where they are only counted.
    pub sum: LineSum,
    /// Entries that a limit refused.
    pub entries_refused: u64,
    /// Distinct marked lines.
    pub received: u64,
    /// Further deliveries of lines received before.
    pub repeated: u64,
    /// Of them, those whose timestamp is not that of the first: a query shows both.
    pub repeated_visibly: u64,
    /// Lines with a mark and a wrong checksum.
    pub corrupted: u64,
    /// Lines without a mark, the repeated ones too.
    pub unmarked: u64,
    /// Of them, those equal in stream, timestamp and line to a kept one.
    pub unmarked_repeated: u64,
    /// Marked lines beyond the bounds of the account.
    pub unaccounted: u64,
    /// Entries beyond [`Options::keep_entries`].
    pub not_kept: u64,
    /// First deliveries whose timestamp is not above all before in their stream.
    pub out_of_order: u64,
    /// First deliveries where timestamp and sequence number disagree within stream and writer.
    pub out_of_sequence: u64,
    pub faults: FaultCounts,
    /// Pushes by the status that was sent.
    pub answers: BTreeMap<u16, u64>,
}

/// An entry that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// X-Scope-OrgID; empty where none was sent.
    pub tenant: String,
    /// As Loki renders them: sorted, `{a="b", c="d"}`.
    pub labels: String,
    pub timestamp_ns: i64,
    pub line: Vec<u8>,
    /// Structured metadata: names and values, in their order.
    pub metadata: Vec<(String, String)>,
}

/// What was written held against what was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub written: u64,
    /// Distinct lines.
    pub received: u64,
    pub lost: u64,
    /// Lines received that nobody wrote.
    pub unwritten: u64,
    pub repeated: u64,
    pub repeated_visibly: u64,
    pub corrupted: u64,
    pub unmarked: u64,
    pub unaccounted: u64,
    pub out_of_order: u64,
    pub out_of_sequence: u64,
}

impl Verified {
    /// Each line written arrived exactly as written, in order. Invisible repetitions are allowed.
    #[must_use]
    pub fn complete(&self) -> bool {
        let Verified { written, received, repeated, .. } = *self;
        *self == Verified { written, received, repeated, ..Verified::default() }
            && written == received
    }

    /// Complete, and each line came once.
    #[must_use]
    pub fn exactly_once(&self) -> bool {
        self.complete() && self.repeated == 0
    }
}
