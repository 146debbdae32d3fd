//! The audit log: who changed something, or was to, and what became of it. Neither bodies nor tokens are in it.
//!
//! Files of lines of JSON in `data_dir`, one for what was done and one for what was refused for who asked, since anyone
//! can have as much refused as they like. Each is appended and synced by a thread of its own: a shard waits for no disk.
//! The one before it is kept.

use crate::lock;
use perf::errors::ErrorKey;
use perf::guard::counts;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is shown of each at most: so many are held.
pub const SHOWN_MAX: usize = 1_000;
/// A file, the one before it, and its size: then it becomes the one before.
#[derive(Debug, Clone, Copy)]
struct Names {
    thread: &'static str,
    now: &'static str,
    before: &'static str,
    bytes_max: u64,
}

const DONE: Names =
    Names { thread: "audit", now: "audit.jsonl", before: "audit.jsonl.1", bytes_max: 4 << 20 };
const REFUSED: Names = Names {
    thread: "audit-refused",
    now: "audit-refused.jsonl",
    before: "audit-refused.jsonl.1",
    bytes_max: 1 << 20,
};
/// Of a file, so much is read for what is shown.
const SHOWN_BYTES_MAX: u64 = 1 << 20;
/// That wait to be written. More of those that were refused are counted alone.
const WAITING_MAX: usize = 1_024;
const GROUP_MAX: usize = 256;
/// How long an answer waits for the disk.
const WAIT_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const WHO_SIGNS_MAX: usize = 200;
/// Of its files.
const MODE: u32 = 0o600;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub time: String,
    pub who: String,
    /// None: it came by no connection.
    pub peer: Option<IpAddr>,
    pub method: String,
    pub path: String,
    pub status: u16,
}

impl Entry {
    #[must_use]
    pub fn now(who: &str, peer: Option<IpAddr>, method: &str, path: &str, status: u16) -> Entry {
        Entry {
            time: jiff::Timestamp::now().to_string(),
            who: who.chars().take(WHO_SIGNS_MAX).collect(),
            peer,
            method: method.to_owned(),
            path: path.to_owned(),
            status,
        }
    }

    /// For who asked, and not for what they asked.
    fn is_refused(&self) -> bool {
        matches!(self.status, 401 | 403 | 429)
    }

    fn at(&self) -> Option<jiff::Timestamp> {
        self.time.parse().ok()
    }
}

struct Waiting {
    entry: Entry,
    written: Arc<AtomicBool>,
}

pub struct Audit {
    done: Trail,
    refused: Trail,
}

impl Audit {
    /// `data_dir` is this process's own.
    pub fn open(data_dir: &Path) -> io::Result<Audit> {
        Ok(Audit { done: Trail::open(data_dir, DONE)?, refused: Trail::open(data_dir, REFUSED)? })
    }

    fn trail(&self, entry: &Entry) -> &Trail {
        if entry.is_refused() { &self.refused } else { &self.done }
    }

    /// Kept soon; counted alone, where too many come at once.
    pub fn record(&self, entry: Entry) {
        self.trail(&entry).record(entry);
    }

    /// Kept when this is over, unless the disk fails.
    pub async fn keep(&self, entry: Entry) {
        self.trail(&entry).keep(entry).await;
    }

    /// The last ones of what was done, and as many of what was refused; newest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Entry> {
        let mut all = self.done.last(count);
        all.extend(self.refused.last(count));
        all.sort_by_cached_key(|entry| std::cmp::Reverse(entry.at()));
        all
    }
}

/// A file, and the last ones of it.
struct Trail {
    waiting: SyncSender<Waiting>,
    /// Oldest first.
    shown: Arc<Mutex<VecDeque<Entry>>>,
}

