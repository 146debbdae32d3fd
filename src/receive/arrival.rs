//! Entries on their way from a request into the intake: checked, relabelled where they must be, and
//! given a timestamp where they have none.

use super::admit::{Door, Measure, Refusal, Refused};
use super::{json, lines, logs, otlp, push};
use crate::alone::{self, Standing};
use crate::batch::{Batch, put_metadata};
use crate::intake::Tenant;
use crate::labels::{self, Pair};
use io::format::Seq;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The streams that came in the last hour, by their hash. Of each tenant its own, as in Loki: one that
/// is known of another tenant may be one too many of this.
pub struct Streams {
    max: usize,
    seen: HashMap<u64, (Instant, Rc<Standing>)>,
    hasher: RandomState,
    /// When it was last full of streams that are still in use.
    full_at: Option<Instant>,
    /// By tenant.
    overflow: HashMap<String, Rc<Standing>>,
}

/// A stream that nobody pushed to for this long counts no more.
const STREAM_TIME_MAX: Duration = Duration::from_secs(3600);
/// How often a full table is looked over for such.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// The stream for the entries of streams beyond the limit, whose labels they have as metadata.
const OVERFLOW_LABEL: &str = "log_capturer_overflow";
/// Of more tenants, how theirs stands is forgotten: it is new again.
const OVERFLOW_TENANTS_MAX: usize = 1024;
const OVERFLOW_METADATA: &str = "overflow_labels";

impl Streams {
    pub fn new(max: usize) -> Streams {
        Streams {
            max,
            seen: HashMap::new(),
            hasher: RandomState::new(),
            full_at: None,
            overflow: HashMap::new(),
        }
    }

    /// Whether there is room for a stream with these labels, in whatever order: how it stands.
    pub fn admit(
        &mut self,
        tenant: &str,
        pairs: &[Pair<'_>],
        labels: &str,
    ) -> Option<Rc<Standing>> {
        let hash = pairs.iter().fold(self.hasher.hash_one(tenant), |sum, (name, value)| {
            sum.wrapping_add(self.hasher.hash_one((name, value.as_ref())))
        });
        let now = Instant::now();
        if let Some((seen, standing)) = self.seen.get_mut(&hash) {
            *seen = now;
            return Some(standing.clone());
        }
        if self.seen.len() >= self.max {
            if self.full_at.is_some_and(|at| now.duration_since(at) < LOOK_INTERVAL) {
                return None;
            }
            self.seen.retain(|_, (seen, _)| now.duration_since(*seen) < STREAM_TIME_MAX);
            if self.seen.len() >= self.max {
                self.full_at = Some(now);
                return None;
            }
        }
        let standing = Rc::new(Standing::new(labels));
        self.seen.insert(hash, (now, standing.clone()));
        Some(standing)
    }

    /// The stream that takes in those for which there is no room.
    fn overflow(&mut self, tenant: &str, labels: &str) -> Rc<Standing> {
        if !self.overflow.contains_key(tenant) {
            if self.overflow.len() >= OVERFLOW_TENANTS_MAX {
                self.overflow.clear();
            }
            self.overflow.insert(tenant.to_owned(), Rc::new(Standing::new(labels)));
        }
        self.overflow[tenant].clone()
    }
}

/// How far given timestamps may run ahead of a clock that was set back, or of many lines at once.
const AHEAD_NS_MAX: i64 = 30_000_000_000;

/// Gives timestamps: strictly increasing, and no two shards the same.
#[derive(Clone)]
pub struct Stamps<'a> {
    last_ns: &'a Cell<i64>,
    now_ns: i64,
    shard: i64,
    shards: i64,
}

impl Stamps<'_> {
    pub fn new(last_ns: &Cell<i64>, now_ns: i64, shard: u32, shards: u32) -> Stamps<'_> {
        Stamps { last_ns, now_ns, shard: shard.into(), shards: shards.into() }
    }

    fn next(&self) -> i64 {
        let after_last = self.last_ns.get() + 1;
        // Of a clock that was far ahead, nothing that Loki takes can be later than the last.
        let ahead = after_last > self.now_ns.saturating_add(AHEAD_NS_MAX);
        let least = if ahead { self.now_ns } else { self.now_ns.max(after_last) };
        let next = least + (self.shard - least).rem_euclid(self.shards);
        self.last_ns.set(next);
        next
    }
}

