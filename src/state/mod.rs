//! Which version of the format is written in a data_dir.
//!
//! The file `data_dir/format` says it: a line with its number. A program that knows a newer one goes on
//! with that until it is told otherwise ([`command`]), so that the program before it can be started
//! again. Where there is no such file, the newest version that stands in a file of a log counts; where
//! there is none, the newest that this program knows.

pub mod command;
pub mod compat;

use crate::inspect::log::homes;
use io::disk::DiskError;
use io::format::{FORMAT_VERSION, FormatError, FormatVersion, TMP_SUFFIX, Versions, reads_up_to};
use io::plain::{PlainDisk, run};
use io::wal::survey;
use perf::errors::ErrorKey;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Its name in a data_dir.
pub const NAME: &str = "format";
/// More is no number.
const TEXT_BYTES_MAX: u64 = 64;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "{}: expected a line with the number of a format, {} to {FORMAT_VERSION}, found {found:?}; remove \
         it: then the newest format that stands in the logs is written", path.display(), FormatVersion::OLDEST
    )]
    Garbage { path: PathBuf, found: String },
    #[error(
        "{}: format {found} is written here, and this program knows {} to {FORMAT_VERSION}; start the newer \
         program again, or give this one a data_dir of its own", path.display(), FormatVersion::OLDEST
    )]
    Newer { path: PathBuf, found: u16 },
    #[error("{}: {source}", path.display())]
    Format { path: PathBuf, source: FormatError },
    #[error("{}: {source}", path.display())]
    Failed { path: PathBuf, source: Error },
}

impl StateError {
    /// 78 (sysexits' EX_CONFIG) where what is there is wrong or newer, 1 where it failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            StateError::Failed { .. } => 1,
            _ => 78,
        }
    }
}

/// What a data_dir says of its format.
#[derive(Debug)]
pub struct State {
    /// What its file says.
    pub stated: Option<FormatVersion>,
    /// All files of logs and dead-letter queues.
    pub files: Vec<Head>,
    /// Logs that cannot be looked at.
    pub unreadable: Vec<DiskError>,
}

/// What a file of a log says.
#[derive(Debug)]
pub struct Head {
    pub path: PathBuf,
    pub is_segment: bool,
    pub versions: Result<Versions, FormatError>,
}

/// The version for those who write into a data_dir. Refuses what this program cannot read.
pub fn writes(data_dir: &Path) -> Result<FormatVersion, StateError> {
    let state = State::read(data_dir)?;
    state.check()?;
    Ok(state.writes())
}

impl State {
    /// Refuses a file `format` that says nothing this program knows.
    pub fn read(data_dir: &Path) -> Result<State, StateError> {
        let stated = stated(&data_dir.join(NAME))?;
        let homes = homes(data_dir, true)
            .map_err(|source| StateError::Failed { path: data_dir.to_owned(), source })?;
        let mut state = State { stated, files: Vec::new(), unreadable: Vec::new() };
        for home in homes {
            let head = |head: survey::Head| Head {
                path: home.dir.join(head.name),
                is_segment: head.is_segment,
                versions: head.versions,
            };
            match run(survey::heads(&PlainDisk::read_only(&home.dir))) {
                Ok(heads) => state.files.extend(heads.into_iter().map(head)),
                Err(error) => state.unreadable.push(error),
            }
        }
        Ok(state)
    }

    /// Refuses files of a version that this program cannot read. What else may be wrong with them, a start
    /// says.
    pub fn check(&self) -> Result<(), StateError> {
        for Head { path, versions, .. } in &self.files {
            if let Ok(versions) = versions {
                let refused = |source| StateError::Format { path: path.clone(), source };
                versions.check().map_err(refused)?;
            }
        }
        Ok(())
    }

    /// The version that is written.
    #[must_use]
    pub fn writes(&self) -> FormatVersion {
        let newest = self.versions().map(|versions| versions.written).max();
        let found = newest.map(|newest| {
            FormatVersion::of(newest.min(FORMAT_VERSION)).unwrap_or(FormatVersion::OLDEST)
        });
        self.stated.or(found).unwrap_or(FormatVersion::NEWEST)
    }

    /// The oldest version of a program that reads all there is.
    #[must_use]
    pub fn reader_min(&self) -> u16 {
        let least = FormatVersion::OLDEST.number();
        self.versions().map(|versions| versions.reader_min).fold(least, u16::max)
    }

    fn versions(&self) -> impl Iterator<Item = Versions> {
        self.files.iter().filter_map(|file| file.versions.as_ref().ok().copied())
    }

    /// Says the version that is written, where nothing says it yet. Where that fails, it is found out anew by
    /// the next start.
    #[must_use]
    pub fn settle(&self, data_dir: &Path) -> FormatVersion {
        let writes = self.writes();
        if self.stated.is_none()
            && self.unreadable.is_empty()
            && let Err(error) = say(data_dir, writes)
        {
            tracing::warn!(
                error_key = ErrorKey::FormatUnnoted.name(), %error,
                "which format is written cannot be noted; the files say it"
            );
        }
        writes
    }
}

