//! Another configuration, while the process runs.

use crate::bed::{BINARY, Bed, PATIENCE, agent, eventually, stop};
use bench::load::Rotation;
use bench::product::{Product, Setup};
use bench::stub::{Accounting, Away, Options, Stub};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const OK: &str = r#"log_capturer_config_reloads_total{result="success"}"#;
const FAILED: &str = r#"log_capturer_config_reloads_total{result="failure"}"#;
const LAST: &str = "log_capturer_config_last_reload_successful";

fn file(setup: &Setup) -> PathBuf {
    setup.dir.join("config.yaml")
}

/// The status of an answer, and its document.
fn post(product: &Product, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("http://{}{path}", product.api);
    let mut answer = agent().post(url).send(body.to_string()).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

fn get(product: &Product, path: &str) -> Value {
    let url = format!("http://{}{path}", product.api);
    let text = agent().get(url).call().unwrap().body_mut().read_to_string().unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Puts the setup as it is now into the file, and has it read.
fn reload(setup: &Setup, product: &Product) -> (u16, Value) {
    fs::write(file(setup), setup.yaml()).unwrap();
    post(product, "/config/reload", &json!({}))
}

fn changed(setup: &Setup, product: &Product) -> Vec<String> {
    let (code, said) = reload(setup, product);
    assert_eq!((code, &said["outcome"]), (200, &json!("changed")), "{said}\n{}", product.log());
    let changes = said["changes"].as_array().unwrap();
    changes.iter().map(|change| change["key"].as_str().unwrap().to_owned()).collect()
}

fn tool(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(BINARY).args(args).output().unwrap();
    let all = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&all).into_owned())
}

#[test]
fn under_load_nothing_is_lost_refused_or_closed() {
    let mut bed = Bed::new();
    let product = bed.start();
    let writer = bed.writer(5_000, 60_000, Rotation::Rename { lines: 7_000, keep: 20 });
    let done = AtomicBool::new(false);
    let (api, pushed) = (
        product.api,
        std::thread::scope(|scope| {
            let pushers: Vec<_> = (0..3)
                .map(|pusher| {
                    let (done, api) = (&done, product.api);
                    scope.spawn(move || {
                        // One connection, from the first reload to the last.
                        let agent = agent();
                        let mut pushed = BTreeSet::new();
                        for number in 0.. {
                            if done.load(Ordering::Relaxed) {
                                break;
                            }
                            let line = format!("pushed {pusher} {number}");
                            let url = format!("http://{api}/loki/api/v1/raw?job=push{pusher}");
                            let sent = agent.post(url).content_type("text/plain").send(&line);
                            let status =
                                sent.unwrap_or_else(|error| panic!("{line}: {error}")).status();
                            assert_eq!(status, 204, "{line}");
                            pushed.insert(line);
                        }
                        pushed
                    })
                })
                .collect();
            for round in 0..20 {
                std::thread::sleep(Duration::from_millis(500));
                bed.setup.sink_keys = vec![format!("linger: {}ms", 6 + round % 2)];
                if round % 2 == 0 {
                    assert_eq!(changed(&bed.setup, &product), ["sinks.loki.linger"]);
                } else {
                    fs::write(file(&bed.setup), bed.setup.yaml()).unwrap();
                    product.signal(Signal::HUP);
                    let rounds = f64::from(round) + 2.0;
                    eventually("it is in force", &product, || {
                        product.metric(OK).unwrap() == rounds
                    });
                }
            }
            done.store(true, Ordering::Relaxed);
            pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect::<BTreeSet<_>>()
        }),
    );
    assert_eq!(api, product.api);
    let verified = bed.verify(&writer.wait().unwrap());
    let wrong =
        verified.lost + verified.repeated_visibly + verified.out_of_order + verified.corrupted;
    assert_eq!(wrong, 0, "{verified:#?}\n{}", product.log());
    assert!(pushed.len() > 100, "{} pushes", pushed.len());
    let lines: Vec<String> = bed.texts_of_pushes(pushed.len());
    assert_eq!(lines.into_iter().collect::<BTreeSet<_>>(), pushed);
    assert_eq!(product.metric(FAILED).unwrap(), 0.0);
    // What is counted goes on.
    let taken = product.metric("log_capturer_logs_processed_total").unwrap();
    assert_eq!(taken, 60_000.0 + pushed.len() as f64);
    stop(product);
}

