//! The queue under a simulated disk: crashes at every operation, full disks, rot, quotas.

use super::*;
use io::format::{BLOCK_BYTES, FormatVersion, Seq, segment_name};
use io::sim::{Fault, SimDisk, random, run};
use io::wal;
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: u64 = BLOCK_BYTES as u64;

fn options(when_full: WhenFull) -> Options {
    Options {
        dir: PathBuf::new(),
        quarantine: PathBuf::new(),
        owner: 3,
        sink: "loki".into(),
        bytes_max: 16 * 16 * BLOCK,
        segment_bytes: 16 * BLOCK,
        frame_raw_bytes: 4000,
        when_full,
        backoff: Backoff {
            interval: Duration::from_secs(300),
            age_min: Duration::from_secs(60),
            attempts_max: 3,
            backoff_max: Duration::from_secs(3600),
        },
        writes: FormatVersion::NEWEST,
    }
}

fn open(disk: &SimDisk) -> (Dlq<SimDisk>, Found) {
    run(Dlq::open(disk.clone(), options(WhenFull::Keep))).expect("opens whatever happened")
}

/// An entry that says which it is, and cannot be compressed to nothing.
fn record(n: u64) -> Record {
    let mut seed = n;
    let noise: String = (0..40).map(|_| format!("{:016x}", random(&mut seed))).collect();
    let mut record = Record::for_tests(&format!("{n} {noise}"));
    record.tenant = format!("t{}", n % 3);
    record
}

fn number(record: &Record) -> u64 {
    let line = std::str::from_utf8(&record.line).unwrap();
    let n = line.split_once(' ').unwrap().0.parse().unwrap();
    assert_eq!(record.line, self::record(n).line, "an entry came back changed");
    n
}

fn below(seed: &mut u64, n: usize) -> usize {
    usize::try_from(random(seed) % n as u64).unwrap()
}

/// Everything that waits, by frame.
fn all(dlq: &Dlq<SimDisk>) -> Vec<(Seq, Vec<Record>)> {
    let frames = run(dlq.frames()).unwrap();
    frames.iter().map(|info| (info.id, run(dlq.read(info.id)).unwrap())).collect()
}

fn numbers(dlq: &Dlq<SimDisk>) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        all(dlq).iter().flat_map(|(_, records)| records.iter().map(number)).collect();
    numbers.sort_unstable();
    numbers
}

fn put(dlq: &Dlq<SimDisk>, numbers: impl IntoIterator<Item = u64>) -> Result<Stored, PutError> {
    let records: Vec<Record> = numbers.into_iter().map(record).collect();
    run(dlq.put(&records))
}

fn filter(texts: &[&str]) -> Filter {
    Filter::parse(texts).unwrap()
}

#[test]
fn what_is_put_waits_over_restarts_until_it_is_settled() {
    let disk = SimDisk::default();
    let (dlq, found) = open(&disk);
    assert_eq!((found.frames, found.entries), (0, 0));
    assert_eq!(run(dlq.put(&[])).unwrap(), Stored::default());
    put(&dlq, 0..20).unwrap();
    let stats = dlq.stats();
    assert_eq!((stats.entries, stats.by_reason[&Reason::Refused]), (20, 20));
    assert!(stats.frames > 1, "{stats:?}");
    let (first, records) = all(&dlq).remove(0);
    let again: Vec<Record> = records[..1].to_vec();
    run(dlq.settle(&[first], &again)).unwrap();
    assert!(matches!(run(dlq.read(first)), Err(DlqError::Settled { .. })));
    // Settled twice, or unknown: nothing comes back.
    run(dlq.settle(&[first, Seq(99)], &[record(50)])).unwrap();
    let mut expected: Vec<u64> = (0..20).collect();
    expected.retain(|n| *n == number(&again[0]) || !records.iter().any(|r| number(r) == *n));
    assert_eq!(numbers(&dlq), expected);
    run(dlq.close()).unwrap();
    let (dlq, found) = open(&disk);
    assert_eq!(found.entries, expected.len() as u64);
    assert!(found.gaps.is_empty() && found.undecodable.is_empty());
    assert_eq!(numbers(&dlq), expected);
}

/// What a run did, by the word of the queue.
#[derive(Clone, Default)]
struct Model {
    stored: BTreeSet<u64>,
    /// In the operation that was cut: either way is right.
    unsure: BTreeSet<u64>,
}

