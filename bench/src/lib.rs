//! Drives the built product from outside: writes logs, receives them as Loki would, and verifies.
//!
//! The modules stand in the order of a run: lines are written ([`load`]), the product carries them
//! ([`product`]), the stub receives and accounts for them ([`stub`]), or a real Loki is asked
//! ([`loki`]). [`demo`] and [`commands`] are such runs; [`record`] keeps what they measured.

pub mod load;

pub mod product;

pub mod stub;

pub mod loki;

pub mod demo;
