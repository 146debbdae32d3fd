//! What Loki answers, or does not, in depth: what can pass passes meanwhile, what is refused is kept
//! with Loki's words, and nothing is lost.
//!
//! - [`tenants`]: one that is refused holds up no other;
//! - [`lines`]: one bad line among many, and old ones;
//! - [`streams`]: one in trouble, new, hot and late ones;
//! - [`letters`]: the dead-letter queue of a running process.

mod ask;

mod letters;
mod lines;
mod streams;
mod tenants;
