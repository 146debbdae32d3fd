//! The parts of a shard, and what befalls them.

use super::files::{Kind, Line, SimFile, labels};
use super::loki::{SimLoki, State};
use crate::alone;
use crate::batch::Batch;
use crate::discover::stamps;
use crate::dlq::{self, Dlq, WhenFull};
use crate::egress::{self, Claim, Egress, Moment};
use crate::handoff::{Fresh, Handoff, Lane};
use crate::letters;
use crate::part::Part;
use crate::push::{Client, Reply};
use crate::source::{self, Follow, LinePolicy, LongLines, Sources, Start};
use crate::stream::{StreamId, Streams};
use crate::track::{Ack, Rejected};
use crate::verdict::{Answer, Reason};
use io::format::{BLOCK_BYTES, Cursor, Seq};
use io::sim::campaign::Op;
use io::sim::{Clock, Events, Fault, Scheduler, SimDisk, below, one_in, random, run};
use io::tail::{FileId, Identity};
use io::wal::{self, Committed, Sealed, Wal};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KIND_WEIGHTS: [(&str, u64); 21] = [
    ("write", 16),
    ("cycle", 14),
    ("read", 10),
    ("commit", 10),
    ("deliver", 10),
    ("push", 12),
    ("answer", 12),
    ("half", 3),
    ("flood", 2),
    ("rename", 2),
    ("truncate", 1),
    ("remove", 1),
    ("loki", 5),
    ("clock", 2),
    ("time", 4),
    ("settle", 3),
    ("crash", 4),
    ("power", 1),
    ("kill", 2),
    ("error", 3),
    ("checkpoint", 2),
];
pub const KINDS: &[&str] = &{
    let mut names = [""; KIND_WEIGHTS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = KIND_WEIGHTS[at].0;
        at += 1;
    }
    names
};
/// Those that no run does without.
const ALWAYS: usize = 7;

pub fn weights(options: u64) -> Vec<u64> {
    let mut seed = options ^ 0x5eed;
    let mut weight = |(at, (_, usual)): (usize, &(&str, u64))| match below(&mut seed, 4) {
        0 if at >= ALWAYS => 0,
        1 => usual * 3,
        _ => *usual,
    };
    KIND_WEIGHTS.iter().enumerate().map(&mut weight).collect()
}

const STREAMS: usize = 3;
/// A stream without faults: others have to pass, or nothing may be given up.
const OTHERS: usize = STREAMS;
const CHUNK_BYTES: usize = 300;
const BATCH_BYTES: usize = 1_500;
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const HOUR_NS: i64 = 3_600_000_000_000;
/// What one tick is.
const TICK: Duration = Duration::from_millis(1);

/// What is known of lines, over all runs.
#[derive(Default)]
struct Model {
    kinds: BTreeMap<Line, Kind>,
    /// Written out with its end.
    whole: BTreeSet<Line>,
    /// Lost with a file, or maybe so.
    excused: BTreeSet<Line>,
    /// Of durable frames.
    durable: BTreeMap<Line, i64>,
    frames: BTreeMap<Seq, Vec<Line>>,
    letters: BTreeMap<Line, Reason>,
}

/// What a run holds in memory.
struct Shard {
    wal: Wal<SimDisk>,
    dlq: Dlq<SimDisk>,
    handoff: RefCell<Handoff<SimDisk>>,
    egress: Egress,
    waiting: RefCell<Vec<(Ack, Vec<Rejected>)>>,
    committing: Cell<bool>,
    delivering: Cell<bool>,
    ended: Cell<bool>,
}

pub struct World {
    disk: SimDisk,
    letters_disk: SimDisk,
    clock: Clock,
    latency: u64,
    tasks: Scheduler,
    files: Vec<SimFile>,
    /// By stream: the file that is written to.
    current: [Option<usize>; STREAMS + 1],
    numbers: [u64; STREAMS + 1],
    loki: SimLoki,
    shard: Rc<Shard>,
    sources: Sources,
    streams: Streams,
    batch: Batch,
    apart: Option<StreamId>,
    /// Sealed, and without room in the log.
    held: Option<Sealed>,
    out: Vec<(Claim, Answer)>,
    model: Rc<RefCell<Model>>,
    events: Events,
    start: Instant,
    wall_ns: i64,
    /// As discovery keeps them.
    stamps: HashMap<PathBuf, i64>,
    /// One line is going to be.
    poison: bool,
    roomy: bool,
    credit: u64,
}