/// The entries of one request.
pub struct Arrival<'a> {
    door: &'a Door<'a>,
    fixed: &'a [(String, String)],
    streams: &'a mut Streams,
    stamps: Stamps<'a>,
    tenant: &'a mut Tenant,
    terms: Terms<'a>,
    /// Metadata of the entry at hand, encoded.
    metadata: Vec<u8>,
    lines: u64,
    bytes: u64,
    refused: Refused,
}

/// What entries are taken in by.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Its name.
    pub tenant: &'a str,
    pub block_raw_bytes: usize,
    /// Up to here every sink has everything of the tenant's.
    pub acked: Seq,
    pub alone: &'a alone::Limits,
}

/// A stream that may come in, under these labels.
struct Admitted {
    labels: String,
    standing: Rc<Standing>,
    /// Its own, where it goes into the overflow stream.
    overflow: Option<String>,
}

impl<'a> Arrival<'a> {
    pub fn new(
        door: &'a Door<'a>,
        fixed: &'a [(String, String)],
        streams: &'a mut Streams,
        stamps: Stamps<'a>,
        tenant: &'a mut Tenant,
        terms: Terms<'a>,
    ) -> Arrival<'a> {
        Arrival {
            door,
            fixed,
            streams,
            stamps,
            tenant,
            terms,
            metadata: Vec::new(),
            lines: 0,
            bytes: 0,
            refused: Refused::default(),
        }
    }

    /// How many lines and bytes of lines came in, and what did not.
    pub fn done(self) -> (u64, u64, Refused) {
        (self.lines, self.bytes, self.refused)
    }

    fn admit<'p>(&mut self, mut pairs: Vec<Pair<'p>>) -> Result<Admitted, Refusal>
    where
        'a: 'p,
    {
        pairs.retain(|(name, value)| {
            // Loki takes an empty label for none.
            !value.is_empty() && self.fixed.iter().all(|(fixed, _)| fixed != name)
        });
        let fixed = self.fixed.iter();
        pairs.extend(fixed.map(|(name, value)| (name.as_str(), Cow::from(value.as_str()))));
        pairs.sort();
        let labels = labels::render_pairs(&pairs);
        self.door.labels(&labels, &pairs)?;
        if let Some(standing) = self.streams.admit(self.terms.tenant, &pairs, &labels) {
            return Ok(Admitted { labels, standing, overflow: None });
        }
        let mut common: Vec<Pair<'_>> = vec![(OVERFLOW_LABEL, "true".into())];
        let fixed = self.fixed.iter();
        common.extend(fixed.map(|(name, value)| (name.as_str(), Cow::from(value.as_str()))));
        common.sort();
        let common = labels::render_pairs(&common);
        let standing = self.streams.overflow(self.terms.tenant, &common);
        Ok(Admitted { labels: common, standing, overflow: Some(labels) })
    }

    pub fn encoded_stream(&mut self, stream: &push::Stream<'_>) {
        let entries = stream.encoded().map(|(entry, measure)| (measure, Entry::Encoded(entry)));
        self.stream(stream.pairs.clone(), stream.entries, entries);
    }

    pub fn json_stream(&mut self, stream: &json::Stream<'_, '_>) {
        let pairs = stream.labels.iter().map(|(name, value)| (*name, Cow::from(*value)));
        let entries = stream.entries().map(|entry| (entry.measure(), Entry::Json(entry)));
        self.stream(pairs.collect(), stream.len(), entries);
    }

    /// Lines that are given their timestamps here.
    pub fn lines(&mut self, pairs: Vec<Pair<'_>>, text: &[u8]) {
        let stamps = self.stamps.clone();
        let entries = lines::of(text).map(|line| {
            let stamp_ns = stamps.next();
            let measure = Measure { stamp_ns, line_bytes: line.len(), ..Measure::default() };
            (measure, Entry::Line(line))
        });
        self.stream(pairs, lines::of(text).count(), entries);
    }

    pub fn log(&mut self, entry: logs::Entry<'_>) {
        let stamp_ns = entry.stamp_ns.unwrap_or_else(|| self.stamps.next());
        let measure = Measure { stamp_ns, line_bytes: entry.line.len(), ..Measure::default() };
        let entries = std::iter::once((measure, Entry::Line(entry.line.as_bytes())));
        self.stream(entry.labels, 1, entries);
    }

    /// The entries of an export, stream by stream.
    pub fn export(&mut self, export: &otlp::Export<'_>) {
        for stream in &export.streams {
            let pairs = stream.labels.iter().map(|(name, value)| (name.as_str(), value.into()));
            let stamps = self.stamps.clone();
            let entries = export.records(stream).map(|record| {
                let stamp_ns = record.stamp_ns.unwrap_or_else(|| stamps.next());
                let measure = Measure { stamp_ns, ..record.measure };
                (measure, Entry::Made(record.line, record.metadata))
            });
            self.stream(pairs.collect(), export.count(stream), entries);
        }
    }

    /// `count` entries of one stream; in elements no larger than a block.
    fn stream<'p, 'b>(
        &mut self,
        pairs: Vec<Pair<'p>>,
        count: usize,
        entries: impl Iterator<Item = (Measure, Entry<'b, 'b>)>,
    ) where
        'a: 'p,
    {
        if count == 0 {
            return;
        }
        let admitted = match self.admit(pairs) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refused.add(&refusal, count as u64),
        };
        let mut entries = entries.peekable();
        let Terms { block_raw_bytes, acked, alone, .. } = self.terms;
        let standing = admitted.standing.clone();
        while let Some((first, _)) = entries.peek() {
            let now_ns = self.stamps.now_ns;
            // Whether it is late shows before anything of it is put anywhere.
            standing.is_at(first.stamp_ns, alone);
            let apart = standing.travels_alone(acked, now_ns, alone).then_some(&standing);
            let (tenant, mut into) = (
                &mut *self.tenant,
                Into {
                    door: self.door,
                    admitted: &admitted,
                    metadata: &mut self.metadata,
                    refused: &mut self.refused,
                    taken: Took::default(),
                },
            );
            tenant.put(apart, |pending| {
                into.element(pending.batch(), now_ns, block_raw_bytes, &mut entries);
                pending.cut(block_raw_bytes);
            });
            let took = into.taken;
            standing.came(took.bytes, took.stamps, now_ns, alone);
            self.lines += took.lines;
            self.bytes += took.bytes;
        }
    }
}

