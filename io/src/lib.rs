//! The mechanism below the data path: disk, write-ahead log, tail reading, HTTP.
//!
//! This crate knows no shards, tenants, Loki or configuration: what it stores is opaque to it,
//! and what it needs to know arrives in `Options`.

pub mod tail;

pub mod format;
pub mod wal;

pub mod disk;
pub mod failpoint;
pub mod map;
pub mod plain;
pub mod sim;
pub mod uring;

pub mod http;