#[test]
fn what_is_wrong_is_refused_with_its_errors_and_nothing_changes() {
    let mut bed = Bed::new();
    let product = bed.start();
    let good = bed.setup.clone();
    bed.setup.sink_keys = vec!["linger: 3 parsecs".into(), "frobnicate: 1".into()];
    let (code, said) = reload(&bed.setup, &product);
    let error = said["error"].as_str().unwrap();
    assert_eq!(code, 422, "{said}");
    assert!(error.contains("sinks.loki.linger: expected a duration"), "{error}");
    assert!(error.contains("frobnicate: this key is unknown"), "{error}");
    assert_eq!((product.metric(FAILED).unwrap(), product.metric(LAST).unwrap()), (1.0, 0.0));
    assert!(product.log().contains("reload_failed"), "{}", product.log());
    bed.setup = good.clone();
    bed.setup.sink_keys = vec!["tls: { ca_file: /no/such/file }".into()];
    bed.setup.url = bed.setup.url.replace("http:", "https:");
    let (code, said) = reload(&bed.setup, &product);
    assert_eq!(code, 422, "{said}");
    assert!(said["error"].as_str().unwrap().contains("/no/such/file"), "{said}");
    bed.setup = good.clone();
    bed.setup.cores = "{ shards: 2 }".into();
    bed.setup.drain_timeout = "11s".into();
    let (code, said) = reload(&bed.setup, &product);
    let error = said["error"].as_str().unwrap();
    assert_eq!(code, 422, "{said}");
    assert!(error.starts_with("cores.shards: cannot be changed while the process runs"), "{error}");
    fs::remove_file(file(&good)).unwrap();
    product.signal(Signal::HUP);
    eventually("it is said", &product, || product.log().contains("the file cannot be read"));
    bed.append("a.log", "still there\n");
    assert_eq!(bed.texts(1), ["still there"]);
    // A change that says nothing new is none.
    let (code, said) = reload(&good, &product);
    assert_eq!((code, &said["outcome"]), (200, &json!("unchanged")));
    assert_eq!((product.metric(OK).unwrap(), product.metric(LAST).unwrap()), (1.0, 1.0));
    stop(product);
}

#[test]
fn sources_come_and_go() {
    let mut bed = Bed::new();
    let other = bed.setup.dir.join("other");
    fs::create_dir(&other).unwrap();
    bed.setup.file_keys = vec!["labels: { job: old }".into(), "start_at: end".into()];
    bed.append("a.log", "before the start\n");
    let product = bed.start();
    bed.append("a.log", "one\n");
    bed.append("empty.log", "");
    assert_eq!(bed.texts(1), ["one"]);
    fs::write(other.join("b.log"), "was there\n").unwrap();
    bed.setup.include.push(format!("{}/*.log", other.display()));
    bed.setup.file_keys[0] = "labels: { job: new }".into();
    let keys = changed(&bed.setup, &product);
    assert_eq!(keys, ["sources.files[0].include", "sources.files[0].labels.job"]);
    // Those of the new pattern were there; those of the old one are read on.
    bed.append("a.log", "two\n");
    bed.append("empty.log", "three\n");
    fs::write(other.join("c.log"), "four\n").unwrap();
    let mut lines = bed.texts(4);
    lines.sort_unstable();
    assert_eq!(lines, ["four", "one", "three", "two"]);
    let labels = |line: &str| {
        let entries = bed.stub.entries();
        entries.into_iter().find(|entry| entry.line == line.as_bytes()).unwrap().labels
    };
    assert!(labels("one").contains("job=\"old\"") && labels("two").contains("job=\"new\""));
    bed.setup.include.remove(0);
    changed(&bed.setup, &product);
    bed.append("a.log", "nobody reads this\n");
    fs::write(other.join("d.log"), "five\n").unwrap();
    assert!(bed.texts(5).contains(&"five".to_owned()));
    let positions = get(&product, "/positions");
    let paths = positions.to_string();
    assert!(paths.contains("d.log") && !paths.contains("a.log"), "{paths}");
    stop(product);
}

