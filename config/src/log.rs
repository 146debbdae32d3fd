//! The keys of the log of the process itself.

use crate::read::{Reader, Section};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Log {
    pub level: Level,
    pub format: Format,
}

/// The least that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, else logfmt.
    Auto,
    Logfmt,
    Json,
    Text,
}

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
];

const FORMATS: [(&str, Format); 4] = [
    ("auto", Format::Auto),
    ("logfmt", Format::Logfmt),
    ("json", Format::Json),
    ("text", Format::Text),
];

impl Level {
    #[must_use]
    pub fn name(self) -> &'static str {
        LEVELS[self as usize].0
    }
}

pub fn log(r: &mut Reader<'_>, root: &mut Section) -> Log {
    let mut section = r.section(root, "log");
    let log = Log {
        level: r.choice(&mut section, "level", Level::Info, &LEVELS),
        format: r.choice(&mut section, "format", Format::Auto, &FORMATS),
    };
    r.finish(section);
    log
}
