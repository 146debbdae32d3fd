//! Which frames of the queue wait, by what is in them: all that is kept in memory.

use super::Backoff;
use super::record::{Reason, Record};
use io::format::Seq;
use io::wal::Place;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::AddAssign;
use std::sync::Arc;

/// A frame that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Where it is now in the order of the log; this changes when it is moved to the tail.
    pub seq: Seq,
    /// By which it is called until it is settled: where it was first, as far as this run knows.
    pub id: Seq,
    /// Its segment, and where in it it begins.
    pub place: Place,
    /// On the disk.
    pub bytes: u64,
    /// Of all its entries.
    pub tenant: Arc<str>,
    pub entries: u32,
    /// The most of its entries.
    pub attempts: u32,
    /// When the first of its entries was refused first, and the last of them last.
    pub oldest_ns: i64,
    pub rejected_ns: i64,
    pub reasons: Vec<(Reason, u32)>,
    /// Whole, but not understood: kept until it is purged with everything.
    pub undecodable: bool,
    /// By which order it was asked for that this is sent again, the last of them; 0: by none.
    pub requested: u64,
    /// Not due before, whatever its age.
    pub not_before_ns: i64,
}

impl FrameInfo {
    /// `seq`, `place` and `bytes` are known once it is written.
    #[must_use]
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>) -> FrameInfo {
        let mut info = FrameInfo::undecodable(0, i64::MAX);
        info.undecodable = false;
        let mut reasons = BTreeMap::<&Reason, u32>::new();
        for record in records {
            if info.entries == 0 {
                info.tenant = record.tenant.as_str().into();
            }
            info.entries += 1;
            info.attempts = info.attempts.max(record.attempts);
            info.oldest_ns = info.oldest_ns.min(record.first_rejected_ns);
            info.rejected_ns = info.rejected_ns.max(record.rejected_ns);
            reasons.entry(&record.reason).or_default().add_assign(1);
        }
        info.reasons = reasons.into_iter().map(|(reason, count)| (reason.clone(), count)).collect();
        info
    }

    #[must_use]
    pub fn undecodable(entries: u32, oldest_ns: i64) -> FrameInfo {
        FrameInfo {
            seq: Seq::NONE,
            id: Seq::NONE,
            place: Place { segment: Seq::NONE, next_offset: 0 },
            bytes: 0,
            tenant: "".into(),
            entries,
            attempts: 0,
            oldest_ns,
            rejected_ns: i64::MIN,
            reasons: Vec::new(),
            undecodable: true,
            requested: 0,
            not_before_ns: i64::MIN,
        }
    }

    /// When it is due by itself; never, where that cannot help.
    fn due_ns(&self, backoff: &Backoff) -> Option<i64> {
        let helps = self.reasons.iter().any(|(reason, _)| reason.may_pass());
        (helps && self.attempts < backoff.attempts_max).then(|| {
            let wait = i64::try_from(backoff.wait(self.attempts).as_nanos()).unwrap_or(i64::MAX);
            self.rejected_ns.saturating_add(wait).max(self.not_before_ns)
        })
    }
}

#[derive(Debug, Default)]
pub struct Index {
    frames: BTreeMap<Seq, FrameInfo>,
    /// Where those are that moved, by what they are called.
    moved: HashMap<Seq, Seq>,
    bytes: u64,
    entries: u64,
    reasons: BTreeMap<Reason, u64>,
    attempts: BTreeMap<u32, u64>,
    ages: BTreeSet<(i64, Seq)>,
    undecodable: u64,
}

impl Index {
    pub fn insert(&mut self, info: FrameInfo) {
        self.count(&info, true);
        if info.id != info.seq {
            self.moved.insert(info.id, info.seq);
        }
        let before = self.frames.insert(info.seq, info);
        assert!(before.is_none(), "a sequence number is given once");
    }

    pub fn remove(&mut self, seq: Seq) -> Option<FrameInfo> {
        let info = self.frames.remove(&seq)?;
        self.count(&info, false);
        self.moved.remove(&info.id);
        Some(info)
    }