#[test]
fn sinks_come_and_go() {
    let mut bed = Bed::new();
    let far = Stub::start(Options { keep_entries: 1000, ..Options::new(Accounting::PerLine) });
    let far = far.unwrap();
    let product = bed.start();
    bed.append("a.log", "one\n");
    assert_eq!(bed.texts(1), ["one"]);
    bed.setup.more_sinks = vec![format!("far: {{ type: loki, url: {:?} }}", far.url())];
    changed(&bed.setup, &product);
    bed.append("a.log", "two\n");
    assert_eq!(bed.texts(2), ["one", "two"]);
    let texts = || {
        let entries = far.entries().into_iter();
        entries.map(|entry| String::from_utf8(entry.line).unwrap()).collect::<Vec<_>>()
    };
    // And what is in the log still.
    eventually("it gets what comes", &product, || texts().contains(&"two".to_owned()));
    assert_eq!(get(&product, "/sinks")["sinks"].as_array().unwrap().len(), 2);
    bed.setup.more_sinks.clear();
    changed(&bed.setup, &product);
    bed.append("a.log", "three\n");
    assert_eq!(bed.texts(3), ["one", "two", "three"]);
    assert!(!product.metrics_text().unwrap().contains("sink=\"far\""), "nothing is left of it");
    assert_eq!(product.metric(OK).unwrap(), 3.0, "they are counted on");
    stop(product);
    assert!(!texts().contains(&"three".to_owned()));
}

#[test]
fn where_it_is_wanted_the_file_is_watched() {
    let mut bed = Bed::new();
    bed.setup.more = vec!["reload: { watch: true }".into()];
    let product = bed.start();
    bed.setup.drain_timeout = "3s".into();
    // As an editor does it, or Kubernetes.
    let next = bed.setup.dir.join("next.yaml");
    fs::write(&next, bed.setup.yaml()).unwrap();
    fs::rename(&next, file(&bed.setup)).unwrap();
    eventually("it is seen", &product, || product.metric(OK).unwrap() == 2.0);
    assert_eq!(get(&product, "/config")["drain_timeout"], "3s");
    fs::write(file(&bed.setup), "nonsense").unwrap();
    eventually("it is refused", &product, || product.metric(FAILED).unwrap() == 1.0);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(product.metric(FAILED).unwrap(), 1.0, "once");
    stop(product);
}

