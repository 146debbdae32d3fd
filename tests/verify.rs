//! `log-capturer baseline …` and `log-capturer verify`: on real instances under load, on planted [`faults`], and as
//! others [`watch`](watched) them.

mod fake;
mod faults;
mod watched;

use crate::bed::{BINARY, Bed, agent, stop};
use crate::tools::{Output, json, run};
use bench::load::Rotation;
use bench::product::Product;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// Short windows are enough, and a busy machine is no fault.
const EASY: &str = "\
rules: { health_worst: degraded, p99_max: 60s, memory_max: 2GB, memory_slope_max: off, throughput_drop_max: 90%, spread_max: off }
data: { lines_min: 1000, looks_min: 5, slope_time_min: 2s }
triggers: { p99_max: off, memory_slope_max: off }
";

/// An address that nobody has now, and nobody is given who just connects: below what those get.
fn free() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let port = ports.find(|port| TcpListener::bind(address(*port)).is_ok());
    address(port.expect("one is free")).to_string()
}

fn url(product: &Product) -> String {
    format!("http://{}", product.api)
}

fn metrics(product: &Product) -> String {
    format!("http://{}", product.metrics)
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Of one instance or several, by rules that are written out; with what `--json` has.
fn verify(dir: &Path, products: &[&Product], rules: &str, args: &[&str]) -> (Output, Value) {
    let (child, path) = begin(dir, products, rules, args);
    finish(child, &path)
}

fn begin(dir: &Path, products: &[&Product], rules: &str, args: &[&str]) -> (Child, PathBuf) {
    let join =
        |of: fn(&Product) -> String| products.iter().map(|p| of(p)).collect::<Vec<_>>().join(",");
    let targets = [join(url), join(metrics)];
    let [targets, metrics] = [&targets[0], &targets[1]];
    begin_on(dir, rules, &[&["--targets", targets, "--metrics", metrics], args].concat())
}

fn begin_on(dir: &Path, rules: &str, args: &[&str]) -> (Child, PathBuf) {
    let path = dir.join("verdict.json");
    let rules = write(dir, "rules.yaml", rules);
    let child = Command::new(BINARY)
        .args(["verify", "--interval", "500ms", "--rules", &rules, "--json"])
        .arg(&path)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, path)
}

fn finish(child: Child, path: &Path) -> (Output, Value) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let output = Output {
        code: output.status.code(),
        out: text(output.stdout),
        errors: text(output.stderr),
    };
    let verdict =
        fs::read_to_string(path).unwrap_or_else(|_| panic!("{}{}", output.out, output.errors));
    (output, json(&verdict))
}

/// Waits until it has looked for the first time.
fn looked(child: &mut Child) {
    let mut line = String::new();
    let mut errors = BufReader::new(child.stderr.as_mut().unwrap());
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("looked at 1 instances once"), "{line}");
}

/// What was said of a rule.
fn rule<'a>(verdict: &'a Value, rule: &str) -> &'a Value {
    let rules = verdict["rules"].as_array().unwrap();
    rules
        .iter()
        .find(|judged| judged["rule"] == rule)
        .unwrap_or_else(|| panic!("no {rule}: {verdict:#}"))
}

/// It ended before its time, with no-go, and said this.
fn ended_early((output, verdict): &(Output, Value), why: &str) {
    assert_eq!(output.code, Some(2), "{}{}", output.out, output.errors);
    assert_eq!(verdict["verdict"], "no_go");
    let said = verdict["ended_early"].as_str().unwrap_or_default();
    assert!(said.contains(why), "{why} is not in {said}: {verdict:#}");
    assert!(output.out.contains(said) && output.out.ends_with("NO-GO\n"), "{}", output.out);
    assert!(verdict["seconds"].as_f64().unwrap() < verdict["for_seconds"].as_f64().unwrap());
}

fn save(args: &[&str]) -> Output {
    run(&[&["baseline", "save", "--interval", "500ms"], args].concat())
}

/// Lines by HTTP; gives the status.
fn push(product: &Product, query: &str, lines: &str) -> u16 {
    let url = format!("http://{}/loki/api/v1/raw?job=pushed{query}", product.api);
    agent().post(&url).send(lines.as_bytes()).unwrap().status().as_u16()
}

