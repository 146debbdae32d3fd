//! A simulated disk with power losses and faults, and the scheduler that mixes the tasks on it.
//!
//! - [`disk`]: the operations of a [`crate::disk::Disk`], each in the steps that the real disks take,
//!   with latency and faults;
//! - [`media`]: what is durable of files and names, what is pending, and what a crash makes of that;
//! - [`schedule`]: tasks that go on in an order that a seed says, in simulated ticks;
//! - [`campaign`]: cases by seeds, run, shrunk and replayed;
//! - [`mod@planted`]: mistakes that a test puts into the product, to see whether it finds them.
//!
//! For tests: the feature `sim` brings it, and a release does not ask for that.

pub mod campaign;
pub mod disk;
pub mod media;
pub mod planted;
pub mod schedule;

pub use crate::plain::run;
pub use disk::{Fault, SimDisk};
pub use media::Outcome;
pub use schedule::{Clock, Scheduler};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// splitmix64: one multiplication quality is enough to pick faults.
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Anything below `n`.
pub fn below(seed: &mut u64, n: usize) -> usize {
    usize::try_from(random(seed) % n as u64).expect("below a usize")
}

/// True once in `n`.
pub fn one_in(seed: &mut u64, n: u64) -> bool {
    random(seed).is_multiple_of(n)
}

/// How often something interesting happened: a simulation in which it never does tests nothing.
#[derive(Clone, Debug, Default)]
pub struct Events(Rc<RefCell<BTreeMap<&'static str, u64>>>);

impl Events {
    pub fn count(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }

    #[must_use]
    pub fn has(&self, what: &str) -> bool {
        self.0.borrow().contains_key(what)
    }

    /// Adds what others counted.
    pub fn add(&self, others: &Events) {
        let mut counts = self.0.borrow_mut();
        for (what, count) in &*others.0.borrow() {
            *counts.entry(what).or_default() += count;
        }
    }

    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.borrow().clone()
    }
}
