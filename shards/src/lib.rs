//! The mechanism that runs shards: which CPU does what, how one wakes another, when all stop.
//!
//! Nothing here knows logs, files or HTTP. Between threads there are rings and doorbells, and
//! nothing else is shared.

pub mod topology;

#[cfg(not(loom))]
pub mod executor;
#[cfg(not(loom))]
pub mod uring;

mod sync;

pub mod asked;
pub mod bell;
pub mod credit;
pub mod rate;
pub mod ring;
pub mod stop;