#[test]
fn a_healthy_instance_is_go_and_its_sheet_opens() {
    let mut bed = Bed::new();
    // Found in GET /config.
    bed.setup.metrics_listen = free();
    let product = bed.start();
    let writer = bed.writer(1_000, u64::MAX, Rotation::Never);
    let dir = &bed.setup.dir;
    let baseline = dir.join("baseline.json").display().to_string();
    let saved = save(&["--targets", &url(&product), "--for", "3s", "--out", &baseline]);
    assert_eq!(saved.code, Some(0), "{}", saved.errors);
    assert!(saved.out.contains("LINES/S") && saved.out.contains(&url(&product)), "{}", saved.out);
    let kept = json(&fs::read_to_string(&baseline).unwrap());
    let figures = &kept["instances"][0];
    assert_eq!((&kept["version"], &figures["instance"]), (&1.into(), &url(&product).into()));
    for key in
        ["lines", "lines_per_second", "bytes_per_second", "memory_bytes", "open_fds", "threads"]
    {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key}: {figures:#}");
    }
    let ways: Vec<&str> = figures["latency"]
        .as_array()
        .unwrap()
        .iter()
        .map(|way| way["of"].as_str().unwrap())
        .collect();
    for of in
        ["source_to_ack", "read", "pipeline", "seal", "append", "sync", "handoff", "send", "ack"]
    {
        assert!(ways.contains(&of), "{of} is not in {ways:?}");
    }
    let rules = write(dir, "rules.yaml", EASY);
    let (page, verdict) = (dir.join("sheet.html"), dir.join("verdict.json"));
    let output = run(&[
        "verify",
        "--targets",
        &url(&product),
        "--for",
        "5s",
        "--interval",
        "500ms",
        "--rules",
        &rules,
        "--baseline",
        &baseline,
        "--html",
        page.to_str().unwrap(),
        "--json",
        verdict.to_str().unwrap(),
    ]);
    assert_eq!(output.code, Some(0), "{}{}", output.out, output.errors);
    assert!(output.out.ends_with("\ngo\n"), "{}", output.out);
    let verdict = json(&fs::read_to_string(&verdict).unwrap());
    assert_eq!((&verdict["verdict"], &verdict["ended_early"]), (&"go".into(), &Value::Null));
    for name in [
        "reached",
        "healthy",
        "p99",
        "error_rate",
        "bytes_lost",
        "memory",
        "throughput",
        "dead_letters",
        "breakers",
        "restarts",
    ] {
        assert_eq!(rule(&verdict, name)["verdict"], "go", "{name}");
    }
    for name in
        ["p99", "error_rate", "memory", "throughput", "dead_letters", "breakers", "restarts"]
    {
        assert!(
            rule(&verdict, name)["figure"].is_number() && rule(&verdict, name)["limit"].is_number(),
            "{name}"
        );
    }
    for name in ["memory_slope", "spread_rate", "spread_p99"] {
        assert_eq!(rule(&verdict, name)["verdict"], "skipped", "{name}");
    }
    opens(dir, &page);
    drop(writer);
    stop(product);
}

/// In a browser: the verdict, the tables and the plots.
fn opens(dir: &Path, page: &Path) {
    let text = fs::read_to_string(page).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && !text.contains("http-equiv"), "{text}");
    let Ok(output) = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
    else {
        eprintln!("skipped in part: there is no Chromium to open the page with");
        return;
    };
    let dom = String::from_utf8_lossy(&output.stdout);
    assert_eq!((dom.matches("<svg").count(), dom.matches("<table").count()), (7, 3), "{dom}");
    for part in ["<span class=\"ok\">go</span>", "source_to_ack loki", "error_rate", "signature"] {
        assert!(dom.contains(part), "{part} is missing in {dom}");
    }
}

