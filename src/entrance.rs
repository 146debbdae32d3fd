//! Where requests for lines come in on a shard. Who receives them changes with the configuration, the
//! listener and its connections stay.

use crate::receive::Receiver;
use shards::bell::LocalBell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a request waits for the next receiver.
const WAIT_TIME_MAX: Duration = Duration::from_secs(10);

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
    /// what is under way. Where that takes too long, it is the one that says so.
    pub async fn receiver(&self) -> Rc<Receiver> {
        let start = Instant::now();
        let receives =
            |receiver: &&Rc<Receiver>| !receiver.is_yielding() || start.elapsed() >= WAIT_TIME_MAX;
        let next = self.changed.until(|| self.receiver.borrow().as_ref().filter(receives).cloned());
        let late = async {
            glommio::timer::sleep(WAIT_TIME_MAX).await;
            self.changed.ring();
            std::future::pending().await
        };
        if let Some(receiver) = self.receiver.borrow().as_ref().filter(receives) {
            return receiver.clone();
        }
        futures_lite::future::or(next, late).await
    }
}
