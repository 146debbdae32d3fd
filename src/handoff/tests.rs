//! What goes over when, for whom there is room, and what is read back.

use super::*;
use futures_lite::future::block_on;
use io::format::{BLOCK_BYTES, FormatVersion};
use io::sim::SimDisk;
use io::wal::{self, Committed, Sealed};

const LINGER: Duration = Duration::from_millis(50);
const CREDIT: u64 = 64 << 10;

struct Bed {
    wal: Wal<SimDisk>,
    handoff: Handoff<SimDisk>,
    lane: Arc<Lane>,
    start: Instant,
}

impl Bed {
    fn new(linger: Duration, credit: u64) -> Bed {
        Bed::on(SimDisk::default(), linger, credit)
    }

    fn on(disk: SimDisk, linger: Duration, credit: u64) -> Bed {
        let options = wal::Options {
            owner: 0,
            sinks: vec!["loki".into()],
            segment_bytes: 256 * BLOCK_BYTES as u64,
            bytes_max: 4096 * BLOCK_BYTES as u64,
            group_bytes_max: 256 * BLOCK_BYTES,
            writes: FormatVersion::NEWEST,
        };
        let (wal, _) = block_on(Wal::open(disk, options)).unwrap();
        let lane = Arc::new(Lane::new(Arc::default(), Arc::default()));
        let handoff = Handoff::new(lane.clone(), credit, linger, 0, &wal);
        Bed { wal, handoff, lane, start: Instant::now() }
    }

    fn commit(&mut self, tenant: &str, bytes: usize) -> Vec<Fresh> {
        let sealed = Sealed {
            meta: tenant.into(),
            tag_len: u16::try_from(tenant.len()).unwrap(),
            body: vec![7; bytes],
            raw_len: 1,
            entries: 1,
            stream: 0,
            oldest_arrival_ns: 1,
            oldest_stamp_ns: 1,
        };
        self.wal.append(sealed).unwrap();
        let Committed::Durable(frames) = block_on(self.wal.commit()).unwrap() else {
            panic!("nothing was committed")
        };
        frames.into_iter().map(Fresh::of).collect()
    }

    /// A frame becomes durable at this time, in milliseconds, pushed or from a file; gives how many
    /// have gone over by then.
    fn durable(&mut self, at_ms: u64, bytes: usize, sourced: bool) -> usize {
        let now = self.start + Duration::from_millis(at_ms);
        let mut frames = self.commit("", bytes);
        frames[0].sourced = sourced;
        self.handoff.durable(&frames, now);
        self.look(at_ms)
    }

    fn look(&mut self, at_ms: u64) -> usize {
        let now = self.start + Duration::from_millis(at_ms);
        if self.handoff.collects_for(now).is_none() {
            self.handoff.send(&self.wal, now);
        }
        std::iter::from_fn(|| self.lane.frames.pop()).count()
    }

    /// Hands over what may go, reading back where that is due.
    fn over(&mut self) -> Vec<Frame> {
        let mut over = Vec::new();
        loop {
            self.handoff.send(&self.wal, self.start);
            over.extend(std::iter::from_fn(|| self.lane.frames.pop()));
            let durable = self.wal.ladder().durable.0;
            let Some((mut backlog, bytes)) = self.handoff.start_read(durable, self.start) else {
                return over;
            };
            let from = backlog.next();
            let read = block_on(backlog.read(&self.wal, bytes)).unwrap();
            let durable = self.wal.ladder().durable.0;
            self.handoff.finish_read(from, read.frames, backlog, durable, self.start);
        }
    }

    fn ack(&mut self, frames: &[Frame]) {
        let seqs: Vec<Seq> = frames.iter().map(|frame| frame.seq).collect();
        self.lane.ack(Ack { seqs: seqs.clone(), ..Ack::default() });
        assert_eq!(self.handoff.next_ack().unwrap().seqs, seqs);
        self.handoff.settled(&seqs, self.start);
        self.wal.ack(0, self.handoff.acked());
    }
}