#[test]
fn what_is_too_short_says_so() {
    let bed = Bed::new();
    let product = bed.start();
    let writer = bed.writer(50, u64::MAX, Rotation::Never);
    let (output, verdict) =
        verify(&bed.setup.dir, &[&product], "rules: { health_worst: degraded }", &["--for", "2s"]);
    assert_eq!(output.code, Some(3), "{}{}", output.out, output.errors);
    assert!(output.errors.contains("not enough data for a verdict"), "{}", output.errors);
    for (name, why) in [
        ("p99", "of at least"),
        ("error_rate", "between 0.000 % and "),
        ("memory_slope", "of at least"),
        ("restarts", "of at least"),
    ] {
        let judged = rule(&verdict, name);
        assert_eq!(judged["verdict"], "not_enough_data", "{judged}");
        assert!(judged["why"].as_str().unwrap().contains(why), "{judged}");
    }
    // Ended by a signal, it tells what it knows.
    let (mut child, path) = begin(&bed.setup.dir, &[&product], EASY, &["--for", "1h"]);
    looked(&mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (output, verdict) = finish(child, &path);
    assert_eq!((output.code, &verdict["verdict"]), (Some(3), &"not_enough_data".into()));
    assert!(output.out.contains("ended by a signal"), "{}", output.out);
    drop(writer);
    stop(product);
}

#[test]
fn baselines_are_compared() {
    let bed = Bed::new();
    let product = bed.start();
    let writer = bed.writer(1_000, u64::MAX, Rotation::Never);
    let dir = &bed.setup.dir;
    let path = |name: &str| dir.join(name).display().to_string();
    let take = |name: &str, time: &str| {
        let (targets, metrics) = (url(&product), metrics(&product));
        let args =
            ["--targets", &targets, "--metrics", &metrics, "--for", time, "--out", &path(name)];
        let saved = save(&args);
        assert_eq!(saved.code, Some(0), "{}", saved.errors);
    };
    let compare = |a: &str, b: &str, more: &[&str]| {
        run(&[&["baseline", "compare", &path(a), &path(b)], more].concat())
    };
    take("a.json", "8s");
    // It moves by itself, and more than that is no difference.
    let wide = ["lines_per_second", "bytes_per_second", "source_to_ack", "stages", "errors", "cpu"];
    let wide = wide.map(|name| format!("--tolerance={name}=100%"));
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let same = compare("a.json", "a.json", &wide);
    assert!(matches!(same.code, Some(0 | 2)), "{}{}", same.out, same.errors);
    assert!(
        same.out.contains("source_to_ack loki p99") && !same.out.contains("WORSE"),
        "{}",
        same.out
    );
    let text = fs::read_to_string(path("a.json")).unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut document = json(&text);
        change(&mut document);
        write(dir, name, &document.to_string());
    };
    changed("slow.json", &|of| of["instances"][0]["lines_per_second"] = 100.into());
    let worse = compare("a.json", "slow.json", &[]);
    assert_eq!(worse.code, Some(1), "{}{}", worse.out, worse.errors);
    assert!(worse.errors.contains("something is worse"), "{}", worse.errors);
    assert!(
        worse.out.lines().any(|line| line.contains("lines/s") && line.ends_with("WORSE")),
        "{}",
        worse.out
    );
    let allowed = compare("a.json", "slow.json", &["--tolerance", "lines_per_second=100%"]);
    assert!(!allowed.out.contains("WORSE"), "{}{}", allowed.out, allowed.errors);
    // What moves by as much as it is worse is neither worse nor the same.
    changed("noisy.json", &|of| {
        of["instances"][0]["lines_per_second_error"]["standard"] = 500.into()
    });
    let noisy = compare("a.json", "noisy.json", &[]);
    assert_eq!(noisy.code, Some(2), "{}{}", noisy.out, noisy.errors);
    let of_rate =
        |out: &str| out.lines().find(|line| line.contains(" lines/s ")).unwrap().to_owned();
    assert!(of_rate(&noisy.out).ends_with("not enough data"), "{}", noisy.out);
    let better = compare("slow.json", "a.json", &[]);
    assert!(
        better.out.lines().any(|line| line.contains("lines/s") && line.ends_with("better")),
        "{}",
        better.out
    );
    changed("few.json", &|of| {
        of["instances"][0]["latency"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|way| way["lines"] = 999.into());
    });
    let few = compare("a.json", "few.json", &[]);
    assert_eq!(few.code, Some(2), "{}{}", few.out, few.errors);
    assert!(few.out.contains("not enough data"), "{}", few.out);
    changed("two.json", &|of| {
        let mut other = of["instances"][0].clone();
        other["instance"] = "http://other".into();
        of["instances"].as_array_mut().unwrap().push(other);
    });
    let other = compare("a.json", "two.json", &[]);
    assert_eq!(other.code, Some(2), "{}{}", other.out, other.errors);
    let alone = other.out.lines().find(|line| line.contains("http://other")).unwrap();
    assert!(alone.contains("no counterpart") && alone.ends_with("not enough data"), "{alone}");
    changed("strange.json", &|of| {
        let mut other = of["instances"][0].clone();
        other["instance"] = "http://other".into();
        of["instances"] = vec![other.clone(), other].into();
    });
    let strange = compare("a.json", "strange.json", &[]);
    assert_eq!(strange.code, Some(2), "{}{}", strange.out, strange.errors);
    assert!(strange.errors.contains("the same instances"), "{}", strange.errors);
    changed("later.json", &|of| of["version"] = 2.into());
    let later = compare("a.json", "later.json", &[]);
    assert_eq!(later.code, Some(78), "{}", later.errors);
    assert!(later.errors.contains("a later log-capturer wrote it"), "{}", later.errors);
    drop(writer);
    stop(product);
}

