//! `log-capturer state show | finalize | compat`: which format is written, from when on the newest, and who
//! reads it.

use super::compat::{Compat, Other};
use super::{Head, NAME, State, StateError, say};
use crate::place::{Place, PlaceArgs, PlaceError};
use crate::table::{self, row};
use clap::Subcommand;
use io::format::{FORMAT_VERSION, FormatVersion, Versions, reads_up_to};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Write};

const SHOW: &str = "\
JSON: {data_dir, writes, stated (what data_dir/format says, or null), newest (of this program), reader_min \
(the oldest format whose program reads all that is there now), files: [{format, reader_min, segments, \
checkpoints}], unreadable: [{file (null: a whole log), error}], finalize: {changes, format}}.

Exit code: 0; 1 it failed; 78 wrong arguments or configuration, a file data_dir/format that is no such \
file, or a log that a later version wrote.";
const CODES: &str = "\
Exit code: 0, also where there is nothing to do; 1 it failed, or log-capturer runs; 78 wrong arguments or \
configuration, a file data_dir/format that is no such file, or a log that a later version wrote.";

const COMPAT: &str = "\
JSON: {with, reads_up_to, reversible, points_of_no_return: {passed, ahead}, kept}.

Exit code: 0 it can be gone back to; 2 it cannot; 1 it failed; 78 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Which format is written, which stand in the files, and what finalize would change.
    ///
    /// Changes nothing, and needs no stop. A log-capturer that knows a newer format reads the one before and
    /// goes on writing it, so that the program before it can be started again.
    #[command(after_help = SHOW)]
    Show {
        #[command(flatten)]
        place: PlaceArgs,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Have the newest format written from the next start on. Only while log-capturer does not run.
    ///
    /// What is there stays as it is, and is read. A program that does not know this format may be refused
    /// from then on: finalize when you will not go back to it.
    #[command(after_help = CODES)]
    Finalize {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Whether another version can take over this data_dir and give it back, and what would end that.
    ///
    /// Changes nothing, and needs no stop.
    #[command(after_help = COMPAT)]
    Compat {
        #[command(flatten)]
        place: PlaceArgs,
        /// A release such as 0.1.0, or the path of its program (with a slash), which is asked.
        #[arg(long, value_name = "VERSION|PROGRAM")]
        with: String,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Wrong(String),
    #[error("it cannot be gone back to {0}")]
    NotReversible(String),
    #[error("{0}")]
    Failed(String),
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl CommandError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, 1 where it failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Place(error) => error.exit_code(),
            CommandError::State(error) => error.exit_code(),
            CommandError::Wrong(_) => 78,
            CommandError::NotReversible(_) => 2,
            CommandError::Failed(_) | CommandError::Output(_) => 1,
        }
    }
}

/// Runs a command; its answer goes to standard output.
pub fn run(command: &Command) -> Result<(), CommandError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let ran = match command {
        Command::Show { place, json } => show(&place.open()?, *json, &mut out),
        Command::Finalize { place } => finalize(&place.open()?, &mut out),
        Command::Compat { place, with, json } => compat(&place.open()?, with, *json, &mut out),
    };
    let flushed = out.flush().map_err(CommandError::Output);
    match ran.and(flushed) {
        // Whoever read it has enough.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ran => ran,
    }
}

fn read(place: &Place) -> Result<State, CommandError> {
    std::fs::read_dir(&place.data_dir).map_err(|error| place.unlike(&error))?;
    Ok(State::read(&place.data_dir)?)
}

/// So many segments and checkpoints say the same.
fn counts(state: &State) -> BTreeMap<Versions, (u64, u64)> {
    let mut counts = BTreeMap::<Versions, (u64, u64)>::new();
    for Head { is_segment, versions, .. } in &state.files {
        let Ok(versions) = versions else { continue };
        let (segments, checkpoints) = counts.entry(*versions).or_default();
        *(if *is_segment { segments } else { checkpoints }) += 1;
    }
    counts
}

/// What says nothing of its format: files, by name, and logs.
fn unreadable(state: &State) -> Vec<(Option<String>, String)> {
    let files = state.files.iter().filter_map(|file| {
        let error = file.versions.as_ref().err()?;
        Some((Some(file.path.display().to_string()), error.to_string()))
    });
    files.chain(state.unreadable.iter().map(|error| (None, error.to_string()))).collect()
}

fn show(place: &Place, as_json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let state = read(place)?;
    let said = if as_json {
        writeln!(out, "{:#}", document(place, &state))
    } else {
        print(place, &state, out)
    };
    said.map_err(CommandError::Output)?;
    Ok(state.check()?)
}