    fn count(&mut self, info: &FrameInfo, comes: bool) {
        let entries = u64::from(info.entries);
        let add = |to: &mut u64, n: u64| *to = if comes { *to + n } else { *to - n };
        add(&mut self.bytes, info.bytes);
        add(&mut self.entries, entries);
        add(&mut self.undecodable, u64::from(info.undecodable));
        add(self.attempts.entry(info.attempts).or_default(), entries);
        for (reason, count) in &info.reasons {
            add(self.reasons.entry(reason.clone()).or_default(), u64::from(*count));
        }
        if comes {
            self.ages.insert((info.oldest_ns, info.seq));
        } else {
            self.ages.remove(&(info.oldest_ns, info.seq));
            self.reasons.retain(|_, count| *count > 0);
            self.attempts.retain(|_, count| *count > 0);
        }
    }

    #[must_use]
    pub fn get(&self, seq: Seq) -> Option<&FrameInfo> {
        self.frames.get(&seq)
    }

    /// What was known of a frame before the log was read anew.
    pub fn resume(&mut self, before: &FrameInfo) {
        if let Some(info) = self.frames.get_mut(&before.seq) {
            (info.requested, info.not_before_ns) = (before.requested, before.not_before_ns);
            info.id = before.id;
            if info.id != info.seq {
                self.moved.insert(info.id, info.seq);
            }
        }
    }

    pub fn get_mut(&mut self, seq: Seq) -> Option<Mark<'_>> {
        self.frames.get_mut(&seq).map(Mark)
    }

    /// Where the frame is that is called so.
    #[must_use]
    pub fn resolve(&self, id: Seq) -> Option<Seq> {
        let moved = self.moved.get(&id).copied();
        moved.or_else(|| self.frames.contains_key(&id).then_some(id))
    }

    pub fn iter(&self) -> impl Iterator<Item = &FrameInfo> {
        self.frames.values()
    }

    #[must_use]
    pub fn oldest(&self) -> Option<&FrameInfo> {
        self.frames.values().next()
    }

    /// Those of the oldest segment in which any waits.
    #[must_use]
    pub fn oldest_segment(&self) -> Vec<&FrameInfo> {
        let segment = self.oldest().map(|info| info.place.segment);
        self.frames.values().take_while(|info| Some(info.place.segment) == segment).collect()
    }

    /// On the disk, of frames that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is to be sent again now, but for tenants that are `held`: first what was asked for, then
    /// what is due.
    #[must_use]
    pub fn due(&self, now_ns: i64, backoff: &Backoff, held: impl Fn(&str) -> bool) -> Option<Seq> {
        let ready = |info: &&FrameInfo| {
            !info.undecodable && info.not_before_ns <= now_ns && !held(&info.tenant)
        };
        let asked = self.frames.values().filter(ready).find(|info| info.requested > 0);
        let due = |info: &&FrameInfo| info.due_ns(backoff).is_some_and(|due| due <= now_ns);
        asked.or_else(|| self.frames.values().filter(ready).find(due)).map(|info| info.id)
    }

    #[must_use]
    pub fn stats(&self, attempts_max: u32) -> Stats {
        Stats {
            frames: self.frames.len() as u64,
            entries: self.entries,
            live_bytes: self.bytes,
            by_reason: self.reasons.clone(),
            oldest_ns: self.ages.first().map(|(oldest_ns, _)| *oldest_ns),
            exhausted: self.attempts.range(attempts_max..).map(|(_, entries)| entries).sum(),
            undecodable_frames: self.undecodable,
            ..Stats::default()
        }
    }
}

/// What of a frame may change while it waits: nothing that is counted.
pub struct Mark<'a>(&'a mut FrameInfo);

impl Mark<'_> {
    pub fn requested(&mut self, order: u64) {
        self.0.requested = order;
    }

    pub fn not_before(&mut self, ns: i64) {
        self.0.not_before_ns = ns;
    }
}

/// What is there, and what became of what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub frames: u64,
    pub entries: u64,
    /// Of the frames that wait.
    pub live_bytes: u64,
    /// On the disk, segments as a whole.
    pub bytes: u64,
    pub bytes_max: u64,
    /// Of that, what entries may take: the rest is for settling.
    pub usable_bytes_max: u64,
    pub by_reason: BTreeMap<Reason, u64>,
    /// When the oldest was refused first, Unix time in nanoseconds.
    pub oldest_ns: Option<i64>,
    /// Entries that are not sent again by themselves any more.
    pub exhausted: u64,
    /// Frames that are whole and not understood.
    pub undecodable_frames: u64,
    /// Entries that made room for others, since the start.
    pub dropped: u64,
    /// Frames that were found damaged, since the start, the start included.
    pub damaged_frames: u64,
}
