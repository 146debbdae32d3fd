//! The host: its kernel, io_uring, and the limits of this process.

use super::finding::{Finding, Level};
use super::size;
use crate::appliance::IO_MEMORY_BYTES;
use crate::options;
use config::Config;
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use shards::executor;
use std::ops::RangeInclusive;

/// The first kernel with all that the ring needs.
const KERNEL_MIN: (u64, u64) = (5, 8);
/// Of a ring, without what is registered with it.
const RING_BYTES: u64 = 512 << 10;
/// CAP_IPC_LOCK: memory is locked without a limit.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Without a configuration, what does not depend on it. `shards`: how many there will be.
#[must_use]
pub fn look(config: Option<&Config>, shards: usize) -> Vec<Finding> {
    let uname = rustix::system::uname();
    let mut found = vec![kernel(&uname.release().to_string_lossy()), io_uring()];
    found.push(memlock(getrlimit(Resource::Memlock).current, locks_freely(), shards));
    if let Some(config) = config {
        let max = getrlimit(Resource::Nofile).maximum;
        found.push(descriptors(max, options::descriptors(config)));
    }
    found
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u64>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => {
            let fix =
                "look up whether it is 5.8 or later; io_uring tells below whether it can be used";
            return Finding::warning(
                "kernel",
                format!("release {release:?} is not understood"),
                fix,
            );
        }
    };
    let level = if version < KERNEL_MIN { Level::NoGo } else { Level::Ok };
    let (major, minor) = KERNEL_MIN;
    let found = format!("release {release}, {major}.{minor} or later is needed");
    Finding::at(level, "kernel", found, "boot a later kernel")
        .figures(json!({ "release": release }))
}

fn io_uring() -> Finding {
    match executor::check_io_uring() {
        Ok(()) => Finding::ok("io_uring", "usable"),
        Err(error) => Finding::of_message(Level::NoGo, "io_uring", &error.to_string()),
    }
}

fn locks_freely() -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.capeff & CAP_IPC_LOCK != 0)
}

/// `limit`: none where there is no limit.
fn memlock(limit: Option<u64>, locks_freely: bool, shards: usize) -> Finding {
    let shards = shards as u64;
    let (min, wanted) = (RING_BYTES * shards, (RING_BYTES + IO_MEMORY_BYTES as u64) * shards);
    let limit = limit.filter(|_| !locks_freely);
    let level = match limit {
        Some(limit) if limit < min => Level::NoGo,
        Some(limit) if limit < wanted => Level::Warning,
        _ => Level::Ok,
    };
    let has =
        limit.map_or_else(|| "without a limit".into(), |limit| format!("up to {}", size(limit)));
    let found = format!(
        "memory may be locked {has}; {shards} shards take {} at least and {} at best",
        size(min),
        size(wanted)
    );
    let fix = "set LimitMEMLOCK=64M in the unit, or a higher memlock in limits.conf";
    let figures = json!({ "limit_bytes": limit, "min_bytes": min, "wanted_bytes": wanted });
    Finding::at(level, "memlock", found, fix).figures(figures)
}

/// `limit`: the hard one, to which the soft one is raised at the start.
fn descriptors(limit: Option<u64>, needs: RangeInclusive<u64>) -> Finding {
    let (min, max) = needs.into_inner();
    let level = match limit {
        Some(limit) if limit < min => Level::NoGo,
        Some(limit) if limit < max => Level::Warning,
        _ => Level::Ok,
    };
    let has = limit.map_or_else(|| "any number of".into(), |limit| limit.to_string());
    let found = format!(
        "{has} descriptors may be open (hard limit); {min} are needed, and {max} with server.limits.connections_max"
    );
    let fix = format!(
        "set LimitNOFILE={max} in the unit, or lower server.limits.connections_max and sources.open_files_max"
    );
    let figures = json!({ "hard_limit": limit, "min": min, "max": max });
    Finding::at(level, "descriptors", found, fix).figures(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        for (release, level) in [
            ("5.7.19", Level::NoGo),
            ("4.19.0-26-amd64", Level::NoGo),
            ("5.8.0", Level::Ok),
            ("6.1", Level::Ok),
            ("10.0-rc1", Level::Ok),
            ("next", Level::Warning),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn limits_are_held_against_what_is_needed() {
        let lock = |limit, freely, shards| memlock(limit, freely, shards).level;
        assert_eq!(lock(Some(64 << 10), false, 1), Level::NoGo);
        assert_eq!(lock(Some(64 << 10), true, 1), Level::Ok);
        assert_eq!(lock(Some(1 << 20), false, 1), Level::Warning);
        assert_eq!(lock(Some(1 << 20), false, 4), Level::NoGo);
        assert_eq!(lock(Some(64 << 20), false, 4), Level::Ok);
        assert_eq!(lock(None, false, 999), Level::Ok);
        let needs = || 704..=10_880;
        let open = |limit| descriptors(limit, needs()).level;
        assert_eq!(open(Some(703)), Level::NoGo);
        assert_eq!(open(Some(704)), Level::Warning);
        assert_eq!(open(Some(10_880)), Level::Ok);
        assert_eq!(open(None), Level::Ok);
        assert!(descriptors(Some(1), needs()).fix.unwrap().contains("LimitNOFILE=10880"));
    }
}
