//! The log under a simulated disk: crashes at every operation, failing syncs, full disks, rot.

use io::disk::Disk;
use io::format::{BLOCK_BYTES, Cursor, Seq, segment_name};
use io::sim::{Clock, Fault, Scheduler, SimDisk, random, run};
use io::tail::{Fingerprint, Identity};
use io::wal::recovery::standing;
use io::wal::scan::SeqRange;
use io::wal::survey::{Reach, Surveyed, survey};
use io::wal::{Acked, Backlog, Committed, Options, Recovered, Sealed, Wal, WalError};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

fn options() -> Options {
    Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: 16 * BLOCK_BYTES as u64,
        bytes_max: 64 * BLOCK_BYTES as u64,
        group_bytes_max: 4 * BLOCK_BYTES,
    }
}

/// A frame that says what it is: content `n`, and a cursor at offset `n` of source `n % 3`.
fn frame(n: u64) -> Sealed {
    let mut meta = b"tag".to_vec();
    let cursor = Cursor {
        identity: Identity { dev: 1, ino: n % 3, birth_ns: 7 },
        fingerprint: Fingerprint { len: 3, crc: 9 },
        offset: n,
        stamp_ns: 0,
        skipping: false,
        path: format!("/log/{}", n % 3).into(),
    };
    cursor.encode(&mut meta);
    let body = n.to_le_bytes().repeat(1 + usize::try_from(n * 37 % 1200).unwrap());
    Sealed {
        meta,
        tag_len: 3,
        body,
        raw_len: 10,
        entries: 1,
        stream: 0,
        oldest_arrival_ns: 5,
        oldest_stamp_ns: 4,
    }
}

fn content(body: &[u8]) -> u64 {
    let n = u64::from_le_bytes(body[..8].try_into().unwrap());
    assert_eq!(body, frame(n).body, "a frame came back changed");
    n
}

fn open(disk: &SimDisk) -> (Wal<SimDisk>, Recovered) {
    run(Wal::open(disk.clone(), options())).expect("opens whatever happened")
}

/// Everything that is durable and not acked, in order.
fn read_all(wal: &Wal<SimDisk>) -> (Vec<u64>, Vec<io::wal::Gap>) {
    let mut backlog = Backlog::new(wal.ladder().acked.0.next(), None);
    let (mut frames, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let batch = run(backlog.read(wal, 10_000)).unwrap();
        if batch.frames.is_empty() && batch.gaps.is_empty() {
            return (frames, gaps);
        }
        frames.extend(batch.frames.iter().map(|frame| content(&frame.body)));
        gaps.extend(batch.gaps);
    }
}

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

/// A log of several segments, all durable, nothing acked, no checkpoint: `frames` by number.
fn several_segments(frames: u64) -> SimDisk {
    let disk = SimDisk::default();
    let roomy = Options { bytes_max: 1 << 30, ..options() };
    let (wal, _) = run(Wal::open(disk.clone(), roomy)).unwrap();
    for n in 1..=frames {
        wal.append(frame(n)).unwrap();
        run(wal.commit()).unwrap();
    }
    disk
}

/// How many frames the gaps name, each once: recovery and reading back may both meet one.
fn lost_in<'a>(gaps: impl Iterator<Item = &'a io::wal::Gap>) -> u64 {
    let lost: std::collections::BTreeSet<u64> =
        gaps.flat_map(|gap| gap.frames.first.0..=gap.frames.last.0).collect();
    lost.len() as u64
}

#[test]
fn a_flipped_byte_costs_its_own_frame_at_most_and_is_reported() {
    let count = 20;
    let disk = several_segments(count);
    let files = run(disk.list()).unwrap();
    assert!(files.len() >= 2, "several segments");
    for file in &files {
        for at in (0..usize::try_from(file.bytes).unwrap()).step_by(61) {
            let disk = several_segments(count);
            disk.damage(&file.name, |bytes| bytes[at] ^= 0x40);
            let case = format!("{} at {at}", file.name);
            let (wal, recovered) = open(&disk);
            let (frames, later) = read_all(&wal);
            let lost = lost_in(recovered.gaps.iter().chain(&later));
            assert!(frames.is_sorted(), "{case}");
            // The last frame alone may be taken for a torn tail where nothing says it was durable.
            let torn = u64::from(recovered.torn || frames.last() != Some(&count));
            assert!(lost + torn <= 1, "{case}: {:?}", recovered.gaps);
            let first = frames.first().copied().unwrap();
            let reported = recovered.gaps.iter().any(|gap| gap.frames.first == Seq(1));
            assert!(first == 1 || reported, "{case}");
            assert!(frames.len() as u64 + lost + torn >= count, "{case}: silently lost");
            let header_hit = !recovered.damaged.is_empty();
            if lost > 0 || header_hit {
                assert_eq!(disk.quarantined(), std::slice::from_ref(&file.name), "{case}");
            }
        }
    }
}

