//! Where the API asks a shard how far it has read its files: they are in its hands alone.

use crate::lock;
use io::tail::Identity;
use shards::bell::Bell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A file, as its shard sees it.
#[derive(Debug, Clone)]
pub struct Sighting {
    pub path: PathBuf,
    pub identity: Identity,
    pub labels: String,
    pub offset: u64,
    pub open: bool,
    /// Since when something of it waits to be read.
    pub waits_since: Option<Instant>,
}

/// Of one shard.
pub struct Sightings {
    asked: AtomicU64,
    /// For the shard, so that it takes no lock where nobody asked.
    told: AtomicU64,
    seen: Mutex<(u64, Arc<Vec<Sighting>>)>,
    bell: Arc<Bell>,
}

impl Sightings {
    /// `bell` is what the shard hears.
    #[must_use]
    pub fn new(bell: Arc<Bell>) -> Sightings {
        Sightings {
            asked: AtomicU64::new(0),
            told: AtomicU64::new(0),
            seen: Mutex::default(),
            bell,
        }
    }

    /// Asks; gives what [`Sightings::answer`] is asked with.
    pub fn ask(&self) -> u64 {
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.bell.ring();
        asked
    }

    /// What the shard saw since that was asked.
    #[must_use]
    pub fn answer(&self, asked: u64) -> Option<Arc<Vec<Sighting>>> {
        let (answered, seen) = &*lock(&self.seen);
        (*answered >= asked).then(|| seen.clone())
    }

    /// For the shard, whenever it passes by: looks only where somebody asked.
    pub fn tell(&self, look: impl FnOnce() -> Vec<Sighting>) {
        let asked = self.asked.load(Ordering::Acquire);
        if self.told.load(Ordering::Relaxed) < asked {
            let seen = Arc::new(look());
            *lock(&self.seen) = (asked, seen);
            self.told.store(asked, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_after_the_question_and_nobody_looks_without_one() {
        let sightings = Sightings::new(Arc::default());
        sightings.tell(|| unreachable!("nobody asked"));
        let first = sightings.ask();
        assert!(sightings.answer(first).is_none());
        sightings.tell(Vec::new);
        assert!(sightings.answer(first).is_some());
        let second = sightings.ask();
        assert!(sightings.answer(second).is_none() && sightings.answer(first).is_some());
        sightings.tell(Vec::new);
        assert!(sightings.answer(second).is_some());
    }
}
