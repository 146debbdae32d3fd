//! Faults of the configuration, the host, ports and sources.

use super::{configured, good, look, look_with, report};
use crate::bed::{BINARY, stop};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A user without rights.
const NOBODY: u32 = 65534;

#[test]
fn every_error_of_the_configuration_is_found_and_the_rest_looked_at() {
    let mut bed = good();
    bed.setup.sink_keys.push("lingr: 5ms".into());
    bed.setup.sink_keys.push("headers: { X-Key: \"${NO_SUCH_VARIABLE}\" }".into());
    let found = look(&bed);
    assert_eq!(found.code, Some(2));
    let errors: Vec<_> = found.all().iter().filter(|of| of["name"] == "config").collect();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    let all = format!("{errors:?}");
    for part in [
        "sinks.loki.lingr: this key is unknown",
        "did you mean linger?",
        "NO_SUCH_VARIABLE is not set",
        "give a default",
    ] {
        assert!(all.contains(part), "{part} is missing in {all}");
    }
    for name in ["kernel", "io_uring", "cpus", "data_dir", "ports", "sources", "formats"] {
        assert_eq!(found.finding(name)["level"], "ok", "{name}");
    }
    for name in ["sink_address", "disk_space", "config_change", "secrets"] {
        found.assert(name, "warning", "not looked at", "correct the configuration");
    }
    assert_eq!(bed.stub.stats().pushes, 0);
}

#[test]
fn a_file_that_is_not_there_or_no_yaml_is_no_go() {
    let bed = good();
    look_with(&bed, ": [", &[]).assert(
        "config",
        "no-go",
        "this is not YAML",
        "mind the indentation",
    );
    let none =
        report(Command::new(BINARY).args(["preflight", "--json", "--config", "/nowhere.yaml"]));
    none.assert("config", "no-go", "cannot be read", "check the path");
    none.assert("kernel", "ok", "release", "");
}

#[test]
fn a_configuration_comes_from_standard_input_and_from_any_path() {
    let bed = good();
    let dir = bed.setup.dir.join("a b; c");
    fs::create_dir(&dir).unwrap();
    let spaced = dir.join("my config.yaml");
    fs::copy(configured(&bed, &bed.setup.yaml()), &spaced).unwrap();
    let mut command = Command::new(BINARY);
    report(command.args(["preflight", "--json", "--config"]).arg(&spaced))
        .assert_otherwise_well(&[]);
    let mut command = Command::new(BINARY);
    command.args(["preflight", "--json", "--config", "-"]).stdin(fs::File::open(&spaced).unwrap());
    report(&mut command).assert_otherwise_well(&[]);
    // A device that never ends.
    let endless =
        report(Command::new(BINARY).args(["preflight", "--json", "--config", "/dev/zero"]));
    endless.assert("config", "no-go", "expected no more than", "check the path");
}

