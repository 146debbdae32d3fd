//! The keys of a sink's dead-letter queue.

use crate::read::{Reader, Section};
use crate::units;
use serde::Serialize;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Where entries stay that the sink refuses for good.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dlq {
    /// Of all shards.
    #[serde(serialize_with = "units::print_bytes")]
    pub bytes_max: u64,
    pub when_full: WhenFull,
    pub reprocess: Reprocess,
}

/// What becomes of entries that find it full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    Wait,
    DropOldest,
}

/// When they are sent again by themselves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reprocess {
    #[serde(serialize_with = "units::print_duration")]
    pub interval: Duration,
    #[serde(serialize_with = "units::print_duration")]
    pub age_min: Duration,
    /// 0: never.
    pub attempts_max: usize,
    #[serde(serialize_with = "units::print_duration")]
    pub backoff_max: Duration,
}

pub fn dlq(r: &mut Reader<'_>, sink: &mut Section) -> Dlq {
    let mut section = r.section(sink, "dlq");
    let s = &mut section;
    let dlq = Dlq {
        bytes_max: r.bytes(s, "bytes_max", GIB, 16 * MIB..=1024 * GIB),
        when_full: r.choice(
            s,
            "when_full",
            WhenFull::Wait,
            &[("wait", WhenFull::Wait), ("drop_oldest", WhenFull::DropOldest)],
        ),
        reprocess: reprocess(r, s),
    };
    r.finish(section);
    dlq
}

fn reprocess(r: &mut Reader<'_>, dlq: &mut Section) -> Reprocess {
    let mut section = r.section(dlq, "reprocess");
    let s = &mut section;
    let interval = r.duration(s, "interval", 300 * SECOND, SECOND..=24 * HOUR);
    let reprocess = Reprocess {
        interval,
        age_min: r.duration(s, "age_min", 60 * SECOND, Duration::ZERO..=24 * HOUR),
        attempts_max: r.integer(s, "attempts_max", 10, 0..=1_000_000),
        backoff_max: r.duration(s, "backoff_max", HOUR.max(interval), interval..=30 * 24 * HOUR),
    };
    r.finish(section);
    reprocess
}
