//! What threads meet at. Under `--cfg loom` it is loom's, which tries every order of their steps and every
//! value that a load may see: `shards/tests/wakeups.rs`.

#[cfg(not(loom))]
pub use atomic_waker::AtomicWaker;
#[cfg(not(loom))]
pub use std::sync::{Condvar, Mutex, atomic};

#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex, atomic};

/// Loom's, called as the real one.
#[cfg(loom)]
#[derive(Default)]
pub struct AtomicWaker(loom::future::AtomicWaker);

#[cfg(loom)]
impl AtomicWaker {
    pub fn register(&self, waker: &std::task::Waker) {
        self.0.register_by_ref(waker);
    }

    pub fn wake(&self) {
        self.0.wake();
    }
}
