//! Rot in a small log, exhaustively: every byte, every length, every block and file. What is hit is
//! reported exactly, and the rest is delivered byte for byte.

mod bed;

use bed::{content, frame, open, options, read_all, read_frames, several_segments};
use io::disk::Disk;
use io::format::{
    BLOCK_BYTES, Checkpoint, Cursor, FormatVersion, FrameHeader, FrameView, SegmentHeader, Seq,
    parse_segment_name, segment_name,
};
use io::plain::PlainDisk;
use io::sim::{SimDisk, random, run};
use io::wal::recovery::standing;
use io::wal::scan::SeqRange;
use io::wal::survey::{Reach, Surveyed, survey};
use io::wal::{Acked, Durable, Gap, Options, Recovered, Wal};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// Remembers the largest request of each thread.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static WATCH: Watch = Watch;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// The files of a directory.
type Files = BTreeMap<String, Vec<u8>>;

const CONTENTS: [u64; 7] = [10, 20, 30, 40, 50, 70, 80];
const LAST: u64 = CONTENTS.len() as u64;
const SEGMENT_BLOCKS: usize = 6;
/// Several times what a file has, and a hundredth of what a length may claim.
const ALLOCATION_MAX: usize = 100 << 10;

fn small(owner: u32) -> Options {
    let segment_bytes = (SEGMENT_BLOCKS * BLOCK_BYTES) as u64;
    Options { owner, segment_bytes, bytes_max: 1 << 30, ..options() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// There is no checkpoint yet.
    Bare,
    /// The newest checkpoint knows of every frame.
    Vouched,
    /// The last two frames are of one group, of which nothing else knows.
    Open,
}

const KINDS: [Kind; 3] = [Kind::Bare, Kind::Vouched, Kind::Open];

/// A log of seven frames in three full segments, and what is known of it.
struct Image {
    files: Files,
    frames: Vec<Durable>,
    spots: Vec<Spot>,
    acked: u64,
}

/// Where a frame stands.
struct Spot {
    file: String,
    /// Without its padding.
    bytes: std::ops::Range<usize>,
    salt: u64,
}

impl Image {
    fn new(kind: Kind) -> Image {
        Image::of(kind, 0)
    }

    fn of(kind: Kind, owner: u32) -> Image {
        let disk = SimDisk::default();
        let (wal, _) = run(Wal::open(disk.clone(), small(owner))).unwrap();
        let mut frames = Vec::new();
        for (seq, n) in (1..).zip(CONTENTS) {
            wal.append(frame(n)).unwrap();
            if kind == Kind::Open && seq == LAST - 1 {
                continue;
            }
            let committed = run(wal.commit()).unwrap();
            let io::wal::Committed::Durable(durable) = committed else { panic!("{committed:?}") };
            frames.extend(durable);
            if kind != Kind::Bare && seq == 3 {
                wal.sent(Seq(1));
                wal.ack(0, Acked::up_to(Seq(1)));
            }
            let vouched = if kind == Kind::Open { 5 } else { LAST };
            if kind != Kind::Bare && (seq == 3 || seq == vouched) {
                run(wal.checkpoint()).unwrap();
            }
        }
        let acked = wal.ladder().acked.0.0;
        let mut files = Files::new();
        for entry in run(disk.list()).unwrap() {
            disk.damage(&entry.name, |bytes| drop(files.insert(entry.name.clone(), bytes.clone())));
        }
        let looked = run(survey(&disk, owner, Reach::Everything)).unwrap();
        let spots = looked.segments.iter().flat_map(|segment| {
            segment.kept().map(|frame| {
                let start = usize::try_from(frame.offset).unwrap();
                let bytes = start..start + frame.header.body_range().end;
                Spot { file: segment.name.clone(), bytes, salt: frame.header.salt }
            })
        });
        let image = Image { spots: spots.collect(), files, frames, acked };
        assert_eq!((image.spots.len(), image.segments().count()), (CONTENTS.len(), 3), "{kind:?}");
        assert_eq!(image.files.len(), if kind == Kind::Bare { 3 } else { 5 });
        image
    }

    fn segments(&self) -> impl Iterator<Item = &String> {
        self.files.keys().filter(|name| parse_segment_name(name).is_some())
    }

    fn is_hit(&self, seq: u64, files: &Files) -> bool {
        let Spot { file, bytes, .. } = self.spot(seq);
        let now = files.get(file).and_then(|now| now.get(bytes.clone()));
        now != Some(&self.files[file][bytes.clone()])
    }

    fn spot(&self, seq: u64) -> &Spot {
        &self.spots[usize::try_from(seq - 1).unwrap()]
    }

    /// Up to where something says that frames were durable: a checkpoint, a later segment, a frame.
    fn known(&self, files: &Files, foreign: &[String]) -> u64 {
        let slots = files.values().filter_map(|bytes| Checkpoint::decode(bytes).ok());
        let mut known = slots.map(|slot| slot.durable.0).max().unwrap_or(0);
        for name in self.segments().filter(|name| !foreign.contains(name)) {
            let Some(bytes) = files.get(name) else { continue };
            let first = parse_segment_name(name).unwrap();
            known = known.max(first.0 - 1);
            let salt = self.spot(first.0).salt;
            let frames = bytes.chunks(BLOCK_BYTES).enumerate().skip(1);
            let frames =
                frames.filter_map(|(at, _)| FrameView::decode(&bytes[at * BLOCK_BYTES..]).ok());
            let ours = frames.filter(|view| view.header.salt == salt);
            known = known.max(ours.map(|view| view.header.durable.0).max().unwrap_or(0));
        }
        known
    }
}

/// What a start makes of a directory.
struct Start {
    wal: Wal<SimDisk>,
    recovered: Recovered,
    frames: Vec<Durable>,
    gaps: Vec<Gap>,
}

fn start(disk: &SimDisk) -> Start {
    let (wal, recovered) = run(Wal::open(disk.clone(), small(0))).expect("opens whatever happened");
    let (frames, later) = read_frames(&wal);
    let gaps = recovered.gaps.iter().cloned().chain(later).collect();
    Start { wal, recovered, frames, gaps }
}

fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::default();
    for (name, bytes) in files {
        run(disk.create(name, BLOCK_BYTES as u64, vec![0; BLOCK_BYTES])).unwrap();
        disk.damage(name, |contents| contents.clone_from(bytes));
    }
    disk
}

