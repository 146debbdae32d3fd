//! The wall clock, read once for a chunk of lines and never for a line, and the CPU time of a thread.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix time in nanoseconds; 0 for a clock that stands before 1970.
#[must_use]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).expect("the year is before 2262")
}

/// CPU time that the thread that asks has taken.
#[must_use]
pub fn thread_cpu() -> Duration {
    let taken = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(taken).expect("it begins at 0")
}
