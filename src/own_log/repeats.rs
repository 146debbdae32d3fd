//! What one place in the program says again and again: the first few of a period are said, the others
//! are counted, and the count is said when the period is over.
//!
//! There is an entry for each place, of which a program has so many and no more.

use crate::lock;
use perf::errors::ErrorKey;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Metadata;
use tracing::callsite::Identifier;

/// So many of one place are said in one period.
pub const SAID_MAX: u32 = 10;
pub const PERIOD: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Repeats {
    places: Mutex<HashMap<Identifier, Place>>,
    /// Rung when the first of a period is left out.
    bell: Condvar,
    /// Held from a sum's being taken to its being said: so that the process does not end in between.
    saying: Mutex<()>,
}

struct Place {
    metadata: &'static Metadata<'static>,
    since: Instant,
    said: u32,
    left_out: u64,
    /// As it was when it was left out first.
    message: String,
    error_key: Option<ErrorKey>,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// And before it, what was left out in the period that is over.
    Say(Option<Sum>),
    LeaveOut {
        /// Of its place in this period: [`Repeats::name`] wants to know what it says.
        first: bool,
    },
}

#[derive(Debug)]
pub struct Sum {
    pub metadata: &'static Metadata<'static>,
    pub message: String,
    pub error_key: Option<ErrorKey>,
    pub suppressed: u64,
}

impl PartialEq for Sum {
    fn eq(&self, other: &Sum) -> bool {
        (&self.message, self.error_key, self.suppressed)
            == (&other.message, other.error_key, other.suppressed)
    }
}

impl Place {
    fn over_at(&self) -> Instant {
        self.since + PERIOD
    }

    fn take(&mut self) -> Option<Sum> {
        let suppressed = std::mem::take(&mut self.left_out);
        (suppressed > 0).then(|| Sum {
            metadata: self.metadata,
            // Not named yet: the one who does it has not come so far.
            message: if self.message.is_empty() {
                self.metadata.name().into()
            } else {
                self.message.clone()
            },
            error_key: self.error_key,
            suppressed,
        })
    }
}

impl Repeats {
    pub fn judge(&self, metadata: &'static Metadata<'static>, now: Instant) -> Verdict {
        let mut places = lock(&self.places);
        let place = places.entry(metadata.callsite()).or_insert_with(|| Place {
            metadata,
            since: now,
            said: 0,
            left_out: 0,
            message: String::new(),
            error_key: None,
        });
        let mut sum = None;
        if place.over_at() <= now {
            sum = place.take();
            (place.since, place.said) = (now, 0);
        }
        if place.said < SAID_MAX {
            place.said += 1;
            return Verdict::Say(sum);
        }
        place.left_out += 1;
        let first = place.left_out == 1;
        drop(places);
        if first {
            self.bell.notify_one();
        }
        Verdict::LeaveOut { first }
    }

    /// What the first one that was left out says.
    pub fn name(&self, metadata: &Metadata<'_>, message: &str, error_key: Option<ErrorKey>) {
        if let Some(place) = lock(&self.places).get_mut(&metadata.callsite()) {
            message.clone_into(&mut place.message);
            place.error_key = error_key;
        }
    }

    /// Of all periods, over or not.
    pub fn say_all(&self, say: impl FnMut(Sum)) {
        let _saying = lock(&self.saying);
        let sums = self.take_all();
        sums.into_iter().for_each(say);
    }

    fn take_all(&self) -> Vec<Sum> {
        lock(&self.places).values_mut().filter_map(Place::take).collect()
    }

    /// Of the periods that are over.
    fn take_over(&self, now: Instant) -> Vec<Sum> {
        let mut places = lock(&self.places);
        let over = places.values_mut().filter(|place| place.over_at() <= now);
        over.filter_map(Place::take).collect()
    }

    /// Gives each sum when its period is over; rests while nothing is left out. Without end.
    pub fn wait_for_sums(&self, mut say: impl FnMut(Sum)) {
        loop {
            let now = self.wait_until_over();
            let _saying = lock(&self.saying);
            self.take_over(now).into_iter().for_each(&mut say);
        }
    }

