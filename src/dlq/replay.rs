//! Entries become pushes again, and what the sink says to them.
//!
//! [`frames`] makes parts of one stream each, since Loki hides what it refuses of one stream behind the
//! next one of a push; a part is a push, and where it is refused, its halves
//! are tried, down to the entry that is refused alone. What an entry is sent as is fixed once, so
//! that an entry that is sent twice is the same both times.

use super::record::{Reason, Record};
use crate::batch::{Batch, put_metadata};
use crate::handoff::Frame;
use crate::labels;
use crate::part::stream_key;
use crate::track::LARGE_BYTES;
use crate::verdict::{Answer, History, Verdict, judge};
use io::format::Seq;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Of a part, before compression: less than Loki takes, whatever its limits usually are.
const PART_BYTES_MAX: usize = 1 << 20;
/// How often a push is tried where the sink does not answer or has no time.
const TRIES_MAX: u32 = 4;
const TRY_INTERVAL: Duration = Duration::from_millis(500);
/// Where an entry that is sent with the present time has its own.
pub const ORIGINAL_TIMESTAMP: &str = "original_timestamp";

/// Gives entries the present time, strictly increasing in each stream: of one replay as a whole.
#[derive(Debug)]
pub struct Stamps {
    last: HashMap<(String, String), i64>,
    now_ns: i64,
}

impl Stamps {
    #[must_use]
    pub fn new(now_ns: i64) -> Stamps {
        Stamps { last: HashMap::new(), now_ns }
    }

    fn next(&mut self, tenant: &str, labels: &str) -> i64 {
        let last = self.last.entry((tenant.into(), labels.into())).or_insert(i64::MIN);
        *last = self.now_ns.max(last.saturating_add(1));
        *last
    }
}

/// Entries of one stream that go out as one push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    tenant: &'a str,
    entries: Vec<Entry<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// Which of the records.
    at: usize,
    record: &'a Record,
    labels: Cow<'a, str>,
    timestamp_ns: i64,
    restamped: bool,
}

/// Parts of one stream each that hold all of the records, the entries of a stream in their order.
/// `labels` are added, in place of those of the same name; with `restamp` entries get
/// the present time.
#[must_use]
pub fn frames<'a>(
    records: &'a [Record],
    labels: &BTreeMap<String, String>,
    mut restamp: Option<&mut Stamps>,
) -> Vec<Part<'a>> {
    let mut tenants: BTreeMap<&str, Vec<Vec<Entry<'a>>>> = BTreeMap::new();
    let mut streams: HashMap<(&str, Cow<'a, str>), usize> = HashMap::new();
    for (at, record) in records.iter().enumerate() {
        let labels = with_labels(&record.labels, labels);
        let tenant = record.tenant.as_str();
        let timestamp_ns = match &mut restamp {
            Some(stamps) => stamps.next(tenant, &labels),
            None => record.timestamp_ns,
        };
        let restamped = restamp.is_some();
        let of_tenant = tenants.entry(tenant).or_default();
        let stream = *streams.entry((tenant, labels.clone())).or_insert_with(|| {
            of_tenant.push(Vec::new());
            of_tenant.len() - 1
        });
        of_tenant[stream].push(Entry { at, record, labels, timestamp_ns, restamped });
    }
    let mut parts = Vec::new();
    for (tenant, streams) in tenants {
        for entries in streams {
            let mut bytes = usize::MAX;
            for entry in entries {
                let more = entry.bytes();
                if bytes.saturating_add(more) > PART_BYTES_MAX {
                    parts.push(Part { tenant, entries: Vec::new() });
                    bytes = 0;
                }
                bytes += more;
                parts.last_mut().expect("just made").entries.push(entry);
            }
        }
    }
    parts
}

