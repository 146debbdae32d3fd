//! Which shard reads which file: what discovery finds goes to the shard that owns the stream.
//!
//! A file belongs to the shard that its labels hash to: so all generations of one path, and all
//! files of one stream, are read by one shard, and their timestamps and order are in one hand.

use crate::ingest::FileEvent;
use crate::labels;
use crate::source::{Follow, Start};
use io::format::Cursor;
use io::tail::{self, DiscoverError, Discoverer, Event, FileId, Globs, Known};
use perf::errors::ErrorKey;
use perf::metrics::Metrics;
use shards::ring::Ring;
use shards::stop::{Phase, Stop};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Options {
    pub discovery: tail::Options,
    pub groups: Vec<Group>,
    /// What this process followed until now: a file of that which nobody has seen yet is new, also where
    /// it is there at the start.
    pub before: Vec<tail::Group>,
}

/// What the configuration gives the files of one group.
#[derive(Debug, Clone)]
pub struct Group {
    pub labels: BTreeMap<String, String>,
    /// Files that were never seen before and are there at the start are read from their end.
    pub from_end: bool,
}

/// While a shard has no room for events, for it waits for its log, it is asked again this often.
const FULL_INTERVAL: Duration = Duration::from_millis(2);
/// The cursor of a file that is not there is kept for this long after its last line.
const MISSING_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

pub struct Discovery {
    discoverer: Discoverer,
    owners: Owners,
}

struct Owners {
    groups: Vec<Group>,
    before: Globs,
    known: Vec<Cursor>,
    stamps: HashMap<PathBuf, i64>,
    /// All there are; the first `reading` of them get files.
    shards: Vec<Arc<Ring<FileEvent>>>,
    reading: usize,
    owner: HashMap<FileId, usize>,
}

impl Discovery {
    /// `cursors` are those of all shards; where two name the same file, the later one counts. Only
    /// the first `reading` shards get files; the others empty their logs.
    pub fn new(
        options: Options,
        cursors: Vec<Cursor>,
        shards: Vec<Arc<Ring<FileEvent>>>,
        reading: usize,
    ) -> Result<Discovery, DiscoverError> {
        let known = latest(cursors, |cursor| cursor);
        let files = known
            .iter()
            .map(|cursor| Known {
                identity: cursor.identity,
                fingerprint: cursor.fingerprint,
                offset: cursor.offset,
                path: cursor.path.clone(),
            })
            .collect();
        Ok(Discovery {
            discoverer: Discoverer::new(options.discovery, files)?,
            owners: Owners {
                groups: options.groups,
                before: Globs::new(&options.before)?,
                stamps: stamps(&known),
                known,
                shards,
                reading,
                owner: HashMap::new(),
            },
        })
    }

    /// Runs until the process drains. `ready` is called when all files there are were found.
    pub fn run(
        self,
        stop: &Stop,
        metrics: &Metrics,
        ready: impl FnOnce(),
    ) -> Result<(), DiscoverError> {
        let Discovery { discoverer, mut owners } = self;
        let mut ready = Some(ready);
        discoverer.run(
            || stop.phase() != Phase::Running,
            |event, noticed| match event {
                Event::Found { .. } => owners.found(event, stop),
                Event::Changed { file } => {
                    owners.tell(file, stop, FileEvent::Changed(file, noticed));
                }
                Event::Renamed { file, path } => {
                    owners.tell(file, stop, FileEvent::Renamed(file, path));
                }
                Event::Removed { file } => {
                    owners.tell(file, stop, FileEvent::Removed(file));
                    owners.owner.remove(&file);
                }
                Event::Missing { known } => {
                    metrics.whole.sources_missing.inc();
                    owners.missing(known, stop);
                }
                Event::Overflow => {
                    metrics.whole.inotify_overflows.inc();
                    tracing::warn!(
                        error_key = ErrorKey::DiscoveryOverflow.name(),
                        "inotify lost events, every file is looked at; if this repeats, raise \
                         fs.inotify.max_queued_events"
                    );
                }
                Event::WatchLimit { dirs } => {
                    metrics.whole.inotify_overflows.inc();
                    tracing::warn!(
                        error_key = ErrorKey::WatchLimit.name(),
                        dirs,
                        "no more inotify watches: these directories are polled; raise \
                         fs.inotify.max_user_watches"
                    );
                }
                Event::FilesLimit { files_max } => {
                    tracing::error!(
                        error_key = ErrorKey::FilesLimit.name(),
                        files_max,
                        "too many files: the rest is not followed"
                    );
                }
                Event::LeftOut { path } => {
                    tracing::warn!(
                        error_key = ErrorKey::OwnLog.name(),
                        path = %path.display(),
                        "a source is where this log goes: it is not followed"
                    );
                }
                Event::Settled => owners.announce(),
                Event::Ready => {
                    if let Some(ready) = ready.take() {
                        ready();
                    }
                }
            },
        )
    }
}

