//! Whether the receiver of something wants to be woken for each of it: a wake-up costs more than most of
//! what it is for, so a sender asks first.

use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// The receiver asks and then looks; the sender gives and then reads. In whichever order: one of the
/// two sees what the other did.
#[derive(Default)]
pub struct Asked(AtomicBool);

impl Asked {
    /// Before the receiver looks whether something is there, and waits.
    pub fn ask(&self, wanted: bool) {
        self.0.store(wanted, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Behind what the sender gave.
    pub fn is_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}
