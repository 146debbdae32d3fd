//! Which streams travel alone: in frames of their own, and so in pushes that hold nothing else.
//!
//! Of a push with several streams Loki reports what its ingesters say of the last one only: a stream
//! that is over a limit of its own, in front of one that is not, is dropped behind a 204. So a push
//! that mixes streams holds only streams that are under no such limit. The same holds for several
//! elements of one stream: one that travels alone goes as one ([`crate::part::merge`]). It does while
//! it is
//!
//! - new, or new again after a rest: it may be one more than Loki allows; until a frame of it is acked;
//! - hot: it comes at more than half of what Loki takes of a stream, or Loki has just refused it for its
//!   rate; what one shard sees of that holds for all of them ([`Heat`]);
//! - late: it goes back behind what Loki may have of it, and Loki takes it only so far back.
//!
//! It travels with others again once everything that was sent of it alone is acked.

use crate::part::stream_key;
use io::format::Seq;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// What makes a stream travel alone.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes a second that Loki takes of a stream.
    pub stream_rate: u64,
    /// A step back by more than this is late.
    pub late_ns: i64,
    pub heat: Arc<Heat>,
}

/// Until when streams are hot, on whatever shard.
///
/// A shard sees its share of a stream only, and that differs from second to second where a stream comes
/// by many connections. Of all shares in a second one is at least the mean, so a stream that is too fast
/// in all is so on some shard: that one says it here, and none of them mixes the stream with others.
///
/// Streams share a slot where their keys do: then one of them travels alone in vain.
#[derive(Debug)]
pub struct Heat {
    until_ns: Box<[AtomicI64]>,
}

const HEAT_SLOTS: u64 = 4096;
/// How long a stream is hot that came too fast.
const HOT_NS: i64 = 10 * WINDOW_NS;
/// How long one is that the sink refused for its rate: others than this process may be what makes it too
/// fast.
const REFUSED_NS: i64 = 60 * WINDOW_NS;

impl Default for Heat {
    fn default() -> Heat {
        Heat { until_ns: (0..HEAT_SLOTS).map(|_| AtomicI64::new(i64::MIN)).collect() }
    }
}

impl Heat {
    /// The sink refused this stream for its rate.
    pub fn refused(&self, key: u64, now_ns: i64) {
        self.hot(key, now_ns, REFUSED_NS);
    }

    fn hot(&self, key: u64, now_ns: i64, for_ns: i64) {
        let slot = self.slot(key);
        let until_ns = now_ns.saturating_add(for_ns);
        let rest = until_ns.saturating_sub(slot.load(Ordering::Relaxed));
        // The slot is not written each time: all shards read it. Where the clock went back, it is.
        if !(-REFUSED_NS..WINDOW_NS).contains(&rest) {
            slot.store(until_ns, Ordering::Relaxed);
        }
    }

    fn is_hot(&self, key: u64, now_ns: i64) -> bool {
        let rest = self.slot(key).load(Ordering::Relaxed).saturating_sub(now_ns);
        (1..=REFUSED_NS).contains(&rest)
    }

    fn slot(&self, key: u64) -> &AtomicI64 {
        &self.until_ns[usize::try_from(key % HEAT_SLOTS).expect("a small number")]
    }
}

/// How one stream stands.
#[derive(Debug)]
pub struct Standing {
    /// Of its labels.
    pub key: u64,
    /// Not known to be taken.
    fresh: Cell<bool>,
    /// Lines wait to be sealed alone.
    waiting: Cell<bool>,
    /// The last frame that was sealed alone.
    last: Cell<Seq>,
    newest_ns: Cell<i64>,
    /// When lines of it came last.
    seen_ns: Cell<i64>,
    window_ns: Cell<i64>,
    window_bytes: Cell<u64>,
}

/// The rate is looked at this often.
const WINDOW_NS: i64 = 1_000_000_000;
/// After a longer rest a stream is new again: Loki forgets those that rest for 30 minutes
/// (chunk_idle_period), and then counts them anew.
pub const REST_NS_MAX: i64 = 15 * 60 * 1_000_000_000;

