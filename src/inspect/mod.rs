//! `log-capturer wal inspect | verify | export`: what stands in the logs of a data_dir.
//!
//! - [`log`]: one log, read; [`findings`]: what is wrong with it and what to do; [`report`]: all of it
//!   in numbers; [`export`]: its entries.
//!
//! They read, whether a process runs or not, and change nothing; which frames count is judged where
//! recovery does it ([`io::wal::survey`]). Beside a process that writes, what they say is as of now.

pub mod export;
pub mod findings;
pub mod log;
pub mod report;

use crate::place::{Place, PlaceArgs, PlaceError};
use crate::table;
use clap::{Args, Subcommand};
use findings::Finding;
use io::wal::survey::Reach;
use log::{Home, Log, LogError};
use serde_json::json;
use std::io::{BufWriter, ErrorKind, Write};

const CODES: &str = "\
Exit code: 0; 1 damage was found, or it failed; 78 wrong arguments or configuration, or a log that a \
later version wrote.";
const INSPECT: &str = "\
JSON: {logs: [{shard, dlq (sink or null), dir, durable, acked, trimmed, sinks: [{sink, acked, behind: \
{tenant: seq}}], missing: [{first_seq, last_seq}], checkpoints: [{file, bytes, valid, error | newest, generation, durable, cursors, \
positions: [{sink, tag, acked}]}], segments: [{file, bytes, written_bytes, header: {valid, error | owner, \
salt, first_seq, previous_crc}, first_seq, last_seq, frames, lost_frames, torn, stale_frames, entries, \
raw_bytes, body_bytes, oldest_arrival_ns, oldest_timestamp_ns, acked_by, list}]}]}; list, with --frames: \
[{offset, seq, tenant, entries, bytes, raw_bytes, body_bytes, cursor_bytes, durable, acked, \
oldest_arrival_ns, oldest_timestamp_ns, unacked_by}]. durable and acked of a frame are what was so when \
it was written.

Exit code: 0; 1 it failed; 78 wrong arguments or configuration, or a log that a later version wrote.";
const VERIFY: &str = "\
JSON: {clean, logs: [{shard, dlq (sink or null), dir, segments, frames, entries, findings: [{weight \
(damage or normal), file, offset, first_seq, last_seq, what, fix}]}]}.

Exit code: 0; 1 damage was found, or it failed; 78 wrong arguments or configuration, or a log that a \
later version wrote.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checkpoints, positions and segments of each log.
    ///
    /// Of a segment: its length and how much of it is written (bytes), the frames that count by their
    /// sequence numbers, their entries, bytes before and after compression, the oldest arrival and the
    /// oldest timestamp, and which sinks acknowledged all of it. A running process goes on writing: what
    /// is listed is as of now.
    #[command(after_help = INSPECT)]
    Inspect {
        #[command(flatten)]
        which: WhichArgs,
        /// The dead-letter queues as well, which are logs of their own.
        #[arg(long)]
        dlq: bool,
        /// Each frame as well.
        #[arg(long)]
        frames: bool,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Read everything and say what is wrong, where, what it costs and what to do.
    ///
    /// Checked are all checksums, the sequence of frames, the chain of segments, and that bodies decode
    /// to as many entries as their headers say. What counts as damage is what a start would report; a
    /// torn tail does not: a write was under way when the power went, and nothing of it was acknowledged.
    #[command(after_help = VERIFY)]
    Verify {
        #[command(flatten)]
        which: WhichArgs,
        /// The dead-letter queues as well, which are logs of their own.
        #[arg(long)]
        dlq: bool,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Entries as JSON, one a line, to standard output; of a damaged log those that can be read.
    ///
    /// Fields: shard, seq, segment, offset, tenant (empty: that of the sink), labels, timestamp_ns, line or
    /// line_base64, metadata (pairs). What is damaged is said on standard error.
    #[command(after_help = CODES)]
    Export {
        #[command(flatten)]
        which: WhichArgs,
        /// What some sink has not acknowledged; the default.
        #[arg(long, conflicts_with = "all")]
        unacked: bool,
        /// What is acknowledged and still there, too.
        #[arg(long)]
        all: bool,
        /// What this sink has not acknowledged.
        #[arg(long, value_name = "NAME", conflicts_with = "all")]
        sink: Option<String>,
        /// Only of this tenant; empty for what goes to that of the sink.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Each line a body for POST /loki/api/v1/push (application/json), of one frame and stream.
        #[arg(long)]
        pushes: bool,
    },
}

#[derive(Debug, Args)]
pub struct WhichArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Only this shard.
    #[arg(long, value_name = "N")]
    shard: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Wrong(String),
    #[error("damage was found")]
    Damaged,
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl CommandError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Place(error) => error.exit_code(),
            CommandError::Wrong(_) => 78,
            CommandError::Log(error) if error.is_format() => 78,
            CommandError::Log(_) | CommandError::Damaged | CommandError::Output(_) => 1,
        }
    }
}