#[test]
fn pushed_lines_are_collected_after_the_first_that_came_after_a_rest() {
    let mut bed = Bed::new(LINGER, 8 << 20);
    assert_eq!(bed.durable(0, 100, false), 1);
    for at_ms in [1, 20, 49] {
        assert_eq!(bed.durable(at_ms, 100, false), 0, "{at_ms}");
    }
    assert_eq!(bed.look(50), 3);
    assert_eq!(bed.durable(60, 100, false), 0);
    assert_eq!(bed.look(100), 1);
    assert_eq!(bed.durable(151, 100, false), 1, "rested");
}

#[test]
fn what_is_much_or_comes_from_files_takes_all_along_at_once() {
    let mut bed = Bed::new(LINGER, 8 << 20);
    assert_eq!(bed.durable(0, 100, false), 1);
    assert_eq!(bed.durable(1, 100, false), 0);
    assert_eq!(bed.durable(2, 100, true), 2);
    assert_eq!(bed.durable(3, 200 << 10, false), 0);
    assert_eq!(bed.durable(4, 100 << 10, false), 2);
    let mut bed = Bed::new(Duration::ZERO, 8 << 20);
    assert!((0..5).all(|at_ms| bed.durable(at_ms, 100, false) == 1));
}

#[test]
fn a_tenant_that_stands_still_leaves_room_to_the_others_and_goes_on_where_it_was() {
    let mut bed = Bed::new(Duration::ZERO, CREDIT);
    let (mut stuck, mut seqs) = (Vec::new(), BTreeMap::<Arc<str>, Vec<Seq>>::new());
    for round in 0..100_u64 {
        for tenant in ["stuck", "sick", "well"] {
            let frames = bed.commit(tenant, 3000);
            bed.handoff.durable(&frames, bed.start);
        }
        for frame in bed.over() {
            seqs.entry(frame.tenant.clone()).or_default().push(frame.seq);
            if &*frame.tenant == "well" {
                bed.ack(&[frame]);
            } else {
                stuck.push(frame);
            }
        }
        assert_eq!(seqs["well"].len() as u64, round + 1, "it never waits");
    }
    let bytes: u64 = stuck.iter().map(Frame::bytes).sum();
    assert!(bytes <= CREDIT, "{bytes} bytes are held for who stands still");
    let acked = bed.wal.acked(0);
    assert_eq!(acked.all, Seq(300));
    assert_eq!((acked.of("stuck"), acked.of("sick"), acked.of("well")), (Seq(0), Seq(1), Seq(300)));
    // Now it is well again.
    while !stuck.is_empty() {
        bed.ack(&std::mem::take(&mut stuck));
        for frame in bed.over() {
            seqs.get_mut(&frame.tenant).unwrap().push(frame.seq);
            stuck.push(frame);
        }
    }
    for (tenant, seqs) in seqs {
        assert_eq!(seqs.len(), 100, "{tenant}");
        assert!(seqs.is_sorted_by(|a, b| a < b), "{tenant} keeps its order");
    }
    assert!(bed.handoff.is_done());
    assert_eq!(bed.wal.acked(0), Acked::up_to(Seq(300)));
}

#[test]
fn after_a_restart_each_tenant_goes_on_where_it_was() {
    let disk = SimDisk::default();
    let mut bed = Bed::on(disk.clone(), Duration::ZERO, CREDIT);
    for _ in 0..50 {
        for tenant in ["stuck", "well"] {
            let frames = bed.commit(tenant, 3000);
            bed.handoff.durable(&frames, bed.start);
        }
        let over = bed.over();
        let well: Vec<Frame> = over.into_iter().filter(|frame| &*frame.tenant == "well").collect();
        bed.ack(&well);
    }
    block_on(bed.wal.checkpoint()).unwrap();
    drop(bed);
    let mut bed = Bed::on(disk, Duration::ZERO, CREDIT);
    let frames = bed.commit("new", 10);
    bed.handoff.durable(&frames, bed.start);
    let mut seen: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    loop {
        let over = bed.over();
        if over.is_empty() {
            break;
        }
        over.iter().for_each(|frame| *seen.entry(frame.tenant.clone()).or_default() += 1);
        bed.ack(&over);
    }
    assert_eq!(seen, BTreeMap::from([("stuck".into(), 50), ("new".into(), 1)]));
    assert!(bed.handoff.is_done());
}