/// Which frames the gaps name, each once: recovery and reading back may both meet one.
fn lost_in<'a>(gaps: impl IntoIterator<Item = &'a Gap>) -> BTreeSet<u64> {
    gaps.into_iter().flat_map(|gap| gap.frames.first.0..=gap.frames.last.0).collect()
}

/// Everything that holds of a damaged log. `foreign` are names of segments that strayed in.
fn check(image: &Image, files: &Files, foreign: &[String], case: &dyn Fn() -> String) {
    let disk = disk_of(files);
    LARGEST.set(0);
    let Start { wal, recovered, frames, gaps } = start(&disk);
    let largest = LARGEST.get();
    assert!(largest <= ALLOCATION_MAX, "{}: {largest} bytes at once", case());

    let (acked, known) = (wal.ladder().acked.0.0, image.known(files, foreign));
    let hit: BTreeSet<u64> = (1..=LAST).filter(|seq| image.is_hit(*seq, files)).collect();
    let reported = lost_in(&gaps);
    let say = || format!("{}: hit {hit:?}, known to {known}, acked {acked}, {gaps:?}", case());
    assert!(reported.is_subset(&hit), "reported, and not hit: {}", say());
    assert!(reported.iter().all(|seq| *seq <= known), "a torn tail is no damage: {}", say());
    let delivered: Vec<u64> = frames.iter().map(|frame| frame.seq.0).collect();
    // What was hit may stand elsewhere now.
    let torn = hit.iter().find(|seq| **seq > known && !delivered.contains(seq));
    assert!(!recovered.torn || torn.is_some(), "torn: {}", say());
    assert!(delivered.is_sorted_by(|a, b| a < b), "{delivered:?}: {}", say());
    for frame in &frames {
        let before = &image.frames[usize::try_from(frame.seq.0 - 1).unwrap()];
        let as_before = Durable { place: before.place, ..frame.clone() };
        assert_eq!(as_before, *before, "{}", say());
    }
    for seq in image.acked + 1..=LAST {
        let is_torn = torn.is_some_and(|torn| *torn <= seq);
        let (there, lost) = (delivered.contains(&seq), reported.contains(&seq));
        assert!(!(there && lost), "{seq} is both: {}", say());
        assert!(there || lost || is_torn, "{seq} is silently lost: {}", say());
        assert!(there || hit.contains(&seq) || is_torn, "{seq} was not hit: {}", say());
        assert!(seq > acked || lost, "acked runs ahead: {}", say());
    }
    for gap in gaps.iter().filter(|gap| files.contains_key(&gap.segment)) {
        assert!(disk.quarantined().contains(&gap.segment), "no copy: {}", say());
    }
    for cursor in &recovered.cursors {
        let seq = 1 + CONTENTS.iter().position(|n| *n == cursor.offset).unwrap() as u64;
        assert!(torn.is_none_or(|torn| seq < *torn), "a cursor ahead of its data: {}", say());
    }
    for seq in (1..=LAST).filter(|seq| delivered.contains(seq)) {
        let n = content(&image.frames[usize::try_from(seq - 1).unwrap()].body);
        let cursor = recovered.cursors.iter().find(|cursor| cursor.identity.ino == n % 3);
        assert!(cursor.is_some_and(|cursor| cursor.offset >= n), "a cursor behind: {}", say());
    }

    let again = start(&disk);
    assert_eq!(again.wal.ladder(), wal.ladder(), "recovering twice differs: {}", say());
    assert_eq!(again.recovered.cursors, recovered.cursors, "{}", say());
    assert_eq!((again.frames, lost_in(&again.gaps)), (frames, reported), "{}", say());

    // It goes on behind all of it.
    again.wal.append(frame(90)).unwrap();
    run(again.wal.commit()).unwrap();
    let after = start(&disk).frames;
    assert_eq!(after.last().map(|frame| content(&frame.body)), Some(90), "{}", say());
    assert!(after.iter().map(|frame| frame.seq.0).rev().skip(1).rev().eq(delivered), "{}", say());
}

