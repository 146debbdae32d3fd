//! One line, sent to a sink as lines are, and asked for again.

use crate::batch::Batch;
use crate::handoff::Frame;
use crate::part::stream_key;
use crate::push::{Client, Push, Reply};
use crate::track::Piece;
use crate::verdict::Answer;
use perf::clock::unix_ns;
use std::sync::Arc;
use std::time::Duration;

/// The stream of all these lines.
pub const LABELS: &str = "{job=\"log-capturer-preflight\"}";
/// Loki gives a line soon after it has it.
const QUERIES_MAX: u32 = 10;
const QUERY_INTERVAL: Duration = Duration::from_millis(500);
/// What clocks may differ by, for a query.
const QUERY_RANGE_NS: i64 = 3_600_000_000_000;

/// A line that is like no other.
pub struct Line {
    text: String,
    stamp_ns: i64,
}

impl Line {
    pub fn new() -> Line {
        let (uname, stamp_ns) = (rustix::system::uname(), unix_ns());
        let (host, pid) = (uname.nodename().to_string_lossy(), std::process::id());
        let text = format!("log-capturer preflight host={host} pid={pid} at={stamp_ns}");
        Line { text, stamp_ns }
    }

    pub fn push(&self, client: &Client, tenant: &str) -> Reply {
        let mut batch = Batch::default();
        let mut element = batch.element(LABELS, self.stamp_ns);
        element.push(self.stamp_ns, self.text.as_bytes(), &[]);
        drop(element);
        let block = batch.compress();
        let frame = Frame {
            tenant: tenant.into(),
            stream: stream_key(LABELS),
            oldest_arrival_ns: self.stamp_ns,
            oldest_stamp_ns: block.oldest_stamp_ns,
            raw_len: block.raw_len,
            entries: block.entries,
            body: Arc::new(block.body),
            ..Frame::default()
        };
        client.post(&Push::new(tenant.into(), &[Piece::of(frame)]))
    }

    /// The last answer, and whether the line is in it.
    pub fn query(&self, client: &Client, tenant: &str) -> (Answer, bool) {
        let path = self.query_path();
        for tries in 1.. {
            let answer = client.get(&path, tenant).answer;
            let (is_there, again) = match &answer {
                Answer::Status { code: 200, text, .. } if text.contains(&self.text) => {
                    (true, false)
                }
                Answer::Status { code: 200 | 429 | 500..=599, .. } => (false, true),
                _ => (false, false),
            };
            if !again || tries == QUERIES_MAX {
                return (answer, is_there);
            }
            std::thread::sleep(QUERY_INTERVAL);
        }
        unreachable!("the last try is one of them")
    }

    fn query_path(&self) -> String {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", &format!("{LABELS} |= `{}`", self.text))
            .append_pair("start", &(self.stamp_ns - QUERY_RANGE_NS).to_string())
            .append_pair("end", &(self.stamp_ns + QUERY_RANGE_NS).to_string())
            .append_pair("limit", "10")
            .finish();
        format!("/loki/api/v1/query_range?{query}")
    }
}
