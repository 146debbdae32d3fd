//! `log-capturer dlq list | show | export | replay | purge`.
//!
//! The first three read, whether a process runs or not. The others change something: they do it
//! themselves where no process runs, and else ask the one that does ([`super::change`]).

use super::change;
use super::filter::{Filter, FilterError};
use super::index::FrameInfo;
use super::offline::{self, Queue, Survey};
use super::record::Record;
use super::store::DlqError;
use crate::ask::AccessArgs;
use crate::inspect::log::LogError;
use crate::labels;
use crate::place::{Place, PlaceArgs, PlaceError};
use crate::state::StateError;
use crate::table::{self, age, plain, time};
use clap::{Args, Subcommand};
use io::disk::DiskError;
use perf::clock::unix_ns;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Write};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What waits in each queue, by shard and sink.
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Each frame as well.
        #[arg(long)]
        frames: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Entries in full.
    Show {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        which: FilterArgs,
        /// So many at most.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Entries as JSON, one a line, to standard output.
    Export {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        which: FilterArgs,
    },
    /// Send entries again now; those that are accepted leave the queue. Needs --config.
    Replay {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        which: FilterArgs,
        /// Add a label, in place of one of the same name.
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// Send them with the present time, and their own as metadata original_timestamp.
        #[arg(long)]
        restamp: bool,
        /// Only say what would be sent.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Remove entries for good.
    Purge {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        which: FilterArgs,
        /// All of them: in place of a filter.
        #[arg(long, conflicts_with = "filter")]
        all: bool,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        access: AccessArgs,
    },
}

#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Which entries: reason=too_old, status=400, tenant=NAME, sink=NAME, older=1h, newer=1h,
    /// text~WORDS, line~WORDS, label.NAME=VALUE. All that are given must hold.
    #[arg(long, value_name = "CONDITION")]
    filter: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Filter(#[from] FilterError),
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Dlq(#[from] DlqError),
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl CommandError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, 1 where it failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Filter(_) | CommandError::Wrong(_) => 78,
            CommandError::Place(error) => error.exit_code(),
            CommandError::State(error) => error.exit_code(),
            CommandError::Log(error) if error.is_format() => 78,
            _ => 1,
        }
    }
}

pub fn queues(place: &Place) -> Result<Vec<Queue>, CommandError> {
    Ok(offline::queues(&place.data_dir).map_err(|error| place.unlike(&error))?)
}

/// Runs a command; its answer goes to standard output.
pub fn run(command: &Command) -> Result<(), CommandError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let ran = match command {
        Command::List { place, frames, json } => list(&place.open()?, *frames, *json, &mut out),
        Command::Show { place, which, limit } => {
            let filter = Filter::parse(&which.filter)?;
            let mut left = *limit;
            entries(&place.open()?, &filter, &mut |queue, info, record| {
                left = left.saturating_sub(1);
                show(&mut out, queue, info, record)?;
                Ok(left > 0)
            })
        }
        Command::Export { place, which } => {
            let filter = Filter::parse(&which.filter)?;
            let mut line = Vec::new();
            entries(&place.open()?, &filter, &mut |_, _, record| {
                line.clear();
                record.write_line(&mut line);
                out.write_all(&line).map(|()| true)
            })
        }
        Command::Replay { place, which, labels, restamp, dry_run, access } => {
            let filter = Filter::parse(&which.filter)?;
            let labels = parse_labels(labels)?;
            let place = place.open()?;
            if *dry_run {
                count(&place, &filter, "would be sent", &mut out)
            } else {
                change::replay(&place, access, &filter, &labels, *restamp, &mut out)
            }
        }
        Command::Purge { place, which, all, dry_run, access } => {
            let filter = Filter::parse(&which.filter)?;
            if filter.is_empty() && !all {
                let text = "purge: expected --filter CONDITION, or --all to remove everything";
                return Err(CommandError::Wrong(text.into()));
            }
            let place = place.open()?;
            if *dry_run {
                count(&place, &filter, "would be removed", &mut out)
            } else {
                change::purge(&place, access, &filter, &mut out)
            }
        }
    };
    match ran.and_then(|()| out.flush().map_err(CommandError::Output)) {
        // Whoever read it has enough.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ran => ran,
    }
}

