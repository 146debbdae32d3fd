//! Mistakes that a test puts into the product, one at a time and for its own thread. Without the
//! feature `sim` there is no switch: [`crate::planted`] is false then, at compile time.

use std::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Frames count as durable before their write.
    AckBeforeSync,
    /// A cursor counts before the frame that carries it is durable.
    CursorBeforeData,
    /// Segments go before the checkpoint that makes them needless.
    UnlinkBeforeCheckpoint,
    /// After a failed write, the same segment takes what comes next.
    AppendAfterFailedSync,
    /// Frames go over to a sink in another order than that of the log.
    RingReordering,
    /// A removal may take the segment that a commit is making.
    RemoveEmptySegment,
    /// A new name is not synced.
    NoDirectorySync,
    /// Streams that a sink may not know travel with others.
    NeverAlone,
    /// Frames of an older segment in the same blocks count.
    SaltIgnored,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Until it is dropped, the product has this mistake.
pub struct Planted(());

#[must_use]
pub fn plant(bug: Bug) -> Planted {
    PLANTED.set(Some(bug));
    Planted(())
}

impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}

#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
