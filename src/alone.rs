//! Which streams travel alone: in frames of their own, and so in pushes that hold nothing else.
//!
//! Of a push with several streams Loki reports what its ingesters say of the last one only: a stream
//! that is over a limit of its own, in front of one that is not, is dropped behind a 204. So a push
//! that mixes streams holds only streams that are under no such limit. The same holds for several
//! elements of one stream: one that travels alone goes as one ([`crate::part::merge`]). It does while
//! it is
//!
//! - new, or new again after a rest: it may be one more than Loki allows; until a frame of it is acked;
//! - hot: it comes at more than half of what Loki takes of a stream;
//! - late: it goes back behind what Loki may have of it, and Loki takes it only so far back.
//!
//! It travels with others again once everything that was sent of it alone is acked.

use crate::part::stream_key;
use io::format::Seq;
use std::cell::Cell;

/// What makes a stream travel alone.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes a second that Loki takes of a stream.
    pub stream_rate: u64,
    /// A step back by more than this is late.
    pub late_ns: i64,
}

/// How one stream stands.
#[derive(Debug)]
pub struct Standing {
    /// Of its labels.
    pub key: u64,
    /// Not known to be taken.
    fresh: Cell<bool>,
    hot: Cell<bool>,
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
            hot: Cell::new(false),
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
    pub fn travels_alone(&self, acked: Seq, now_ns: i64) -> bool {
        if now_ns.saturating_sub(self.seen_ns.get()) > REST_NS_MAX {
            self.new_again();
        }
        let under_way = self.waiting.get() || self.last.get() > acked;
        if !under_way && self.last.get() > Seq::NONE {
            self.fresh.set(false);
        }
        (self.fresh.get() || self.hot.get() || under_way) && !io::planted!(NeverAlone)
    }

    /// Lines with this timestamp come.
    pub fn is_at(&self, oldest_ns: i64, limits: &Limits) {
        if oldest_ns < self.newest_ns.get().saturating_sub(limits.late_ns) {
            self.new_again();
        }
    }

    /// So many bytes of lines come at once: before it is known where they are put.
    pub fn brings(&self, bytes: u64, limits: &Limits) {
        if bytes > limits.stream_rate / 2 {
            self.hot.set(true);
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
            let second = passed.clamp(WINDOW_NS, 10 * WINDOW_NS).cast_unsigned();
            let rate = u128::from(self.window_bytes.get()) * u128::from(WINDOW_NS.cast_unsigned());
            self.hot.set(rate / u128::from(second) > u128::from(limits.stream_rate / 2));
            self.window_ns.set(now_ns);
            self.window_bytes.set(0);
        }
        self.window_bytes.set(self.window_bytes.get() + bytes);
        if self.window_bytes.get() > limits.stream_rate / 2 {
            self.hot.set(true);
        }
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

    const LIMITS: Limits = Limits { stream_rate: 1000, late_ns: 100 };
    const SECOND: i64 = WINDOW_NS;

    #[test]
    fn a_new_stream_travels_alone_until_it_is_acked() {
        let stream = Standing::new("{a=\"1\"}");
        assert_ne!(stream.key, Standing::new("{a=\"2\"}").key);
        assert!(stream.travels_alone(Seq(0), 0));
        stream.came(1, (0, 0), 0, &LIMITS);
        stream.waits();
        stream.sealed(Some(Seq(5)));
        assert!(stream.travels_alone(Seq(4), 0));
        assert!(!stream.travels_alone(Seq(5), 0));
        assert!(!stream.travels_alone(Seq(5), 0), "and then no more");
        let stream = Standing::new("{a=\"1\"}");
        stream.known(0);
        assert!(!stream.travels_alone(Seq(0), 0));
    }

    #[test]
    fn after_a_rest_a_stream_is_new_again() {
        let stream = Standing::new("{}");
        stream.known(1000);
        assert!(!stream.travels_alone(Seq(0), 1000 + REST_NS_MAX));
        assert!(stream.travels_alone(Seq(0), 1001 + REST_NS_MAX));
        stream.came(1, (0, 0), 2 * REST_NS_MAX, &LIMITS);
        stream.sealed(Some(Seq(2)));
        assert!(stream.travels_alone(Seq(1), 2 * REST_NS_MAX));
        assert!(!stream.travels_alone(Seq(2), 3 * REST_NS_MAX));
    }

    #[test]
    fn one_that_found_no_room_is_still_new() {
        let stream = Standing::new("{}");
        stream.waits();
        stream.sealed(None);
        assert!(stream.travels_alone(Seq(100), 0));
    }

    #[test]
    fn a_hot_stream_travels_alone_until_it_cooled_down_and_is_acked() {
        let stream = Standing::new("{}");
        stream.known(0);
        let came = |bytes, at| stream.came(bytes, (at, at), at, &LIMITS);
        came(400, SECOND);
        assert!(!stream.travels_alone(Seq(1), 0));
        came(400, SECOND + 5);
        assert!(stream.travels_alone(Seq(1), 0), "at once, not a second later");
        stream.sealed(Some(Seq(7)));
        came(10, 2 * SECOND + 5);
        assert!(stream.travels_alone(Seq(9), 0), "hot until a second passed without");
        came(10, 3 * SECOND + 6);
        assert!(stream.travels_alone(Seq(6), 0) && !stream.travels_alone(Seq(7), 0));
    }

    #[test]
    fn what_comes_at_once_makes_it_hot_before_it_came() {
        let stream = Standing::new("{}");
        stream.known(0);
        stream.brings(500, &LIMITS);
        assert!(!stream.travels_alone(Seq(1), 0));
        stream.brings(501, &LIMITS);
        assert!(stream.travels_alone(Seq(1), 0));
    }

    #[test]
    fn a_late_stream_travels_alone_until_that_is_acked() {
        let stream = Standing::new("{}");
        stream.known(0);
        stream.came(1, (500, 1000), 0, &LIMITS);
        stream.came(1, (900, 950), 0, &LIMITS);
        assert!(!stream.travels_alone(Seq(3), 0));
        stream.came(1, (899, 1001), 0, &LIMITS);
        assert!(stream.travels_alone(Seq(3), 0));
        stream.sealed(Some(Seq(4)));
        assert!(!stream.travels_alone(Seq(4), 0));
    }
}