fn document(place: &Place, state: &State) -> serde_json::Value {
    let files = counts(state).into_iter().map(|(versions, (segments, checkpoints))| {
        json!({
            "format": versions.written,
            "reader_min": versions.reader_min,
            "segments": segments,
            "checkpoints": checkpoints,
        })
    });
    let unreadable = unreadable(state).into_iter();
    json!({
        "data_dir": place.data_dir.display().to_string(),
        "writes": state.writes().number(),
        "stated": state.stated.map(FormatVersion::number),
        "newest": reads_up_to(),
        "reader_min": state.reader_min(),
        "files": files.collect::<Vec<_>>(),
        "unreadable":
            unreadable.map(|(file, error)| json!({ "file": file, "error": error })).collect::<Vec<_>>(),
        "finalize": { "changes": state.writes() < FormatVersion::NEWEST, "format": FORMAT_VERSION },
    })
}

fn print(place: &Place, state: &State, out: &mut impl Write) -> std::io::Result<()> {
    let writes = state.writes();
    let by = match state.stated {
        Some(_) => format!("says {}", place.data_dir.join(NAME).display()),
        None if state.files.is_empty() => "nothing is there yet".into(),
        None => "the newest of the files".into(),
    };
    writeln!(out, "format {writes} is written ({by}); this program knows up to {FORMAT_VERSION}")?;
    let counts = counts(state);
    if !counts.is_empty() {
        let mut rows = vec![row(["FORMAT", "READ FROM", "SEGMENTS", "CHECKPOINTS"])];
        rows.extend(counts.iter().map(|(versions, (segments, checkpoints))| {
            let (written, least) = (versions.written.into(), versions.reader_min.into());
            row([written, least, *segments, *checkpoints])
        }));
        table::print(&rows, out)?;
    }
    for (file, error) in unreadable(state) {
        let file = file.map_or_else(String::new, |file| format!("{file}: "));
        writeln!(out, "{file}{error}")?;
    }
    writeln!(out, "all that is there now is read from format {} on", state.reader_min())?;
    if writes == FormatVersion::NEWEST {
        return writeln!(out, "finalize would change nothing");
    }
    writeln!(out, "finalize would have format {FORMAT_VERSION} written from the next start on:")?;
    for version in FormatVersion::ALL.into_iter().filter(|version| *version > writes) {
        writeln!(out, "  {version}: {}", gain(version))?;
    }
    writeln!(out, "what is there stays as it is; a program of format {writes} may be refused then")
}

/// What is better from this version on.
fn gain(version: FormatVersion) -> &'static str {
    match version {
        FormatVersion::V1 => "the first",
        FormatVersion::V2 => {
            "frames tell the age of their oldest line; each tenant has a position, so that a restart sends \
             nothing again because another tenant is behind"
        }
    }
}

fn compat(
    place: &Place,
    with: &str,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let state = read(place)?;
    state.check()?;
    if let Some((file, error)) = unreadable(&state).into_iter().next() {
        let file = file.map_or_else(String::new, |file| format!("{file}: "));
        return Err(CommandError::Failed(format!(
            "{file}{error}: what cannot be read cannot be told; log-capturer wal verify names what is wrong"
        )));
    }
    let compat = Compat::of(&state, Other::of(with).map_err(CommandError::Wrong)?);
    let said = if as_json {
        writeln!(out, "{:#}", compat.document())
    } else {
        writeln!(out, "{}", compat.text())
    };
    said.map_err(CommandError::Output)?;
    if compat.is_reversible() {
        return Ok(());
    }
    Err(CommandError::NotReversible(compat.other.name))
}

fn finalize(place: &Place, out: &mut impl Write) -> Result<(), CommandError> {
    let Some(_lock) = place.lock()? else {
        return Err(CommandError::Failed(format!(
            "data_dir {} is in use by a log-capturer that runs: stop it, finalize, and start it again",
            place.data_dir.display()
        )));
    };
    let state = read(place)?;
    state.check()?;
    if state.stated == Some(FormatVersion::NEWEST) {
        writeln!(out, "format {FORMAT_VERSION} is written already, there is nothing to do")
    } else {
        let before = state.writes();
        say(&place.data_dir, FormatVersion::NEWEST)?;
        writeln!(out, "format {FORMAT_VERSION} is written from the next start on; before: {before}")
    }
    .map_err(CommandError::Output)
}
