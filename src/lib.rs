//! The appliance: policy over the mechanisms of `shards`, `io` and `perf`.
//!
//! The modules stand in the order of a line's way. To follow one, read [`ingest`] (from file to
//! durable and handed off, and the way back of its ack; [`receive`] for one that is pushed) and
//! [`egress`] (from ring to Loki).

pub mod labels;

pub mod discover;
pub mod source;

pub mod receive;

pub mod canary;

pub mod alone;
pub mod stream;

pub mod batch;
pub mod block;

pub mod intake;

pub mod ingest;

pub mod handoff;

pub mod egress;

pub mod track;

pub mod part;

pub mod push;

pub mod verdict;

pub mod breaker;

pub mod letters;

pub mod desk;

pub mod dlq;

pub mod inspect;
pub mod positions;
pub mod state;

pub mod ask;

pub mod place;
pub mod preflight;
#[cfg(test)]
mod simulation;
pub mod table;

pub mod appliance;
pub mod entrance;
pub mod guard;
pub mod health;
pub mod monitor;
pub mod options;
pub mod own_log;
pub mod panel;
pub mod server;
pub mod settings;
pub mod sightings;
pub mod systemd;

pub mod top;

pub mod cli;

pub mod baseline;
pub mod verify;
pub mod window;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic of whoever held it ends the process.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this program is; a test may want another.
#[must_use]
pub fn version() -> &'static str {
    io::failpoint::told("version").unwrap_or(env!("CARGO_PKG_VERSION"))
}
