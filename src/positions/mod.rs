//! `log-capturer positions list | export | import`: how far each source was read.
//!
//! There is no file of positions: they are the cursors in the logs of all shards, where of two for one
//! file the later counts ([`crate::discover::latest`]). [`list`] reads them, whether a process runs or
//! not; [`import`] writes some, while none does; [`form`] is one on the way between.

pub mod form;
pub mod import;
pub mod list;

use crate::inspect::log::LogError;
use crate::place::{PlaceArgs, PlaceError};
use crate::state::StateError;
use clap::Subcommand;
use io::wal::WalError;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

const CODES: &str = "\
Exit code: 0; 1 it failed, or a position was refused; 78 wrong arguments, input or configuration, or a \
log that a later version wrote.";

const FIELDS: &str = "\
JSON: path and file (where it is now, or null), each a text or {base64}; offset, size, behind_bytes; \
stamp_ns; skipping (the rest of a line that was cut); dev (major:minor), ino, birth_ns; fingerprint: \
{bytes, crc32c} of its first bytes; shard. list --json: {positions: [...]}.

Exit code: 0; 1 it failed; 78 wrong arguments or configuration, or a log that a later version wrote.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// How far each source was read, and how much is left of it.
    ///
    /// PATH is where a file was first found, its label; NOW where it is, if that is elsewhere. Offsets,
    /// sizes and what is left are in bytes; STAMP is the last timestamp given to its stream. A running
    /// process goes on reading: what is listed is as of now, and not ahead of what is durable.
    #[command(after_help = FIELDS)]
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Positions as JSON, one a line, to standard output.
    #[command(after_help = FIELDS)]
    Export {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Have the next run read files from given positions. Only while log-capturer does not run.
    ///
    /// FILE holds what `positions export` printed, or `path: offset` in bytes, as YAML or JSON; promtail's
    /// positions.yaml is that. Which file it is (device, inode, birth time, first bytes) is taken from the
    /// file as it is now; where an export tells its first bytes, it has to begin so still. Nothing is
    /// written unless all of it can be. A position goes forward only, and what lies between is not sent; see
    /// --force.
    #[command(after_help = CODES)]
    Import {
        /// The configuration file (YAML): whose data_dir, and which files are read by which shard.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What to import; - is standard input.
        #[arg(value_name = "FILE", default_value = "-")]
        from: PathBuf,
        /// Leave out what cannot be imported (its file is missing, another, shorter, or not included by
        /// sources.files), say so, and import the rest.
        #[arg(long)]
        skip_missing: bool,
        /// Also go back: lines from there on are sent again, with new timestamps, so that Loki stores
        /// them twice.
        #[arg(long)]
        force: bool,
        /// Only say what would be written.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Input(#[from] config::Errors),
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Wal(#[from] WalError),
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl CommandError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Place(error) => error.exit_code(),
            CommandError::State(error) => error.exit_code(),
            CommandError::Input(_) | CommandError::Wrong(_) => 78,
            CommandError::Log(error) if error.is_format() => 78,
            _ => 1,
        }
    }
}

/// Runs a command; its answer goes to standard output.
pub fn run(command: &Command) -> Result<(), CommandError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let ran = match command {
        Command::List { place, json } => list::list(&place.open()?, *json, &mut out),
        Command::Export { place } => list::export(&place.open()?, &mut out),
        Command::Import { config, from, skip_missing, force, dry_run } => {
            let place = PlaceArgs { config: Some(config.clone()), data_dir: None }.open()?;
            let how = import::How { skip: *skip_missing, force: *force, dry_run: *dry_run };
            import::run(&place, from, how, &mut out)
        }
    };
    let flushed = out.flush().map_err(CommandError::Output);
    match ran.and(flushed) {
        // Whoever read it has enough.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ran => ran,
    }
}
