//! A bounded ring between two threads, with a bell that the receiver hears.

use crate::bell::Bell;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// Takes items until it is full, and then gives them back.
pub struct Ring<T> {
    queue: ArrayQueue<T>,
    bell: Arc<Bell>,
}

impl<T> Ring<T> {
    /// `bell` is rung for each item, once the receiver can see it.
    #[must_use]
    pub fn new(items_max: usize, bell: Arc<Bell>) -> Ring<T> {
        Ring { queue: ArrayQueue::new(items_max), bell }
    }

    /// The item comes back where the ring is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.push_quietly(item)?;
        self.announce();
        Ok(())
    }

    /// As [`Ring::push`], for one of several items: the receiver may not look before
    /// [`Ring::announce`].
    pub fn push_quietly(&self, item: T) -> Result<(), T> {
        self.queue.push(item)
    }

    /// Tells the receiver of all items so far.
    pub fn announce(&self) {
        self.bell.ring();
    }

    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }
}
