//! What the stub has counted, and the verdict on it.

use super::faults::FaultCounts;
use crate::load::LineSum;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Push requests that arrived, whatever became of them.
    pub arrived: u64,
    /// Of them, those read in full, whatever was answered.
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
    /// Entries that were refused, as often as they were.
    pub entries_refused: u64,
    /// The same by what refused them.
    pub refused: BTreeMap<Reason, u64>,
    /// Of them, those that an ingester refused and the answer says nothing of: nobody knows.
    pub entries_hidden: u64,
    /// The most streams that a decoded push held.
    pub push_streams_max: u64,
    /// By X-Scope-OrgID; empty where none was sent.
    pub by_tenant: BTreeMap<String, TenantStats>,
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

/// What of it is one tenant's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantStats {
    /// Read in full, whatever was answered.
    pub pushes: u64,
    pub pushes_stored: u64,
    /// Entries taken, the repeated ones too.
    pub entries: u64,
    pub refused: BTreeMap<Reason, u64>,
}

/// Why an entry was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its stream's labels: too many, too long, none.
    Labels,
    TooOld,
    TooNew,
    LineTooLong,
    /// Too much of it, or too many pairs.
    Metadata,
    /// Behind its stream.
    TooFarBehind,
    StreamRate,
    StreamLimit,
    TenantRate,
    /// With the rest of its push, for the ingester.
    TooLarge,
    /// With the rest of its push, where some metadata has no name.
    Unnamed,
    /// By [`Fault::Refuse`](super::Fault::Refuse) or [`Fault::Partial`](super::Fault::Partial).
    Told,
    /// By [`Fault::Masked`](super::Fault::Masked).
    Masked,
}

/// In which company a stream travelled, of all pushes that could be decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Travels {
    /// Pushes that held no other stream.
    pub alone: u64,
    /// Pushes that held others too.
    pub together: u64,
    /// Of those alone, the ones before the first together.
    pub alone_first: u64,
    /// Whether the push that created it held no other stream; None where none did.
    pub created_alone: Option<bool>,
}

impl Travels {
    pub(super) fn note(&mut self, alone: bool) {
        self.alone += u64::from(alone);
        self.alone_first += u64::from(alone && self.together == 0);
        self.together += u64::from(!alone);
    }
}

/// Lines that had been written when somebody began to look on, and came after that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub lines: u64,
    /// From the beginning to the first of them, and to the last.
    pub first: Duration,
    pub last: Duration,
}

impl Backlog {
    /// Lines a second while they came; since the beginning where all came at once.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let took = if self.last > self.first { self.last - self.first } else { self.last };
        if self.lines == 0 { 0.0 } else { self.lines as f64 / took.as_secs_f64() }
    }
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