#[test]
fn what_was_in_force_is_kept_and_can_be_again() {
    let mut bed = Bed::new();
    let product = bed.start();
    let first = bed.setup.yaml();
    for timeout in ["11s", "12s"] {
        bed.setup.drain_timeout = timeout.into();
        changed(&bed.setup, &product);
    }
    let path = file(&bed.setup).display().to_string();
    let versions = get(&product, "/config/history");
    assert_eq!(versions["versions"].as_array().unwrap().len(), 3, "{versions}");
    let (code, text) = tool(&["config", "history", "--config", &path]);
    assert_eq!((code, text.lines().count()), (Some(0), 4), "{text}");
    let (code, text) = tool(&["config", "diff", "--config", &path, "1", "3"]);
    assert_eq!((code, text.trim()), (Some(0), r#"drain_timeout: "10s" -> "12s""#));
    let (code, said) = post(&product, "/config/rollback", &json!({}));
    assert_eq!((code, &said["changes"][0]["to"]), (200, &json!("11s")), "{said}");
    assert!(
        fs::read_to_string(&path).unwrap().contains("drain_timeout: 11s"),
        "for the next start"
    );
    let (code, said) = post(&product, "/config/rollback", &json!({ "version": 1 }));
    assert_eq!((code, &said["changes"][0]["to"]), (200, &json!("10s")), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), first);
    let (code, said) = post(&product, "/config/rollback", &json!({ "version": 99 }));
    assert_eq!(code, 404, "{said}");
    let (code, text) = tool(&["config", "rollback", "--config", &path, "--no-reload", "3"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(fs::read_to_string(&path).unwrap().contains("drain_timeout: 12s"));
    assert_eq!(fs::read_to_string(format!("{path}.before-rollback")).unwrap(), first);
    let (code, text) = tool(&["config", "diff", "--config", &path]);
    assert_eq!((code, text.trim()), (Some(0), r#"drain_timeout: "10s" -> "12s""#));
    // Port 0 is nobody's.
    let (code, text) = tool(&["config", "reload", "--config", &path]);
    assert!(code == Some(1) && text.contains("is log-capturer running with this file?"), "{text}");
    let (code, text) = tool(&["config", "rollback", "--config", &path, "99"]);
    assert!(code == Some(78) && text.contains("there is 1, 2, 3, 4, 5"), "{text}");
    stop(product);
}

#[test]
fn a_change_while_loki_is_silent_breaks_off_what_is_under_way_and_loses_nothing() {
    let mut bed = Bed::new();
    bed.setup.sink_keys.push("timeout: 60s".into());
    let product = bed.start();
    bed.stub.go_away(Away::Silent);
    let writer = bed.writer(2_000, 20_000, Rotation::Never);
    eventually("a push is under way", &product, || {
        product.metric("log_capturer_pushes_in_flight").unwrap() > 0.0
    });
    bed.setup.sink_keys[0] = "linger: 6ms".into();
    changed(&bed.setup, &product);
    bed.stub.come_back();
    bed.assert_complete(&writer.wait().unwrap());
    stop(product);
}

/// Sources wait for room, and so do requests: none of them hangs because of a change.
#[test]
fn while_the_log_is_full_a_change_goes_through_and_all_of_it_arrives() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    bed.stub.go_away(Away::Refusing);
    let writer = bed.writer(100_000, 200_000, Rotation::Never);
    eventually("it is full", &product, || product.metric("log_capturer_wal_full").unwrap() == 1.0);
    let url = format!("http://{}/loki/api/v1/raw?job=full", product.api);
    let push = |line: &str| agent().post(&url).content_type("text/plain").send(line).unwrap();
    // A small one may fit; an answer it gets.
    let answers = |line: &str| assert!([204, 503].contains(&push(line).status().as_u16()));
    answers("before");
    bed.setup.sink_keys = vec!["linger: 6ms".into()];
    assert_eq!(changed(&bed.setup, &product), ["sinks.loki.linger"]);
    answers("between");
    bed.setup.sink_keys = vec!["linger: 7ms".into()];
    changed(&bed.setup, &product);
    bed.stub.come_back();
    let verified = bed.verify(&writer.wait().unwrap());
    let wrong = verified.lost + verified.repeated_visibly + verified.out_of_order;
    assert_eq!(wrong, 0, "{verified:#?}\n{}", product.log());
    eventually("there is room", &product, || push("room").status() == 204);
    stop(product);
}

#[test]
fn systemd_hears_of_a_change_and_of_none() {
    let mut bed = Bed::new();
    let path = bed.setup.dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    bed.setup.env = vec![("NOTIFY_SOCKET".into(), path.display().to_string())];
    let product = bed.start();
    let receive = || {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).trim().to_owned()
    };
    let until = |wanted: &str| loop {
        let said = receive();
        if said.starts_with(wanted) {
            return said;
        }
    };
    until("READY=1");
    // The file as it is, another one, and a wrong one: each ends.
    for yaml in
        [bed.setup.yaml(), format!("{}slo: {{ ratio: 0.9 }}\n", bed.setup.yaml()), "x".into()]
    {
        fs::write(file(&bed.setup), yaml).unwrap();
        product.signal(Signal::HUP);
        assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
        until("READY=1");
    }
    assert_eq!((product.metric(OK).unwrap(), product.metric(FAILED).unwrap()), (2.0, 1.0));
    stop(product);
}

/// As where a deployment changes the file and then restarts the service.
#[test]
fn a_stop_during_a_change_keeps_what_was_answered_without_the_disk() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ commit_interval: 500ms }".into();
    let mut pushed = 0;
    for round in 0..6 {
        let product = bed.start();
        for _ in 0..5 {
            let line = format!("line {pushed}");
            let url = format!("http://{}/loki/api/v1/raw?job=memory&ack=memory", product.api);
            let sent = agent().post(url).content_type("text/plain").send(&line).unwrap();
            assert_eq!(sent.status(), 204);
            pushed += 1;
        }
        bed.setup.sink_keys = vec![format!("linger: {}ms", 10 + round)];
        fs::write(file(&bed.setup), bed.setup.yaml()).unwrap();
        product.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(round));
        stop(product);
    }
    let product = bed.start();
    let lines: BTreeSet<String> = bed.texts_of_pushes(pushed).into_iter().collect();
    assert_eq!(lines.len(), pushed, "{}", bed.product_log());
    stop(product);
}