impl Model {
    fn forget(&mut self, n: u64) {
        self.stored.remove(&n);
    }
}

/// Puts, settles, purges as `seed` says, until done or until the power goes.
fn drive(dlq: &Dlq<SimDisk>, model: &mut Model, mut seed: u64, steps: u64) {
    let mut n = model.stored.last().map_or(0, |last| last + 1);
    for _ in 0..steps {
        match random(&mut seed) % 8 {
            0..=3 => {
                let new: Vec<u64> = (n..n + 1 + random(&mut seed) % 12).collect();
                n += new.len() as u64;
                match put(dlq, new.clone()) {
                    Ok(_) => model.stored.extend(new),
                    Err(PutError::Full { left, .. }) => {
                        model.stored.extend(
                            new.iter()
                                .enumerate()
                                .filter(|(at, _)| !left.contains(at))
                                .map(|(_, n)| n),
                        );
                    }
                    Err(_) => return model.unsure.extend(new),
                }
            }
            4 | 5 => {
                let Ok(frames) = run(dlq.frames()) else { return };
                let pick = |seed: &mut u64| below(seed, frames.len());
                if frames.is_empty() {
                    continue;
                }
                let seqs: BTreeSet<Seq> =
                    (0..1 + random(&mut seed) % 3).map(|_| frames[pick(&mut seed)].id).collect();
                let seqs: Vec<Seq> = seqs.into_iter().collect();
                let mut of: Vec<Record> = Vec::new();
                for seq in &seqs {
                    let Ok(records) = run(dlq.read(*seq)) else { return };
                    of.extend(records);
                }
                let keep = below(&mut seed, of.len() + 1);
                let done: Vec<u64> = of[keep..].iter().map(number).collect();
                match run(dlq.settle(&seqs, &of[..keep])) {
                    Ok(()) => done.iter().for_each(|n| model.forget(*n)),
                    Err(error) if error.is_full() => {}
                    Err(_) => return model.unsure.extend(done),
                }
            }
            6 => {
                let tenant = random(&mut seed) % 3;
                let gone: Vec<u64> =
                    model.stored.iter().copied().filter(|n| n % 3 == tenant).collect();
                let (now, by) = (0, format!("tenant=t{tenant}"));
                if below(&mut seed, 3) > 0 {
                    if run(dlq.request(&filter(&[&by]), now, 1)).is_err() {
                        return;
                    }
                } else if run(dlq.purge(&filter(&[&by]), now)).is_ok() {
                    gone.iter().for_each(|n| model.forget(*n));
                } else {
                    return model.unsure.extend(gone);
                }
            }
            _ => {
                let due = run(dlq.due(i64::MAX, &options(WhenFull::Keep).backoff, |_| false));
                assert_eq!(due.is_some(), dlq.stats().frames > 0);
            }
        }
    }
}

/// Nothing is lost, nothing that was settled comes back.
fn check(disk: &SimDisk, model: &Model, case: &str) -> Dlq<SimDisk> {
    let (dlq, found) = open(disk);
    assert_eq!(found.gaps, [], "{case}");
    assert!(found.damaged.is_empty() && found.undecodable.is_empty(), "{case}: {found:?}");
    let there: BTreeSet<u64> = numbers(&dlq).into_iter().collect();
    for n in &model.stored {
        assert!(there.contains(n) || model.unsure.contains(n), "{case}: {n} was lost");
    }
    for n in &there {
        assert!(model.stored.contains(n) || model.unsure.contains(n), "{case}: {n} came back");
    }
    dlq
}

#[test]
fn a_crash_at_any_operation_loses_nothing_and_brings_nothing_back() {
    for seed in 0..4 {
        let disk = SimDisk::default();
        let mut model = Model::default();
        drive(&open(&disk).0, &mut model, seed, 60);
        assert!(model.unsure.is_empty());
        check(&disk, &model, "without a crash");
        let operations = disk.operations();
        for at in (0..operations).filter(|at| (at + seed) % 7 == 0) {
            let disk = SimDisk::default();
            disk.plant(at, Fault::Crash);
            let mut model = Model::default();
            if let Ok((dlq, _)) = run(Dlq::open(disk.clone(), options(WhenFull::Keep))) {
                drive(&dlq, &mut model, seed, 60);
            }
            disk.restart(seed * 1000 + at);
            let case = format!("seed {seed}, crash at {at}");
            let dlq = check(&disk, &model, &case);
            // It goes on from there. What shows twice is settled one by one: no matter for this
            // model.
            let there = numbers(&dlq);
            if !there.is_sorted_by(|a, b| a < b) {
                continue;
            }
            model.stored = there.into_iter().collect();
            model.unsure.clear();
            drive(&dlq, &mut model, at, 20);
            drop(dlq);
            check(&disk, &model, &format!("{case}, and on"));
        }
    }
}