fn origin(stream: usize) -> PathBuf {
    format!("/log/{stream}").into()
}

thread_local! {
    /// What costs more to make than a case.
    static LINKS: (Client, perf::metrics::Metrics) = {
        let options = crate::push::Options {
            key: "sinks.loki".into(),
            url: "http://127.0.0.1:1/loki/api/v1/push".into(),
            timeout: Duration::from_secs(1),
            connections: 1,
            tls: crate::push::tls::Options::default(),
            auth: None,
            proxy: crate::push::proxy::Choice::None,
            headers: Vec::new(),
        };
        let metrics = perf::metrics::Metrics::new(1, &["loki".to_owned()], "0");
        (Client::new(&options).expect("a client"), metrics)
    };
}

fn wal_options(roomy: bool) -> wal::Options {
    wal::Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: 6 * BLOCK_BYTES as u64,
        bytes_max: if roomy { 600 } else { 30 } * BLOCK_BYTES as u64,
        group_bytes_max: 4 * BLOCK_BYTES,
    }
}

fn dlq_options() -> dlq::Options {
    dlq::Options {
        dir: PathBuf::new(),
        quarantine: PathBuf::new(),
        owner: 0,
        sink: "loki".into(),
        bytes_max: 16 * 16 * BLOCK_BYTES as u64,
        segment_bytes: 16 * BLOCK_BYTES as u64,
        frame_raw_bytes: 4_000,
        when_full: WhenFull::Keep,
        backoff: dlq::Backoff {
            interval: Duration::from_secs(300),
            age_min: Duration::from_secs(60),
            attempts_max: 3,
            backoff_max: Duration::from_secs(3600),
        },
    }
}

/// Opens log and queue, as a start does.
fn open(disk: &SimDisk, letters: &SimDisk, roomy: bool, credit: u64) -> (Shard, Vec<Cursor>) {
    let (wal, recovered) = run(Wal::open(disk.clone(), wal_options(roomy))).expect("the log opens");
    assert_eq!(recovered.gaps, [], "frames are lost");
    let (dlq, found) = run(Dlq::open(letters.clone(), dlq_options())).expect("the queue opens");
    assert_eq!(found.gaps, [], "letters are lost");
    let lane = Arc::new(Lane::new(Arc::default(), Arc::default()));
    let handoff = Handoff::new(lane.clone(), credit, Duration::ZERO, 0, &wal);
    let options = egress::Options {
        sink: "loki".into(),
        tenant: "fake".into(),
        push_bytes_max: 4_000,
        age_max: AGE_MAX,
        stream_rate: 3 << 20,
    };
    let (client, counts) = LINKS.with(|(client, of)| (client.clone(), of.sinks[0].clone()));
    let stop = shards::stop::Stop::default();
    let egress = Egress::new(vec![lane], client, options, Arc::default(), stop, counts);
    let shard = Shard {
        wal,
        dlq,
        handoff: RefCell::new(handoff),
        egress,
        waiting: RefCell::default(),
        committing: Cell::new(false),
        delivering: Cell::new(false),
        ended: Cell::new(false),
    };
    (shard, recovered.cursors)
}

fn sources() -> Sources {
    let forever = Duration::from_secs(1 << 40);
    let options =
        source::Options { open_files_max: 100, open_idle_max: forever, rotated_wait: forever };
    let policy = LinePolicy {
        line_bytes_max: 100_000,
        long_lines: LongLines::Split,
        partial_line_timeout: forever,
        follow_symlinks: false,
    };
    Sources::new(options, vec![policy])
}

