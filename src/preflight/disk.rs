//! The disk of `data_dir`: whether it may be used, is free, large enough, of a kind that fits, and fast.

use super::finding::{Finding, Level};
use super::{nearest, running, size};
use crate::ask::Access;
use crate::options::{self, SHARE_BYTES_MIN};
use crate::place;
use config::Config;
use io::format::FormatVersion;
use rustix::fs::{FallocateFlags, fallocate, statfs, statvfs};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a block is written to measure it.
const WRITES: usize = 50;
/// A commit takes this long at least: above it, answers to pushes are slow.
const WRITE_P99_MAX: Duration = Duration::from_millis(20);

/// As the disk takes it without the page cache.
#[repr(align(4096))]
struct Block([u8; 4096]);

#[must_use]
pub fn look(config: &Config, access: &Access) -> Vec<Finding> {
    let dir = &config.data_dir;
    let place = match place_of(dir) {
        Ok(finding) => finding,
        Err(finding) => return vec![*finding],
    };
    let at = nearest(dir);
    let mut found = vec![place, running::look(config, access), file_system(at)];
    match measure(at) {
        Ok(trial) => found.extend([direct_io(at, trial.direct), latency(trial.times)]),
        Err(error) => found.push(unwritable(at, &error)),
    }
    found
}

/// Whether there is such a directory, or can be; the error is that nothing else can be looked at.
fn place_of(dir: &Path) -> Result<Finding, Box<Finding>> {
    let no_go = |found: String, fix: String| Box::new(Finding::no_go("data_dir", found, fix));
    let at = nearest(dir);
    let meta = fs::metadata(at).map_err(|error| {
        no_go(format!("{}: {error}", at.display()), "run this as the user of log-capturer".into())
    })?;
    if !meta.is_dir() {
        let found = format!("{} is no directory", at.display());
        return Err(no_go(found, "move it away, or choose another data_dir".into()));
    }
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    let figures = json!({ "exists": at == dir, "owner": owner, "mode": format!("{mode:o}") });
    if at != dir {
        let found = format!("{} will be made in {}", dir.display(), at.display());
        return Ok(Finding::ok("data_dir", found).figures(figures));
    }
    Ok(judge_place(dir, mode, owner, rustix::process::geteuid().as_raw()).figures(figures))
}

fn judge_place(dir: &Path, mode: u32, owner: u32, user: u32) -> Finding {
    if let Err(message) = place::check_mode(dir, mode) {
        return Finding::of_message(Level::NoGo, "data_dir", &message);
    }
    let of = dir.display();
    if owner != user {
        let found = format!("{of} belongs to user {owner}, and this runs as user {user}");
        let fix = format!(
            "run this as the user of log-capturer; if that is user {user}: chown -R {user} {of}"
        );
        return Finding::warning("data_dir", found, fix);
    }
    Finding::ok("data_dir", format!("{of} is there, mode {mode:o}, of this user"))
}

/// `statfs` of file systems on which a data_dir is not at its best, and why.
fn hint(kind: i64) -> Option<(&'static str, &'static str)> {
    const MEMORY: &str = "what is acknowledged there is lost with the power";
    const NETWORK: &str = "a commit waits for the network, and locks may not reach other hosts";
    Some(match kind {
        0x0102_1994 => ("tmpfs", MEMORY),
        0x8584_58f6 => ("ramfs", MEMORY),
        0x6969 => ("nfs", NETWORK),
        0xff53_4d42 | 0xfe53_4d42 => ("cifs", NETWORK),
        0x00c3_6400 => ("ceph", NETWORK),
        0x0102_1997 => ("9p", NETWORK),
        0x6573_5546 => ("fuse", NETWORK),
        0x794c_7630 => ("overlayfs", "a container's own layer is lost with the container"),
        0x9123_683e => ("btrfs", "copying on each write makes commits slower than on ext4 and xfs"),
        0x2fc1_2fc1 => ("zfs", "copying on each write makes commits slower than on ext4 and xfs"),
        _ => return None,
    })
}

fn file_system(at: &Path) -> Finding {
    match statfs(at) {
        // Widened, or as it is: that depends on the machine.
        #[allow(clippy::useless_conversion)]
        Ok(stat) => judge_file_system(i64::try_from(stat.f_type).unwrap_or(0)),
        Err(error) => Finding::warning(
            "file_system",
            format!("{}: {error}", at.display()),
            "look after the mount",
        ),
    }
}

/// Those on which a data_dir is at its best.
fn good(kind: i64) -> Option<&'static str> {
    match kind {
        0xef53 => Some("ext4"),
        0x5846_5342 => Some("xfs"),
        _ => None,
    }
}