#[test]
fn what_changes_against_the_running_instance_or_another_file_is_told() {
    let mut bed = good();
    bed.setup.sink_keys.push("headers: { X-Key: s3cret }".into());
    let before = bed.setup.yaml();
    let product = bed.start();
    let listens = |yaml: &str| {
        let server = format!("server:\n  listen: \"{}\"", product.api);
        yaml.replace("server:\n  listen: \"127.0.0.1:0\"", &server).replace(
            "metrics:\n  listen: \"127.0.0.1:0\"",
            &format!("metrics:\n  listen: \"{}\"", product.metrics),
        )
    };
    let now = listens(&before).replace("linger: 5ms", "linger: 7ms").replace("s3cret", "0ther");
    let found = look_with(&bed, &now, &[]);
    found.assert("config_change", "ok", "sinks.loki.linger: \"5ms\" -> \"7ms\"", "");
    found.assert("config_change", "ok", "server.listen: \"127.0.0.1:0\" -> ", "");
    let all = found.document.to_string();
    assert!(!all.contains("s3cret") && !all.contains("0ther"), "{all}");
    // That the instance has the ports and the data_dir is as it should be.
    found.assert("ports", "ok", "log-capturer (pid ", "");
    let running = format!("log-capturer (pid {}), version ", product.pid());
    found.assert("data_dir_in_use", "ok", &running, "");
    found.assert(
        "data_dir_in_use",
        "ok",
        &format!("at http://{}: to be replaced", product.api),
        "",
    );
    found.assert_otherwise_well(&["secrets"]);
    // It is found wherever it listens now.
    look_with(&bed, &before, &[]).assert("data_dir_in_use", "ok", "to be replaced", "");
    let pid = rustix::process::Pid::from_raw(i32::try_from(product.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let silent = look_with(&bed, &now, &[]);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    silent.assert("data_dir_in_use", "warning", "which does not answer", "stop it before");
    stop(product);

    let file = bed.setup.dir.join("before.yaml");
    fs::write(&file, &before).unwrap();
    let against = ["--against", file.to_str().unwrap()];
    look_with(&bed, &before, &against).assert("config_change", "ok", "nothing changes", "");
    let moved = before
        .replace("/data\"", "/elsewhere\"")
        .replace("  loki:\n", "  other:\n    type: loki\n");
    let found = look_with(&bed, &moved, &against);
    found.assert("config_change", "warning", "", "log-capturer");
    let all = found.document.to_string();
    for part in
        ["data_dir changes from", "have the log under the old one drain", "sink loki is gone"]
    {
        assert!(all.contains(part), "{part} is missing in {all}");
    }
    fs::write(&file, "version: 7\n").unwrap();
    look_with(&bed, &before, &against).assert(
        "config_change",
        "warning",
        "cannot be compared",
        "--against",
    );
}

#[test]
fn a_cpu_that_is_not_there_is_named_with_those_that_are() {
    let mut bed = good();
    bed.setup.cores = "{ shards: [700] }".into();
    let found = look(&bed);
    found.assert("cpus", "no-go", "a shard is to run on CPU 700", "widen the cpuset");
    found.assert_otherwise_well(&["cpus"]);
}

#[test]
fn too_few_descriptors_are_a_warning_or_a_no_go() {
    let bed = good();
    let config = configured(&bed, &bed.setup.yaml());
    let with = |limit: &str| {
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        report(
            Command::new("sh")
                .args(["-c", &script, "sh", BINARY, "preflight", "--json", "--config"])
                .arg(&config),
        )
    };
    with("300").assert("descriptors", "no-go", "300 descriptors", "LimitNOFILE=10880");
    with("1000").assert(
        "descriptors",
        "warning",
        "1000 descriptors",
        "server.limits.connections_max",
    );
}

#[test]
fn a_port_that_another_process_has_is_found_with_its_owner() {
    let bed = good();
    let taken =
        [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let mut yaml = bed.setup.yaml();
    for (key, listener) in ["server", "metrics"].iter().zip(&taken) {
        let line = format!("{key}:\n  listen: ");
        let address = listener.local_addr().unwrap();
        yaml = yaml.replace(&format!("{line}\"127.0.0.1:0\""), &format!("{line}\"{address}\""));
    }
    // These do not answer, and nobody waits for them without end.
    let found = look_with(&bed, &yaml, &[]);
    for (key, listener) in ["server.listen", "metrics.listen"].iter().zip(&taken) {
        let of = found.all().iter().find(|of| of["name"] == "ports" && of["of"] == *key).unwrap();
        assert_eq!(of["level"], "no-go", "{of:#}");
        let has = format!(" has {}", listener.local_addr().unwrap());
        for part in [&format!("(pid {})", std::process::id()), &has] {
            assert!(of["found"].as_str().unwrap().contains(part), "{of:#}");
        }
        assert!(of["fix"].as_str().unwrap().contains(&format!("choose another {key}")), "{of:#}");
    }
    let foreign = bed
        .setup
        .yaml()
        .replace("metrics:\n  listen: \"127.0.0.1:0\"", "metrics:\n  listen: \"192.0.2.1:0\"");
    look_with(&bed, &foreign, &[]).assert(
        "ports",
        "no-go",
        "no address of this host",
        "metrics.listen",
    );
}

#[test]
fn a_pattern_without_a_match_is_a_warning() {
    let mut bed = good();
    bed.append("b.log.gz", "x");
    let logs = bed.setup.logs().display().to_string();
    bed.setup.include.extend([format!("{logs}/*.txt"), format!("{logs}/b.*")]);
    bed.setup.file_keys = vec!["exclude: [\"*.gz\"]".into()];
    let found = look(&bed);
    found.assert("sources", "warning", "matches nothing", "correct include and exclude");
    let of: Vec<_> = found.all().iter().filter(|of| of["name"] == "sources").collect();
    assert_eq!((&of[0]["figures"]["files"], &of[0]["level"]), (&1.into(), &"ok".into()));
    assert_eq!(of[1]["level"], "warning");
    assert_eq!((&of[2]["figures"]["excluded"], &of[2]["level"]), (&1.into(), &"warning".into()));
    found.assert_otherwise_well(&["sources"]);
    assert_eq!(found.code, Some(1));
}

#[test]
fn what_another_user_may_not_read_or_write_is_found_as_that_user() {
    let mut bed = good();
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let logs = bed.setup.logs();
    let (closed, data_dir) = (logs.join("closed"), bed.setup.data_dir());
    fs::create_dir(&closed).unwrap();
    fs::create_dir(&data_dir).unwrap();
    bed.setup.include =
        vec![format!("{}/**/*.log", logs.display()), logs.join("a.log").display().to_string()];
    let config = configured(&bed, &bed.setup.yaml());
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
    };
    mode(&bed.setup.dir, 0o755);
    mode(&config, 0o644);
    mode(&closed, 0o700);
    mode(&data_dir, 0o755);
    mode(&logs.join("a.log"), 0o600);
    let mut command = Command::new(BINARY);
    command.args(["preflight", "--json", "--config"]).arg(&config).uid(NOBODY).gid(NOBODY);
    if let Err(error) = command.output() {
        eprintln!("skipped: that user may not run {BINARY}: {error}");
        return;
    }
    let found = report(&mut command);
    let sources: Vec<_> = found.all().iter().filter(|of| of["name"] == "sources").collect();
    for (of, name) in sources.iter().zip(["closed", "a.log"]) {
        assert_eq!(of["level"], "warning", "{of:#}");
        let text = of["found"].as_str().unwrap();
        assert!(text.contains("cannot be read") && text.contains(name), "{of:#}");
        assert!(of["fix"].as_str().unwrap().contains("setfacl"), "{of:#}");
    }
    let all = found.document.to_string();
    assert!(all.contains("belongs to user 0, and this runs as user 65534"), "{all}");
    found.assert(
        "data_dir",
        "no-go",
        "cannot be written: Permission denied",
        "as the user of log-capturer",
    );
}
