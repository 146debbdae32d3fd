//! Logs on a simulated disk, of frames that say what they are.

// Each program of tests uses some of it.
#![allow(dead_code)]

use io::disk::Disk;
use io::format::{BLOCK_BYTES, Cursor, FormatVersion};
use io::sim::{SimDisk, run};
use io::tail::{Fingerprint, Identity};
use io::wal::{Backlog, Durable, Gap, Options, Recovered, Sealed, Wal};

pub fn options() -> Options {
    Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: 16 * BLOCK_BYTES as u64,
        bytes_max: 64 * BLOCK_BYTES as u64,
        group_bytes_max: 4 * BLOCK_BYTES,
        writes: FormatVersion::NEWEST,
    }
}

/// A frame that says what it is: content `n`, and a cursor at offset `n` of source `n % 3`.
pub fn frame(n: u64) -> Sealed {
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

pub fn content(body: &[u8]) -> u64 {
    let n = u64::from_le_bytes(body[..8].try_into().unwrap());
    assert_eq!(body, frame(n).body, "a frame came back changed");
    n
}

pub fn open(disk: &SimDisk) -> (Wal<SimDisk>, Recovered) {
    run(Wal::open(disk.clone(), options())).expect("opens whatever happened")
}

/// Everything that is durable and not acked, in order.
pub fn read_frames<D: Disk>(wal: &Wal<D>) -> (Vec<Durable>, Vec<Gap>) {
    let mut backlog = Backlog::new(wal.ladder().acked.0.next(), None);
    let (mut frames, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let batch = run(backlog.read(wal, 10_000)).unwrap();
        if batch.frames.is_empty() && batch.gaps.is_empty() {
            return (frames, gaps);
        }
        frames.extend(batch.frames);
        gaps.extend(batch.gaps);
    }
}

/// As [`read_frames`], by their contents.
pub fn read_all(wal: &Wal<SimDisk>) -> (Vec<u64>, Vec<Gap>) {
    let (frames, gaps) = read_frames(wal);
    (frames.iter().map(|frame| content(&frame.body)).collect(), gaps)
}

/// A log of several segments, all durable, nothing acked, no checkpoint: `frames` by number.
pub fn several_segments(frames: u64) -> SimDisk {
    let disk = SimDisk::default();
    let roomy = Options { bytes_max: 1 << 30, ..options() };
    let (wal, _) = run(Wal::open(disk.clone(), roomy)).unwrap();
    for n in 1..=frames {
        wal.append(frame(n)).unwrap();
        run(wal.commit()).unwrap();
    }
    disk
}
