//! What was in force: the text of each configuration, in `data_dir/config-history`, with its number, the
//! time since when it was in force, and its hash in its name. The newest are kept.

use jiff::Timestamp;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Its name in a data_dir.
pub const NAME: &str = "config-history";
/// How many are kept.
const VERSIONS_MAX: usize = 50;
const SUFFIX: &str = ".yaml";
/// As in a name.
const TIME: &str = "%Y%m%dT%H%M%SZ";

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("{}: {source}", path.display())]
    Failed { path: PathBuf, source: Error },
    #[error("expected a version that was in force, found {number}; there is {known}")]
    Unknown { number: u64, known: String },
    #[error("no version was in force before this one")]
    First,
}

pub struct History {
    dir: PathBuf,
}

/// One that was in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// From 1.
    pub number: u64,
    pub since: Timestamp,
    pub hash: String,
    pub path: PathBuf,
}

impl Version {
    fn of(path: PathBuf) -> Option<Version> {
        let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
        let mut parts = name.split('-');
        let (number, time, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let since = jiff::civil::DateTime::strptime(TIME, time).ok()?;
        let since = jiff::tz::Offset::UTC.to_timestamp(since).ok()?;
        Some(Version { number: number.parse().ok()?, since, hash: hash.to_owned(), path })
    }

    pub fn read(&self) -> Result<String, HistoryError> {
        fs::read_to_string(&self.path).map_err(|source| failed(&self.path, source))
    }
}

fn failed(path: &Path, source: Error) -> HistoryError {
    HistoryError::Failed { path: path.to_owned(), source }
}

impl History {
    #[must_use]
    pub fn of(data_dir: &Path) -> History {
        History { dir: data_dir.join(NAME) }
    }

    /// The last one is in force.
    pub fn versions(&self) -> Result<Vec<Version>, HistoryError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&self.dir, error)),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths = paths.collect::<Result<Vec<_>, _>>().map_err(|e| failed(&self.dir, e))?;
        let mut versions: Vec<Version> = paths.into_iter().filter_map(Version::of).collect();
        versions.sort_by_key(|version| version.number);
        Ok(versions)
    }

    /// By its number; none: the last one before the one that is in force.
    pub fn version(&self, number: Option<u64>) -> Result<Version, HistoryError> {
        let mut versions = self.versions()?;
        let Some(number) = number else {
            versions.pop();
            return versions.pop().ok_or(HistoryError::First);
        };
        let known: Vec<String> = versions.iter().map(|v| v.number.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let found = versions.into_iter().find(|version| version.number == number);
        found.ok_or(HistoryError::Unknown { number, known })
    }

    /// From now on this is in force; nothing is added where it was already.
    pub fn add(&self, text: &str, hash: &str) -> Result<(), HistoryError> {
        let mut versions = self.versions()?;
        if let Some(last) = versions.last()
            && last.hash == hash
            && last.read().is_ok_and(|known| known == text)
        {
            return Ok(());
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|error| failed(&self.dir, error))?;
        let number = versions.last().map_or(1, |last| last.number + 1);
        let time = Timestamp::now().strftime(TIME);
        let path = self.dir.join(format!("{number:06}-{time}-{hash}{SUFFIX}"));
        replace(&path, text).map_err(|error| failed(&path, error))?;
        let surplus = (versions.len() + 1).saturating_sub(VERSIONS_MAX);
        for old in versions.drain(..surplus) {
            fs::remove_file(&old.path).map_err(|error| failed(&old.path, error))?;
        }
        Ok(())
    }
}

/// As [`replace`]; what stood in the file is kept beside it, as FILE.before-rollback.
pub fn replace_keeping(path: &Path, text: &str) -> Result<(), Error> {
    match fs::read_to_string(path) {
        Ok(before) if before == text => return Ok(()),
        Ok(before) => {
            let mut kept = path.as_os_str().to_owned();
            kept.push(".before-rollback");
            replace(Path::new(&kept), &before)?;
        }
        Err(_) => {}
    }
    replace(path, text)
}

/// Writes a file as a whole or not at all. One that is there keeps its mode and owner, a new one is its
/// owner's alone; where a link leads to it, the link stays.
pub fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let before = fs::metadata(path).ok();
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = PathBuf::from(tmp);
    let written = || {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&tmp)?;
        file.write_all(text.as_bytes())?;
        if let Some(before) = &before {
            // Who may not give it away has it for itself.
            let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
            file.set_permissions(before.permissions())?;
        }
        file.sync_all()?;
        fs::rename(&tmp, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&tmp);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_numbered_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::of(dir.path());
        assert_eq!(history.versions().unwrap(), []);
        assert!(matches!(history.version(None), Err(HistoryError::First)));
        history.add("a", "h1").unwrap();
        history.add("a", "h1").unwrap();
        assert_eq!(history.versions().unwrap().len(), 1, "it was in force already");
        for number in 0..VERSIONS_MAX {
            history.add(&format!("b{number}"), "h2").unwrap();
        }
        let versions = history.versions().unwrap();
        assert_eq!(versions.len(), VERSIONS_MAX);
        assert_eq!((versions[0].number, versions[0].read().unwrap()), (2, "b0".into()));
        assert!(versions[0].since <= Timestamp::now());
        let before = history.version(None).unwrap();
        assert_eq!(before.read().unwrap(), format!("b{}", VERSIONS_MAX - 2));
        let unknown = history.version(Some(1)).unwrap_err().to_string();
        assert!(
            unknown.starts_with("expected a version that was in force, found 1; there is 2, 3")
        );
        let mode = fs::metadata(&versions[0].path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "there may be secrets in it");
    }
}