impl World {
    pub fn new(options: u64, events: Events) -> World {
        let mut seed = options;
        let clock = Clock::default();
        let disk = SimDisk::with_events(events.clone());
        let letters_disk = SimDisk::with_events(events.clone());
        // What fails like an overload is given up where others pass: there has to be room for them, in
        // the log too.
        let poison = one_in(&mut seed, 4);
        let credit = if poison { 1 << 20 } else { 500 + random(&mut seed) % 20_000 };
        let (shard, _) = open(&disk, &letters_disk, poison, credit);
        let latency = 1 + random(&mut seed) % 8;
        let mut world = World {
            tasks: Scheduler::new(clock.clone()),
            latency,
            files: Vec::new(),
            current: [None; STREAMS + 1],
            numbers: [0; STREAMS + 1],
            loki: SimLoki::default(),
            shard: Rc::new(shard),
            sources: sources(),
            streams: Streams::default(),
            batch: Batch::default(),
            apart: None,
            held: None,
            out: Vec::new(),
            model: Rc::default(),
            events,
            start: Instant::now(),
            wall_ns: 1_700_000_000_000_000_000,
            stamps: HashMap::new(),
            poison,
            roomy: poison,
            credit,
            disk,
            letters_disk,
            clock,
        };
        world.set_latency(latency);
        if one_in(&mut seed, 2) {
            // Streams that Loki knows travel together.
            (0..STREAMS).for_each(|stream| world.write_fine(stream));
            (0..3).for_each(|_| world.cycle(&mut seed));
            world.settle(1);
        }
        world
    }

    fn set_latency(&self, latency: u64) {
        self.disk.set_latency(latency, &self.clock);
        self.letters_disk.set_latency(latency, &self.clock);
    }

    fn moment(&self) -> Moment {
        let ticks = u32::try_from(self.clock.now()).expect("runs are short");
        let passed = TICK * ticks;
        let passed_ns = i64::try_from(passed.as_nanos()).unwrap();
        Moment { at: self.start + passed, unix_ns: self.wall_ns + passed_ns }
    }

    /// All operations, then the end of all faults: every line is where it belongs.
    pub fn run(mut self, ops: &[Op]) {
        for op in ops {
            self.op(op);
        }
        self.drain();
        self.check_lines();
    }

    fn op(&mut self, op: &Op) {
        let mut seed = u64::from(op.seed);
        self.disk.reseed(random(&mut seed));
        self.letters_disk.reseed(random(&mut seed));
        let stream = below(&mut seed, STREAMS);
        let disk = if one_in(&mut seed, 4) { &self.letters_disk } else { &self.disk };
        let at = disk.operations() + random(&mut seed) % 24;
        match KINDS[op.kind] {
            "write" => self.write(stream, false, &mut seed),
            "half" => self.write(stream, true, &mut seed),
            "flood" => {
                for _ in 0..10 + below(&mut seed, 20) {
                    self.write(below(&mut seed, STREAMS), false, &mut seed);
                    self.read();
                }
            }
            "cycle" => self.cycle(&mut seed),
            "read" => self.read(),
            "commit" => self.commit(&mut seed),
            "deliver" => self.deliver(false, &mut seed),
            "checkpoint" => self.deliver(true, &mut seed),
            "push" => self.push(&mut seed),
            "answer" => self.answer(&mut seed),
            "rename" => self.rename(stream),
            "truncate" => self.truncate(stream),
            "remove" => self.remove(stream),
            "loki" => self.loki.turn(&mut seed),
            "clock" => {
                let hours = [-48, -2, 2, 48, 24 * 8][below(&mut seed, 5)];
                self.events.count(if hours < 0 { "clock back" } else { "clock forward" });
                self.wall_ns += hours * HOUR_NS;
            }
            "time" => self.pass(random(&mut seed) % 10_000),
            "settle" => self.settle(random(&mut seed)),
            "crash" => disk.plant(at, Fault::Crash),
            "error" => disk.plant(at, Fault::Error(libc::EIO)),
            "power" => return self.stop(random(&mut seed), true),
            "kill" => {
                self.events.count("kill");
                return self.stop(random(&mut seed), false);
            }
            other => unreachable!("{other}"),
        }
        for _ in 0..random(&mut seed) % 12 {
            self.step(&mut seed);
        }
    }

