//! What a run measured: as a table on the terminal, as JSON with machine and commit, as an HTML page
//! with plots, and its latencies as `.hgrm` files.

mod hgrm;
mod html;
mod machine;
mod plot;

pub use hgrm::{curve, write as write_hgrm};
pub use html::{Cell, Kind, Page, Table as PageTable};
pub use machine::Machine;
pub use plot::{Plot, Scale, Series};

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: not a record of this program: {source}: make it anew with --json or --record", path.display())]
    NotARecord { path: PathBuf, source: serde_json::Error },
    #[error("cannot draw {title:?}: {what}")]
    Plot { title: String, what: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The measurement's name.
    pub name: String,
    /// The command line that makes it again.
    pub command: String,
    pub machine: Machine,
    /// With `+` where the work tree had changes.
    pub commit: String,
    pub rustc: String,
    pub date: String,
    pub figures: Vec<Figure>,
    #[serde(default)]
    pub plots: Vec<Plot>,
    /// Microseconds; kept beside the record as `.hgrm`.
    #[serde(skip)]
    pub latencies: Vec<(String, Histogram<u64>)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What it was measured on, where a run measures several things.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    pub name: String,
    pub value: f64,
    pub unit: String,
    pub better: Better,
    /// What it is to be, where something was promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Less,
    More,
    /// It says what was measured, not how well.
    Neither,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        }
    }
}

impl Figure {
    #[must_use]
    pub fn less(name: impl Into<String>, value: f64, unit: &str) -> Figure {
        Figure::new(name, value, unit, Better::Less)
    }

    #[must_use]
    pub fn more(name: impl Into<String>, value: f64, unit: &str) -> Figure {
        Figure::new(name, value, unit, Better::More)
    }

    #[must_use]
    pub fn plain(name: impl Into<String>, value: f64, unit: &str) -> Figure {
        Figure::new(name, value, unit, Better::Neither)
    }

    fn new(name: impl Into<String>, value: f64, unit: &str, better: Better) -> Figure {
        let (name, unit) = (name.into(), unit.to_owned());
        Figure { group: String::new(), name, value, unit, better, target: None }
    }

    #[must_use]
    pub fn target(self, target: Target) -> Figure {
        Figure { target: Some(target), ..self }
    }

    #[must_use]
    pub fn of(self, group: &str) -> Figure {
        Figure { group: group.to_owned(), ..self }
    }
}

impl Report {
    #[must_use]
    pub fn new(name: &str) -> Report {
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(text)
        };
        let mut commit = said("git", &["rev-parse", "--short", "HEAD"]).unwrap_or("unknown".into());
        if said("git", &["status", "--porcelain", "-uno"])
            .is_some_and(|changes| !changes.is_empty())
        {
            commit.push('+');
        }
        let args: Vec<String> = std::env::args().skip(1).collect();
        Report {
            name: name.to_owned(),
            command: format!("cargo run --release -p log-capturer-bench -- {}", args.join(" ")),
            machine: Machine::this(),
            commit,
            rustc: said("rustc", &["--version"]).unwrap_or("unknown".into()),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            figures: Vec::new(),
            plots: Vec::new(),
            latencies: Vec::new(),
        }
    }

    /// Adds a group of figures.
    pub fn add(&mut self, group: &str, figures: impl IntoIterator<Item = Figure>) {
        self.figures.extend(figures.into_iter().map(|figure| figure.of(group)));
    }

    /// Whether all that was promised was kept.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.figures.iter().all(|f| f.target.is_none_or(|target| target.holds(f.value)))
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(vec!["", "", "measured", "target", ""]);
        let mut group = "";
        for figure in &self.figures {
            let first = if figure.group == group { "" } else { &figure.group };
            group = &figure.group;
            let [name, measured, target, mark] = figure.cells();
            table.add_row(vec![first.to_owned(), name, measured, target, mark]);
        }
        let Machine { cpu, cpus, kernel, .. } = &self.machine;
        format!("{table}\n{cpus} x {cpu}, Linux {kernel}, commit {}", self.commit)
    }

    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures are finite") + "\n"
    }

    pub fn html(&self) -> Result<String, Error> {
        html::page(self)
    }

    pub fn read(path: &Path) -> Result<Report, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.into(),
            source,
        })?;
        serde_json::from_str(&text)
            .map_err(|source| Error::NotARecord { path: path.into(), source })
    }

    /// Keeps it as `ROOT/MACHINE/DATE-NAME.json`, `.html` and `.hgrm`.
    pub fn save(&self, root: &Path) -> Result<PathBuf, Error> {
        let stem = root.join(self.machine.name()).join(format!("{}-{}", self.date, self.name));
        let stem = stem.display().to_string();
        let path = PathBuf::from(format!("{stem}.json"));
        write(&path, &self.json())?;
        write(Path::new(&format!("{stem}.html")), &self.html()?)?;
        for (what, histogram) in &self.latencies {
            let words: Vec<&str> = what.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            write(Path::new(&format!("{stem}-{}.hgrm", words.join("-"))), &write_hgrm(histogram))?;
        }
        Ok(path)
    }
}

/// Writes a file, and its directory where it is not there.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let file = |action| move |source| Error::File { action, path: path.into(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(file("create the directory of"))?;
    }
    fs::write(path, text).map_err(file("write"))
}

impl Figure {
    /// Name, value, target, verdict.
    fn cells(&self) -> [String; 4] {
        let Figure { name, value, unit, target, .. } = self;
        let (text, mark) = match target {
            None => (String::new(), ""),
            Some(target) => {
                let text = match target {
                    Target::AtLeast(least) => format!("at least {}", number(*least)),
                    Target::AtMost(most) => format!("at most {}", number(*most)),
                };
                (text, if target.holds(*value) { "ok" } else { "MISSED" })
            }
        };
        [name.clone(), format!("{} {unit}", number(*value)), text, mark.into()]
    }
}

#[must_use]
pub fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_and_says_what_was_missed() {
        let mut report = Report::new("saturate");
        report.add(
            "nginx",
            [
                Figure::more("speed", 2_100_000.0, "lines/s").target(Target::AtLeast(2e6)),
                Figure::less("memory", 41.5, "MiB").target(Target::AtMost(40.0)),
            ],
        );
        let mut latency = Histogram::new(3).unwrap();
        (1..=1_000).for_each(|us| latency.record(us).unwrap());
        report.latencies.push(("end to end".into(), latency));
        assert!(!report.holds());
        let table = report.table();
        assert!(table.contains("2100000 lines/s") && table.contains("MISSED"), "{table}");
        let dir = tempfile::tempdir().unwrap();
        let path = report.save(dir.path()).unwrap();
        let kept = Report::read(&path).unwrap();
        assert_eq!(kept.figures[1].target, Some(Target::AtMost(40.0)));
        let hgrm = path.with_file_name(format!("{}-saturate-end-to-end.hgrm", report.date));
        assert!(fs::read_to_string(hgrm).unwrap().contains("TotalCount"));
        fs::write(&path, "{\"name\": 3}").unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains("not a record of this program"), "{error}");
    }
}
