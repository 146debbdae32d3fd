//! A fleet of hosts, the programs that they run, and Ansible over them.

use super::host::Host;
use bench::stub::Verified;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_log-capturer");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Stages of 1, 2 and 2.
pub const HOSTS: usize = 5;
pub const A: &str = "0.1.0";
pub const B: &str = "0.2.0";

/// Short windows and few lines are enough, and what a busy machine and a debug build do is no regression. Whether memory does not grow is
/// not known after seconds; that it does grow is.
const RULES: &str = "\
rules: { health_worst: degraded, error_ratio_max: 2%, p99_max: 5s, memory_max: 400MB, memory_slope_max: off, throughput_drop_max: 50%, spread_max: 100% }
data: { lines_min: 50, looks_min: 5, slope_time_min: 5s }
triggers: { p99_max: off, memory_slope_max: 8GB/h }
";

pub struct Fleet {
    pub hosts: Vec<Host>,
    pids: Vec<i32>,
    // Removed last.
    dir: TempDir,
}

/// What came of a playbook.
pub struct Played {
    pub code: Option<i32>,
    pub out: String,
}

impl Fleet {
    /// All run A, under load.
    pub fn start() -> Fleet {
        Fleet::of(None)
    }

    /// They ask who one is.
    pub fn that_asks() -> Fleet {
        Fleet::of(Some(token()))
    }

    fn of(token: Option<(String, String)>) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), A, "");
        let start = |n| Host::start(dir.path(), &format!("host-{n}"), &program, token.clone());
        let hosts: Vec<Host> = (1..=HOSTS).map(start).collect();
        let pids = hosts.iter().map(Host::pid).collect();
        let fleet = Fleet { hosts, pids, dir };
        fleet.set_up(token.as_ref().map(|(token, _)| token));
        fleet
    }

    fn set_up(&self, token: Option<&String>) {
        let dir = self.dir.path();
        let collections = dir.join("collections/ansible_collections/log_capturer");
        fs::create_dir_all(&collections).unwrap();
        symlink(Path::new(ROOT).join("config/deploy/ansible"), collections.join("fleet")).unwrap();
        fs::write(dir.join("rules.yaml"), RULES).unwrap();
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let of_host = |host: &Host| {
            let vars = json!({
                "log_capturer_program_path": host.dir.join("bin/log-capturer"),
                "log_capturer_config_path": host.dir.join("config.yaml"),
                "log_capturer_rollout_dir": host.dir.join("rollout"),
                "log_capturer_api": host.url(), "log_capturer_api_local": host.url(),
                "log_capturer_start": host.service("start"), "log_capturer_stop": host.service("stop"),
                "directory": host.dir,
            });
            (host.name.clone(), vars)
        };
        let hosts: BTreeMap<String, Value> = self.hosts.iter().map(of_host).collect();
        let mut vars = json!({
            "ansible_connection": "directory", "ansible_python_interpreter": "/usr/bin/python3",
            "log_capturer_service_manager": "command", "log_capturer_run_as": [],
            "log_capturer_config_owner": uid.as_raw().to_string(),
            "log_capturer_config_group": gid.as_raw().to_string(), "log_capturer_config_mode": "0600",
            "log_capturer_verify_program": BINARY, "log_capturer_rules": dir.join("rules.yaml"),
            "log_capturer_reports": dir.join("reports"), "log_capturer_soak": ["7s"],
            "log_capturer_baseline_for": "3s", "log_capturer_interval": "500ms",
            "log_capturer_poll_seconds": 1,
        });
        if let Some(token) = token {
            let file = dir.join("token");
            fs::write(&file, token).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            vars["log_capturer_token"] = token.as_str().into();
            for key in ["log_capturer_access_arguments", "log_capturer_access_arguments_local"] {
                vars[key] = json!(["--token-file", file]);
            }
        }
        let observer = json!({
            "ansible_connection": "directory", "directory": dir.join("observer"),
            "ansible_python_interpreter": "/usr/bin/python3",
        });
        let inventory = json!({
            "log_capturer": { "hosts": hosts, "vars": vars },
            "observers": { "hosts": { "observer": observer } },
        });
        fs::write(dir.join("inventory.json"), inventory.to_string()).unwrap();
    }

    pub fn program(&self, version: &str, planted: &str) -> PathBuf {
        program(self.dir.path(), version, planted)
    }

    /// A file beside the hosts.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn play(&self, playbook: &str, vars: &Value, args: &[&str]) -> Played {
        let dir = self.dir.path();
        let mut vars = vars.clone();
        vars["log_capturer_become"] = false.into();
        let output = Command::new("bash")
            .args(["-euc", &format!("{} \"$@\"", command(playbook)), "bash"])
            .args(args)
            .envs([("INVENTORY", "inventory.json"), ("WHAT", &vars.to_string())])
            .env("PATH", path())
            .current_dir(dir)
            .env("ANSIBLE_COLLECTIONS_PATH", dir.join("collections"))
            .env("ANSIBLE_HOME", dir.join("ansible"))
            .env("ANSIBLE_LOCAL_TEMP", dir.join("ansible/tmp"))
            .env("ANSIBLE_REMOTE_TEMP", dir.join("ansible/tmp"))
            .env("ANSIBLE_ASYNC_DIR", dir.join("ansible/async"))
            .env("ANSIBLE_CONNECTION_PLUGINS", Path::new(ROOT).join("tests/rollout/connection"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ANSIBLE_PIPELINING", "1")
            .env("ANSIBLE_NOCOLOR", "1")
            .output()
            .unwrap();
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Played { code: output.status.code(), out: format!("{out}{errors}") }
    }

    pub fn rollout(&self, vars: &Value) -> Played {
        self.play("rollout", vars, &[])
    }

    /// Which hosts run another process than in the beginning.
    pub fn restarted(&self) -> Vec<&str> {
        let hosts = self.hosts.iter().zip(&self.pids);
        hosts
            .filter(|(host, pid)| host.pid() != **pid)
            .map(|(host, _)| host.name.as_str())
            .collect()
    }

    /// From now on, these processes are those of the beginning.
    pub fn begin_anew(&mut self) {
        self.pids = self.hosts.iter().map(Host::pid).collect();
        let _ = fs::remove_dir_all(self.path("reports"));
    }

    pub fn versions(&self) -> Vec<String> {
        self.hosts.iter().map(Host::version).collect()
    }

    /// The verdict of a stage, and whether there is a sheet to sign.
    pub fn sheet(&self, stage: usize) -> Value {
        let last = |kind| self.reports(&format!("-stage-{stage}.{kind}")).pop().unwrap();
        assert!(fs::read_to_string(last("html")).unwrap().contains("<html"), "stage {stage}");
        serde_json::from_str(&fs::read_to_string(last("json")).unwrap()).unwrap()
    }

    /// Of all rollouts, the last at the end.
    pub fn reports(&self, end: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path("reports")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let mut found: Vec<PathBuf> =
            files.filter(|path| path.to_str().unwrap().ends_with(end)).collect();
        found.sort();
        found
    }

    /// What verifies: this build, and `planted` before it.
    pub fn verifier(&self, planted: &str) -> PathBuf {
        script(self.path("verifier"), &format!("{planted}\nexec {BINARY} \"$@\""))
    }

    pub fn assert_nothing_is_lost(&mut self) {
        for host in &mut self.hosts {
            let verified = host.assert_nothing_is_lost();
            let Verified { repeated_visibly, out_of_order, .. } = verified;
            assert_eq!((repeated_visibly, out_of_order), (0, 0), "{}: {verified:#?}", host.name);
        }
    }
}

