//! The audit log: who changed something, or was to, and what became of it. Neither bodies nor tokens are in it.
//!
//! One file of lines of JSON in `data_dir`, appended and synced by a thread of its own: a shard waits for no disk.
//! The one before it is kept.

use crate::lock;
use perf::errors::ErrorKey;
use perf::guard::counts;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is shown at most: so many are held.
pub const SHOWN_MAX: usize = 1_000;
const NAME: &str = "audit.jsonl";
const BEFORE: &str = "audit.jsonl.1";
/// Then it becomes the one before.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Of a file, so much is read for what is shown.
const SHOWN_BYTES_MAX: u64 = 1 << 20;
/// That wait to be written. More of those that were refused are counted alone.
const WAITING_MAX: usize = 1_024;
const GROUP_MAX: usize = 256;
/// How long an answer waits for the disk.
const WAIT_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const WHO_SIGNS_MAX: usize = 200;

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
}

struct Waiting {
    entry: Entry,
    written: Arc<AtomicBool>,
}

pub struct Audit {
    waiting: SyncSender<Waiting>,
    /// The last ones, oldest first.
    shown: Arc<Mutex<VecDeque<Entry>>>,
}

impl Audit {
    /// `data_dir` is this process's own.
    pub fn open(data_dir: &Path) -> io::Result<Audit> {
        let mut shown = VecDeque::new();
        for name in [BEFORE, NAME] {
            read_last(&data_dir.join(name), &mut shown)?;
        }
        let log = Log::open(data_dir)?;
        let shown = Arc::new(Mutex::new(shown));
        let (waiting, waits) = sync_channel(WAITING_MAX);
        let of_log = shown.clone();
        let thread = std::thread::Builder::new().name("audit".into()).stack_size(256 << 10);
        thread.spawn(move || write_all(log, &waits, &of_log))?;
        Ok(Audit { waiting, shown })
    }

    /// Kept soon; counted alone, where too many come at once.
    pub fn record(&self, entry: Entry) {
        let waiting = Waiting { entry, written: Arc::default() };
        if self.waiting.try_send(waiting).is_err() {
            counts().unaudited.inc();
        }
    }

    /// Kept when this is over, unless the disk fails.
    pub async fn keep(&self, entry: Entry) {
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

    /// The last ones, newest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Entry> {
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
    file: File,
    bytes: u64,
}

impl Log {
    fn open(dir: &Path) -> io::Result<Log> {
        let file = open(&dir.join(NAME))?;
        let bytes = file.metadata()?.len();
        let mut log = Log { dir: dir.to_owned(), file, bytes };
        log.end_line()?;
        Ok(log)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Half a line, which a crash left, stays one by itself.
    fn end_line(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        if self.bytes > 0 {
            let mut file = File::open(self.path())?;
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            self.file.write_all(b"\n")?;
            self.bytes += 1;
        }
        Ok(())
    }

    fn append(&mut self, group: &[Waiting]) -> io::Result<()> {
        if self.bytes >= FILE_BYTES_MAX {
            fs::rename(self.path(), self.dir.join(BEFORE))?;
            (self.file, self.bytes) = (open(&self.path())?, 0);
            File::open(&self.dir)?.sync_all()?;
        }
        let mut lines = Vec::new();
        for Waiting { entry, .. } in group {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        self.bytes += lines.len() as u64;
        self.file.write_all(&lines)?;
        self.file.sync_data()
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
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
        for name in [BEFORE, NAME] {
            read_last(&dir.join(name), &mut shown).unwrap();
        }
        shown.into_iter().map(|entry| entry.status).collect()
    }

    #[test]
    fn half_a_line_costs_no_other_and_the_file_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(dir.path()).unwrap().append(&[waiting(200), waiting(401)]).unwrap();
        let path = dir.path().join(NAME);
        open(&path).unwrap().write_all(b"{\"time\":\"2").unwrap();
        let mut log = Log::open(dir.path()).unwrap();
        log.append(&[waiting(403)]).unwrap();
        assert_eq!(shown(dir.path()), [200, 401, 403]);
        log.bytes = FILE_BYTES_MAX;
        log.append(&[waiting(429)]).unwrap();
        assert_eq!(shown(dir.path()), [200, 401, 403, 429]);
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_newest_come_first_and_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        for status in 0..u16::try_from(SHOWN_MAX).unwrap() + 7 {
            let Waiting { entry, written } = waiting(status);
            audit.waiting.send(Waiting { entry, written: written.clone() }).unwrap();
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