impl Owners {
    fn found(&mut self, event: Event, stop: &Stop) {
        let Event::Found { file, identity, path, group, resumed, at_start, size } = event else {
            return;
        };
        let cursor = resumed.map(|known| Cursor { identity, ..self.known[known].clone() });
        let origin = cursor.as_ref().map_or(&path, |cursor| &cursor.path).clone();
        let labels = labels::of_file(&self.groups[group].labels, &origin);
        let start = match cursor {
            Some(cursor) => Start::Resume(cursor),
            None if at_start
                && self.groups[group].from_end
                && self.before.group_of(&path).is_none() =>
            {
                Start::End(size)
            }
            None => Start::Beginning,
        };
        let shard = shard_of(&labels, self.reading);
        self.owner.insert(file, shard);
        // Also where another file had the name: it may be gone, and the clock may have gone back.
        let stamp_ns = self.stamps.get(&origin).copied().unwrap_or(0);
        let follow = Follow { file, identity, path, group, labels, size, start, stamp_ns };
        self.tell(file, stop, FileEvent::Follow(Box::new(follow)));
    }

    /// A file that was being read is not there. It may come back (a late mount), so its cursor stays
    /// for a while.
    fn missing(&self, known: usize, stop: &Stop) {
        let cursor = &self.known[known];
        let gone_ns = perf::clock::unix_ns().saturating_sub(cursor.stamp_ns);
        if u128::from(gone_ns.unsigned_abs()) < MISSING_TIME_MAX.as_nanos() {
            tracing::warn!(
                error_key = ErrorKey::FileLost.name(),
                path = %cursor.path.display(), offset = cursor.offset,
                "a file that was being read is gone: what it held past this is lost, unless it \
                 comes back"
            );
            return;
        }
        for shard in &self.shards {
            push(shard, stop, FileEvent::Forget(cursor.identity));
        }
    }

    /// One bell for all that was told: what changed at one time is read, sealed and sent as one.
    fn announce(&self) {
        self.shards.iter().for_each(|shard| shard.announce());
    }

    /// Waits where the shard has no room: it waits for its log then, and so do its files.
    fn tell(&self, file: FileId, stop: &Stop, event: FileEvent) {
        let Some(shard) = self.owner.get(&file) else { return };
        push(&self.shards[*shard], stop, event);
    }
}

fn push(shard: &Ring<FileEvent>, stop: &Stop, mut event: FileEvent) {
    while let Err(back) = shard.push_quietly(event) {
        shard.announce();
        if stop.phase() != Phase::Running {
            return;
        }
        event = back;
        std::thread::sleep(FULL_INTERVAL);
    }
}

/// Of those that are of one file the later: with the later stamp, then the larger offset.
pub fn latest<T>(all: impl IntoIterator<Item = T>, cursor: impl Fn(&T) -> &Cursor) -> Vec<T> {
    let mut latest: BTreeMap<_, T> = BTreeMap::new();
    let key = |of: &T| (cursor(of).stamp_ns, cursor(of).offset);
    for of in all {
        let file = cursor(&of).identity.incarnation();
        if latest.get(&file).is_none_or(|known| key(known) < key(&of)) {
            latest.insert(file, of);
        }
    }
    latest.into_values().collect()
}

/// Which of the first `reading` shards has the stream with these labels.
#[must_use]
pub fn shard_of(labels: &str, reading: usize) -> usize {
    usize::try_from(hash(labels.as_bytes()) % reading as u64)
        .expect("less than the number of shards")
}

/// The last timestamp that files of each name were given.
pub(crate) fn stamps(cursors: &[Cursor]) -> HashMap<PathBuf, i64> {
    let mut stamps = HashMap::new();
    for cursor in cursors {
        let stamp = stamps.entry(cursor.path.clone()).or_insert(0);
        *stamp = cursor.stamp_ns.max(*stamp);
    }
    stamps
}

/// FNV-1a: the same on every run and machine, so that a file stays with its shard.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::tail::{Fingerprint, Identity};

    #[test]
    fn of_two_cursors_for_one_file_the_later_counts() {
        let cursor = |ino, stamp_ns, offset| Cursor {
            identity: Identity { dev: 1, ino, birth_ns: 1 },
            fingerprint: Fingerprint::EMPTY,
            offset,
            stamp_ns,
            skipping: false,
            path: "/a".into(),
        };
        // After a truncation the later cursor has the smaller offset.
        let cursors = vec![cursor(1, 5, 900), cursor(2, 1, 1), cursor(1, 6, 10), cursor(1, 4, 999)];
        assert_eq!(latest(cursors, |cursor| cursor), [cursor(1, 6, 10), cursor(2, 1, 1)]);
        // Read on after a reboot that gave its device another number.
        let mut moved = cursor(1, 7, 20);
        moved.identity.dev = 0;
        assert_eq!(latest([moved.clone(), cursor(1, 6, 10)], |cursor| cursor), [moved]);
    }
}
