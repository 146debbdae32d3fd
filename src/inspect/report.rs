//! A log in numbers.

use super::log::Log;
use super::when;
use crate::table::{self, plain, row};
use io::format::{Checkpoint, SinkAcked};
use io::wal::scan::SeqRange;
use io::wal::survey::{Frame, Slot, Surveyed};
use serde_json::{Value, json};
use std::io::Write;

/// The frames of a segment, added up.
struct Sums {
    frames: usize,
    entries: u64,
    raw_bytes: u64,
    body_bytes: u64,
    /// Up to the end of the last one.
    written_bytes: u64,
    oldest_arrival_ns: Option<i64>,
    oldest_stamp_ns: Option<i64>,
}

impl Sums {
    fn of(segment: &Surveyed) -> Sums {
        let headers = || segment.kept().map(|frame| &frame.header);
        let last = segment.kept().next_back();
        Sums {
            frames: segment.kept().count(),
            entries: headers().map(|header| u64::from(header.entries)).sum(),
            raw_bytes: headers().map(|header| u64::from(header.raw_len)).sum(),
            body_bytes: headers().map(|header| u64::from(header.body_len)).sum(),
            written_bytes: last.map_or(0, |last| last.offset + last.header.frame_bytes() as u64),
            oldest_arrival_ns: headers().map(|header| header.oldest_arrival_ns).min(),
            oldest_stamp_ns: headers().map(|header| header.oldest_stamp_ns).min(),
        }
    }
}

/// As JSON.
#[must_use]
pub fn document(log: &Log, frames: bool) -> Value {
    let sinks = log.sinks.iter().zip(&log.standing.sinks);
    let behind = |acked: &io::wal::Acked| -> serde_json::Map<String, Value> {
        acked.behind.iter().map(|(tag, seq)| (tag.clone(), seq.0.into())).collect()
    };
    json!({
        "shard": log.home.shard,
        "dlq": log.home.queue,
        "dir": log.home.dir,
        "durable": log.survey.durable.0,
        "acked": log.standing.acked.0,
        "trimmed": log.standing.trimmed.0,
        "sinks": sinks.map(|(sink, acked)| json!({
            "sink": sink, "acked": acked.all.0, "behind": behind(acked),
        })).collect::<Vec<_>>(),
        "missing": missing(log).map(|gap| json!({
            "first_seq": gap.first.0, "last_seq": gap.last.0,
        })).collect::<Vec<_>>(),
        "checkpoints": log.survey.slots.iter().map(|slot| slot_document(log, slot)).collect::<Vec<_>>(),
        "segments": log.survey.segments.iter().map(|segment| {
            segment_document(log, segment, frames)
        }).collect::<Vec<_>>(),
    })
}

/// Frames whose whole segments are not there.
fn missing(log: &Log) -> impl Iterator<Item = SeqRange> {
    log.standing.gaps.iter().map(|gap| gap.frames)
}

fn slot_document(log: &Log, slot: &Slot) -> Value {
    let file = log.home.dir.join(slot.name);
    match &slot.found {
        Ok(checkpoint) => json!({
            "file": file,
            "bytes": slot.bytes,
            "valid": true,
            "newest": is_newest(log, checkpoint),
            "generation": checkpoint.generation,
            "durable": checkpoint.durable.0,
            "cursors": checkpoint.cursors.len(),
            "positions": checkpoint.acked.iter().map(|SinkAcked { sink, tag, acked }| json!({
                "sink": sink, "tag": tag, "acked": acked.0,
            })).collect::<Vec<_>>(),
        }),
        Err(error) => json!({
            "file": file, "bytes": slot.bytes, "valid": false, "error": error.to_string(),
        }),
    }
}

fn segment_document(log: &Log, segment: &Surveyed, frames: bool) -> Value {
    let sums = Sums::of(segment);
    let header = match &segment.header {
        Ok(header) => json!({
            "valid": true,
            "owner": header.owner,
            "salt": format!("{:016x}", header.salt),
            "first_seq": header.first_seq.0,
            "previous_crc": format!("{:08x}", header.previous_crc),
        }),
        Err(error) => json!({ "valid": false, "error": error.to_string() }),
    };
    let mut about = json!({
        "file": log.home.dir.join(&segment.name),
        "bytes": segment.bytes,
        "written_bytes": sums.written_bytes,
        "header": header,
        "first_seq": segment.first_seq.0,
        "last_seq": segment.last_seq.0,
        "frames": sums.frames,
        "lost_frames": lost(segment),
        "torn": segment.judged.torn,
        "stale_frames": segment.stale.len(),
        "entries": sums.entries,
        "raw_bytes": sums.raw_bytes,
        "body_bytes": sums.body_bytes,
        "oldest_arrival_ns": sums.oldest_arrival_ns,
        "oldest_timestamp_ns": sums.oldest_stamp_ns,
        "acked_by": acked_by(log, segment),
    });
    if frames {
        about["list"] = segment.kept().map(|frame| frame_document(log, frame)).collect();
    }
    about
}

fn frame_document(log: &Log, frame: &Frame) -> Value {
    let header = &frame.header;
    json!({
        "offset": frame.offset,
        "seq": header.seq.0,
        "tenant": String::from_utf8_lossy(&frame.tag),
        "entries": header.entries,
        "bytes": header.frame_bytes(),
        "raw_bytes": header.raw_len,
        "body_bytes": header.body_len,
        "cursor_bytes": header.meta_len - u32::from(header.tag_len),
        "durable": header.durable.0,
        "acked": header.acked.0,
        "oldest_arrival_ns": header.oldest_arrival_ns,
        "oldest_timestamp_ns": header.oldest_stamp_ns,
        "unacked_by": log.waiting(frame).collect::<Vec<_>>(),
    })
}

