//! The log's bookkeeping: which frame goes where, what the quota allows, what may be removed.
//!
//! A plain state machine: it is told what happened and says what to do next. [`super::Wal`] does it.

use super::ladder::Ladder;
use super::{Durable, Place};
use crate::format::{
    BLOCK_BYTES, BODY_BYTES_MAX, Checkpoint, Cursor, FRAME_HEADER_BYTES, FormatVersion,
    FrameHeader, META_BYTES_MAX, SegmentHeader, Seq, SinkAcked, TAG_BYTES_MAX, frame_bytes,
};
use crate::tail::Identity;
use std::collections::{BTreeMap, HashMap, VecDeque};

#[derive(Clone, Debug)]
pub struct Options {
    /// Stands in every file: the number of the shard.
    pub owner: u32,
    /// The names under which their positions stand in the checkpoint.
    pub sinks: Vec<String>,
    pub segment_bytes: u64,
    /// All segments together. What was taken in before a write failed gets room beyond that, since
    /// its segment takes no more.
    pub bytes_max: u64,
    /// What one write and sync takes at most, one larger frame excepted.
    pub group_bytes_max: usize,
    /// The version of the format for everything that is written from now on.
    pub writes: FormatVersion,
}

/// A finished frame on its way into the log. `meta` is the tag followed by the encoded cursors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub meta: Vec<u8>,
    pub tag_len: u16,
    pub body: Vec<u8>,
    pub raw_len: u32,
    pub entries: u32,
    pub stream: u64,
    pub oldest_arrival_ns: i64,
    pub oldest_stamp_ns: i64,
}

impl Sealed {
    fn bytes(&self) -> usize {
        frame_bytes(self.meta.len(), self.body.len())
    }
}

/// How far a sink is: every frame up to `all` is acked, but of these tags only up to theirs, which is
/// less.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acked {
    pub all: Seq,
    pub behind: BTreeMap<String, Seq>,
}

impl Acked {
    #[must_use]
    pub fn up_to(all: Seq) -> Acked {
        Acked { all, behind: BTreeMap::new() }
    }

    /// Up to here, everything is acked.
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.behind.values().copied().fold(self.all, Seq::min)
    }

    /// The position of one tag.
    #[must_use]
    pub fn of(&self, tag: &str) -> Seq {
        self.behind.get(tag).copied().unwrap_or(self.all)
    }

    /// Everything up to `floor` is known to be acked.
    pub(super) fn raise(&mut self, floor: Seq) {
        self.all = self.all.max(floor);
        self.behind.values_mut().for_each(|acked| *acked = (*acked).max(floor));
        self.behind.retain(|_, acked| *acked < self.all);
    }
}

/// The latest durable cursor of each source.
#[derive(Debug, Default, Clone)]
pub struct CursorTable(HashMap<Identity, Cursor>);

impl CursorTable {
    /// Of two cursors of one source the later stamp counts, then the larger offset. True where it
    /// was taken.
    pub fn take_in(&mut self, cursor: Cursor) -> bool {
        let known = self.0.get(&cursor.identity);
        let later = known.is_none_or(|k| (k.stamp_ns, k.offset) < (cursor.stamp_ns, cursor.offset));
        if later {
            self.0.insert(cursor.identity, cursor);
        }
        later
    }

    /// Frames come in the order of the log, so the newer one counts whatever the clock said.
    pub fn replace(&mut self, cursor: Cursor) {
        self.0.insert(cursor.identity, cursor);
    }

    pub fn forget(&mut self, source: &Identity) {
        self.0.remove(source);
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<Cursor> {
        let mut cursors: Vec<Cursor> = self.0.values().cloned().collect();
        cursors.sort_by_key(|cursor| cursor.identity);
        cursors
    }
}

/// A segment on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub first_seq: Seq,
    /// Its last durable frame; `first_seq - 1` where it has none.
    pub last_seq: Seq,
    pub bytes: u64,
}

