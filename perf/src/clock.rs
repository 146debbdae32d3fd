//! The wall clock, read once for a chunk of lines and never for a line.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in nanoseconds; 0 for a clock that stands before 1970.
#[must_use]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).expect("the year is before 2262")
}
