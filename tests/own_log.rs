//! What the product says of itself: its form, its level, what repeats, what is counted, and that it
//! never follows it.

use crate::bed::{BINARY, Bed, PATIENCE, eventually, stop};
use bench::product::{Error, Product, metric};
use bench::stub::Fault;
use perf::errors::ErrorKey;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

type Line = BTreeMap<String, String>;

/// Strictly: keys and values, one space between them, quoted values as JSON has them.
fn logfmt(line: &str) -> Line {
    let (mut fields, mut rest) = (Line::new(), line);
    loop {
        let (key, behind) = rest.split_once('=').unwrap_or_else(|| panic!("no value: {line:?}"));
        let key_is_plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        assert!(!key.is_empty() && key_is_plain, "the key {key:?} in {line:?}");
        let len = if behind.starts_with('"') {
            let mut texts = serde_json::Deserializer::from_str(behind).into_iter::<String>();
            let text = texts.next().unwrap().unwrap_or_else(|e| panic!("{e}: {line:?}"));
            assert_eq!(fields.insert(key.into(), text), None, "twice {key} in {line:?}");
            texts.byte_offset()
        } else {
            let len = behind.find(' ').unwrap_or(behind.len());
            assert!(!behind[..len].contains(['"', '=', '\\']), "{line:?}");
            assert_eq!(fields.insert(key.into(), behind[..len].into()), None, "twice {key}");
            len
        };
        rest = match behind[len..].strip_prefix(' ') {
            Some(rest) => rest,
            None if len == behind.len() => return fields,
            None => panic!("no space between values: {line:?}"),
        };
    }
}

fn json(line: &str) -> Line {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
            panic!("{line:?} is not flat")
        }
        other => other.to_string(),
    };
    object.into_iter().map(|(key, value)| (key, text(value))).collect()
}

fn errors(product: &Product, key: ErrorKey) -> f64 {
    let name = format!("log_capturer_errors_total{{reason=\"{}\"}}", key.name());
    metric(&product.metrics_text().unwrap(), &name)
}

/// What every line has, and every warning and error.
fn assert_whole(lines: &[Line]) {
    let has = |msg: &str| lines.iter().any(|line| line["msg"] == msg);
    assert!(has("starting") && has("ready") && has("stopped"), "{lines:#?}");
    for line in lines {
        let level = line["level"].as_str();
        assert!(["error", "warn", "info"].contains(&level), "{line:?}");
        let key = line.get("error_key").and_then(|key| ErrorKey::of_name(key));
        assert_eq!(level != "info", key.is_some(), "{line:?}");
    }
}

/// A run in which a push fails, with a quote and line ends in the answer.
fn run(bed: &Bed) -> Vec<String> {
    bed.stub.script_fault(Fault::answer(503, "say \"no\" = \n\tno\n"), 1);
    let product = bed.start();
    assert_eq!(errors(&product, ErrorKey::WalFull), 0.0);
    bed.append("a.log", "x\n");
    bed.lines(1);
    assert_eq!(errors(&product, ErrorKey::PushFailed), 1.0);
    stop(product);
    bed.product_log().lines().map(str::to_owned).collect()
}

/// Of that run.
fn assert_said(lines: &[Line]) {
    assert_whole(lines);
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| line.get("error_key").is_some_and(|k| k == "push_failed"))
        .collect();
    assert_eq!(failed.len(), 1, "{lines:#?}");
    assert_eq!(failed[0]["level"], "warn");
    assert_eq!(failed[0]["sink"], "loki");
    assert!(failed[0]["reason"].contains("say \"no\" ="), "{failed:?}");
}

#[test]
fn every_line_is_logfmt() {
    let mut bed = Bed::new();
    // Not the file that this log goes to.
    bed.setup.env.push(("JOURNAL_STREAM".into(), "1:1".into()));
    let lines: Vec<Line> = run(&bed).iter().map(|line| logfmt(line)).collect();
    assert_said(&lines);
    assert!(lines.iter().all(|line| line["ts"].len() == "2026-01-01T00:00:00.000000Z".len()));
}

#[test]
fn every_line_is_json_and_so_is_the_last_one() {
    let mut bed = Bed::new();
    bed.setup.more = vec!["log: { format: json }".into()];
    let lines: Vec<Line> = run(&bed).iter().map(|line| json(line)).collect();
    assert_said(&lines);
    assert!(lines.iter().all(|line| line["ts"].ends_with('Z')));
    // One that cannot run says that in the same form.
    bed.setup.cores = "{ shards: [999] }".into();
    let Err(Error::Exited { status, log }) = Product::start(&bed.setup) else { panic!("it runs") };
    assert_eq!(status.code(), Some(78));
    let last = json(log.lines().last().unwrap());
    assert_eq!((last["level"].as_str(), last["error_key"].as_str()), ("error", "run_failed"));
    assert!(last["msg"].contains("999"), "{last:?}");
}

