//! Tasks on one thread: whose turn it is says a seed, and time passes only where all wait.

use super::below;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Simulated time, in ticks.
#[derive(Clone, Debug, Default)]
pub struct Clock(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    now: Cell<u64>,
    /// Until when the task that is being polled sleeps.
    until: Cell<u64>,
}

impl Clock {
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// Gives the others their turn, even for no ticks.
    pub async fn sleep(&self, ticks: u64) {
        let until = self.now() + ticks;
        let mut polled = false;
        std::future::poll_fn(|_| {
            if polled && self.now() >= until {
                return Poll::Ready(());
            }
            polled = true;
            self.0.until.set(until);
            Poll::Pending
        })
        .await;
    }
}

type Future = Pin<Box<dyn std::future::Future<Output = ()>>>;

struct Task {
    future: Future,
    until: u64,
}

#[derive(Default)]
pub struct Scheduler {
    clock: Clock,
    tasks: Vec<Task>,
}

impl Scheduler {
    #[must_use]
    pub fn new(clock: Clock) -> Scheduler {
        Scheduler { clock, tasks: Vec::new() }
    }

    pub fn spawn(&mut self, future: impl std::future::Future<Output = ()> + 'static) {
        self.tasks.push(Task { future: Box::pin(future), until: 0 });
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// One step of one task that is ready; false where there is none left.
    pub fn step(&mut self, seed: &mut u64) -> bool {
        let Some(next) = self.tasks.iter().map(|task| task.until).min() else { return false };
        let now = self.clock.now().max(next);
        self.clock.0.now.set(now);
        let ready: Vec<usize> =
            (0..self.tasks.len()).filter(|at| self.tasks[*at].until <= now).collect();
        let at = ready[below(seed, ready.len())];
        self.clock.0.until.set(0);
        let mut context = Context::from_waker(Waker::noop());
        match self.tasks[at].future.as_mut().poll(&mut context) {
            Poll::Ready(()) => drop(self.tasks.remove(at)),
            Poll::Pending => self.tasks[at].until = self.clock.0.until.get(),
        }
        true
    }

    /// Steps until nothing is left.
    pub fn run(&mut self, seed: &mut u64) {
        while self.step(seed) {}
    }

    /// Tasks end where they are, as those of a process that is killed.
    pub fn drop_all(&mut self) {
        self.tasks.clear();
    }
}