/// This build under another version; `planted` is what a shell does before it runs.
fn program(dir: &Path, version: &str, planted: &str) -> PathBuf {
    let text = format!(
        "planted=\n{planted}\nexport LOG_CAPTURER_FAILPOINTS=\"version={version},$planted\"\nexec {BINARY} \"$@\""
    );
    script(dir.join(format!("log-capturer-{version}")), &text)
}

fn script(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A token for everything, and its line of a configuration.
fn token() -> (String, String) {
    let args = ["token", "new", "--name", "fleet", "--role", "ingest,read,operate", "--json"];
    let made = Command::new(BINARY).args(args).output().unwrap();
    let mut made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let token = made.as_object_mut().unwrap().remove("token").unwrap();
    (token.as_str().unwrap().to_owned(), made.to_string())
}

/// As the project's playbook has it.
fn command(playbook: &str) -> String {
    let document = fs::read_to_string(Path::new(ROOT).join("config/PLAYBOOK.md")).unwrap();
    let block = document.split("```sh fleet\n").nth(1).expect("it has one");
    let line = block.lines().next().expect("of one line");
    let (line, _) = line.split_once(" #").unwrap_or((line, ""));
    assert!(line.contains("fleet.rollout"), "{line}");
    line.replace("fleet.rollout", &format!("fleet.{playbook}"))
}

/// With Ansible's programs first.
fn path() -> String {
    let host = std::env::var("PATH").unwrap();
    let own = ansible("ansible-playbook");
    own.parent().map_or(host.clone(), |own| format!("{}:{host}", own.display()))
}

/// Where .ci/run puts it, or the host's.
pub fn ansible(program: &str) -> PathBuf {
    let own = Path::new(ROOT).join("target/clients/venv/bin").join(program);
    if own.is_file() { own } else { program.into() }
}

/// Whether Ansible is here. Where CI is set, it has to be.
pub fn has_ansible() -> bool {
    let is_here = Command::new(ansible("ansible-playbook")).arg("--version").output().is_ok();
    if !is_here {
        assert!(
            std::env::var_os("CI").is_none(),
            "ansible is missing, and nothing may be skipped where CI is set"
        );
        eprintln!(
            "skipped: ansible is missing; install it: pip install ansible-core, in target/clients/venv (.ci/run does)"
        );
    }
    is_here
}
