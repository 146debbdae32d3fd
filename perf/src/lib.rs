//! What the product measures about itself: clock, counters, latency, and their exposition.

pub mod clock;
pub mod errors;
pub mod metrics;
