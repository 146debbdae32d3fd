//! How many connections there may be, over all shards and from each address.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Doorman {
    open_max: usize,
    per_address_max: usize,
    open: AtomicUsize,
    /// Addresses by their hash: some share a cell, which no client can choose.
    by_address: Box<[AtomicUsize]>,
    hasher: RandomState,
}

/// Answered beyond the limits, one request each: someone must be able to look.
const CROWD_MAX: usize = 32;
const ADDRESS_CELLS: usize = 4096;

impl Doorman {
    #[must_use]
    pub fn new(open_max: usize, per_address_max: usize) -> Doorman {
        Doorman {
            open_max,
            per_address_max,
            open: AtomicUsize::new(0),
            by_address: (0..ADDRESS_CELLS).map(|_| AtomicUsize::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    fn cell(&self, address: IpAddr) -> &AtomicUsize {
        let hash = self.hasher.hash_one(address);
        &self.by_address[usize::try_from(hash % ADDRESS_CELLS as u64).expect("a small number")]
    }

    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a connection in; gives how crowded it is, or `None` where it must be turned away.
    pub(super) fn enter(&self, address: IpAddr) -> Option<bool> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let of_address = self.cell(address).fetch_add(1, Ordering::Relaxed);
        let crowded = open >= self.open_max || of_address >= self.per_address_max;
        if open >= self.open_max + CROWD_MAX || of_address >= self.per_address_max + CROWD_MAX {
            self.leave(address);
            return None;
        }
        Some(crowded)
    }

    pub(super) fn leave(&self, address: IpAddr) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.cell(address).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limits_a_crowd_is_let_in_and_no_more() {
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let doorman = Doorman::new(100, 10);
        let entered: Vec<_> = (0..100).map(|_| doorman.enter(one)).collect();
        assert_eq!(entered.iter().filter(|found| **found == Some(false)).count(), 10);
        assert_eq!(entered.iter().filter(|found| **found == Some(true)).count(), CROWD_MAX);
        assert_eq!(doorman.open(), 10 + CROWD_MAX);
        doorman.leave(one);
        assert_eq!(doorman.enter(one), Some(true));
        // Two addresses in one cell are possible, and rare.
        assert!(
            std::ptr::eq(doorman.cell(one), doorman.cell(other))
                || doorman.enter(other) == Some(false)
        );
    }
}
