//! Every command once, small, on the built product: what it prints, what it keeps, how it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_log-capturer-bench");

/// Built with the workspace's tests; beside this program.
fn product() -> PathBuf {
    let path = Path::new(BENCH).with_file_name("log-capturer");
    assert!(path.is_file(), "{} is not there: run cargo test --workspace", path.display());
    path
}

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(BENCH);
    command.args(args).env("LOG_CAPTURER_BIN", product());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command's JSON. Targets are for a release build on a quiet machine: they may be missed here,
/// the measurement itself may not fail.
fn measured(args: &[&str]) -> serde_json::Value {
    let output = bench(&[args, &["--json"]].concat());
    let errors = text(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}\n{errors}"))
}

/// Exits with `code` and says something.
fn fails(args: &[&str], code: i32, said: &str) {
    let output = bench(args);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(errors.contains(said), "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
}

fn figure(report: &serde_json::Value, name: &str) -> f64 {
    let figures = report["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name);
    found.unwrap_or_else(|| panic!("no {name:?} in {figures:#?}"))["value"].as_f64().unwrap()
}

#[test]
fn list_shows_every_command_and_every_workload() {
    let shown = text(&bench(&["list"]).stdout);
    for name in [
        "slo", "saturate", "sweep", "outage", "idle", "soak", "peers", "http", "compare", "nginx",
        "java",
    ] {
        assert!(shown.lines().any(|line| line.starts_with(name)), "{name}: {shown}");
        if !["nginx", "java"].contains(&name) {
            assert!(text(&bench(&[name, "--help"]).stdout).contains("Usage:"), "{name}");
        }
    }
}

#[test]
fn slo_measures_every_stage_and_its_page_shows_the_plots_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let (record, page) = (dir.path().join("record"), dir.path().join("page.html"));
    let report = measured(&[
        "slo",
        "--for",
        "2s",
        "--rate",
        "2000",
        "--linger",
        "5ms",
        "--workload",
        "mixed",
        &format!("--record={}", record.display()),
        "--html",
        page.to_str().unwrap(),
    ]);
    for name in [
        "end to end p50",
        "end to end p99.9",
        "stage wal commit p99",
        "stage push max",
        "harness CPU",
    ] {
        assert!(figure(&report, name) > 0.0, "{name}");
    }
    let kept = std::fs::read_dir(&record).unwrap().next().unwrap().unwrap().path();
    let mut kinds: Vec<_> = std::fs::read_dir(kept)
        .unwrap()
        .map(|file| file.unwrap().path().extension().unwrap().to_owned())
        .collect();
    kinds.sort();
    assert_eq!(kinds, ["hgrm", "html", "json"]);
    shows_its_plots(dir.path(), &page);
}

/// Opened by Chromium, the page has its headings, and the curves' colour is on the picture.
fn shows_its_plots(dir: &Path, page: &Path) {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        eprintln!("skipped: there is no Chromium to open the page with");
        return;
    };
    let picture = dir.join("page.png");
    let url = format!("file://{}", page.display());
    let headless = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"];
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let dom = Command::new(browser).args(headless).args([&profile, "--dump-dom", &url]).output();
    let dom = text(&dom.unwrap().stdout);
    assert_eq!(dom.matches("<svg").count(), 4, "{dom}");
    assert!(dom.contains("latency by percentile, end to end"), "{dom}");
    let shot = format!("--screenshot={}", picture.display());
    Command::new(browser)
        .args(headless)
        .args([&profile, &shot, "--window-size=1000,4000", &url])
        .output()
        .unwrap();
    let decoder =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&picture).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let blue = pixels[..info.buffer_size()]
        .chunks(info.color_type.samples())
        .filter(|pixel| pixel[..3] == [0, 114, 178])
        .count();
    assert!(blue > 500, "{blue} pixels of the first curve's colour");
}

#[test]
fn saturate_compares_with_the_encode_limit_and_carries_every_line() {
    let report = measured(&[
        "saturate",
        "--lines",
        "20000",
        "--runs",
        "1",
        "--workload",
        "key-value",
        "--workload",
        "cri",
    ]);
    assert!(figure(&report, "share of the encode limit") > 0.0);
    assert_eq!(
        report["figures"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|f| f["name"] == "encode limit")
            .count(),
        2
    );
}