/// Labels that are no labels stay as they are: the sink says so, and that is kept.
fn with_labels<'a>(text: &'a str, more: &BTreeMap<String, String>) -> Cow<'a, str> {
    let Some(pairs) = labels::parse(text).ok().filter(|_| !more.is_empty()) else {
        return Cow::Borrowed(text);
    };
    let own = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into_owned()));
    let mut all: BTreeMap<String, String> = own.collect();
    all.extend(more.clone());
    Cow::Owned(labels::render(&all))
}

impl Entry<'_> {
    fn bytes(&self) -> usize {
        let pairs = self.record.metadata.iter().map(|(name, value)| name.len() + value.len() + 8);
        self.record.line.len() + self.labels.len() + pairs.sum::<usize>() + 64
    }
}

impl Part<'_> {
    /// Which of the records it holds.
    pub fn records(&self) -> impl Iterator<Item = usize> {
        self.entries.iter().map(|entry| entry.at)
    }

    /// The push, as it goes over to the sink.
    #[must_use]
    pub fn frame(&self) -> Frame {
        let mut batch = Batch::default();
        let mut metadata = Vec::new();
        let labels = &*self.entries[0].labels;
        let arrived_ns = self.entries.iter().map(|entry| entry.record.arrived_ns).min();
        let mut element = batch.element(labels, arrived_ns.unwrap_or_default());
        for Entry { record, timestamp_ns, restamped, .. } in &self.entries {
            metadata.clear();
            for (name, value) in &record.metadata {
                put_metadata(&mut metadata, name, value);
            }
            // One that was sent so before and came back has it already.
            let has = record.metadata.iter().any(|(name, _)| name == ORIGINAL_TIMESTAMP);
            if *restamped && !has {
                let own = record.timestamp_ns.to_string();
                put_metadata(&mut metadata, ORIGINAL_TIMESTAMP, &own);
            }
            element.push((*timestamp_ns).max(0), &record.line, &metadata);
        }
        drop(element);
        let oldest_arrival_ns = batch.oldest_arrival_ns();
        let block = batch.compress();
        Frame {
            seq: Seq::NONE,
            tenant: self.tenant.into(),
            stream: stream_key(labels),
            oldest_arrival_ns,
            oldest_stamp_ns: block.oldest_stamp_ns,
            raw_len: block.raw_len,
            entries: block.entries,
            body: Arc::new(block.body),
            ..Frame::default()
        }
    }

    /// Its halves, where it holds more than one entry.
    pub fn halves(mut self) -> Result<[Self; 2], Self> {
        if self.entries.len() < 2 {
            return Err(self);
        }
        let second = self.entries.split_off(self.entries.len() / 2);
        let tenant = self.tenant;
        Ok([self, Part { tenant, entries: second }])
    }
}

/// What became of records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub accepted: Vec<usize>,
    pub refused: Vec<Refused>,
    /// Why the rest was not tried: the sink refuses service, or does not answer.
    pub stopped: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub at: usize,
    pub reason: Reason,
    pub status: u16,
    pub text: String,
}

/// Sends parts, in halves where they are refused, until all is decided or the sink takes no more.
/// `wait` is asked to pass some time.
pub fn send<'a>(
    parts: Vec<Part<'a>>,
    post: &mut dyn FnMut(Frame) -> Answer,
    wait: &mut dyn FnMut(Duration),
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut waiting: Vec<Part<'a>> = parts.into_iter().rev().collect();
    while let Some(part) = waiting.pop() {
        let (verdict, answer) = send_one(&part, post, wait);
        match verdict {
            Verdict::Accepted => outcome.accepted.extend(part.records()),
            Verdict::Split | Verdict::Isolate => match part.halves() {
                Ok([first, second]) => waiting.extend([second, first]),
                Err(alone) => outcome.refuse(&alone, &answer),
            },
            Verdict::Reject(_) | Verdict::RejectStream => outcome.refuse(&part, &answer),
            Verdict::Retry { .. } | Verdict::Hold => {
                outcome.stopped = Some(answer.to_string());
                break;
            }
        }
    }
    outcome
}