#[test]
fn what_is_given_wrongly_is_78_and_help_tells_the_codes() {
    let dir = tempfile::tempdir().unwrap();
    let rules = write(dir.path(), "rules.yaml", "rules: { p99_max: 5 }\n");
    let file = write(dir.path(), "baseline.json", "{}");
    let target = ["--targets", "http://127.0.0.1:1"];
    let save = ["baseline", "save", "--out", "/dev/null"];
    let verify = ["verify", target[0], target[1]];
    for (args, expected) in [
        (&save[..], "--targets"),
        (&[&save[..], &["--targets", "127.0.0.1:8401"]].concat(), "such as http://127.0.0.1:8401"),
        (&[&save[..], &target, &["--prometheus", "http://a"]].concat(), "cannot be used with"),
        (&[&save[..], &["--prometheus", "nothing"]].concat(), "such as http://127.0.0.1:9090"),
        (&[&save[..], &target, &["--for", "5"]].concat(), "add a unit"),
        (&[&save[..], &target, &["--interval", "1ms"]].concat(), "from 500ms to 1h"),
        (&["baseline", "compare", &file], "<AFTER>"),
        (&["baseline", "compare", &file, &file], "expected a baseline"),
        (&["baseline", "compare", &file, "/nothing"], "expected a baseline"),
        (&["baseline", "compare", &file, &file, "--tolerance", "speed=3%"], "lines_per_second"),
        (&["verify"], "at least one instance"),
        (&[&verify[..], &["--rules", &rules]].concat(), "rules.yaml:1: rules.p99_max: expected"),
        (&[&verify[..], &["--rules", "/nothing"]].concat(), "cannot be read"),
        (&[&verify[..], &["--rules", "/dev/zero"]].concat(), "expected no more than"),
        (&[&verify[..], &["--baseline", &file]].concat(), "expected a baseline"),
        (&[&verify[..], &["--baseline", "/dev/zero"]].concat(), "expected a baseline"),
        (&[&verify[..], &["--grafana", "x"]].concat(), "such as http://127.0.0.1:3000"),
        (&[&verify[..], &["--metrics", "http://a,http://b"]].concat(), "one for each"),
    ] {
        let Output { code, out, errors } = run(args);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{args:?}: {errors}");
        assert!(errors.contains(expected), "{args:?}: {errors}");
    }
    for args in [&["baseline", "save"][..], &["baseline", "compare"], &["verify"]] {
        let Output { code, out, .. } = run(&[args, &["--help"]].concat());
        assert_eq!(code, Some(0));
        assert!(out.contains("Exit code: 0"), "{out}");
    }
}