fn flip_each_byte(kind: Kind) {
    let image = Image::new(kind);
    for name in image.files.keys() {
        let spots = image.spots.iter().filter(|spot| spot.file == *name);
        let used = spots.flat_map(|spot| spot.bytes.clone());
        for at in (0..BLOCK_BYTES).chain(used) {
            let mut files = image.files.clone();
            files.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
            check(&image, &files, &[], &|| format!("{kind:?}: {name}, byte {at} flipped"));
        }
    }
}

#[test]
fn each_byte_flipped_without_a_checkpoint() {
    flip_each_byte(Kind::Bare);
}

#[test]
fn each_byte_flipped_where_all_is_vouched_for() {
    flip_each_byte(Kind::Vouched);
}

#[test]
fn each_byte_flipped_with_an_open_tail() {
    flip_each_byte(Kind::Open);
}

/// At every length around what begins or ends somewhere, at every 64th elsewhere.
#[test]
fn each_file_cut() {
    for kind in KINDS {
        let image = Image::new(kind);
        for (name, bytes) in &image.files {
            let spots = image.spots.iter().filter(|spot| spot.file == *name);
            let mut edges: Vec<usize> = (0..=bytes.len()).step_by(BLOCK_BYTES).collect();
            edges.extend(spots.flat_map(|spot| {
                let Spot { bytes, .. } = spot;
                let start = bytes.start;
                [start + io::format::FRAME_HEADER_BYTES, bytes.end]
            }));
            let near = |len: usize| edges.iter().any(|edge| edge.abs_diff(len) <= 140);
            for len in (0..bytes.len()).filter(|len| near(*len) || len.is_multiple_of(64)) {
                let mut files = image.files.clone();
                files.get_mut(name).unwrap().truncate(len);
                check(&image, &files, &[], &|| format!("{kind:?}: {name} cut to {len} bytes"));
            }
        }
    }
}

