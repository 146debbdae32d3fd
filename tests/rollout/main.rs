//! Rollouts of the collection in config/deploy/ansible, over hosts that are processes with directories and ports of
//! their own, under load: a good version reaches all of them, and one with a planted regression none but the canary, which
//! goes back by itself. No line is lost.

mod fleet;
mod host;

use fleet::{A, B, Fleet, HOSTS, Played, has_ansible};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// So many tasks changed something, on all hosts.
fn changes(played: &Played) -> u64 {
    let recap = played.out.split_once("PLAY RECAP").expect("it came to an end").1;
    let changed =
        |line: &str| line.split_once("changed=")?.1.split(' ').next()?.parse::<u64>().ok();
    recap.lines().filter_map(changed).sum()
}

fn good(played: &Played) -> &Played {
    assert_eq!(played.code, Some(0), "{}", played.out);
    played
}

#[test]
fn a_good_version_reaches_all_hosts_and_goes_back_when_told_to() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let vars = json!({ "log_capturer_program": fleet.program(B, "") });
    let checked = fleet.play("rollout", &vars, &["--check"]);
    good(&checked);
    assert_eq!(fleet.versions(), [A; HOSTS]);
    good(&fleet.rollout(&vars));
    assert_eq!(fleet.versions(), [B; HOSTS]);
    for (stage, hosts) in [(1, 1), (2, 2), (3, 2)] {
        let sheet = fleet.sheet(stage);
        let instances = sheet["instances"].as_array().unwrap();
        assert_eq!((&sheet["verdict"], instances.len()), (&"go".into(), hosts), "{sheet:#}");
    }
    let again = fleet.rollout(&vars);
    assert_eq!(changes(good(&again)), 0, "{}", again.out);
    good(&fleet.play("rollback", &json!({}), &[]));
    assert_eq!(fleet.versions(), [A; HOSTS]);
    let again = fleet.play("rollback", &json!({}), &[]);
    assert_eq!(changes(good(&again)), 0, "{}", again.out);
    fleet.assert_nothing_is_lost();
}

/// It was stopped at the canary, which runs A again, and the others have not been touched.
fn stopped_at_the_canary(fleet: &Fleet, played: &Played, why: &str) {
    assert_ne!(played.code, Some(0), "{why}\n{}", played.out);
    assert!(played.out.contains("stage 1 (host-1) is no go: "), "{why}\n{}", played.out);
    assert!(played.out.contains(why), "{why} is not said\n{}", played.out);
    assert!(played.out.contains("not back: none"), "{why}\n{}", played.out);
    assert_eq!(fleet.versions(), [A; HOSTS], "{why}");
    for host in &fleet.hosts[1..] {
        assert!(!host.dir.join("rollout").exists(), "{why}: {} was touched", host.name);
    }
}

/// No go by this rule, or by the trigger that is of it.
fn no_go_by(fleet: &Fleet, rule: &str, trigger: &str) {
    let sheet = fleet.sheet(1);
    let rules = sheet["rules"].as_array().unwrap();
    let no_go = |of: &&Value| of["verdict"] == "no_go";
    let found = rules.iter().filter(no_go).any(|of| {
        of["rule"] == rule || of["why"].as_str().is_some_and(|why| why.starts_with(trigger))
    });
    assert!(found, "{rule}: {sheet:#}");
}

/// B does that when it runs, and only then.
fn running(planted: &str) -> String {
    format!("if [ \"$1\" = run ]; then {planted}; fi")
}

#[test]
fn a_slow_version_is_stopped_and_goes_back() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let slow = running("planted=push@1..1000000=4000ms");
    let played = fleet.rollout(&json!({ "log_capturer_program": fleet.program(B, &slow) }));
    stopped_at_the_canary(&fleet, &played, "verify: exit 2");
    no_go_by(&fleet, "p99", "p99");
    assert_eq!(fleet.restarted(), ["host-1"]);
    fleet.assert_nothing_is_lost();
}

#[test]
fn a_version_that_is_refused_lines_is_stopped_and_goes_back() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let refused = running(&format!("export TENANT={}", host::OTHER_TENANT));
    let played = fleet.rollout(&json!({ "log_capturer_program": fleet.program(B, &refused) }));
    stopped_at_the_canary(&fleet, &played, "verify: exit 2");
    no_go_by(&fleet, "error_rate", "error rate");
    assert_eq!(fleet.restarted(), ["host-1"]);
    // What was refused is in the dead-letter queue: nothing of it is lost.
    let canary = &fleet.hosts[0];
    canary.stub.heal();
    let replayed = Command::new(&canary.setup.binary)
        .args(["dlq", "replay", "--config"])
        .arg(canary.dir.join("config.yaml"))
        .output()
        .unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    for host in &mut fleet.hosts {
        host.assert_nothing_is_lost();
    }
}

