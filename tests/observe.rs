//! What the product shows of itself, as those see it who watch it.

pub mod prometheus;

use crate::bed::{Bed, agent, eventually, stop};
use crate::crash::disks::{Mounted, made};
use bench::load::Rotation;
use bench::product::Product;
use bench::stub::{Away, Fault};
use prometheus::{Prometheus, health};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

#[test]
fn a_canary_measures_the_whole_way_where_nobody_logs() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: 2 }".into();
    bed.setup.more =
        vec!["canary: { enabled: true, interval: 100ms, labels: { job: bird } }".into()];
    let product = bed.start();
    let of = |shard: usize| format!("{{job=\"bird\", shard=\"{shard}\"}}");
    let lines = |shard: usize| {
        let entries = bed.stub.entries();
        let own = entries.iter().filter(|entry| entry.labels == of(shard));
        own.map(|entry| String::from_utf8_lossy(&entry.line).into_owned()).collect::<Vec<_>>()
    };
    eventually("each shard has sent some", &product, || {
        (0..2).all(|shard| lines(shard).len() >= 5)
    });
    for shard in 0..2 {
        let lines = lines(shard);
        // The first may have come while the log was still being recovered.
        let first: u64 = lines[0].rsplit_once('=').unwrap().1.parse().unwrap();
        let expected = (first..).map(|number| format!("canary shard={shard} number={number}"));
        assert_eq!(lines, expected.take(lines.len()).collect::<Vec<_>>());
    }
    eventually("the way was measured", &product, || {
        product.metric("log_capturer_source_to_ack_seconds_count").unwrap() >= 10.0
    });
    assert!(product.metric("log_capturer_canary_lines_total").unwrap() >= 10.0);
    assert_eq!(
        product.metric("log_capturer_logs_processed_total").unwrap(),
        0.0,
        "they are no logs"
    );
    stop(product);
}

/// Lines by HTTP; gives the last status.
fn push(product: &Product, lines: usize, bytes: usize) -> u16 {
    let url = format!("http://{}/loki/api/v1/raw?job=pushed", product.api);
    let mut status = 0;
    for number in 0..lines {
        let line = crate::abuse::client::noise(number as u64, bytes);
        status = agent().post(&url).send(line.as_bytes()).unwrap().status().as_u16();
    }
    status
}

fn own(tool: &str, args: &[&str]) -> (bool, String) {
    let ran = Command::new(tool).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let ran = ran.unwrap_or_else(|error| panic!("{tool}: {error}"));
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn there_is(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped in part: there is no {tool} on this host");
    }
    there
}

/// The metrics of the product that rules and dashboards name.
fn named() -> BTreeSet<String> {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let files = ["prometheus/rules/alerts.yaml", "prometheus/rules/recording.yaml"]
        .into_iter()
        .chain(["grafana/critical-metrics.json", "grafana/per-shard-tuning.json"]);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut names = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(format!("{config}/{file}")).unwrap();
        // Not the names of groups of rules.
        let text: String = text.lines().filter(|line| !line.contains("- name:")).collect();
        let words = text.split(|c: char| !is_part(c)).map(str::to_owned);
        names.extend(
            words.filter(|word| word.starts_with("log_capturer_") || word.starts_with("process_")),
        );
    }
    // Of panels that tell where something is missing, and of what is not on.
    names.retain(|name| !name.contains(':') && !name.ends_with('_'));
    // Of listeners with TLS, which are tried in `guard`.
    names.remove("log_capturer_tls_certificate_expiry_timestamp_seconds");
    names
}

#[test]
fn what_is_shipped_for_prometheus_is_sound() {
    if !there_is("promtool") {
        return;
    }
    let (sound, text) = own("bash", &["config/prometheus/check.sh"]);
    assert!(sound, "{text}");
    let bed = Bed::new();
    let product = bed.start();
    bed.append("a.log", "line\n");
    bed.entries(1);
    push(&product, 1, 10);
    for accept in ["text/plain", "application/openmetrics-text"] {
        let url = format!("http://{}/metrics", product.metrics);
        let mut answer = agent().get(&url).header("accept", accept).call().unwrap();
        let file = bed.setup.dir.join("metrics.txt");
        std::fs::write(&file, answer.body_mut().read_to_string().unwrap()).unwrap();
        if accept == "text/plain" {
            let (sound, text) =
                own("sh", &["-c", &format!("promtool check metrics < {}", file.display())]);
            assert!(sound && text.trim().is_empty(), "{text}");
        }
    }
    stop(product);
}

#[test]
fn the_dashboards_are_what_grafana_takes() {
    if there_is("promtool") && there_is("npm") {
        let (sound, text) = own("bash", &["config/grafana/validate.sh"]);
        assert!(sound, "{text}");
    }
}