#[test]
fn text_has_no_colors_but_on_a_terminal() {
    let mut bed = Bed::new();
    bed.setup.more = vec!["log: { format: text }".into()];
    let lines = run(&bed);
    assert!(lines.iter().any(|line| line.contains(" INFO ready")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(" WARN a push failed")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\x1b')), "{lines:?}");
}

#[test]
fn on_a_terminal_it_is_text_in_colors() {
    let (master, terminal) = terminal();
    let bed = Bed::new();
    bed.append("a.log", "x\n");
    let mut child = spawn(&bed, &[], terminal);
    bed.lines(1);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(child.wait().unwrap().success());
    let (mut said, mut master) = (Vec::new(), File::from(master));
    // The other end is closed: that is an error here, behind all that was said.
    let _ = master.read_to_end(&mut said);
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(" \x1b[32m INFO\x1b[0m starting version="), "{said:?}");
    assert!(said.contains("\x1b[0m stopped\r\n"), "{said:?}");
}

/// Its two ends.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut master, mut terminal) = (-1, -1);
    let (name, modes, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: both numbers are written, and the three null pointers ask for nothing.
    let made = unsafe { libc::openpty(&mut master, &mut terminal, name, modes, size) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both are open and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(terminal)) }
}

#[test]
fn the_journal_is_told_the_level_and_no_time() {
    for (format, read) in [("auto", logfmt as fn(&str) -> Line), ("json", json)] {
        let mut bed = Bed::new();
        bed.setup.more = vec![format!("log: {{ format: {format} }}")];
        let journal = File::create(bed.setup.dir.join("product.log")).unwrap().metadata().unwrap();
        let stream = format!("{}:{}", journal.dev(), journal.ino());
        bed.setup.env.push(("JOURNAL_STREAM".into(), stream));
        let lines: Vec<Line> = run(&bed)
            .iter()
            .map(|line| {
                let fields = read(&line[3..]);
                let prefix = match fields["level"].as_str() {
                    "error" => "<3>",
                    "warn" => "<4>",
                    _ => "<6>",
                };
                assert!(line.starts_with(prefix) && !fields.contains_key("ts"), "{line:?}");
                fields
            })
            .collect();
        assert_said(&lines);
    }
}

/// Started without waiting for what it says.
fn spawn(bed: &Bed, variables: &[(&str, &str)], log: impl Into<Stdio>) -> Child {
    let config = bed.setup.dir.join("config.yaml");
    fs::write(&config, bed.setup.yaml()).unwrap();
    Command::new(BINARY)
        .args(["run", "--config"])
        .arg(&config)
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

#[test]
fn the_level_is_the_least_that_is_said() {
    for (variables, levels) in [
        (&[][..], &["warn"][..]),
        (&[("LOG_CAPTURER_LOG", "info")][..], &["info", "warn"][..]),
        (&[("LOG_CAPTURER_LOG", "no=such=level")][..], &["warn"][..]),
    ] {
        let mut bed = Bed::new();
        bed.setup.more = vec!["log: { level: warn }".into()];
        bed.stub.script_fault(Fault::answer(500, "sick\n"), 1);
        bed.append("a.log", "x\n");
        let log = File::create(bed.setup.dir.join("product.log")).unwrap();
        let mut child = spawn(&bed, variables, log);
        bed.lines(1);
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(child.wait().unwrap().success());
        let log = bed.product_log();
        let lines: Vec<Line> = log.lines().map(logfmt).collect();
        let mut found: Vec<&str> = lines.iter().map(|line| line["level"].as_str()).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, levels, "{log}");
        let ignored = lines.iter().any(|line| line["msg"].contains("LOG_CAPTURER_LOG"));
        assert_eq!(ignored, variables.iter().any(|(_, value)| value.contains("no=")), "{log}");
    }
}

#[test]
fn what_is_not_said_is_counted() {
    let mut bed = Bed::new();
    let only = "off,log_capturer::appliance=info";
    bed.setup.env.push(("LOG_CAPTURER_LOG".into(), only.into()));
    bed.stub.script_fault(Fault::answer(500, "sick\n"), 1);
    let product = bed.start();
    bed.append("a.log", "x\n");
    bed.lines(1);
    assert_eq!(errors(&product, ErrorKey::PushFailed), 1.0);
    assert!(!product.log().contains("push_failed"), "{}", product.log());
    stop(product);
}

