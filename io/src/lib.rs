//! The mechanism below the data path: disk, write-ahead log, tail reading, HTTP.
//!
//! This crate knows no shards, tenants, Loki or configuration: what it stores is opaque to it,
//! and what it needs to know arrives in `Options`.

/// Whether a test planted this mistake (`sim::planted`); never without the feature `sim`.
#[cfg(feature = "sim")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::sim::planted::is_planted($crate::sim::planted::Bug::$bug)
    };
}
#[cfg(not(feature = "sim"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub mod tail;

pub mod format;
pub mod wal;

pub mod disk;
pub mod failpoint;
pub mod map;
pub mod plain;
#[cfg(feature = "sim")]
pub mod sim;
pub mod uring;

pub mod http;
