//! `log-capturer config history | diff | reload | rollback`: what was in force, and how to get back to it.

use super::difference::{Change, between};
use super::history::{self, History, HistoryError, Version};
use crate::ask::{Access, AccessArgs, AccessError, Server, hint};
use crate::panel::shown_version;
use crate::table::{self, row};
use clap::Subcommand;
use config::Config;
use serde_json::{Value, json};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CODES: &str = "\
Exit code: 0, also where there is nothing to do; 1 it failed, or the instance refused it or does not answer; \
78 wrong arguments or configuration.";
/// The instance makes durable what is under way first.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The configurations that were in force; the last one is.
    #[command(after_help = CODES)]
    History {
        /// The configuration file (YAML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// What is different, key by key: between the one in force and the file, or between two versions.
    #[command(after_help = CODES)]
    Diff {
        /// The configuration file (YAML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// A version; without one, the one in force.
        from: Option<u64>,
        /// A version; without one, the file.
        to: Option<u64>,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Have the running instance read its file again.
    #[command(after_help = CODES)]
    Reload {
        /// The configuration file (YAML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Back to a version that was in force: into the file, and into force where an instance runs.
    ///
    /// What stood in the file is kept beside it, as FILE.before-rollback.
    #[command(after_help = CODES)]
    Rollback {
        /// The configuration file (YAML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// A version; without one, the last one before the one in force.
        version: Option<u64>,
        /// Only write the file.
        #[arg(long)]
        no_reload: bool,
        /// Where the versions are, where the file cannot be read.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        #[command(flatten)]
        access: AccessArgs,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Config(#[from] config::Errors),
    #[error("{0}")]
    History(#[from] HistoryError),
    #[error("{0}")]
    Access(#[from] AccessError),
    #[error("{0}")]
    Failed(String),
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, 1 where it failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Config(_)
            | CommandError::Access(_)
            | CommandError::History(HistoryError::Unknown { .. } | HistoryError::First) => 78,
            CommandError::History(_) | CommandError::Failed(_) | CommandError::Output(_) => 1,
        }
    }
}

/// Runs a command; its answer goes to standard output.
pub fn run(command: &Command) -> Result<(), CommandError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let ran = match command {
        Command::History { config, json } => list(config, *json, &mut out),
        Command::Diff { config, from, to, json } => diff(config, (*from, *to), *json, &mut out),
        Command::Reload { config, access } => {
            reload(&config::load(config)?, &access.open()?, &mut out)
        }
        Command::Rollback { config, version, no_reload, data_dir, access } => {
            let access = if *no_reload { None } else { Some(access.open()?) };
            rollback(config, *version, access.as_ref(), data_dir.as_deref(), &mut out)
        }
    };
    let flushed = out.flush().map_err(CommandError::Output);
    match ran.and(flushed) {
        // Whoever read it has enough.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ran => ran,
    }
}

fn list(file: &Path, as_json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let versions = History::of(&config::load(file)?.data_dir).versions()?;
    if as_json {
        let versions: Vec<Value> = versions.iter().map(shown_version).collect();
        return Ok(writeln!(out, "{:#}", json!({ "versions": versions }))?);
    }
    if versions.is_empty() {
        return Ok(writeln!(out, "no configuration was in force yet")?);
    }
    let mut rows = vec![row(["VERSION", "IN FORCE SINCE", "HASH", "FILE"])];
    rows.extend(versions.iter().map(|Version { number, since, hash, path }| {
        row([number.to_string(), since.to_string(), hash.clone(), path.display().to_string()])
    }));
    Ok(table::print(&rows, out)?)
}

fn diff(
    file: &Path,
    (from, to): (Option<u64>, Option<u64>),
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let present = config::load(file)?;
    let history = History::of(&present.data_dir);
    let of = |version: Version| -> Result<Config, CommandError> {
        Ok(config::of_text(&version.read()?, &version.path)?)
    };
    let from = match from {
        Some(number) => of(history.version(Some(number))?)?,
        None => of(history.versions()?.pop().ok_or(HistoryError::First)?)?,
    };
    let to = match to {
        Some(number) => of(history.version(Some(number))?)?,
        None => present,
    };
    let changes = between(&from, &to);
    if as_json {
        return Ok(writeln!(out, "{:#}", json!({ "changes": changes }))?);
    }
    print(&changes, out)
}

fn print(changes: &[Change], out: &mut impl Write) -> Result<(), CommandError> {
    if changes.is_empty() {
        return Ok(writeln!(out, "no difference")?);
    }
    Ok(changes.iter().try_for_each(|change| writeln!(out, "{change}"))?)
}

fn reload(config: &Config, access: &Access, out: &mut impl Write) -> Result<(), CommandError> {
    let address = config.server.listen;
    let failed = |why: &dyn std::fmt::Display| {
        CommandError::Failed(format!("{address}: {why}; is log-capturer running with this file?"))
    };
    let server = Server::of_instance(config, access)
        .ok_or_else(|| failed(&"server.listen does not say on which port"))?;
    let answered = server.post("/config/reload", "", ANSWER_TIME_MAX);
    let (status, body) = answered.map_err(|error| failed(&error))?;
    let value: Value = serde_json::from_slice(&body).map_err(|error| failed(&error))?;
    if !status.is_success() {
        let why = value["error"].as_str().unwrap_or("it gives no reason");
        return Err(CommandError::Failed(format!("it is not changed: {why}{}", hint(status))));
    }
    let changes = value["changes"].as_array().cloned().unwrap_or_default();
    if changes.is_empty() {
        return Ok(writeln!(out, "it is in force already")?);
    }
    let of = |change: &Value, name: &str| Some(change[name].clone()).filter(|v| !v.is_null());
    let changes = changes.iter().map(|change| Change {
        key: change["key"].as_str().unwrap_or_default().to_owned(),
        from: of(change, "from"),
        to: of(change, "to"),
    });
    print(&changes.collect::<Vec<_>>(), out)
}

fn rollback(
    file: &Path,
    version: Option<u64>,
    // None: only the file is written.
    access: Option<&Access>,
    data_dir: Option<&Path>,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let data_dir = match data_dir {
        Some(data_dir) => data_dir.to_owned(),
        None => config::load(file)?.data_dir,
    };
    let version = History::of(&data_dir).version(version)?;
    let text = version.read()?;
    let config = config::of_text(&text, &version.path)?;
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::Failed(format!("{}: {error}", file.display()))
    };
    history::replace_keeping(file, &text).map_err(|error| failed(&error))?;
    writeln!(out, "version {} is in {}", version.number, file.display())?;
    access.map_or(Ok(()), |access| reload(&config, access, out))
}
