//! What a run of a shard holds, and its delivery.

use super::files::{Kind, Line, STREAMS, tenant};
use super::loki::SimLoki;
use crate::alone::Heat;
use crate::dlq::{self, Dlq, WhenFull};
use crate::egress::{self, Egress, Moment};
use crate::handoff::{self, Handoff, Lane};
use crate::intake::{self, Intake};
use crate::letters;
use crate::part::Part;
use crate::push::Client;
use crate::source::{self, LinePolicy, LongLines, Sources};
use crate::track::{Ack, Rejected};
use crate::verdict::Reason;
use io::format::{BLOCK_BYTES, FRAME_HEADER_BYTES, FormatVersion, Seq};
use io::sim::{Events, SimDisk, run};
use io::wal::{self, Gap, Recovered, Wal};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

pub const SINKS: [&str; 2] = ["loki", "far"];

/// What is known of lines, over all runs.
#[derive(Default)]
pub struct Model {
    pub kinds: BTreeMap<Line, Kind>,
    /// Written out with its end, or pushed and answered.
    pub whole: BTreeSet<Line>,
    /// Lost with a file, or maybe so.
    pub excused: BTreeSet<Line>,
    /// Of durable frames.
    pub durable: BTreeMap<Line, i64>,
    pub frames: BTreeMap<Seq, Kept>,
    /// Frames that rot hit, and their lines.
    pub rotten: BTreeSet<Seq>,
    pub loose: BTreeSet<Line>,
    /// Of each sink.
    pub letters: Vec<BTreeMap<Line, Reason>>,
    /// Lines of frames that were said to be lost, of each sink.
    pub lost: Vec<BTreeSet<Line>>,
}

/// A durable frame.
pub struct Kept {
    pub lines: Vec<Line>,
    pub segment: Seq,
    /// A block of it: where it begins, and how much of that is no padding.
    pub block: (u64, usize),
}

/// How a shard is set up, in all its runs.
#[derive(Clone)]
pub struct Terms {
    pub sinks: usize,
    /// The log has room for all.
    pub roomy: bool,
    pub credit: u64,
    /// How long pushed lines are collected.
    pub linger: Duration,
    /// What the sinks take of a stream, as the shard knows it.
    pub stream_rate: u64,
    pub heat: Arc<Heat>,
}

/// To one sink and back.
pub struct Route {
    pub dlq: Dlq<SimDisk>,
    pub handoff: RefCell<Handoff<SimDisk>>,
    pub egress: Egress,
    waiting: RefCell<VecDeque<Ack>>,
}

/// What a run holds in memory.
pub struct Shard {
    pub wal: Wal<SimDisk>,
    pub routes: Vec<Route>,
    pub intake: Intake,
    terms: Terms,
    pub committing: Cell<bool>,
    pub delivering: Cell<bool>,
    pub ended: Cell<bool>,
}

impl Shard {
    fn show_positions(&self, now: Instant) {
        for (sink, route) in self.routes.iter().enumerate() {
            if let Some(position) = route.handoff.borrow_mut().take_position(now) {
                self.intake.set_position(sink, position);
            }
        }
    }
}

thread_local! {
    /// What costs more to make than a case.
    pub static LINKS: (Client, perf::metrics::Metrics) = {
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
        let quiet = perf::recorder::Times::new(1, SINKS.len(), Duration::ZERO, false);
        let metrics = perf::metrics::Metrics::new(1, &SINKS.map(ToOwned::to_owned), &[], quiet);
        (Client::new(&options).expect("a client"), metrics)
    };
}

fn wal_options(terms: &Terms) -> wal::Options {
    wal::Options {
        owner: 0,
        sinks: SINKS[..terms.sinks].iter().map(ToString::to_string).collect(),
        segment_bytes: 6 * BLOCK_BYTES as u64,
        bytes_max: if terms.roomy { 600 } else { 30 } * BLOCK_BYTES as u64,
        group_bytes_max: 4 * BLOCK_BYTES,
        writes: FormatVersion::NEWEST,
    }
}

fn dlq_options(sink: &str) -> dlq::Options {
    dlq::Options {
        dir: PathBuf::new(),
        quarantine: PathBuf::new(),
        owner: 0,
        sink: sink.into(),
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
        writes: FormatVersion::NEWEST,
    }
}

