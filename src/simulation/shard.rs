//! What a run of a shard holds, and its delivery.

use super::files::{Kind, Line};
use crate::dlq::{self, Dlq, WhenFull};
use crate::egress::{self, Egress, Moment};
use crate::handoff::{Handoff, Lane, Position};
use crate::letters;
use crate::part::Part;
use crate::push::Client;
use crate::source::{self, LinePolicy, LongLines, Sources};
use crate::track::{Ack, Rejected};
use crate::verdict::Reason;
use io::format::{BLOCK_BYTES, Cursor, FormatVersion, Seq};
use io::sim::{Events, SimDisk, run};
use io::wal::{self, Wal};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is known of lines, over all runs.
#[derive(Default)]
pub struct Model {
    pub kinds: BTreeMap<Line, Kind>,
    /// Written out with its end.
    pub whole: BTreeSet<Line>,
    /// Lost with a file, or maybe so.
    pub excused: BTreeSet<Line>,
    /// Of durable frames.
    pub durable: BTreeMap<Line, i64>,
    pub frames: BTreeMap<Seq, Vec<Line>>,
    pub letters: BTreeMap<Line, Reason>,
}

/// What a run holds in memory.
pub struct Shard {
    pub wal: Wal<SimDisk>,
    pub dlq: Dlq<SimDisk>,
    pub handoff: RefCell<Handoff<SimDisk>>,
    /// How far the sink is, as [`crate::ingest`] tells those who seal streams apart.
    position: RefCell<Position>,
    pub egress: Egress,
    pub waiting: RefCell<Vec<(Ack, Vec<Rejected>)>>,
    pub committing: Cell<bool>,
    pub delivering: Cell<bool>,
    pub ended: Cell<bool>,
}

impl Shard {
    fn show_position(&self, now: Instant) {
        if let Some(position) = self.handoff.borrow_mut().take_position(now) {
            self.position.replace(position);
        }
    }

    pub fn acked(&self) -> Seq {
        let position = self.position.borrow();
        position.of("").unwrap_or_else(|| position.acked(""))
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
        writes: FormatVersion::NEWEST,
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
        writes: FormatVersion::NEWEST,
    }
}

/// Opens log and queue, as a start does.
pub fn open(disk: &SimDisk, letters: &SimDisk, roomy: bool, credit: u64) -> (Shard, Vec<Cursor>) {
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
        shards: 1,
    };
    let (client, counts) = LINKS.with(|(client, of)| (client.clone(), of.sinks[0].clone()));
    let stop = shards::stop::Stop::default();
    let egress = Egress::new(vec![lane], client, options, Arc::default(), stop, counts);
    let shard = Shard {
        wal,
        dlq,
        handoff: RefCell::new(handoff),
        position: RefCell::default(),
        egress,
        waiting: RefCell::default(),
        committing: Cell::new(false),
        delivering: Cell::new(false),
        ended: Cell::new(false),
    };
    shard.show_position(Instant::now());
    (shard, recovered.cursors)
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
    /// A frame is durable.
    pub fn take_in(&mut self, frame: &wal::Durable) {
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
pub async fn deliver(
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
        shard.handoff.borrow_mut().finish_read(from, batch.frames, backlog, durable, moment.at);
    }
    shard.show_position(moment.at);
    Ok(())
}
