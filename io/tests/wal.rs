//! The log under a simulated disk: crashes at every operation, failing syncs, full disks.

mod bed;

use bed::{content, frame, open, options, read_all, several_segments};
use io::disk::Disk;
use io::format::{BLOCK_BYTES, Cursor, Seq, segment_name};
use io::sim::{Clock, Fault, Scheduler, SimDisk, random, run};
use io::wal::{Acked, Committed, Options, Wal, WalError};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a run did, by the word of the log.
#[derive(Default, Clone)]
struct Model {
    /// Content by sequence number, of what was made durable.
    durable: BTreeMap<u64, u64>,
    acked: u64,
}

/// Appends, commits, acks and checkpoints as `seed` says, until done or until the power goes.
fn drive(wal: &Wal<SimDisk>, model: &mut Model, mut seed: u64, steps: u64, first: u64) {
    let mut n = first;
    for _ in 0..steps {
        match random(&mut seed) % 8 {
            0..=3 => {
                if wal.append(frame(n)).is_ok() {
                    n += 1;
                }
            }
            4 | 5 => match run(wal.commit()) {
                Ok(Committed::Durable(frames)) => {
                    for frame in frames {
                        model.durable.insert(frame.seq.0, content(&frame.body));
                    }
                }
                Ok(Committed::Nothing | Committed::Full(_)) => {}
                Err(_) => return,
            },
            6 => {
                let ladder = wal.ladder();
                let (acked, durable) = (ladder.acked.0.0, ladder.durable.0.0);
                let to = acked + random(&mut seed) % (durable - acked + 1);
                wal.sent(Seq(to.max(ladder.sent.0.0)));
                wal.ack(0, Acked::up_to(Seq(to)));
                model.acked = to;
            }
            _ => {
                if run(wal.checkpoint()).is_err() {
                    return;
                }
            }
        }
    }
}

/// After a crash: everything durable and not acked is there, in order, and nothing else below it.
fn check(disk: &SimDisk, model: &Model, case: &str) {
    let (wal, recovered) = open(disk);
    assert_eq!(recovered.gaps, [], "{case}");
    assert!(recovered.damaged.is_empty(), "{case}: {:?}", recovered.damaged);
    let (frames, gaps) = read_all(&wal);
    assert!(gaps.is_empty(), "{case}: {gaps:?}");
    let ladder = wal.ladder();
    assert!(ladder.acked.0.0 <= model.acked, "{case}: acked runs ahead");
    let last_durable = model.durable.keys().max().copied().unwrap_or(0);
    assert!(ladder.durable.0.0 >= last_durable, "{case}: lost a durable frame");
    let expected: Vec<u64> = model
        .durable
        .iter()
        .filter(|(seq, _)| **seq > ladder.acked.0.0)
        .map(|(_, content)| *content)
        .collect();
    assert_eq!(frames[..expected.len()], expected, "{case}");
    for cursor in &recovered.cursors {
        let all = frames.iter().chain(model.durable.values());
        let held = all.filter(|n| *n % 3 == cursor.identity.ino).max();
        assert!(held.is_some_and(|n| cursor.offset <= *n), "{case}: a cursor ahead of its data");
    }
    for source in 0..3 {
        let newest = model.durable.values().filter(|n| *n % 3 == source).max();
        let cursor = recovered.cursors.iter().find(|c| c.identity.ino == source);
        assert!(
            newest.is_none_or(|n| cursor.is_some_and(|c| c.offset >= *n)),
            "{case}: a cursor behind its data"
        );
    }
    let (again, second) = open(disk);
    assert_eq!(again.ladder(), ladder, "{case}: recovering twice differs");
    assert_eq!(second.cursors, recovered.cursors, "{case}");
}

#[test]
fn a_crash_at_every_operation_loses_nothing_durable() {
    for seed in 0..60 {
        let disk = SimDisk::default();
        let (wal, _) = open(&disk);
        drive(&wal, &mut Model::default(), seed, 120, 1);
        let operations = disk.operations();
        for crash_at in 0..operations {
            let disk = SimDisk::default();
            disk.plant(crash_at, Fault::Crash);
            let (wal, _) = open(&disk);
            let mut model = Model::default();
            drive(&wal, &mut model, seed, 120, 1);
            assert!(disk.crashed(), "the crash happened");
            drop(wal);
            disk.restart(seed * 1000 + crash_at);
            check(&disk, &model, &format!("seed {seed}, crash at operation {crash_at}"));
        }
    }
}