/// The segment that takes frames.
#[derive(Debug)]
struct Tail {
    salt: u64,
    offset: u64,
    /// Up to here every block was written once, with frames or with zeros.
    written: u64,
}

/// The first write to a block costs a file system much more than a later one: the block was allocated
/// only, and that it holds something now has to be noted durably (measured on ext4: 1.1 ms and 65 us of
/// CPU for a synced write of 4 KiB, against 0.3 ms and 25 us). So a small group that comes to such blocks
/// takes a stretch of zeros along for those that follow it.
const STRETCH_BYTES: u64 = 512 << 10;
/// A larger group is worth the cost.
const SMALL_GROUP_BYTES: u64 = 64 << 10;

/// What one commit writes.
#[derive(Debug)]
pub struct Group {
    /// The segment, by its first sequence number.
    pub segment: Seq,
    pub birth: Option<Birth>,
    pub offset: u64,
    pub bytes: usize,
    /// Written behind the frames.
    pub zeros: usize,
    salt: u64,
    durable: Seq,
    acked: Seq,
    writes: FormatVersion,
    frames: Vec<(Seq, Sealed)>,
}

#[derive(Debug)]
pub struct Birth {
    pub header: SegmentHeader,
    pub bytes: u64,
    pub writes: FormatVersion,
}

/// What all segments take, and what the last of them has left.
#[derive(Debug, Clone, Copy)]
struct Plan {
    bytes: u64,
    room: u64,
}

impl Plan {
    /// One more frame; where it does not fit, in a new segment of so many bytes.
    fn add(&mut self, segment_bytes: u64, frame: &Sealed) {
        let bytes = frame.bytes() as u64;
        if bytes > self.room {
            self.bytes += segment_bytes;
            self.room = segment_bytes - BLOCK_BYTES as u64;
        }
        self.room -= bytes;
    }
}

pub struct Log {
    pub(super) options: Options,
    pub(super) ladder: Ladder,
    pub(super) cursors: CursorTable,
    /// Oldest first; the last one takes frames while `tail` is there.
    segments: VecDeque<Segment>,
    tail: Option<Tail>,
    pending: VecDeque<(Seq, Sealed)>,
    pending_bytes: u64,
    /// Of those, what a commit is writing to the tail.
    in_flight: u64,
    /// As of the last frame that was taken in, while nothing else changed.
    plan: Option<Plan>,
    last_crc: u32,
    generation: u64,
    /// Of each sink, in the order of the options.
    sinks: Vec<Acked>,
    checkpointed_sinks: Vec<Acked>,
    checkpointed_durable: Seq,
}

impl Log {
    pub(super) fn recovered(
        options: Options,
        ladder: Ladder,
        cursors: CursorTable,
        segments: Vec<Segment>,
        generation: u64,
        sinks: Vec<Acked>,
        checkpointed_durable: Seq,
    ) -> Log {
        assert!(!options.sinks.is_empty() && options.sinks.len() == sinks.len());
        assert!(options.segment_bytes.is_multiple_of(BLOCK_BYTES as u64));
        assert!(options.segment_bytes >= 4 * BLOCK_BYTES as u64);
        assert!(options.bytes_max >= 2 * options.segment_bytes);
        Log {
            options,
            ladder,
            cursors,
            segments: segments.into(),
            tail: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: 0,
            plan: None,
            last_crc: 0,
            generation,
            checkpointed_sinks: sinks.clone(),
            sinks,
            checkpointed_durable,
        }
    }

