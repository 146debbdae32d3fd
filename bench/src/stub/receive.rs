//! One push, judged and stored as Loki does it, with Loki's answers.

use super::decode::{Entry, Metadata, Stream, read_push};
use super::labels::{Labels, parse};
use super::ledger::{Ledger, Receipt};
use super::limits::{Bucket, go_time, rfc3339};
use super::{Accounting, Kept, Limits, Options, Stats};
use crate::load::{LineSum, Mark, Reading};
use hdrhistogram::Histogram;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// Loki's tenant where nobody is asked who they are.
const TENANT: &str = "fake";
/// As many entries as Loki names in the answer for a stream.
const REFUSED_NAMED_MAX: usize = 10;
/// An hour: what takes longer counts as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// What is done with a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    AsLoki,
    /// Only the last stream is stored, and nobody is told.
    Masked,
    /// One entry of so many is refused.
    Partial {
        one_of: u64,
    },
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn new(status: u16, text: impl Into<String>) -> Answer {
        Answer { status, text: text.into() }
    }

    fn stored() -> Answer {
        Answer::new(204, "")
    }
}

/// Everything that was received.
pub struct Store {
    pub stats: Stats,
    pub ledger: Ledger,
    pub kept: Vec<Kept>,
    /// Microseconds from the line's own write time to the whole push being here.
    pub latency: Histogram<u64>,
    /// The same since somebody last looked.
    pub latency_window: Histogram<u64>,
    accounting: Accounting,
    limits: Limits,
    keep_entries: usize,
    kept_prints: HashSet<u64>,
    hasher: RandomState,
    streams: Vec<StreamState>,
    /// By tenant, then by labels.
    by_canonical: HashMap<String, HashMap<String, usize>>,
    /// Labels as they were sent: parsed once. As many as streams may exist.
    parsed: HashMap<Vec<u8>, Arc<Labels>>,
    decoded: Vec<u8>,
    decoder: snap::raw::Decoder,
    tenant_bucket: Bucket,
}

struct StreamState {
    tenant: String,
    labels: String,
    bucket: Bucket,
    newest_ns: i64,
    /// The newest first delivery.
    last_first_ns: i64,
    /// Per writer, timestamp and sequence number of its newest first delivery.
    heads: HashMap<u32, (i64, u64)>,
}

/// Errors of single entries and streams that leave the rest of the push alone.
#[derive(Default)]
struct Refused {
    /// The distributor's: equal texts are counted.
    texts: Vec<(String, u64)>,
    /// The ingester's, of the last stream that it was asked to store.
    masked: Option<Answer>,
}

impl Refused {
    fn add(&mut self, text: String) {
        if let Some((_, count)) = self.texts.iter_mut().find(|(known, _)| *known == text) {
            *count += 1;
        } else if self.texts.len() < REFUSED_NAMED_MAX {
            self.texts.push((text, 1));
        }
    }

    fn answer(self) -> Answer {
        if let Some(answer) = self.masked {
            return answer;
        }
        if self.texts.is_empty() {
            return Answer::stored();
        }
        let texts: Vec<String> = self
            .texts
            .into_iter()
            .map(|(text, count)| match count {
                1 => text,
                n => format!("{n} errors like: {text}"),
            })
            .collect();
        Answer::new(400, texts.join("; "))
    }
}

impl Store {
    pub fn new(options: &Options) -> Store {
        let histogram = || {
            Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("an hour in microseconds at three digits is in range")
        };
        Store {
            stats: Stats::default(),
            ledger: Ledger::new(options.lines_max, options.writers_max),
            kept: Vec::new(),
            latency: histogram(),
            latency_window: histogram(),
            accounting: options.accounting,
            limits: options.limits.clone(),
            keep_entries: options.keep_entries,
            kept_prints: HashSet::new(),
            hasher: RandomState::new(),
            streams: Vec::new(),
            by_canonical: HashMap::new(),
            parsed: HashMap::new(),
            decoded: Vec::new(),
            decoder: snap::raw::Decoder::new(),
            tenant_bucket: Bucket::default(),
        }
    }

    pub fn streams(&self) -> Vec<String> {
        self.streams.iter().map(|s| s.labels.clone()).collect()
    }