#[test]
fn kills_and_stops_during_a_change_lose_nothing() {
    let mut bed = Bed::new();
    bed.setup.drain_timeout = "1s".into();
    let writer = bed.writer(4_000, 40_000, Rotation::Never);
    let start = Instant::now();
    for round in 0..12 {
        let product = bed.start();
        bed.setup.sink_keys = vec![format!("linger: {}ms", 2 + round)];
        fs::write(file(&bed.setup), bed.setup.yaml()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        product.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(round * 4));
        if round % 2 == 0 {
            product.kill();
        } else {
            let status = product.stop(PATIENCE).unwrap();
            assert!(status.success(), "{status}");
        }
        assert!(start.elapsed() < 2 * PATIENCE);
    }
    let product = bed.start();
    bed.assert_complete(&writer.wait().unwrap());
    stop(product);
}

#[test]
fn a_hundred_changes_leave_nothing_behind() {
    let mut bed = Bed::new();
    let product = bed.start();
    bed.append("a.log", "one\n");
    bed.texts(1);
    let held = |product: &Product| {
        let count = |what| fs::read_dir(format!("/proc/{}/{what}", product.pid())).unwrap().count();
        (count("task"), count("fd"))
    };
    let change = |setup: &mut Setup, round: usize| {
        setup.sink_keys = vec![format!("linger: {}ms", 6 + round % 3)];
        changed(setup, &product);
    };
    (0..5).for_each(|round| change(&mut bed.setup, round));
    std::thread::sleep(Duration::from_millis(500));
    let (before, memory) = (held(&product), product.usage().unwrap().rss_bytes);
    (5..105).for_each(|round| change(&mut bed.setup, round));
    eventually("threads and descriptors are given back", &product, || held(&product) <= before);
    let more = product.usage().unwrap().rss_bytes.saturating_sub(memory);
    assert!(more < 16 << 20, "{more} bytes more");
    bed.append("a.log", "two\n");
    assert_eq!(bed.texts(2), ["one", "two"]);
    stop(product);
}

#[test]
fn a_secret_is_in_no_answer_log_or_error() {
    let mut bed = Bed::new();
    let keys = |word: &str| {
        vec![
            format!("headers: {{ X-Key: \"{word}-header\" }}"),
            format!("auth: {{ basic: {{ username: u, password: \"{word}-password\" }} }}"),
            format!("proxy: \"http://u:{word}-proxy@127.0.0.1:9\""),
        ]
    };
    bed.setup.env = vec![("LOG_CAPTURER_LOG".into(), "debug".into())];
    bed.setup.sink_keys = keys("swordfish");
    let product = bed.start();
    let mut seen = Vec::new();
    bed.setup.sink_keys = keys("herring");
    let (code, said) = reload(&bed.setup, &product);
    assert_eq!((code, &said["outcome"]), (200, &json!("changed")), "{said}");
    seen.push(said.to_string());
    bed.setup.sink_keys.push("frobnicate: herring-unknown".into());
    let (code, said) = reload(&bed.setup, &product);
    assert_eq!(code, 422);
    // What is no secret is told.
    seen.push(said.to_string().replace("herring-unknown", ""));
    bed.setup.sink_keys.pop();
    bed.setup.sink_keys[1] =
        "auth: { basic: { username: u, passwrd: \"herring-password\" } }".into();
    seen.push(reload(&bed.setup, &product).1.to_string());
    let (_, said) = post(&product, "/config/rollback", &json!({}));
    seen.push(said.to_string());
    for path in ["/config", "/config/history", "/stats", "/sinks", "/health", "/dlq/stats"] {
        seen.push(get(&product, path).to_string());
    }
    let path = file(&bed.setup).display().to_string();
    for args in [
        &["check", "--config", &path][..],
        &["config", "history", "--config", &path],
        &["config", "diff", "--config", &path, "1", "2"],
        &["config", "diff", "--json", "--config", &path],
        &["config", "rollback", "--no-reload", "--config", &path, "1"],
        &["config", "reload", "--config", &path],
    ] {
        seen.push(tool(args).1);
    }
    seen.push(product.metrics_text().unwrap());
    seen.push(product.log());
    for text in &seen {
        for secret in ["swordfish", "herring"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    for key in ["auth.basic.password", "headers.x-key", "proxy"] {
        let told = format!("sinks.loki.{key}: \"<redacted>");
        assert!(seen.iter().any(|text| text.contains(&told)), "{key}: that it changed is told");
    }
    // Its owner's alone.
    let kept = bed.setup.data_dir().join("config-history");
    for entry in fs::read_dir(&kept).unwrap() {
        let mode = fs::metadata(entry.unwrap().path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
    product.kill();
}
