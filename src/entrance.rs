//! Where requests for lines come in on a shard. Who receives them changes with the configuration, the
//! listener and its connections stay.

use crate::receive::Receiver;
use shards::bell::LocalBell;
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Default)]
pub struct Entrance {
    receiver: RefCell<Option<Rc<Receiver>>>,
    changed: LocalBell,
}

impl Entrance {
    /// Nobody received anything yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.receiver.borrow().is_none()
    }

    pub fn lead_to(&self, receiver: Rc<Receiver>) {
        self.receiver.replace(Some(receiver));
        self.changed.ring();
    }

    /// Who receives now. Waits where one makes way for the next: that takes as long as making durable
    /// what is under way.
    pub async fn receiver(&self) -> Rc<Receiver> {
        let receives = |receiver: &&Rc<Receiver>| !receiver.is_yielding();
        self.changed.until(|| self.receiver.borrow().as_ref().filter(receives).cloned()).await
    }
}
