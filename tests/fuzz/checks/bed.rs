//! A receiver and its intake, without a connection and without a disk: what it stores is read back.

use super::loki;
use io::format::Seq;
use io::http::BodyMemory;
use io::wal::Sealed;
use log_capturer::alone;
use log_capturer::handoff::Position;
use log_capturer::intake::{self, Intake};
use log_capturer::receive::admit::{self, Door};
use log_capturer::receive::body::{Body, Decoder, Encoding};
use log_capturer::receive::lines::Query;
use log_capturer::receive::push::{Push, Size};
use log_capturer::receive::{Ack, Form, Options, Receiver, body, json};
use perf::metrics::Metrics;
use perf::recorder::{Recorder, Times};
use shards::rate::Rates;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Small limits, so that small bodies reach them.
pub const SIZE: Size = Size { streams_max: 4, entries_max: 12 };
pub const JSON: json::Limits = json::Limits { depth_max: 12, values_max: 300 };
pub const BODY: body::Limits = body::Limits { decoded_bytes_max: 64 << 10, ratio_max: 100 };
const MEMORY_BYTES: usize = 1 << 20;
const TENANT: &str = "tenant";
pub const FIXED: (&str, &str) = ("fixed", "f");

/// Any time from 1970 on passes: what is found once is found again.
const LIMITS: admit::Limits = admit::Limits {
    line_bytes_max: 200,
    label_names_max: 4,
    label_name_bytes_max: 24,
    label_value_bytes_max: 30,
    metadata_bytes_max: 250,
    metadata_pairs_max: 9,
    age_max: Duration::MAX,
    future_max: Duration::MAX,
};

/// What became of a body.
#[derive(Debug)]
pub struct Outcome {
    pub lines: u64,
    pub refused: u64,
    pub entries: Vec<loki::Entry>,
}

pub struct Bed {
    receiver: Receiver,
    intake: Rc<Intake>,
}

thread_local! {
    static METRICS: Metrics = Metrics::new(1, &[], &[], Times::new(1, 0, Duration::ZERO, false));
}

impl Bed {
    /// Where a push may be kept as it came.
    pub fn wide() -> Bed {
        Bed::new(Vec::new(), 100, 1 << 20, 1 << 20)
    }

    /// With a label for all, room for one stream, and small blocks and frames.
    pub fn narrow() -> Bed {
        Bed::new(vec![(FIXED.0.to_owned(), FIXED.1.to_owned())], 1, 100, 400)
    }

    fn new(
        labels: Vec<(String, String)>,
        streams_max: usize,
        block_raw_bytes: usize,
        frame_raw_bytes: usize,
    ) -> Bed {
        let intake = intake::Options { block_raw_bytes, frame_raw_bytes, bytes_max: 1 << 30 };
        let intake = Rc::new(Intake::new(intake));
        intake.open();
        let options = Options {
            labels,
            tenant_header: false,
            ack: Ack::Durable,
            limits: LIMITS,
            size: SIZE,
            body: BODY,
            body_bytes_max: 64 << 10,
            bodies_bytes_max: MEMORY_BYTES,
            json: JSON,
            streams_max,
            push_bytes_max: 1 << 20,
            kept_bytes_max: 1 << 20,
            answer_time_max: Duration::from_secs(1),
            alone: alone::Limits { stream_rate: 3 << 20, late_ns: i64::MAX, heat: Arc::default() },
            shard: 0,
            shards: 1,
        };
        let (counts, requests, times) = METRICS.with(|metrics| {
            let times = Rc::new(Recorder::new(metrics.times.shard(0)));
            (metrics.shards[0].clone(), metrics.receive(), times)
        });
        let rates = Arc::new(Rates::new(None, None));
        let receiver = Receiver::new(options, intake.clone(), rates, counts, requests, times);
        Bed { receiver, intake }
    }

    fn body(&self, bytes: &[u8]) -> Body {
        let memory = self.receiver.memory();
        let mut decoder = Decoder::new(Encoding::Identity, Some(bytes.len()), BODY, memory)
            .expect("there is room for one body");
        decoder.put(bytes).expect("it was declared");
        decoder.finish().expect("it needs no decoding")
    }