/// Runs a command; its answer goes to standard output.
pub fn run(command: &Command) -> Result<(), CommandError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let ran = match command {
        Command::Inspect { which, dlq, frames, json } => {
            inspect(which, *dlq, *frames, *json, &mut out)
        }
        Command::Verify { which, dlq, json } => verify(which, *dlq, *json, &mut out),
        Command::Export { which, unacked: _, all, sink, tenant, pushes } => {
            let place = which.place.open()?;
            let homes = which.homes(&place, false)?;
            let wanted = export::Wanted {
                all: *all,
                sink: sink.as_deref(),
                tenant: tenant.as_deref(),
                pushes: *pushes,
            };
            export::run(&homes, &sinks(&place), &wanted, &mut out)
        }
    };
    let flushed = out.flush().map_err(CommandError::Output);
    match ran.and(flushed) {
        // Whoever read it has enough.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ran => ran,
    }
}

impl WhichArgs {
    fn homes(&self, place: &Place, dlq: bool) -> Result<Vec<Home>, CommandError> {
        let all = log::homes(&place.data_dir, dlq).map_err(|error| place.unlike(&error))?;
        let Some(shard) = self.shard else { return Ok(all) };
        let mut there: Vec<String> = all.iter().map(|home| home.shard.to_string()).collect();
        there.dedup();
        let of_shard: Vec<Home> = all.into_iter().filter(|home| home.shard == shard).collect();
        if of_shard.is_empty() {
            let (dir, there) = (place.data_dir.display(), there.join(", "));
            let text = format!("shard {shard}: there is no such log under {dir}, but of: {there}");
            return Err(CommandError::Wrong(text));
        }
        Ok(of_shard)
    }
}

/// The names of the sinks, where a configuration says them.
fn sinks(place: &Place) -> Vec<String> {
    let config = place.config.iter();
    config.flat_map(|config| config.sinks.iter().map(|sink| sink.name.clone())).collect()
}

fn inspect(
    which: &WhichArgs,
    dlq: bool,
    frames: bool,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let place = which.place.open()?;
    let homes = which.homes(&place, dlq)?;
    let mut documents = Vec::new();
    for home in &homes {
        let log = Log::read(home, &sinks(&place), Reach::Everything)?;
        if as_json {
            documents.push(report::document(&log, frames));
        } else {
            report::print(&log, frames, out).map_err(CommandError::Output)?;
        }
    }
    let said = if as_json {
        writeln!(out, "{:#}", json!({ "logs": documents }))
    } else if homes.is_empty() {
        writeln!(out, "no write-ahead log under {}", place.data_dir.display())
    } else {
        Ok(())
    };
    said.map_err(CommandError::Output)
}

fn verify(
    which: &WhichArgs,
    dlq: bool,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let place = which.place.open()?;
    let homes = which.homes(&place, dlq)?;
    let mut documents = Vec::new();
    let mut clean = true;
    for home in &homes {
        let (log, found) = findings::verify(home, &sinks(&place))?;
        clean &= !found.iter().any(Finding::is_damage);
        if as_json {
            documents.push(findings::document(&log, &found));
        } else {
            findings::print(&log, &found, out).map_err(CommandError::Output)?;
        }
    }
    let said = if as_json {
        writeln!(out, "{:#}", json!({ "clean": clean, "logs": documents }))
    } else if homes.is_empty() {
        writeln!(out, "no write-ahead log under {}", place.data_dir.display())
    } else {
        Ok(())
    };
    said.map_err(CommandError::Output)?;
    if clean { Ok(()) } else { Err(CommandError::Damaged) }
}

/// A time, where there is one.
fn when(ns: Option<i64>) -> String {
    ns.map_or_else(|| "-".into(), table::time)
}