#[test]
fn a_failing_write_loses_nothing() {
    for seed in 0..4 {
        let disk = SimDisk::default();
        drive(&open(&disk).0, &mut Model::default(), seed, 40);
        for at in 0..disk.operations() {
            let disk = SimDisk::default();
            // One is made good by the log; two in a row break the operation.
            disk.plant(at, Fault::Error(libc::EIO));
            disk.plant(at + 1 + at % 3, Fault::Error(libc::EIO));
            let mut model = Model::default();
            let Ok((dlq, _)) = run(Dlq::open(disk.clone(), options(WhenFull::Keep))) else {
                continue;
            };
            drive(&dlq, &mut model, seed, 40);
            let there: BTreeSet<u64> = numbers(&dlq).into_iter().collect();
            assert!(model.stored.difference(&model.unsure).all(|n| there.contains(n)), "{at}");
            drop(dlq);
            disk.heal();
            check(&disk, &model, &format!("seed {seed}, errors at {at}"));
        }
    }
}

#[test]
fn a_full_disk_gives_back_what_it_did_not_take() {
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    put(&dlq, 0..4).unwrap();
    disk.limit(Some(2 * 16 * BLOCK));
    let new: Vec<u64> = (4..200).collect();
    let Err(PutError::Full { left, why, .. }) = put(&dlq, new.clone()) else {
        panic!("it is full")
    };
    assert!(!left.is_empty() && left.len() < new.len(), "{left:?}");
    assert!(why.contains("No space left"), "{why}");
    let left: Vec<u64> = left.into_iter().map(|at| new[at]).collect();
    let stored = || (0..200).filter(|n| !left.contains(n)).collect::<Vec<u64>>();
    assert_eq!(numbers(&dlq), stored());
    assert!(matches!(put(&dlq, [200]), Err(PutError::Full { left, .. }) if left == [0]));
    // Nothing is given to the log, and nothing is left behind, however often it is tried.
    let entries = disk.entries();
    assert!(put(&dlq, [200]).is_err());
    assert!(run(dlq.settle(&[run(dlq.frames()).unwrap()[0].id], &[])).unwrap_err().is_full());
    assert_eq!(disk.entries(), entries);
    assert_eq!(numbers(&dlq), stored());
    disk.limit(None);
    put(&dlq, left.clone()).unwrap();
    assert_eq!(numbers(&dlq), (0..200).collect::<Vec<_>>());
}

/// Fills it; how many were taken.
fn fill(dlq: &Dlq<SimDisk>) -> u64 {
    (0..).find(|n| put(dlq, [*n]).is_err()).unwrap()
}

#[test]
fn a_full_quota_gives_back_and_settling_makes_room() {
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    let count = fill(&dlq);
    let bytes_max = options(WhenFull::Keep).bytes_max;
    let error = put(&dlq, [count]).unwrap_err();
    assert!(error.to_string().contains("is full") && error.to_string().contains("dlq.bytes_max"));
    assert!(matches!(error, PutError::Full { left, dropped: 0, .. } if left == [0]));
    assert_eq!(numbers(&dlq), (0..count).collect::<Vec<_>>());
    // Every one of them can be settled, in any order, however full it is.
    let seqs: Vec<Seq> = run(dlq.frames()).unwrap().iter().map(|info| info.id).collect();
    for (at, _) in seqs.iter().enumerate() {
        let seq = seqs[at * 37 % seqs.len()];
        run(dlq.settle(&[seq], &[])).unwrap();
        assert!(dlq.stats().bytes <= bytes_max);
    }
    assert_eq!(numbers(&dlq), Vec::<u64>::new(), "37 and the count have no common factor");
    assert!(dlq.stats().bytes <= 2 * 16 * BLOCK, "{:?}", dlq.stats());
    let again = fill(&dlq);
    assert!(again + 32 > count, "{again} and {count}");
}

