//! A workload: files, rates and lines, as data in a TOML file. `bench/workloads/` has those by name.

use super::Rotation;
use super::text::{self, Text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

macro_rules! named {
    ($($name:literal,)*) => {
        /// Name and text of those that come with the program.
        const NAMED: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../workloads/", $name, ".toml"))),)*];
    };
}

named! { "service", "key-value", "nginx", "json", "cri", "java", "mixed", }

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "workload {name:?} is not known and no such file is there: known are {}; or give a path",
        known()
    )]
    Unknown { name: String },
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("workload {name}: {source}")]
    Toml { name: String, source: Box<toml::de::Error> },
    #[error("workload {name}: {source}")]
    Text { name: String, source: text::Error },
    #[error("workload {name}: expected {key} above 0")]
    Zero { name: String, key: &'static str },
    #[error(
        "workload {name}: some of its lines have only ${{id}}: what is measured live needs \
         ${{mark}}, which has the time and the checksum"
    )]
    Untimed { name: String },
}

fn known() -> String {
    NAMED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[derive(Debug, Clone)]
pub struct Workload {
    pub name: String,
    pub about: String,
    /// Written to by turns; each is a stream of its own.
    pub files: u32,
    /// Of a backlog, over all files.
    pub lines: u64,
    /// Lines a second over all files, live.
    pub rate: u64,
    pub seed: u64,
    pub rotation: Rotation,
    pub expect: Option<Expect>,
    pub text: Arc<Text>,
}

/// What its lines come to; a test holds them to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub bytes_per_line: f64,
    /// How many times smaller snappy makes them.
    pub snappy_ratio: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    #[serde(default = "four")]
    files: u32,
    #[serde(default = "million")]
    lines: u64,
    #[serde(default = "objective")]
    rate: u64,
    #[serde(default = "one")]
    seed: u64,
    rotation: Option<WrittenRotation>,
    expect: Option<Expect>,
    #[serde(default)]
    words: BTreeMap<String, Vec<String>>,
    record: Vec<WrittenRecord>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRotation {
    lines: u64,
    keep: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRecord {
    #[serde(default = "one_u32")]
    weight: u32,
    lines: Vec<String>,
}

fn four() -> u32 {
    4
}
fn million() -> u64 {
    1_000_000
}
fn objective() -> u64 {
    10_000
}
fn one() -> u64 {
    1
}
fn one_u32() -> u32 {
    1
}

impl Workload {
    /// Name and purpose of those that come with the program.
    #[must_use]
    pub fn all() -> Vec<Workload> {
        NAMED
            .iter()
            .map(|(name, text)| Workload::read(name, text).expect("a test reads every one"))
            .collect()
    }

    /// By name, or from the file at that path.
    pub fn named(name: &str) -> Result<Workload, Error> {
        if let Some((name, text)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Workload::read(name, text);
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(Error::Unknown { name: name.into() });
        }
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::File { path: path.into(), source })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Workload::read(&stem, &text)
    }

    /// What the tests and the demo write.
    #[must_use]
    pub fn service() -> Workload {
        Workload::named("service").expect("it comes with the program")
    }

    pub fn read(name: &str, text: &str) -> Result<Workload, Error> {
        let name = name.to_owned();
        let written: Written = match toml::from_str(text) {
            Ok(written) => written,
            Err(source) => return Err(Error::Toml { name, source: Box::new(source) }),
        };
        let zero = |key| Err(Error::Zero { name: name.clone(), key });
        match &written {
            w if w.files == 0 => return zero("files"),
            w if w.lines == 0 => return zero("lines"),
            w if w.rate == 0 => return zero("rate"),
            w if w.rotation.as_ref().is_some_and(|r| r.lines == 0) => {
                return zero("rotation.lines");
            }
            _ => {}
        }
        let records: Vec<_> = written.record.into_iter().map(|r| (r.weight, r.lines)).collect();
        let text = match Text::new(&records, &written.words) {
            Ok(text) => Arc::new(text),
            Err(source) => return Err(Error::Text { name, source }),
        };
        Ok(Workload {
            name,
            about: written.about,
            files: written.files,
            lines: written.lines,
            rate: written.rate,
            seed: written.seed,
            rotation: written
                .rotation
                .map_or(Rotation::Never, |r| Rotation::Rename { lines: r.lines, keep: r.keep }),
            expect: written.expect,
            text,
        })
    }

    /// One whose lines can be timed.
    pub fn live(name: &str) -> Result<Workload, Error> {
        let workload = Workload::named(name)?;
        if workload.text.timed() { Ok(workload) } else { Err(Error::Untimed { name: name.into() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::corpus;

    #[test]
    fn every_workload_comes_to_what_it_says() {
        let mut wrong = Vec::new();
        for workload in Workload::all() {
            let dir = tempfile::tempdir().unwrap();
            let small = Workload { files: 1, lines: 20_000, ..workload };
            let corpus = corpus::prepare(dir.path(), &small).unwrap();
            let text = std::fs::read(&corpus.files[0]).unwrap();
            // As much at once as a frame holds.
            let frames = text.chunks(256 << 10);
            let mut encoder = snap::raw::Encoder::new();
            let compressed: usize = frames.map(|f| encoder.compress_vec(f).unwrap().len()).sum();
            let found = Expect {
                bytes_per_line: text.len() as f64 / small.lines as f64,
                snappy_ratio: text.len() as f64 / compressed as f64,
            };
            let expected = small.expect.unwrap_or_else(|| panic!("{}: no expect", small.name));
            let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.03;
            if !near(found.bytes_per_line, expected.bytes_per_line)
                || !near(found.snappy_ratio, expected.snappy_ratio)
            {
                wrong.push(format!("{}: expected {expected:?}, found {found:?}", small.name));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_wrong_workload_is_an_error_that_names_it() {
        for (text, expected) in [
            ("about = 'x'\nfiles = 0\nrecord = [{lines=['${mark}']}]", "expected files above 0"),
            ("about = 'x'\nspeed = 3\nrecord = []", "unknown field `speed`"),
            ("about = 'x'\nrecord = []", "expected at least one record"),
            (
                "about = 'x'\nrecord = [{lines=['x']}]",
                "a line that is not marked cannot be verified",
            ),
            ("about = ", "workload w:"),
        ] {
            let error = Workload::read("w", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let error = Workload::named("nginy").unwrap_err().to_string();
        assert!(error.contains("known are service, key-value"), "{error}");
        let error = Workload::live("key-value").unwrap_err().to_string();
        assert!(error.contains("needs ${mark}"), "{error}");
    }
}