/// What one element took in.
#[derive(Clone, Copy)]
struct Took {
    lines: u64,
    bytes: u64,
    stamps: (i64, i64),
}

impl Default for Took {
    fn default() -> Took {
        Took { lines: 0, bytes: 0, stamps: (i64::MAX, i64::MIN) }
    }
}

/// Where the entries of a stream go, and by what they are judged.
struct Into<'s> {
    door: &'s Door<'s>,
    admitted: &'s Admitted,
    metadata: &'s mut Vec<u8>,
    refused: &'s mut Refused,
    taken: Took,
}

impl Into<'_> {
    /// One element of entries, no larger than a block.
    fn element<'b>(
        &mut self,
        batch: &mut Batch,
        now_ns: i64,
        block_raw_bytes: usize,
        entries: &mut impl Iterator<Item = (Measure, Entry<'b, 'b>)>,
    ) {
        let room = block_raw_bytes.saturating_sub(batch.raw_bytes());
        let mut element = batch.element(&self.admitted.labels, now_ns);
        let mut taken = 0;
        while taken <= room
            && let Some((mut measure, entry)) = entries.next()
        {
            if let Some(labels) = &self.admitted.overflow {
                measure.metadata_bytes += OVERFLOW_METADATA.len() + labels.len();
                measure.metadata_pairs += 1;
            }
            if let Err(refusal) = self.door.entry(&self.admitted.labels, &measure) {
                self.refused.add(&refusal, 1);
                continue;
            }
            self.metadata.clear();
            match &entry {
                Entry::Line(_) => {}
                Entry::Encoded(entry) if entry.plain => {}
                Entry::Encoded(entry) => {
                    entry.metadata().for_each(|(n, v)| put_metadata(self.metadata, n, v));
                }
                Entry::Json(entry) => {
                    entry.metadata().for_each(|(n, v)| put_metadata(self.metadata, n, v));
                }
                Entry::Made(_, metadata) => {
                    metadata.iter().for_each(|part| self.metadata.extend_from_slice(part));
                }
            }
            if let Some(labels) = &self.admitted.overflow {
                put_metadata(self.metadata, OVERFLOW_METADATA, labels);
            }
            let stamp_ns = measure.stamp_ns;
            match &entry {
                Entry::Encoded(entry) if entry.plain => {
                    element.push_encoded(stamp_ns, entry.bytes, self.metadata);
                }
                // Without what is not known here, which Loki might know, and refuse.
                Entry::Encoded(entry) => element.push(stamp_ns, entry.line(), self.metadata),
                Entry::Line(line) | Entry::Made(line, _) => {
                    element.push(stamp_ns, line, self.metadata);
                }
                Entry::Json(entry) => {
                    element.push(stamp_ns, entry.line.as_bytes(), self.metadata);
                }
            }
            taken += measure.line_bytes + measure.metadata_bytes;
            let Took { lines, bytes, stamps } = &mut self.taken;
            *lines += 1;
            *bytes += measure.line_bytes as u64;
            *stamps = (stamps.0.min(stamp_ns), stamps.1.max(stamp_ns));
        }
    }
}

