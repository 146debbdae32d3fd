//! The files that a shard reads: whose turn it is, where each stands, and its next chunk of lines.
//!
//! A source keeps no half line in memory: it remembers the offset after the last newline taken, and
//! reads from there again. So a restart finds the line whole, and an idle file costs no buffer.

use crate::batch::Lines;
use crate::sightings::Sighting;
use crate::stream::{StreamId, Streams};
use io::format::Cursor;
use io::tail::{Contents, FileId, Fingerprint, Identity, OpenError, open_regular};
use perf::errors::ErrorKey;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    /// Descriptors that stay open between reads.
    pub open_files_max: usize,
    /// How long a file stays open after its last byte was read.
    pub open_idle_max: Duration,
    /// How long a renamed or removed file is watched for late lines.
    pub rotated_wait: Duration,
}

/// What the configuration says of the files of one group.
#[derive(Debug, Clone)]
pub struct LinePolicy {
    pub line_bytes_max: usize,
    pub long_lines: LongLines,
    pub partial_line_timeout: Duration,
    pub follow_symlinks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongLines {
    Split,
    Truncate,
}

/// A line end, and a byte that shows that the line before it is not too long.
const LINE_END_BYTES_MAX: usize = 3;
/// Not part of the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One file.
#[derive(Debug)]
pub struct Source {
    pub identity: Identity,
    pub stream: StreamId,
    pub group: usize,
    /// Where it is now, as far as known.
    pub path: PathBuf,
    /// Where it was when it was first found: its `filename` label.
    pub origin: PathBuf,
    /// Everything before was taken into the batch or a frame.
    offset: u64,
    fingerprint: Fingerprint,
    /// The rest of a line that was truncated is being passed over.
    skipping: bool,
    /// `offset` is where the file ended when it was found: maybe inside a line.
    starts_at_end: bool,
    file: Option<Arc<File>>,
    queued: bool,
    /// Its cursor moved since the last frame.
    touched: bool,
    /// Was at its end when it was last read: before the next read, look whether it was truncated.
    at_end: bool,
    /// Its older generation is read first.
    after: Option<FileId>,
    rotated_at: Option<Instant>,
    removed: bool,
    partial_since: Option<Instant>,
    /// What the last read found behind the last newline.
    partial_bytes: usize,
    /// Since when something of it waits to be read.
    noticed: Option<Instant>,
    read_at: Instant,
    size_seen: u64,
}

/// Counts that a chunk adds to the shard's metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub lines: u64,
    pub bytes: u64,
    pub lines_cut: u64,
    pub bytes_truncated: u64,
    pub line_ends_stripped: u64,
    pub partial_lines: u64,
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, other: Taken) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.lines_cut += other.lines_cut;
        self.bytes_truncated += other.bytes_truncated;
        self.line_ends_stripped += other.line_ends_stripped;
        self.partial_lines += other.partial_lines;
    }
}

#[derive(Debug)]
pub struct Sources {
    options: Options,
    policies: Vec<LinePolicy>,
    files: HashMap<FileId, Source>,
    turns: VecDeque<FileId>,
    open: usize,
    /// Sources that a sweep has to look at: open, renamed, removed, or with half a line.
    active: HashSet<FileId>,
    /// Sources in the batch that is being filled.
    pub touched: Vec<FileId>,
}

/// A followed file, as discovery hands it over.
#[derive(Debug)]
pub struct Follow {
    pub file: FileId,
    pub identity: Identity,
    pub path: PathBuf,
    pub group: usize,
    pub labels: String,
    pub size: u64,
    pub start: Start,
    /// The last timestamp that files of this name were given, as far as cursors say; 0 where none does.
    pub stamp_ns: i64,
}

#[derive(Debug)]
pub enum Start {
    Beginning,
    /// Only what comes after this many bytes.
    End(u64),
    Resume(Cursor),
}