impl Standing {
    #[must_use]
    pub fn new(labels: &str) -> Standing {
        Standing {
            key: stream_key(labels),
            fresh: Cell::new(true),
            waiting: Cell::new(false),
            last: Cell::new(Seq::NONE),
            newest_ns: Cell::new(i64::MIN),
            seen_ns: Cell::new(i64::MIN),
            window_ns: Cell::new(i64::MIN),
            window_bytes: Cell::new(0),
        }
    }

    /// It was sent before, by an earlier run: last at that time.
    pub fn known(&self, seen_ns: i64) {
        self.seen_ns.set(seen_ns);
        self.fresh.set(false);
    }

    /// Whether what comes now has to go into frames of its own; `acked`: everything up to here is.
    #[must_use]
    pub fn travels_alone(&self, acked: Seq, now_ns: i64, limits: &Limits) -> bool {
        if now_ns.saturating_sub(self.seen_ns.get()) > REST_NS_MAX {
            self.new_again();
        }
        let under_way = self.waiting.get() || self.last.get() > acked;
        if !under_way && self.last.get() > Seq::NONE {
            self.fresh.set(false);
        }
        let hot = || limits.heat.is_hot(self.key, now_ns);
        (self.fresh.get() || under_way || hot()) && !io::planted!(NeverAlone)
    }

    /// Lines with this timestamp come.
    pub fn is_at(&self, oldest_ns: i64, limits: &Limits) {
        if oldest_ns < self.newest_ns.get().saturating_sub(limits.late_ns) {
            self.new_again();
        }
    }

    /// So many bytes of lines come at once: before it is known where they are put.
    pub fn brings(&self, bytes: u64, now_ns: i64, limits: &Limits) {
        if bytes > limits.stream_rate / 2 {
            limits.heat.hot(self.key, now_ns, HOT_NS);
        }
    }

    /// So many bytes of lines came, with timestamps in this range.
    pub fn came(
        &self,
        bytes: u64,
        (oldest_ns, newest_ns): (i64, i64),
        now_ns: i64,
        limits: &Limits,
    ) {
        self.is_at(oldest_ns, limits);
        self.seen_ns.set(now_ns);
        self.newest_ns.set(self.newest_ns.get().max(newest_ns));
        let passed = now_ns.saturating_sub(self.window_ns.get());
        if !(0..WINDOW_NS).contains(&passed) {
            self.window_ns.set(now_ns);
            self.window_bytes.set(0);
        }
        self.window_bytes.set(self.window_bytes.get() + bytes);
        self.brings(self.window_bytes.get(), now_ns, limits);
    }

    fn new_again(&self) {
        self.fresh.set(true);
        self.last.set(Seq::NONE);
    }

    /// Lines of it were put where they are sealed alone.
    pub fn waits(&self) {
        self.waiting.set(true);
    }

