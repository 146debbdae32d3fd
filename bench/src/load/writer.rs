//! Writes live log files on an open-loop schedule: a line that is late keeps its scheduled time.

use super::text::Text;
use super::{Error, Lines, Workload, Written, file_name};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// The writer sleeps at least this long, and then writes all that is due.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// What stands in the lines.
    pub text: Arc<Text>,
    /// Writer I writes `app-I.log`.
    pub files: u32,
    /// Lines a second over all files.
    pub rate: u64,
    /// Lines in all; the writer ends by itself after them.
    pub lines: u64,
    pub seed: u64,
    /// The sequence number of each writer's first line; those below were written before.
    pub first_sequence: u64,
    /// Lines of one file that go into one write, once all of them are due. 1: as most programs do.
    pub lines_per_write: u64,
    pub rotation: Rotation,
}

/// What happens to a file after every so many lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    Never,
    /// Renamed to `.1` (older ones to `.2` and so on, the oldest removed), and created anew.
    Rename {
        lines: u64,
        keep: u32,
    },
    /// Copied to `.1` and truncated, after a pause in which nothing is written: what a reader has
    /// not read by then is gone, as it is with logrotate.
    CopyTruncate {
        lines: u64,
        pause: Duration,
    },
}

impl Options {
    /// A workload's lines, for as long as they are wanted.
    #[must_use]
    pub fn live(workload: &Workload, dir: PathBuf, lines: u64) -> Options {
        Options {
            dir,
            text: Arc::clone(&workload.text),
            files: workload.files,
            rate: workload.rate,
            lines,
            seed: workload.seed,
            first_sequence: 0,
            lines_per_write: 1,
            rotation: workload.rotation,
        }
    }
}

/// A running writer; it stops when dropped.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Written, Error>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    lines: AtomicU64,
}

impl Writer {
    /// Creates the files (or appends to them) and starts to write.
    pub fn start(options: Options) -> Result<Writer, Error> {
        assert!(options.files > 0);
        assert!(options.rate > 0);
        assert!(options.lines_per_write > 0);
        let files = (0..options.files)
            .map(|writer| LiveFile::open(&options, writer))
            .collect::<Result<Vec<LiveFile>, Error>>()?;
        let shared = Arc::new(Shared::default());
        let running = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || run(&options, files, &running))
            .map_err(Error::Thread)?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    /// Lines written so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.shared.lines.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops where it is.
    pub fn stop(self) -> Result<Written, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until all lines are written.
    pub fn wait(mut self) -> Result<Written, Error> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(written)) => written,
            Some(Err(_)) | None => Err(Error::Panicked),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wanted its result has waited for it.
            let _ = thread.join();
        }
    }
}

fn run(options: &Options, mut files: Vec<LiveFile>, shared: &Shared) -> Result<Written, Error> {
    let lines = files.iter().map(|file| file.lines.made()).collect();
    let mut written = Written { lines, ..Written::default() };
    let schedule = Schedule::start(options.rate);
    let mut run = Vec::new();
    let mut done = 0;
    while done < options.lines && !shared.stop.load(Ordering::Relaxed) {
        // A run of lines goes to one file; runs go round.
        let count = options.lines_per_write.min(options.lines - done);
        let Some(late) = schedule.wait_for(done + count - 1, &shared.stop) else { break };
        written.late_max = written.late_max.max(late);
        let turn = done / options.lines_per_write % files.len() as u64;
        let at = usize::try_from(turn).expect("an index of a Vec");
        let file = &mut files[at];
        for i in done..done + count {
            file.lines.next(schedule.stamp_ns(i), &mut run);
        }
        file.append(&run)?;
        written.bytes += run.len() as u64;
        run.clear();
        written.lines[at] = file.lines.made();
        if file.rotate(options.rotation)? {
            written.rotations += 1;
        }
        done += count;
        shared.lines.store(done, Ordering::Relaxed);
    }
    written.elapsed = schedule.start.elapsed();
    Ok(written)
}

struct Schedule {
    start: Instant,
    start_ns: u64,
    rate: u64,
}

impl Schedule {
    fn start(rate: u64) -> Schedule {
        Schedule { start: Instant::now(), start_ns: now_ns(), rate }
    }

    fn offset_ns(&self, line: u64) -> u64 {
        let ns = u128::from(line) * 1_000_000_000 / u128::from(self.rate);
        u64::try_from(ns).expect("a schedule is shorter than 500 years")
    }

    /// Sleeps until the line is due; gives by how much it is late, or None when told to stop.
    fn wait_for(&self, line: u64, stop: &AtomicBool) -> Option<Duration> {
        let due = Duration::from_nanos(self.offset_ns(line));
        loop {
            let now = self.start.elapsed();
            if now >= due {
                return Some(now - due);
            }
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            // Short sleeps, so that a slow schedule is stopped soon all the same.
            std::thread::sleep((due - now).clamp(TICK, 20 * TICK));
        }
    }