fn stated(path: &Path) -> Result<Option<FormatVersion>, StateError> {
    let failed = |source| StateError::Failed { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let number = text.strip_suffix('\n').unwrap_or(&text);
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    match number.parse().ok().filter(|_| is_number) {
        Some(found) if found > reads_up_to() => {
            Err(StateError::Newer { path: path.to_owned(), found })
        }
        found => match found.and_then(FormatVersion::of) {
            Some(version) => Ok(Some(version)),
            None => Err(StateError::Garbage { path: path.to_owned(), found: text.into_owned() }),
        },
    }
}

/// Has the file say this version, whole and durably, or as before.
fn say(data_dir: &Path, version: FormatVersion) -> Result<(), StateError> {
    let path = data_dir.join(NAME);
    let tmp = data_dir.join(format!("{NAME}{TMP_SUFFIX}"));
    let said = || {
        let mut options = File::options();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&tmp)?;
        writeln!(file, "{version}")?;
        file.sync_all()?;
        fs::rename(&tmp, &path)?;
        File::open(data_dir)?.sync_all()
    };
    said().map_err(|source| {
        let _ = fs::remove_file(&tmp);
        StateError::Failed { path: path.clone(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(versions: &[(u16, u16)], stated: Option<FormatVersion>) -> State {
        let head = |(written, reader_min): &(u16, u16)| Head {
            path: "shard-00/wal/checkpoint.a".into(),
            is_segment: false,
            versions: Ok(Versions { written: *written, reader_min: *reader_min }),
        };
        State { stated, files: versions.iter().map(head).collect(), unreadable: Vec::new() }
    }

    #[test]
    fn what_is_stated_counts_then_the_newest_file_then_the_newest_of_all() {
        use FormatVersion::{V1, V2};
        const NEWEST: FormatVersion = FormatVersion::NEWEST;
        for (files, stated, writes, reader_min) in [
            (&[][..], None, NEWEST, 1),
            (&[(1, 1), (1, 1)], None, V1, 1),
            (&[(1, 1), (2, 1), (1, 1)], None, V2, 1),
            (&[(2, 2), (2, 1)], Some(V1), V1, 2),
            (&[(1, 1)], Some(V2), V2, 1),
            (&[(FORMAT_VERSION + 1, FORMAT_VERSION)], None, NEWEST, FORMAT_VERSION),
        ] {
            let state = state(files, stated);
            assert_eq!((state.writes(), state.reader_min()), (writes, reader_min), "{state:?}");
            state.check().unwrap();
        }
        let newer = state(&[(1, 1), (FORMAT_VERSION + 1, FORMAT_VERSION + 1)], None);
        let error = newer.check().unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("start the newer program again"), "{error}");
    }

    #[test]
    fn what_was_said_is_stated_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert_eq!(stated(&path).unwrap(), None);
        for version in FormatVersion::ALL {
            say(dir.path(), version).unwrap();
            assert_eq!(stated(&path).unwrap(), Some(version));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
        for garbage in ["", "\n", "0", "+1", " 1", "1 ", "1\n\n", "two", "1.0", "99999999"] {
            fs::write(&path, garbage).unwrap();
            let error = stated(&path).unwrap_err();
            assert!(matches!(error, StateError::Garbage { .. }), "{garbage:?}: {error}");
            assert!(error.to_string().contains("remove it"), "{error}");
        }
        fs::write(&path, vec![b'1'; 1 << 20]).unwrap();
        assert!(stated(&path).unwrap_err().to_string().len() < 1000);
        fs::write(&path, format!("{}\n", FORMAT_VERSION + 1)).unwrap();
        let error = stated(&path).unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 3, .. }), "{error}");
        assert_eq!(error.exit_code(), 78);
    }

    #[test]
    fn it_is_noted_once_and_not_where_a_log_cannot_be_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = State::read(dir.path()).unwrap();
        found.unreadable.push(DiskError {
            operation: "list",
            path: dir.path().display().to_string(),
            source: ErrorKind::PermissionDenied.into(),
        });
        assert_eq!(found.settle(dir.path()), FormatVersion::NEWEST);
        assert!(!dir.path().join(NAME).exists());
        let found = State::read(dir.path()).unwrap();
        assert_eq!(found.settle(dir.path()), FormatVersion::NEWEST);
        let found = State::read(dir.path()).unwrap();
        assert_eq!(found.stated, Some(FormatVersion::NEWEST));
        say(dir.path(), FormatVersion::V1).unwrap();
        assert_eq!(State::read(dir.path()).unwrap().settle(dir.path()), FormatVersion::V1);
    }
}
