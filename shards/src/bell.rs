//! Wakes whoever waits for work: a task on an executor, or a blocking thread.
//!
//! A bell remembers that it was rung, so that a ring between "nothing to do" and "wait" is heard.
//! Many rings before a wait are one.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{AtomicWaker, Condvar, Mutex};
use std::cell::{Cell, RefCell};
use std::sync::PoisonError;
use std::task::{Poll, Waker};
use std::time::Instant;

/// Heard by one task, or by blocking threads, of which each ring wakes one.
#[derive(Default)]
pub struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
    threads: Mutex<usize>,
    condition: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        self.task.wake();
        // The lock orders this ring against a thread that just found the bell silent.
        let waiting = *self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting > 0 {
            self.condition.notify_one();
        }
    }

    /// Waits for a ring; for one task at a time.
    pub async fn wait(&self) {
        std::future::poll_fn(|context| {
            if self.rung.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            self.task.register(context.waker());
            if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Blocks the thread until a ring, or until `deadline`.
    pub fn wait_blocking(&self, deadline: Option<Instant>) {
        let mut waiting = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting += 1;
        while !self.rung.swap(false, Ordering::AcqRel) {
            let Some(deadline) = deadline else {
                waiting = self.condition.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self
                .condition
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *waiting -= 1;
    }
}

/// The same between the tasks of one executor, any number of them: no atomics, wakes all.
#[derive(Default)]
pub struct LocalBell {
    rung: Cell<u64>,
    places: Cell<u64>,
    waiting: RefCell<Vec<(u64, Waker)>>,
}

/// A place among those who wait: taken once for each ring, and given back when the wait is given up.
/// Wakers count their task's references, of which an executor has room for some thousands only.
struct Place<'a> {
    bell: &'a LocalBell,
    number: u64,
    /// The ring after which it was taken.
    taken: Option<u64>,
}

impl LocalBell {
    pub fn ring(&self) {
        self.rung.set(self.rung.get() + 1);
        self.waiting.borrow_mut().drain(..).for_each(|(_, waker)| waker.wake());
    }

    /// Waits until `ready` gives something; looks again after each ring.
    pub async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        self.places.set(self.places.get() + 1);
        let mut place = Place { bell: self, number: self.places.get(), taken: None };
        std::future::poll_fn(|context| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            place.take(context.waker());
            Poll::Pending
        })
        .await
    }
}

impl Place<'_> {
    fn take(&mut self, waker: &Waker) {
        let rung = self.bell.rung.get();
        if self.taken != Some(rung) {
            self.taken = Some(rung);
            self.bell.waiting.borrow_mut().push((self.number, waker.clone()));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.taken == Some(self.bell.rung.get()) {
            self.bell.waiting.borrow_mut().retain(|(number, _)| *number != self.number);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_ring_before_the_wait_is_heard() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        bell.wait_blocking(None);
        let before = Instant::now();
        bell.wait_blocking(Some(before + Duration::from_millis(5)));
        assert!(before.elapsed() >= Duration::from_millis(5), "two rings are one");
    }

    #[test]
    fn no_ring_between_threads_is_lost() {
        let (ping, pong) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let other = {
            let (ping, pong) = (ping.clone(), pong.clone());
            std::thread::spawn(move || {
                for _ in 0..10_000 {
                    ping.wait_blocking(None);
                    pong.ring();
                }
            })
        };
        for _ in 0..10_000 {
            ping.ring();
            pong.wait_blocking(None);
        }
        other.join().unwrap();
    }

    #[test]
    fn a_task_hears_other_threads() {
        let (ping, pong) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let other = {
            let (ping, pong) = (ping.clone(), pong.clone());
            std::thread::spawn(move || {
                for _ in 0..2_000 {
                    ping.wait_blocking(None);
                    pong.ring();
                }
            })
        };
        glommio::LocalExecutor::default().run(async move {
            for _ in 0..2_000 {
                ping.ring();
                pong.wait().await;
            }
        });
        other.join().unwrap();
    }

    #[test]
    fn who_waits_has_one_place_and_who_gives_up_has_none() {
        let bell = LocalBell::default();
        let (one, other) = (Cell::new(false), Cell::new(false));
        let mut context = std::task::Context::from_waker(Waker::noop());
        let waits = || bell.waiting.borrow().len();
        {
            let mut first = std::pin::pin!(bell.until(|| one.get().then_some(())));
            for _ in 0..3 {
                assert!(first.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!(waits(), 1);
            for _ in 0..3 {
                let mut second = std::pin::pin!(bell.until(|| other.get().then_some(())));
                assert!(second.as_mut().poll(&mut context).is_pending());
                assert_eq!(waits(), 2);
            }
            assert_eq!(waits(), 1);
            bell.ring();
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert_eq!(waits(), 1);
            one.set(true);
            assert!(first.as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(waits(), 0);
    }
}
