//! What writers do to the files that a shard reads.

use super::files::{Kind, Line, OTHERS, STREAMS_ALL, SimFile, labels, tenant};
use super::world::World;
use crate::batch::Batch;
use crate::source::{Follow, Start};
use io::sim::{below, one_in};
use io::tail::{FileId, Identity};
use std::path::PathBuf;

pub fn origin(stream: usize) -> PathBuf {
    format!("/log/{stream}").into()
}

fn put(batch: &mut Batch, stream: usize, now_ns: i64, first_ns: i64, texts: &[String]) {
    let mut element = batch.element(&labels(stream), now_ns);
    for (stamp_ns, text) in (first_ns..).zip(texts) {
        element.push(stamp_ns, text.as_bytes(), &[]);
    }
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

    /// A client pushes lines of a stream of its tenant's; it tries once.
    pub fn client(&mut self, seed: &mut u64) {
        let stream = OTHERS + 1 + below(seed, STREAMS_ALL - OTHERS - 1);
        let lines = 1 + below(seed, 5);
        let lines: Vec<(Kind, usize)> = std::iter::repeat_with(|| {
            let kind = if one_in(seed, 20) { Kind::Bad } else { Kind::Fine };
            (kind, below(seed, 120))
        })
        .take(lines)
        .collect();
        self.client_lines(stream, &lines);
    }

    /// More at once than goes together, and than a burst has room for: stored as it came.
    pub fn client_large(&mut self, seed: &mut u64) {
        let stream = OTHERS + 1 + below(seed, STREAMS_ALL - OTHERS - 1);
        let few = self.terms.stream_rate < 20_000;
        let count = if few { 2 } else { 6 + below(seed, 10) };
        let filler = if few { 400 } else { 10_000 };
        self.client_block(stream, &vec![(Kind::Fine, filler); count]);
    }

    pub fn client_fine(&mut self, stream: usize) {
        self.client_lines(stream, &[(Kind::Fine, 5)]);
    }

    /// Lines of a client, with the time of the first; none where they are not taken now.
    fn client_texts(
        &mut self,
        stream: usize,
        lines: &[(Kind, usize)],
    ) -> Option<(i64, Vec<String>)> {
        self.shard.intake.check().ok()?;
        let first_ns = self.moment().unix_ns.max(self.client_ns[stream] + 1);
        let mut texts = Vec::new();
        for (kind, filler) in lines {
            let line = Line { stream, number: self.numbers[stream] };
            self.numbers[stream] += 1;
            self.model.borrow_mut().kinds.insert(line, *kind);
            texts.push(line.text(*kind, *filler));
        }
        self.client_ns[stream] = first_ns + i64::try_from(texts.len()).unwrap() - 1;
        Some((first_ns, texts))
    }

    /// As [`crate::receive`] takes them in.
    fn client_lines(&mut self, stream: usize, lines: &[(Kind, usize)]) {
        let Some((first_ns, texts)) = self.client_texts(stream, lines) else { return };
        let (now_ns, limits) = (self.moment().unix_ns, self.limits());
        let (intake, standing) = (&self.shard.intake, &self.standings[stream]);
        standing.is_at(first_ns, &limits);
        let acked = intake.acked(tenant(stream));
        let alone = standing.travels_alone(acked, now_ns, &limits).then_some(standing);
        intake.take(tenant(stream), |of| {
            of.put(alone, |pending| {
                put(pending.batch(), stream, now_ns, first_ns, &texts);
                pending.cut(500);
            });
        });
        self.came(stream, first_ns, &texts);
    }

    /// Likewise, of a push that is stored as it came.
    fn client_block(&mut self, stream: usize, lines: &[(Kind, usize)]) {
        let Some((first_ns, texts)) = self.client_texts(stream, lines) else { return };
        let (now_ns, limits) = (self.moment().unix_ns, self.limits());
        let mut batch = Batch::default();
        put(&mut batch, stream, now_ns, first_ns, &texts);
        let block = batch.compress();
        let (intake, standing) = (&self.shard.intake, &self.standings[stream]);
        standing.is_at(first_ns, &limits);
        let acked = intake.acked(tenant(stream));
        let alone = standing.travels_alone(acked, now_ns, &limits).then_some(standing);
        intake.take(tenant(stream), |of| {
            of.put(alone, |pending| pending.add(block, now_ns));
        });
        self.came(stream, first_ns, &texts);
    }

    fn came(&self, stream: usize, first_ns: i64, texts: &[String]) {
        let bytes = texts.iter().map(|text| text.len() as u64).sum();
        let stamps = (first_ns, self.client_ns[stream]);
        self.standings[stream].came(bytes, stamps, self.moment().unix_ns, &self.limits());
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