    /// `body`, a snappy block of `tenant`, arrived in full at `received`, a time since 1970.
    pub fn push(
        &mut self,
        tenant: &str,
        body: &[u8],
        received: Duration,
        treatment: Treatment,
    ) -> Answer {
        let mut decoded = std::mem::take(&mut self.decoded);
        let answer = match self.decompress(body, &mut decoded) {
            Ok(len) => self.push_decoded(tenant, &decoded[..len], received, treatment),
            Err(answer) => answer,
        };
        self.decoded = decoded;
        answer
    }

    fn decompress(&mut self, body: &[u8], decoded: &mut Vec<u8>) -> Result<usize, Answer> {
        let corrupt = |_| Answer::new(400, "snappy: corrupt input\n");
        let len = snap::raw::decompress_len(body).map_err(corrupt)?;
        let max = self.limits.decoded_bytes_max;
        if len > max {
            let text = format!(
                "rpc error: code = ResourceExhausted desc = grpc: received message larger than max \
                 ({len} vs. {max})\n"
            );
            return Err(Answer::new(500, text));
        }
        if decoded.len() < len {
            decoded.resize(len, 0);
        }
        self.decoder.decompress(body, &mut decoded[..len]).map_err(corrupt)
    }

    /// As [`Store::push`], of a body that is protobuf already.
    pub fn push_decoded(
        &mut self,
        tenant: &str,
        decoded: &[u8],
        received: Duration,
        treatment: Treatment,
    ) -> Answer {
        let received_ns = i64::try_from(received.as_nanos()).unwrap_or(i64::MAX);
        let mut sum = LineSum::default();
        let counts = self.accounting == Accounting::Count;
        let streams = read_push(decoded, |line| {
            if counts {
                sum.add(line);
            }
        });
        let streams = match streams {
            Ok(streams) => streams,
            Err(e) => return Answer::new(400, format!("{e}\n")),
        };
        if streams.is_empty() {
            return Answer::new(422, "error at least one valid stream is required for ingestion\n");
        }
        if let Some(refusal) = self.over_tenant_rate(&streams, received_ns) {
            return refusal;
        }
        if streams.iter().any(|stream| stream.unnamed) {
            // Its own failure by the status, and it stays one however often the push is sent.
            return Answer::new(500, "label name is empty\n");
        }
        self.stats.decoded_bytes += decoded.len() as u64;
        let answer = match (self.accounting, treatment) {
            (Accounting::Count, _) => {
                self.stats.entries += sum.lines;
                self.stats.line_bytes += sum.bytes;
                self.stats.sum.merge(sum);
                Answer::stored()
            }
            (Accounting::PerLine, Treatment::Masked) => {
                let (last, hidden) = streams.split_last().expect("looked at above");
                self.stats.entries_refused += hidden.iter().map(|s| s.entries).sum::<u64>();
                self.store_lines(tenant, std::slice::from_ref(last), received_ns, treatment)
            }
            (Accounting::PerLine, _) => self.store_lines(tenant, &streams, received_ns, treatment),
        };
        if answer.status == 204 {
            self.stats.pushes_stored += 1;
        }
        answer
    }

