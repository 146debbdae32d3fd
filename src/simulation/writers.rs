//! What writers do to the files that a shard reads.

use super::files::{Kind, Line, SimFile, labels};
use super::world::World;
use crate::source::{Follow, Start};
use io::sim::below;
use io::tail::{FileId, Identity};
use std::path::PathBuf;

pub fn origin(stream: usize) -> PathBuf {
    format!("/log/{stream}").into()
}

impl World {
    fn file(&mut self, stream: usize) -> usize {
        if let Some(at) = self.current[stream] {
            return at;
        }
        let at = self.files.len();
        // A file system gives numbers of inodes again; when they were born differs.
        let freed = self.files.iter().find(|file| file.removed).map(|file| file.identity.ino);
        if freed.is_some() {
            self.events.count("inode reused");
        }
        let ino = freed.unwrap_or(at as u64 + 1);
        let file = SimFile {
            id: FileId(u32::try_from(at).unwrap()),
            identity: Identity { dev: 1, ino, birth_ns: at as i64 + 1 },
            stream,
            path: origin(stream),
            bytes: Vec::new(),
            removed: false,
            lines: Vec::new(),
        };
        self.files.push(file);
        self.current[stream] = Some(at);
        self.follow(at, Start::Beginning);
        at
    }

    /// As discovery tells the shard.
    pub fn follow(&mut self, at: usize, start: Start) {
        let file = &self.files[at];
        let stamp_ns = self.stamps.get(&origin(file.stream)).copied().unwrap_or(0);
        let (stream, is_new) = self.streams.acquire(labels(file.stream));
        self.streams.get_mut(stream).not_before(stamp_ns);
        if let Start::Resume(cursor) = &start {
            self.streams.get_mut(stream).resume(cursor.stamp_ns);
        }
        let follow = Follow {
            file: file.id,
            identity: file.identity,
            path: origin(file.stream),
            group: 0,
            labels: labels(file.stream),
            size: file.bytes.len() as u64,
            start,
            stamp_ns,
        };
        self.sources.follow(follow, stream, is_new);
    }

    pub fn write(&mut self, stream: usize, half: bool, seed: &mut u64) {
        for _ in 0..1 + below(seed, 5) {
            let kind = match below(seed, 60) {
                0..3 => Kind::Bad,
                3..9 if std::mem::take(&mut self.poison) => Kind::Poison,
                _ => Kind::Fine,
            };
            self.put(stream, kind, below(seed, 120));
            if half {
                self.events.count("half a line");
                break;
            }
            self.end_line(stream);
        }
    }

    pub fn write_fine(&mut self, stream: usize) {
        self.put(stream, Kind::Fine, 5);
        self.end_line(stream);
    }

    /// A line without its end, behind a whole one.
    fn put(&mut self, stream: usize, kind: Kind, filler: usize) {
        self.end_line(stream);
        let at = self.file(stream);
        let line = Line { stream, number: self.numbers[stream] };
        self.numbers[stream] += 1;
        let file = &mut self.files[at];
        file.bytes.extend_from_slice(line.text(kind, filler).as_bytes());
        file.lines.push(line);
        self.model.borrow_mut().kinds.insert(line, kind);
        self.sources.changed(file.id);
    }

    fn end_line(&mut self, stream: usize) {
        let at = self.file(stream);
        let file = &mut self.files[at];
        if file.bytes.last().is_some_and(|byte| *byte != b'\n') {
            file.bytes.push(b'\n');
            self.model.borrow_mut().whole.extend(file.lines.last());
            self.sources.changed(file.id);
        }
    }

    pub fn rename(&mut self, stream: usize) {
        let Some(at) = self.current[stream].take() else { return };
        self.events.count("rename");
        let file = &mut self.files[at];
        file.path = format!("/log/{stream}.{at}").into();
        self.sources.renamed(file.id, file.path.clone());
    }

    /// What was not durable of a file may be gone with it.
    pub fn excuse(&mut self, at: usize) {
        let mut model = self.model.borrow_mut();
        let lines = &self.files[at].lines;
        let lost: Vec<Line> =
            lines.iter().filter(|line| !model.durable.contains_key(line)).copied().collect();
        model.excused.extend(lost);
    }

    pub fn truncate(&mut self, stream: usize) {
        let Some(at) = self.current[stream] else { return };
        // Between two chunks nobody can know of it.
        self.read();
        if self.held.is_some() {
            return;
        }
        self.events.count("copytruncate");
        self.excuse(at);
        let file = &mut self.files[at];
        file.bytes.clear();
        file.lines.clear();
        self.sources.changed(file.id);
    }

    pub fn remove(&mut self, stream: usize) {
        let Some(at) = self.current[stream].take() else { return };
        self.events.count("file removed");
        self.files[at].removed = true;
        self.sources.removed(self.files[at].id);
    }
}
