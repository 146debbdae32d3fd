//! The parts of a shard, and what befalls them.

use super::files::{Kind, Line, OTHERS, STREAMS, STREAMS_ALL, SimFile, TENANTS, labels, tenant};
use super::loki::{Rate, SimLoki, sickness};
use super::shard::{AGE_MAX, LINKS, Model, SINKS, Shard, Terms, deliver, open, sources};
use crate::alone::{self, Standing};
use crate::batch::Batch;
use crate::discover::stamps;
use crate::egress::{Claim, Moment};
use crate::handoff::Fresh;
use crate::push::Reply;
use crate::source::{Sources, Start};
use crate::stream::{StreamId, Streams};
use crate::verdict::{Answer, Reason};
use io::format::{Seq, segment_name};
use io::sim::campaign::{Op, names, swarm};
use io::sim::{Clock, Events, Fault, Scheduler, SimDisk, below, one_in, random, run};
use io::wal::{self, Committed, Recovered, Sealed};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KIND_WEIGHTS: [(&str, u64); 24] = [
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
    ("client", 6),
    ("large", 1),
    ("rot", 1),
];
pub const KINDS: &[&str] = &names(&KIND_WEIGHTS);
/// Those that no run does without.
const ALWAYS: usize = 7;

pub fn weights(options: u64) -> Vec<u64> {
    swarm(&KIND_WEIGHTS, ALWAYS, options)
}

const CHUNK_BYTES: usize = 300;
const BATCH_BYTES: usize = 1_500;
const HOUR_NS: i64 = 3_600_000_000_000;
/// How long one is failed, and how long what came goes at most.
const SIEGE_ROUNDS: u64 = 60;
const SIEGE_REST: u64 = 20;
/// What one tick is.
const TICK: Duration = Duration::from_millis(1);

pub struct World {
    pub(super) disk: SimDisk,
    /// Of each sink.
    pub(super) letters_disks: Vec<SimDisk>,
    pub(super) clock: Clock,
    pub(super) latency: u64,
    pub(super) tasks: Scheduler,
    pub(super) files: Vec<SimFile>,
    /// By stream: the file that is written to.
    pub(super) current: [Option<usize>; STREAMS + 1],
    pub(super) numbers: [u64; STREAMS_ALL],
    /// What clients push: the last time that they gave, and how its streams stand.
    pub(super) client_ns: [i64; STREAMS_ALL],
    pub(super) standings: Vec<Rc<Standing>>,
    pub(super) lokis: Vec<Rc<RefCell<SimLoki>>>,
    pub(super) shard: Rc<Shard>,
    pub(super) sources: Sources,
    pub(super) streams: Streams,
    pub(super) batch: Batch,
    pub(super) apart: Option<StreamId>,
    /// Sealed, and without room in the log.
    pub(super) held: Option<Sealed>,
    /// Under way, to each sink.
    pub(super) out: Vec<Vec<(Claim, Answer)>>,
    pub(super) model: Rc<RefCell<Model>>,
    pub(super) events: Events,
    pub(super) start: Instant,
    pub(super) wall_ns: i64,
    /// As discovery keeps them.
    pub(super) stamps: HashMap<PathBuf, i64>,
    /// One line is going to be.
    pub(super) poison: bool,
    pub(super) terms: Terms,
    /// Before the end, one tenant alone is refused for long, or one sink is away.
    siege: bool,
}

/// As after a start.
fn standings() -> Vec<Rc<Standing>> {
    (0..STREAMS_ALL).map(|stream| Rc::new(Standing::new(&labels(stream)))).collect()
}