    pub fn append(&mut self, frame: Sealed) -> Result<Seq, Sealed> {
        assert!(!frame.body.is_empty() && frame.body.len() <= BODY_BYTES_MAX);
        assert!(frame.meta.len() <= META_BYTES_MAX && frame.tag_len as usize <= TAG_BYTES_MAX);
        let mut plan = self.plan.take().unwrap_or_else(|| self.plan());
        plan.add(self.segment_for(&frame), &frame);
        if plan.bytes > self.options.bytes_max {
            return Err(frame);
        }
        self.plan = Some(plan);
        let seq = self.ladder.append();
        if crate::planted!(CursorBeforeData) {
            let cursors = Cursor::decode_all(&frame.meta[frame.tag_len as usize..]);
            cursors.into_iter().flatten().for_each(|cursor| self.cursors.replace(cursor));
        }
        self.pending_bytes += frame.bytes() as u64;
        self.pending.push_back((seq, frame));
        Ok(seq)
    }

    /// What the segments will take when all that waits stands in them.
    fn plan(&self) -> Plan {
        let replaced = self.empty().map_or(0, |empty| empty.bytes);
        let mut plan =
            Plan { bytes: self.disk_bytes() - replaced, room: self.room() - self.in_flight };
        self.pending.iter().for_each(|(_, frame)| plan.add(self.segment_for(frame), frame));
        plan
    }

    /// What the segment that takes frames has left.
    fn room(&self) -> u64 {
        let last = self.segments.back().zip(self.tail.as_ref());
        last.map_or(0, |(segment, tail)| segment.bytes - tail.offset)
    }

    /// The size of a segment that begins with this frame.
    fn segment_for(&self, frame: &Sealed) -> u64 {
        self.options.segment_bytes.max((frame.bytes() + BLOCK_BYTES) as u64)
    }

    /// The last segment where it takes no frames and holds none. It has the name that the next one
    /// gets: it is replaced and not removed, since a removal may still be under way by then.
    fn empty(&self) -> Option<&Segment> {
        let last = self.segments.back().filter(|_| self.tail.is_none());
        last.filter(|last| last.first_seq > self.ladder.durable.0)
    }

    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// The next group to write, as many frames as fit one write and one segment.
    pub fn next_group(&mut self) -> Option<Group> {
        let first = &self.pending.front()?.1;
        let (first_bytes, segment_bytes) = (first.bytes() as u64, self.segment_for(first));
        let birth = (first_bytes > self.room()).then(|| self.birth(segment_bytes));
        let segment = self.segments.back().expect("just made where there was none");
        let tail = self.tail.as_ref().expect("likewise");
        let limit =
            usize::try_from(segment.bytes - tail.offset).expect("a segment is addressable").min(
                self.options
                    .group_bytes_max
                    .max(usize::try_from(first_bytes).expect("a frame is small")),
            );
        let mut bytes = 0;
        let mut frames = Vec::new();
        while let Some((_, frame)) = self.pending.front()
            && bytes + frame.bytes() <= limit
        {
            bytes += frame.bytes();
            frames.extend(self.pending.pop_front());
        }
        self.in_flight = bytes as u64;
        self.plan = None;
        let end = tail.offset + bytes as u64;
        let fresh = end > tail.written && bytes as u64 <= SMALL_GROUP_BYTES;
        let zeros = if fresh { STRETCH_BYTES.min(segment.bytes - end) } else { 0 };
        Some(Group {
            segment: segment.first_seq,
            birth,
            offset: tail.offset,
            bytes,
            zeros: usize::try_from(zeros).expect("a stretch is small"),
            salt: tail.salt,
            durable: self.ladder.durable.0,
            acked: self.ladder.acked.0,
            writes: self.options.writes,
            frames,
        })
    }

    fn birth(&mut self, bytes: u64) -> Birth {
        let first_seq = self.ladder.durable.0.next();
        let header = SegmentHeader {
            owner: self.options.owner,
            salt: random(),
            first_seq,
            previous_crc: self.last_crc,
        };
        if self.segments.back().is_some_and(|last| last.first_seq == first_seq) {
            self.segments.pop_back();
        }
        self.segments.push_back(Segment { first_seq, last_seq: first_seq.previous(), bytes });
        let offset = BLOCK_BYTES as u64;
        self.tail = Some(Tail { salt: header.salt, offset, written: offset });
        Birth { header, bytes, writes: self.options.writes }
    }

