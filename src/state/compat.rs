//! `log-capturer state compat`: whether another version can take over this data_dir, and give it back.

use super::{NAME, State};
use crate::ask::Text;
use io::format::FormatVersion;
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// It has an empty directory to look at.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Of what it says in place of an answer.
const WORDS_MAX: usize = 200;

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
            return Other::of_program(Path::new(with));
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

impl Other {
    /// What a program says of an empty directory. It may be any program: it is not waited for without end, and no more
    /// of it is read than such an answer has.
    pub fn of_program(program: &Path) -> Result<Other, String> {
        let wrong = |why: String| {
            format!(
                "{}: {why}; expected a log-capturer that has state show --json",
                program.display()
            )
        };
        let said = ask(program).map_err(wrong)?;
        let newest = said["newest"].as_u64().and_then(|newest| u16::try_from(newest).ok());
        let newest = newest.ok_or_else(|| wrong("it names no newest format".into()))?;
        Ok(Other { name: program.display().to_string(), newest })
    }
}

fn ask(program: &Path) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let empty = tempfile::tempdir().map_err(text)?;
    let mut child = Command::new(program)
        .args(["state", "show", "--json", "--data-dir"])
        .arg(empty.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // With all that it starts, it is ended.
        .process_group(0)
        .spawn()
        .map_err(text)?;
    let (out, errors) = (answer(child.stdout.take()), answer(child.stderr.take()));
    let deadline = Instant::now() + ANSWER_TIME_MAX;
    let read = |from: &Receiver<Vec<u8>>| {
        from.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    };
    let said = read(&out).and_then(|out| Ok((out, read(&errors)?)));
    // It has answered, or takes too long: in either case it is done.
    let group = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let _ = child.wait();
    let (out, errors) = said.map_err(|_| format!("no answer within {ANSWER_TIME_MAX:?}"))?;
    serde_json::from_slice(&out).map_err(|_| {
        let words = String::from_utf8_lossy(&errors);
        let words: String = words.trim().chars().take(WORDS_MAX).collect();
        if words.is_empty() {
            "it answers otherwise".to_owned()
        } else {
            Text::of(&words).to_string()
        }
    })
}

/// All of it, or its beginning.
fn answer(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            let _ = from.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
        }
        // Nobody may be waiting any more.
        let _ = tell.send(bytes);
    });
    told
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