fn is_newest(log: &Log, checkpoint: &Checkpoint) -> bool {
    checkpoint.generation == log.survey.checkpoint.generation
}

fn lost(segment: &Surveyed) -> u64 {
    segment.judged.gaps.iter().map(|gap| gap.last.0 - gap.first.0 + 1).sum()
}

fn acked_by<'a>(log: &'a Log, segment: &Surveyed) -> Vec<&'a str> {
    log.acked_by(segment.last_seq).collect()
}

/// For people.
pub fn print(log: &Log, frames: bool, out: &mut impl Write) -> std::io::Result<()> {
    let (survey, standing) = (&log.survey, &log.standing);
    writeln!(out, "{}  {}", log.home, log.home.dir.display())?;
    let (durable, acked) = (survey.durable, standing.acked);
    writeln!(out, "durable {durable}, acked by every sink {acked}, trimmed {}", standing.trimmed)?;
    for (sink, acked) in log.sinks.iter().zip(&standing.sinks) {
        writeln!(out, "sink {sink}: acked {}", acked.all)?;
        for (tag, acked) in &acked.behind {
            writeln!(out, "sink {sink}, tenant {:?}: acked {acked}", plain(tag))?;
        }
    }
    for gap in missing(log) {
        writeln!(out, "missing: the segments of frames {gap}")?;
    }
    writeln!(out)?;
    table::print(&slots(log), out)?;
    writeln!(out)?;
    table::print(&segments(log), out)?;
    if frames {
        writeln!(out)?;
        table::print(&frames_of(log), out)?;
    }
    writeln!(out)
}

fn slots(log: &Log) -> Vec<Vec<String>> {
    let head =
        row(["CHECKPOINT", "BYTES", "STATE", "GENERATION", "DURABLE", "CURSORS", "POSITIONS"]);
    let slot = |slot: &Slot| match &slot.found {
        Ok(checkpoint) => {
            let state = if is_newest(log, checkpoint) { "newest" } else { "older" };
            let position = |SinkAcked { sink, tag, acked }: &SinkAcked| match tag {
                None => format!("{sink} {acked}"),
                Some(tag) => format!("{sink}/{} {acked}", plain(tag)),
            };
            let positions: Vec<String> = checkpoint.acked.iter().map(position).collect();
            vec![
                slot.name.to_owned(),
                slot.bytes.to_string(),
                state.to_owned(),
                checkpoint.generation.to_string(),
                checkpoint.durable.to_string(),
                checkpoint.cursors.len().to_string(),
                positions.join(", "),
            ]
        }
        Err(error) => vec![
            slot.name.to_owned(),
            slot.bytes.to_string(),
            "damaged".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            error.to_string(),
        ],
    };
    std::iter::once(head).chain(log.survey.slots.iter().map(slot)).collect()
}

fn segments(log: &Log) -> Vec<Vec<String>> {
    let head = row([
        "SEGMENT",
        "BYTES",
        "WRITTEN BYTES",
        "FIRST",
        "LAST",
        "FRAMES",
        "ENTRIES",
        "RAW BYTES",
        "BODY BYTES",
        "OLDEST ARRIVAL",
        "OLDEST TIMESTAMP",
        "ACKED BY",
        "STATE",
    ]);
    let segment = |segment: &Surveyed| {
        let sums = Sums::of(segment);
        let acked = acked_by(log, segment);
        vec![
            segment.name.clone(),
            segment.bytes.to_string(),
            sums.written_bytes.to_string(),
            segment.first_seq.to_string(),
            segment.last_seq.to_string(),
            sums.frames.to_string(),
            sums.entries.to_string(),
            sums.raw_bytes.to_string(),
            sums.body_bytes.to_string(),
            when(sums.oldest_arrival_ns),
            when(sums.oldest_stamp_ns),
            if acked.is_empty() { "-".to_owned() } else { acked.join(", ") },
            state(segment),
        ]
    };
    std::iter::once(head).chain(log.survey.segments.iter().map(segment)).collect()
}

/// What `wal verify` tells more of.
fn state(segment: &Surveyed) -> String {
    let lost = lost(segment);
    match &segment.header {
        _ if segment.unreadable.is_some() => "unreadable".into(),
        Err(_) if segment.is_foreign() => "of another log".into(),
        _ if lost > 0 => format!("{lost} frames lost"),
        Err(_) => "header damaged".into(),
        Ok(_) if segment.judged.torn => "torn tail".into(),
        Ok(_) => "whole".into(),
    }
}

fn frames_of(log: &Log) -> Vec<Vec<String>> {
    let head = row([
        "SEGMENT",
        "OFFSET",
        "SEQ",
        "ENTRIES",
        "BYTES",
        "RAW BYTES",
        "BODY BYTES",
        "DURABLE",
        "ACKED",
        "OLDEST ARRIVAL",
        "UNACKED BY",
        "TENANT",
    ]);
    let mut rows = vec![head];
    for segment in log.survey.ours() {
        rows.extend(segment.kept().map(|frame| {
            let header = &frame.header;
            let waiting: Vec<&str> = log.waiting(frame).collect();
            vec![
                segment.name.clone(),
                frame.offset.to_string(),
                header.seq.to_string(),
                header.entries.to_string(),
                header.frame_bytes().to_string(),
                header.raw_len.to_string(),
                header.body_len.to_string(),
                header.durable.to_string(),
                header.acked.to_string(),
                when(Some(header.oldest_arrival_ns)),
                if waiting.is_empty() { "-".to_owned() } else { waiting.join(", ") },
                format!("{:?}", plain(&String::from_utf8_lossy(&frame.tag))),
            ]
        }));
    }
    rows
}