#[test]
fn a_second_run_after_a_crash_keeps_both() {
    for seed in 0..200_u64 {
        let disk = SimDisk::default();
        let (wal, _) = open(&disk);
        let mut model = Model::default();
        disk.plant(5 + seed % 40, Fault::Crash);
        drive(&wal, &mut model, seed, 120, 1);
        drop(wal);
        disk.restart(seed);
        let (wal, _) = open(&disk);
        let survivors = read_all(&wal).0;
        let ladder = wal.ladder();
        model.acked = ladder.acked.0.0;
        model.durable.retain(|seq, _| *seq <= model.acked);
        for (at, n) in survivors.iter().enumerate() {
            model.durable.insert(model.acked + 1 + at as u64, *n);
        }
        disk.plant(disk.operations() + seed % 30, Fault::Crash);
        drive(&wal, &mut model, seed + 1, 120, 10_000);
        drop(wal);
        disk.restart(seed + 2);
        check(&disk, &model, &format!("seed {seed}"));
    }
}

/// A commit goes on while a checkpoint is written and segments go: every order of their steps, from
/// a log that ends in a segment without a frame, as a kill leaves it.
#[test]
fn a_commit_beside_a_checkpoint_loses_nothing() {
    for seed in 0..2_000_u64 {
        let case = format!("seed {seed}");
        let mut dice = seed;
        let disk = SimDisk::default();
        let mut model = Model::default();
        let mut n = 1;
        for _ in 0..3 {
            let wal = Rc::new(open(&disk).0);
            // What the power cut off may have become durable, and may not.
            let recovered = (wal.ladder().acked.0.0 + 1..).zip(read_all(&wal).0);
            model.durable.extend(recovered);
            // Some runs end with the segment that was just made, before anything stands in it.
            for _ in 0..random(&mut dice) % 4 {
                let acked = wal.ladder().durable.0;
                wal.sent(acked);
                wal.ack(0, Acked::up_to(acked));
                model.acked = acked.0;
                wal.append(frame(n)).expect("there is room");
                n += 1;
                let clock = Clock::default();
                let mut tasks = Scheduler::new(clock.clone());
                disk.set_latency(4, &clock);
                let (committing, checkpointing) = (wal.clone(), wal.clone());
                let committed = Rc::new(RefCell::new(None));
                let outcome = committed.clone();
                tasks.spawn(async move { *outcome.borrow_mut() = Some(committing.commit().await) });
                tasks.spawn(async move { checkpointing.checkpoint().await.expect("no fault") });
                tasks.run(&mut dice);
                disk.set_latency(0, &clock);
                let Some(Ok(Committed::Durable(frames))) = committed.take() else {
                    panic!("{case}: nothing became durable")
                };
                model.durable.extend(frames.iter().map(|f| (f.seq.0, content(&f.body))));
            }
            wal.append(frame(n)).expect("there is room");
            n += 1;
            disk.plant(disk.operations() + random(&mut dice) % 3, Fault::Crash);
            if let Ok(Committed::Durable(frames)) = run(wal.commit()) {
                model.durable.extend(frames.iter().map(|f| (f.seq.0, content(&f.body))));
            }
            disk.restart(random(&mut dice));
            check(&disk, &model, &case);
        }
    }
}

#[test]
fn a_failed_write_or_sync_is_not_acknowledged_until_it_stands_elsewhere() {
    for seed in 0..40 {
        let disk = SimDisk::default();
        let (wal, _) = open(&disk);
        drive(&wal, &mut Model::default(), seed, 120, 1);
        for fail_at in 0..disk.operations() {
            let disk = SimDisk::default();
            disk.plant(fail_at, Fault::Error(libc::EIO));
            let (wal, _) = open(&disk);
            let mut model = Model::default();
            drive(&wal, &mut model, seed, 120, 1);
            drop(wal);
            disk.plant(disk.operations(), Fault::Crash);
            let _ = run(disk.remove(&[]));
            disk.restart(seed);
            check(&disk, &model, &format!("seed {seed}, EIO at operation {fail_at}"));
        }
    }
}

#[test]
fn a_second_failure_in_a_row_stops_the_log() {
    let disk = SimDisk::default();
    let (wal, _) = open(&disk);
    wal.append(frame(1)).unwrap();
    // A segment is made in six steps, and then written to.
    disk.plant(6, Fault::Error(libc::EIO));
    disk.plant(13, Fault::Error(libc::EIO));
    let error = run(wal.commit()).unwrap_err();
    assert!(matches!(error, WalError::Broken { .. }), "{error}");
    assert!(error.to_string().contains("failed twice in a row"), "{error}");
}

#[test]
fn the_quota_pushes_back_and_acks_make_room() {
    let disk = SimDisk::default();
    let (wal, _) = open(&disk);
    let mut n = 1;
    while wal.append(frame(n)).is_ok() {
        n += 1;
        run(wal.commit()).unwrap();
    }
    assert!(n > 10, "took {n} frames");
    assert!(wal.disk_bytes() <= options().bytes_max);
    wal.sent(Seq(n - 1));
    wal.ack(0, Acked::up_to(Seq(n - 1)));
    assert!(wal.can_trim());
    run(wal.checkpoint()).unwrap();
    assert!(wal.append(frame(n)).is_ok(), "room again");
}