#[test]
fn what_is_beyond_a_smaller_quota_can_be_settled() {
    let disk = SimDisk::default();
    let large = Options { bytes_max: 4 * 256 * BLOCK, ..options(WhenFull::Keep) };
    let (dlq, _) = run(Dlq::open(disk.clone(), large)).unwrap();
    let count = fill(&dlq);
    drop(dlq);
    let (dlq, _) = open(&disk);
    assert!(matches!(put(&dlq, [count]), Err(PutError::Full { .. })));
    for info in run(dlq.frames()).unwrap().iter().rev() {
        run(dlq.settle(&[info.id], &[])).unwrap();
    }
    assert!(dlq.stats().bytes <= 2 * 16 * BLOCK, "{:?}", dlq.stats());
    put(&dlq, [count]).unwrap();
}

#[test]
fn the_oldest_make_room_where_they_may_and_are_counted() {
    let disk = SimDisk::default();
    let (dlq, _) = run(Dlq::open(disk.clone(), options(WhenFull::DropOldest))).unwrap();
    let mut dropped = 0;
    for n in 0..600 {
        dropped += put(&dlq, [n]).unwrap().dropped;
    }
    let there = numbers(&dlq);
    assert_eq!(there, (dropped..600).collect::<Vec<_>>());
    assert!(there.len() > 100, "{}", there.len());
    let stats = dlq.stats();
    assert_eq!(stats.dropped, dropped);
    assert!(stats.bytes <= stats.bytes_max);
    // More than it can ever hold.
    let error = put(&dlq, 1000..6000).unwrap_err();
    assert!(matches!(error, PutError::Full { left, .. } if left.len() == 5000));
}

/// Each segment holds two of them and stands half empty: nothing is gained by moving them.
#[test]
fn large_entries_that_leave_segments_half_empty_fill_the_quota_and_no_more() {
    let large = |n: u64| {
        let mut seed = n;
        let noise: String = (0..1400).map(|_| format!("{:016x}", random(&mut seed))).collect();
        Record { line: format!("{n} {noise}").into_bytes(), ..record(n) }
    };
    let number = |record: &Record| -> u64 {
        String::from_utf8_lossy(&record.line).split(' ').next().unwrap().parse().unwrap()
    };
    for when_full in [WhenFull::Keep, WhenFull::DropOldest] {
        let disk = SimDisk::default();
        let (dlq, _) = run(Dlq::open(disk, options(when_full))).unwrap();
        let mut dropped = 0;
        for n in 0..100 {
            match run(dlq.put(&[large(n)])) {
                Ok(stored) => dropped += stored.dropped,
                Err(error) => {
                    assert!(matches!(error, PutError::Full { .. }), "{error}");
                    assert_eq!(when_full, WhenFull::Keep);
                }
            }
        }
        let there: Vec<u64> =
            all(&dlq).iter().flat_map(|(_, records)| records.iter().map(number)).collect();
        assert!(there.len() >= 8, "{there:?}");
        match when_full {
            WhenFull::Keep => assert!(there.len() < 100 && there[0] == 0),
            WhenFull::DropOldest => assert_eq!(there, (dropped..100).collect::<Vec<_>>()),
        }
        assert!(dlq.stats().bytes <= dlq.stats().bytes_max);
    }
}

#[test]
fn one_old_entry_does_not_hold_the_quota() {
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    put(&dlq, [0]).unwrap();
    for n in 1..2000 {
        put(&dlq, [n]).unwrap_or_else(|error| panic!("{n}: {error}"));
        let newest = run(dlq.frames()).unwrap().into_iter().rfind(|info| info.id == info.seq);
        run(dlq.settle(&[newest.unwrap().seq], &[])).unwrap();
    }
    assert_eq!(numbers(&dlq), [0]);
    let stats = dlq.stats();
    assert!(stats.bytes <= stats.bytes_max / 2 + 3 * 16 * BLOCK, "{stats:?}");
    drop(dlq);
    assert_eq!(numbers(&open(&disk).0), [0]);
}

