//! One push, judged and stored as Loki does it, with Loki's answers.
//!
//! The distributor comes first: it reads all, drops what no stream may have, and refuses the rest
//! as a whole where the tenant is over its rate or the push too large to pass on. Then the ingester
//! takes stream after stream, and only what it says of the last one is heard.

use super::account::Watch;
use super::decode::{Entry, Metadata, Stream, read_push};
use super::labels::{Labels, parse};
use super::ledger::Ledger;
use super::limits::rfc3339;
use super::refused::{Ignored, Refused};
use super::stats::Reason;
use super::tenants::Tenants;
use super::{Accounting, Kept, Limits, Options, Stats};
use crate::load::LineSum;
use hdrhistogram::Histogram;
use memchr::memmem;
use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

/// Loki's tenant where nobody is asked who they are.
const TENANT: &str = "fake";
/// An hour: what takes longer counts as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Labels as they were sent that are not parsed again.
const PARSED_MAX: usize = 8_192;

/// What is done with a push that Loki would not do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Only the last stream is stored, and nobody is told.
    pub masked: bool,
    /// One entry of so many is refused.
    pub partial: Option<u64>,
    pub refusals: Vec<Refusal>,
}

/// What is said of a push with an entry whose line contains the needle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub needle: String,
    pub status: u16,
    pub text: String,
    /// The other entries; else nothing is.
    pub rest_stored: bool,
}

impl Treatment {
    fn refusal(&self, line: &[u8]) -> Option<&Refusal> {
        self.refusals.iter().find(|of| memmem::find(line, of.needle.as_bytes()).is_some())
    }
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

    pub fn stored() -> Answer {
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
    pub limits: Limits,
    /// How far Loki's clock is ahead of this host's.
    pub clock_ahead_ns: i64,
    pub backlog: Watch,
    pub tenants: Tenants,
    accounting: Accounting,
    pub(super) keep_entries: usize,
    pub(super) kept_prints: HashSet<u64>,
    pub(super) hasher: RandomState,
    parsed: HashMap<Vec<u8>, Arc<Labels>>,
    decoded: Vec<u8>,
    decoder: snap::raw::Decoder,
}

/// One push while it is judged.
struct Push<'a> {
    tenant: &'a str,
    streams: Vec<(Stream<'a>, Arc<Labels>)>,
    decoded_bytes: usize,
    /// By this host's clock, and by Loki's.
    received_ns: i64,
    clock_ns: i64,
    /// It holds one stream and no other.
    alone: bool,
}

/// A stream and those of its entries that the distributor passes on.
struct Passed<'a> {
    labels: Arc<Labels>,
    entries: Vec<(Entry<'a>, Metadata<'a>)>,
}

fn bytes_of(entry: &Entry<'_>) -> u64 {
    (entry.line.len() + entry.metadata_bytes) as u64
}