impl Trail {
    fn open(data_dir: &Path, names: Names) -> io::Result<Trail> {
        let mut shown = VecDeque::new();
        for name in [names.before, names.now] {
            read_last(&data_dir.join(name), &mut shown)?;
        }
        let log = Log::open(data_dir, names)?;
        let shown = Arc::new(Mutex::new(shown));
        let (waiting, waits) = sync_channel(WAITING_MAX);
        let of_log = shown.clone();
        let thread = std::thread::Builder::new().name(names.thread.into()).stack_size(256 << 10);
        thread.spawn(move || write_all(log, &waits, &of_log))?;
        Ok(Trail { waiting, shown })
    }

    fn record(&self, entry: Entry) {
        let waiting = Waiting { entry, written: Arc::default() };
        if self.waiting.try_send(waiting).is_err() {
            counts().unaudited.inc();
        }
    }

    async fn keep(&self, entry: Entry) {
        let start = Instant::now();
        let written: Arc<AtomicBool> = Arc::default();
        let mut waiting = Some(Waiting { entry, written: written.clone() });
        while start.elapsed() < WAIT_TIME_MAX && !written.load(Ordering::Acquire) {
            if let Some(unsent) = waiting.take() {
                match self.waiting.try_send(unsent) {
                    Err(TrySendError::Full(unsent)) => waiting = Some(unsent),
                    Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                }
            }
            glommio::timer::sleep(LOOK_INTERVAL).await;
        }
        if waiting.is_some() {
            counts().unaudited.inc();
        }
    }

    /// Newest first.
    fn last(&self, count: usize) -> Vec<Entry> {
        lock(&self.shown).iter().rev().take(count).cloned().collect()
    }
}

fn show(shown: &mut VecDeque<Entry>, entry: Entry) {
    if shown.len() == SHOWN_MAX {
        shown.pop_front();
    }
    shown.push_back(entry);
}

/// What cannot be read as an entry is left out: the last line may be half written.
fn read_last(path: &Path, into: &mut VecDeque<Entry>) -> io::Result<()> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(SHOWN_BYTES_MAX)))?;
    let mut read = Vec::new();
    file.take(SHOWN_BYTES_MAX).read_to_end(&mut read)?;
    let lines = read.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok()).for_each(|entry| show(into, entry));
    Ok(())
}

/// Until nobody is there any more who could call.
fn write_all(mut log: Log, waits: &Receiver<Waiting>, shown: &Mutex<VecDeque<Entry>>) {
    while let Ok(first) = waits.recv() {
        let group: Vec<Waiting> =
            std::iter::once(first).chain(waits.try_iter().take(GROUP_MAX - 1)).collect();
        if let Err(error) = log.append(&group) {
            counts().unaudited.inc_by(group.len() as u64);
            tracing::error!(
                error_key = ErrorKey::AuditUnwritable.name(),
                file = %log.path().display(), %error,
                "calls are not in the audit log; GET /security/audit shows them until the end of this run"
            );
        }
        for Waiting { entry, written } in group {
            show(&mut lock(shown), entry);
            written.store(true, Ordering::Release);
        }
    }
}

struct Log {
    dir: PathBuf,
    names: Names,
    file: File,
    bytes: u64,
    /// Its last line may be half of one.
    torn: bool,
}