    fn step(&mut self, seed: &mut u64) -> bool {
        let more = self.tasks.step(seed);
        if self.disk.crashed() || self.letters_disk.crashed() {
            self.stop(random(seed), true);
        } else if self.shard.ended.get() {
            self.stop(random(seed), false);
        }
        more
    }

    fn settle(&mut self, mut seed: u64) {
        while self.step(&mut seed) {}
    }

    /// What a shard and its senders do all the time.
    fn cycle(&mut self, seed: &mut u64) {
        self.read();
        self.commit(seed);
        self.deliver(one_in(seed, 4), seed);
        for _ in 0..random(seed) % 40 {
            self.step(seed);
        }
        (0..3).for_each(|_| self.push(seed));
        self.pass(random(seed) % 200);
        (0..2).for_each(|_| self.answer(seed));
    }

    /// Nothing happens for so many ticks.
    fn pass(&mut self, ticks: u64) {
        let clock = self.clock.clone();
        self.tasks.spawn(async move { clock.sleep(ticks).await });
        self.settle(ticks);
    }

    // Files.

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
    fn follow(&mut self, at: usize, start: Start) {
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

    fn write(&mut self, stream: usize, half: bool, seed: &mut u64) {
        let at = self.file(stream);
        for _ in 0..1 + below(seed, 5) {
            let number = self.numbers[stream];
            self.numbers[stream] += 1;
            let line = Line { stream, number };
            let kind = match below(seed, 60) {
                0..3 => Kind::Bad,
                3..9 if std::mem::take(&mut self.poison) => Kind::Poison,
                _ => Kind::Fine,
            };
            let file = &mut self.files[at];
            if file.bytes.last().is_some_and(|byte| *byte != b'\n') {
                file.bytes.push(b'\n');
                self.model.borrow_mut().whole.extend(file.lines.last());
            }
            file.bytes.extend_from_slice(line.text(kind, below(seed, 120)).as_bytes());
            file.lines.push(line);
            let mut model = self.model.borrow_mut();
            model.kinds.insert(line, kind);
            if half {
                self.events.count("half a line");
                break;
            }
            file.bytes.push(b'\n');
            model.whole.insert(line);
        }
        let id = self.files[at].id;
        self.sources.changed(id);
    }

    fn rename(&mut self, stream: usize) {
        let Some(at) = self.current[stream].take() else { return };
        self.events.count("rename");
        let file = &mut self.files[at];
        file.path = format!("/log/{stream}.{at}").into();
        self.sources.renamed(file.id, file.path.clone());
    }

    /// What was not durable of a file may be gone with it.
    fn excuse(&mut self, at: usize) {
        let mut model = self.model.borrow_mut();
        let lines = &self.files[at].lines;
        let lost: Vec<Line> =
            lines.iter().filter(|line| !model.durable.contains_key(line)).copied().collect();
        model.excused.extend(lost);
    }

    fn truncate(&mut self, stream: usize) {
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

    fn remove(&mut self, stream: usize) {
        let Some(at) = self.current[stream].take() else { return };
        self.events.count("file removed");
        self.files[at].removed = true;
        self.sources.removed(self.files[at].id);
    }

    // From file to log, as in [`crate::ingest`].

    fn read(&mut self) {
        if !self.append_held() {
            return;
        }
        let counts = LINKS.with(|(_, of)| of.shards[0].clone());
        while let Some(id) = self.sources.next_turn() {
            let now_ns = self.moment().unix_ns;
            let stream = self.sources.stream(id);
            let acked = self.shard.wal.acked_by_all().of("");
            let alone = self.streams.get(stream).standing.travels_alone(acked, now_ns);
            let alone = alone.then_some(stream);
            if alone != self.apart {
                self.seal();
                self.apart = alone;
            }
            let file = &self.files[usize::try_from(id.0).unwrap()];
            self.sources.look(id, file, &counts);
            let offset = self.sources.offset(id);
            let mut chunk = vec![0; self.sources.chunk_bytes(id, CHUNK_BYTES).min(4 * CHUNK_BYTES)];
            let read = io::tail::Contents::read_at(file, &mut chunk, offset).unwrap();
            let more = file.bytes.len() as u64 > offset + read as u64;
            let mut lines = self.batch.lines(self.streams.get_mut(stream), now_ns);
            let taken = self.sources.take(id, &chunk[..read], more, &mut lines);
            drop(lines);
            let standing = &self.streams.get(stream).standing;
            let limits = alone::Limits { stream_rate: 3 << 20, late_ns: HOUR_NS };
            standing.came(taken.bytes, (now_ns, now_ns), now_ns, &limits);
            if self.batch.raw_bytes() >= BATCH_BYTES {
                self.seal();
            }
            if self.held.is_some() {
                return;
            }
        }
        self.seal();
    }

    fn seal(&mut self) {
        if self.batch.is_empty() || !self.append_held() {
            return;
        }
        let mut meta = Vec::new();
        self.sources.seal_cursors(&mut meta, |stream| self.streams.get(stream).last_ns());
        let standing = self.apart.map(|stream| &self.streams.get(stream).standing);
        let sealed = self.batch.seal(meta, 0, standing.map_or(0, |standing| standing.key));
        if let Some(standing) = standing {
            standing.waits();
        }
        self.held = Some(sealed);
        self.append_held();
    }

    /// True where nothing waits for room any more.
    fn append_held(&mut self) -> bool {
        let Some(sealed) = self.held.take() else { return true };
        let key = sealed.stream;
        match self.shard.wal.append(sealed) {
            Ok(seq) => {
                let of_key = (0..=STREAMS).find(|s| crate::part::stream_key(&labels(*s)) == key);
                if let Some(stream) = of_key {
                    let (id, _) = self.streams.acquire(labels(stream));
                    self.streams.get(id).standing.sealed(Some(seq));
                    self.streams.release(id);
                }
                true
            }
            Err(sealed) => {
                self.events.count("quota full");
                self.held = Some(sealed);
                false
            }
        }
    }

    fn commit(&mut self, seed: &mut u64) {
        while self.shard.committing.get() {
            self.step(seed);
        }
        let (shard, model, now) = (self.shard.clone(), self.model.clone(), self.moment().at);
        shard.committing.set(true);
        self.tasks.spawn(async move {
            match shard.wal.commit().await {
                Ok(Committed::Durable(frames)) => {
                    let mut model = model.borrow_mut();
                    for frame in &frames {
                        model.take_in(frame);
                    }
                    let frames: Vec<Fresh> = frames.into_iter().map(Fresh::of).collect();
                    shard.handoff.borrow_mut().durable(&frames, now);
                }
                Ok(Committed::Nothing | Committed::Full(_)) => {}
                Err(_) => shard.ended.set(true),
            }
            shard.committing.set(false);
        });
    }

    // From log to sink and back.

    fn deliver(&mut self, checkpoint: bool, seed: &mut u64) {
        while self.shard.delivering.get() {
            self.step(seed);
        }
        let (shard, model, events) = (self.shard.clone(), self.model.clone(), self.events.clone());
        let moment = self.moment();
        // What the sink holds now, for what is acked of it.
        let stored: Rc<BTreeSet<Line>> = Rc::new(self.loki.stored.keys().copied().collect());
        shard.delivering.set(true);
        self.tasks.spawn(async move {
            if deliver(&shard, &model, &events, moment, checkpoint, &stored).await.is_err() {
                shard.ended.set(true);
            }
            shard.delivering.set(false);
        });
    }

    fn push(&mut self, seed: &mut u64) {
        if self.out.len() >= 3 {
            return;
        }
        let (claim, _) = self.shard.egress.claim_of(0, self.moment());
        let Some(claim) = claim else { return };
        let answer = self.loki.push(&claim.job, seed, &self.events);
        self.out.push((claim, answer));
    }

    /// An answer arrives, in whatever order.
    fn answer(&mut self, seed: &mut u64) {
        if self.out.is_empty() {
            return;
        }
        let (claim, answer) = self.out.remove(below(seed, self.out.len()));
        let moment = self.moment();
        let date = matches!(answer, Answer::Status { .. }) && one_in(seed, 2);
        let date_unix_s = date.then_some(moment.unix_ns / 1_000_000_000);
        self.shard.egress.settle(claim, &Reply { answer, date_unix_s }, 1, moment);
    }

    /// The end of a run, and the start of the next.
    fn stop(&mut self, mut seed: u64, power: bool) {
        if power {
            self.events.count("power loss");
        }
        self.tasks.drop_all();
        self.out.clear();
        for disk in [&self.disk, &self.letters_disk] {
            if power { disk.restart(random(&mut seed)) } else { disk.kill(random(&mut seed)) }
        }
        for at in 0..self.files.len() {
            // Nobody has it open any more.
            if self.files[at].removed {
                self.excuse(at);
            }
        }
        self.set_latency(0);
        let (shard, cursors) = open(&self.disk, &self.letters_disk, self.roomy, self.credit);
        self.shard = Rc::new(shard);
        self.set_latency(self.latency);
        self.learn();
        (self.sources, self.streams, self.batch) =
            (sources(), Streams::default(), Batch::default());
        (self.apart, self.held) = (None, None);
        self.stamps = stamps(&cursors);
        for at in 0..self.files.len() {
            let SimFile { removed, identity, .. } = self.files[at];
            if removed {
                continue;
            }
            let known = cursors.iter().find(|cursor| cursor.identity == identity);
            let start = known.map_or(Start::Beginning, |cursor| Start::Resume(cursor.clone()));
            self.follow(at, start);
        }
    }

    /// What became durable without a word.
    fn learn(&self) {
        let wal = &self.shard.wal;
        let mut model = self.model.borrow_mut();
        let durable = wal.ladder().durable.0;
        model.frames.retain(|seq, _| *seq <= durable);
        let mut backlog = wal::Backlog::new(wal.ladder().acked.0.next(), None);
        loop {
            self.set_latency(0);
            let batch = run(backlog.read(wal, 1 << 20)).expect("can be read");
            self.set_latency(self.latency);
            assert!(batch.gaps.is_empty(), "{:?}", batch.gaps);
            if batch.frames.is_empty() {
                return;
            }
            batch.frames.iter().for_each(|frame| model.take_in(frame));
        }
    }

    /// No more faults; lines come now and then, as they do.
    fn drain(&mut self) {
        for disk in [&self.disk, &self.letters_disk] {
            disk.heal();
        }
        self.settle(1);
        self.loki.state = State::Up;
        self.loki.limited.clear();
        self.loki.bytes_max = None;
        let mut seed = 7;
        for round in 0..4_000 {
            if round % 20 == 0 {
                self.write_fine(if round < 60 { round / 20 } else { OTHERS });
            }
            self.read();
            self.commit(&mut seed);
            self.deliver(true, &mut seed);
            self.settle(random(&mut seed));
            for _ in 0..4 {
                self.push(&mut seed);
            }
            while !self.out.is_empty() {
                self.answer(&mut seed);
            }
            let ladder = self.shard.wal.ladder();
            let done = ladder.acked.0 == ladder.appended.0 && self.held.is_none();
            if done && round > 60 {
                return;
            }
            self.pass(500);
        }
        panic!("never drained: {:?}", self.shard.wal.ladder());
    }

    /// Half a line before it becomes a whole one.
    fn write_fine(&mut self, stream: usize) {
        let at = self.file(stream);
        let line = Line { stream, number: self.numbers[stream] };
        self.numbers[stream] += 1;
        let file = &mut self.files[at];
        let mut model = self.model.borrow_mut();
        if file.bytes.last().is_some_and(|byte| *byte != b'\n') {
            file.bytes.push(b'\n');
            model.whole.extend(file.lines.last());
        }
        file.bytes.extend_from_slice(line.text(Kind::Fine, 5).as_bytes());
        file.bytes.push(b'\n');
        file.lines.push(line);
        model.kinds.insert(line, Kind::Fine);
        model.whole.insert(line);
        self.sources.changed(file.id);
    }

    /// Every line is stored, once, as it was taken in; or it is a letter with the right reason.
    fn check_lines(&self) {
        let model = self.model.borrow();
        for line in &model.whole {
            let stored = self.loki.stored.contains_key(line);
            let letter = model.letters.contains_key(line);
            let excused = model.excused.contains(line);
            assert!(stored || letter || excused, "{line:?} is lost");
            if model.kinds[line] == Kind::Fine && letter {
                let reason = model.letters[line];
                let may = matches!(reason, Reason::TooOld | Reason::StreamLimited);
                assert!(may, "{line:?} is a letter: {reason:?}");
            }
        }
        for (line, (stamp_ns, text)) in &self.loki.stored {
            assert_eq!(model.durable.get(line), Some(stamp_ns), "{line:?} has another time");
            assert_eq!(Line::parse(text), (*line, model.kinds[line]));
            assert_eq!(model.kinds[line], Kind::Fine, "{line:?}");
        }
    }
}

impl Model {
    /// A frame is durable.
    fn take_in(&mut self, frame: &wal::Durable) {
        let mut lines = Vec::new();
        for entry in Part::of(&frame.body).entries() {
            let (line, kind) = Line::parse(entry.line);
            assert_eq!(self.kinds.get(&line), Some(&kind), "{line:?} came back changed");
            lines.push(line);
            let known = self.durable.insert(line, entry.stamp_ns);
            assert!(known.is_none_or(|ns| ns == entry.stamp_ns), "{line:?} is durable twice");
        }
        self.frames.insert(frame.seq, lines);
    }
}

/// One turn of [`crate::ingest`]'s delivery.
async fn deliver(
    shard: &Shard,
    model: &RefCell<Model>,
    events: &Events,
    moment: Moment,
    checkpoint: bool,
    stored: &BTreeSet<Line>,
) -> Result<(), ()> {
    let mut settled = Vec::new();
    loop {
        let ack = shard.handoff.borrow_mut().next_ack();
        let Some(mut ack) = ack else { break };
        if ack.rejected.is_empty() {
            settled.extend(ack.seqs);
        } else {
            let rejected = std::mem::take(&mut ack.rejected);
            shard.waiting.borrow_mut().push((ack, rejected));
        }
    }
    loop {
        let next = shard.waiting.borrow_mut().pop();
        let Some((ack, rejected)) = next else { break };
        let of = |of: &Rejected| letters::records(of, 0, "loki", "fake", moment.unix_ns);
        let records: Vec<dlq::Record> = rejected.iter().flat_map(of).collect();
        if shard.dlq.put(&records).await.is_err() {
            shard.waiting.borrow_mut().push((ack, rejected));
            break;
        }
        let mut model = model.borrow_mut();
        for of in &rejected {
            for entry in of.part.entries() {
                events.count(if of.reason == Reason::TooOld { "too old" } else { "dead letter" });
                model.letters.insert(Line::parse(entry.line).0, of.reason);
            }
        }
        settled.extend(ack.seqs);
    }
    if !settled.is_empty() {
        let model = model.borrow();
        for seq in &settled {
            for line in &model.frames[seq] {
                let held = stored.contains(line) || model.letters.contains_key(line);
                assert!(held, "{line:?} of frame {seq} is acked and nowhere");
            }
        }
        let mut handoff = shard.handoff.borrow_mut();
        handoff.settled(&settled, moment.at);
        shard.wal.ack(0, handoff.acked());
    }
    if (shard.wal.can_trim() || checkpoint)
        && shard.wal.checkpoint().await.is_err_and(|error| !error.is_full())
    {
        return Err(());
    }
    let started = {
        let mut handoff = shard.handoff.borrow_mut();
        handoff.send(&shard.wal, moment.at);
        handoff.start_read(shard.wal.ladder().durable.0, moment.at)
    };
    if let Some((mut backlog, bytes_max)) = started {
        let from = backlog.next();
        let batch = backlog.read(&shard.wal, bytes_max).await.map_err(|_| ())?;
        assert!(batch.gaps.is_empty(), "{:?}", batch.gaps);
        events.count("read back");
        let durable = shard.wal.ladder().durable.0;
        shard.handoff.borrow_mut().finish_read(from, batch.frames, backlog, durable);
    }
    Ok(())
}