    /// The group is written and synced.
    pub fn group_done(&mut self, group: Group, last_crc: u32) -> Vec<Durable> {
        let last = group.last();
        self.ladder.make_durable(last);
        self.last_crc = last_crc;
        self.pending_bytes -= group.bytes as u64;
        (self.in_flight, self.plan) = (0, None);
        self.segments.back_mut().expect("the group's").last_seq = last;
        let tail = self.tail.as_mut().expect("the group's");
        tail.offset += group.bytes as u64;
        tail.written = tail.written.max(tail.offset + group.zeros as u64);
        let mut next_offset = group.offset;
        let mut durable = Vec::with_capacity(group.frames.len());
        for (seq, frame) in group.frames {
            next_offset += frame.bytes() as u64;
            let place = Place { segment: group.segment, next_offset };
            durable.push(self.frame_done(seq, frame, place));
        }
        durable
    }

    fn frame_done(&mut self, seq: Seq, frame: Sealed, place: Place) -> Durable {
        let (tag, cursors) = frame.meta.split_at(frame.tag_len as usize);
        let cursors = Cursor::decode_all(cursors).expect("this program encoded them");
        cursors.into_iter().for_each(|cursor| self.cursors.replace(cursor));
        Durable {
            seq,
            place,
            tag: tag.to_vec(),
            sourced: frame.meta.len() > tag.len(),
            stream: frame.stream,
            oldest_arrival_ns: frame.oldest_arrival_ns,
            oldest_stamp_ns: frame.oldest_stamp_ns,
            raw_len: frame.raw_len,
            entries: frame.entries,
            body: frame.body,
        }
    }

    /// Nothing of the group counts as written, and its segment takes no more.
    pub fn group_failed(&mut self, group: Group) {
        if group.birth.is_some() {
            self.segments.pop_back();
        }
        if !crate::planted!(AppendAfterFailedSync) || group.birth.is_some() {
            self.tail = None;
        }
        for frame in group.frames.into_iter().rev() {
            self.pending.push_front(frame);
        }
        (self.in_flight, self.plan) = (0, None);
    }

    /// Handed over to some sink: frames may be so again, or after later ones.
    pub fn sent(&mut self, sent: Seq) {
        self.ladder.send(sent.max(self.ladder.sent.0));
    }

    pub fn ack(&mut self, sink: usize, acked: Acked) {
        self.sinks[sink] = acked;
        let floor = self.sinks.iter().map(Acked::floor).min().expect("there is a sink");
        self.ladder.ack(floor);
    }

    pub fn acked(&self, sink: usize) -> &Acked {
        &self.sinks[sink]
    }

    /// Segments of which every frame is acked, but never the one that takes frames or is to.
    #[must_use]
    pub fn removable(&self) -> Vec<Seq> {
        let empty = self.empty().is_some() && !crate::planted!(RemoveEmptySegment);
        let last = self.tail.is_some() || empty;
        let closed = self.segments.len() - usize::from(last);
        let acked = self.ladder.acked.0;
        let segments = self.segments.iter().take(closed);
        segments.take_while(|s| s.last_seq <= acked).map(|s| s.first_seq).collect()
    }

    /// The last frame of the oldest segment, where that takes no more.
    #[must_use]
    pub fn oldest(&self) -> Option<Seq> {
        let closed = self.segments.len() - usize::from(self.tail.is_some());
        self.segments.iter().take(closed).next().map(|segment| segment.last_seq)
    }

    pub fn removed(&mut self, segments: &[Seq]) {
        self.plan = None;
        for first_seq in segments {
            let segment = self.segments.pop_front().expect("removable named it");
            assert_eq!(segment.first_seq, *first_seq);
            assert!(segment.last_seq <= self.ladder.acked.0, "no segment goes before its acks");
            self.ladder.trim(segment.last_seq.max(self.ladder.trimmed.0));
        }
    }