    /// They became this frame, or found no room.
    pub fn sealed(&self, seq: Option<Seq>) {
        self.waiting.set(false);
        if let Some(seq) = seq {
            self.last.set(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { stream_rate: 1000, late_ns: 100, heat: Arc::default() }
    }

    const SECOND: i64 = WINDOW_NS;

    #[test]
    fn a_new_stream_travels_alone_until_it_is_acked() {
        let limits = limits();
        let stream = Standing::new("{a=\"1\"}");
        assert_ne!(stream.key, Standing::new("{a=\"2\"}").key);
        assert!(stream.travels_alone(Seq(0), 0, &limits));
        stream.came(1, (0, 0), 0, &limits);
        stream.waits();
        stream.sealed(Some(Seq(5)));
        assert!(stream.travels_alone(Seq(4), 0, &limits));
        assert!(!stream.travels_alone(Seq(5), 0, &limits));
        assert!(!stream.travels_alone(Seq(5), 0, &limits), "and then no more");
        let stream = Standing::new("{a=\"1\"}");
        stream.known(0);
        assert!(!stream.travels_alone(Seq(0), 0, &limits));
    }

    #[test]
    fn after_a_rest_a_stream_is_new_again() {
        let limits = limits();
        let stream = Standing::new("{}");
        stream.known(1000);
        assert!(!stream.travels_alone(Seq(0), 1000 + REST_NS_MAX, &limits));
        assert!(stream.travels_alone(Seq(0), 1001 + REST_NS_MAX, &limits));
        stream.came(1, (0, 0), 2 * REST_NS_MAX, &limits);
        stream.sealed(Some(Seq(2)));
        assert!(stream.travels_alone(Seq(1), 2 * REST_NS_MAX, &limits));
        assert!(!stream.travels_alone(Seq(2), 3 * REST_NS_MAX, &limits));
    }

    #[test]
    fn one_that_found_no_room_is_still_new() {
        let limits = limits();
        let stream = Standing::new("{}");
        stream.waits();
        stream.sealed(None);
        assert!(stream.travels_alone(Seq(100), 0, &limits));
    }

    #[test]
    fn a_hot_stream_travels_alone_until_it_cooled_down_and_is_acked() {
        let limits = limits();
        let stream = Standing::new("{}");
        stream.known(0);
        let came = |bytes, at| stream.came(bytes, (at, at), at, &limits);
        came(400, SECOND);
        assert!(!stream.travels_alone(Seq(1), 0, &limits));
        came(400, SECOND + 5);
        assert!(stream.travels_alone(Seq(1), 0, &limits), "at once, not a second later");
        stream.sealed(Some(Seq(7)));
        came(10, 2 * SECOND + 5);
        let cool = SECOND + 5 + HOT_NS;
        assert!(stream.travels_alone(Seq(9), cool - 1, &limits), "hot for some time");
        assert!(stream.travels_alone(Seq(6), cool, &limits), "some of it is under way");
        assert!(!stream.travels_alone(Seq(7), cool, &limits));
    }

    #[test]
    fn what_comes_at_once_makes_it_hot_before_it_came() {
        let limits = limits();
        let stream = Standing::new("{}");
        stream.known(0);
        stream.brings(500, 0, &limits);
        assert!(!stream.travels_alone(Seq(1), 0, &limits));
        stream.brings(501, 0, &limits);
        assert!(stream.travels_alone(Seq(1), 0, &limits));
    }

    #[test]
    fn a_late_stream_travels_alone_until_that_is_acked() {
        let limits = limits();
        let stream = Standing::new("{}");
        stream.known(0);
        stream.came(1, (500, 1000), 0, &limits);
        stream.came(1, (900, 950), 0, &limits);
        assert!(!stream.travels_alone(Seq(3), 0, &limits));
        stream.came(1, (899, 1001), 0, &limits);
        assert!(stream.travels_alone(Seq(3), 0, &limits));
        stream.sealed(Some(Seq(4)));
        assert!(!stream.travels_alone(Seq(4), 0, &limits));
    }

    /// Whichever shard sees it, and whether in what comes or in what the sink says.
    #[test]
    fn a_stream_that_is_hot_is_so_on_every_shard() {
        let limits = limits();
        let shards = [Standing::new("{}"), Standing::new("{}")];
        let other = Standing::new("{a=\"1\"}");
        [&shards[0], &shards[1], &other].into_iter().for_each(|stream| stream.known(0));
        let alone = |now_ns| {
            let of = |stream: &Standing| stream.travels_alone(Seq(1), now_ns, &limits);
            [of(&shards[0]), of(&shards[1]), of(&other)]
        };
        assert_eq!(alone(SECOND), [false; 3]);
        shards[0].came(501, (SECOND, SECOND), SECOND, &limits);
        assert_eq!(alone(SECOND), [true, true, false]);
        assert_eq!(alone(SECOND + HOT_NS), [false; 3]);
        limits.heat.refused(other.key, 2 * HOT_NS);
        assert_eq!(alone(2 * HOT_NS), [false, false, true]);
        // What comes meanwhile does not make that shorter.
        other.came(501, (2 * HOT_NS, 2 * HOT_NS), 2 * HOT_NS, &limits);
        assert_eq!(alone(2 * HOT_NS + REFUSED_NS - 1), [false, false, true]);
        assert_eq!(alone(2 * HOT_NS + REFUSED_NS), [false; 3]);
        // The clock went back by far: nothing is hot for that long, and what is hot then is.
        limits.heat.refused(other.key, 20 * REFUSED_NS);
        assert_eq!(alone(10 * REFUSED_NS), [false; 3]);
        other.came(501, (0, 0), 10 * REFUSED_NS, &limits);
        assert_eq!(alone(10 * REFUSED_NS), [false, false, true]);
    }
}
