//! What stands on the disk: a log, its parts, and the frames of a dead-letter queue. Checksums keep a fuzzer
//! from everything behind them, so these are made good first, where the input says so.

use io::disk::Disk;
use io::format::{
    BLOCK_BYTES, Checkpoint, Cursor, FRAME_HEADER_BYTES, FormatVersion, FrameHeader, FrameView,
    SegmentHeader, Seq, SinkAcked, segment_name,
};
use io::sim::{SimDisk, run};
use io::tail::{Fingerprint, Identity};
use io::wal::recovery::standing;
use io::wal::survey::{Reach, Surveyed, survey};
use io::wal::{Backlog, Durable, Ladder, Options, Sealed, Wal};
use log_capturer::dlq::body::{self, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// Gives zeros where there is no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        self.byte().into()
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

fn good(bytes: &mut [u8], magic: &[u8; 8], crc_at: usize) {
    bytes[..8].copy_from_slice(magic);
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The header of a segment; a frame: its header, tag, cursors and body.
pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let mut bytes = input.0.to_vec();
    if how & 1 != 0 {
        bytes.resize(BLOCK_BYTES, 0);
        good(&mut bytes, b"LCAPWAL\n", BLOCK_BYTES - 4);
    } else if how & 2 != 0 {
        bytes.resize(bytes.len().max(FRAME_HEADER_BYTES), 0);
        let length =
            |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let meta = FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length(&bytes, 56);
        let body = meta.end..meta.end + length(&bytes, 60);
        for (at, part) in [(72, meta), (76, body)] {
            let crc = bytes.get(part).map_or(0, crc32c::crc32c);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        good(&mut bytes, b"LCAPFRM\n", FRAME_HEADER_BYTES - 4);
    }
    if let Ok(header) = SegmentHeader::decode(&bytes) {
        let mut again = vec![0xa5; BLOCK_BYTES];
        header.encode(&mut again, FormatVersion::NEWEST);
        assert_eq!(SegmentHeader::decode(&again), Ok(header));
    }
    if let Ok(header) = FrameHeader::decode(&bytes) {
        let mut again = [0xa5; FRAME_HEADER_BYTES];
        header.encode(&mut again, FormatVersion::NEWEST);
        assert_eq!(FrameHeader::decode(&again), Ok(header));
        assert!(header.frame_bytes().is_multiple_of(BLOCK_BYTES));
        assert!(header.body_range().end <= header.frame_bytes());
    }
    if let Ok(view) = FrameView::decode(&bytes) {
        assert_eq!(&bytes[view.header.body_range()], view.body);
        assert_eq!(view.tag.len(), usize::from(view.header.tag_len));
        if let Ok(cursors) = view.cursors() {
            let mut again = Vec::new();
            cursors.iter().for_each(|cursor| cursor.encode(&mut again));
            assert_eq!(Cursor::decode_all(&again), Ok(cursors));
        }
    }
}

pub fn checkpoint(data: &[u8]) {
    const HEADER_BYTES: usize = 52;
    let mut input = Input(data);
    let is_good = input.byte() & 1 != 0;
    let mut bytes = input.0.to_vec();
    if is_good {
        bytes.resize(bytes.len().max(HEADER_BYTES), 0);
        let payload = &bytes[HEADER_BYTES..];
        let (len, crc) = (u32::try_from(payload.len()).expect("small"), crc32c::crc32c(payload));
        bytes[32..36].copy_from_slice(&len.to_le_bytes());
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        good(&mut bytes, b"LCAPCKP\n", HEADER_BYTES - 4);
    }
    let Ok(checkpoint) = Checkpoint::decode(&bytes) else { return };
    // A name of wrong UTF-8 becomes longer.
    if checkpoint.acked.iter().all(|of| of.sink.len() < 10_000) {
        let decoded = Checkpoint::decode(&checkpoint.encode(FormatVersion::NEWEST));
        assert_eq!(decoded, Ok(checkpoint.clone()));
        // Without tags, nobody's position is further.
        let old = Checkpoint::decode(&checkpoint.encode(FormatVersion::V1)).expect("just made");
        for SinkAcked { sink, tag, acked } in &checkpoint.acked {
            let mut of_sink = old.acked.iter().filter(|of| of.sink == *sink);
            assert!(of_sink.all(|of| of.tag.is_none() && of.acked <= *acked), "{tag:?}: {old:?}");
        }
    }
}

/// A frame of a dead-letter queue: its tag and its body, as it is or compressed first.
pub fn letters(data: &[u8]) {
    let mut input = Input(data);
    let (how, tag_len) = (input.byte(), usize::from(input.byte() % 32));
    if let Ok(kind) = Kind::of(input.bytes(tag_len)) {
        assert_eq!(Kind::of(&kind.tag()), Ok(kind));
    }
    let sealed = body::seal(Kind::Settled, input.0, 0, 0).expect("small");
    let body = if how & 1 == 0 { input.0 } else { &sealed.body };
    if let Ok(records) = body::records(body) {
        let mut raw = Vec::new();
        records.iter().for_each(|record| record.write_line(&mut raw));
        let again = body::seal(Kind::Records { replaces: None }, &raw, 0, 0).expect("small");
        assert_eq!(body::records(&again.body), Ok(records));
    }
    if let Ok(settled) = body::settled(body) {
        assert_eq!(body::settled(&body::seal_settled(&settled).body), Ok(settled));
    }
}

fn options() -> Options {
    let segment_bytes = 4 * BLOCK_BYTES as u64;
    let sinks = vec!["loki".to_owned()];
    Options {
        owner: 0,
        sinks,
        segment_bytes,
        bytes_max: 1 << 40,
        group_bytes_max: BLOCK_BYTES,
        writes: FormatVersion::NEWEST,
    }
}

/// A directory of segments and checkpoints, whatever is in them.
pub fn log(data: &[u8]) {
    let files = files(Input(data));
    let disk = SimDisk::default();
    for (name, bytes) in &files {
        run(disk.create(name, BLOCK_BYTES as u64, vec![0; BLOCK_BYTES])).expect("there is room");
        disk.damage(name, |contents| contents.clone_from(bytes));
    }
    let looked = run(survey(&disk, 0, Reach::Everything)).expect("it is of this version");
    let stands = standing(&looked, &options().sinks);
    let whole: BTreeSet<u64> =
        looked.ours().flat_map(Surveyed::kept).map(|f| f.header.seq.0).collect();
    let (ladder, frames, lost) = start(&disk);
    assert!(ladder.trimmed.0 <= ladder.acked.0 && ladder.acked.0 <= ladder.durable.0);
    let read: BTreeSet<u64> = frames.iter().map(|frame| frame.seq.0).collect();
    assert!(frames.is_sorted_by(|a, b| a.seq < b.seq), "{read:?}");
    assert!(read.is_disjoint(&lost), "{read:?} {lost:?}");
    let (acked, durable) = (ladder.acked.0.0, ladder.durable.0.0);
    assert!((acked + 1..=durable).all(|seq| read.contains(&seq) || lost.contains(&seq)));
    // What looks at it without changing it says the same. It reads more: a start does not hear what frames
    // say that a checkpoint vouches for, which is nothing new where they were written in their order.
    assert_eq!(looked.durable, ladder.durable.0);
    assert!(stands.acked >= ladder.acked.0);
    let above: BTreeSet<u64> = whole.into_iter().filter(|seq| *seq > acked).collect();
    assert_eq!(above, read);
    assert_eq!(start(&disk), (ladder, frames.clone(), lost));

    let (wal, _) = run(Wal::open(disk.clone(), options())).expect("as before");
    let next = Sealed {
        meta: b"next".to_vec(),
        tag_len: 4,
        body: vec![1],
        raw_len: 1,
        entries: 1,
        stream: 0,
        oldest_arrival_ns: 0,
        oldest_stamp_ns: 0,
    };
    wal.append(next).expect("there is room");
    run(wal.commit()).expect("nothing fails");
    let (_, mut after, _) = start(&disk);
    assert_eq!(
        after.pop().map(|frame| (frame.seq, frame.tag)),
        Some((ladder.durable.0.next(), b"next".to_vec()))
    );
    assert_eq!(after, frames);
}

/// What a start makes of it: the positions, the frames to be sent, and those that are lost.
fn start(disk: &SimDisk) -> (Ladder, Vec<Durable>, BTreeSet<u64>) {
    let (wal, recovered) = run(Wal::open(disk.clone(), options())).expect("whatever is in it");
    let mut backlog = Backlog::new(wal.ladder().acked.0.next(), None);
    let (mut frames, mut gaps) = (Vec::new(), recovered.gaps);
    loop {
        let batch = run(backlog.read(&wal, 10_000)).expect("nothing fails");
        if batch.frames.is_empty() && batch.gaps.is_empty() {
            break;
        }
        frames.extend(batch.frames);
        gaps.extend(batch.gaps);
    }
    let acked = wal.ladder().acked.0.0;
    let lost = gaps.iter().flat_map(|gap| gap.frames.first.0..=gap.frames.last.0);
    (wal.ladder(), frames, lost.filter(|seq| *seq > acked).collect())
}

/// Steps by which a directory is made.
fn files(mut input: Input<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let (mut name, mut salt) = (segment_name(Seq(1)), 1);
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        match input.byte() % 6 {
            0 => {
                let named = Seq(input.number().max(1));
                let (owner, flags) = (u32::from(input.byte() == 9), input.byte());
                salt = u64::from(flags & 7);
                let first_seq = if flags & 8 == 0 { named } else { Seq(input.number()) };
                let mut block = vec![0; BLOCK_BYTES];
                SegmentHeader { owner, salt, first_seq, previous_crc: 0 }
                    .encode(&mut block, FormatVersion::NEWEST);
                name = segment_name(named);
                files.insert(name.clone(), block);
            }
            1 => {
                let bytes = a_frame(&mut input, salt);
                files.entry(name.clone()).or_default().extend(bytes);
            }
            2 => {
                let count = usize::from(input.byte());
                let mut block = input.bytes(count).to_vec();
                block.resize(BLOCK_BYTES, 0);
                files.entry(name.clone()).or_default().extend(block);
            }
            3 => {
                let slot =
                    if input.byte().is_multiple_of(2) { "checkpoint.a" } else { "checkpoint.b" };
                files.insert(slot.to_owned(), a_checkpoint(&mut input));
            }
            4 => {
                let len = usize::from(input.byte()) * 64 + usize::from(input.byte());
                files.entry(name.clone()).or_default().truncate(len);
            }
            _ => {
                let at = usize::from(input.byte()) * 256 + usize::from(input.byte());
                let bits = input.byte();
                let file = files.values_mut().find(|file| file.len() > at);
                file.into_iter().for_each(|file| file[at] ^= bits);
            }
        }
    }
    files
}

fn a_frame(input: &mut Input<'_>, salt: u64) -> Vec<u8> {
    let flags = input.byte();
    let mut meta = b"tenant".to_vec();
    if flags & 1 != 0 {
        a_cursor(input).encode(&mut meta);
    }
    let count = usize::from(input.byte()) * usize::from(flags >> 1 & 31);
    let body = vec![input.byte(); count];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small");
    let header = FrameHeader {
        salt: if flags & 64 == 0 { salt } else { input.number() },
        seq: Seq(input.number()),
        durable: Seq(input.number()),
        acked: Seq(input.number()),
        stream: 0,
        oldest_arrival_ns: 1,
        oldest_stamp_ns: 1,
        meta_len: length(&meta),
        body_len: if flags & 128 == 0 { length(&body) } else { u32::from(input.byte()) << 12 },
        raw_len: 1,
        entries: 1,
        meta_crc: crc32c::crc32c(&meta),
        body_crc: crc32c::crc32c(&body),
        tag_len: 6,
    };
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    header.encode(&mut bytes, FormatVersion::NEWEST);
    bytes.extend(meta);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

fn a_cursor(input: &mut Input<'_>) -> Cursor {
    Cursor {
        identity: Identity { dev: 1, ino: input.number() % 4, birth_ns: 1 },
        fingerprint: Fingerprint { len: 1, crc: 1 },
        offset: input.number(),
        stamp_ns: 1,
        skipping: false,
        path: "/log".into(),
    }
}

fn a_checkpoint(input: &mut Input<'_>) -> Vec<u8> {
    let generation = input.number();
    let owner = u32::from(input.byte() == 9);
    let durable = Seq(input.number());
    let of = |tag, acked| SinkAcked { sink: "loki".to_owned(), tag, acked };
    let mut acked = vec![of(None, Seq(input.number()).min(durable))];
    if input.byte() % 2 == 1 {
        acked.push(of(Some("tenant".to_owned()), Seq(input.number())));
    }
    let cursors = vec![a_cursor(input)];
    Checkpoint { owner, generation, durable, acked, cursors }.encode(FormatVersion::NEWEST)
}

/// How a directory of a short run is made.
pub fn log_seeds() -> Vec<Vec<u8>> {
    let segment = |first: u8, salt: u8| vec![0, first, 0, salt];
    let frame = |seq: u8, acked: u8, len: u8| vec![1, 3, seq % 4, 7, len, 1, seq, seq - 1, acked];
    let slot = |at: u8, durable: u8, acked: u8| vec![3, at, at + 1, 0, durable, acked, 0, 1, 5];
    let one = [segment(1, 1), frame(1, 0, 9), frame(2, 0, 9)].concat();
    let two = [segment(3, 2), frame(3, 1, 200), frame(4, 1, 9)].concat();
    let both = [slot(0, 2, 1), slot(1, 4, 1)].concat();
    let all = [&one[..], &two, &both].concat();
    vec![
        one.clone(),
        [&one[..], &both].concat(),
        [&all[..], &[4, 70, 0]].concat(),
        [&all[..], &[5, 17, 9, 1]].concat(),
        [&all[..], &[0, 9, 9, 5]].concat(),
        // Says that frames are acked which are not there.
        [&all[..], &frame(5, 200, 9)].concat(),
        [&all[..], &[0, 200, 0, 13, 1], &frame(1, 0, 9)].concat(),
        [&one[..], &[2, 9], b"LCAPFRM\n1", &two].concat(),
        all,
    ]
}

pub fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let bytes = a_checkpoint(&mut Input(&[3, 0, 9, 7, 1, 5, 1, 9]));
    let of = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    vec![of(0, &bytes), of(1, &bytes), of(1, &bytes[..60]), of(1, &bytes[..bytes.len() - 1])]
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let mut head = vec![0; BLOCK_BYTES];
    SegmentHeader { owner: 1, salt: 2, first_seq: Seq(3), previous_crc: 4 }
        .encode(&mut head, FormatVersion::NEWEST);
    let bytes = a_frame(&mut Input(&[3, 9, 7, 2, 1, 1, 1]), 1);
    let of = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    vec![of(0, &head), of(1, &head[..40]), of(0, &bytes[..300]), of(2, &bytes[..300])]
}

pub fn letters_seeds() -> Vec<Vec<u8>> {
    const RECORD: &str = r#"{"sink":"loki","tenant":"t","labels":"{a=\"b\"}","timestamp_ns":1,"line":"x","metadata":[["k","v"]],"origin":{"shard":1,"frame":2},"arrived_ns":3,"reason":"refused","status":400,"text":"no","attempts":1,"first_rejected_ns":4,"rejected_ns":5}"#;
    let of = |how: u8, tag: &str, content: &[u8]| {
        [&[how, u8::try_from(tag.len()).expect("short")], tag.as_bytes(), content].concat()
    };
    let base64 = RECORD.replace(r#""line":"x""#, r#""line_base64":"//8=""#);
    let two = format!("{RECORD}\n{base64}\n");
    let sealed = body::seal(Kind::Settled, two.as_bytes(), 0, 0).expect("small");
    vec![
        of(1, "records", two.as_bytes()),
        of(1, "records 17", RECORD.as_bytes()),
        of(1, "settled", b"[1,2,18446744073709551615]"),
        of(0, "records", &sealed.body),
        of(0, "settled", b"\xff\xff\xff\xff\x1f"),
    ]
}