#[test]
fn a_crash_while_frames_move_loses_nothing_and_brings_nothing_back() {
    let churn = |dlq: &Dlq<SimDisk>| {
        put(dlq, [0, 1, 2]).map_err(drop)?;
        for n in 3..250 {
            put(dlq, [n]).map_err(drop)?;
            let frames = run(dlq.frames()).map_err(drop)?;
            let newest = frames.into_iter().rfind(|info| info.id == info.seq);
            run(dlq.settle(&[newest.unwrap().id], &[])).map_err(drop)?;
        }
        Ok::<(), ()>(())
    };
    let disk = SimDisk::default();
    churn(&open(&disk).0).unwrap();
    let operations = disk.operations();
    let mut seed = 1;
    for _ in 0..12 {
        // The first move comes after half of the quota.
        let at = operations / 2 + random(&mut seed) % (operations / 2);
        let disk = SimDisk::default();
        disk.plant(at, Fault::Crash);
        assert!(churn(&open(&disk).0).is_err(), "crash at {at}");
        disk.restart(at);
        let there = numbers(&open(&disk).0);
        assert!(there.starts_with(&[0, 1, 2]) && there.len() <= 4, "crash at {at}: {there:?}");
    }
}

#[test]
fn a_frame_that_moves_meanwhile_is_settled_by_its_old_number() {
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    put(&dlq, [0]).unwrap();
    run(dlq.request(&filter(&["line~0 "]), 0, 1)).unwrap();
    let old = run(dlq.due(0, &options(WhenFull::Keep).backoff, |_| false)).unwrap();
    for n in 1.. {
        put(&dlq, [n]).unwrap();
        let frames = run(dlq.frames()).unwrap();
        if frames.iter().any(|info| info.id == old && info.seq != old) {
            assert!(frames.iter().any(|info| info.requested == 1), "it is asked for still");
            break;
        }
        run(dlq.settle(&[frames.last().unwrap().seq], &[])).unwrap();
    }
    assert_eq!(number(&run(dlq.read(old)).unwrap()[0]), 0);
    run(dlq.settle(&[old], &[])).unwrap();
    assert!(!numbers(&dlq).contains(&0));
}

#[test]
fn what_was_asked_for_and_not_tried_is_asked_for_still() {
    let (dlq, _) = open(&SimDisk::default());
    let short = |n| Record { tenant: "one".into(), line: b"short".into(), ..record(n) };
    run(dlq.put(&(0..3).map(short).collect::<Vec<_>>())).unwrap();
    let order = 7;
    run(dlq.request(&filter(&[]), 0, order)).unwrap();
    let due = || run(dlq.due(i64::MIN, &options(WhenFull::Keep).backoff, |_| false));
    let id = due().unwrap();
    let records = run(dlq.read(id)).unwrap();
    let [again, untried @ ..] = &records[..] else { panic!("it holds none") };
    run(dlq.settle_tried(id, std::slice::from_ref(again), untried)).unwrap();
    let left = due().unwrap();
    assert_eq!(run(dlq.requested(left)), order);
    assert_eq!(run(dlq.read(left)).unwrap(), untried);
    run(dlq.settle_tried(left, &[], untried)).unwrap();
    assert_eq!(run(dlq.read(due().unwrap())).unwrap(), untried, "likewise where it is a frame");
    run(dlq.settle_tried(due().unwrap(), untried, &[])).unwrap();
    assert_eq!(due(), None);
    assert_eq!(dlq.stats().entries, 3);
}

#[test]
fn damage_is_reported_and_the_rest_is_there() {
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    for n in 0..30 {
        put(&dlq, [n]).unwrap();
    }
    let hit = run(dlq.frames()).unwrap()[4].clone();
    let damage = |info: &FrameInfo| {
        let at = usize::try_from(info.place.next_offset).unwrap() + 300;
        disk.damage(&segment_name(info.place.segment), |bytes| bytes[at] ^= 1);
    };
    damage(&hit);
    // Met while it runs.
    assert!(matches!(run(dlq.read(hit.seq)), Err(DlqError::Damaged { .. })));
    assert_eq!(dlq.stats().damaged_frames, 1);
    let expected: Vec<u64> = (0..30).filter(|n| *n != 4).collect();
    assert_eq!(numbers(&dlq), expected);
    drop(dlq);
    // Met at the start.
    let (dlq, found) = open(&disk);
    assert_eq!(found.gaps.len(), 1, "{found:?}");
    assert_eq!((found.gaps[0].frames.first, found.gaps[0].frames.last), (hit.seq, hit.seq));
    assert_eq!(numbers(&dlq), expected);
    assert_eq!(disk.quarantined().len(), 1);
    drop(dlq);
    for slot in ["checkpoint.a", "checkpoint.b"] {
        disk.lose(slot);
    }
    assert_eq!(numbers(&open(&disk).0), expected, "the checkpoints are not needed");
}