fn parse_labels(texts: &[String]) -> Result<BTreeMap<String, String>, CommandError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if labels::is_name(name) && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(CommandError::Wrong(format!(
            "label {text:?}: expected NAME=VALUE, the name of letters, digits and _, no digit first"
        ))),
    };
    texts.iter().map(pair).collect()
}

/// What was found wrong goes to standard error, whatever else is said.
fn survey(queue: &Queue) -> Result<Survey, CommandError> {
    let survey = offline::survey(queue)?;
    let Queue { shard, sink, .. } = queue;
    for finding in &survey.damage {
        eprintln!("shard {shard}, sink {sink}: {finding}");
    }
    if survey.damaged_frames > 0 {
        let frames = survey.damaged_frames;
        eprintln!("shard {shard}, sink {sink}: {frames} frames are damaged, the rest is read");
    }
    for (seq, error) in &survey.undecodable {
        eprintln!("shard {shard}, sink {sink}: frame {seq}: {error}");
    }
    Ok(survey)
}

type Take<'a> = &'a mut dyn FnMut(&Queue, &FrameInfo, &Record) -> std::io::Result<bool>;

/// Gives all entries that match, one frame in memory at a time, until `take` has enough.
fn entries(place: &Place, filter: &Filter, take: Take<'_>) -> Result<(), CommandError> {
    let now_ns = unix_ns();
    let mut outcome = Ok(true);
    for queue in queues(place)? {
        if !matches!(outcome, Ok(true)) {
            break;
        }
        let survey = survey(&queue)?;
        offline::each(&queue, &survey, &mut |info, records| {
            for record in records.iter().filter(|record| filter.matches(record, now_ns)) {
                outcome = take(&queue, info, record);
                if !matches!(outcome, Ok(true)) {
                    return false;
                }
            }
            true
        })?;
    }
    outcome.map(drop).map_err(CommandError::Output)
}

fn count(
    place: &Place,
    filter: &Filter,
    what: &str,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let mut count = 0_u64;
    entries(place, filter, &mut |_, _, _| {
        count += 1;
        Ok(true)
    })?;
    writeln!(out, "{count} entries {what}").map_err(CommandError::Output)
}

fn list(
    place: &Place,
    frames: bool,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let now_ns = unix_ns();
    let mut rows = vec![head()];
    let mut documents = Vec::new();
    for queue in queues(place)? {
        let survey = survey(&queue)?;
        let all: Vec<&FrameInfo> = survey.index.iter().collect();
        rows.push(row(&queue, None, &all, survey.bytes, now_ns));
        if frames {
            let frame = |info: &&FrameInfo| {
                row(&queue, Some(info), std::slice::from_ref(info), info.bytes, now_ns)
            };
            rows.extend(all.iter().map(frame));
        }
        let stats = survey.index.stats(u32::MAX);
        let mut about = json!({
            "shard": queue.shard,
            "sink": queue.sink,
            "entries": stats.entries,
            "frames": stats.frames,
            "bytes": survey.bytes,
            "reasons": stats.by_reason,
            "oldest_ns": stats.oldest_ns,
            "attempts": all.iter().map(|info| info.attempts).max(),
            "undecodable_frames": stats.undecodable_frames,
            "damaged_frames": survey.damaged_frames,
        });
        if frames {
            about["list"] = all.iter().map(|info| frame_json(info)).collect();
        }
        documents.push(about);
    }
    let said = if as_json {
        writeln!(out, "{:#}", json!({ "queues": documents }))
    } else if rows.len() == 1 {
        writeln!(out, "no dead-letter queue under {}", place.data_dir.display())
    } else {
        table::print(&rows, out)
    };
    said.map_err(CommandError::Output)
}