    /// Segment that holds `seq`, or the next one above it.
    #[must_use]
    pub(super) fn segment_of(&self, seq: Seq) -> Option<Segment> {
        self.segments.iter().find(|segment| segment.last_seq >= seq).cloned()
    }

    pub fn next_checkpoint(&mut self) -> Checkpoint {
        self.generation += 1;
        Checkpoint {
            owner: self.options.owner,
            generation: self.generation,
            durable: self.ladder.durable.0,
            acked: self.positions().collect(),
            cursors: self.cursors.to_vec(),
        }
    }

    fn positions(&self) -> impl Iterator<Item = SinkAcked> {
        self.options.sinks.iter().zip(&self.sinks).flat_map(|(sink, acked)| {
            let of = |tag, acked| SinkAcked { sink: sink.clone(), tag, acked };
            let behind = acked.behind.iter().map(move |(tag, acked)| (Some(tag.clone()), *acked));
            std::iter::once((None, acked.all)).chain(behind).map(move |(tag, acked)| of(tag, acked))
        })
    }

    /// `sinks` are the positions that stand in it.
    pub fn checkpointed(&mut self, checkpoint: &Checkpoint, sinks: Vec<Acked>) {
        self.checkpointed_sinks = sinks;
        self.checkpointed_durable = checkpoint.durable;
    }

    #[must_use]
    pub fn sinks(&self) -> Vec<Acked> {
        self.sinks.clone()
    }

    /// The next frame carries what every sink is past; where none comes, or where one sink or tag is
    /// further than another, a checkpoint has to.
    #[must_use]
    pub fn checkpoint_is_stale(&self) -> bool {
        let segment = self.segments.back();
        let born_since = segment.is_some_and(|s| s.first_seq > self.checkpointed_durable.next());
        let floor = self.ladder.acked.0;
        let told_by_frames = self.sinks.iter().all(|acked| acked.all == floor);
        let all_acked = floor == self.ladder.durable.0;
        born_since || ((all_acked || !told_by_frames) && self.checkpointed_sinks != self.sinks)
    }
}

impl Group {
    pub(super) fn last(&self) -> Seq {
        self.frames.last().expect("a group has frames").0
    }

    /// Writes the frames into `buffer` as they stand on the disk; the last one's header checksum.
    pub fn encode(&self, buffer: &mut [u8]) -> u32 {
        assert_eq!(buffer.len(), self.bytes);
        let mut rest = buffer;
        let mut crc = 0;
        for (seq, frame) in &self.frames {
            let (out, next) = rest.split_at_mut(frame.bytes());
            let header = FrameHeader {
                salt: self.salt,
                seq: *seq,
                durable: self.durable,
                acked: self.acked,
                stream: frame.stream,
                oldest_arrival_ns: frame.oldest_arrival_ns,
                oldest_stamp_ns: frame.oldest_stamp_ns,
                meta_len: u32::try_from(frame.meta.len()).expect("checked by append"),
                body_len: u32::try_from(frame.body.len()).expect("checked by append"),
                raw_len: frame.raw_len,
                entries: frame.entries,
                meta_crc: crc32c::crc32c(&frame.meta),
                body_crc: crc32c::crc32c(&frame.body),
                tag_len: frame.tag_len,
            };
            header.encode(out, self.writes);
            crc = FrameHeader::crc_of(out);
            let body = header.body_range();
            out[FRAME_HEADER_BYTES..body.start].copy_from_slice(&frame.meta);
            out[body.clone()].copy_from_slice(&frame.body);
            out[body.end..].fill(0);
            rest = next;
        }
        crc
    }
}

/// A salt only has to differ from those of the segments whose blocks this one may have inherited.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
