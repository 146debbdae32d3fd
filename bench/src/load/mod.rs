//! What is written for the product to carry: a [`Workload`] says what, [`Writer`] writes it live and
//! on schedule, [`corpus`] as a backlog of files, [`Pushes`] as requests that a [`Client`]
//! sends.

pub mod client;
pub mod corpus;
mod line;
pub mod proto;
mod push;
mod sum;
pub mod text;
mod workload;
mod writer;

pub use client::Client;
pub use corpus::Corpus;
pub use line::{Lines, Mark, Reading};
pub use push::{Pushes, Sent};
pub use sum::LineSum;
pub use workload::{Error as WorkloadError, Expect, Workload};
pub use writer::{Options, Rotation, Writer};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the writer's thread cannot start: {0}")]
    Thread(io::Error),
    #[error("a load thread panicked: its message is above")]
    Panicked,
    #[error("a request to {addr}: {source}: does it run?")]
    Client { addr: SocketAddr, source: io::Error },
}

impl Error {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }

    pub fn client(addr: SocketAddr) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Client { addr, source }
    }
}

/// What was written, to hold against what was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// By writer: each wrote the sequence numbers from 0 to below this.
    pub lines: Vec<u64>,
    pub bytes: u64,
    pub elapsed: Duration,
    pub rotations: u64,
    /// The most that a line was written after its scheduled time.
    pub late_max: Duration,
}

impl Written {
    #[must_use]
    pub fn lines_in_all(&self) -> u64 {
        self.lines.iter().sum()
    }
}

/// Where writer `writer` writes.
#[must_use]
pub fn file_name(writer: u32) -> String {
    format!("app-{writer}.log")
}