    /// The scheduled time, or the real one where the wall clock was set back meanwhile.
    fn stamp_ns(&self, line: u64) -> i64 {
        let stamp = (self.start_ns + self.offset_ns(line)).min(now_ns());
        i64::try_from(stamp).expect("a time before the year 2262")
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).expect("a time before the year 2554")
}

struct LiveFile {
    path: PathBuf,
    file: File,
    lines: Lines,
    rotated_at: u64,
}

impl LiveFile {
    fn open(options: &Options, writer: u32) -> Result<LiveFile, Error> {
        let path = options.dir.join(file_name(writer));
        let file = open_append(&path)?;
        let lines = Lines::from(&options.text, options.seed, writer, options.first_sequence);
        Ok(LiveFile { path, file, rotated_at: lines.made(), lines })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::file("write", &self.path))
    }

    fn rotate(&mut self, rotation: Rotation) -> Result<bool, Error> {
        let since = self.lines.made() - self.rotated_at;
        match rotation {
            Rotation::Rename { lines, keep } if since >= lines => {
                for generation in (1..keep).rev() {
                    let from = generation_path(&self.path, generation);
                    if from.exists() {
                        rename(&from, &generation_path(&self.path, generation + 1))?;
                    }
                }
                rename(&self.path, &generation_path(&self.path, 1))?;
                self.file = open_append(&self.path)?;
            }
            Rotation::CopyTruncate { lines, pause } if since >= lines => {
                std::thread::sleep(pause);
                let copy = generation_path(&self.path, 1);
                std::fs::copy(&self.path, &copy).map_err(Error::file("write", copy))?;
                self.file.set_len(0).map_err(Error::file("truncate", &self.path))?;
            }
            Rotation::Never | Rotation::Rename { .. } | Rotation::CopyTruncate { .. } => {
                return Ok(false);
            }
        }
        self.rotated_at = self.lines.made();
        Ok(true)
    }
}

fn generation_path(path: &Path, generation: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{generation}"));
    name.into()
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(Error::file("rename", from))
}

fn open_append(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::file("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Mark, Reading};

    fn options(dir: &Path) -> Options {
        Options {
            dir: dir.into(),
            text: Workload::service().text,
            files: 2,
            rate: 20_000,
            lines: 2_000,
            seed: 1,
            first_sequence: 0,
            lines_per_write: 1,
            rotation: Rotation::Never,
        }
    }

    fn marks(path: &Path) -> Vec<Mark> {
        let text = std::fs::read(path).unwrap();
        let lines = text.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n');
        lines
            .map(|line| match Mark::read(line) {
                Reading::Intact(mark) => mark,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn lines_are_written_at_the_asked_rate_with_scheduled_times() {
        let dir = tempfile::tempdir().unwrap();
        let written = Writer::start(options(dir.path())).unwrap().wait().unwrap();
        assert_eq!(written.lines, [1_000, 1_000]);
        assert!(written.elapsed >= Duration::from_millis(99), "{:?}", written.elapsed);
        let marks = marks(&dir.path().join("app-1.log"));
        assert_eq!(marks.len(), 1_000);
        for pair in marks.windows(2) {
            assert_eq!(pair[1].sequence, pair[0].sequence + 1);
            // To the microsecond: the wall clock may be slewed meanwhile.
            let step = pair[1].written_ns - pair[0].written_ns;
            assert!((99_000..=101_000).contains(&step), "{step} ns");
        }
    }

    #[test]
    fn renamed_generations_hold_every_line() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation::Rename { lines: 300, keep: 9 };
        let writer = Writer::start(Options { rotation, lines_per_write: 7, ..options(dir.path()) });
        let written = writer.unwrap().wait().unwrap();
        assert_eq!(written.lines_in_all(), 2_000);
        assert_eq!(written.rotations, 6);
        let path = dir.path().join("app-0.log");
        let mut all = Vec::new();
        for generation in (1..=3).rev() {
            all.extend(marks(&generation_path(&path, generation)));
        }
        all.extend(marks(&path));
        assert_eq!(all.len() as u64, written.lines[0]);
        assert!(all.iter().zip(0..).all(|(mark, i)| mark.sequence == i));
    }

    #[test]
    fn the_oldest_generation_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation::Rename { lines: 100, keep: 2 };
        Writer::start(Options { rotation, ..options(dir.path()) }).unwrap().wait().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6);
    }

    #[test]
    fn a_truncated_file_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation::CopyTruncate { lines: 600, pause: Duration::from_millis(1) };
        let writer = Writer::start(Options { rotation, ..options(dir.path()) }).unwrap();
        assert_eq!(writer.wait().unwrap().rotations, 2);
        assert_eq!(marks(&dir.path().join("app-0.log")).len(), 400);
        assert_eq!(marks(&dir.path().join("app-0.log.1")).len(), 600);
    }

    #[test]
    fn a_writer_stops_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let slow = Options { rate: 10, ..options(dir.path()) };
        let writer = Writer::start(slow).unwrap();
        let start = Instant::now();
        let written = writer.stop().unwrap();
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(written.lines_in_all() < 10);
    }
}