#[test]
fn what_an_earlier_run_acked_counts_as_sent() {
    let disk = SimDisk::default();
    let mut bed = Bed::on(disk.clone(), Duration::ZERO, CREDIT);
    for tenant in ["stuck", "well"] {
        let frames = bed.commit(tenant, 10);
        bed.handoff.durable(&frames, bed.start);
    }
    let over = bed.over();
    bed.ack(&over[1..]);
    block_on(bed.wal.checkpoint()).unwrap();
    drop(bed);
    let mut bed = Bed::on(disk, Duration::ZERO, CREDIT);
    let over = bed.over();
    assert_eq!(over.iter().map(|frame| frame.seq).collect::<Vec<_>>(), [Seq(1)]);
    bed.ack(&over);
    assert_eq!(bed.wal.ladder().acked.0, Seq(2));
}

#[test]
fn however_many_small_frames_stand_still_others_go_on() {
    let mut bed = Bed::new(Duration::ZERO, 8 << 20);
    for _ in 0..2 * CREDIT_FRAMES {
        let frames = bed.commit("stuck", 10);
        bed.handoff.durable(&frames, bed.start);
    }
    assert_eq!(bed.over().len(), CREDIT_FRAMES, "alone, it may have all of the credit");
    for _ in 0..3 {
        let frames = bed.commit("well", 10);
        bed.handoff.durable(&frames, bed.start);
    }
    for seq in 1..=3 {
        let over = bed.over();
        assert_eq!(over.len(), 1, "without credit, one at a time");
        assert_eq!(over[0].seq, Seq(2 * CREDIT_FRAMES as u64 + seq));
        bed.ack(&over);
    }
}

/// Else the shard would turn round and round without anything to do.
#[test]
fn nobody_reads_behind_what_is_durable() {
    let disk = SimDisk::default();
    let mut bed = Bed::on(disk.clone(), Duration::ZERO, CREDIT);
    for (tenant, bytes) in [("well", 10), ("stuck", 40 << 10), ("stuck", 40 << 10)] {
        let frames = bed.commit(tenant, bytes);
        bed.handoff.durable(&frames, bed.start);
    }
    drop(bed);
    let mut bed = Bed::on(disk, Duration::ZERO, CREDIT);
    let durable = Seq(3);
    assert_eq!(bed.over().len(), 2, "one of each");
    bed.handoff.unmet = Some(Behind { next: Seq(3), place: None, charge: 0, arrival_ns: 1 });
    let at = Behind { next: durable.next(), place: None, charge: 0, arrival_ns: 1 };
    bed.handoff.behind.insert("new".into(), at);
    assert!(bed.handoff.out_bytes > bed.handoff.left(), "nobody looks for the unmet yet");
    assert!(bed.handoff.start_read(durable, bed.start).is_none());
}

#[test]
fn who_was_not_met_does_not_wait_for_as_long_as_others_go_on() {
    let disk = SimDisk::default();
    let mut bed = Bed::on(disk.clone(), Duration::ZERO, CREDIT);
    for _ in 0..200 {
        for tenant in ["stuck", "sick", "worse", "slow"] {
            bed.commit(tenant, 3000);
        }
    }
    bed.commit("third", 10);
    drop(bed);
    let mut bed = Bed::on(disk, Duration::ZERO, CREDIT);
    for _ in 0..30 {
        bed.start += Duration::from_millis(50);
        for frame in bed.over() {
            match &*frame.tenant {
                "third" => return,
                // It goes on, at its own pace.
                "slow" => bed.ack(&[frame]),
                _ => {}
            }
        }
    }
    panic!("it was never met");
}
