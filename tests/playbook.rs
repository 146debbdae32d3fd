//! `config/PLAYBOOK.md`: its commands are run as they stand, in their order, on a host that has nothing but
//! the package, while lines are written; and what the tables of it and of the runbooks say shows something.
//!
//! The host is namespaces of this one (mounts, network, processes): see `tests/playbook/host.sh`. Blocks of
//! the kinds `package` and `fleet` are run by the tests of the package and of the collection.

use crate::bed::{BINARY, PATIENCE};
use bench::load::{Options, Rotation, Workload, Writer};
use bench::stub::{self, Accounting, Stub};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const INSIDE: &str = "LOG_CAPTURER_TEST_HOST";
/// What this site has in place of what the playbook sets.
const SITE: &str = "WINDOW=21s SOAK=26s RULES=/run/rules.yaml EDITOR=/run/edit";
/// Whether this machine is fast is not what is asked here.
const RULES: &str = "version: 1
rules:
  { p99_max: 30s, memory_max: 1GB, memory_slope_max: off, throughput_drop_max: 90%, spread_max: off }
data: { lines_min: 100, looks_min: 3 }
triggers: { p99_max: 30s, memory_slope_max: off }
";
const KINDS: [&str; 5] = ["", "setup", "fleet", "package", "package-back"];

/// A block between fences that begins with `sh`.
struct Block {
    /// Where it begins.
    line: usize,
    kind: String,
    text: String,
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(REPOSITORY).join("config").join(name)).unwrap()
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().zip(1..);
    while let Some((fence, line)) = lines.next() {
        let Some(kind) = fence.strip_prefix("```") else { continue };
        let text: Vec<&str> =
            lines.by_ref().map(|(text, _)| text).take_while(|text| *text != "```").collect();
        let kind = kind.strip_prefix("sh").unwrap_or_else(|| panic!("line {line}: {fence}"));
        blocks.push(Block { line, kind: kind.trim().to_owned(), text: text.join("\n") });
    }
    blocks
}

/// Commands between backticks, with the lines that they stand in.
fn inline(document: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (text, line) in document.lines().zip(1..) {
        fenced ^= text.starts_with("```");
        if fenced {
            continue;
        }
        for command in text.split('`').skip(1).step_by(2) {
            let looks = ["log-capturer ", "curl -s ", "journalctl "];
            if looks.iter().any(|begins| command.starts_with(begins)) {
                found.push((
                    line,
                    command.replace("\\|", "|").replace("FILE", "$F").replace("NAME", "loki"),
                ));
            }
        }
    }
    found
}

/// One script of all, which says where it is.
fn script(document: &str) -> String {
    let mut script = String::new();
    let step = |name: String, text: &str| format!("echo '== {name}' >&2\n{text}\n");
    for Block { line, kind, text } in blocks(document) {
        assert!(KINDS.contains(&kind.as_str()), "line {line}: expected one of {KINDS:?}");
        match kind.as_str() {
            "" => script += &step(format!("PLAYBOOK.md:{line}"), &text),
            "setup" => script += &format!("{text}\n{SITE}\n"),
            _ => {}
        }
    }
    for name in ["PLAYBOOK.md", "RUNBOOKS.md"] {
        let document = self::document(name);
        for (line, command) in inline(&document) {
            // What it shows may be bad, or nothing: some say so by 1 or 2.
            let shows = format!("{{ {command}; }} >/dev/null || [ $? -le 2 ]");
            script += &step(format!("{name}:{line}: {}", command.replace('\'', "")), &shows);
        }
    }
    script
}

#[test]
fn every_command_of_the_playbook_does_what_it_says() {
    if std::env::var_os(INSIDE).is_some() {
        return on_the_host();
    }
    for (tool, package) in [("prometheus", "prometheus"), ("jq", "jq"), ("curl", "curl")] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped: there is no {tool} on this host; apt-get install {package}");
            return;
        }
    }
    let name = std::thread::current().name().expect("a test has a name").to_owned();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]).env(INSIDE, "yes").stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
}

fn on_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("data");
    let script_file = dir.path().join("playbook.sh");
    fs::write(&script_file, script(&document("PLAYBOOK.md"))).unwrap();
    let host = Path::new(REPOSITORY).join("tests/playbook/host.sh");
    run(Command::new(host).args([BINARY, REPOSITORY]).arg(&disk));
    fs::write("/run/rules.yaml", RULES).unwrap();
    fs::write("/run/edit", "#!/bin/sh\necho 'drain_timeout: 9s' >>\"$1\"\n").unwrap();
    run(Command::new("chmod").args(["+x", "/run/edit"]));

    let listen = SocketAddr::from(([127, 0, 0, 1], 3100));
    let stub = Stub::start(stub::Options {
        listen,
        keep_entries: 1000,
        ..stub::Options::new(Accounting::PerLine)
    });
    let stub = stub.unwrap();
    let writer = Writer::start(Options {
        dir: "/var/log".into(),
        text: Workload::service().text,
        files: 2,
        rate: 200,
        lines: 10_000_000,
        seed: 7,
        first_sequence: 0,
        lines_per_write: 1,
        rotation: Rotation::Never,
    });
    let writer = writer.unwrap();
    let mut prometheus = Command::new("prometheus")
        .args(["--config.file=/etc/prometheus/prometheus.yml", "--log.level=warn"])
        .arg("--web.listen-address=127.0.0.1:9090")
        .arg(format!("--storage.tsdb.path={}", dir.path().join("prometheus").display()))
        .spawn()
        .unwrap();
    run(Command::new("/usr/local/bin/systemctl").args(["start", "log-capturer"]));
    run(Command::new("bash").arg(&script_file).current_dir(dir.path()));
    let written = writer.stop().unwrap();
    let all = stub.wait_for_lines(written.lines_in_all(), PATIENCE);
    let verified = stub.verify(&written);
    // Preflight's line is none of them.
    let wrong =
        (verified.lost, verified.repeated_visibly, verified.corrupted, verified.out_of_order);
    assert!(all && wrong == (0, 0, 0, 0), "{verified:#?}");
    run(Command::new("/usr/local/bin/systemctl").args(["stop", "log-capturer"]));
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    let journal = || fs::read_to_string("/run/log-capturer.journal").unwrap_or_default();
    assert!(status.success(), "{command:?}: {status}\n{}", journal());
}
