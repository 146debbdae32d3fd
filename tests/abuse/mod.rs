//! Hostile, broken and slow clients: they are refused or cut, others are served, nothing that was
//! answered with success is lost, and memory stays bounded.

pub mod client;

mod bodies;
mod connections;
mod conversation;
mod full;
mod labels;
mod order;
mod slow;
