//! Rollouts of the collection in config/deploy/ansible, over hosts that are processes with directories and ports of
//! their own, under load: a good version reaches all of them, and one with a planted regression none but the canary, which
//! goes back by itself. No line is lost.

mod fleet;
mod host;

use fleet::{A, B, Fleet, HOSTS, Played, has_ansible};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a regression takes to be seen.
const LONG: &str = "14s";

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
    let mut fleet = Fleet::that_asks();
    let vars = json!({ "log_capturer_program": fleet.program(B, "") });
    only_checked(&fleet, &vars);
    good(&fleet.rollout(&vars));
    assert_eq!(fleet.versions(), [B; HOSTS]);
    for (stage, hosts) in [(1, 1), (2, 2), (3, 2)] {
        let sheet = fleet.sheet(stage);
        let instances = sheet["instances"].as_array().unwrap();
        assert_eq!((&sheet["verdict"], instances.len()), (&"go".into(), hosts), "{sheet:#}");
    }
    let again = fleet.rollout(&vars);
    assert_eq!(changes(good(&again)), 0, "{}", again.out);
    a_rollout_is_taken_up(&fleet, &vars);
    goes_back_in_the_end(&fleet);
    let again = fleet.play("rollback", &json!({}), &[]);
    assert_eq!(changes(good(&again)), 0, "{}", again.out);
    a_later_stage_is_no_go(&mut fleet);
    fleet.assert_nothing_is_lost();
}

/// It is told what would be brought, or why that cannot be, and no host is touched.
fn only_checked(fleet: &Fleet, vars: &Value) {
    let played = fleet.play("rollout", vars, &["--check"]);
    let brought = good(&played).out.matches("changed: [host-").count();
    assert!(brought >= HOSTS, "{}", played.out);
    let nowhere = json!({ "log_capturer_program": fleet.path("nowhere") });
    let played = fleet.play("rollout", &nowhere, &["--check"]);
    assert_ne!(played.code, Some(0), "{}", played.out);
    assert!(played.out.contains("The program is brought: Could not find"), "{}", played.out);
    assert_eq!((fleet.versions(), fleet.restarted()), (vec![A.to_owned(); HOSTS], vec![]));
    assert!(fleet.hosts.iter().all(|host| !host.dir.join("rollout").exists()));
}

/// One that was broken off in the soak is held against what was seen before it began.
fn a_rollout_is_taken_up(fleet: &Fleet, vars: &Value) {
    let before = fleet.reports("-stage-1-before.json");
    let state = fleet.hosts[0].dir.join("rollout/state");
    std::fs::write(&state, "begun with the program\n").unwrap();
    good(&fleet.rollout(vars));
    assert_eq!(std::fs::read_to_string(&state).unwrap(), "good\n");
    assert_eq!(fleet.reports("-stage-1-before.json"), before);
    assert_eq!(fleet.reports("-stage-1.html").len(), 2, "the earlier sheet is gone");
    assert_eq!(fleet.sheet(1)["verdict"], "go");
}

/// A host whose data the program before does not read stays; one that could not be stopped goes back at the next try.
fn goes_back_in_the_end(fleet: &Fleet) {
    let path = |file: &str| fleet.hosts[0].dir.join(file);
    let kept = path("rollout/previous/log-capturer");
    let program = std::fs::read(path("bin/log-capturer")).unwrap();
    let a = std::fs::read(&kept).unwrap();
    std::fs::copy(fleet.program(A, "planted=format=1"), &kept).unwrap();
    let played = fleet.play("rollback", &json!({ "log_capturer_stop": ["false"] }), &[]);
    assert_ne!(played.code, Some(0), "{}", played.out);
    assert!(played.out.contains("nothing is changed, and what runs goes on"), "{}", played.out);
    assert_eq!(fleet.versions(), [B; HOSTS]);
    assert_eq!(std::fs::read(path("bin/log-capturer")).unwrap(), program);

    std::fs::write(&kept, a).unwrap();
    good(&fleet.play("rollback", &json!({}), &[]));
    assert_eq!(fleet.versions(), [A; HOSTS]);
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
        let played =
            fleet.rollout(&json!({ "log_capturer_program": program, "log_capturer_soak": [LONG] }));
        stopped_at_the_canary(fleet, &played, why);
    };
    // The data is of a format that B does not read.
    stopped(&mut fleet, "planted=format=1", "preflight: exit 2");
    assert_eq!(fleet.restarted(), [""; 0]);
    // Where preflight does not see it, the start does.
    stopped(&mut fleet, &running("planted=format=1"), "Start: ");
    assert_eq!(fleet.restarted(), ["host-1"]);

    hangs(&mut fleet);
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

/// It does not come to listen.
fn hangs(fleet: &mut Fleet) {
    fleet.begin_anew();
    let program = fleet.program(B, &running("exec sleep 1000"));
    let vars = json!({ "log_capturer_program": program, "log_capturer_step_seconds": 10 });
    stopped_at_the_canary(fleet, &fleet.rollout(&vars), "Start: ");
}

/// It is said not to be back.
#[test]
fn a_host_that_is_lost_is_no_go() {
    if !has_ansible() {
        return;
    }
    let mut fleet = Fleet::start();
    out_of_reach(&fleet);
    fleet.assert_nothing_is_lost();
}

fn out_of_reach(fleet: &Fleet) {
    let gone = |host: &str| fleet.path(host).join("gone");
    let (lost, observer) = (gone("host-1"), gone("observer"));
    let left = |played: &Played, said: &[&str], versions: [&str; HOSTS]| {
        assert_ne!(played.code, Some(0), "{}", played.out);
        for said in said {
            assert!(played.out.contains(said), "{said} is not said\n{}", played.out);
        }
        assert_eq!(fleet.versions(), versions, "{}", played.out);
    };
    let touch = |path: &Path| format!("touch {}", path.display());
    // In the middle of the change.
    let program = fleet.program(B, &running(&touch(&lost)));
    let played = fleet.rollout(&json!({ "log_capturer_program": program }));
    left(&played, &["stage 1 (host-1) is no go: ", "not back: host-1"], [B, A, A, A, A]);
    std::fs::remove_file(&lost).unwrap();
    good(&fleet.play("rollback", &json!({}), &[]));

    // In the soak, by rules of the role, which this verify takes.
    let program = fleet.program(B, "");
    let verifier = fleet.verifier(&format!("if [ $1 = verify ]; then {}; fi", touch(&lost)));
    let vars = json!({
        "log_capturer_program": program, "log_capturer_verify_program": verifier, "log_capturer_rules": "",
        "log_capturer_soak": ["2s"], "log_capturer_accept_not_enough_data": true,
    });
    let said = ["stage 1 (host-1) is no go: not reached any more", "not back: host-1"];
    left(&fleet.rollout(&vars), &said, [B, A, A, A, A]);
    std::fs::remove_file(&lost).unwrap();
    good(&fleet.play("rollback", &json!({}), &[]));

    // The host that verifies, when all is changed.
    std::fs::create_dir(observer.parent().unwrap()).unwrap();
    let program = fleet.program(B, &running(&touch(&observer)));
    let vars = json!({ "log_capturer_program": program, "log_capturer_verify_host": "observer" });
    let said = ["stage 1 (host-1) is no go: verify: exit 99", "not back: none"];
    left(&fleet.rollout(&vars), &said, [A; HOSTS]);
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
        let played =
            fleet.rollout(&json!({ "log_capturer_config": path, "log_capturer_soak": [LONG] }));
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