/// Every block of every file.
fn blocks(files: &Files) -> Vec<(String, usize)> {
    let of = |(name, bytes): (&String, &Vec<u8>)| {
        (0..bytes.len()).step_by(BLOCK_BYTES).map(|at| (name.clone(), at)).collect::<Vec<_>>()
    };
    files.iter().flat_map(of).collect()
}

fn block<'a>(files: &'a mut Files, (name, at): &(String, usize)) -> &'a mut [u8] {
    &mut files.get_mut(name).unwrap()[*at..][..BLOCK_BYTES]
}

#[test]
fn each_block_zeroed_doubled_and_swapped() {
    for kind in KINDS {
        let image = Image::new(kind);
        let blocks = blocks(&image.files);
        for (at, one) in blocks.iter().enumerate() {
            let mut files = image.files.clone();
            block(&mut files, one).fill(0);
            check(&image, &files, &[], &|| format!("{kind:?}: {one:?} zeroed"));
            for other in blocks.iter().filter(|other| *other != one) {
                let mut files = image.files.clone();
                let from = block(&mut files, one).to_vec();
                block(&mut files, other).copy_from_slice(&from);
                check(&image, &files, &[], &|| format!("{kind:?}: {one:?} over {other:?}"));
            }
            for other in &blocks[at + 1..] {
                let mut files = image.files.clone();
                let from = block(&mut files, one).to_vec();
                let to = block(&mut files, other).to_vec();
                block(&mut files, one).copy_from_slice(&to);
                block(&mut files, other).copy_from_slice(&from);
                check(&image, &files, &[], &|| format!("{kind:?}: {one:?} and {other:?} swapped"));
            }
        }
    }
}

#[test]
fn each_segment_missing_or_in_a_wrong_place() {
    for kind in KINDS {
        let image = Image::new(kind);
        let other_shard = Image::of(kind, 1);
        for name in image.segments() {
            let mut files = image.files.clone();
            files.remove(name);
            check(&image, &files, &[], &|| format!("{kind:?}: {name} missing"));
            let others = other_shard.segments().map(|other| &other_shard.files[other]);
            let ours = image.segments().filter(|other| *other != name).map(|o| &image.files[o]);
            for (at, strayed) in others.chain(ours).enumerate() {
                let mut files = image.files.clone();
                files.insert(name.clone(), strayed.clone());
                let foreign = std::slice::from_ref(name);
                check(&image, &files, foreign, &|| format!("{kind:?}: {at} in place of {name}"));
            }
            // Under a name of its own, between ours and behind them.
            for (from, bytes) in [(&image, &image.files), (&other_shard, &other_shard.files)] {
                for (other, seq) in from.segments().flat_map(|o| [(o, 2), (o, 4), (o, 100)]) {
                    let mut files = image.files.clone();
                    let strayed = segment_name(Seq(seq));
                    files.insert(strayed.clone(), bytes[other].clone());
                    let case = || format!("{kind:?}: {other} strayed in as {strayed}");
                    check(&image, &files, std::slice::from_ref(&strayed), &case);
                }
            }
        }
    }
}

#[test]
fn each_checkpoint_zeroed_torn_empty_foreign_or_gone() {
    for kind in [Kind::Vouched, Kind::Open] {
        let image = Image::new(kind);
        let other_shard = Image::of(kind, 1);
        let slots: Vec<&String> = image.files.keys().filter(|n| n.starts_with("check")).collect();
        type Change = fn(&mut Vec<u8>, &[u8]);
        let changes: [(&str, Change); 6] = [
            ("zeroed", |bytes, _| bytes.fill(0)),
            ("torn", |bytes, _| bytes[512..].fill(0)),
            ("torn in its header", |bytes, _| bytes[40..].fill(0)),
            ("empty", |bytes, _| bytes.clear()),
            ("half of another", |bytes, other| bytes[..60].copy_from_slice(&other[..60])),
            ("another shard's", |bytes, other| *bytes = other.to_vec()),
        ];
        for (what, change) in changes {
            for names in [&slots[..1], &slots[1..], &slots] {
                let mut files = image.files.clone();
                for name in names {
                    change(files.get_mut(*name).unwrap(), &other_shard.files[*name]);
                }
                check(&image, &files, &[], &|| format!("{kind:?}: {names:?} {what}"));
            }
        }
        for names in [&slots[..1], &slots[1..], &slots] {
            let mut files = image.files.clone();
            files.retain(|name, _| !names.contains(&name));
            check(&image, &files, &[], &|| format!("{kind:?}: {names:?} gone"));
        }
    }
}

