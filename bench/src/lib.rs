//! Drives the built product from outside: writes logs, receives them as Loki would, and verifies.
//!
//! The modules stand in the order of a run: lines are written ([`load`]), the product carries them
//! ([`product`]), the stub receives and accounts for them ([`stub`]), or a real Loki is asked
//! ([`loki`]). [`demo`] and [`commands`] are such runs, [`limit`] is what no product can beat, and
//! [`record`] keeps what was measured.

pub mod load;

pub mod product;

pub mod stub;

pub mod loki;

pub mod demo;

pub mod limit;

pub mod commands;

pub mod record;
