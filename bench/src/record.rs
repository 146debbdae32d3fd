//! What a run measured: printed, and kept in `bench/record/MACHINE/COMMAND.json` with the machine and
//! the commit.

use comfy_table::{Table, presets};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The command line that makes it again.
    pub command: String,
    pub machine: Machine,
    /// With `+` where the work tree had changes.
    pub commit: String,
    pub date: String,
    pub figures: Vec<Figure>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    pub memory_gib: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// What it is to be, where something was promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn holds(self, value: f64) -> bool {
        match self {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        }
    }
}

impl Figure {
    #[must_use]
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { name: name.into(), value, unit, target: None }
    }

    #[must_use]
    pub fn target(mut self, target: Target) -> Figure {
        self.target = Some(target);
        self
    }
}

impl Record {
    #[must_use]
    pub fn new(command: &str, figures: Vec<Figure>) -> Record {
        let git = |args: &[&str]| {
            let output = Command::new("git").args(args).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let changed = git(&["status", "--porcelain", "--", ":!bench/record"]);
        let mark = if changed.is_none_or(|changes| changes.is_empty()) { "" } else { "+" };
        let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into());
        Record {
            command: format!("cargo run --release -p log-capturer-bench -- {command}"),
            machine: Machine::this(),
            commit: commit + mark,
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            figures,
        }
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(vec!["", "measured", "target", ""]);
        for Figure { name, value, unit, target } in &self.figures {
            let number = |value: f64| {
                if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
            };
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
            table.add_row(vec![
                name.clone(),
                format!("{} {unit}", number(*value)),
                text,
                mark.into(),
            ]);
        }
        let Machine { cpu, cpus, kernel, .. } = &self.machine;
        format!("{table}\n{cpus} x {cpu}, Linux {kernel}, commit {}", self.commit)
    }

    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures are finite") + "\n"
    }

    /// Keeps it under `root`, in place of an older one of the same command and machine.
    pub fn save(&self, root: &Path, name: &str) -> io::Result<PathBuf> {
        let dir = root.join(self.machine.name());
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{name}.json"));
        fs::write(&path, self.json())?;
        Ok(path)
    }
}

impl Machine {
    fn this() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name\t: "));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = kib.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let uname = rustix::system::uname();
        Machine {
            cpu: model.unwrap_or("unknown CPU").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: uname.release().to_string_lossy().into_owned(),
            memory_gib: kib.unwrap_or(0) >> 20,
        }
    }

    /// As the name of a directory.
    fn name(&self) -> String {
        let words: String = format!("{}x {}", self.cpus, self.cpu)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        words.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_and_says_what_was_missed() {
        let figures = vec![
            Figure::new("speed", 2_100_000.0, "lines/s").target(Target::AtLeast(2e6)),
            Figure::new("memory", 41.5, "MiB").target(Target::AtMost(40.0)),
        ];
        let record = Record::new("saturate", figures);
        let table = record.table();
        assert!(table.contains("2100000 lines/s") && table.contains("MISSED"), "{table}");
        let dir = tempfile::tempdir().unwrap();
        let path = record.save(dir.path(), "saturate").unwrap();
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(kept["figures"][1]["target"]["at_most"], 40.0);
    }
}