#[test]
fn sweep_gives_a_point_for_each_value() {
    for over in ["shards", "files", "streams", "line-bytes"] {
        let report = measured(&["sweep", "--over", over, "--values", "2,7", "--lines", "5000"]);
        assert_eq!(report["figures"].as_array().unwrap().len(), 8, "{over}");
        assert_eq!(report["plots"][0]["series"][0]["points"].as_array().unwrap().len(), 2);
    }
    let report =
        measured(&["sweep", "--over", "commit-interval", "--values", "2000", "--for", "1s"]);
    assert!(figure(&report, "end to end p99") > 0.0);
}

#[test]
fn outage_loses_nothing() {
    for how in ["refusing", "silent", "answering503"] {
        let report = measured(&["outage", "--for", "1s", "--rate", "2000", "--how", how]);
        assert_eq!(figure(&report, "lines lost"), 0.0);
        assert!(figure(&report, "lines behind at its end") > 0.0, "{how}: it was not away");
        assert_eq!(figure(&report, "lines out of order"), 0.0);
        assert!(figure(&report, "drain rate to live rate") > 0.0);
        let figures = report["figures"].as_array().unwrap();
        let drain = figures.iter().find(|figure| figure["name"] == "drain rate to live rate");
        assert_eq!(drain.unwrap()["target"]["at_least"], 3.0);
    }
}

#[test]
fn idle_files_are_counted() {
    let report = measured(&["idle", "--files", "300", "--for", "1s", "--settle", "1s"]);
    assert!(figure(&report, "descriptors") > 3.0);
}

#[test]
fn soak_restarts_and_loses_nothing() {
    let report = measured(&[
        "soak",
        "--for",
        "8s",
        "--rate",
        "1000",
        "--fault-every",
        "1s",
        "--restart-every",
        "2s",
    ]);
    assert_eq!(figure(&report, "lines lost"), 0.0);
    assert!(figure(&report, "restarts by kill -9") >= 1.0);
    assert!(figure(&report, "restarts by SIGTERM") >= 1.0);
    assert!(figure(&report, "faults of the sink") >= 3.0);
}