fn judge_file_system(kind: i64) -> Finding {
    let figures = json!({ "f_type": format!("{kind:#x}") });
    match hint(kind) {
        Some((name, why)) => Finding::warning(
            "file_system",
            format!("{name}: {why}"),
            "put data_dir on a local ext4 or xfs",
        ),
        None => match good(kind) {
            Some(name) => Finding::ok("file_system", name),
            None => {
                Finding::ok("file_system", format!("of kind {kind:#x}, of which nothing is known"))
            }
        },
    }
    .figures(figures)
}

struct Trial {
    direct: bool,
    times: Vec<Duration>,
}

/// In a file that has no name, or none any more: nothing is left of it, whatever happens.
fn measure(dir: &Path) -> std::io::Result<Trial> {
    let file = tempfile::tempfile_in(dir)?;
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = |flags| File::options().write(true).custom_flags(flags).open(&again);
    let (file, direct) = match open(libc::O_DSYNC | libc::O_DIRECT) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => (open(libc::O_DSYNC)?, false),
        file => (file?, true),
    };
    let block = Block([0x5a; 4096]);
    // As segments are: made before they are written.
    let bytes = (WRITES * block.0.len()) as u64;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let mut times = Vec::new();
    for number in 0..WRITES {
        let start = Instant::now();
        file.write_all_at(&block.0, (number * block.0.len()) as u64)?;
        times.push(start.elapsed());
    }
    Ok(Trial { direct, times })
}

fn unwritable(at: &Path, error: &Error) -> Finding {
    let fix = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => "mount it for writing, or choose another data_dir",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or choose another data_dir"
        }
        ErrorKind::PermissionDenied => {
            "run this as the user of log-capturer; if it is, make the directory and chown it to that user"
        }
        _ => "look after the disk (dmesg, smartctl), or choose another data_dir",
    };
    Finding::no_go("data_dir", format!("{} cannot be written: {error}", at.display()), fix)
}

fn direct_io(at: &Path, direct: bool) -> Finding {
    if direct {
        return Finding::ok("direct_io", "O_DIRECT works");
    }
    let found = format!("the file system of {} cannot do direct I/O (O_DIRECT)", at.display());
    Finding::no_go("direct_io", found, "put data_dir on ext4 or xfs, which can")
}

/// Never a no-go: a disk may be busy just now, and a slow one loses nothing.
fn latency(mut times: Vec<Duration>) -> Finding {
    times.sort();
    let at = |share: f64| {
        // Of what is sorted, the first that so many are not above.
        let rank = (times.len() as f64 * share).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = (rank as usize).clamp(1, times.len()) - 1;
        times[at]
    };
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let level = if p99 > WRITE_P99_MAX { Level::Warning } else { Level::Ok };
    let found = format!(
        "a durable write of 4 KiB takes p50 {}, p99 {}, at most {} ({} writes)",
        ms(p50),
        ms(p99),
        ms(max),
        times.len()
    );
    let figures = json!({
        "p50_seconds": p50.as_secs_f64(), "p99_seconds": p99.as_secs_f64(), "max_seconds": max.as_secs_f64(),
        "writes": times.len(),
    });
    let fix = "put data_dir on a faster disk, or on one of its own; each push that is acknowledged waits for it";
    Finding::at(level, "write_latency", found, fix).figures(figures)
}

/// What the quotas are held against, in bytes.
#[derive(Debug, Clone, Copy)]
struct Space {
    free: u64,
    size: u64,
    wal: Quota,
    dlq: Quota,
    /// Without which no shard can begin, and what the write-ahead log leaves to dead letters.
    min: u64,
}

/// What may be taken, and what is: that is free for its own.
#[derive(Debug, Clone, Copy)]
struct Quota {
    bytes_max: u64,
    present: u64,
}

impl Quota {
    fn missing(self) -> u64 {
        self.bytes_max.saturating_sub(self.present)
    }
}

/// The quotas of `count` shards against the disk.
#[must_use]
pub fn space(config: &Config, count: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(message) = options::check_shares(config, count) {
        found.push(Finding::of_message(Level::NoGo, "quota", &message));
    }
    let at = nearest(&config.data_dir);
    let stat = match statvfs(at) {
        Ok(stat) => stat,
        Err(error) => {
            let text = format!("{}: {error}", at.display());
            found.push(Finding::warning("disk_space", text, "look after the mount"));
            return found;
        }
    };
    let of_sink = |sink| {
        let queue = |number| options::dlq(config, sink, number, count, FormatVersion::NEWEST);
        (0..count).map(|number| queue(number).bytes_max).sum::<u64>()
    };
    let shards = place::shards(&config.data_dir).unwrap_or_default();
    let present = |name: &str| shards.iter().map(|(_, path)| taken(&path.join(name))).sum::<u64>();
    let kept = options::shard(config, 0, count, FormatVersion::NEWEST, &Arc::default()).kept_bytes;
    found.push(judge_space(Space {
        free: stat.f_bavail * stat.f_frsize,
        size: stat.f_blocks * stat.f_frsize,
        wal: Quota { bytes_max: config.wal.bytes_max, present: present("wal") },
        dlq: Quota {
            bytes_max: (0..config.sinks.len()).map(of_sink).sum(),
            present: present("dlq"),
        },
        min: SHARE_BYTES_MIN * count as u64 + kept,
    }));
    found
}