fn frame_json(info: &FrameInfo) -> serde_json::Value {
    json!({
        "frame": info.seq.0,
        "entries": info.entries,
        "bytes": info.bytes,
        "reasons": info.reasons.iter().map(|(r, n)| (r.name(), n)).collect::<BTreeMap<_, _>>(),
        "oldest_ns": info.oldest_ns,
        "rejected_ns": info.rejected_ns,
        "attempts": info.attempts,
        "undecodable": info.undecodable,
    })
}

fn head() -> Vec<String> {
    table::row(["SHARD", "SINK", "FRAME", "ENTRIES", "BYTES", "OLDEST", "ATTEMPTS", "REASONS"])
}

/// Of a frame, or of all of them.
fn row(
    queue: &Queue,
    frame: Option<&FrameInfo>,
    of: &[&FrameInfo],
    bytes: u64,
    now: i64,
) -> Vec<String> {
    let mut reasons = BTreeMap::<&str, u64>::new();
    for (reason, count) in of.iter().flat_map(|info| &info.reasons) {
        *reasons.entry(reason.name()).or_default() += u64::from(*count);
    }
    let unknown = of.iter().filter(|info| info.undecodable).map(|info| u64::from(info.entries));
    let unknown: u64 = unknown.sum();
    if of.iter().any(|info| info.undecodable) {
        reasons.insert("not understood", unknown);
    }
    let reasons: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let oldest = of.iter().map(|info| info.oldest_ns).min();
    let attempts = of.iter().map(|info| info.attempts).max();
    vec![
        queue.shard.to_string(),
        queue.sink.clone(),
        frame.map_or_else(|| format!("all {}", of.len()), |info| info.seq.to_string()),
        of.iter().map(|info| u64::from(info.entries)).sum::<u64>().to_string(),
        bytes.to_string(),
        oldest.map_or_else(|| "-".into(), |oldest| age(now.saturating_sub(oldest))),
        attempts.map_or_else(|| "-".into(), |attempts| attempts.to_string()),
        if reasons.is_empty() { "-".into() } else { reasons.join(", ") },
    ]
}

fn show(
    out: &mut impl Write,
    queue: &Queue,
    info: &FrameInfo,
    record: &Record,
) -> std::io::Result<()> {
    let Record { labels, tenant, reason, attempts, origin, .. } = record;
    writeln!(out, "shard {}, sink {}, frame {}", queue.shard, queue.sink, info.seq)?;
    let mut row = |name: &str, value: &str| writeln!(out, "  {name:<9} {}", plain(value));
    row("time", &time(record.timestamp_ns))?;
    row("labels", labels)?;
    row("line", &String::from_utf8_lossy(&record.line))?;
    for (name, value) in &record.metadata {
        row("metadata", &format!("{name}={value}"))?;
    }
    if !tenant.is_empty() {
        row("tenant", tenant)?;
    }
    let status = record.status.map_or_else(String::new, |status| format!(" ({status})"));
    row("reason", &format!("{reason}{status}"))?;
    row("answer", &record.text)?;
    let (first, last) = (time(record.first_rejected_ns), time(record.rejected_ns));
    row("refused", &format!("first {first}, last {last}, sent again {attempts} times"))?;
    let arrived = time(record.arrived_ns);
    row("origin", &format!("shard {}, frame {}, arrived {arrived}", origin.shard, origin.frame))?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        let labels = parse_labels(&["a=b=c".into(), "d=e".into()]).unwrap();
        assert_eq!(labels["a"], "b=c");
        for wrong in ["a", "1a=b", "=b", "a="] {
            let error = parse_labels(&[wrong.into()]).unwrap_err();
            assert_eq!(error.exit_code(), 78);
            assert!(error.to_string().contains("expected NAME=VALUE"), "{error}");
        }
    }
}