impl Sources {
    #[must_use]
    pub fn new(options: Options, policies: Vec<LinePolicy>) -> Sources {
        Sources {
            options,
            policies,
            files: HashMap::new(),
            turns: VecDeque::new(),
            open: 0,
            active: HashSet::new(),
            touched: Vec::new(),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    #[must_use]
    pub fn open_files(&self) -> usize {
        self.open
    }

    #[must_use]
    pub fn path(&self, file: FileId) -> &Path {
        &self.files[&file].path
    }

    #[must_use]
    pub fn stream(&self, file: FileId) -> StreamId {
        self.files[&file].stream
    }

    #[must_use]
    pub fn offset(&self, file: FileId) -> u64 {
        self.files[&file].offset
    }

    #[must_use]
    pub fn cursor(&self, file: FileId, stamp_ns: i64) -> Cursor {
        self.files[&file].cursor(stamp_ns)
    }

    fn policy(&self, file: FileId) -> &LinePolicy {
        &self.policies[self.files[&file].group]
    }

    /// What to ask for in one read: more than `usual` where the line at the offset is longer.
    #[must_use]
    pub fn chunk_bytes(&self, file: FileId, usual: usize) -> usize {
        let long = self.files[&file].partial_bytes >= usual;
        if long { usual.max(self.policy(file).line_bytes_max + LINE_END_BYTES_MAX) } else { usual }
    }

    /// All files, for who asks.
    #[must_use]
    pub fn seen(&self, streams: &Streams) -> Vec<Sighting> {
        let seen = |source: &Source| Sighting {
            path: source.path.clone(),
            identity: source.identity,
            labels: streams.get(source.stream).labels.clone(),
            offset: source.offset,
            open: source.file.is_some(),
            waits_since: source.noticed,
        };
        self.files.values().map(seen).collect()
    }

    /// Since when the oldest of what the file has to read waits, as far as is known.
    #[must_use]
    pub fn noticed(&self, file: FileId) -> Instant {
        self.files[&file].noticed.unwrap_or_else(Instant::now)
    }

    /// How much the files that wait for their turn have to read, and since when.
    #[must_use]
    pub fn waiting(&self) -> (u64, Option<Instant>) {
        let waiting = self.turns.iter().filter_map(|file| self.files.get(file));
        waiting.fold((0, None), |(bytes, since), source| {
            let since = since.into_iter().chain(source.noticed).min();
            (bytes + source.unread_bytes(), since)
        })
    }

    /// Follows a file. Where another one of the same stream is still being read (an older
    /// generation), that goes first.
    pub fn follow(&mut self, follow: Follow, stream: StreamId, stream_is_new: bool) {
        let starts_at_end = matches!(follow.start, Start::End(1..));
        let (offset, fingerprint, skipping, origin) = match follow.start {
            Start::Beginning => (0, Fingerprint::EMPTY, false, follow.path.clone()),
            Start::End(size) => (size, Fingerprint::EMPTY, false, follow.path.clone()),
            Start::Resume(cursor) => {
                (cursor.offset, cursor.fingerprint, cursor.skipping, cursor.path)
            }
        };
        let older = || {
            let same = |(_, source): &(&FileId, &Source)| source.stream == stream;
            self.files.iter().filter(same).map(|(id, _)| *id).max()
        };
        let source = Source {
            identity: follow.identity,
            stream,
            group: follow.group,
            path: follow.path,
            origin,
            offset,
            fingerprint,
            skipping,
            starts_at_end,
            file: None,
            queued: false,
            touched: false,
            at_end: true,
            after: if stream_is_new { None } else { older() },
            rotated_at: None,
            removed: false,
            partial_since: None,
            partial_bytes: 0,
            read_at: Instant::now(),
            noticed: None,
            size_seen: follow.size,
        };
        self.files.insert(follow.file, source);
        self.changed(follow.file);
    }

    /// The file may have something to read, written now or later: it gets its turn.
    pub fn changed(&mut self, file: FileId) {
        self.written(file, None);
    }

    /// As above, written at `noticed` or later.
    pub fn written(&mut self, file: FileId, noticed: Option<Instant>) {
        if let Some(source) = self.files.get_mut(&file) {
            source.noticed = source.noticed.or_else(|| noticed.or_else(|| Some(Instant::now())));
            if !std::mem::replace(&mut source.queued, true) {
                self.turns.push_back(file);
            }
        }
    }

    /// The file has another name; its writer may go on for a while.
    pub fn renamed(&mut self, file: FileId, path: PathBuf) {
        if let Some(source) = self.files.get_mut(&file) {
            source.path = path;
            source.rotated_at = Some(Instant::now());
        }
        self.changed(file);
    }

    /// The file has no name any more.
    pub fn removed(&mut self, file: FileId) {
        if let Some(source) = self.files.get_mut(&file) {
            source.removed = true;
            source.rotated_at.get_or_insert_with(Instant::now);
            self.active.insert(file);
        }
        self.changed(file);
    }

    /// Whose turn it is. A file waits for the older generation of its stream to be read out.
    pub fn next_turn(&mut self) -> Option<FileId> {
        for _ in 0..self.turns.len() {
            let file = self.turns.pop_front()?;
            let Some(source) = self.files.get(&file) else { continue };
            let older = source.after.and_then(|older| self.files.get(&older));
            if older.is_some_and(|older| older.queued || !older.at_end) {
                self.turns.push_back(file);
                continue;
            }
            let source = self.files.get_mut(&file).expect("just seen");
            source.after = None;
            source.queued = false;
            return Some(file);
        }
        None
    }

    /// Opens the file where it is not, and notices a truncation. The bytes lost by one are counted
    /// where they are known.
    pub fn prepare(&mut self, file: FileId, counts: &perf::metrics::Shard) -> Option<Arc<File>> {
        let opened = self.open(file);
        match &opened {
            Some(opened) => self.look(file, &**opened, counts),
            None => self.files.get_mut(&file).expect("it has its turn").noticed = None,
        }
        opened
    }

    fn open(&mut self, file: FileId) -> Option<Arc<File>> {
        let follow_symlinks = self.policy(file).follow_symlinks;
        let source = self.files.get_mut(&file).expect("it has its turn");
        if source.file.is_none() {
            match open_regular(&source.path, follow_symlinks) {
                // Another file has the name by now: discovery will say where this one went.
                Ok((_, identity, _)) if identity != source.identity => return None,
                Ok((opened, _, _)) => {
                    source.file = Some(Arc::new(opened));
                    self.open += 1;
                    self.active.insert(file);
                    source.at_end = true;
                }
                Err(OpenError::NotFound { .. }) => return None,
                Err(error) => {
                    tracing::warn!(
                        error_key = ErrorKey::SourceUnreadable.name(),
                        %error,
                        "a source cannot be opened"
                    );
                    return None;
                }
            }
        }
        source.file.clone()
    }

    /// Before a chunk is read: whether the file is the one that it was.
    pub fn look(&mut self, file: FileId, contents: &impl Contents, counts: &perf::metrics::Shard) {
        let source = self.files.get_mut(&file).expect("it has its turn");
        if source.at_end {
            source.notice_truncation(contents, counts);
        }
        if std::mem::take(&mut source.starts_at_end) {
            // A line that was begun before is not ours.
            let mut last = [0];
            let read = contents.read_at(&mut last, source.offset - 1);
            source.skipping = read.is_ok_and(|read| read == 1) && last != *b"\n";
        }
        source.read_at = Instant::now();
    }

    /// What `chunk`, read at the source's offset, holds of whole lines goes to `lines`; the offset
    /// moves behind them. `more`: the file goes on behind the chunk.
    pub fn take(&mut self, file: FileId, chunk: &[u8], more: bool, lines: &mut Lines<'_>) -> Taken {
        let policy = &self.policies[self.files[&file].group];
        let source = self.files.get_mut(&file).expect("it has its turn");
        let mut taken = Taken::default();
        let used = source.split(chunk, policy, lines, &mut taken);
        source.offset += used as u64;
        source.size_seen = source.size_seen.max(source.offset + (chunk.len() - used) as u64);
        taken.bytes = used as u64;
        source.at_end = !more;
        if !more {
            source.noticed = None;
        }
        let rest = chunk.len() - used;
        source.partial_bytes = rest;
        if rest == 0 || used > 0 {
            source.partial_since = (rest > 0).then(Instant::now);
        } else {
            source.partial_since.get_or_insert_with(Instant::now);
        }
        if used > 0 && source.removed {
            source.rotated_at = Some(source.read_at);
        }
        if used > 0 && !source.touched {
            source.touched = true;
            self.touched.push(file);
        }
        if more {
            self.changed(file);
        }
        taken
    }

    /// The last line has no newline and none is to be expected: it is taken as it is.
    pub fn take_partial(&mut self, file: FileId, chunk: &[u8], lines: &mut Lines<'_>) -> Taken {
        let source = self.files.get_mut(&file).expect("it has its turn");
        let mut taken = Taken { bytes: chunk.len() as u64, ..Taken::default() };
        if source.skipping {
            taken.bytes_truncated = chunk.len() as u64;
        } else {
            taken.partial_lines = 1;
            taken.lines = 1;
            lines.push(chunk);
        }
        source.offset += chunk.len() as u64;
        source.partial_since = None;
        if !source.touched {
            source.touched = true;
            self.touched.push(file);
        }
        taken
    }

    /// Whether the half line at the end of the file has been waiting long enough.
    #[must_use]
    pub fn partial_is_due(&self, file: FileId) -> bool {
        let source = &self.files[&file];
        let waited = source.partial_since.map_or(Duration::ZERO, |since| since.elapsed());
        let over = source.removed
            && source.rotated_at.is_some_and(|at| at.elapsed() >= self.options.rotated_wait);
        source.partial_since.is_some()
            && (over || waited >= self.policies[source.group].partial_line_timeout)
    }

    /// Encodes the cursors of all sources of the batch into `meta`, as they are now.
    pub fn seal_cursors(&mut self, meta: &mut Vec<u8>, last_ns: impl Fn(StreamId) -> i64) {
        for file in std::mem::take(&mut self.touched) {
            let Some(source) = self.files.get_mut(&file) else { continue };
            source.touched = false;
            source.cursor(last_ns(source.stream)).encode(meta);
        }
    }

    /// Once in a while: half lines that waited long enough and removed files get a turn, files at
    /// rest are closed, and those that are gone are given back to be forgotten.
    pub fn sweep(&mut self, counts: &perf::metrics::Shard) -> Vec<Source> {
        let wait = self.options.rotated_wait;
        let mut gone = Vec::new();
        for file in self.active.iter().copied().collect::<Vec<_>>() {
            let Some(source) = self.files.get(&file) else {
                self.active.remove(&file);
                continue;
            };
            if source.removed && source.is_over(wait) {
                self.active.remove(&file);
                let source = self.files.remove(&file).expect("just found");
                counts.bytes_lost.inc_by(source.unread_bytes());
                self.open -= usize::from(source.file.is_some());
                gone.push(source);
            } else if source.removed || self.partial_is_due(file) {
                // Nobody tells of changes in a file without a name.
                self.changed(file);
            } else if source.file.is_none() && source.partial_since.is_none() {
                self.active.remove(&file);
            }
        }
        let idle_max = self.options.open_idle_max;
        self.close(|_, source| source.read_at.elapsed() >= idle_max);
        gone
    }

    /// Closes the files that were not read for the longest time where too many are open.
    pub fn close_surplus(&mut self) {
        if self.open <= self.options.open_files_max {
            return;
        }
        let mut read_at: Vec<Instant> = self
            .active
            .iter()
            .filter_map(|file| self.files.get(file))
            .filter(|source| source.may_close())
            .map(|source| source.read_at)
            .collect();
        read_at.sort_unstable();
        // A quarter at once, so that this is not done for every file.
        let surplus = self.open - self.options.open_files_max + self.options.open_files_max / 4;
        if let Some(oldest) = read_at.get(surplus.min(read_at.len()).saturating_sub(1)).copied() {
            self.close(|_, source| source.read_at <= oldest);
        }
    }

    fn close(&mut self, which: impl Fn(FileId, &Source) -> bool) {
        for file in &self.active {
            let Some(source) = self.files.get_mut(file) else { continue };
            if source.may_close() && which(*file, source) {
                source.file = None;
                self.open -= 1;
            }
        }
    }
}

impl Source {
    /// A removed file stays open: there is no other way to it.
    fn may_close(&self) -> bool {
        self.file.is_some() && !self.removed && !self.queued
    }

    /// A removed file of which everything was taken, and that nobody wrote to for a while.
    fn is_over(&self, wait: Duration) -> bool {
        let at_rest = !self.queued && !self.touched && self.at_end && self.partial_since.is_none();
        at_rest && self.rotated_at.is_some_and(|at| at.elapsed() >= wait)
    }

    fn unread_bytes(&self) -> u64 {
        let size = self.file.as_ref().and_then(|file| file.metadata().ok());
        size.map_or(self.size_seen, |meta| meta.len()).saturating_sub(self.offset)
    }

    fn cursor(&self, stamp_ns: i64) -> Cursor {
        Cursor {
            identity: self.identity,
            fingerprint: self.fingerprint,
            offset: self.offset,
            stamp_ns,
            skipping: self.skipping,
            path: self.origin.clone(),
        }
    }

    /// A file that is shorter than what was read of it, or that begins otherwise than it did, was
    /// truncated (copytruncate does): it is read again from its start.
    fn notice_truncation(&mut self, file: &impl Contents, counts: &perf::metrics::Shard) {
        let Ok(size) = file.size() else { return };
        let same = size >= self.offset && self.fingerprint.matches(file).unwrap_or(true);
        if !same {
            counts.truncations.inc();
            counts.bytes_lost.inc_by(self.size_seen.saturating_sub(self.offset));
            self.offset = 0;
            self.size_seen = 0;
            self.skipping = false;
            self.partial_since = None;
            self.fingerprint = Fingerprint::EMPTY;
        }
        if let Err(error) = self.fingerprint.grow(file, size) {
            tracing::warn!(
                error_key = ErrorKey::SourceUnreadable.name(),
                %error, path = %self.path.display(),
                "a source cannot be read"
            );
        }
    }

    /// Takes the whole lines of `chunk`; how many bytes it used.
    fn split(
        &mut self,
        chunk: &[u8],
        policy: &LinePolicy,
        lines: &mut Lines<'_>,
        taken: &mut Taken,
    ) -> usize {
        let begins_with_mark = self.offset == 0 && chunk.starts_with(BYTE_ORDER_MARK);
        let first = if begins_with_mark { BYTE_ORDER_MARK.len() } else { 0 };
        let mut start = first;
        for newline in memchr::memchr_iter(b'\n', chunk) {
            let end = newline + 1;
            if self.skipping {
                self.skipping = false;
                taken.bytes_truncated += (end - start) as u64;
                start = end;
                continue;
            }
            let mut line = &chunk[start..newline];
            if let [head @ .., b'\r'] = line {
                line = head;
                taken.line_ends_stripped += 1;
            }
            if line.len() <= policy.line_bytes_max {
                lines.push(line);
                taken.lines += 1;
            } else {
                cut(line, policy, lines, taken);
            }
            start = end;
        }
        // What is left has no newline yet. Longer than a line may be, it will not wait for it.
        while chunk.len() - start > policy.line_bytes_max || (self.skipping && chunk.len() > start)
        {
            if self.skipping {
                taken.bytes_truncated += (chunk.len() - start) as u64;
                return chunk.len();
            }
            let end = start + character_boundary(&chunk[start..], policy.line_bytes_max);
            lines.push(&chunk[start..end]);
            taken.lines += 1;
            taken.lines_cut += 1;
            self.skipping = policy.long_lines == LongLines::Truncate;
            start = end;
        }
        if start == first { 0 } else { start }
    }
}

/// A whole line that is too long.
fn cut(line: &[u8], policy: &LinePolicy, lines: &mut Lines<'_>, taken: &mut Taken) {
    taken.lines_cut += 1;
    let mut rest = line;
    while !rest.is_empty() {
        let end = character_boundary(rest, policy.line_bytes_max);
        lines.push(&rest[..end]);
        taken.lines += 1;
        rest = &rest[end..];
        if policy.long_lines == LongLines::Truncate {
            taken.bytes_truncated += rest.len() as u64;
            return;
        }
    }
}

/// Where to cut so that no UTF-8 character is split, if it is UTF-8.
fn character_boundary(bytes: &[u8], bytes_max: usize) -> usize {
    if bytes.len() <= bytes_max {
        return bytes.len();
    }
    let is_continuation = |at: &usize| bytes[*at] & 0xc0 == 0x80;
    (bytes_max.saturating_sub(3)..=bytes_max)
        .rev()
        .find(|at| !is_continuation(at))
        .filter(|at| *at > 0)
        .unwrap_or(bytes_max)
}

/// Reads at `offset` what the page cache has, without waiting; `None` where the disk is needed.
pub fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<Option<usize>> {
    let slices = &mut [std::io::IoSliceMut::new(buffer)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    match rustix::io::preadv2(file.as_fd(), slices, offset, flags) {
        Ok(read) => Ok(Some(read)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(std::io::Error::from_raw_os_error(error.raw_os_error())),
    }
}

/// Reads at `offset` and waits for the disk.
pub fn read_blocking(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether the file has more behind what was read. A read that came short is no sign of the end:
/// the page cache may have had no more. What comes later, an event tells of.
#[must_use]
pub fn goes_on(file: &File, offset: u64, read: usize, wanted: usize) -> bool {
    read == wanted || file.metadata().is_ok_and(|meta| meta.len() > offset + read as u64)
}