#[test]
fn peers_are_run_in_turn_and_compared() {
    // A stand-in: the product itself, as somebody else's agent.
    let dir = tempfile::tempdir().unwrap();
    let peer = dir.path().join("stand-in.toml");
    let config = "version: 1\ndata_dir: ${data}\nsources: { files: [{ include: [\"${logs}/*.log\"] }] }\n\
         sinks: { loki: { url: \"${url}\" } }\nserver: { listen: \"127.0.0.1:0\" }\n\
         metrics: { listen: \"127.0.0.1:0\" }\n";
    let toml = format!(
        "about = 'a stand-in'\nbinaries = [{:?}]\nversion = ['--version']\nargs = ['run', '--config', '${{config}}']\n\
         config_file = 'stand-in.yaml'\nconfig = '''\n{config}'''\n",
        product()
    );
    std::fs::write(&peer, toml).unwrap();
    let report = measured(&[
        "peers",
        "--peer",
        peer.to_str().unwrap(),
        "--lines",
        "5000",
        "--rounds",
        "1",
        "--for",
        "1s",
        "--rate",
        "1000",
    ]);
    let groups: Vec<&str> = report["figures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["group"].as_str().unwrap())
        .collect();
    assert!(groups.iter().any(|group| group.starts_with("stand-in (log-capturer")), "{groups:?}");
    assert!(figure(&report, "backlog: peak memory, to log-capturer's") > 0.0);
    assert_eq!(figure(&report, "lines lost, all runs"), 0.0);
    let broken = dir.path().join("broken.toml");
    std::fs::write(&broken, "about = 3").unwrap();
    fails(&["peers", "--peer", broken.to_str().unwrap()], 1, "peer broken: ");
}

#[test]
fn compare_tells_better_from_worse_and_refuses_what_is_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut report =
        measured(&["saturate", "--lines", "5000", "--runs", "1", "--workload", "java"]);
    let keep = |name: &str, report: &serde_json::Value| {
        std::fs::write(path(name), report.to_string()).unwrap();
    };
    keep("base", &report);
    assert!(bench(&["compare", &path("base"), &path("base")]).status.success());
    report["figures"][0]["value"] = 1.0.into();
    keep("new", &report);
    let output = bench(&["compare", &path("base"), &path("new")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("WORSE"), "{}", text(&output.stdout));
    std::fs::write(path("corrupt"), "{ \"name\": ").unwrap();
    fails(&["compare", &path("corrupt"), &path("new")], 1, "not a record of this program");
    fails(&["compare", &path("none"), &path("new")], 1, "cannot read");
}

#[test]
fn saturate_loads_the_push_endpoint() {
    let report = measured(&["saturate", "--via", "http", "--lines", "5000", "--runs", "1"]);
    assert!(figure(&report, "lines per push") > 1.0);
}

#[test]
fn http_measures_a_rate_pushes_idle_connections_and_bombs() {
    let report = measured(&[
        "http",
        "--part",
        "rate,push,idle,bomb",
        "--for",
        "1s",
        "--runs",
        "1",
        "--connections",
        "8",
        "--rate",
        "500",
        "--lines",
        "40000",
        "--push-connections",
        "2",
        "--idle",
        "300",
        "--bomb-mib",
        "512",
    ]);
    assert!(figure(&report, "answered p99") >= figure(&report, "answered p50"));
    assert!((90.0..=100.5).contains(&figure(&report, "text per push")));
    assert!(figure(&report, "text per CPU second of the shard") > 0.0);
    assert!(figure(&report, "descriptors") > 300.0);
    for form in ["gzip", "snappy"] {
        for path in ["/loki/api/v1/push", "/loki/api/v1/raw", "/api/v1/logs"] {
            let status = figure(&report, &format!("{form} bomb to {path}: status"));
            assert!([400.0, 413.0].contains(&status), "{form} {path}: {status}");
        }
    }
}

#[test]
fn http_requests_are_held_against_nginx() {
    // Without the programs it says what to install.
    let mut without = Command::new(BENCH);
    without.args(["http", "--part", "requests"]).env("LOG_CAPTURER_BIN", product());
    let output = without.env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("nginx is not on PATH: install the Debian package nginx"), "{errors}");
    for program in ["nginx", "wrk"] {
        if Command::new(program).arg("-v").output().is_err() {
            eprintln!("skipped: there is no {program} on PATH");
            return;
        }
    }
    let small = ["--for", "1s", "--runs", "1", "--connections", "4"];
    let report = measured(&[&["http", "--part", "requests"], &small[..]].concat());
    let groups: std::collections::BTreeSet<&str> = report["figures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["group"].as_str().unwrap())
        .collect();
    assert_eq!(groups.len(), 2, "{groups:?}");
    for name in ["requests per second", "nginx: requests per second", "as a share of nginx'"] {
        assert!(figure(&report, name) > 0.0, "{name}");
    }
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let slo = ["slo", "--for", "1s", "--rate", "1000", "--linger", "5ms"];
    // A receiver that says 204 and stores nothing: lines are missing at the end.
    fails(&[&slo[..], &["--fault", "answer=204:1"]].concat(), 1, "the run is void");
    // An unreachable product.
    fails(&[&slo[..], &["--binary", "/bin/false"]].concat(), 1, "did not start");
    fails(&[&slo[..], &["--binary", "/nowhere/log-capturer"]].concat(), 1, "/nowhere/log-capturer");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    fails(&[&slo[..], &["--stub-listen", &addr]].concat(), 1, "choose another port");
    fails(&[&slo[..], &["--loki", "http://127.0.0.1:1"]].concat(), 1, "is this Loki's address?");
    fails(&["slo", "--workload", "nginy"], 1, "known are service");
    fails(&["slo", "--workload", "key-value"], 1, "needs ${mark}");
    fails(&["slo", "--for", "soon"], 2, "expected a time such as");
    fails(&["slo", "--fault", "smoke"], 2, "expected FAULT");
    fails(&["saturate", "--runs", "0"], 2, "0 is not in");
    fails(&["http", "--part", "request"], 2, "possible values: requests, rate, push, idle, bomb");
    fails(&["http", "--idle", "0"], 2, "0 is not in");
}
