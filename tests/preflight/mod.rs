//! `log-capturer preflight`: a good setup goes, and each planted fault is found by its name, with its
//! weight and what to do.
//!
//! - [`host`]: the configuration, the host, ports and sources; [`disk`]: `data_dir` and what is in it;
//!   [`sinks`]: Loki, TLS and secrets.

mod disk;
mod host;
mod sinks;

use crate::bed::{BINARY, Bed};
use crate::tools::{contents, json};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// What depends on the machine that the tests run on, and not on what they plant.
const OF_MACHINE: [&str; 6] =
    ["file_system", "write_latency", "descriptors", "memlock", "cpu_siblings", "numa"];

/// A bed in which everything is as it should be.
fn good() -> Bed {
    let mut bed = Bed::new();
    small(&mut bed);
    bed.append("a.log", "one\n");
    bed
}

/// Quotas that any disk has room for.
fn small(bed: &mut Bed) {
    bed.setup.wal = "{ bytes_max: 64MiB }".into();
    bed.setup.sink_keys.push("dlq: { bytes_max: 16MiB }".into());
}

/// A configuration file, which its owner alone may read.
fn configured(bed: &Bed, yaml: &str) -> PathBuf {
    let file = bed.setup.dir.join("config.yaml");
    fs::write(&file, yaml).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

struct Report {
    code: Option<i32>,
    document: Value,
}

impl Report {
    fn all(&self) -> &[Value] {
        self.document["findings"].as_array().unwrap()
    }

    /// The finding with this name, the gravest of several.
    fn finding(&self, name: &str) -> &Value {
        let weight = |of: &&Value| {
            ["ok", "warning", "no-go"].iter().position(|level| of["level"] == *level).unwrap()
        };
        let of_name = self.all().iter().filter(|finding| finding["name"] == name);
        of_name.max_by_key(weight).unwrap_or_else(|| panic!("no {name} in {:#}", self.document))
    }

    /// It is there, with this weight, words in what was found, and words in what is to be done.
    fn assert(&self, name: &str, level: &str, found: &str, fix: &str) {
        let finding = self.finding(name);
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        assert_eq!(finding["level"], level, "{finding:#}");
        assert!(text("found").contains(found), "{found:?} is missing: {finding:#}");
        assert!(text("fix").contains(fix), "{fix:?} is missing: {finding:#}");
        assert_eq!(finding["fix"].is_null(), level == "ok", "{finding:#}");
        let least = ["ok", "warning", "no-go"].iter().position(|known| *known == level).unwrap();
        assert!(self.code.unwrap() >= i32::try_from(least).unwrap(), "{:?}", self.code);
    }

    /// Nothing else is wrong, apart from what the machine is like.
    fn assert_otherwise_well(&self, but: &[&str]) {
        for finding in self.all() {
            let name = finding["name"].as_str().unwrap();
            let known =
                but.contains(&name) || OF_MACHINE.contains(&name) && finding["level"] == "warning";
            assert!(known || finding["level"] == "ok", "{finding:#}");
        }
    }
}

fn look(bed: &Bed) -> Report {
    look_with(bed, &bed.setup.yaml(), &[])
}

fn look_with(bed: &Bed, yaml: &str, args: &[&str]) -> Report {
    let file = configured(bed, yaml);
    let mut command = Command::new(BINARY);
    command.args(["preflight", "--json", "--config"]).arg(file).args(args);
    report(&mut command)
}

fn report(command: &mut Command) -> Report {
    let output = command.output().unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(errors, "", "{out}");
    let document = json(&out);
    let codes = [("go", 0), ("warnings", 1), ("no-go", 2)];
    let said = codes.iter().find(|(_, code)| output.status.code() == Some(*code)).unwrap();
    assert_eq!(document["verdict"], said.0, "{document:#}");
    Report { code: output.status.code(), document }
}

#[test]
fn a_good_setup_goes_and_nothing_is_changed() {
    let bed = good();
    let config = configured(&bed, &bed.setup.yaml());
    let before = contents(&bed.setup.dir);
    let report = look(&bed);
    report.assert_otherwise_well(&[]);
    assert!(report.code < Some(2));
    let names = [
        "config",
        "config_change",
        "secrets",
        "cpus",
        "cpu_siblings",
        "numa",
        "kernel",
        "io_uring",
        "memlock",
        "descriptors",
        "data_dir",
        "data_dir_in_use",
        "file_system",
        "direct_io",
        "write_latency",
        "disk_space",
        "formats",
        "ports",
        "sources",
        "inotify_watches",
        "inotify_instances",
        "sink_address",
        "sink_ready",
        "sink_push",
        "sink_query",
        "sink_clock",
    ];
    for name in names {
        assert!(report.finding(name)["figures"].is_object(), "{name}");
    }
    assert!(report.finding("write_latency")["figures"]["p99_seconds"].as_f64().unwrap() > 0.0);
    assert!(contents(&bed.setup.dir) == before, "something was changed");
    assert!(!bed.setup.data_dir().exists());
    report.assert("sink_query", "ok", "the line was found by a query", "");

    let entries = bed.stub.entries();
    assert_eq!(entries.len(), 1, "one line was pushed");
    assert_eq!(entries[0].labels, r#"{job="log-capturer-preflight"}"#);
    assert!(entries[0].line.starts_with(b"log-capturer preflight host="));
    let silent = look_with(&bed, &bed.setup.yaml(), &["--no-push"]);
    assert!(silent.all().iter().all(|finding| finding["name"] != "sink_push"));
    silent.assert("sink_ready", "ok", "200", "");
    assert_eq!(bed.stub.entries().len(), 1, "no other was");

    let output =
        Command::new(BINARY).arg("preflight").arg("--config").arg(config).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), report.code);
    assert!(table.starts_with("LEVEL"), "{table}");
    for part in [" sink_push ", "go: ", " 0 no-go", "was accepted"] {
        assert!(table.contains(part), "{part} is missing in {table}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused_as_by_the_other_tools() {
    for args in
        [&["preflight"][..], &["preflight", "--config"], &["preflight", "--config", "f", "--fly"]]
    {
        let output = Command::new(BINARY).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"), "{args:?}");
    }
}
