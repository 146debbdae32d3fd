//! What Loki answers, or does not, in depth: what can pass passes meanwhile, what is refused is kept
//! with Loki's words, and nothing is lost.
//!
//! - [`tenants`]: one that is refused holds up no other;
//! - [`lines`]: one bad line among many, and old ones;
//! - [`streams`]: one in trouble, new, hot and late ones;
//! - [`outages`]: restarts while it fails, and a second sink;
//! - [`table`]: every answer there is, each to a tenant of its own;
//! - [`clock`]: Loki's clock and ours;
//! - [`letters`]: the dead-letter queue of a running process.

pub mod ask;

mod clock;
mod letters;
mod lines;
mod outages;
mod streams;
mod table;
mod tenants;