#[test]
fn a_version_that_leaks_is_stopped_and_goes_back() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let (library, source) = (fleet.path("leak.so"), Path::new(env!("CARGO_MANIFEST_DIR")));
    let source = source.join("tests/rollout/leak.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-pthread", "-o"])
        .args([&library, &source])
        .status();
    assert!(compiled.unwrap().success());
    let leaks = running(&format!("export LD_PRELOAD={}", library.display()));
    let played = fleet.rollout(&json!({ "log_capturer_program": fleet.program(B, &leaks) }));
    stopped_at_the_canary(&fleet, &played, "verify: exit 2");
    no_go_by(&fleet, "memory_slope", "memory grows");
    assert_eq!(fleet.restarted(), ["host-1"]);
    fleet.assert_nothing_is_lost();
}

#[test]
fn a_version_that_refuses_its_data_is_stopped_and_goes_back() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let refuses = fleet.program(B, "planted=format=1");
    let played = fleet.rollout(&json!({ "log_capturer_program": refuses }));
    stopped_at_the_canary(&fleet, &played, "preflight: exit 2");
    assert_eq!(fleet.restarted(), [""; 0]);
    // Where preflight does not see it, the start does.
    let refuses = fleet.program(B, &running("planted=format=1"));
    let played = fleet.rollout(&json!({ "log_capturer_program": refuses }));
    stopped_at_the_canary(&fleet, &played, "Start: ");
    assert_eq!(fleet.restarted(), ["host-1"]);
    fleet.assert_nothing_is_lost();
}

#[test]
fn a_bad_configuration_is_stopped_and_goes_back() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let deploy = |name: &str, change: &dyn Fn(String) -> String| {
        for host in &fleet.hosts {
            let path = fleet.path(&format!("{}-{name}.yaml", host.name));
            std::fs::write(path, change(host.setup.yaml())).unwrap();
        }
        let path = fleet.path(&format!("{{{{ inventory_hostname }}}}-{name}.yaml"));
        fleet.rollout(&json!({ "log_capturer_config": path }))
    };
    let before = std::fs::read_to_string(fleet.hosts[0].dir.join("config.yaml")).unwrap();
    let unchanged = |fleet: &Fleet| {
        let now = std::fs::read_to_string(fleet.hosts[0].dir.join("config.yaml")).unwrap();
        assert_eq!(now, before);
        assert_eq!(fleet.restarted(), [""; 0], "no process was restarted");
    };
    let wrong = deploy("wrong", &|yaml| yaml.replace("linger: 5ms", "lingers: 5ms"));
    stopped_at_the_canary(&fleet, &wrong, "preflight: exit 2");
    unchanged(&fleet);
    // What cannot be reloaded is refused by the instance.
    let moved = deploy("moved", &|yaml| {
        yaml.replace("drain_timeout", "log: { format: json }\ndrain_timeout")
    });
    stopped_at_the_canary(&fleet, &moved, "Reload: ");
    unchanged(&fleet);
    // Nobody but verify can know that this is too long.
    let slow = deploy("slow", &|yaml| yaml.replace("linger: 5ms", "linger: 6s"));
    stopped_at_the_canary(&fleet, &slow, "verify: exit 2");
    no_go_by(&fleet, "p99", "p99");
    unchanged(&fleet);
    let better = deploy("better", &|yaml| yaml.replace("linger: 5ms", "linger: 20ms"));
    good(&better);
    assert_eq!(fleet.restarted(), [""; 0], "a configuration needs no restart");
    fleet.assert_nothing_is_lost();
}

#[test]
fn where_a_later_stage_is_no_go_earlier_ones_go_back_if_wanted() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let refuses = "case \"$1 $3\" in \"run \"*/host-3/*) planted=format=1;; esac";
    let program = fleet.program(B, refuses);
    let played = fleet.rollout(&json!({ "log_capturer_program": program }));
    assert_ne!(played.code, Some(0), "{}", played.out);
    assert!(played.out.contains("stage 2 (host-2, host-3) is no go: Start: "), "{}", played.out);
    assert_eq!(fleet.versions(), [B, A, A, A, A]);
    assert_eq!(fleet.restarted(), ["host-1", "host-2", "host-3"]);
    let vars = json!({ "log_capturer_program": program, "log_capturer_rollback_all": true });
    let played = fleet.rollout(&vars);
    assert_ne!(played.code, Some(0), "{}", played.out);
    // The canary was not changed by this run, which found it good already.
    assert_eq!(fleet.versions(), [B, A, A, A, A]);
    good(&fleet.play("rollback", &json!({}), &[]));
    assert_eq!(fleet.versions(), [A; HOSTS]);
    let played = fleet.rollout(&vars);
    assert_ne!(played.code, Some(0), "{}", played.out);
    assert_eq!(fleet.versions(), [A; HOSTS], "{}", played.out);
    fleet.assert_nothing_is_lost();
}