/// Every tenant is refused for itself: at one place in the program.
#[test]
fn what_repeats_is_said_as_a_sum_and_nothing_is_lost() {
    const TENANTS: usize = 40;
    let mut bed = Bed::new();
    bed.setup.server_keys.push("tenant_header: true".into());
    let product = bed.start();
    bed.stub.set_fault(Fault::answer(401, "who are you?\n"));
    let url = format!("http://{}/loki/api/v1/raw?job=app", product.api);
    for tenant in 0..TENANTS {
        let name = format!("tenant-{tenant}");
        let sent = ureq::post(&url).header("X-Scope-OrgID", name).send("x\n").unwrap();
        assert_eq!(sent.status(), 204);
    }
    let all = TENANTS as f64;
    eventually("all are refused", &product, || errors(&product, ErrorKey::PushHeld) >= all);
    bed.stub.heal();
    bed.entries(TENANTS);
    let counted = errors(&product, ErrorKey::PushHeld);
    let said_before_its_end = product.log().matches("push_held").count();
    assert!(said_before_its_end < TENANTS, "{}", product.log());
    stop(product);
    let log = bed.product_log();
    let lines: Vec<Line> = log.lines().map(logfmt).collect();
    assert_whole(&lines);
    let (mut said, mut suppressed) = (0, 0);
    for line in lines.iter().filter(|l| l.get("error_key").is_some_and(|k| k == "push_held")) {
        match line.get("suppressed") {
            None => said += 1,
            Some(count) => suppressed += count.parse::<u64>().unwrap(),
        }
        assert!(line["msg"].starts_with("the sink refuses pushes"), "{line:?}");
    }
    assert!(said >= 10 && suppressed > 0, "{log}");
    assert_eq!((said + suppressed) as f64, counted, "log and metric agree\n{log}");
}

#[test]
fn a_sum_is_said_when_its_period_is_over() {
    let mut bed = Bed::new();
    bed.setup.server_keys.push("tenant_header: true".into());
    let product = bed.start();
    bed.stub.set_fault(Fault::answer(401, "who are you?\n"));
    let url = format!("http://{}/loki/api/v1/raw?job=app", product.api);
    let start = Instant::now();
    for tenant in 0..20 {
        let name = format!("tenant-{tenant}");
        ureq::post(&url).header("X-Scope-OrgID", name).send("x\n").unwrap();
    }
    eventually("the sum is said", &product, || product.log().contains("suppressed="));
    assert!(start.elapsed() < PATIENCE);
    bed.stub.heal();
    stop(product);
}

#[test]
fn its_own_log_is_no_source() {
    let mut bed = Bed::new();
    bed.setup.include = vec![format!("{}/*.log", bed.setup.dir.display())];
    bed.append("../other.log", "1\n");
    let product = bed.start();
    bed.lines(1);
    // Whatever it is called.
    let own = bed.setup.dir.join("product.log");
    let renamed = bed.setup.dir.join("renamed.log");
    fs::rename(&own, &renamed).unwrap();
    bed.append("../late.log", "2\n");
    bed.lines(2);
    let own_log = errors(&product, ErrorKey::OwnLog);
    // In the same directory again, so that what is looked at first was looked at.
    fs::rename(&renamed, &own).unwrap();
    bed.append("../other.log", "3\n");
    bed.lines(3);
    stop(product);
    let log = bed.product_log();
    assert_eq!(log.matches("error_key=own_log").count(), 1, "{log}");
    assert_eq!(own_log, 1.0);
    let lines = bed.lines(3);
    let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["late.log", "other.log", "other.log"]);

    // The next run has another log, and no doubt about where the first one went: the one that is
    // written now is left out, and an earlier one is a file like others.
    fs::rename(&own, bed.setup.dir.join("earlier.log")).unwrap();
    let product = bed.start();
    bed.append("../other.log", "4\n");
    let earlier = log.lines().count();
    let lines = bed.lines(earlier + 4);
    stop(product);
    assert!(lines.iter().all(|(name, _)| name != "product.log"), "{lines:?}");
    assert_eq!(lines.iter().filter(|(name, _)| name == "earlier.log").count(), earlier);
}

/// Every `warn!` and `error!` says which it is, and every key is said somewhere.
#[test]
fn every_warning_and_error_has_its_key() {
    let mut sources = String::new();
    for dir in ["src", "io/src", "shards/src", "config/src", "perf/src"] {
        for text in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)) {
            // Tests come last.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            for call in ["warn!(", "error!("] {
                for (at, _) in text.match_indices(call) {
                    let end = text[at..].find(");").expect("a call ends") + at;
                    let said = &text[at..end];
                    assert!(said.contains("error_key = ErrorKey::"), "without its key: {said}");
                }
            }
            sources.push_str(&text);
        }
    }
    for key in ErrorKey::ALL {
        let used = format!("ErrorKey::{key:?}");
        assert!(sources.contains(&used), "{used} is said nowhere");
    }
}

fn rust_files(dir: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
    texts
}