/// Opens log and queues, as a start does.
pub fn open(disk: &SimDisk, letters: &[SimDisk], terms: &Terms) -> (Shard, Recovered) {
    let (wal, recovered) = run(Wal::open(disk.clone(), wal_options(terms))).expect("the log opens");
    let route = |(sink, letters): (usize, &SimDisk)| {
        let options = dlq_options(SINKS[sink]);
        let (dlq, found) = run(Dlq::open(letters.clone(), options)).expect("the queue opens");
        assert_eq!(found.gaps, [], "letters are lost");
        let lane = Arc::new(Lane::new(Arc::default(), Arc::default()));
        let handoff = Handoff::new(lane.clone(), terms.credit, terms.linger, sink, &wal);
        let options = egress::Options {
            sink: SINKS[sink].into(),
            tenant: "fake".into(),
            // Where large pushes come, they may have company.
            push_bytes_max: if terms.stream_rate == 20_000 { 400_000 } else { 4_000 },
            age_max: AGE_MAX,
            stream_rate: terms.stream_rate,
            shards: 1,
            heat: terms.heat.clone(),
        };
        let (client, counts, times) = LINKS
            .with(|(client, of)| (client.clone(), of.sinks[sink].clone(), of.times.sink(sink)));
        let stop = shards::stop::Stop::default();
        let egress = Egress::new(vec![lane], client, options, Arc::default(), stop, counts, times);
        Route { dlq, handoff: RefCell::new(handoff), egress, waiting: RefCell::default() }
    };
    let routes = letters.iter().enumerate().map(route).collect();
    let intake = Intake::new(intake::Options {
        block_raw_bytes: 500,
        frame_raw_bytes: 1_500,
        bytes_max: 1 << 20,
    });
    let shard = Shard {
        wal,
        routes,
        intake,
        terms: terms.clone(),
        committing: Cell::new(false),
        delivering: Cell::new(false),
        ended: Cell::new(false),
    };
    shard.show_positions(Instant::now());
    shard.intake.open();
    (shard, recovered)
}