impl World {
    pub fn new(options: u64, events: Events) -> World {
        let mut seed = options;
        let clock = Clock::default();
        // What fails like an overload is given up where others pass: there has to be room for them, in
        // the log too.
        let poison = one_in(&mut seed, 4);
        let credit = if poison { 1 << 20 } else { 500 + random(&mut seed) % 20_000 };
        let mut more = options ^ 0x7e7a;
        let rate = [
            None,
            None,
            Some(Rate { bytes: 4_000, burst: 20_000 }),
            Some(Rate { bytes: 20_000, burst: 100_000 }),
        ][below(&mut more, 4)];
        let terms = Terms {
            sinks: 1 + below(&mut more, SINKS.len()),
            roomy: poison,
            credit,
            linger: Duration::from_millis([0, 50][below(&mut more, 2)]),
            stream_rate: rate.map_or(3 << 20, |rate| rate.bytes),
            heat: Arc::default(),
        };
        let siege = one_in(&mut more, 4);
        let disk = SimDisk::with_events(events.clone());
        let letters_disks: Vec<_> =
            (0..terms.sinks).map(|_| SimDisk::with_events(events.clone())).collect();
        let loki = || Rc::new(RefCell::new(SimLoki::new(rate)));
        let (shard, _) = open(&disk, &letters_disks, &terms);
        let latency = 1 + random(&mut seed) % 8;
        let mut world = World {
            tasks: Scheduler::new(clock.clone()),
            latency,
            files: Vec::new(),
            current: [None; STREAMS + 1],
            numbers: [0; STREAMS_ALL],
            client_ns: [0; STREAMS_ALL],
            standings: standings(),
            lokis: (0..terms.sinks).map(|_| loki()).collect(),
            shard: Rc::new(shard),
            sources: sources(),
            streams: Streams::default(),
            batch: Batch::default(),
            apart: None,
            held: None,
            out: (0..terms.sinks).map(|_| Vec::new()).collect(),
            model: Rc::new(RefCell::new(Model::new(terms.sinks))),
            events,
            start: Instant::now(),
            wall_ns: 1_700_000_000_000_000_000,
            stamps: HashMap::new(),
            poison,
            terms,
            siege,
            disk,
            letters_disks,
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
        self.letters_disks.iter().for_each(|disk| disk.set_latency(latency, &self.clock));
    }

    pub(super) fn moment(&self) -> Moment {
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
        let letters_seed = random(&mut seed);
        self.letters_disks.iter().for_each(|disk| disk.reseed(letters_seed));
        let stream = below(&mut seed, STREAMS);
        let sink = op.seed as usize % self.terms.sinks;
        let disk = if one_in(&mut seed, 4) { &self.letters_disks[sink] } else { &self.disk };
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
            "push" => self.push(sink, &mut seed),
            "answer" => self.answer(sink, &mut seed),
            "client" => {
                for _ in 0..1 + below(&mut seed, 4) {
                    self.client(&mut seed);
                }
            }
            "large" => self.client_large(&mut seed),
            "rot" => self.rot(&mut seed),
            "rename" => self.rename(stream),
            "truncate" => self.truncate(stream),
            "remove" => self.remove(stream),
            "loki" => self.lokis[sink].borrow_mut().turn(&mut seed),
            "clock" => {
                let hours = [-48, -2, 2, 48, 24 * 8][below(&mut seed, 5)];
                self.events.count(if hours < 0 { "clock back" } else { "clock forward" });
                self.wall_ns += hours * HOUR_NS;
                if hours > 0 {
                    self.lokis.iter().for_each(|loki| loki.borrow_mut().forget_streams());
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
        if self.disk.crashed() || self.letters_disks.iter().any(SimDisk::crashed) {
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
        for sink in 0..self.terms.sinks {
            (0..3).for_each(|_| self.push(sink, seed));
        }
        self.pass(random(seed) % 200);
        for sink in 0..self.terms.sinks {
            (0..2).for_each(|_| self.answer(sink, seed));
        }
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
            let (acked, limits) = (self.shard.intake.acked(""), self.limits());
            let alone = self.streams.get(stream).standing.travels_alone(acked, now_ns, &limits);
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
            standing.came(taken.bytes, (now_ns, now_ns), now_ns, &limits);
            if self.apart.is_some() && taken.lines > 0 {
                standing.waits();
            }
            if self.batch.raw_bytes() >= BATCH_BYTES {
                self.seal();
            }
            if self.held.is_some() {
                return;
            }
        }
        self.seal();
    }

    pub(super) fn limits(&self) -> alone::Limits {
        let Terms { stream_rate, heat, .. } = self.terms.clone();
        alone::Limits { stream_rate, late_ns: HOUR_NS, heat }
    }

    fn seal(&mut self) {
        if self.batch.is_empty() || !self.append_held() {
            return;
        }
        let mut meta = Vec::new();
        self.sources.seal_cursors(&mut meta, |stream| self.streams.get(stream).last_ns());
        let key = self.apart.map_or(0, |stream| self.streams.get(stream).standing.key);
        let sealed = self.batch.seal(meta, 0, key);
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
                self.shard.intake.found_no_room("");
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
        let events = self.events.clone();
        shard.committing.set(true);
        self.tasks.spawn(async move {
            // Of what finds no room nothing was said to be stored: whoever pushed it is told.
            shard.intake.seal(|frame| {
                let appended = shard.wal.append(frame);
                if appended.is_err() {
                    events.count("push without room");
                }
                appended
            });
            match shard.wal.commit().await {
                Ok(Committed::Durable(frames)) => {
                    let mut model = model.borrow_mut();
                    for frame in &frames {
                        model.take_in(frame);
                    }
                    let frames: Vec<Fresh> = frames.into_iter().map(Fresh::of).collect();
                    for route in &shard.routes {
                        route.handoff.borrow_mut().durable(&frames, now);
                    }
                    shard.intake.full(false);
                    shard.intake.committed(shard.wal.ladder().durable.0);
                }
                Ok(Committed::Nothing) => {}
                Ok(Committed::Full(_)) => shard.intake.full(true),
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
        let (moment, lokis) = (self.moment(), self.lokis.clone());
        shard.delivering.set(true);
        self.tasks.spawn(async move {
            if deliver(&shard, &model, &lokis, &events, moment, checkpoint).await.is_err() {
                shard.ended.set(true);
            }
            shard.delivering.set(false);
        });
    }

    fn push(&mut self, sink: usize, seed: &mut u64) {
        if self.out[sink].len() >= 3 {
            return;
        }
        let moment = self.moment();
        let age_ns = i64::try_from(AGE_MAX.as_nanos()).unwrap();
        let mut loki = self.lokis[sink].borrow_mut();
        loki.oldest_ns = loki.oldest_ns.max(moment.unix_ns - age_ns);
        let (claim, _) = self.shard.routes[sink].egress.claim_of(0, moment);
        let Some(claim) = claim else { return };
        let answer = loki.push(&claim.tenant, &claim.job, moment.at, seed, &self.events);
        self.out[sink].push((claim, answer));
    }

    /// An answer arrives, in whatever order.
    fn answer(&mut self, sink: usize, seed: &mut u64) {
        let out = &mut self.out[sink];
        if out.is_empty() {
            return;
        }
        let (claim, answer) = out.remove(below(seed, out.len()));
        let moment = self.moment();
        let date = matches!(answer, Answer::Status { .. }) && one_in(seed, 2);
        let date_unix_s = date.then_some(moment.unix_ns / 1_000_000_000);
        let reply = Reply { answer, date_unix_s };
        self.shard.routes[sink].egress.settle(claim, &reply, 1, moment);
    }

    /// A byte of a durable frame flips, in a segment that others follow: that it was durable is known.
    fn rot(&mut self, seed: &mut u64) {
        let mut model = self.model.borrow_mut();
        let Some(newest) = model.frames.values().map(|frame| frame.segment).max() else { return };
        let there = |segment: Seq| segment < newest && self.disk.has(&segment_name(segment));
        let frames = model.frames.iter().filter(|(_, frame)| there(frame.segment));
        let seqs: Vec<Seq> = frames.map(|(seq, _)| *seq).collect();
        if seqs.is_empty() {
            return;
        }
        let seq = seqs[below(seed, seqs.len())];
        let frame = &model.frames[&seq];
        let (from, bytes) = frame.block;
        let at = usize::try_from(from).unwrap() + below(seed, bytes);
        self.disk.rot(&segment_name(frame.segment), at, 1 << below(seed, 8));
        self.events.count("rot");
        let lines = frame.lines.clone();
        self.lokis.iter().for_each(|loki| loki.borrow_mut().loose.extend(&lines));
        model.loose.extend(&lines);
        model.rotten.insert(seq);
    }

    /// The end of a run, and the start of the next.
    fn stop(&mut self, mut seed: u64, power: bool) {
        if power {
            self.events.count("power loss");
        }
        self.tasks.drop_all();
        self.out.iter_mut().for_each(Vec::clear);
        for disk in std::iter::once(&self.disk).chain(&self.letters_disks) {
            if power { disk.restart(random(&mut seed)) } else { disk.kill(random(&mut seed)) }
        }
        for at in 0..self.files.len() {
            // Nobody has it open any more.
            if self.files[at].removed {
                self.excuse(at);
            }
        }
        self.set_latency(0);
        self.terms.heat = Arc::default();
        let (shard, recovered) = open(&self.disk, &self.letters_disks, &self.terms);
        self.shard = Rc::new(shard);
        self.set_latency(self.latency);
        self.learn(&recovered);
        let cursors = recovered.cursors;
        (self.sources, self.streams, self.batch) =
            (sources(), Streams::default(), Batch::default());
        (self.apart, self.held, self.standings) = (None, None, standings());
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

    /// What became durable without a word, and what is lost.
    fn learn(&self, recovered: &Recovered) {
        let wal = &self.shard.wal;
        let mut model = self.model.borrow_mut();
        let durable = wal.ladder().durable.0;
        for gap in &recovered.gaps {
            self.events.count("gap recovered");
            model.lose(gap, 0..self.terms.sinks);
        }
        model.frames.retain(|seq, _| *seq <= durable);
        model.rotten.retain(|seq| *seq <= durable);
        let mut backlog = wal::Backlog::new(wal.ladder().acked.0.next(), None);
        loop {
            self.set_latency(0);
            let batch = run(backlog.read(wal, 1 << 20)).expect("can be read");
            self.set_latency(self.latency);
            // Each sink is told by itself.
            batch.gaps.iter().for_each(|gap| model.lose(gap, std::iter::empty()));
            if batch.frames.is_empty() && batch.gaps.is_empty() {
                return;
            }
            batch.frames.iter().for_each(|frame| model.take_in(frame));
        }
    }

    /// No more faults; lines come now and then, as they do.
    fn drain(&mut self) {
        for disk in std::iter::once(&self.disk).chain(&self.letters_disks) {
            disk.heal();
        }
        self.settle(1);
        self.lokis.iter().for_each(|loki| loki.borrow_mut().heal());
        let mut seed = 7;
        self.calm(60, &mut seed);
        if self.siege {
            self.besiege(&mut seed);
            self.calm(0, &mut seed);
        }
    }

    /// So many rounds at least, and until all that was taken in is acked.
    fn calm(&mut self, rounds_min: usize, seed: &mut u64) {
        for round in 0..4_000 {
            if round % 20 == 0 && rounds_min > 0 {
                self.write_fine(if round < 60 { round / 20 } else { OTHERS });
            }
            self.round(500, seed);
            let ladder = self.shard.wal.ladder();
            let done = ladder.acked.0 == ladder.appended.0 && self.held.is_none();
            if done && round >= rounds_min {
                return;
            }
        }
        panic!("never drained: {:?}", self.shard.wal.ladder());
    }

    /// What is there goes on, for so many ticks.
    fn round(&mut self, ticks: u64, seed: &mut u64) {
        self.read();
        self.commit(seed);
        self.deliver(true, seed);
        self.settle(random(seed));
        for sink in 0..self.terms.sinks {
            (0..4).for_each(|_| self.push(sink, seed));
            while !self.out[sink].is_empty() {
                self.answer(sink, seed);
            }
        }
        self.pass(ticks);
    }

    /// One tenant of one sink alone is failed, or one sink fails all, for longer than the log has room:
    /// everybody else goes on.
    fn besiege(&mut self, seed: &mut u64) {
        // By what befell before, so that it differs.
        let mut choice = self.clock.now() ^ self.numbers.iter().sum::<u64>();
        let sink = below(&mut choice, self.terms.sinks);
        let sick: Vec<&'static str> = match below(&mut choice, 4) {
            0 if self.terms.sinks > 1 => TENANTS.to_vec(),
            _ => vec![TENANTS[below(&mut choice, TENANTS.len())]],
        };
        self.events.count(if sick.len() > 1 { "siege of a sink" } else { "siege of a tenant" });
        let state = sickness(&mut choice);
        self.lokis[sink].borrow_mut().tenants.extend(sick.iter().map(|tenant| (*tenant, state)));
        let streams = [OTHERS, OTHERS + 1, STREAMS_ALL - 1];
        let numbers = |world: &World| streams.map(|stream| world.numbers[stream]);
        let mut late = numbers(self);
        for round in 0..SIEGE_ROUNDS {
            if round == SIEGE_ROUNDS - SIEGE_REST {
                late = numbers(self);
            }
            self.write_fine(OTHERS);
            streams[1..].iter().for_each(|stream| self.client_fine(*stream));
            self.round(500, seed);
        }
        for (stream, late) in streams.into_iter().zip(late) {
            for (at, loki) in self.lokis.iter().enumerate() {
                let loki = loki.borrow();
                let newest = loki.stored.keys().filter(|line| line.stream == stream).max();
                if at == sink && sick.contains(&tenant(stream)) {
                    continue;
                }
                // Clients are told where there is no room, and these do not try again: some came through.
                let from = if stream == OTHERS { late } else { late.saturating_sub(SIEGE_REST) };
                let newest = newest.map_or(0, |line| line.number + 1);
                assert!(newest >= from, "{stream} stands at {newest} of {late} at sink {at}");
            }
        }
        self.lokis[sink].borrow_mut().heal();
    }

    /// Every line is stored, once, as it was taken in; or it is a letter with the right reason; or it was
    /// in a frame that was said to be lost.
    fn check_lines(&self) {
        (0..self.terms.sinks).for_each(|sink| self.check_lines_of(sink));
    }

    fn check_lines_of(&self, sink: usize) {
        let (model, loki) = (self.model.borrow(), self.lokis[sink].borrow());
        for line in &model.whole {
            let stored = loki.stored.contains_key(line);
            let letter = model.letters[sink].get(line);
            let excused = model.excused.contains(line) || model.lost[sink].contains(line);
            assert!(stored || letter.is_some() || excused, "{line:?} is lost at sink {sink}");
            if let Some(reason) = letter.filter(|_| model.kinds[line] == Kind::Fine) {
                let may = match reason {
                    Reason::TooOld | Reason::StreamLimited => true,
                    Reason::Held => loki.failed.contains(tenant(line.stream)),
                    _ => false,
                };
                assert!(may, "{line:?} is a letter: {reason:?}");
            }
        }
        for (line, (stamp_ns, text)) in &loki.stored {
            let known = model.durable.get(line) == Some(stamp_ns) || model.loose.contains(line);
            assert!(known, "{line:?} has another time");
            assert_eq!(Line::parse(text), (*line, model.kinds[line]));
            assert_eq!(model.kinds[line], Kind::Fine, "{line:?}");
        }
    }
}
