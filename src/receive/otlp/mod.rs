//! OpenTelemetry's logs over HTTP, as Loki takes them on its own endpoint: some attributes of a
//! resource become the labels of a stream, everything else the structured metadata of its entries.
//!
//! A body is read once, record by record (`proto`, `json`), into what will be stored ([`export`]); it
//! is answered in its own form ([`answer`]). The metadata of a resource and of a scope is made once,
//! whatever the number of their records.

pub mod answer;
pub mod export;
mod json;
mod names;
mod proto;
mod value;

#[cfg(test)]
mod tests;

pub use answer::Kind;
pub use export::Export;

use super::admit::{Door, LABELS_BYTES_MAX};
use super::json::BadJson;
use super::push::{BadPush, Size};
use super::wire::WireError;

/// What one request may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A resource with records is a stream.
    pub size: Size,
    /// What is made of a body: lines, labels and metadata, those of resources and scopes counted
    /// with each record, since each is stored with them.
    pub made_bytes_max: usize,
    pub json_values_max: usize,
}

/// How deep lists and maps may stand in one another.
pub const DEPTH_MAX: usize = 16;
/// Attributes, and values in lists, of one resource, scope or record: more than Loki's limits for
/// an entry leave room for.
pub const VALUES_MAX: usize = 128 << 10;

/// Why an export as a whole is refused; nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadExport {
    #[error("the body is no export of logs: {0}")]
    Wire(#[from] WireError),
    #[error("the body is no export of logs: {0} expected")]
    Expected(&'static str),
    #[error("{0}")]
    Json(#[from] BadJson),
    #[error("{0}")]
    TooMany(#[from] BadPush),
    #[error("lists and maps are nested deeper than {DEPTH_MAX} levels")]
    Deep,
    #[error("an attribute without a letter or a digit in its name: {0:?}")]
    Name(String),
    #[error("a resource with more than {LABELS_BYTES_MAX} bytes of labels")]
    Labels,
    #[error(
        "the export becomes more than {max} bytes, since the attributes of a resource and a scope \
         are stored with each of their records"
    )]
    TooLarge { max: usize },
}

impl BadExport {
    /// Whether less at once would pass.
    #[must_use]
    pub fn is_size(&self) -> bool {
        matches!(self, BadExport::TooLarge { .. } | BadExport::Json(BadJson::Large { .. }))
    }
}

/// Reads a body whole; one of JSON is written over.
pub fn read<'a>(
    kind: Kind,
    body: &'a mut [u8],
    limits: Limits,
    door: &Door<'_>,
) -> Result<Export<'a>, BadExport> {
    let mut builder = export::Builder::new(limits, door);
    match kind {
        Kind::Protobuf => proto::read(body, &mut builder)?,
        Kind::Json => json::read(body, limits, &mut builder)?,
    }
    Ok(builder.done())
}

/// Counts the values of one resource, scope or record while they are read.
struct Room(usize);

impl Room {
    fn new() -> Room {
        Room(VALUES_MAX)
    }

    fn take(&mut self) -> Result<(), BadExport> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| {
            let what = "too many values in one resource, scope or record";
            BadPush::TooMany { what, found: VALUES_MAX + 1, max: VALUES_MAX }
        })?;
        Ok(())
    }
}
