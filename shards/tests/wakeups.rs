//! Every order in which threads may ring, ask and wait: nobody sleeps while there is something to do.
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p log-capturer-shards --test wakeups --target-dir target/loom

#![cfg(loom)]

use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use shards::asked::Asked;
use shards::bell::Bell;

/// All orders, or those in which threads are interrupted so often at most.
fn model(interruptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = interruptions;
    builder.check(model);
}

/// Items of a queue: relaxed, so that whoever sees them does so by the bell and nothing else.
#[derive(Default)]
struct Items {
    there: AtomicUsize,
    bell: Bell,
    asked: Asked,
}

impl Items {
    fn put(&self) {
        self.there.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// As [`Items::put`], where the receiver asked for it.
    fn put_if_asked(&self) {
        self.there.fetch_add(1, Ordering::Relaxed);
        if self.asked.is_wanted() {
            self.bell.ring();
        }
    }

    fn left(&self) -> usize {
        self.there.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let some = |there: usize| there.checked_sub(1);
        self.there.fetch_update(Ordering::Relaxed, Ordering::Relaxed, some).is_ok()
    }
}

fn shared() -> (Arc<Items>, Arc<Items>) {
    let items = Arc::new(Items::default());
    (items.clone(), items)
}

#[test]
fn a_task_hears_a_ring_at_any_moment_and_sees_what_it_is_for() {
    model(None, || {
        let (items, other) = shared();
        let ringer = thread::spawn(move || other.put());
        block_on(items.bell.wait());
        assert_eq!(items.left(), 1);
        ringer.join().unwrap();
    });
}

#[test]
fn a_task_sees_what_many_rings_are_for() {
    model(Some(3), || {
        let (items, other) = shared();
        let third = items.clone();
        let ringers = [thread::spawn(move || other.put()), thread::spawn(move || third.put())];
        let mut taken = 0;
        while taken < 2 {
            if items.take() {
                taken += 1;
            } else {
                block_on(items.bell.wait());
            }
        }
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

#[test]
fn a_thread_hears_a_ring_at_any_moment() {
    model(None, || {
        let (items, other) = shared();
        let ringer = thread::spawn(move || {
            other.put();
            other.put();
        });
        let mut taken = 0;
        while taken < 2 {
            if items.take() {
                taken += 1;
            } else {
                items.bell.wait_blocking(None);
            }
        }
        ringer.join().unwrap();
    });
}

/// Rings are heard as one, so whoever takes an item and leaves others passes the ring on.
#[test]
fn each_of_two_threads_gets_its_item() {
    model(Some(3), || {
        let (items, other) = shared();
        let takers = [items.clone(), other].map(|items| {
            thread::spawn(move || {
                while !items.take() {
                    items.bell.wait_blocking(None);
                }
                if items.left() > 0 {
                    items.bell.ring();
                }
            })
        });
        items.put();
        items.put();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
    });
}

/// The sender gives so many, to a receiver that asks before it waits.
fn asked_for(items_in_all: usize, interruptions: Option<usize>) {
    model(interruptions, move || {
        let (items, other) = shared();
        let sender = thread::spawn(move || (0..items_in_all).for_each(|_| other.put_if_asked()));
        items.asked.ask(false);
        let mut taken = 0;
        while taken < items_in_all {
            if items.take() {
                taken += 1;
                continue;
            }
            items.asked.ask(true);
            if items.left() == 0 {
                block_on(items.bell.wait());
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn who_asks_and_waits_is_woken_and_who_does_not_ask_sees_it_later() {
    asked_for(1, None);
    asked_for(2, Some(3));
}