/// Lengths that lie under good checksums, on a disk that gives as much memory as it is asked for.
#[test]
fn a_length_beyond_the_file_takes_no_memory() {
    let image = Image::new(Kind::Vouched);
    let mut cases: Vec<Files> = Vec::new();
    let lie = |seq: u64, change: &dyn Fn(&mut FrameHeader)| {
        let Spot { file, bytes, .. } = image.spot(seq);
        let mut files = image.files.clone();
        let frame = &mut files.get_mut(file).unwrap()[bytes.start..];
        let mut header = FrameHeader::decode(frame).unwrap();
        change(&mut header);
        header.encode(frame, FormatVersion::NEWEST);
        files
    };
    for seq in 1..=LAST {
        for len in [u32::MAX, 8 << 20, 4 << 20, 32 << 10] {
            cases.push(lie(seq, &|header| header.body_len = len));
            cases.push(lie(seq, &|header| header.meta_len = len));
            cases.push(lie(seq, &|header| (header.body_len, header.meta_len) = (len, len)));
        }
        cases.push(lie(seq, &|header| header.tag_len = u16::MAX));
    }
    // The length of a checkpoint's payload, and how many sinks and cursors it has.
    for (at, slot) in
        [32, 40, 44].into_iter().flat_map(|at| [(at, "checkpoint.a"), (at, "checkpoint.b")])
    {
        let mut files = image.files.clone();
        let bytes = files.get_mut(slot).unwrap();
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..48]);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
        cases.push(files);
    }
    let dir = tempfile::tempdir().unwrap();
    for (at, files) in cases.iter().enumerate() {
        let wal_dir = dir.path().join(at.to_string());
        std::fs::create_dir(&wal_dir).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(wal_dir.join(name), bytes).unwrap());
        let disk = PlainDisk::open(&wal_dir, &dir.path().join("quarantine")).unwrap();
        LARGEST.set(0);
        let (wal, _) = run(Wal::open(disk, small(0))).unwrap();
        read_frames(&wal);
        // What a checkpoint is read by.
        assert!(LARGEST.get() <= 1 << 20, "case {at}: {} bytes at once", LARGEST.get());
        check(&image, files, &[], &|| format!("a length lies: {at}"));
    }
}

/// A header is no use where its frames are another segment's, and is not the loss of them.
#[test]
fn a_header_in_a_wrong_place_costs_no_frame() {
    let image = Image::new(Kind::Vouched);
    let names: Vec<&String> = image.segments().collect();
    let mut files = image.files.clone();
    let head = files[names[0]][..BLOCK_BYTES].to_vec();
    assert!(SegmentHeader::decode(&head).is_ok());
    files.get_mut(names[1]).unwrap()[..BLOCK_BYTES].copy_from_slice(&head);
    let disk = disk_of(&files);
    let Start { recovered, frames, gaps, .. } = start(&disk);
    assert_eq!((frames.len() as u64, gaps), (LAST - 1, vec![]));
    assert_eq!(recovered.damaged.len(), 1, "{:?}", recovered.damaged);
    assert_eq!(disk.quarantined(), std::slice::from_ref(names[1]));
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
        let lost = lost_in(recovered.gaps.iter().chain(&later)).len() as u64;
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
    assert_eq!(lost_in(&recovered.gaps).len(), 5, "{:?}", recovered.gaps);
    wal.append(frame(13)).unwrap();
    run(wal.commit()).unwrap();
    let (frames, later) = read_all(&wal);
    assert_eq!((frames, lost_in(&later).len()), (vec![13], 0), "said once, then behind it");
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