impl Log {
    fn open(dir: &Path, names: Names) -> io::Result<Log> {
        match File::open(dir.join(names.before)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => hide(&opened?)?,
        }
        let file = open(&dir.join(names.now))?;
        let bytes = file.metadata()?.len();
        let mut log = Log { dir: dir.to_owned(), names, file, bytes, torn: false };
        log.torn = log.ends_torn()?;
        Ok(log)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.names.now)
    }

    /// A crash leaves half a line.
    fn ends_torn(&self) -> io::Result<bool> {
        if self.bytes == 0 {
            return Ok(false);
        }
        let mut last = [0];
        let mut file = File::open(self.path())?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }

    /// Half a line stays one by itself.
    fn append(&mut self, group: &[Waiting]) -> io::Result<()> {
        if self.bytes >= self.names.bytes_max {
            self.rotate()?;
        }
        let mut lines = if self.torn { b"\n".to_vec() } else { Vec::new() };
        for Waiting { entry, .. } in group {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        self.bytes += lines.len() as u64;
        self.torn = true;
        self.file.write_all(&lines)?;
        self.torn = false;
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(self.path(), self.dir.join(self.names.before)) {
            // It was moved already, and the next could not be opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = open(&self.path())?;
        (self.bytes, self.torn) = (self.file.metadata()?.len(), false);
        File::open(&self.dir)?.sync_all()
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).mode(MODE).open(path)?;
    hide(&file)?;
    Ok(file)
}

/// Also a file that was there before.
fn hide(file: &File) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o777 & !MODE != 0 {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(status: u16) -> Waiting {
        let entry = Entry::now("loopback", None, "POST", "/dlq/purge", status);
        Waiting { entry, written: Arc::default() }
    }

    fn shown(dir: &Path) -> Vec<u16> {
        let mut shown = VecDeque::new();
        for name in [DONE.before, DONE.now] {
            read_last(&dir.join(name), &mut shown).unwrap();
        }
        shown.into_iter().map(|entry| entry.status).collect()
    }

    #[test]
    fn half_a_line_costs_no_other_and_the_file_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(dir.path(), DONE).unwrap().append(&[waiting(200), waiting(401)]).unwrap();
        let path = dir.path().join(DONE.now);
        open(&path).unwrap().write_all(b"{\"time\":\"2").unwrap();
        let mut log = Log::open(dir.path(), DONE).unwrap();
        log.append(&[waiting(403)]).unwrap();
        assert_eq!(shown(dir.path()), [200, 401, 403]);
        log.bytes = DONE.bytes_max;
        log.append(&[waiting(429)]).unwrap();
        assert_eq!(shown(dir.path()), [200, 401, 403, 429]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        // A write that stopped half way.
        log.file.write_all(b"{\"time\":\"2").unwrap();
        log.torn = true;
        log.append(&[waiting(404)]).unwrap();
        assert_eq!(shown(dir.path()), [200, 401, 403, 429, 404]);
        // Moved away, and the next could not be opened.
        fs::rename(&path, dir.path().join(DONE.before)).unwrap();
        log.bytes = DONE.bytes_max;
        log.append(&[waiting(400)]).unwrap();
        assert_eq!(shown(dir.path()), [429, 404, 400]);
    }

    #[test]
    fn files_that_others_may_read_are_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for name in [DONE.now, DONE.before] {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        Log::open(dir.path(), DONE).unwrap();
        for name in [DONE.now, DONE.before] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, MODE, "{name}");
        }
    }

    #[test]
    fn what_is_refused_displaces_nothing_that_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        audit.record(waiting(200).entry);
        let mut refused = 0;
        while refused < 3 * SHOWN_MAX {
            let entry = waiting([401, 403, 429][refused % 3]).entry;
            // As fast as the disk takes them.
            audit.refused.waiting.send(Waiting { entry, written: Arc::default() }).unwrap();
            refused += 1;
        }
        let start = Instant::now();
        while audit.last(SHOWN_MAX).len() != SHOWN_MAX + 1 {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        assert_eq!(audit.last(1).len(), 2);
        assert_eq!(audit.last(1)[1].status, 200, "newest first");
        assert_eq!(shown(dir.path()), [200]);
    }

    #[test]
    fn the_newest_come_first_and_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        for status in 0..u16::try_from(SHOWN_MAX).unwrap() + 7 {
            let Waiting { entry, written } = waiting(status);
            audit.done.waiting.send(Waiting { entry, written: written.clone() }).unwrap();
            while status % 100 == 0 && !written.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        }
        let (newest, start) = (u16::try_from(SHOWN_MAX).unwrap() + 6, Instant::now());
        while audit.last(1).first().is_none_or(|entry| entry.status != newest) {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        assert_eq!(audit.last(usize::MAX).len(), SHOWN_MAX);
        let again = Audit::open(dir.path()).unwrap();
        assert_eq!(
            again.last(3).iter().map(|e| e.status).collect::<Vec<_>>(),
            [newest, newest - 1, newest - 2]
        );
    }
}
