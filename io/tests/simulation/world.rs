//! A log, its tasks, its disk, and what may befall them.

use crate::model::{Model, TAGS, frame, tag};
use io::disk::Disk;
use io::format::{BLOCK_BYTES, CHECKPOINT_SLOTS, FormatVersion, Seq, segment_name};
use io::sim::campaign::{Op, names, swarm};
use io::sim::{Clock, Events, Fault, Scheduler, SimDisk, below, one_in, random, run};
use io::wal::{Acked, Backlog, Committed, Options, Wal, WalError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

const KIND_WEIGHTS: [(&str, u64); 15] = [
    ("append", 16),
    ("commit", 10),
    ("checkpoint", 5),
    ("ack", 6),
    ("read", 5),
    ("steps", 6),
    ("settle", 4),
    ("crash", 3),
    ("power", 2),
    ("kill", 2),
    ("error", 3),
    ("short", 2),
    ("full", 2),
    ("quota", 1),
    ("rot", 2),
];
pub const KINDS: &[&str] = &names(&KIND_WEIGHTS);
/// Those that no run does without.
const ALWAYS: usize = 2;

pub fn weights(options: u64) -> Vec<u64> {
    swarm(&KIND_WEIGHTS, ALWAYS, options)
}

const SINKS: [&str; 2] = ["loki", "far"];

pub struct World {
    pub disk: SimDisk,
    pub model: Rc<RefCell<Model>>,
    pub tasks: Scheduler,
    clock: Clock,
    latency: u64,
    pub options: Options,
    tags: bool,
    large: bool,
    wal: Rc<Wal<SimDisk>>,
    backlog: Rc<RefCell<Option<Backlog<SimDisk>>>>,
    committing: Rc<Cell<bool>>,
    checkpointing: Rc<Cell<bool>>,
    /// A task met what ends a shard.
    ended: Rc<Cell<bool>>,
    events: Events,
    full: bool,
    stale: bool,
    /// Segments without a header, over blocks of others.
    headless: BTreeSet<String>,
}

/// A disk with a log that was here before this one: its frames have numbers that are to come.
fn former(options: &Options) -> SimDisk {
    let disk = SimDisk::default();
    let (wal, _) = run(Wal::open(disk.clone(), options.clone())).expect("nothing is there");
    for n in 1..12 {
        if wal.append(frame(n + 1_000, 9)).is_ok() {
            run(wal.commit()).expect("no fault");
        }
    }
    disk
}

impl World {
    pub fn new(options: u64, events: Events) -> World {
        let mut seed = options;
        let sinks = &SINKS[..1 + below(&mut seed, 2)];
        // In large segments, large groups leave blocks behind them as they are.
        let times = if one_in(&mut seed, 3) { 6 } else { 1 };
        let segment_bytes = (times * (4 + below(&mut seed, 12)) * BLOCK_BYTES) as u64;
        let mut options = Options {
            owner: 0,
            sinks: sinks.iter().map(ToString::to_string).collect(),
            segment_bytes,
            bytes_max: segment_bytes * (2 + random(&mut seed) % 6),
            group_bytes_max: times * (1 + below(&mut seed, 6)) * BLOCK_BYTES,
            writes: FormatVersion::NEWEST,
        };
        let stale = one_in(&mut seed, 2);
        let latency = 1 + random(&mut seed) % 12;
        let (tags, large) = (one_in(&mut seed, 2), one_in(&mut seed, 2));
        options.writes = FormatVersion::ALL[below(&mut seed, FormatVersion::ALL.len())];
        World { tags, large, ..World::of(options, latency, stale, events) }
    }

    /// Few and small segments: each step counts.
    pub fn small() -> World {
        let options = Options {
            owner: 0,
            sinks: vec![SINKS[0].to_owned()],
            segment_bytes: 6 * BLOCK_BYTES as u64,
            bytes_max: 64 * BLOCK_BYTES as u64,
            group_bytes_max: 3 * BLOCK_BYTES,
            writes: FormatVersion::NEWEST,
        };
        World::of(options, 1, true, Events::default())
    }

    fn of(options: Options, latency: u64, stale: bool, events: Events) -> World {
        let clock = Clock::default();
        let disk = SimDisk::with_events(events.clone());
        if stale {
            disk.set_stale(&former(&options));
        }
        let (wal, _) = run(Wal::open(disk.clone(), options.clone())).expect("nothing is there");
        let model =
            Model { sinks: vec![Acked::default(); options.sinks.len()], ..Model::default() };
        let world = World {
            model: Rc::new(RefCell::new(model)),
            tasks: Scheduler::new(clock.clone()),
            latency,
            tags: false,
            large: false,
            wal: Rc::new(wal),
            backlog: Rc::default(),
            committing: Rc::default(),
            checkpointing: Rc::default(),
            ended: Rc::default(),
            events,
            full: false,
            stale,
            headless: BTreeSet::new(),
            options,
            clock,
            disk,
        };
        world.disk.set_latency(world.latency, &world.clock);
        world
    }

    /// All operations, and then the end: faults stop, and everything is there.
    pub fn run(mut self, ops: &[Op]) {
        for op in ops {
            self.op(op);
        }
        self.disk.heal();
        self.disk.limit(None);
        self.settle(1);
        self.stop(2, true);
        self.drain();
    }

    pub fn op(&mut self, op: &Op) {
        let mut seed = u64::from(op.seed);
        self.disk.reseed(random(&mut seed));
        let at = |seed: &mut u64, disk: &SimDisk| disk.operations() + random(seed) % 24;
        match KINDS[op.kind] {
            "append" => self.append(&mut seed),
            "commit" => self.commit(&mut seed),
            "checkpoint" => self.checkpoint(&mut seed),
            "ack" => self.ack(&mut seed),
            "read" => self.read(&mut seed),
            "steps" => {}
            "settle" => self.settle(random(&mut seed)),
            "crash" => self.disk.plant(at(&mut seed, &self.disk), Fault::Crash),
            "power" => return self.stop(random(&mut seed), true),
            "kill" => {
                self.events.count("kill");
                return self.stop(random(&mut seed), false);
            }
            "error" => {
                let errno = [libc::EIO, libc::EIO, libc::ENOSPC][below(&mut seed, 3)];
                self.disk.plant(at(&mut seed, &self.disk), Fault::Error(errno));
            }
            "short" => self.disk.plant(at(&mut seed, &self.disk), Fault::Short),
            "full" => {
                self.full = !self.full;
                let used: u64 = self.disk.entries().iter().map(|entry| entry.bytes).sum();
                let free = random(&mut seed) % 8 * BLOCK_BYTES as u64;
                self.disk.limit(self.full.then_some(used + free));
            }
            "quota" => {
                while self.append_one(&mut seed) {}
                self.events.count("quota full");
            }
            "rot" => self.rot(&mut seed),
            other => unreachable!("{other}"),
        }
        for _ in 0..random(&mut seed) % 12 {
            self.step(&mut seed);
        }
    }

    /// One step of one task, after which everything has to hold.
    pub fn step(&mut self, seed: &mut u64) -> bool {
        let more = self.tasks.step(seed);
        if self.disk.crashed() {
            self.stop(random(seed), true);
        } else if self.ended.get() {
            self.stop(random(seed), false);
        } else {
            self.check();
        }
        more
    }

    pub fn settle(&mut self, mut seed: u64) {
        while self.step(&mut seed) {}
    }

    fn check(&self) {
        let mut model = self.model.borrow_mut();
        let ladder = self.wal.ladder();
        // What the log calls durable is read back and sent by others.
        model.durable = model.durable.max(ladder.durable.0);
        assert!(ladder.durable.0 >= model.durable, "durable went back");
        assert_eq!(ladder.acked.0, model.floor());
        // What was taken in before a segment was poisoned gets room all the same.
        let quota = self.options.bytes_max;
        let poisoned = self.events.has("poisoned segment");
        assert!(self.wal.disk_bytes() <= quota || poisoned, "over the quota");
        let entries = self.disk.entries();
        let segments = entries.iter().filter(|entry| entry.name.ends_with(".wal"));
        let there: BTreeSet<&str> = segments.clone().map(|entry| entry.name.as_str()).collect();
        let bytes: u64 = segments.map(|entry| entry.bytes).sum();
        assert!(bytes <= quota || poisoned, "{bytes} bytes on the disk");
        let mut seen = Seq::NONE;
        for (seq, stand) in model.stands.range(ladder.acked.0.next()..) {
            if stand.segment != seen {
                seen = stand.segment;
                let name = segment_name(seen);
                assert!(there.contains(name.as_str()), "{name} is gone, {seq} is not acked");
            }
        }
    }

    fn append_one(&mut self, seed: &mut u64) -> bool {
        let words = match below(seed, 10) {
            0 if self.large => 1 + below(seed, 12_000),
            0..5 => 1 + below(seed, 2_000),
            _ => 1 + below(seed, 200),
        };
        self.append_frame(words)
    }

    pub fn append_words(&mut self, words: &[usize]) {
        words.iter().for_each(|words| assert!(self.append_frame(*words), "within the quota"));
    }

    fn append_frame(&mut self, words: usize) -> bool {
        let mut model = self.model.borrow_mut();
        let n = model.last_number + 1;
        let Ok(seq) = self.wal.append(frame(n, words)) else { return false };
        assert!(seq > model.durable, "{seq} was durable before");
        model.frames.insert(seq, (n, words));
        model.last_number = n;
        true
    }

    fn append(&mut self, seed: &mut u64) {
        for _ in 0..1 + below(seed, 4) {
            if !self.append_one(seed) {
                self.events.count("quota full");
            }
        }
    }

    pub fn commit(&mut self, seed: &mut u64) {
        while self.committing.get() {
            self.step(seed);
        }
        self.committing.set(true);
        let (wal, model, events) = (self.wal.clone(), self.model.clone(), self.events.clone());
        let (committing, ended) = (self.committing.clone(), self.ended.clone());
        self.tasks.spawn(async move {
            match wal.commit().await {
                Ok(Committed::Durable(frames)) => model.borrow_mut().committed(&frames),
                Ok(Committed::Nothing | Committed::Full(_)) => {}
                Err(error) => {
                    if matches!(error, WalError::Broken { .. }) {
                        events.count("log broken");
                    }
                    ended.set(true);
                }
            }
            committing.set(false);
        });
    }

    pub fn checkpoint(&mut self, seed: &mut u64) {
        while self.checkpointing.get() {
            self.step(seed);
        }
        self.checkpointing.set(true);
        let wal = self.wal.clone();
        let (checkpointing, ended) = (self.checkpointing.clone(), self.ended.clone());
        if self.model.borrow().reading.is_some() && wal.can_trim() {
            self.events.count("read beside a removal");
        }
        self.tasks.spawn(async move {
            if wal.checkpoint().await.is_err_and(|error| !error.is_full()) {
                ended.set(true);
            }
            checkpointing.set(false);
        });
    }

    /// Some sink gets on, some tags of it less.
    fn ack(&mut self, seed: &mut u64) {
        let mut model = self.model.borrow_mut();
        let top = self.wal.ladder().durable.0;
        let sink = below(seed, model.sinks.len());
        let known = model.sinks[sink].clone();
        let floor = known.floor();
        // Nothing is acked that is still to be read back.
        let top = model.reading.map_or(top, |at| top.min(at.previous())).max(floor);
        let between = |seed: &mut u64, low: Seq| match below(seed, 3) {
            0 => top,
            _ => Seq(low.0 + random(seed) % (top.0.saturating_sub(low.0) + 1)),
        };
        let all = between(seed, known.all.min(top)).max(known.all);
        let mut acked = Acked::up_to(all);
        for tag in (0..TAGS).map(tag) {
            let at = known.of(&tag);
            let late = self.tags && one_in(seed, 3);
            let to = if late { between(seed, at.min(top)).max(at) } else { all };
            if to < all {
                self.events.count("tag behind");
                if self.options.writes == FormatVersion::V1 {
                    self.events.count("tag behind, in a format without tags");
                }
                acked.behind.insert(tag, to);
            }
        }
        self.wal.sent(all);
        self.wal.ack(sink, acked.clone());
        model.sinks[sink] = acked;
    }

    pub fn ack_all(&mut self) {
        let durable = self.wal.ladder().durable.0;
        self.wal.sent(durable);
        for sink in 0..self.options.sinks.len() {
            self.wal.ack(sink, Acked::up_to(durable));
            self.model.borrow_mut().sinks[sink] = Acked::up_to(durable);
        }
    }

    /// Reads on from where the reader stands, or from what is acked.
    fn read(&mut self, seed: &mut u64) {
        while self.model.borrow().reading.is_some() {
            self.step(seed);
        }
        let next = self.wal.ladder().acked.0.next();
        let mut backlog = self.backlog.borrow_mut().take();
        let mut backlog = backlog.take().unwrap_or_else(|| Backlog::new(next, None));
        if backlog.next() < next || one_in(seed, 3) {
            // Whose predecessor is known is found at once.
            let model = self.model.borrow();
            let before = model.stands.get(&next.previous()).filter(|_| one_in(seed, 2));
            let place = before
                .map(|stand| io::wal::Place { segment: stand.segment, next_offset: stand.to });
            backlog.seek(next, place);
        }
        let from = backlog.next();
        self.model.borrow_mut().reading = Some(from);
        let (wal, model, home) = (self.wal.clone(), self.model.clone(), self.backlog.clone());
        let (ended, events) = (self.ended.clone(), self.events.clone());
        let bytes_max = 1 + below(seed, 40_000);
        self.tasks.spawn(async move {
            let batch = backlog.read(&wal, bytes_max).await;
            let mut model = model.borrow_mut();
            model.reading = None;
            let Ok(batch) = batch else { return ended.set(true) };
            let mut read: BTreeSet<Seq> = BTreeSet::new();
            for frame in &batch.frames {
                model.check_frame(frame);
                assert!(read.insert(frame.seq), "{} twice", frame.seq);
            }
            for gap in &batch.gaps {
                events.count("gap reported");
                for seq in (gap.frames.first.0..=gap.frames.last.0).map(Seq) {
                    assert!(model.rotten.contains(&seq), "{gap:?}, and frame {seq} was well");
                    assert!(read.insert(seq), "{seq} is read and lost");
                }
            }
            let whole = (from.0..backlog.next().0).map(Seq).collect();
            assert_eq!(read, whole, "read back from {from}");
            *home.borrow_mut() = Some(backlog);
        });
    }

    /// A byte of what is durable flips.
    fn rot(&mut self, seed: &mut u64) {
        self.settle(random(seed));
        let entries = self.disk.entries();
        let files: Vec<_> = entries.iter().filter(|entry| entry.bytes > 0).collect();
        if files.is_empty() {
            return;
        }
        let file = files[below(seed, files.len())];
        let mut model = self.model.borrow_mut();
        let slot = CHECKPOINT_SLOTS.contains(&file.name.as_str());
        let hit: Vec<(Seq, crate::model::Stand)> = model
            .stands
            .iter()
            .filter(|(_, stand)| segment_name(stand.segment) == file.name)
            .map(|(seq, stand)| (*seq, *stand))
            .collect();
        let bytes = usize::try_from(file.bytes).unwrap();
        let at = match hit.get(below(seed, hit.len() + 1)) {
            Some((_, stand)) => {
                let length = usize::try_from(stand.to - stand.from).unwrap();
                usize::try_from(stand.from).unwrap() + below(seed, length)
            }
            None => below(seed, if slot { bytes.min(400) } else { bytes }),
        };
        let first = hit.iter().find(|(_, stand)| stand.from == BLOCK_BYTES as u64);
        let hits_first =
            first.is_some_and(|(_, stand)| (stand.from..stand.to).contains(&(at as u64)));
        let hits_header = !slot && at < BLOCK_BYTES;
        if self.stale && (hits_header || hits_first) {
            // A segment's header tells its frames from those that were there before, and so does its first
            // frame; nothing does where both are gone.
            let well = first.is_some_and(|(seq, _)| !model.rotten.contains(seq));
            let headless = self.headless.contains(&file.name);
            if (hits_header && !well) || (hits_first && headless) {
                return;
            }
        }
        if hits_header && self.stale {
            self.events.count("header rot over stale blocks");
            self.headless.insert(file.name.clone());
        }
        self.disk.rot(&file.name, at, 1 << below(seed, 8));
        self.events.count("rot");
        let block = at / BLOCK_BYTES;
        model.rotten_slot |= slot || block == 0;
        let at = at as u64;
        let hit = hit.iter().filter(|(_, stand)| (stand.from..stand.to).contains(&at));
        model.rotten.extend(hit.map(|(seq, _)| *seq));
    }

    /// The power goes, or the process alone, and the log is opened again, whatever it takes.
    pub fn stop(&mut self, mut seed: u64, power: bool) {
        self.tasks.drop_all();
        self.backlog.take();
        for flag in [&self.committing, &self.checkpointing, &self.ended] {
            flag.set(false);
        }
        let settle = |disk: &SimDisk, seed: &mut u64| {
            if power { disk.restart(random(seed)) } else { disk.kill(random(seed)) }
        };
        settle(&self.disk, &mut seed);
        self.disk.set_latency(0, &self.clock);
        if one_in(&mut seed, 3) {
            // Once more, while it looks at what is left.
            self.disk.plant(self.disk.operations() + random(&mut seed) % 3, Fault::Crash);
            let _ = run(Wal::open(self.disk.clone(), self.options.clone()));
            if self.disk.crashed() {
                self.events.count("crash in recovery");
            }
            settle(&self.disk, &mut seed);
            self.disk.restart(random(&mut seed));
        }
        // Forth and back: the next run may be of another version.
        let before = self.options.writes;
        self.options.writes = FormatVersion::ALL[below(&mut seed, FormatVersion::ALL.len())];
        if self.options.writes != before {
            self.events.count("another format");
        }
        let mut model = self.model.borrow_mut();
        let wal = recover(&self.disk, &self.options, &mut model, &self.events);
        drop(model);
        self.wal = Rc::new(wal);
        self.disk.set_latency(self.latency, &self.clock);
    }

    /// No more faults: everything is committed, acked, and gone.
    fn drain(&mut self) {
        let mut seed = 3;
        for _ in 0..200 {
            self.commit(&mut seed);
            self.settle(random(&mut seed));
            self.ack_all();
            self.checkpoint(&mut seed);
            self.settle(random(&mut seed));
            if !self.wal.has_pending() {
                break;
            }
        }
        assert!(!self.wal.has_pending(), "never drained");
        assert!(self.append_one(&mut seed), "there is room again");
        self.commit(&mut seed);
        self.settle(random(&mut seed));
        let model = self.model.borrow();
        assert_eq!(model.frames.keys().max(), Some(&model.durable), "a fresh line gets through");
        drop(model);
        let wal = self.disk.entries().into_iter().filter(|entry| entry.name.ends_with(".wal"));
        assert!(wal.count() <= 2, "segments stay");
    }
}

/// Opens the log as a start does; what it finds is what the model knows.
pub fn recover(
    disk: &SimDisk,
    options: &Options,
    model: &mut Model,
    events: &Events,
) -> Wal<SimDisk> {
    let open = || run(Wal::open(disk.clone(), options.clone())).expect("opens");
    let (wal, recovered) = open();
    let sinks: Vec<Acked> = (0..options.sinks.len()).map(|sink| wal.acked(sink)).collect();
    let ladder = wal.ladder();
    model.check_recovered(ladder, &recovered, &sinks);
    for (event, happened) in [
        ("torn tail", recovered.torn),
        ("gap reported", !recovered.gaps.is_empty()),
        ("damaged slot", recovered.damaged.iter().any(|(name, _)| !name.ends_with(".wal"))),
        ("survived without an ack", ladder.durable.0 > model.durable),
        ("rot taken for a torn tail", ladder.durable.0 < model.durable),
    ] {
        if happened {
            events.count(event);
        }
    }
    count_stale(disk, events);
    let (again, second) = open();
    assert_eq!(again.ladder(), ladder, "recovering twice differs");
    assert_eq!(second.cursors, recovered.cursors, "recovering twice differs");
    model.resume(ladder.durable.0, sinks);
    // What is there and not acked can be read, or is said to be lost.
    let mut backlog = Backlog::new(ladder.acked.0.next(), None);
    let mut left: BTreeSet<Seq> = (ladder.acked.0.0 + 1..=ladder.durable.0.0).map(Seq).collect();
    loop {
        let batch = run(backlog.read(&wal, 1 << 20)).expect("can be read");
        if batch.frames.is_empty() && batch.gaps.is_empty() {
            break;
        }
        for frame in &batch.frames {
            model.check_frame(frame);
            let stand = model.stand(frame);
            model.stands.insert(frame.seq, stand);
            assert!(left.remove(&frame.seq), "{} again", frame.seq);
        }
        for gap in batch.gaps.iter().chain(&recovered.gaps) {
            for seq in (gap.frames.first.0..=gap.frames.last.0).map(Seq) {
                let excused = model.rotten.contains(&seq) || seq <= model.floor();
                assert!(excused, "{gap:?}, and frame {seq} was well");
                left.remove(&seq);
            }
        }
    }
    assert!(left.is_empty(), "{left:?} can neither be read nor are they said to be lost");
    wal
}

/// Frames of other segments, where this one has not written yet.
fn count_stale(disk: &SimDisk, events: &Events) {
    let salt = |block: &[u8], at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
    for entry in disk.entries().iter().filter(|entry| entry.name.ends_with(".wal")) {
        let file = run(disk.open(&entry.name)).expect("it is there");
        let bytes = usize::try_from(entry.bytes).unwrap();
        let bytes = run(disk.read(&file, 0, bytes)).expect("can be read");
        let mut blocks = bytes.chunks(BLOCK_BYTES);
        let own = blocks.next().map(|header| salt(header, 16));
        if blocks.any(|b| b.starts_with(b"LCAPFRM\n") && Some(salt(b, 8)) != own) {
            return events.count("stale frame");
        }
    }
}