/// Who Loki says it is.
fn user(tenant: &str) -> &str {
    if tenant.is_empty() { TENANT } else { tenant }
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
            limits: options.limits.clone(),
            clock_ahead_ns: options.clock_ahead_s.saturating_mul(1_000_000_000),
            backlog: Watch::default(),
            tenants: Tenants::default(),
            accounting: options.accounting,
            keep_entries: options.keep_entries,
            kept_prints: HashSet::new(),
            hasher: RandomState::new(),
            parsed: HashMap::new(),
            decoded: Vec::new(),
            decoder: snap::raw::Decoder::new(),
        }
    }

    pub fn streams(&self) -> Vec<String> {
        self.tenants.streams.iter().map(|s| s.labels.clone()).collect()
    }

    /// `body`, a snappy block of `tenant`, arrived in full at `received`, a time since 1970.
    pub fn push(
        &mut self,
        tenant: &str,
        body: &[u8],
        received: Duration,
        treatment: &Treatment,
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
        let max = self.limits.body_bytes_max;
        if len > max {
            return Err(Answer::new(
                413,
                format!("message size too large than max ({len} vs {max})\n"),
            ));
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
        treatment: &Treatment,
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
        let labels: Result<Vec<Arc<Labels>>, Answer> = if counts {
            Ok(Vec::new())
        } else {
            // One stream's labels that cannot be read fail the whole push.
            streams.iter().map(|stream| self.labels(stream.labels)).collect()
        };
        let labels = match labels {
            Ok(labels) => labels,
            Err(answer) => return answer,
        };
        if self.tenants.get(tenant).is_none() {
            return Answer::new(500, "the stub has no room for one more tenant\n");
        }
        let unnamed = streams.iter().any(|stream| stream.unnamed);
        let entries = streams.iter().map(|stream| stream.entries).sum();
        let clock_ns = received_ns.saturating_add(self.clock_ahead_ns);
        let before = self.stats.entries;
        let answer = if unnamed {
            // Its own failure by the status, and it stays one however often the push is sent.
            self.refuse(tenant, Reason::Unnamed, entries);
            Answer::new(500, "label name is empty\n")
        } else if counts {
            let bytes = streams.iter().map(|stream| stream.line_bytes).sum();
            let refusal = self.refuse_whole(tenant, (entries, bytes), decoded.len(), clock_ns);
            refusal.unwrap_or_else(|| {
                self.stats.decoded_bytes += decoded.len() as u64;
                self.stats.entries += sum.lines;
                self.stats.line_bytes += sum.bytes;
                self.stats.sum.merge(sum);
                Answer::stored()
            })
        } else {
            let first = &labels[0].canonical;
            let alone = labels.iter().all(|labels| labels.canonical == *first);
            self.note_travels(tenant, &labels, alone);
            let streams = streams.into_iter().zip(labels).collect();
            let decoded_bytes = decoded.len();
            let push = Push { tenant, streams, decoded_bytes, received_ns, clock_ns, alone };
            self.store_push(&push, treatment)
        };
        let stored = u64::from(answer.status == 204);
        self.stats.pushes_stored += stored;
        let taken = self.stats.entries - before;
        let of = self.stats.by_tenant.entry(tenant.to_owned()).or_default();
        of.pushes_stored += stored;
        of.entries += taken;
        answer
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
        if self.parsed.len() < PARSED_MAX {
            self.parsed.insert(text.to_vec(), Arc::clone(&parsed));
        }
        Ok(parsed)
    }

    fn note_travels(&mut self, tenant: &str, labels: &[Arc<Labels>], alone: bool) {
        let mut names: Vec<&str> = labels.iter().map(|l| l.canonical.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        self.stats.push_streams_max = self.stats.push_streams_max.max(names.len() as u64);
        for labels in names {
            self.tenants.travelled(tenant, labels, alone);
        }
    }

    fn refuse(&mut self, tenant: &str, reason: Reason, entries: u64) {
        if entries == 0 {
            return;
        }
        self.stats.entries_refused += entries;
        *self.stats.refused.entry(reason).or_default() += entries;
        let of = self.stats.by_tenant.entry(tenant.to_owned()).or_default();
        *of.refused.entry(reason).or_default() += entries;
    }

    fn store_push(&mut self, push: &Push<'_>, treatment: &Treatment) -> Answer {
        let mut refused = Refused::default();
        let mut passed = match self.pass(push, treatment, &mut refused) {
            Ok(passed) => passed,
            Err(answer) => return answer,
        };
        if passed.is_empty() {
            return refused.answer();
        }
        let entries = passed.iter().flat_map(|of| &of.entries);
        let lines = entries.clone().count() as u64;
        let bytes = entries.map(|(entry, _)| bytes_of(entry)).sum();
        let whole = (lines, bytes);
        if let Some(answer) =
            self.refuse_whole(push.tenant, whole, push.decoded_bytes, push.clock_ns)
        {
            return answer;
        }
        self.stats.decoded_bytes += push.decoded_bytes as u64;
        if treatment.masked {
            let last = passed.split_off(passed.len() - 1);
            let hidden = passed.iter().map(|of| of.entries.len() as u64).sum();
            self.refuse(push.tenant, Reason::Masked, hidden);
            self.stats.entries_hidden += hidden;
            passed = last;
        }
        for of in &passed {
            let (answer, entries) = self.ingest(push, of);
            refused.ingester_said(answer, entries);
        }
        self.stats.entries_hidden += refused.hidden();
        refused.answer()
    }

    /// What of the push the distributor passes on; an answer where nothing of it is.
    fn pass<'a>(
        &mut self,
        push: &Push<'a>,
        treatment: &Treatment,
        refused: &mut Refused,
    ) -> Result<Vec<Passed<'a>>, Answer> {
        let mut passed = Vec::with_capacity(push.streams.len());
        let mut told = 0;
        let mut rest_stored = true;
        for (stream, labels) in &push.streams {
            let name = labels.canonical.as_str();
            let count = usize::try_from(stream.entries).unwrap_or_default();
            let mut entries = Vec::with_capacity(count);
            let stream_error = self.limits.labels_error(labels);
            let told_before = told;
            for ((entry, metadata), nth) in stream.entries().zip(1_u64..) {
                if let Some(refusal) = treatment.refusal(entry.line) {
                    told += 1;
                    rest_stored &= refusal.rest_stored;
                    refused.told.get_or_insert_with(|| {
                        Answer::new(refusal.status, refusal.text.replace("{labels}", name))
                    });
                    continue;
                }
                if stream_error.is_some() {
                    continue;
                }
                if treatment.partial.is_some_and(|one_of| nth % one_of == 0) {
                    self.refuse(push.tenant, Reason::Told, 1);
                    refused.add(self.limits.too_old(name, entry.timestamp_ns, push.clock_ns));
                    continue;
                }
                match self.limits.entry_error(name, &entry, push.clock_ns) {
                    None => entries.push((entry, metadata)),
                    Some((reason, text)) => {
                        self.refuse(push.tenant, reason, 1);
                        refused.add(text);
                    }
                }
            }
            if let Some(text) = stream_error {
                self.refuse(push.tenant, Reason::Labels, stream.entries - (told - told_before));
                refused.add(text);
            }
            // Of a stream without entries the ingester is not asked.
            if !entries.is_empty() {
                passed.push(Passed { labels: Arc::clone(labels), entries });
            }
        }
        self.stats.faults.refused += u64::from(told > 0);
        if rest_stored {
            self.refuse(push.tenant, Reason::Told, told);
            return Ok(passed);
        }
        let rest: u64 = passed.iter().map(|of| of.entries.len() as u64).sum();
        self.refuse(push.tenant, Reason::Told, told + rest);
        Err(std::mem::take(refused).answer())
    }

    /// Over the tenant's rate, or too large for the ingester: nothing of it is stored.
    fn refuse_whole(
        &mut self,
        tenant: &str,
        (lines, bytes): (u64, u64),
        message_bytes: usize,
        clock_ns: i64,
    ) -> Option<Answer> {
        if let Some(rate) = self.limits.tenant_rate
            && !self.tenants.get(tenant)?.bucket.take(bytes, rate, clock_ns)
        {
            self.refuse(tenant, Reason::TenantRate, lines);
            let text = format!(
                "ingestion rate limit exceeded for user {} (limit: {} bytes/sec) while \
                 attempting to ingest '{lines}' lines totaling '{bytes}' bytes, reduce log volume \
                 or contact your Loki administrator to see if the limit can be increased\n",
                user(tenant),
                rate.bytes_per_second
            );
            return Some(Answer::new(429, text));
        }
        let max = self.limits.decoded_bytes_max;
        if message_bytes > max {
            self.refuse(tenant, Reason::TooLarge, lines);
            let text = format!(
                "rpc error: code = ResourceExhausted desc = grpc: received message larger than max \
                 ({message_bytes} vs. {max})\n"
            );
            return Some(Answer::new(500, text));
        }
        None
    }

    /// Stores what may be stored; the answer is the ingester's, if it is not content, with the
    /// number of entries that it refused.
    fn ingest(&mut self, push: &Push<'_>, passed: &Passed<'_>) -> (Option<Answer>, u64) {
        let (tenant, labels) = (push.tenant, passed.labels.canonical.as_str());
        let count = passed.entries.len();
        let max = self.limits.streams_max;
        let Some(at) = self.tenants.stream(tenant, labels, max, push.alone) else {
            self.refuse(tenant, Reason::StreamLimit, count as u64);
            return (Some(too_many_streams(user(tenant), labels)), count as u64);
        };
        let behind_ns_max = self.limits.behind_ns_max();
        let mut newest_ns = self.tenants.streams[at].newest_ns;
        let mut late = Ignored::default();
        let mut bytes = 0;
        let in_time = |newest_ns: &mut i64, entry: &Entry<'_>| {
            let oldest = newest_ns.saturating_sub(behind_ns_max);
            *newest_ns = entry.timestamp_ns.max(*newest_ns);
            if entry.timestamp_ns < oldest { Err(oldest) } else { Ok(()) }
        };
        for (entry, _) in &passed.entries {
            match in_time(&mut newest_ns, entry) {
                Ok(()) => bytes += bytes_of(entry),
                Err(oldest) => late.add(entry.timestamp_ns, || too_far_behind(entry, oldest)),
            }
        }
        if let Some(rate) = self.limits.stream_rate
            && !self.tenants.streams[at].bucket.take(bytes, rate, push.clock_ns)
        {
            // All or nothing of a stream.
            self.refuse(tenant, Reason::StreamRate, count as u64);
            let mut ignored = Ignored::default();
            for (entry, _) in &passed.entries {
                ignored.add(entry.timestamp_ns, || {
                    format!(
                        "Per stream rate limit exceeded (limit: {}MB/sec) while attempting to \
                         ingest for stream '{labels}' totaling {}B, consider splitting a stream \
                         via additional labels or contact your Loki administrator to see if the \
                         limit can be increased",
                        rate.bytes_per_second >> 20,
                        bytes_of(entry)
                    )
                });
            }
            return (ignored.answer(429, user(tenant), count, labels), count as u64);
        }
        let mut newest_before_ns = self.tenants.streams[at].newest_ns;
        self.tenants.streams[at].newest_ns = newest_ns;
        for (entry, metadata) in &passed.entries {
            if late.count() == 0 || in_time(&mut newest_before_ns, entry).is_ok() {
                self.account(at, entry, *metadata, push.received_ns);
            }
        }
        let refused = late.count();
        self.refuse(tenant, Reason::TooFarBehind, refused);
        (late.answer(400, user(tenant), count, labels), refused)
    }
}

fn too_many_streams(user: &str, labels: &str) -> Answer {
    let text = format!(
        "Maximum active stream limit exceeded when trying to create stream {labels}, reduce \
         the number of active streams (reduce labels or reduce label values), or contact your \
         Loki administrator to see if the limit can be increased, user: '{user}'\n"
    );
    Answer::new(429, text)
}

fn too_far_behind(entry: &Entry<'_>, oldest_ns: i64) -> String {
    format!(
        "entry too far behind, entry timestamp is: {}, oldest acceptable timestamp is: {}",
        rfc3339(entry.timestamp_ns),
        rfc3339(oldest_ns),
    )
}
