//! Drives the built product from outside: writes logs, receives them as Loki would, and verifies.
//!
//! The modules stand in the order of a run: a workload is written ([`load`]), the product carries it
//! ([`product`]) and is looked at ([`measure`]), the stub receives and accounts for every line
//! ([`stub`]), or a real Loki is asked ([`loki`]); [`receiver`] is either of them. [`demo`] and
//! [`commands`] are such runs, [`limit`] is what no product can beat, and [`report`] keeps what was
//! measured.

pub mod load;

pub mod product;

pub mod measure;

pub mod stub;

pub mod loki;

pub mod receiver;

pub mod demo;

pub mod limit;

pub mod commands;

pub mod report;