/// An entry as it came.
enum Entry<'t, 'a> {
    Encoded(push::Entry<'a>),
    Line(&'a [u8]),
    Json(json::Entry<'t, 'a>),
    /// Its line and its metadata, which is encoded: its own, its resource's and its scope's.
    Made(&'a [u8], [&'a [u8]; 3]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::admit;
    use std::sync::Arc;

    #[test]
    fn no_two_shards_give_the_same_timestamp() {
        let mut all = Vec::new();
        for shard in 0..3 {
            let last = Cell::new(0);
            let mut given = Vec::new();
            for now in [1000, 1000, 900, 1001, 5000] {
                given.push(Stamps::new(&last, now, shard, 3).next());
            }
            assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
            assert!(given[4] >= 5000);
            all.extend(given);
        }
        let last = Cell::new(0);
        let at = |now| Stamps::new(&last, now, 0, 1).next();
        let second = 1_000_000_000;
        assert_eq!(at(100 * second), 100 * second);
        assert_eq!(at(80 * second), 100 * second + 1, "a small step back");
        assert_eq!(at(60 * second), 60 * second, "an hour may not be waited for");
        all.sort_unstable();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    }

    #[test]
    fn streams_beyond_the_limit_are_told() {
        let mut streams = Streams::new(2);
        let one = |value: &'static str| vec![("a", Cow::from(value))];
        let admit =
            |streams: &mut Streams, pairs: &[Pair<'_>]| streams.admit("", pairs, "").is_some();
        assert!(admit(&mut streams, &one("1")) && admit(&mut streams, &one("2")));
        assert!(!admit(&mut streams, &one("3")));
        assert!(admit(&mut streams, &one("1")), "known ones go on");
        let (ab, ba) =
            ([("a", "1".into()), ("b", "2".into())], [("b", "2".into()), ("a", "1".into())]);
        let mut streams = Streams::new(1);
        assert!(
            admit(&mut streams, &ab) && admit(&mut streams, &ba),
            "the order of labels is nothing"
        );
    }

    #[test]
    fn a_stream_that_one_tenant_has_is_new_of_another() {
        let mut streams = Streams::new(10);
        let pairs = [("a", "1".into())];
        let mut admit = |tenant| streams.admit(tenant, &pairs, "{a=\"1\"}").unwrap();
        let limits = alone::Limits { stream_rate: 1, late_ns: 0, heat: Arc::default() };
        admit("one").known(0);
        assert!(!admit("one").travels_alone(Seq::NONE, 0, &limits));
        assert!(admit("other").travels_alone(Seq::NONE, 0, &limits));
        let overflow = streams.overflow("one", "{}");
        assert!(Rc::ptr_eq(&overflow, &streams.overflow("one", "{}")));
        assert!(!Rc::ptr_eq(&overflow, &streams.overflow("other", "{}")));
    }

    #[test]
    fn labels_that_become_metadata_count_as_such() {
        let limits = admit::Limits {
            line_bytes_max: 100,
            label_names_max: 9,
            label_name_bytes_max: 100,
            label_value_bytes_max: 100,
            metadata_bytes_max: OVERFLOW_METADATA.len() + "{a=\"2\"}".len(),
            metadata_pairs_max: 1,
            age_max: STREAM_TIME_MAX,
            future_max: STREAM_TIME_MAX,
        };
        let door = Door::new(&limits, 0);
        let mut streams = Streams::new(1);
        let (mut tenant, last_ns) = (Tenant::default(), Cell::new(0));
        let alone = alone::Limits { stream_rate: 1 << 20, late_ns: i64::MAX, heat: Arc::default() };
        let terms = Terms { tenant: "", block_raw_bytes: 1000, acked: Seq::NONE, alone: &alone };
        let stamps = Stamps::new(&last_ns, 0, 0, 1);
        let mut arrival = Arrival::new(&door, &[], &mut streams, stamps, &mut tenant, terms);
        for value in ["1", "2", "33"] {
            arrival.lines(vec![("a", value.into())], b"line");
        }
        let (lines, _, refused) = arrival.done();
        assert_eq!((lines, refused.entries), (2, 1));
        assert_eq!(refused.reasons, [("structured_metadata_too_large", 1)]);
    }
}