/// Whatever is damaged: what counts by a survey is what a run reads, and what is lost by it is what the
/// run reports.
#[test]
fn a_survey_of_everything_and_a_run_judge_alike() {
    let count = 20;
    let intact = || {
        let disk = several_segments(count);
        run(open(&disk).0.checkpoint()).unwrap();
        disk
    };
    let files = run(intact().list()).unwrap();
    for seed in 0..400 {
        let mut seed = seed * 7919 + 1;
        let disk = intact();
        for _ in 0..=random(&mut seed) % 3 {
            let file = &files[usize::try_from(random(&mut seed)).unwrap() % files.len()];
            let at = usize::try_from(random(&mut seed) % file.bytes).unwrap();
            disk.damage(&file.name, |bytes| bytes[at] ^= 0x40);
        }
        if random(&mut seed).is_multiple_of(4) {
            disk.lose(&files[usize::try_from(random(&mut seed)).unwrap() % files.len()].name);
        }
        let looked = run(survey(&disk, 0, Reach::Everything)).unwrap();
        let standing = standing(&looked, &options().sinks);
        let whole = looked.ours().flat_map(Surveyed::kept).map(|frame| frame.header.seq.0);
        let whole: Vec<u64> = whole.collect();
        let in_segments = looked.ours().flat_map(|segment| &segment.judged.gaps).copied();
        let mut missing: Vec<SeqRange> =
            in_segments.chain(standing.gaps.iter().map(|gap| gap.frames)).collect();
        let (wal, recovered) = open(&disk);
        let (read, later) = read_all(&wal);
        assert_eq!(whole, read);
        let lost = lost_in(recovered.gaps.iter().chain(&later));
        missing.sort_by_key(|frames| frames.first);
        assert_eq!(
            missing.iter().map(|f| f.last.0 - f.first.0 + 1).sum::<u64>(),
            lost,
            "{missing:?}"
        );
        let cursors = |cursors: Vec<Cursor>| cursors.into_iter().map(|c| c.offset).max();
        assert_eq!(cursors(looked.cursors.to_vec()), cursors(recovered.cursors));
    }
}

#[test]
fn a_missing_segment_is_a_gap_and_the_rest_is_delivered() {
    let disk = several_segments(40);
    let names: Vec<String> = run(disk.list()).unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.len() >= 3);
    disk.lose(&names[1]);
    let (wal, recovered) = open(&disk);
    let (frames, later) = read_all(&wal);
    let gap = &recovered.gaps[0];
    assert_eq!((recovered.gaps.len(), later.len()), (1, 1));
    assert_eq!(segment_name(gap.frames.first), names[1]);
    assert_eq!(segment_name(gap.frames.last.next()), names[2]);
    assert_eq!(frames.len() as u64 + lost_in(later.iter()), 40);
}

#[test]
fn all_segments_missing_is_a_gap_and_the_log_goes_on() {
    let disk = several_segments(12);
    let (wal, _) = open(&disk);
    wal.sent(Seq(7));
    wal.ack(0, Acked::up_to(Seq(7)));
    run(wal.checkpoint()).unwrap();
    for entry in run(disk.list()).unwrap().iter().filter(|e| e.name.ends_with(".wal")) {
        disk.lose(&entry.name);
    }
    let (wal, recovered) = open(&disk);
    assert_eq!(lost_in(recovered.gaps.iter()), 5, "{:?}", recovered.gaps);
    wal.append(frame(13)).unwrap();
    run(wal.commit()).unwrap();
    let (frames, later) = read_all(&wal);
    assert_eq!((frames, lost_in(later.iter())), (vec![13], 0), "said once, then behind it");
}

#[test]
fn a_segment_of_another_shard_is_set_aside() {
    let disk = several_segments(20);
    let other = Options { owner: 1, ..options() };
    let (wal, recovered) = run(Wal::open(disk.clone(), other)).unwrap();
    assert_eq!(recovered.unacked, 0);
    assert_eq!(recovered.damaged.len(), disk.quarantined().len());
    assert!(!disk.quarantined().is_empty());
    assert_eq!(wal.ladder().durable.0, Seq(0));
}

#[test]
fn without_checkpoints_the_oldest_frame_comes_first() {
    for damage in [
        (|bytes: &mut Vec<u8>| bytes.fill(0)) as fn(&mut Vec<u8>),
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(50),
    ] {
        let disk = several_segments(10);
        let (wal, _) = open(&disk);
        wal.sent(Seq(10));
        wal.ack(0, Acked::up_to(Seq(9)));
        run(wal.checkpoint()).unwrap();
        run(wal.checkpoint()).unwrap();
        let left = read_all(&open(&disk).0).0;
        assert_eq!(left, [10]);
        disk.damage("checkpoint.a", damage);
        assert_eq!(read_all(&open(&disk).0).0, left, "the other slot serves");
        disk.damage("checkpoint.b", damage);
        let (wal, recovered) = open(&disk);
        assert_eq!(recovered.damaged.len(), 2, "both are said to be damaged");
        let frames = read_all(&wal).0;
        assert!(frames.len() > 1 && frames.ends_with(&[10]), "sent again, not lost: {frames:?}");
    }
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
