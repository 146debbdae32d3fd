//! A limit to how much may pass in a time, for all threads at once and without a lock.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many units a second, and at most a second's worth at once. One take that is larger passes where
/// nothing passed for long enough, and is paid off later.
#[derive(Debug)]
pub struct Rate {
    units_per_second: u64,
    /// When everything that passed is paid for, in nanoseconds since the start of [`Rates`].
    paid_at: AtomicU64,
}

const SECOND_NS: u64 = 1_000_000_000;

/// At most so much passes at once.
const BURST_NS: u64 = SECOND_NS;

impl Rate {
    #[must_use]
    pub fn new(units_per_second: u64) -> Rate {
        assert!(units_per_second > 0);
        Rate { units_per_second, paid_at: AtomicU64::new(0) }
    }

    /// Lets `units` pass, or says how long to wait.
    fn take_at(&self, units: u64, now_ns: u64) -> Result<(), Duration> {
        let cost = u128::from(units) * u128::from(SECOND_NS) / u128::from(self.units_per_second);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        let mut paid_at = self.paid_at.load(Ordering::Relaxed);
        loop {
            let from = paid_at.max(now_ns);
            let debt = from - now_ns;
            if debt > 0 && debt + cost > BURST_NS {
                return Err(Duration::from_nanos(debt.min(debt + cost - BURST_NS)));
            }
            match self.paid_at.compare_exchange_weak(
                paid_at,
                from.saturating_add(cost),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(other) => paid_at = other,
            }
        }
    }
}

/// A limit for all together, and one for each of many.
#[derive(Debug)]
pub struct Rates {
    start: Instant,
    all: Option<Rate>,
    /// By hash: some share a cell, which nobody can choose.
    each: Box<[Rate]>,
    hasher: RandomState,
}

const CELLS: usize = 4096;

impl Rates {
    #[must_use]
    pub fn new(all_per_second: Option<u64>, each_per_second: Option<u64>) -> Rates {
        Rates {
            start: Instant::now(),
            all: all_per_second.map(Rate::new),
            each: each_per_second
                .map(|rate| (0..CELLS).map(|_| Rate::new(rate)).collect())
                .unwrap_or_default(),
            hasher: RandomState::new(),
        }
    }

    /// Lets `units` of `who` pass, or says how long to wait.
    pub fn take(&self, who: &impl Hash, units: u64) -> Result<(), Duration> {
        if self.all.is_none() && self.each.is_empty() {
            return Ok(());
        }
        let now_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if !self.each.is_empty() {
            let cell = self.hasher.hash_one(who) % self.each.len() as u64;
            self.each[usize::try_from(cell).expect("an index")].take_at(units, now_ns)?;
        }
        self.all.as_ref().map_or(Ok(()), |all| all.take_at(units, now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn no_more_passes_than_the_rate_and_one_burst() {
        let rate = Rate::new(100);
        let passed = (0..10 * SECOND)
            .step_by(1_000_000)
            .filter(|now| rate.take_at(1, SECOND + now).is_ok())
            .count();
        assert!((1099..=1101).contains(&passed), "{passed} in ten seconds");
    }

    #[test]
    fn one_that_is_too_large_passes_alone_and_is_paid_off() {
        let rate = Rate::new(100);
        assert_eq!(rate.take_at(500, SECOND), Ok(()));
        let wait = rate.take_at(1, SECOND).unwrap_err();
        assert_eq!(wait, Duration::from_millis(4010));
        assert!(rate.take_at(1, SECOND + 4_000_000_000).is_err());
        assert_eq!(rate.take_at(1, SECOND + 4_010_000_000), Ok(()));
    }

    #[test]
    fn each_has_its_own() {
        let rates = Rates::new(None, Some(1));
        assert!(rates.take(&"a", 5).is_ok() && rates.take(&"a", 5).is_err());
        let others = ["b", "c", "d", "e"].iter().filter(|who| rates.take(who, 5).is_ok()).count();
        assert!(others >= 3, "they share no cell, or hardly any");
        assert!(Rates::new(None, None).take(&"a", u64::MAX).is_ok());
    }
}