    /// Takes a body in, twice, reads back what is stored, and holds it to all that holds of any body.
    pub fn take(&self, form: Form, bytes: &[u8], query: &Query) -> Result<Outcome, String> {
        if bytes.len() > BODY.decoded_bytes_max {
            return Err("too large".to_owned());
        }
        // New streams travel alone, in any order: here they come for the first time.
        let _ = self.receiver.take(form, TENANT, self.body(bytes), query);
        let first = self.stored();
        let [(one, entries), (other, again)] = [(); 2].map(|()| {
            let taken = self.receiver.take(form, TENANT, self.body(bytes), query);
            assert_eq!(self.receiver.memory().left(), MEMORY_BYTES, "all of it is given back");
            (taken.map_err(|error| error.to_string()), self.stored())
        });
        let (one, other) = match (one, other) {
            (Ok(one), Ok(other)) => (one, other),
            (one, other) => {
                assert_eq!(one.err(), other.err());
                let nothing = first.is_empty() && entries.is_empty() && again.is_empty();
                assert!(nothing, "nothing is stored of what is refused");
                return Err("refused".to_owned());
            }
        };
        assert_eq!((one.lines, one.bytes), (other.lines, other.bytes));
        assert_eq!(one.refused.to_string(), other.refused.to_string());
        assert_eq!(one.refused.is_empty(), one.refused.entries == 0);
        assert_eq!(one.ticket.is_some(), one.lines > 0);
        assert_eq!([first.len(), entries.len()], [again.len(); 2]);
        assert_eq!(entries.len() as u64, one.lines);
        // One that steps back far travels alone, too: streams may change places, their lines do not.
        let by_stream = |entries: &[loki::Entry]| {
            let of = |entry: &loki::Entry| {
                (entry.labels.clone(), entry.line.clone(), entry.metadata.clone())
            };
            let mut of: Vec<_> = entries.iter().map(of).collect();
            of.sort_by(|one, other| one.0.cmp(&other.0));
            of
        };
        let same = by_stream(&entries) == by_stream(&again);
        assert!(same, "{entries:?}\n{again:?}");
        assert_eq!(entries.iter().map(|entry| entry.line.len() as u64).sum::<u64>(), one.bytes);
        Ok(Outcome { lines: one.lines, refused: one.refused.entries, entries })
    }

    /// What was taken in since this was called last.
    fn stored(&self) -> Vec<loki::Entry> {
        let mut frames = Vec::new();
        let lost = self.intake.seal(|sealed| {
            frames.push(sealed);
            Ok(Seq(frames.len() as u64))
        });
        assert!(lost == 0 && self.intake.is_empty());
        // Once acked, streams travel together.
        self.intake.set_position(0, Position::up_to(Seq(u64::MAX)));
        frames.iter().flat_map(stored).collect()
    }
}

/// The entries of a frame, which pass the door again, and which Loki can read.
fn stored(frame: &Sealed) -> Vec<loki::Entry> {
    assert_eq!(&frame.meta[..usize::from(frame.tag_len)], TENANT.as_bytes());
    let memory = Rc::new(BodyMemory::new(MEMORY_BYTES));
    let limits = body::Limits { decoded_bytes_max: MEMORY_BYTES, ratio_max: usize::MAX };
    let raw = body::unsnap(&frame.body, limits, &memory).expect("it is a snappy block").bytes;
    assert_eq!(raw.len(), frame.raw_len as usize);
    let door = Door::new(&LIMITS, 0);
    let size = Size { streams_max: usize::MAX, entries_max: usize::MAX };
    let push = Push::read(&raw, size, &door).expect("it is a push");
    assert!(push.plain, "nothing in it but what is known");
    assert_eq!(push.entries, frame.entries as usize);
    let entries = loki::read(&raw).expect("Loki reads it");
    assert_eq!(entries.len(), push.entries);
    let mut found = entries.iter();
    for stream in &push.streams {
        assert_eq!(door.labels(stream.labels, &stream.pairs), Ok(()));
        let owned = |(name, value): &(&str, std::borrow::Cow<'_, str>)| {
            ((*name).to_owned(), value.to_string())
        };
        let pairs: Vec<_> = stream.pairs.iter().map(owned).collect();
        assert_eq!(loki::labels(stream.labels), Ok(pairs), "Loki reads the labels likewise");
        for (_, measure) in stream.encoded() {
            assert_eq!(door.entry(stream.labels, &measure), Ok(()));
            let entry = found.next().expect("they are as many");
            let metadata = entry.metadata.iter().map(|(name, value)| name.len() + value.len());
            assert_eq!(entry.labels, stream.labels);
            assert_eq!(entry.stamp_ns, measure.stamp_ns.into());
            assert_eq!(entry.line.len(), measure.line_bytes);
            assert_eq!(metadata.sum::<usize>(), measure.metadata_bytes);
            assert_eq!(entry.metadata.len(), measure.metadata_pairs);
        }
    }
    let bytes: usize = entries.iter().map(|entry| entry.line.len()).sum();
    assert_eq!(bytes, push.line_bytes);
    entries
}