/// What logs and queues take, as the disk counts it.
fn taken(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        // It was done with.
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Quotas above what the disk can hold are never a no-go: where the disk is full before them, the log takes no more, as
/// where a quota is used up, and nothing is lost; files and clients wait. But that comes sooner than the quotas say, no
/// alarm on a share of a quota comes before it, and whatever else is on that disk stands still with it: so it is a warning.
fn judge_space(space: Space) -> Finding {
    let Space { free, size: all, wal, dlq, min } = space;
    let present = wal.present + dlq.present;
    let missing = wal.missing() + dlq.missing();
    let of = format!(
        "wal.bytes_max {} and dead-letter queues {}, of which {} are there; {} of {} are free",
        size(wal.bytes_max),
        size(dlq.bytes_max),
        size(present),
        size(free),
        size(all)
    );
    let (level, found) = if free < min.saturating_sub(present) {
        let needed = size(min);
        (Level::NoGo, format!("too little for any shard, which takes {needed} in all: {of}"))
    } else if wal.bytes_max.saturating_add(dlq.bytes_max) > all {
        let found = format!(
            "the quotas are larger than the disk: nothing is lost where it is full, but sources wait then, and no \
             alarm on a quota comes before: {of}"
        );
        (Level::Warning, found)
    } else if missing > free {
        (Level::Warning, format!("the disk is full before the quotas are: {of}"))
    } else {
        (Level::Ok, of)
    };
    let fix = format!(
        "free {}, lower wal.bytes_max and sinks.<name>.dlq.bytes_max, or put data_dir on a larger disk",
        size(missing.saturating_sub(free))
    );
    let figures = json!({
        "free_bytes": free, "size_bytes": all, "present_bytes": present, "wal_bytes_max": wal.bytes_max,
        "dlq_bytes_max": dlq.bytes_max,
    });
    Finding::at(level, "disk_space", found, fix).figures(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn quotas_are_held_against_the_disk() {
        let judged = |free, all, [wal, dlq]: [u64; 2]| {
            let quota =
                |bytes_max, present| Quota { bytes_max: bytes_max * MIB, present: present * MIB };
            let (wal, dlq) = (quota(64, wal), quota(16, dlq));
            let space = Space { free: free * MIB, size: all * MIB, wal, dlq, min: 8 * MIB };
            judge_space(space).level
        };
        assert_eq!(judged(100, 200, [0, 0]), Level::Ok);
        assert_eq!(judged(79, 200, [0, 0]), Level::Warning);
        assert_eq!(judged(79, 200, [1, 0]), Level::Ok, "some of it is there");
        assert_eq!(judged(7, 200, [0, 0]), Level::NoGo);
        assert_eq!(judged(1, 200, [64, 15]), Level::Ok);
        assert_eq!(
            judged(15, 200, [90, 0]),
            Level::Warning,
            "what the log has more is not for dead letters"
        );
        assert_eq!(judged(60, 70, [0, 0]), Level::Warning, "nothing is lost where it is full");
        assert_eq!(judged(6, 70, [60, 4]), Level::Warning);
    }

    #[test]
    fn a_slow_disk_is_a_warning_and_never_more() {
        let ms = |ms: &[u64]| ms.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let fast = latency(ms(&[1; 50]));
        assert_eq!((fast.level, &fast.figures["p99_seconds"]), (Level::Ok, &0.001.into()));
        let slow = latency(ms(&[[1; 49].as_slice(), &[9_000]].concat()));
        assert_eq!((slow.level, &slow.figures["max_seconds"]), (Level::Warning, &9.0.into()));
        assert_eq!(slow.figures["p50_seconds"], 0.001);
    }

    #[test]
    fn owner_and_mode_are_judged() {
        let judged = |mode, owner, user| judge_place(Path::new("/d"), mode, owner, user).level;
        assert_eq!(judged(0o700, 7, 7), Level::Ok);
        assert_eq!(judged(0o755, 7, 7), Level::Ok);
        assert_eq!(judged(0o777, 7, 7), Level::NoGo);
        assert_eq!(judged(0o720, 7, 7), Level::NoGo);
        assert_eq!(judged(0o700, 65534, 0), Level::Warning);
        assert_eq!(judge_file_system(0xef53).level, Level::Ok);
        assert_eq!(judge_file_system(0x6969).level, Level::Warning);
    }

    #[test]
    fn measuring_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let trial = measure(dir.path()).unwrap();
        assert_eq!(trial.times.len(), WRITES);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