pub fn sources() -> Sources {
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

impl Model {
    pub fn new(sinks: usize) -> Model {
        let (letters, lost) = (vec![BTreeMap::new(); sinks], vec![BTreeSet::new(); sinks]);
        Model { letters, lost, ..Model::default() }
    }

    /// A frame is durable.
    pub fn take_in(&mut self, frame: &wal::Durable) {
        let mut lines = Vec::new();
        for entry in Part::of(&frame.body).entries() {
            let (line, kind) = Line::parse(entry.line);
            assert_eq!(self.kinds.get(&line), Some(&kind), "{line:?} came back changed");
            assert_eq!(frame.tag, tenant(line.stream).as_bytes(), "{line:?} has another tenant");
            lines.push(line);
            let known = self.durable.insert(line, entry.stamp_ns);
            let once = known.is_none_or(|ns| ns == entry.stamp_ns) || self.loose.contains(&line);
            assert!(once, "{line:?} is durable twice");
            if line.stream > STREAMS {
                self.whole.insert(line);
            }
        }
        let wal::Place { segment, next_offset } = frame.place;
        let used = (FRAME_HEADER_BYTES + frame.tag.len() + frame.body.len()).min(BLOCK_BYTES);
        let block = (next_offset - BLOCK_BYTES as u64, used);
        self.frames.insert(frame.seq, Kept { lines, segment, block });
    }

    /// These frames are said to be lost, to these sinks: rot hit each of them.
    pub fn lose(&mut self, gap: &Gap, sinks: impl Iterator<Item = usize> + Clone) {
        for seq in (gap.frames.first.0..=gap.frames.last.0).map(Seq) {
            assert!(self.rotten.contains(&seq), "{gap:?}, and frame {seq} was well");
            for sink in sinks.clone() {
                self.lost[sink].extend(&self.frames[&seq].lines);
            }
        }
    }
}

/// What came back from one sink.
async fn take_acks(
    shard: &Shard,
    sink: usize,
    model: &RefCell<Model>,
    loki: &RefCell<SimLoki>,
    events: &Events,
    moment: Moment,
) {
    let route = &shard.routes[sink];
    let (mut settled, mut refused) = (Vec::new(), Vec::new());
    loop {
        let ack = route.handoff.borrow_mut().next_ack();
        let Some(ack) = ack else { break };
        check_ack(&ack, sink, &model.borrow(), &loki.borrow());
        if ack.rejected.is_empty() {
            settled.extend(ack.seqs);
        } else {
            route.waiting.borrow_mut().push_back(ack);
        }
    }
    loop {
        let next = route.waiting.borrow_mut().pop_front();
        let Some(ack) = next else { break };
        let of = |of: &Rejected| letters::records(of, 0, SINKS[sink], "fake", moment.unix_ns);
        let records: Vec<dlq::Record> = ack.rejected.iter().flat_map(of).collect();
        if route.dlq.put(&records).await.is_err() {
            route.waiting.borrow_mut().push_front(ack);
            break;
        }
        let mut model = model.borrow_mut();
        for of in &ack.rejected {
            events.count(match of.reason {
                Reason::TooOld => "too old",
                Reason::Held => "held letter",
                _ => "dead letter",
            });
            for entry in of.part.entries() {
                let line = Line::parse(entry.line).0;
                assert_eq!(&*of.tenant, tenant(line.stream), "a letter of another tenant");
                model.letters[sink].insert(line, of.reason);
            }
        }
        refused.extend(ack.seqs);
    }
    if !settled.is_empty() || !refused.is_empty() {
        let mut handoff = route.handoff.borrow_mut();
        handoff.settled(&settled, moment.at);
        handoff.refused(&refused, moment.at);
        shard.wal.ack(sink, handoff.acked());
    }
}

/// What is acked is at the sink, or refused by it.
fn check_ack(ack: &Ack, sink: usize, model: &Model, loki: &SimLoki) {
    let rejected = ack.rejected.iter().flat_map(|of| of.part.entries());
    let rejected: BTreeSet<Line> = rejected.map(|entry| Line::parse(entry.line).0).collect();
    for seq in &ack.seqs {
        for line in &model.frames[seq].lines {
            let held = loki.stored.contains_key(line)
                || rejected.contains(line)
                || model.letters[sink].contains_key(line);
            assert!(held, "{line:?} of frame {seq} is acked and nowhere");
        }
    }
}

/// One turn of [`crate::ingest`]'s delivery.
pub async fn deliver(
    shard: &Shard,
    model: &RefCell<Model>,
    lokis: &[Rc<RefCell<SimLoki>>],
    events: &Events,
    moment: Moment,
    checkpoint: bool,
) -> Result<(), ()> {
    for (sink, loki) in lokis.iter().enumerate() {
        take_acks(shard, sink, model, loki, events, moment).await;
    }
    {
        let refused = shard.intake.take_refused();
        let handoffs: Vec<_> =
            shard.routes.iter().map(|route| route.handoff.borrow_mut()).collect();
        let bytes_max = wal_options(&shard.terms).bytes_max;
        handoff::set_aside(&handoffs, &shard.wal, bytes_max, &refused, moment.at);
    }
    if (shard.wal.can_trim() || checkpoint)
        && shard.wal.checkpoint().await.is_err_and(|error| !error.is_full())
    {
        return Err(());
    }
    for route in &shard.routes {
        let mut handoff = route.handoff.borrow_mut();
        if handoff.collects_for(moment.at).is_none() {
            handoff.send(&shard.wal, moment.at);
        }
    }
    for (sink, route) in shard.routes.iter().enumerate() {
        let durable = shard.wal.ladder().durable.0;
        let started = route.handoff.borrow_mut().start_read(durable, moment.at);
        let Some((mut backlog, bytes_max)) = started else { continue };
        let from = backlog.next();
        let batch = backlog.read(&shard.wal, bytes_max).await.map_err(|_| ())?;
        for gap in &batch.gaps {
            events.count("gap read back");
            model.borrow_mut().lose(gap, std::iter::once(sink));
        }
        events.count("read back");
        let durable = shard.wal.ladder().durable.0;
        let mut handoff = route.handoff.borrow_mut();
        handoff.finish_read(from, batch.frames, backlog, durable, moment.at);
    }
    shard.show_positions(moment.at);
    Ok(())
}