/// The last verdict on a part, after a few tries where the sink does not answer or has no time.
fn send_one(
    part: &Part<'_>,
    post: &mut dyn FnMut(Frame) -> Answer,
    wait: &mut dyn FnMut(Duration),
) -> (Verdict, Answer) {
    let frame = part.frame();
    for failures in 1.. {
        let answer = post(frame.clone());
        let single = part.entries.len() == 1;
        let large = frame.raw_len as usize > LARGE_BYTES;
        let history = History { single, one_stream: true, large, failures, others_pass: false };
        match judge(&answer, &history) {
            Verdict::Retry { after, .. } if failures < TRIES_MAX => {
                wait(after.unwrap_or_default().max(TRY_INTERVAL * (1 << (failures - 1))));
            }
            verdict => return (verdict, answer),
        }
    }
    unreachable!("the last try is one of them")
}

impl Outcome {
    fn refuse(&mut self, part: &Part<'_>, answer: &Answer) {
        let (status, text) = match answer {
            Answer::Status { code, text, .. } => (*code, text.as_str()),
            Answer::Broken(error) => (0, error.as_str()),
        };
        let refused =
            |at| Refused { at, reason: reason_of(status, text), status, text: text.into() };
        self.refused.extend(part.records().map(refused));
    }
}

/// By Loki's words: it has no codes for them.
pub fn reason_of(status: u16, text: &str) -> Reason {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["timestamp too old", "too far behind"]) {
        Reason::TooOld
    } else if status == 413 || says(&["max entry size", "entry too large"]) {
        Reason::TooLarge
    } else if says(&["stream limit", "stream rate limit"]) {
        Reason::StreamLimited
    } else {
        Reason::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tenant: &str, job: &str, line: &str, timestamp_ns: i64) -> Record {
        let labels = format!("{{job=\"{job}\"}}");
        Record { tenant: tenant.into(), labels, timestamp_ns, ..Record::for_tests(line) }
    }

    fn raw(part: &Part<'_>) -> String {
        let body = snap::raw::Decoder::new().decompress_vec(&part.frame().body).unwrap();
        String::from_utf8_lossy(&body).into_owned()
    }

    #[test]
    fn parts_are_of_one_stream_in_its_order() {
        let records = [
            record("b", "x", "line-0", 5),
            record("a", "y", "line-1", 9),
            record("b", "z", "line-2", 8),
            record("b", "x", "line-3", 4),
            record("b", "x", "line-4", -1),
        ];
        let parts = frames(&records, &BTreeMap::new(), None);
        let of: Vec<Vec<usize>> = parts.iter().map(|part| part.records().collect()).collect();
        assert_eq!(of, [vec![1], vec![0, 3, 4], vec![2]]);
        let frame = parts[1].frame();
        assert_eq!((&*frame.tenant, frame.entries), ("b", 3));
        assert_eq!(frame.stream, stream_key("{job=\"x\"}"));
        let text = raw(&parts[1]);
        let places: Vec<usize> = ["job=\"x\"", "line-0", "line-3", "line-4"]
            .map(|text_part| text.find(text_part).unwrap())
            .into();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("job=").count(), 1);
        let large: Vec<Record> =
            (0..9).map(|n| record("a", "x", &"x".repeat(400_000), n)).collect();
        let parts = frames(&large, &BTreeMap::new(), None);
        assert_eq!(parts.len(), 5);
        assert_eq!(parts.iter().flat_map(Part::records).collect::<Vec<_>>(), Vec::from_iter(0..9));
        assert!(frames(&[], &BTreeMap::new(), None).is_empty());
    }

    #[test]
    fn labels_are_added_and_stamps_increase_over_parts_and_halves() {
        let mut records: Vec<Record> = (0..4).map(|n| record("", "x", "line", n)).collect();
        records[1].labels = "{job=\"other\"".into();
        records[2].metadata = vec![(ORIGINAL_TIMESTAMP.into(), "77".into())];
        let more = BTreeMap::from([("job".into(), "y".into()), ("replayed".into(), "a\"b".into())]);
        let mut stamps = Stamps::new(1000);
        let parts = frames(&records, &more, Some(&mut stamps));
        let entry = |entry: &Entry<'_>| (entry.at, entry.labels.to_string(), entry.timestamp_ns);
        let found: Vec<_> = parts.iter().flat_map(|part| &part.entries).map(entry).collect();
        let labels = || "{job=\"y\", replayed=\"a\\\"b\"}".to_owned();
        let expected = [
            (0, labels(), 1000),
            (2, labels(), 1001),
            (3, labels(), 1002),
            (1, "{job=\"other\"".to_owned(), 1000),
        ];
        assert_eq!(found, expected);
        let text = raw(&parts[0]) + &raw(&parts[1]);
        assert_eq!(text.matches(ORIGINAL_TIMESTAMP).count(), 4);
        assert!(text.contains("77"));
        let next = frames(&records[3..], &more, Some(&mut stamps));
        assert_eq!(next[0].entries[0].timestamp_ns, 1003);
        let [first, second] = parts[0].clone().halves().unwrap();
        assert_eq!([first.entries, second.entries].concat(), parts[0].entries);
    }

    fn status(code: u16, text: &str) -> Answer {
        Answer::Status { code, retry_after: None, text: text.into() }
    }

    #[test]
    fn one_that_is_refused_does_not_keep_the_others() {
        let records: Vec<Record> = (0..50).map(|n| record("", "x", &format!("<{n}>"), n)).collect();
        let mut pushes = 0;
        let mut post = |frame: Frame| {
            pushes += 1;
            let body = snap::raw::Decoder::new().decompress_vec(&frame.body).unwrap();
            let text = String::from_utf8_lossy(&body).into_owned();
            let bad = ["<7>", "<31>"].into_iter().find(|bad| text.contains(bad));
            bad.map_or(status(204, ""), |bad| status(400, &format!("{bad} has timestamp too old")))
        };
        let parts = frames(&records, &BTreeMap::new(), None);
        let outcome = send(parts, &mut post, &mut |_| panic!("nothing to wait for"));
        assert_eq!(outcome.stopped, None);
        let refused: Vec<(usize, &str)> =
            outcome.refused.iter().map(|refused| (refused.at, refused.text.as_str())).collect();
        assert_eq!(refused, [(7, "<7> has timestamp too old"), (31, "<31> has timestamp too old")]);
        assert!(outcome.refused.iter().all(|refused| refused.reason == Reason::TooOld));
        assert_eq!(outcome.accepted.len(), 48);
        assert!(pushes < 30, "{pushes}");
    }

    #[test]
    fn a_sink_that_takes_nothing_stops_it_after_some_time() {
        let records = [record("a", "x", "1", 1), record("b", "x", "2", 2)];
        let run = |answers: &[Answer]| {
            let mut answers = answers.iter().cloned();
            let mut waited = Duration::ZERO;
            let parts = frames(&records, &BTreeMap::new(), None);
            let mut post = |_| answers.next().expect("no more is asked");
            (send(parts, &mut post, &mut |time| waited += time), waited)
        };
        let busy = Answer::Status {
            code: 429,
            retry_after: Some(Duration::from_secs(900)),
            text: "later".into(),
        };
        let (outcome, waited) = run(&[status(503, ""), busy, status(204, ""), status(401, "who?")]);
        assert_eq!((outcome.accepted, outcome.stopped), (vec![0], Some("401: who?".into())));
        assert_eq!(
            waited,
            TRY_INTERVAL + Duration::from_secs(60),
            "at most a minute is waited for"
        );
        let (outcome, _) = run(&vec![Answer::Broken("refused".into()); 4]);
        assert_eq!(outcome.stopped, Some("refused".into()));
        assert!(outcome.accepted.is_empty());
    }
}