#[test]
fn what_is_not_understood_is_kept_moved_and_goes_with_everything() {
    let disk = SimDisk::default();
    let wal_options = wal::Options {
        owner: 3,
        sinks: vec!["loki".into()],
        segment_bytes: 16 * BLOCK,
        bytes_max: 256 * BLOCK,
        group_bytes_max: 1 << 20,
        writes: FormatVersion::NEWEST,
    };
    let (log, _) = run(wal::Wal::open(disk.clone(), wal_options)).unwrap();
    for (tag, body) in
        [("records", "garbage"), ("of tomorrow", "x"), ("settled", "\u{1}"), ("records 1", "")]
    {
        let body = if body.is_empty() { vec![0xff; 9] } else { body.into() };
        log.append(wal::Sealed {
            meta: tag.into(),
            tag_len: u16::try_from(tag.len()).unwrap(),
            body,
            raw_len: 7,
            entries: 2,
            stream: 0,
            oldest_arrival_ns: 5,
            oldest_stamp_ns: 5,
        })
        .unwrap();
    }
    run(log.commit()).unwrap();
    drop(log);
    let (dlq, found) = open(&disk);
    assert_eq!(found.undecodable.len(), 4, "{found:?}");
    assert_eq!((dlq.stats().undecodable_frames, dlq.stats().entries), (4, 8));
    assert!(matches!(run(dlq.read(Seq(1))), Err(DlqError::Undecodable { .. })));
    assert_eq!(run(dlq.due(i64::MAX, &options(WhenFull::Keep).backoff, |_| false)), None);
    assert_eq!(run(dlq.purge(&filter(&["status=400"]), 0)).unwrap(), 0);
    for n in 0..500 {
        put(&dlq, [n]).unwrap_or_else(|error| panic!("{n}: {error}"));
        run(dlq.purge(&filter(&["status=400"]), 0)).unwrap();
    }
    assert_eq!(dlq.stats().undecodable_frames, 4);
    drop(dlq);
    let (dlq, found) = open(&disk);
    assert_eq!(found.undecodable.len(), 4, "{found:?}");
    assert_eq!(run(dlq.purge(&Filter::default(), 0)).unwrap(), 8);
    assert_eq!(dlq.stats().frames, 0);
}

#[test]
fn what_is_due_comes_in_its_time_and_what_is_asked_for_at_once() {
    let second = 1_000_000_000;
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    let backoff = options(WhenFull::Keep).backoff;
    let at = record(0).rejected_ns;
    let due = |seconds: i64| run(dlq.due(at + seconds * second, &backoff, |_| false));
    let mut old = record(1);
    old.reason = Reason::TooOld;
    run(dlq.put(&[record(0), old, record(3)])).unwrap();
    assert_eq!(dlq.stats().frames, 2, "what cannot pass has a frame of its own");
    assert_eq!(due(59), None);
    let seq = due(60).expect("a minute old");
    let mut records = run(dlq.read(seq)).unwrap();
    assert_eq!(records.iter().map(number).collect::<Vec<_>>(), [0, 3]);
    run(dlq.postpone(seq, at + 99 * second));
    assert_eq!((due(98), due(99)), (None, Some(seq)));
    // Five minutes, ten, and then no more.
    let mut last = 60;
    for wait in [300, 600] {
        let now = at + last * second;
        for record in &mut records {
            record.rejected_again(None, Some(429), "no", now);
        }
        run(dlq.settle(&[due(1_000_000).unwrap()], &records)).unwrap();
        assert_eq!(due(last + wait - 1), None);
        last += wait;
        assert!(due(last).is_some());
    }
    records.iter_mut().for_each(|record| record.attempts = 3);
    run(dlq.settle(&[due(last).unwrap()], &records)).unwrap();
    assert_eq!(due(1_000_000), None);
    let stats = dlq.stats();
    assert_eq!((stats.exhausted, stats.entries, stats.oldest_ns), (2, 3, Some(at)));
    // Asked for: a part of a frame, and what is too old.
    assert_eq!(run(dlq.request(&filter(&["line~3 "]), at, 1)).unwrap(), 1);
    let seq = due(0).unwrap();
    assert_eq!(run(dlq.read(seq)).unwrap().iter().map(number).collect::<Vec<_>>(), [3]);
    run(dlq.settle(&[seq], &[])).unwrap();
    assert_eq!(run(dlq.request(&filter(&["reason=too_old"]), at, 1)).unwrap(), 1);
    let seq = due(0).unwrap();
    assert_eq!(run(dlq.read(seq)).unwrap().iter().map(number).collect::<Vec<_>>(), [1]);
    assert_eq!(run(dlq.purge(&Filter::default(), at)).unwrap(), 2);
    assert_eq!((due(0), numbers(&dlq)), (None, vec![]));
}

