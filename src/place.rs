//! Where a command finds a data_dir, and whether a process has it.

use clap::Args;
use config::Config;
use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PlaceArgs {
    /// The configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data_dir, without a configuration.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Why there is no such place, or none for this command now.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    Config(#[from] config::Errors),
    #[error("{0}")]
    Failed(String),
}

impl PlaceError {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, 1 where it failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            PlaceError::Wrong(_) | PlaceError::Config(_) => 78,
            PlaceError::Failed(_) => 1,
        }
    }
}

/// A data_dir; with its configuration where there is one.
pub struct Place {
    pub data_dir: PathBuf,
    pub config: Option<Config>,
}

impl PlaceArgs {
    pub fn open(&self) -> Result<Place, PlaceError> {
        match (&self.config, &self.data_dir) {
            (Some(file), _) => {
                let config = config::load(file)?;
                Ok(Place { data_dir: config.data_dir.clone(), config: Some(config) })
            }
            (None, Some(data_dir)) => Ok(Place { data_dir: data_dir.clone(), config: None }),
            (None, None) => unreachable!("clap requires one of them"),
        }
    }
}

impl Place {
    /// What was not found where a data_dir is expected.
    #[must_use]
    pub fn unlike(&self, error: &Error) -> PlaceError {
        let dir = self.data_dir.display();
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "run this as the user of log-capturer",
            _ => "expected that of a log-capturer",
        };
        PlaceError::Wrong(format!("data_dir {dir}: {error}; {hint}"))
    }

    /// Keeps everyone else out; `None` where a process runs there.
    pub fn lock(&self) -> Result<Option<File>, PlaceError> {
        let path = self.data_dir.join("lock");
        let failed = |error: Error| PlaceError::Failed(format!("{}: {error}", path.display()));
        let dir = self.data_dir.display();
        if !self.data_dir.is_dir() {
            let text = format!("data_dir {dir}: expected that of a log-capturer");
            return Err(PlaceError::Wrong(text));
        }
        // A file made by another user would be one that log-capturer cannot open.
        let owner = fs::metadata(&self.data_dir).map_err(failed)?.uid();
        let is_ours = owner == rustix::process::geteuid().as_raw();
        let foreign = || {
            let text = format!("data_dir {dir} belongs to user {owner}: run this as that user");
            PlaceError::Wrong(text)
        };
        if !is_ours && !path.exists() {
            return Err(foreign());
        }
        let options = File::options().write(true).create(is_ours).truncate(false).open(&path);
        let file = options.map_err(failed)?;
        match file.try_lock() {
            Ok(()) if !is_ours => Err(foreign()),
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// The directories of shards under a data_dir, by their numbers.
pub fn shards(data_dir: &Path) -> std::io::Result<Vec<(usize, PathBuf)>> {
    let mut shards = Vec::new();
    for (name, path) in directories(data_dir)? {
        let number = name.strip_prefix("shard-").and_then(|number| number.parse().ok());
        shards.extend(number.map(|number| (number, path)));
    }
    shards.sort();
    Ok(shards)
}

/// One more than the highest shard that has a directory.
pub fn shards_before(data_dir: &Path) -> std::io::Result<usize> {
    Ok(shards(data_dir)?.last().map_or(0, |(number, _)| number + 1))
}

/// Refuses a data_dir that others may write to.
pub fn check_mode(data_dir: &Path, mode: u32) -> Result<(), String> {
    if mode & 0o022 == 0 {
        return Ok(());
    }
    Err(format!(
        "data_dir {}: others may write to it (mode {:o}), so nothing in it could be trusted; \
         chmod 700 it",
        data_dir.display(),
        mode & 0o7777
    ))
}

/// The directories in one, by their names.
pub fn directories(of: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(of)? {
        let path = entry?.path();
        if path.is_dir()
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}
