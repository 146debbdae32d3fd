//! The one way to end: make way for what comes next, drain until a deadline, or leave at once.

use crate::bell::Bell;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Running = 0,
    /// Others go on where this ends: begin nothing, finish what is under way.
    Yielding = 1,
    /// Take nothing in, send all there is.
    Draining = 2,
    /// Leave things as they are: what is durable stays so.
    Leaving = 3,
}

/// Seen by all threads; moves forward only.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    phase: AtomicU8,
    yielded: AtomicBool,
    bells: Mutex<Vec<Arc<Bell>>>,
}

impl Stop {
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Yielding,
            2 => Phase::Draining,
            _ => Phase::Leaving,
        }
    }

    /// Whether others go on where this ends.
    #[must_use]
    pub fn has_successor(&self) -> bool {
        self.0.yielded.load(Ordering::Acquire)
    }

    /// Moves on to `phase` and rings every bell that wants to know.
    pub fn advance(&self, phase: Phase) {
        if phase == Phase::Yielding {
            self.0.yielded.store(true, Ordering::Release);
        }
        self.0.phase.fetch_max(phase as u8, Ordering::AcqRel);
        let bells = self.0.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.iter().for_each(|bell| bell.ring());
    }

    pub fn rings(&self, bell: Arc<Bell>) {
        self.0.bells.lock().unwrap_or_else(PoisonError::into_inner).push(bell);
    }
}