#[test]
fn waits_double_up_to_their_most() {
    let backoff = options(WhenFull::Keep).backoff;
    let waits: Vec<u64> = [0, 1, 2, 3, 4, 5, 99].map(|n| backoff.wait(n).as_secs()).into();
    assert_eq!(waits, [60, 300, 600, 1200, 2400, 3600, 3600]);
}

#[test]
fn a_large_entry_has_a_frame_of_its_own_and_one_beyond_all_bounds_is_named() {
    let disk = SimDisk::default();
    let (dlq, _) = open(&disk);
    let mut large = record(0);
    large.line = vec![0xff; 200_000];
    run(dlq.put(&[record(1), large.clone(), record(2)])).unwrap();
    let there: BTreeMap<usize, Vec<Record>> =
        all(&dlq).into_iter().map(|(_, records)| (records[0].line.len(), records)).collect();
    assert_eq!(there[&200_000], [large.clone()]);
    large.line = vec![0xff; 40 << 20];
    let error = run(dlq.put(&[record(1), large])).unwrap_err();
    assert!(matches!(error, PutError::TooLarge { at: 1 }), "{error}");
}

/// On the real disk, where each operation waits in its middle.
#[test]
fn operations_that_run_at_once_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::options::dlq_of(dir.path(), "loki", 0, 4 << 20, FormatVersion::NEWEST);
    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
    let run = executor.io_memory(4 << 20).spawn(move || async move {
        let open = || async {
            let disk = io::uring::UringDisk::open(&options.dir, &options.quarantine).await;
            Dlq::open(disk.unwrap(), options.clone()).await.unwrap().0
        };
        let dlq = std::rc::Rc::new(open().await);
        let tasks: Vec<_> = (0..8_u64)
            .map(|task| {
                let dlq = dlq.clone();
                glommio::spawn_local(async move {
                    for n in 0..20 {
                        let number = task * 100 + n;
                        dlq.put(&[record(number)]).await.unwrap();
                        let by = filter(&[&format!("line~{number} ")]);
                        match number % 4 {
                            0 => assert!(dlq.purge(&by, 0).await.unwrap() >= 1),
                            1 => assert!(dlq.request(&by, 0, 1).await.unwrap() >= 1),
                            2 => {
                                let frames = dlq.frames().await.unwrap();
                                let seq = frames[below(&mut number.clone(), frames.len())].id;
                                match dlq.read(seq).await {
                                    Ok(records) => dlq.settle(&[seq], &records).await.unwrap(),
                                    Err(error) => {
                                        assert!(matches!(error, DlqError::Settled { .. }))
                                    }
                                }
                            }
                            _ => drop(dlq.stats()),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        // One that is dropped half-way does not harm the next.
        for n in 1000..1020 {
            let records = [record(n)];
            let mut dropped = Box::pin(dlq.put(&records));
            for _ in 0..n % 4 {
                assert!(futures_lite::future::poll_once(&mut dropped).await.is_none());
                glommio::executor().yield_task_queue_now().await;
            }
            drop(dropped);
            dlq.put(&[record(n + 1000)]).await.unwrap();
        }
        let there = dlq.frames().await.unwrap().into_iter().map(|info| info.id);
        let mut lines = BTreeSet::new();
        for seq in there {
            lines.extend(dlq.read(seq).await.unwrap().iter().map(number));
        }
        assert!((2000..2020).all(|n| lines.contains(&n)));
        let stats = dlq.stats();
        drop(dlq);
        let again = open().await.stats();
        assert_eq!((again.entries, again.by_reason), (stats.entries, stats.by_reason));
        stats.entries
    });
    assert!(run.unwrap().join().unwrap() >= 8 * 20 * 3 / 4 - 20);
}