#[test]
fn a_full_disk_is_back_pressure_and_heals() {
    let disk = SimDisk::default();
    let (wal, _) = open(&disk);
    disk.limit(Some(8 * BLOCK_BYTES as u64));
    wal.append(frame(1)).unwrap();
    assert!(matches!(run(wal.commit()).unwrap(), Committed::Full(_)));
    assert!(matches!(run(wal.commit()).unwrap(), Committed::Full(_)));
    disk.limit(None);
    let Committed::Durable(frames) = run(wal.commit()).unwrap() else { panic!("still full") };
    assert_eq!(content(&frames[0].body), 1);
}

#[test]
fn a_checkpoint_knows_more_of_sources_than_the_frames_before_it() {
    let disk = several_segments(4);
    let (wal, recovered) = open(&disk);
    let cursor = |ino, stamp_ns, offset| Cursor {
        stamp_ns,
        offset,
        ..recovered.cursors.iter().find(|cursor| cursor.identity.ino == ino).unwrap().clone()
    };
    assert!(wal.adopt(cursor(0, 1, 50)));
    wal.forget(&cursor(2, 0, 0).identity);
    run(wal.checkpoint()).unwrap();
    let offsets = |disk: &SimDisk| -> Vec<(u64, u64)> {
        open(disk).1.cursors.iter().map(|cursor| (cursor.identity.ino, cursor.offset)).collect()
    };
    assert_eq!(offsets(&disk), [(0, 50), (1, 4)]);
    // A frame behind it counts again.
    wal.append(frame(5)).unwrap();
    run(wal.commit()).unwrap();
    assert_eq!(offsets(&disk), [(0, 50), (1, 4), (2, 5)]);
}

#[test]
fn each_sink_and_each_tag_of_it_goes_on_where_it_was() {
    let names = |sinks: &[&str]| Options {
        sinks: sinks.iter().map(ToString::to_string).collect(),
        ..options()
    };
    let disk = several_segments(20);
    let (wal, recovered) = run(Wal::open(disk.clone(), names(&["loki", "far"]))).unwrap();
    assert_eq!(recovered.unacked, 20);
    wal.sent(Seq(20));
    let behind = [("slow".to_owned(), Seq(3)), (String::new(), Seq(5))];
    let loki = Acked { all: Seq(9), behind: behind.into() };
    wal.ack(0, loki.clone());
    assert_eq!(wal.ladder().acked.0, Seq(0), "the other sink needs them all");
    wal.ack(1, Acked::up_to(Seq(2)));
    assert_eq!(wal.ladder().acked.0, Seq(2));
    assert!(wal.checkpoint_is_stale(), "no frame can say this");
    run(wal.checkpoint()).unwrap();
    assert!(!wal.checkpoint_is_stale());
    wal.ack(1, Acked { all: Seq(7), behind: [("slow".to_owned(), Seq(4))].into() });
    assert_eq!(wal.ladder().acked.0, Seq(3), "one of its tags needs the next");

    let sinks = names(&["far", "new", "loki"]);
    let (wal, recovered) = run(Wal::open(disk.clone(), sinks)).unwrap();
    assert_eq!(recovered.gaps, []);
    assert_eq!(wal.acked(2), loki);
    assert_eq!((loki.of("slow"), loki.of(""), loki.of("quick")), (Seq(3), Seq(5), Seq(9)));
    assert_eq!(wal.acked(0), Acked::up_to(Seq(2)));
    let left = wal.ladder().trimmed.0;
    assert_eq!(wal.acked(1), Acked::up_to(left), "a new sink gets all that is left");
    assert_eq!(wal.ladder().acked.0, left);

    // A frame says what every sink is past, and that counts for all of them.
    wal.sent(Seq(20));
    (0..3).for_each(|sink| wal.ack(sink, Acked::up_to(Seq(12 + sink as u64))));
    wal.append(frame(21)).unwrap();
    run(wal.commit()).unwrap();
    let (wal, _) = run(Wal::open(disk, names(&["loki", "far"]))).unwrap();
    assert_eq!((wal.acked(0), wal.acked(1)), (Acked::up_to(Seq(12)), Acked::up_to(Seq(12))));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let disk = several_segments(3);
    let name = segment_name(Seq(1));
    disk.damage(&name, |bytes| {
        bytes[8..12].copy_from_slice(&[9, 0, 9, 0]);
        let crc = crc32c::crc32c(&bytes[..BLOCK_BYTES - 4]);
        bytes[BLOCK_BYTES - 4..BLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
    });
    let operations = disk.operations();
    let error = run(Wal::open(disk.clone(), options())).err().expect("refused");
    assert!(error.to_string().contains("needs a reader of version 9"), "{error}");
    assert_eq!(disk.operations(), operations, "nothing was changed");
}
