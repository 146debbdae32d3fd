//! The measurements, by name.

mod idle;
mod outage;
mod saturate;
mod slo;

use crate::record::Figure;
use crate::{load, product, stub};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Product(#[from] product::Error),
    #[error(transparent)]
    Load(#[from] load::Error),
    #[error(transparent)]
    Stub(#[from] stub::Error),
    #[error("files: {0}")]
    Io(#[from] std::io::Error),
    #[error("the run is worth nothing: {0}")]
    Invalid(String),
}

/// A measurement.
pub struct Bench {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Path) -> Result<Vec<Figure>, Error>,
}

pub const ALL: [Bench; 4] = [
    Bench {
        name: "slo",
        about: "10,000 lines/s live, with the default linger and with none: latency, CPU, memory",
        run: slo::run,
    },
    Bench {
        name: "saturate",
        about: "2 M lines from 4 files to a counting stub, the product on one core: lines per CPU s",
        run: saturate::run,
    },
    Bench {
        name: "outage",
        about: "10,000 lines/s through 60 s without Loki: memory, and the time to catch up",
        run: outage::run,
    },
    Bench {
        name: "idle",
        about: "20,000 files that nobody writes to: CPU, memory, descriptors",
        run: idle::run,
    },
];

/// A run that lost a line measures nothing.
fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Invalid(what())) }
}
