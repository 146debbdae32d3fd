//! `log-capturer state compat`: whether another version can take over this data_dir, and give it back.

use super::{NAME, State};
use io::format::FormatVersion;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The newest format that each release reads. A release that reads another one gets a line here.
const RELEASES: [(&str, FormatVersion); 1] = [("0.1.0", FormatVersion::V2)];

/// Another version of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub name: String,
    /// The newest format that it reads.
    pub newest: u16,
}

impl Other {
    /// `with`: a release, or the path of a program, which is asked.
    pub fn of(with: &str) -> Result<Other, String> {
        if with.contains('/') {
            return ask(Path::new(with));
        }
        let release = RELEASES.iter().find(|(release, _)| *release == with);
        let Some((name, newest)) = release else {
            let known = RELEASES.map(|(release, _)| release).join(", ");
            return Err(format!(
                "--with: expected a release that this program knows ({known}), or the path of a program with \
                 a slash, found {with:?}; of a later release, give its program: it is asked"
            ));
        };
        Ok(Other { name: (*name).to_owned(), newest: newest.number() })
    }
}

/// What a program says of an empty directory.
fn ask(program: &Path) -> Result<Other, String> {
    let wrong = |why: String| {
        format!("{}: {why}; expected a log-capturer that has state show --json", program.display())
    };
    let empty = tempdir().map_err(|error| wrong(error.to_string()))?;
    let output =
        Command::new(program).args(["state", "show", "--json", "--data-dir"]).arg(&empty).output();
    let _ = std::fs::remove_dir(&empty);
    let output = output.map_err(|error| wrong(error.to_string()))?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
    let newest = said["newest"].as_u64().and_then(|newest| u16::try_from(newest).ok());
    let newest = newest.ok_or_else(|| wrong("it names no newest format".into()))?;
    Ok(Other { name: program.display().to_string(), newest })
}

fn tempdir() -> std::io::Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("log-capturer-compat-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    Ok(dir)
}

/// Whether the other one reads all there is, and what keeps it from that.
#[derive(Debug, PartialEq, Eq)]
pub struct Compat {
    pub other: Other,
    /// Why the other one would refuse this data_dir: points of no return that were passed.
    pub passed: Vec<String>,
    /// What would be one.
    pub ahead: Vec<String>,
}

impl Compat {
    #[must_use]
    pub fn of(state: &State, other: Other) -> Compat {
        let Other { name, newest } = &other;
        let mut passed = Vec::new();
        if let Some(stated) = state.stated.filter(|stated| stated.number() > *newest) {
            passed.push(format!(
                "{NAME} says that format {stated} is written (finalized, or begun with it), and {name} reads \
                 up to {newest}"
            ));
        }
        let above = state.versions().filter(|versions| versions.reader_min > *newest).count();
        if above > 0 {
            let least = state.reader_min();
            passed.push(format!(
                "{above} files are read from format {least} on, and {name} reads up to {newest}; they go when \
                 all that is in them is acked"
            ));
        }
        let ahead = FormatVersion::ALL
            .into_iter()
            .filter(|version| passed.is_empty() && *version > state.writes())
            .filter(|version| version.number() > *newest)
            .map(|version| {
                format!(
                    "log-capturer state finalize: format {version} is written from then on, which {name} does \
                     not read"
                )
            })
            .collect();
        Compat { other, passed, ahead }
    }

    #[must_use]
    pub fn is_reversible(&self) -> bool {
        self.passed.is_empty()
    }

    #[must_use]
    pub fn document(&self) -> Value {
        json!({
            "with": self.other.name,
            "reads_up_to": self.other.newest,
            "reversible": self.is_reversible(),
            "points_of_no_return": { "passed": self.passed, "ahead": self.ahead },
            "kept": KEPT,
        })
    }

    #[must_use]
    pub fn text(&self) -> String {
        let Other { name, newest } = &self.other;
        let mut lines = vec![if self.is_reversible() {
            format!(
                "reversible: {name} (format {newest}) reads all of this, and this program reads it again"
            )
        } else {
            format!(
                "not reversible: {name} (format {newest}) would refuse this data_dir, and change nothing"
            )
        }];
        lines.extend(self.passed.iter().map(|why| format!("  passed: {why}")));
        lines.extend(self.ahead.iter().map(|what| format!("  point of no return: {what}")));
        if self.is_reversible() {
            lines.push(format!("  kept in both directions: {}", KEPT.join(", ")));
        }
        lines.join("\n")
    }
}

/// What survives both directions; `tests/golden` opens what other versions left.
const KEPT: [&str; 4] = [
    "the write-ahead log with all that is not acked",
    "the dead-letter queues",
    "positions",
    "config-history",
];

#[cfg(test)]
mod tests {
    use super::super::Head;
    use super::*;
    use io::format::Versions;

    fn state(stated: Option<FormatVersion>, files: &[(u16, u16)]) -> State {
        let head = |(written, reader_min): &(u16, u16)| Head {
            path: "x".into(),
            is_segment: true,
            versions: Ok(Versions { written: *written, reader_min: *reader_min }),
        };
        State { stated, files: files.iter().map(head).collect(), unreadable: Vec::new() }
    }

    #[test]
    fn points_of_no_return_are_named() {
        use FormatVersion::{V1, V2};
        let old = || Other { name: "0.0.9".into(), newest: 1 };
        for (state, passed, ahead) in [
            (state(Some(V1), &[(1, 1)]), 0, 1),
            (state(Some(V2), &[(1, 1)]), 1, 0),
            (state(Some(V2), &[(2, 2), (2, 1)]), 2, 0),
            (state(Some(V1), &[(2, 2)]), 1, 0),
        ] {
            let compat = Compat::of(&state, old());
            assert_eq!((compat.passed.len(), compat.ahead.len()), (passed, ahead), "{compat:?}");
            assert_eq!(compat.is_reversible(), passed == 0);
        }
        let same = Other::of("0.1.0").unwrap();
        assert!(Compat::of(&state(Some(V2), &[(2, 2)]), same).is_reversible());
    }

    #[test]
    fn this_release_is_known_and_others_are_asked() {
        let this = Other::of(env!("CARGO_PKG_VERSION")).unwrap();
        assert_eq!(this.newest, FormatVersion::NEWEST.number(), "RELEASES lacks the newest format");
        assert!(Other::of("9.9.9").unwrap_err().contains("give its program"));
        assert!(Other::of("/bin/true").unwrap_err().contains("expected a log-capturer"));
        assert!(Other::of("/no/such/program").unwrap_err().contains("/no/such/program"));
    }
}
