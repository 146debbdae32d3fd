//! A stream of Loki's: its labels, and the timestamp given last.

use crate::alone::Standing;
use std::collections::HashMap;

/// Which stream of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(usize);

/// Timestamps of a stream strictly increase, whatever the clock does and whoever restarts: two
/// genuine lines never look like one sent twice.
#[derive(Debug)]
pub struct Stream {
    pub labels: String,
    last_ns: i64,
    pub standing: Standing,
}

impl Stream {
    /// The first of a run of timestamps, one nanosecond apart: now, or right after the last one.
    pub fn next_ns(&self, now_ns: i64) -> i64 {
        now_ns.max(self.last_ns + 1)
    }

    /// `count` timestamps were given from `first_ns` on.
    pub fn gave(&mut self, first_ns: i64, count: u32) {
        assert!(first_ns > self.last_ns);
        self.last_ns = first_ns + i64::from(count) - 1;
    }

    /// The last timestamp given, here or to a stream that is gone; 0 before the first.
    #[must_use]
    pub fn last_ns(&self) -> i64 {
        self.last_ns
    }

    /// A timestamp that an earlier run gave, maybe to another file.
    pub fn not_before(&mut self, last_ns: i64) {
        self.last_ns = self.last_ns.max(last_ns);
    }

    /// Likewise, and the stream goes on from there.
    pub fn resume(&mut self, last_ns: i64) {
        self.not_before(last_ns);
        self.standing.known(last_ns);
    }
}

/// The streams of a shard, shared by sources with equal labels. Counted, so that the streams of
/// files long gone do not pile up.
#[derive(Debug, Default)]
pub struct Streams {
    streams: Vec<(Stream, usize)>,
    free: Vec<usize>,
    by_labels: HashMap<String, usize>,
    /// The last timestamp of those that are gone: one of them may come again, and the clock have gone
    /// back meanwhile.
    gone_ns: i64,
}

impl Streams {
    /// The stream with these labels, and whether it is new.
    pub fn acquire(&mut self, labels: String) -> (StreamId, bool) {
        if let Some(at) = self.by_labels.get(&labels) {
            self.streams[*at].1 += 1;
            return (StreamId(*at), false);
        }
        let standing = Standing::new(&labels);
        let stream = (Stream { labels: labels.clone(), last_ns: self.gone_ns, standing }, 1);
        let at = match self.free.pop() {
            Some(at) => {
                self.streams[at] = stream;
                at
            }
            None => {
                self.streams.push(stream);
                self.streams.len() - 1
            }
        };
        self.by_labels.insert(labels, at);
        (StreamId(at), true)
    }

    pub fn release(&mut self, id: StreamId) {
        let (stream, users) = &mut self.streams[id.0];
        *users -= 1;
        if *users == 0 {
            self.gone_ns = self.gone_ns.max(stream.last_ns);
            self.by_labels.remove(&stream.labels);
            self.free.push(id.0);
        }
    }

    pub fn get_mut(&mut self, id: StreamId) -> &mut Stream {
        &mut self.streams[id.0].0
    }

    #[must_use]
    pub fn get(&self, id: StreamId) -> &Stream {
        &self.streams[id.0].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_increase_when_the_clock_does_not() {
        let mut streams = Streams::default();
        let (id, _) = streams.acquire("{a=\"b\"}".into());
        let stream = streams.get_mut(id);
        stream.gave(stream.next_ns(1_000), 3);
        assert_eq!(stream.last_ns(), 1_002);
        assert_eq!(stream.next_ns(500), 1_003, "the clock went back");
        assert_eq!(stream.next_ns(9_000), 9_000);
        stream.resume(20_000);
        assert_eq!(stream.next_ns(9_000), 20_001, "an earlier run was ahead");
    }

    #[test]
    fn equal_labels_are_one_stream_until_nobody_uses_it() {
        let mut streams = Streams::default();
        let (a, b) = (streams.acquire("x".into()).0, streams.acquire("x".into()).0);
        assert_eq!(a, b);
        streams.get_mut(a).resume(7);
        streams.release(a);
        assert_eq!(streams.get(b).last_ns(), 7);
        streams.release(b);
        let (c, _) = streams.acquire("y".into());
        assert_eq!(c, a, "the place is used again");
        assert_eq!(streams.get(c).next_ns(3), 8, "and no timestamp, though the clock went back");
    }
}
