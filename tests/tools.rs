//! `log-capturer wal …` and `log-capturer positions …`: what a data_dir holds is shown, verified,
//! exported and moved.

use crate::bed::{BINARY, Bed, PATIENCE, agent, eventually, stop};
use bench::load::Rotation;
use bench::product::{Product, Setup};
use bench::stub::{Accounting, Away, Fault, Options, Stub};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub errors: String,
}

pub fn run(args: &[&str]) -> Output {
    let output = Command::new(BINARY).args(args).output().unwrap();
    Output {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

fn with_config(setup: &Setup, args: &[&str]) -> Output {
    let config = setup.dir.join("config.yaml");
    fs::create_dir_all(&setup.dir).unwrap();
    fs::write(&config, setup.yaml()).unwrap();
    run(&[args, &["--config", config.to_str().unwrap()]].concat())
}

fn good(setup: &Setup, args: &[&str]) -> String {
    let Output { code, out, errors } = with_config(setup, args);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{args:?}: {out}");
    out
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

/// The `line` of each exported entry.
fn lines(text: &str) -> Vec<String> {
    json_lines(text).iter().map(|entry| entry["line"].as_str().unwrap().to_owned()).collect()
}

/// Everything under a directory.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Frames that were durable and not sent when the process was killed: one for each of these lines.
pub fn unsent(lines: &[&str]) -> Bed {
    let bed = Bed::new();
    bed.stub.go_away(Away::Refusing);
    let product = bed.start();
    for (at, line) in lines.iter().enumerate() {
        bed.append("a.log", format!("{line}\n"));
        let durable =
            || product.metric("log_capturer_wal_unacked_frames").unwrap_or(0.0) >= (at + 1) as f64;
        eventually("a frame is durable", &product, durable);
    }
    product.kill();
    bed
}

pub struct Frame {
    file: PathBuf,
    pub offset: u64,
    seq: u64,
    bytes: u64,
}

pub fn frames(setup: &Setup) -> Vec<Frame> {
    let document = json(&good(setup, &["wal", "inspect", "--frames", "--json"]));
    let mut frames = Vec::new();
    for segment in document["logs"].as_array().unwrap().iter().flat_map(segments) {
        frames.extend(segment["list"].as_array().unwrap().iter().map(|frame| Frame {
            file: segment["file"].as_str().unwrap().into(),
            offset: frame["offset"].as_u64().unwrap(),
            seq: frame["seq"].as_u64().unwrap(),
            bytes: frame["bytes"].as_u64().unwrap(),
        }));
    }
    frames
}

fn segments(log: &Value) -> &[Value] {
    log["segments"].as_array().unwrap()
}

/// Another value for the byte in the middle of the frame's content.
pub fn flip(frame: &Frame) {
    let file = File::options().read(true).write(true).open(&frame.file).unwrap();
    let at = frame.offset + 140;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn what_a_run_left_is_shown_and_clean() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: 2 }".into();
    let product = bed.start();
    for name in ["a.log", "b.log", "c.log", "d.log"] {
        bed.append(name, "one\ntwo\nthree\n");
    }
    bed.texts(12);
    stop(product);
    let before = contents(&bed.setup.data_dir());
    let shown = good(&bed.setup, &["wal", "inspect", "--frames"]);
    for part in
        ["shard 0  ", "shard 1  ", "checkpoint.", "SEGMENT", "whole", "sink loki: acked", "loki"]
    {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    let document = json(&good(&bed.setup, &["wal", "inspect", "--frames", "--json"]));
    let logs = document["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 2);
    let of_all = |key: &str| -> u64 {
        logs.iter().flat_map(segments).map(|segment| segment[key].as_u64().unwrap()).sum()
    };
    assert_eq!((of_all("entries"), of_all("lost_frames")), (12, 0));
    for log in logs {
        assert_eq!(log["acked"], log["durable"], "{log:#}");
        let newest =
            log["checkpoints"].as_array().unwrap().iter().find(|slot| slot["newest"] == true);
        assert_eq!(newest.unwrap()["positions"][0]["sink"], "loki");
        for segment in segments(log) {
            assert_eq!(segment["acked_by"], json(r#"["loki"]"#));
            assert_eq!(segment["list"].as_array().unwrap().len() as u64, segment["frames"]);
        }
    }
    let verified = good(&bed.setup, &["wal", "verify"]);
    assert_eq!(verified.matches(": clean\n").count(), 2, "{verified}");
    assert_eq!(good(&bed.setup, &["wal", "verify", "--shard", "1"]).lines().count(), 1);
    let data_dir = bed.setup.data_dir();
    let without = run(&["wal", "verify", "--json", "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!((without.code, &json(&without.out)["clean"]), (Some(0), &true.into()));
    assert_eq!(good(&bed.setup, &["wal", "export"]), "");
    assert_eq!(lines(&good(&bed.setup, &["wal", "export", "--all"])).len(), 12);
    let none = with_config(&bed.setup, &["wal", "verify", "--shard", "7"]);
    assert_eq!(none.code, Some(78));
    assert!(none.errors.contains("but of: 0, 1"), "{}", none.errors);
    assert!(contents(&data_dir) == before, "something was changed");
}

#[test]
fn beside_a_process_that_writes_all_is_clean() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ segment_bytes: 1MiB, bytes_max: 64MiB }".into();
    let product = bed.start();
    let writer = bed.writer(20_000, u64::MAX, Rotation::Never);
    for _ in 0..20 {
        for args in [&["wal", "verify"][..], &["positions", "list"], &["wal", "inspect"]] {
            good(&bed.setup, args);
        }
    }
    let written = writer.stop().unwrap();
    bed.assert_exactly_once(&written);
    stop(product);
}

#[test]
fn a_flipped_byte_is_named_with_its_place_and_what_it_costs() {
    let bed = unsent(&["one", "two", "three", "four"]);
    let all = frames(&bed.setup);
    assert_eq!(all.iter().map(|frame| frame.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    flip(&all[1]);
    let before = contents(&bed.setup.data_dir());
    let verified = with_config(&bed.setup, &["wal", "verify"]);
    assert_eq!(
        (verified.code, verified.errors.as_str()),
        (Some(1), "log-capturer wal: damage was found\n")
    );
    let file = all[1].file.display();
    let place = format!("{file}: byte {}: damage: frame 2: they were durable: ", all[1].offset);
    for part in [
        &*place,
        "checksum is",
        "to do: save what can be read by wal export",
        "damaged in 1 places",
    ] {
        assert!(verified.out.contains(part), "{part} is missing in {}", verified.out);
    }
    let verified = json(&with_config(&bed.setup, &["wal", "verify", "--json"]).out);
    assert_eq!(verified["clean"], false);
    let finding =
        &verified["logs"].as_array().unwrap().iter().find(|log| log["findings"] != json("[]"));
    let finding = &finding.unwrap()["findings"][0];
    assert_eq!((&finding["first_seq"], &finding["last_seq"]), (&2.into(), &2.into()));
    assert_eq!((&finding["offset"], &finding["weight"]), (&all[1].offset.into(), &"damage".into()));
    // The rest is there.
    let exported = with_config(&bed.setup, &["wal", "export"]);
    assert_eq!(exported.code, Some(1));
    assert_eq!(lines(&exported.out), ["one", "three", "four"]);
    assert!(exported.errors.contains("frame 2: they"), "{}", exported.errors);
    assert!(contents(&bed.setup.data_dir()) == before, "something was changed");
    // A start says the same.
    bed.stub.heal();
    let product = bed.start();
    assert_eq!(bed.texts(3), ["one", "three", "four"]);
    assert!(product.log().contains("frames=\"2 to 2\""), "{}", product.log());
    stop(product);
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let bed = unsent(&["one", "two", "three"]);
    let all = frames(&bed.setup);
    let last = all.last().unwrap();
    // Half of it came to the disk.
    let file = File::options().write(true).open(&last.file).unwrap();
    file.write_all_at(&vec![0; usize::try_from(last.bytes).unwrap() - 100], last.offset + 100)
        .unwrap();
    let said = good(&bed.setup, &["wal", "verify"]);
    let place = format!("byte {}: normal: frame 3: torn tail: ", last.offset);
    assert!(said.contains(&place) && said.contains("2 frames, 2 entries: clean"), "{said}");
    assert_eq!(lines(&good(&bed.setup, &["wal", "export"])), ["one", "two"]);
    // The file has it still.
    bed.stub.heal();
    let product = bed.start();
    assert_eq!(bed.texts(3), ["one", "two", "three"]);
    stop(product);
}

#[test]
fn a_missing_segment_and_a_broken_checkpoint_are_named() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ segment_bytes: 1MiB, bytes_max: 64MiB }".into();
    bed.stub.go_away(Away::Refusing);
    let product = bed.start();
    let writer = bed.writer(20_000, 60_000, Rotation::Never);
    writer.wait().unwrap();
    let all = || frames(&bed.setup);
    let segments = |frames: &[Frame]| {
        let mut files: Vec<PathBuf> = frames.iter().map(|frame| frame.file.clone()).collect();
        files.dedup();
        files
    };
    eventually("there are some segments", &product, || segments(&all()).len() > 3);
    product.kill();
    let frames = all();
    let files = segments(&frames);
    let first_of = |file: &PathBuf| frames.iter().find(|frame| frame.file == *file).unwrap().seq;
    fs::remove_file(&files[1]).unwrap();
    let slots = files[0].parent().unwrap().join("checkpoint.a");
    fs::write(&slots, "no checkpoint").unwrap();
    let verified = with_config(&bed.setup, &["wal", "verify"]);
    assert_eq!(verified.code, Some(1));
    let (first, last) = (first_of(&files[1]), first_of(&files[2]) - 1);
    for part in [
        &*format!("frames {first} to {last}: they were durable, and are not there"),
        "checkpoint.a: byte 0: damage: a checkpoint: ",
    ] {
        assert!(verified.out.contains(part), "{part} is missing in {}", verified.out);
    }
}

#[test]
fn what_was_not_sent_is_exported_and_can_be_pushed() {
    let bed = Bed::new();
    let product = bed.start();
    bed.append("a.log", "sent 1\nsent 2\n");
    bed.texts(2);
    let is_all_sent = || with_config(&bed.setup, &["wal", "export"]).out.is_empty();
    eventually("the log knows that they are sent", &product, is_all_sent);
    bed.stub.go_away(Away::Refusing);
    bed.append("a.log", b"kept \xff 1\n");
    bed.append("b.log", "kept \"2\"\n");
    let push = r#"{"streams":[{"stream":{"job":"push"},"values":[["1","kept 3",{"trace":"x"}]]}]}"#;
    let push = push.replace("\"1\"", &format!("\"{}\"", perf::clock::unix_ns()));
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let posted = agent().post(&url).content_type("application/json").send(&push).unwrap();
    assert_eq!(posted.status(), 204);
    let exported = || json_lines(&good(&bed.setup, &["wal", "export"]));
    eventually("they are durable", &product, || exported().len() == 3);
    let entries = exported();
    let find = |key: &str, value: &str| entries.iter().find(|entry| entry[key] == value);
    assert!(find("line_base64", "a2VwdCD/IDE=").is_some(), "{entries:?}");
    let pushed = find("line", "kept 3").unwrap();
    assert_eq!((&pushed["labels"], &pushed["tenant"]), (&"{job=\"push\"}".into(), &"".into()));
    assert_eq!(pushed["metadata"], json(r#"[["trace","x"]]"#));
    for key in ["shard", "seq", "segment", "offset", "timestamp_ns"] {
        assert!(!pushed[key].is_null(), "{key} is missing in {pushed}");
    }
    let of_sink = good(&bed.setup, &["wal", "export", "--sink", "loki", "--tenant", ""]);
    assert_eq!(json_lines(&of_sink).len(), 3);
    assert_eq!(good(&bed.setup, &["wal", "export", "--tenant", "other"]), "");
    let unknown = with_config(&bed.setup, &["wal", "export", "--sink", "other"]);
    assert_eq!(unknown.code, Some(78));
    assert_eq!(json_lines(&good(&bed.setup, &["wal", "export", "--all"])).len(), 5);

    // Once more by hand: Loki stores what comes twice once.
    bed.stub.heal();
    let pushes = with_config(&bed.setup, &["wal", "export", "--pushes"]);
    assert!(pushes.errors.contains("1 lines are not UTF-8"), "{}", pushes.errors);
    let url = format!("{}/loki/api/v1/push", bed.stub.url().trim_end_matches('/'));
    let to_push = pushes.out.lines().filter(|push| !push.contains('\u{fffd}'));
    let bodies: Vec<&str> = to_push.collect();
    stop(product);
    let seen = bed.entries(5).len();
    for push in bodies {
        let answer = agent().post(&url).content_type("application/json").send(push).unwrap();
        assert!(answer.status().is_success(), "{push}");
    }
    let stats = bed.stub.stats();
    assert!(
        bed.stub.entries().len() >= seen && stats.unmarked - stats.unmarked_repeated == 5,
        "{stats:?}"
    );
}

#[test]
fn the_logs_of_dead_letters_are_logs() {
    let bed = Bed::new();
    bed.stub.set_fault(Fault::Refuse {
        needle: "bad".into(),
        status: 400,
        text: "no".into(),
        rest_stored: true,
    });
    let product = bed.start();
    bed.append("a.log", "good\nbad\n");
    let held = || product.metric("log_capturer_dlq_entries").unwrap_or(0.0) == 1.0;
    eventually("it is in the queue", &product, held);
    stop(product);
    let verified = good(&bed.setup, &["wal", "verify", "--dlq"]);
    assert!(
        verified.contains("dead-letter queue of loki: 1 segments, 1 frames, 1 entries: clean"),
        "{verified}"
    );
    let shown = json(&good(&bed.setup, &["wal", "inspect", "--dlq", "--json"]));
    let queue = shown["logs"].as_array().unwrap().iter().find(|log| log["dlq"] == "loki").unwrap();
    assert_eq!(segments(queue)[0]["entries"], 1);
}

/// Another data_dir and another receiver for the same files.
fn second(bed: &Bed) -> (Setup, Stub) {
    let stub =
        Stub::start(Options { keep_entries: 1000, ..Options::new(Accounting::PerLine) }).unwrap();
    let dir = bed.setup.dir.join("second");
    (Setup { dir, url: stub.url(), ..bed.setup.clone() }, stub)
}

fn arrived(stub: &Stub, count: usize) -> Vec<String> {
    assert!(stub.wait_until(PATIENCE, |stats| stats.unmarked >= count as u64));
    let mut entries = stub.entries();
    entries.sort_by_key(|entry| entry.timestamp_ns);
    entries.into_iter().map(|entry| String::from_utf8(entry.line).unwrap()).collect()
}

fn write(setup: &Setup, name: &str, text: &str) -> String {
    fs::create_dir_all(&setup.dir).unwrap();
    let path = setup.dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn positions_move_to_another_data_dir() {
    let bed = Bed::new();
    let product = bed.start();
    bed.append("a.log", "a 1\na 2\n");
    bed.append("b.log", "b 1\n");
    bed.append("gone.log", "gone\n");
    bed.texts(4);
    stop(product);
    fs::remove_file(bed.log("gone.log")).unwrap();
    bed.append("a.log", "a 3\n");
    fs::rename(bed.log("a.log"), bed.log("a.log.1")).unwrap();
    bed.append("a.log", "a 4\n");
    bed.append("b.log", "b 2\n");

    let listed = good(&bed.setup, &["positions", "list"]);
    let row = |name: &str| -> Vec<String> {
        let path = bed.log(name).display().to_string();
        let row = listed.lines().find(|row| row.contains(&format!(" {path} "))).unwrap();
        row.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("b.log")[1..4], ["4", "8", "4"], "{listed}");
    assert_eq!(row("a.log")[1..4], ["8", "12", "4"], "{listed}");
    assert!(row("a.log").last().unwrap().ends_with("a.log.1"), "{listed}");
    assert_eq!(
        (row("gone.log")[2].as_str(), row("gone.log").last().unwrap().as_str()),
        ("-", "gone")
    );
    let document = json(&good(&bed.setup, &["positions", "list", "--json"]));
    assert_eq!(document["positions"].as_array().unwrap().len(), 3);

    let exported = good(&bed.setup, &["positions", "export"]);
    assert_eq!(json_lines(&exported), *document["positions"].as_array().unwrap());
    let (setup, stub) = second(&bed);
    let from = write(&setup, "positions.ndjson", &exported);
    let refused = with_config(&setup, &["positions", "import", &from]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.errors.contains("gone.log: there is no such file"), "{}", refused.errors);
    assert!(refused.errors.contains("nothing was written: 1 of 3"), "{}", refused.errors);
    assert!(!setup.data_dir().join("shard-00").exists());
    let dry = with_config(&setup, &["positions", "import", &from, "--skip-missing", "--dry-run"]);
    assert!(dry.out.contains("2 positions would be written"), "{}", dry.out);
    assert!(!setup.data_dir().join("shard-00").exists());
    let done = with_config(&setup, &["positions", "import", &from, "--skip-missing"]);
    assert_eq!(done.code, Some(0), "{}", done.errors);
    assert!(done.out.contains("2 positions were written, 0 unchanged, 1 left out"), "{}", done.out);
    let again = with_config(&setup, &["positions", "import", &from, "--skip-missing"]);
    assert!(again.out.contains("0 positions were written, 2 unchanged"), "{}", again.out);
    let product = Product::start(&setup).unwrap();
    let mut lines = arrived(&stub, 3);
    stop(product);
    lines.sort();
    assert_eq!(lines, ["a 3", "a 4", "b 2"]);
    let labels: Vec<String> = stub.entries().into_iter().map(|entry| entry.labels).collect();
    assert!(labels.iter().all(|labels| !labels.contains("a.log.1")), "{labels:?}");
    good(&setup, &["wal", "verify"]);
}

#[test]
fn positions_of_another_agent_are_taken_over_with_care() {
    let bed = Bed::new();
    let (setup, stub) = second(&bed);
    bed.append("a.log", "old\nnew\n");
    bed.append("b.log", "short\n");
    bed.append("c.txt", "not included\n");
    let path = |name: &str| bed.log(name).display().to_string();
    let (a, b, c) = (path("a.log"), path("b.log"), path("c.txt"));
    let import = |text: &str, more: &[&str]| {
        let from = write(&setup, "positions.yaml", text);
        with_config(&setup, &[&["positions", "import", &from], more].concat())
    };
    let promtail = format!(
        "positions:\n  {a}: \"4\"\n  {b}: \"900\"\n  {c}: \"1\"\n  /nowhere.log: \"1\"\n  cursor-x: \"5\"\n"
    );
    let refused = import(&promtail, &[]);
    assert_eq!(refused.code, Some(1));
    for part in [
        &*format!("positions.yaml:3: {b}: the offset 900 is beyond the end of"),
        &*format!("positions.yaml:4: {c}: no entry of sources.files includes it"),
        "positions.yaml:5: /nowhere.log: no entry of sources.files includes it",
        "positions.yaml:6: cursor-x: expected an absolute path",
        "nothing was written: 4 of 5",
    ] {
        assert!(refused.errors.contains(part), "{part} is missing in {}", refused.errors);
    }
    fs::hard_link(&a, bed.log("link.log")).unwrap();
    let twice = import(&format!("{a}: 4\n{}: 8\n", path("link.log")), &[]);
    assert!(twice.errors.contains("line 1 names the same file"), "{}", twice.errors);
    fs::remove_file(bed.log("link.log")).unwrap();
    assert_eq!(import("a: [", &[]).code, Some(78));
    assert_eq!(import(&format!("{a}: x"), &[]).code, Some(78));
    let done = import(&promtail, &["--skip-missing"]);
    assert_eq!(done.code, Some(0), "{}", done.errors);
    assert!(done.out.starts_with(&format!("{a}: new -> 4, shard ")), "{}", done.out);
    let product = Product::start(&setup).unwrap();
    let mut lines = arrived(&stub, 2);
    lines.sort();
    assert_eq!(lines, ["new", "short"]);

    // Not while it runs, and not back.
    let busy = import(&format!("{a}: 0"), &[]);
    assert_eq!(busy.code, Some(1));
    assert!(busy.errors.contains("stop it, import, and start it again"), "{}", busy.errors);
    stop(product);
    let back = import(&format!("{a}: 0"), &[]);
    assert_eq!(back.code, Some(1));
    assert!(
        back.errors.contains("its position is 8 already; --force goes back to 0"),
        "{}",
        back.errors
    );
    let forced = import(&format!("{{\"{a}\": 4}}"), &["--force"]);
    assert_eq!(forced.code, Some(0), "{}", forced.errors);
    assert!(forced.out.starts_with(&format!("{a}: 8 -> 4, shard ")), "{}", forced.out);
    let product = Product::start(&setup).unwrap();
    let mut lines = arrived(&stub, 3);
    stop(product);
    lines.sort();
    assert_eq!(lines, ["new", "new", "short"]);

    // Another file has the name by now.
    let exported = good(&setup, &["positions", "export"]);
    fs::remove_file(&a).unwrap();
    bed.append("a.log", "something else\n");
    let of_a: String = exported
        .lines()
        .filter(|line| line.contains("a.log"))
        .map(|line| format!("{line}\n"))
        .collect();
    let other = import(&of_a, &[]);
    assert_eq!(other.code, Some(1));
    assert!(
        other.errors.contains("begins otherwise than the file that was exported"),
        "{}",
        other.errors
    );
}

#[test]
fn a_log_of_another_version_or_shard_is_left_as_it_is() {
    let bed = unsent(&["one", "two"]);
    let frame = frames(&bed.setup).remove(0);
    let from = write(&bed.setup, "positions.yaml", &format!("{}: 4\n", bed.log("a.log").display()));
    let import = ["positions", "import", &from];
    let good_bytes = fs::read(&frame.file).unwrap();

    let mut bytes = good_bytes.clone();
    bytes[8..12].copy_from_slice(&[9, 0, 9, 0]);
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    fs::write(&frame.file, &bytes).unwrap();
    File::create(bed.setup.data_dir().join("lock")).unwrap();
    let before = contents(&bed.setup.data_dir());
    for args in [
        &["wal", "inspect"][..],
        &["wal", "verify"],
        &["wal", "export"],
        &["positions", "list"],
        &["positions", "export"],
        &import,
    ] {
        let Output { code, out, errors } = with_config(&bed.setup, args);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{args:?}: {errors}");
        assert!(errors.contains("needs a reader of version 9"), "{args:?}: {errors}");
        assert!(errors.contains("start the newer program again"), "{args:?}: {errors}");
    }
    assert!(contents(&bed.setup.data_dir()) == before, "something was changed");

    // Strayed in from another shard.
    let mut bytes = good_bytes;
    bytes[12] ^= 7;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    fs::write(&frame.file, &bytes).unwrap();
    let before = contents(&bed.setup.data_dir());
    let verified = with_config(&bed.setup, &["wal", "verify"]);
    assert_eq!(verified.code, Some(1));
    assert!(verified.out.contains("the segment's owner is 7"), "{}", verified.out);
    let refused = with_config(&bed.setup, &import);
    assert_eq!(refused.code, Some(78));
    assert!(refused.errors.contains("move it back to where it belongs"), "{}", refused.errors);
    assert!(contents(&bed.setup.data_dir()) == before, "something was changed");
}

#[test]
fn what_is_given_wrongly_is_78_and_help_tells_the_codes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    for (args, expected) in [
        (&["wal"][..], "Usage"),
        (&["wal", "inspect"], "--config"),
        (&["wal", "inspekt", "--data-dir", dir], "inspect"),
        (&["wal", "verify", "--data-dir", "/nothing"], "expected that of a log-capturer"),
        (&["wal", "verify", "--config", "/nothing"], "cannot be read"),
        (&["wal", "export", "--data-dir", dir, "--all", "--unacked"], "cannot be used with"),
        (&["wal", "verify", "--data-dir", dir, "--shard", "x"], "invalid value"),
        (&["positions", "import"], "--config"),
        (&["positions", "list", "--data-dir", "/nothing"], "expected that of a log-capturer"),
    ] {
        let Output { code, out, errors } = run(args);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{args:?}: {errors}");
        assert!(errors.contains(expected), "{args:?}: {errors}");
    }
    for args in [["wal", "inspect"], ["wal", "verify"], ["wal", "export"], ["positions", "import"]]
    {
        let Output { code, out, .. } = run(&[&args[..], &["--help"]].concat());
        assert_eq!(code, Some(0));
        assert!(out.contains("Exit code: 0; 1"), "{out}");
    }
    let none = run(&["wal", "inspect", "--data-dir", dir]);
    assert_eq!(none.code, Some(0));
    assert!(none.out.contains("no write-ahead log under"), "{}", none.out);
    assert!(run(&["positions", "list", "--data-dir", dir]).out.contains("no positions under"));
}
