//! A real Loki, asked for what it stored.

use crate::load::{Mark, Reading, Written};
use crate::stub::Verified;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// Loki's default for max_entries_limit_per_query.
const PAGE_ENTRIES: usize = 5_000;
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url}: {source}: is this Loki's address?")]
    Http { url: String, source: Box<ureq::Error> },
    #[error("{url}: not an answer of Loki's: {what}")]
    Answer { url: String, what: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub labels: BTreeMap<String, String>,
    pub timestamp_ns: i64,
    pub line: String,
    /// Structured metadata.
    pub metadata: BTreeMap<String, String>,
}

/// All entries of the streams that `selector` picks, from a time on, in the order of their times.
pub fn query(url: &str, selector: &str, start_ns: i64) -> Result<Vec<Entry>, Error> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen: HashSet<(BTreeMap<String, String>, i64, String)> = HashSet::new();
    let mut from_ns = start_ns;
    loop {
        let mut page = page(url, selector, from_ns)?;
        let full = page.len() >= PAGE_ENTRIES;
        page.sort_by_key(|entry| entry.timestamp_ns);
        // The last times of the page before are asked for again: equal ones may have been cut off.
        let last_ns = page.last().map(|entry| entry.timestamp_ns);
        let before = entries.len();
        for entry in page {
            let (labels, line) = (entry.labels.clone(), entry.line.clone());
            if seen.insert((labels, entry.timestamp_ns, line)) {
                entries.push(entry);
            }
        }
        match last_ns {
            Some(last_ns) if full && entries.len() > before => from_ns = last_ns,
            _ => return Ok(entries),
        }
    }
}

fn page(url: &str, selector: &str, from_ns: i64) -> Result<Vec<Entry>, Error> {
    let url = format!("{}/loki/api/v1/query_range", url.trim_end_matches('/'));
    let end_ns = from_ns.saturating_add(24 * 3_600_000_000_000);
    let http = |source: ureq::Error| Error::Http { url: url.clone(), source: Box::new(source) };
    let answer: serde_json::Value = ureq::get(&url)
        .config()
        .timeout_global(Some(TIMEOUT))
        .build()
        // Structured metadata apart from labels.
        .header("x-loki-response-encoding-flags", "categorize-labels")
        .query("query", selector)
        .query("direction", "forward")
        .query("limit", PAGE_ENTRIES.to_string())
        .query("start", from_ns.to_string())
        .query("end", end_ns.to_string())
        .call()
        .and_then(|mut response| response.body_mut().with_config().limit(1 << 30).read_to_string())
        .map_err(http)
        .and_then(|text| {
            serde_json::from_str(&text)
                .map_err(|error| Error::Answer { url: url.clone(), what: error.to_string() })
        })?;
    parse(&answer).ok_or_else(|| Error::Answer { url, what: answer.to_string() })
}

fn parse(answer: &serde_json::Value) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for stream in answer["data"]["result"].as_array()? {
        let labels = texts(&stream["stream"])?;
        for value in stream["values"].as_array()? {
            let metadata = &value[2]["structuredMetadata"];
            let metadata = if metadata.is_null() { BTreeMap::new() } else { texts(metadata)? };
            entries.push(Entry {
                labels: labels.clone(),
                timestamp_ns: value[0].as_str()?.parse().ok()?,
                line: value[1].as_str()?.to_owned(),
                metadata,
            });
        }
    }
    Some(entries)
}

fn texts(object: &serde_json::Value) -> Option<BTreeMap<String, String>> {
    let mut texts: BTreeMap<String, String> = serde_json::from_value(object.clone()).ok()?;
    // Loki's own guess from the line.
    texts.remove("detected_level");
    Some(texts)
}

/// Holds marked lines against what was written.
#[must_use]
pub fn verify(entries: &[Entry], written: &Written) -> Verified {
    let mut verified = Verified { written: written.lines_in_all(), ..Verified::default() };
    let mut seen: HashSet<(u32, u64)> = HashSet::new();
    // By stream and writer: the newest sequence number.
    let mut heads: HashMap<(&BTreeMap<String, String>, u32), u64> = HashMap::new();
    for entry in entries {
        let mark = match Mark::read(entry.line.as_bytes()) {
            Reading::Intact(mark) => mark,
            Reading::Corrupted => {
                verified.corrupted += 1;
                continue;
            }
            Reading::Unmarked => {
                verified.unmarked += 1;
                continue;
            }
        };
        let wrote = usize::try_from(mark.writer).ok().and_then(|at| written.lines.get(at));
        verified.unwritten += u64::from(wrote.is_none_or(|lines| mark.sequence >= *lines));
        if !seen.insert((mark.writer, mark.sequence)) {
            verified.repeated += 1;
            verified.repeated_visibly += 1;
            continue;
        }
        let before = heads.insert((&entry.labels, mark.writer), mark.sequence);
        verified.out_of_sequence += u64::from(before.is_some_and(|before| mark.sequence <= before));
    }
    verified.received = seen.len() as u64;
    verified.lost = verified.written.saturating_sub(verified.received - verified.unwritten);
    verified
}