/// A Prometheus on the product under load: everything that dashboards and rules name has data, and faults
/// turn their checks and raise their alerts.
#[test]
fn a_prometheus_sees_the_product_and_its_faults() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: 2 }".into();
    bed.setup.wal = "{ bytes_max: 32MiB, segment_bytes: 1MiB }".into();
    bed.setup.sink_keys.push("dlq: { bytes_max: 64MiB }".into());
    bed.setup.more = vec!["canary: { enabled: true }".into()];
    // On a disk of its own, where that can be had.
    let disk = made(Mounted::ext4(&bed.setup.dir.join("disk"), &bed.setup.data_dir(), 128 << 20));
    let mut slow = Bed::new();
    slow.setup.env =
        vec![("LOG_CAPTURER_FAILPOINTS".into(), "write:.wal@20..1000000=300ms".into())];
    let (product, slowed) = (bed.start(), slow.start());
    let Some(prometheus) = Prometheus::start(&[product.metrics, slowed.metrics]) else { return };
    let (here, there) = (product.metrics, slowed.metrics);

    // All is well, and everything is there.
    let writer = bed.writer(1_000, 60_000, Rotation::Never);
    let slow_writer = slow.writer(200, 12_000, Rotation::Never);
    prometheus.eventually("both are up", || {
        let targets = prometheus.targets();
        targets.len() == 2 && targets.iter().all(|target| target["health"] == "up")
    });
    prometheus.eventually("its figures are there", || {
        push(&product, 5, 100);
        let up = prometheus.query("sum(rate(log_capturer_source_to_ack_seconds_count[5m])) > 100");
        !up.is_empty()
    });
    let (status, whole, queue) = health(&product, "queue");
    assert_eq!((status, queue.as_str()), (200, "healthy"), "{whole}");
    let missing: Vec<String> = named()
        .into_iter()
        .filter(|name| prometheus.query(&format!("count({name})")).is_empty())
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "named, and not there");
    if there_is("node") {
        let mut last = String::new();
        prometheus.eventually("every panel has data", || {
            push(&product, 5, 100);
            let arguments = ["config/grafana/validate.sh", "--against", prometheus.url()];
            let (all, text) = own("bash", &arguments);
            if text != last {
                println!("{text}");
                last = text;
            }
            all
        });
    }
    assert_eq!(prometheus.broken_rules(), Vec::<serde_json::Value>::new());
    for alert in ["Down", "BreakerOpen", "WalFull", "DeadLettersGrowing", "CommitSlow"] {
        assert!(!prometheus.fires(alert, here), "{alert} fires, and nothing is wrong");
    }

    // A slow disk.
    prometheus.eventually("a slow disk is seen", || prometheus.fires("CommitSlow", there));
    let (status, _, commits) = health(&slowed, "commit_latency");
    assert_eq!((status, commits.as_str()), (200, "warning"));
    drop((slow_writer, slowed));

    // What Loki refuses.
    bed.stub.set_fault(Fault::answer(400, "no such line\n"));
    prometheus.eventually("dead letters are seen", || prometheus.fires("DeadLettersGrowing", here));
    eventually("dead letters turn their check", &product, || {
        health(&product, "dead_letters").2 == "warning"
    });
    bed.stub.heal();

    // No Loki, until the log is full.
    bed.stub.go_away(Away::Refusing);
    prometheus.eventually("Loki is missed", || prometheus.fires("BreakerOpen", here));
    eventually("Loki is missed", &product, || {
        let (status, _, sinks) = health(&product, "sink_connectivity");
        (status, sinks.as_str()) == (200, "degraded")
    });
    eventually("the log fills", &product, || push(&product, 20, 200_000) == 503);
    eventually("a full log turns its check", &product, || {
        let (status, whole, queue) = health(&product, "queue");
        (status, whole.as_str(), queue.as_str()) == (503, "critical", "critical")
    });
    prometheus.eventually("a full log is seen", || prometheus.fires("WalFull", here));

    // A disk that something else fills.
    if disk.is_some() {
        let filler = bed.setup.data_dir().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[7; 1 << 16]).is_ok() {}
        prometheus
            .eventually("a full disk is seen", || prometheus.fires("DiskSpaceCritical", here));
        eventually("a full disk turns its check", &product, || {
            health(&product, "disk_space").2 == "critical"
        });
        std::fs::remove_file(&filler).unwrap();
    }

    // And it passes.
    bed.stub.come_back();
    prometheus.eventually("the alerts end", || {
        !prometheus.fires("WalFull", here) && !prometheus.fires("BreakerOpen", here)
    });
    eventually("it is well again", &product, || health(&product, "queue").0 == 200);
    drop((writer, product));
    prometheus.eventually("it is missed", || prometheus.fires("Down", here));
}
