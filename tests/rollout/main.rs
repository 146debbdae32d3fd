//! Rollouts of the collection in config/deploy/ansible, over hosts that are processes with directories and ports of
//! their own, under load: a good version reaches all of them, and one with a planted regression none but the canary, which
//! goes back by itself. No line is lost.

mod fleet;
mod host;

use fleet::{A, B, Fleet, HOSTS, Played, has_ansible};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
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
    good(&fleet.play("rollout", &vars, &["--check"]));
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
    a_later_stage_is_no_go(&mut fleet);
    fleet.assert_nothing_is_lost();
}

/// The stage goes back, and the ones before it where that is wanted.
fn a_later_stage_is_no_go(fleet: &mut Fleet) {
    fleet.begin_anew();
    let refuses = "case \"$1 $3\" in \"run \"*/host-3/*) planted=format=1;; esac";
    let vars = json!({ "log_capturer_program": fleet.program(B, refuses) });
    let played = fleet.rollout(&vars);
    assert_ne!(played.code, Some(0), "{}", played.out);
    assert!(played.out.contains("stage 2 (host-2, host-3) is no go: Start: "), "{}", played.out);
    assert_eq!(fleet.versions(), [B, A, A, A, A]);
    assert_eq!(fleet.restarted(), ["host-1", "host-2", "host-3"]);
    good(&fleet.play("rollback", &json!({}), &[]));
    assert_eq!(fleet.versions(), [A; HOSTS]);
    let mut vars = vars;
    vars["log_capturer_rollback_all"] = true.into();
    let played = fleet.rollout(&vars);
    assert_ne!(played.code, Some(0), "{}", played.out);
    assert_eq!(fleet.versions(), [A; HOSTS], "{}", played.out);
}

/// One after the other, on hosts that run A again after each.
#[test]
fn a_planted_regression_is_stopped_at_the_canary_and_goes_back() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    let stopped = |fleet: &mut Fleet, planted: &str, why: &str| {
        fleet.begin_anew();
        let program = fleet.program(B, planted);
        let played = fleet.rollout(&json!({ "log_capturer_program": program }));
        stopped_at_the_canary(fleet, &played, why);
    };
    // The data is of a format that B does not read.
    stopped(&mut fleet, "planted=format=1", "preflight: exit 2");
    assert_eq!(fleet.restarted(), [""; 0]);
    // Where preflight does not see it, the start does.
    stopped(&mut fleet, &running("planted=format=1"), "Start: ");
    assert_eq!(fleet.restarted(), ["host-1"]);

    stopped(&mut fleet, &running("planted=push@1..1000000=6000ms"), "verify: exit 2");
    no_go_by(&fleet, "p99", "p99 ");
    assert_eq!(fleet.restarted(), ["host-1"]);

    let leaks = format!("export LD_PRELOAD={}", leak(&fleet).display());
    stopped(&mut fleet, &running(&leaks), "verify: exit 2");
    no_go_by(&fleet, "memory", "memory grows");
    assert_eq!(fleet.restarted(), ["host-1"]);

    let refused = format!("export TENANT={}", host::OTHER_TENANT);
    stopped(&mut fleet, &running(&refused), "verify: exit 2");
    no_go_by(&fleet, "error_rate", "error rate");
    assert_eq!(fleet.restarted(), ["host-1"]);

    bad_configurations(&mut fleet);
    replay(&fleet);
    for host in &mut fleet.hosts {
        host.assert_nothing_is_lost();
    }
}

/// They are put in force without a restart, and taken back without one.
fn bad_configurations(fleet: &mut Fleet) {
    fleet.begin_anew();
    let config = fleet.hosts[0].dir.join("config.yaml");
    let before = std::fs::read_to_string(&config).unwrap();
    let stopped = |fleet: &Fleet, from: &str, to: &str, why: &str| {
        for host in &fleet.hosts {
            let text = host.setup.yaml().replace(from, to);
            std::fs::write(fleet.path(&format!("{}.yaml", host.name)), text).unwrap();
        }
        let path = fleet.path("{{ inventory_hostname }}.yaml");
        let played = fleet.rollout(&json!({ "log_capturer_config": path }));
        stopped_at_the_canary(fleet, &played, why);
        assert_eq!(fleet.restarted(), [""; 0]);
        assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    };
    stopped(fleet, "linger:", "lingers:", "preflight: exit 2");
    // What cannot be reloaded is refused by the instance.
    stopped(fleet, "version: 1", "version: 1\nlog: { format: json }", "Reload: ");
    // Nobody but verify can know that this is too long.
    stopped(fleet, host::LINGER, "linger: 9s", "verify: exit 2");
    no_go_by(fleet, "p99", "p99 ");
}

/// It was stopped at the canary, which runs A again, and the others have not been touched.
fn stopped_at_the_canary(fleet: &Fleet, played: &Played, why: &str) {
    assert_ne!(played.code, Some(0), "{why}\n{}", played.out);
    for said in ["stage 1 (host-1) is no go: ", why, "not back: none"] {
        assert!(played.out.contains(said), "{why}: {said} is not said\n{}", played.out);
    }
    assert_eq!(fleet.versions(), [A; HOSTS], "{why}");
    for host in &fleet.hosts[1..] {
        assert!(!host.dir.join("rollout").exists(), "{why}: {} was touched", host.name);
    }
}

/// No go by this rule, or by the trigger that is of it.
fn no_go_by(fleet: &Fleet, rule: &str, trigger: &str) {
    let sheet = fleet.sheet(1);
    let rules = sheet["rules"].as_array().unwrap();
    let of_it = |of: &Value| of["why"].as_str().is_some_and(|why| why.starts_with(trigger));
    let found =
        rules.iter().any(|of| of["verdict"] == "no_go" && (of["rule"] == rule || of_it(of)));
    assert!(found, "{rule}: {sheet:#}");
}

/// B does that when it runs, and only then.
fn running(planted: &str) -> String {
    format!("if [ \"$1\" = run ]; then {planted}; fi")
}

fn leak(fleet: &Fleet) -> PathBuf {
    let library = fleet.path("leak.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rollout/leak.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-pthread", "-o"])
        .args([&library, &source])
        .status();
    assert!(compiled.unwrap().success());
    library
}

/// What was refused at the canary is in its dead-letter queue, and not lost.
fn replay(fleet: &Fleet) {
    let canary = &fleet.hosts[0];
    canary.stub.heal();
    let replayed = Command::new(&canary.setup.binary)
        .args(["dlq", "replay", "--config"])
        .arg(canary.dir.join("config.yaml"))
        .output()
        .unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
}
