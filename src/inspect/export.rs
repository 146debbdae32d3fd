//! The entries of logs, one JSON object a line, in the forms of `dlq export`; or as pushes.

use super::CommandError;
use super::findings::{self, Finding};
use super::log::{Home, Log};
use crate::labels;
use crate::part::{Part, Taken};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use io::format::FrameView;
use io::wal::survey::{Frame, Reach, Surveyed};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Which entries, and in what form.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub all: bool,
    /// What this one has not acknowledged; else what some sink has not.
    pub sink: Option<&'a str>,
    pub tenant: Option<&'a str>,
    pub pushes: bool,
}

/// An entry; of the two forms of a line there is one.
#[derive(Serialize)]
struct Entry<'a> {
    shard: usize,
    seq: u64,
    segment: &'a str,
    offset: u64,
    tenant: &'a str,
    labels: &'a str,
    timestamp_ns: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line_base64: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    metadata: &'a [(&'a str, &'a str)],
}

/// What is damaged is said on standard error, and the rest is given.
pub fn run(
    homes: &[Home],
    sinks: &[String],
    wanted: &Wanted<'_>,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let mut damaged = false;
    for home in homes {
        let (log, found) = findings::read(home, sinks, Reach::Everything)?;
        if let Some(sink) = wanted.sink.filter(|sink| !log.sinks.iter().any(|name| name == sink)) {
            let there = log.sinks.join(", ");
            let text = format!("sink {sink:?}: {home} knows none of that name, but: {there}");
            return Err(CommandError::Wrong(text));
        }
        for finding in found.iter().filter(|finding| finding.is_damage()) {
            damaged |= say(finding);
        }
        damaged |= export(&log, wanted, out).map_err(CommandError::Output)?;
    }
    if damaged { Err(CommandError::Damaged) } else { Ok(()) }
}

fn say(finding: &Finding) -> bool {
    eprintln!("{finding}");
    true
}

impl Wanted<'_> {
    fn takes(&self, log: &Log, frame: &Frame) -> bool {
        let is_tenant = self.tenant.is_none_or(|tenant| frame.tag == tenant.as_bytes());
        let waits = || match self.sink {
            Some(sink) => log.waiting(frame).any(|waiting| waiting == sink),
            None => log.waiting(frame).next().is_some(),
        };
        is_tenant && (self.all || waits())
    }
}

/// True where something could not be given.
fn export(log: &Log, wanted: &Wanted<'_>, out: &mut impl Write) -> std::io::Result<bool> {
    let mut lost = false;
    log.each(|frame| wanted.takes(log, frame), &mut |segment, frame, view| {
        let part = match &view {
            Ok(FrameView { body, .. }) => Part::read(body).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match part {
            Ok(part) if wanted.pushes => lost |= pushes(&place(log, segment, frame), &part, out)?,
            Ok(part) => entries(log, segment, frame, &part, out)?,
            Err(error) => {
                lost = true;
                eprintln!("{}: the body: {error}", place(log, segment, frame));
            }
        }
        Ok(true)
    })?;
    Ok(lost)
}

fn place(log: &Log, segment: &Surveyed, frame: &Frame) -> String {
    let file = log.home.dir.join(&segment.name);
    format!("{}: byte {}: frame {}", file.display(), frame.offset, frame.header.seq)
}

fn entries(
    log: &Log,
    segment: &Surveyed,
    frame: &Frame,
    part: &Part,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let tenant = String::from_utf8_lossy(&frame.tag);
    for Taken { labels, stamp_ns, line, metadata } in part.entries() {
        let text = std::str::from_utf8(line).ok();
        let entry = Entry {
            shard: log.home.shard,
            seq: frame.header.seq.0,
            segment: &segment.name,
            offset: frame.offset,
            tenant: &tenant,
            labels,
            timestamp_ns: stamp_ns,
            line: text,
            line_base64: text.is_none().then(|| BASE64.encode(line)),
            metadata: &metadata,
        };
        serde_json::to_writer(&mut *out, &entry)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// One push for each stream; true where JSON could not hold all of it.
fn pushes(place: &str, part: &Part, out: &mut impl Write) -> std::io::Result<bool> {
    let mut lost = false;
    for stream in part.streams() {
        let text = stream.stream().expect("each is one stream");
        let pairs = match labels::parse(text) {
            Ok(pairs) => pairs,
            Err(error) => {
                eprintln!("{place}: labels {text}: {error}; its entries are left out");
                lost = true;
                continue;
            }
        };
        let labels: Map<String, Value> =
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let values: Vec<Value> = stream.entries().map(|entry| value(&entry)).collect();
        let changed = stream.entries().filter(|entry| std::str::from_utf8(entry.line).is_err());
        let changed = changed.count();
        if changed > 0 {
            eprintln!(
                "{place}: {changed} lines are not UTF-8: U+FFFD stands for what JSON cannot hold"
            );
            lost = true;
        }
        let push = json!({ "streams": [{ "stream": labels, "values": values }] });
        writeln!(out, "{push}")?;
    }
    Ok(lost)
}

fn value(entry: &Taken<'_>) -> Value {
    let Taken { stamp_ns, line, metadata, .. } = entry;
    let mut value = vec![stamp_ns.to_string().into(), String::from_utf8_lossy(line).into()];
    if !metadata.is_empty() {
        let pairs = metadata.iter().map(|(name, text)| ((*name).to_owned(), (*text).into()));
        value.push(Value::Object(pairs.collect()));
    }
    value.into()
}