    fn wait_until_over(&self) -> Instant {
        let mut places = lock(&self.places);
        loop {
            let now = Instant::now();
            let left_out = places.values().filter(|place| place.left_out > 0);
            places = match left_out.map(Place::over_at).min() {
                None => self.bell.wait(places).unwrap_or_else(PoisonError::into_inner),
                Some(over_at) if over_at <= now => return now,
                Some(over_at) => {
                    let waited = self.bell.wait_timeout(places, over_at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;
    use tracing::{Event, Subscriber};
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    type Found = Arc<Mutex<Vec<&'static Metadata<'static>>>>;

    struct Finding(Found);

    impl<S: Subscriber> Layer<S> for Finding {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            lock(&self.0).push(event.metadata());
        }
    }

    /// Two places in a program.
    fn two_places() -> [&'static Metadata<'static>; 2] {
        let found = Found::default();
        tracing::subscriber::with_default(Registry::default().with(Finding(found.clone())), || {
            tracing::info!("one");
            tracing::info!("other");
        });
        let found = lock(&found);
        [found[0], found[1]]
    }

    fn said(repeats: &Repeats, place: &'static Metadata<'static>, now: Instant, times: u64) -> u64 {
        let mut said = 0;
        for _ in 0..times {
            match repeats.judge(place, now) {
                Verdict::Say(sum) => {
                    assert_eq!(sum, None);
                    said += 1;
                }
                Verdict::LeaveOut { first: true } => {
                    repeats.name(place, "it is so", Some(ErrorKey::PushFailed));
                }
                Verdict::LeaveOut { first: false } => {}
            }
        }
        said
    }

    #[test]
    fn the_first_of_a_period_are_said_and_of_the_others_the_number() {
        let (repeats, [one, other], start) = (Repeats::default(), two_places(), Instant::now());
        assert_eq!(said(&repeats, one, start, 10), 10);
        assert!(repeats.take_all().is_empty());
        assert_eq!(said(&repeats, one, start + PERIOD / 2, 37), 0);
        assert_eq!(said(&repeats, other, start, 3), 3, "each place has a number of its own");
        let sum = |suppressed| Sum {
            metadata: one,
            message: "it is so".into(),
            error_key: Some(ErrorKey::PushFailed),
            suppressed,
        };
        // With the next of it, where that is sooner.
        assert_eq!(repeats.judge(one, start + PERIOD), Verdict::Say(Some(sum(37))));
        assert_eq!(said(&repeats, one, start + PERIOD, 14), 9);
        assert_eq!(repeats.take_over(start + PERIOD), []);
        assert_eq!(repeats.take_over(start + 2 * PERIOD), [sum(5)]);
        // And it begins anew.
        assert_eq!(said(&repeats, one, start + 2 * PERIOD, 11), 10);
        assert_eq!(repeats.take_all(), [sum(1)]);
        assert!(repeats.take_all().is_empty(), "each is counted once");
    }

    #[test]
    fn what_threads_say_is_said_or_counted() {
        const THREADS: u64 = 8;
        const TIMES: u64 = 5_000;
        let (repeats, [one, other], start) = (Repeats::default(), two_places(), Instant::now());
        let threads = || (0..THREADS).map(|thread| if thread % 2 == 0 { one } else { other });
        let said: u64 = std::thread::scope(|scope| {
            let running: Vec<_> = threads()
                .map(|place| scope.spawn(|| said(&repeats, place, start, TIMES)))
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let sums = repeats.take_all();
        assert_eq!((said, sums.len()), (20, 2));
        let suppressed: u64 = sums.iter().map(|sum| sum.suppressed).sum();
        assert_eq!(said + suppressed, THREADS * TIMES);
    }

    #[test]
    fn at_the_end_of_a_period_it_is_said_by_itself() {
        let (repeats, [one, _]) = (Arc::new(Repeats::default()), two_places());
        let (sums, told) = mpsc::channel();
        let waiting = repeats.clone();
        // It goes with the process.
        std::thread::spawn(move || waiting.wait_for_sums(|sum| sums.send(sum).unwrap()));
        let began = Instant::now() - PERIOD + Duration::from_millis(50);
        assert_eq!(said(&repeats, one, began, 12), 10);
        let sum = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((sum.suppressed, sum.message.as_str()), (2, "it is so"));
    }
}
