//! What has to be true of a log, by what it said of itself.

use io::format::{BLOCK_BYTES, Cursor, FRAME_HEADER_BYTES, Seq};
use io::tail::{Fingerprint, Identity};
use io::wal::{Acked, Durable, Ladder, Recovered, Sealed};
use std::collections::{BTreeMap, BTreeSet};

pub const TAGS: u64 = 3;
pub const SOURCES: u64 = 3;

/// A frame that says what it is: number `n`, with a cursor at offset `n` of its source.
pub fn frame(n: u64, words: usize) -> Sealed {
    let mut meta = tag(n).into_bytes();
    let tag_len = u16::try_from(meta.len()).unwrap();
    cursor(n).encode(&mut meta);
    Sealed {
        meta,
        tag_len,
        body: body(n, words),
        raw_len: 10,
        entries: 1,
        stream: n % 5,
        oldest_arrival_ns: 5,
        oldest_stamp_ns: 4,
    }
}

fn body(n: u64, words: usize) -> Vec<u8> {
    n.to_le_bytes().repeat(words)
}

pub fn tag(n: u64) -> String {
    format!("t{}", n % TAGS)
}

fn source(n: u64) -> u64 {
    n / 2 % SOURCES
}

fn cursor(n: u64) -> Cursor {
    Cursor {
        identity: Identity { dev: 1, ino: source(n), birth_ns: 7 },
        fingerprint: Fingerprint { len: 3, crc: 9 },
        offset: n,
        stamp_ns: 0,
        skipping: false,
        path: "/log/x".into(),
    }
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    pub segment: Seq,
    pub from: u64,
    pub to: u64,
}

impl Stand {
    pub fn of(frame: &Durable, meta: usize) -> Stand {
        let bytes = (FRAME_HEADER_BYTES + meta + frame.body.len()).next_multiple_of(BLOCK_BYTES);
        let to = frame.place.next_offset;
        Stand { segment: frame.place.segment, from: to - bytes as u64, to }
    }
}

#[derive(Clone, Default)]
pub struct Model {
    /// Number and words of each frame that was taken in and may still count.
    pub frames: BTreeMap<Seq, (u64, usize)>,
    /// Up to here the log called frames durable.
    pub durable: Seq,
    pub stands: BTreeMap<Seq, Stand>,
    /// What was durable, as each frame says.
    pub said: BTreeMap<Seq, Seq>,
    /// What each sink was said to have.
    pub sinks: Vec<Acked>,
    /// Frames that rot may have hit.
    pub rotten: BTreeSet<Seq>,
    /// Something else rotted in this run: a header, or a slot.
    pub rotten_slot: bool,
    /// Where the reader stands: nothing from here on is acked.
    pub reading: Option<Seq>,
    pub last_number: u64,
}

impl Model {
    pub fn floor(&self) -> Seq {
        self.sinks.iter().map(Acked::floor).min().expect("there is a sink")
    }

    /// The log says that these are durable.
    pub fn committed(&mut self, frames: &[Durable]) {
        for frame in frames {
            self.check_frame(frame);
            assert!(frame.seq > Seq::NONE && self.frames.contains_key(&frame.seq));
            let stand = self.stand(frame);
            self.stands.insert(frame.seq, stand);
            self.said.insert(frame.seq, frames[0].seq.previous());
            self.rotten.remove(&frame.seq);
        }
        let last = frames[frames.len() - 1].seq;
        assert!(last >= self.durable, "a number comes twice: {last} after {}", self.durable);
        self.durable = last;
    }

    pub fn stand(&self, frame: &Durable) -> Stand {
        let (n, words) = self.frames[&frame.seq];
        Stand::of(frame, self::frame(n, words.min(1)).meta.len())
    }

    /// What came back is what went in.
    pub fn check_frame(&self, frame: &Durable) {
        let Some((n, words)) = self.frames.get(&frame.seq) else {
            panic!("frame {} was never taken in", frame.seq)
        };
        assert_eq!(frame.body, body(*n, *words), "frame {} came back changed", frame.seq);
        assert_eq!(frame.tag, tag(*n).into_bytes());
        assert_eq!((frame.stream, frame.sourced, frame.entries), (n % 5, true, 1));
    }

    /// Of the frames up to `durable`, the newest of each source.
    fn cursors(&self, durable: Seq) -> BTreeMap<u64, u64> {
        let frames = self.frames.range(..=durable);
        frames.map(|(_, (n, _))| (source(*n), *n)).collect()
    }

    /// What the log says after a stop is not more than what it said before, and not less.
    pub fn check_recovered(&self, ladder: Ladder, recovered: &Recovered, sinks: &[Acked]) {
        let durable = ladder.durable.0;
        let rot = self.rotten_slot || !self.rotten.is_empty();
        assert!(rot || recovered.damaged.is_empty(), "damaged: {:?}", recovered.damaged);
        assert!(
            durable >= self.durable || self.rot_hides(durable),
            "lost: {durable} of {} is durable",
            self.durable
        );
        for gap in &recovered.gaps {
            for seq in (gap.frames.first.0..=gap.frames.last.0).map(Seq) {
                let excused = self.rotten.contains(&seq) || rot && seq <= self.floor();
                assert!(excused, "{gap:?}, and frame {seq} was well");
            }
        }
        let known = self.cursors(durable);
        let found: BTreeMap<u64, u64> =
            recovered.cursors.iter().map(|c| (c.identity.ino, c.offset)).collect();
        for (source, offset) in &found {
            let newest = known.get(source);
            assert!(newest >= Some(offset), "source {source}: a cursor ahead of its data");
        }
        assert!(rot || found == known, "cursors behind their data: {found:?} of {known:?}");
        for (sink, (said, found)) in self.sinks.iter().zip(sinks).enumerate() {
            for tag in (0..TAGS).map(tag) {
                assert!(
                    found.of(&tag) <= said.of(&tag),
                    "sink {sink}: {tag} is acked up to {} and was up to {}",
                    found.of(&tag),
                    said.of(&tag)
                );
            }
        }
    }

    /// Where rot hit a frame and no other says that it was durable, it and what is behind it may be taken
    /// for a group that was never synced. What only a slot knew is gone with it.
    fn rot_hides(&self, durable: Seq) -> bool {
        let first = durable.next();
        let mut behind = self.said.range(first..=self.durable);
        let unsaid = behind.all(|(seq, said)| *said < first || self.rotten.contains(seq));
        let torn = self.rotten.contains(&first) && unsaid;
        torn || self.rotten_slot && self.floor() >= self.durable
    }

    /// Goes on from what was recovered.
    pub fn resume(&mut self, durable: Seq, sinks: Vec<Acked>) {
        // Written by a group of which nothing was heard.
        let survived = (self.durable.0 + 1..=durable.0).map(|seq| (Seq(seq), self.durable));
        self.said.extend(survived);
        self.said.retain(|seq, _| *seq <= durable);
        self.durable = durable;
        self.frames.retain(|seq, _| *seq <= durable);
        self.stands.retain(|seq, _| *seq <= durable);
        self.rotten.retain(|seq| *seq <= durable);
        self.sinks = sinks;
        self.reading = None;
    }
}
