//! What the product measures about itself: clock, counters, latency, and their exposition.

pub mod clock;

pub mod stage;

pub mod histogram;

pub mod recorder;

pub mod slo;

pub mod process;

pub mod errors;
pub mod exposition;
pub mod guard;
pub mod metrics;
