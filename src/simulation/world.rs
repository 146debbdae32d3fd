//! The parts of a shard, and what befalls them.

use super::files::{Kind, Line, SimFile, labels};
use super::loki::{SimLoki, State};
use super::shard::{AGE_MAX, LINKS, Model, Shard, deliver, open, sources};
use crate::alone;
use crate::batch::Batch;
use crate::discover::stamps;
use crate::egress::{Claim, Moment};
use crate::handoff::Fresh;
use crate::push::Reply;
use crate::source::{Sources, Start};
use crate::stream::{StreamId, Streams};
use crate::verdict::{Answer, Reason};
use io::sim::campaign::{Op, names, swarm};
use io::sim::{Clock, Events, Fault, Scheduler, SimDisk, below, one_in, random, run};
use io::wal::{self, Committed, Sealed};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
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
pub const KINDS: &[&str] = &names(&KIND_WEIGHTS);
/// Those that no run does without.
const ALWAYS: usize = 7;

pub fn weights(options: u64) -> Vec<u64> {
    swarm(&KIND_WEIGHTS, ALWAYS, options)
}

pub const STREAMS: usize = 3;
/// A stream without faults: others have to pass, or nothing may be given up.
const OTHERS: usize = STREAMS;
const CHUNK_BYTES: usize = 300;
const BATCH_BYTES: usize = 1_500;
const HOUR_NS: i64 = 3_600_000_000_000;
/// What one tick is.
const TICK: Duration = Duration::from_millis(1);

pub struct World {
    pub(super) disk: SimDisk,
    pub(super) letters_disk: SimDisk,
    pub(super) clock: Clock,
    pub(super) latency: u64,
    pub(super) tasks: Scheduler,
    pub(super) files: Vec<SimFile>,
    /// By stream: the file that is written to.
    pub(super) current: [Option<usize>; STREAMS + 1],
    pub(super) numbers: [u64; STREAMS + 1],
    pub(super) loki: SimLoki,
    pub(super) shard: Rc<Shard>,
    pub(super) sources: Sources,
    pub(super) streams: Streams,
    pub(super) batch: Batch,
    pub(super) apart: Option<StreamId>,
    /// Sealed, and without room in the log.
    pub(super) held: Option<Sealed>,
    pub(super) out: Vec<(Claim, Answer)>,
    pub(super) model: Rc<RefCell<Model>>,
    pub(super) events: Events,
    pub(super) start: Instant,
    pub(super) wall_ns: i64,
    /// As discovery keeps them.
    pub(super) stamps: HashMap<PathBuf, i64>,
    /// One line is going to be.
    pub(super) poison: bool,
    pub(super) roomy: bool,
    pub(super) credit: u64,
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
                if hours > 0 {
                    self.loki.forget_streams();
                    self.events.count("streams rest");
                }
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

    // From file to log, as in [`crate::ingest`].

    pub(super) fn read(&mut self) {
        if !self.append_held() {
            return;
        }
        let counts = LINKS.with(|(_, of)| of.shards[0].clone());
        while let Some(id) = self.sources.next_turn() {
            let now_ns = self.moment().unix_ns;
            let stream = self.sources.stream(id);
            let acked = self.shard.acked();
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
        let moment = self.moment();
        let age_ns = i64::try_from(AGE_MAX.as_nanos()).unwrap();
        self.loki.oldest_ns = self.loki.oldest_ns.max(moment.unix_ns - age_ns);
        let (claim, _) = self.shard.egress.claim_of(0, moment);
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
        self.loki.no_more_streams = false;
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