    fn over_tenant_rate(&mut self, streams: &[Stream<'_>], now_ns: i64) -> Option<Answer> {
        let rate = self.limits.tenant_rate?;
        let bytes = streams.iter().map(|stream| stream.line_bytes).sum();
        if self.tenant_bucket.take(bytes, rate, now_ns) {
            return None;
        }
        let lines: u64 = streams.iter().map(|stream| stream.entries).sum();
        self.stats.entries_refused += lines;
        Some(Answer::new(
            429,
            format!(
                "ingestion rate limit exceeded for user {TENANT} (limit: {} bytes/sec) while \
                 attempting to ingest '{lines}' lines totaling '{bytes}' bytes, reduce log volume \
                 or contact your Loki administrator to see if the limit can be increased\n",
                rate.bytes_per_second
            ),
        ))
    }

    fn store_lines(
        &mut self,
        tenant: &str,
        streams: &[Stream<'_>],
        received_ns: i64,
        treatment: Treatment,
    ) -> Answer {
        // One stream's labels that cannot be read fail the whole push.
        let mut labels = Vec::with_capacity(streams.len());
        for stream in streams {
            match self.labels(stream.labels) {
                Ok(parsed) => labels.push(parsed),
                Err(answer) => return answer,
            }
        }
        let mut refused = Refused::default();
        for (stream, labels) in streams.iter().zip(labels) {
            if let Some(text) = self.limits.labels_error(&labels) {
                self.stats.entries_refused += stream.entries;
                refused.add(text);
                continue;
            }
            // What the ingester says of one stream hides what it said of those before.
            let at = self.stream(tenant, &labels.canonical);
            refused.masked = match at {
                Some(at) => self.store_stream(at, stream, received_ns, treatment, &mut refused),
                None => Some(self.too_many_streams(stream, &labels.canonical)),
            };
        }
        refused.answer()
    }

    fn labels(&mut self, text: &[u8]) -> Result<Arc<Labels>, Answer> {
        if let Some(labels) = self.parsed.get(text) {
            return Ok(Arc::clone(labels));
        }
        let parsed = parse(text).map_err(|e| {
            let labels = String::from_utf8_lossy(text);
            Answer::new(400, format!("Error parsing labels '{labels}' with error: {e}\n"))
        })?;
        let parsed = Arc::new(parsed);
        if self.parsed.len() < self.limits.streams_max {
            self.parsed.insert(text.to_vec(), Arc::clone(&parsed));
        }
        Ok(parsed)
    }

    fn too_many_streams(&mut self, stream: &Stream<'_>, labels: &str) -> Answer {
        self.stats.entries_refused += stream.entries;
        let text = format!(
            "Maximum active stream limit exceeded when trying to create stream {labels}, reduce \
             the number of active streams (reduce labels or reduce label values), or contact your \
             Loki administrator to see if the limit can be increased, user: '{TENANT}'\n"
        );
        Answer::new(429, text)
    }

    /// Stores what may be stored; the answer is the ingester's, if it is not content.
    fn store_stream(
        &mut self,
        at: usize,
        stream: &Stream<'_>,
        received_ns: i64,
        treatment: Treatment,
        refused: &mut Refused,
    ) -> Option<Answer> {
        let labels = &self.streams[at].labels.clone();
        if let Some(rate) = self.limits.stream_rate
            && !self.streams[at].bucket.take(stream.line_bytes, rate, received_ns)
        {
            self.stats.entries_refused += stream.entries;
            let text = format!(
                "Per stream rate limit exceeded (limit: {}MB/sec) while attempting to ingest for \
                 stream '{labels}' totaling {}B, consider splitting a stream via additional labels \
                 or contact your Loki administrator to see if the limit can be increased\n",
                rate.bytes_per_second >> 20,
                stream.line_bytes
            );
            return Some(Answer::new(429, text));
        }
        let mut late = Late::default();
        for ((entry, metadata), nth) in stream.entries().zip(1_u64..) {
            let told = matches!(treatment, Treatment::Partial { one_of } if nth % one_of == 0);
            if told {
                self.stats.entries_refused += 1;
                refused.add(self.limits.too_old(labels, entry.timestamp_ns, received_ns));
                continue;
            }
            if let Some(text) = self.limits.entry_error(labels, &entry, received_ns) {
                self.stats.entries_refused += 1;
                refused.add(text);
                continue;
            }
            let oldest = self.streams[at].newest_ns.saturating_sub(self.limits.behind_ns_max());
            if entry.timestamp_ns < oldest {
                self.stats.entries_refused += 1;
                late.add(entry.timestamp_ns, oldest);
                continue;
            }
            self.streams[at].newest_ns = self.streams[at].newest_ns.max(entry.timestamp_ns);
            self.account(at, &entry, metadata, received_ns);
        }
        late.answer(stream.entries, labels)
    }

    fn stream(&mut self, tenant: &str, labels: &str) -> Option<usize> {
        if let Some(at) = self.by_canonical.get(tenant).and_then(|of| of.get(labels)) {
            return Some(*at);
        }
        if self.streams.len() >= self.limits.streams_max {
            return None;
        }
        self.streams.push(StreamState {
            tenant: tenant.to_owned(),
            labels: labels.to_owned(),
            bucket: Bucket::default(),
            newest_ns: i64::MIN,
            last_first_ns: i64::MIN,
            heads: HashMap::new(),
        });
        let at = self.streams.len() - 1;
        self.by_canonical.entry(tenant.to_owned()).or_default().insert(labels.to_owned(), at);
        Some(at)
    }

    fn account(
        &mut self,
        stream: usize,
        entry: &Entry<'_>,
        metadata: Metadata<'_>,
        received_ns: i64,
    ) {
        self.stats.entries += 1;
        self.stats.line_bytes += entry.line.len() as u64;
        let fresh = self.keep(stream, entry, metadata);
        let mark = match Mark::read(entry.line) {
            Reading::Intact(mark) => mark,
            Reading::Corrupted => {
                self.stats.corrupted += 1;
                return;
            }
            Reading::Unmarked => {
                self.stats.unmarked += 1;
                self.stats.unmarked_repeated += u64::from(!fresh);
                return;
            }
        };
        match self.ledger.record(mark.writer, mark.sequence, entry.timestamp_ns) {
            Receipt::First => {}
            Receipt::Repeated => {
                self.stats.repeated += 1;
                return;
            }
            Receipt::RepeatedVisibly => {
                self.stats.repeated += 1;
                self.stats.repeated_visibly += 1;
                return;
            }
            Receipt::Unaccounted => {
                self.stats.unaccounted += 1;
                return;
            }
        }
        self.stats.received += 1;
        let latency_us = u64::try_from((received_ns - mark.written_ns) / 1_000).unwrap_or(0);
        self.latency.saturating_record(latency_us);
        self.latency_window.saturating_record(latency_us);
        self.check_order(stream, mark, entry.timestamp_ns);
    }

    /// Of first deliveries: timestamps of a stream strictly increase, and so do, with them, the
    /// sequence numbers of a writer.
    fn check_order(&mut self, stream: usize, mark: Mark, timestamp_ns: i64) {
        let stream = &mut self.streams[stream];
        if timestamp_ns <= stream.last_first_ns {
            self.stats.out_of_order += 1;
        }
        stream.last_first_ns = stream.last_first_ns.max(timestamp_ns);
        // The ledger bounds the number of writers.
        let head = stream.heads.entry(mark.writer).or_insert((i64::MIN, 0));
        if head.0 == i64::MIN {
            *head = (timestamp_ns, mark.sequence);
            return;
        }
        if (timestamp_ns > head.0) != (mark.sequence > head.1) {
            self.stats.out_of_sequence += 1;
        }
        if timestamp_ns > head.0 {
            *head = (timestamp_ns, mark.sequence);
        }
    }

    /// Keeps the entry for a test to look at; false if it is kept already.
    fn keep(&mut self, stream: usize, entry: &Entry<'_>, metadata: Metadata<'_>) -> bool {
        if self.keep_entries == 0 {
            return true;
        }
        let print = self.hasher.hash_one((stream, entry.timestamp_ns, entry.line));
        if self.kept_prints.contains(&print) {
            return false;
        }
        if self.kept.len() < self.keep_entries {
            self.kept_prints.insert(print);
            self.kept.push(Kept {
                tenant: self.streams[stream].tenant.clone(),
                labels: self.streams[stream].labels.clone(),
                timestamp_ns: entry.timestamp_ns,
                line: entry.line.to_vec(),
                metadata: metadata.pairs(),
            });
        } else {
            self.stats.not_kept += 1;
        }
        true
    }
}

/// Entries of one stream that are too far behind it.
#[derive(Default)]
struct Late {
    texts: String,
    count: usize,
}

impl Late {
    fn add(&mut self, timestamp_ns: i64, oldest_ns: i64) {
        self.count += 1;
        if self.count <= REFUSED_NAMED_MAX {
            self.texts.push_str(&format!(
                "entry with timestamp {} ignored, reason: 'entry too far behind, entry timestamp \
                 is: {}, oldest acceptable timestamp is: {}',\n",
                go_time(timestamp_ns),
                rfc3339(timestamp_ns),
                rfc3339(oldest_ns),
            ));
        }
    }

    fn answer(self, entries: u64, labels: &str) -> Option<Answer> {
        if self.count == 0 {
            return None;
        }
        let Late { texts, count } = self;
        let text = format!(
            "{texts}user '{TENANT}', total ignored: {count} out of {entries} for stream: {labels}\n"
        );
        Some(Answer::new(400, text))
    }
}
