//! A baseline as it is kept: JSON with a version. A later version reads what an earlier one wrote: keys are added, and
//! none changes its meaning without a new number.

use crate::window::figures::Figures;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub const VERSION: u64 = 1;
/// More is none.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    pub version: u64,
    /// Which log-capturer wrote it.
    #[serde(default)]
    pub written_by: String,
    /// When its window ended.
    #[serde(default)]
    pub taken: String,
    pub instances: Vec<Figures>,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: cannot {action} it: {error}", path.display())]
    Disk { path: PathBuf, action: &'static str, error: std::io::Error },
    #[error("{}: expected a baseline, found something else: {what}; take one with log-capturer baseline save", path.display())]
    Unlike { path: PathBuf, what: String },
    #[error(
        "{}: expected version {VERSION} of a baseline, found {found}: a later log-capturer wrote it; use that one, or take it \
         anew", path.display()
    )]
    Later { path: PathBuf, found: u64 },
}

/// Read before anything else of it.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Baseline {
    #[must_use]
    pub fn new(instances: Vec<Figures>) -> Baseline {
        Baseline {
            version: VERSION,
            written_by: env!("CARGO_PKG_VERSION").into(),
            taken: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            instances,
        }
    }

    pub fn read(path: &Path) -> Result<Baseline, FileError> {
        let disk = |error| FileError::Disk { path: path.into(), action: "read", error };
        let unlike = |what: String| FileError::Unlike { path: path.into(), what };
        let text = config::read_text(path, BYTES_MAX).map_err(|error| match error.kind() {
            ErrorKind::InvalidData | ErrorKind::FileTooLarge => unlike(error.to_string()),
            _ => disk(error),
        })?;
        let wrong = |error: serde_json::Error| unlike(error.to_string());
        let Versioned { version } = serde_json::from_str(&text).map_err(wrong)?;
        if version > VERSION {
            return Err(FileError::Later { path: path.into(), found: version });
        }
        serde_json::from_str(&text).map_err(wrong)
    }

    /// Whole, or as it was before.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(self).expect("figures are finite") + "\n";
        write(path, &text)
    }
}

/// A file of the operator's choice, whole or as it was before.
pub fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let disk = |error| FileError::Disk { path: path.into(), action: "write", error };
    // Such as /dev/stdout.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, text).map_err(disk);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let new = PathBuf::from(name);
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::figures::Latency;

    #[test]
    fn a_baseline_is_kept_and_those_of_other_versions_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.json");
        let latency =
            Latency { of: "read".into(), p99_seconds: Some(0.1 + 0.2), ..Latency::default() };
        let figures = Figures {
            instance: "a".into(),
            lines: 3.0,
            latency: vec![latency],
            ..Figures::default()
        };
        let baseline = Baseline::new(vec![figures]);
        baseline.write(&path).unwrap();
        assert_eq!(Baseline::read(&path).unwrap(), baseline);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Baseline::read(&path).map_err(|error| error.to_string())
        };
        // What version 1 knew when it was new, with a key that another one has added.
        let old =
            read(r#"{"version":1,"news":3,"instances":[{"instance":"a","lines":3.0,"else":{}}]}"#);
        assert_eq!(old.unwrap().instances[0].lines, 3.0);
        assert!(
            read(r#"{"version":2,"instances":7}"#)
                .unwrap_err()
                .contains("a later log-capturer wrote it")
        );
        for text in ["", "{}", "[]", r#"{"version":1}"#, r#"{"version":"1"}"#] {
            assert!(read(text).unwrap_err().contains("expected a baseline"), "{text}");
        }
        let none = Baseline::read(&dir.path().join("none")).unwrap_err().to_string();
        assert!(none.contains("cannot read it"), "{none}");
    }
}
