//! The dead-letter queue of one shard and one sink: entries that the sink refuses for good, kept
//! durably with the reason until they are sent again or purged.
//!
//! - [`record`]: one entry, a line of JSON; [`body`]: many of them, one frame.
//! - [`store`]: [`Dlq`], the queue as a running shard has it; [`index`]: what it keeps in memory.
//! - [`filter`]: which entries a command means; [`replay`]: entries become a push.
//! - [`offline`]: reads a queue without touching it; [`command`]: `log-capturer dlq …`.
//!
//! A queue is a write-ahead log of its own (`shard-NN/dlq/SINK/`), with all that such a log has:
//! groups, checksums, recovery, quota. A frame holds records, or says which frames are *settled*:
//! sent again, purged, or written anew. What is not settled *waits*.
//!
//! A crash, step by step:
//!
//! - While records are put: those of a group that was not synced may show or not; who put them did
//!   not hear that they are durable, and puts them again. They may show twice, and are never lost.
//! - After a frame was sent again and before it is settled: it is sent once more. Its entries have
//!   their timestamps still, so that Loki stores them once.
//! - While what is left of a frame is written anew (a part was purged, it was refused again, it was
//!   moved to the tail): where it is one frame for one, the new one names the old one in its tag,
//!   so that either the one or the other waits. Where there are more, the new ones come first and a
//!   settled-frame last: between them, entries show twice.
//! - After a settled-frame was synced: what it names waits no more. It comes behind what it names,
//!   and segments are removed from the oldest on, behind a durable checkpoint: so it is there as
//!   long as what it names. Where damage takes a settled-frame, what it named shows again, and the
//!   damage is reported.
//! - While segments are removed: the checkpoint before says that they are done with, whichever of
//!   them are left.
//! - Damage loses the frames that it hits and no other: they are reported as gaps, and the segment
//!   is copied to quarantine. A frame that is whole but means nothing (a later version wrote it)
//!   waits like others, is counted, and goes when everything is purged.
//!
//! Space comes back by segments, from the oldest on. So that an old entry does not hold the quota
//! for ever, the frames that wait in the oldest segment are moved to the tail once more than half
//! of the quota is in use and most of that segment, or of all of them, is settled. A part of the
//! quota is kept for that and for settled-frames: records are refused first.

pub mod body;
pub mod change;
pub mod command;
pub mod filter;
pub mod index;
pub mod offline;
pub mod record;
pub mod replay;
mod state;
pub mod store;

#[cfg(test)]
mod tests;

pub use filter::Filter;
pub use index::{FrameInfo, Stats};
pub use record::{Origin, Reason, Record};
pub use store::{Dlq, DlqError, Found, PutError, Stored};

use io::format::FormatVersion;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the log is, and where what of it is damaged is copied to.
    pub dir: PathBuf,
    pub quarantine: PathBuf,
    /// The number of the shard.
    pub owner: u32,
    pub sink: String,
    /// All segments together; a part of it is kept for settling.
    pub bytes_max: u64,
    pub segment_bytes: u64,
    /// A frame of several records, before compression.
    pub frame_raw_bytes: usize,
    pub when_full: WhenFull,
    pub backoff: Backoff,
    /// The version of the format.
    pub writes: FormatVersion,
}

/// What becomes of records that find the quota used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// They are given back: whoever brings them waits.
    Keep,
    /// The oldest make room, and are counted.
    DropOldest,
}

/// When what was refused is sent again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first attempt; it doubles with each.
    pub interval: Duration,
    /// However few attempts there were.
    pub age_min: Duration,
    pub attempts_max: u32,
    pub backoff_max: Duration,
}

impl Backoff {
    /// How long after it was refused last something waits that was sent again `attempts` times.
    #[must_use]
    pub fn wait(&self, attempts: u32) -> Duration {
        let doubled = attempts.checked_sub(1).map_or(Duration::ZERO, |times| {
            self.interval.saturating_mul(1 << times.min(30)).min(self.backoff_max)
        });
        doubled.max(self.age_min)
    }
}
