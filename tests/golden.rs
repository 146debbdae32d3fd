//! What earlier versions left on the disk is read by this one: the directories under `golden/`, each by
//! the real binary. What a later version left is refused, and not touched.

use crate::answers::ask::{Pushed, push};
use crate::bed::{BINARY, Bed, eventually, stop};
use crate::tools::{contents, json, json_lines, run};
use bench::product::{Error, Product};
use bench::stub::{self, Accounting, Fault, Limits};
use io::format::{
    BLOCK_BYTES, Checkpoint, Cursor, FORMAT_VERSION, FormatVersion, Seq, parse_segment_name,
};
use io::plain::PlainDisk;
use io::sim;
use io::tail::{Fingerprint, Identity};
use io::wal::{Acked, Committed, Options, Sealed, Wal};
use log_capturer::batch::put_varint;
use log_capturer::dlq::{self, Dlq, Origin, Reason, Record};
use log_capturer::options;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first of 2026; a sink that takes what is ten years old takes it until 2036.
const STAMP_NS: i64 = 1_767_225_600_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const SEGMENT_BYTES: u64 = 4 * BLOCK_BYTES as u64;
/// Where the source was that the cursors are of.
const SOURCE: &str = "/golden/logs/app.log";
/// What of it was read.
const SOURCE_TEXT: &str = "file 1\nfile 2\nfile 3\n";

/// What is to be delivered of each: tenant and line, in their order.
const UNACKED: [(u16, &[(&str, &str)]); 2] = [
    (1, &[("team-a", "a 2"), ("", "file 1"), ("team-b", "b 1"), ("", "file 2"), ("", "file 3")]),
    (2, &[("team-a", "a 2"), ("team-b", "b 1"), ("", "file 2"), ("", "file 3")]),
];

fn golden(version: u16) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

/// A place with a copy of a directory.
pub fn copy_of(version: u16) -> Bed {
    let age_max = Duration::from_hours(10 * 365 * 24);
    let stub = stub::Options { keep_entries: 1000, ..stub::Options::new(Accounting::PerLine) };
    let limits = Limits { age_max, ..Limits::loki() };
    let mut bed = Bed::with(stub::Options { limits, ..stub });
    bed.setup.sink_keys.push("limits: { age_max: 87600h }".into());
    bed.setup.cores = "{ shards: 1 }".into();
    for (path, bytes) in contents(&golden(version)) {
        let to = bed.setup.data_dir().join(path.strip_prefix(golden(version)).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    fs::write(bed.setup.data_dir().join("lock"), "").unwrap();
    bed
}

fn good(bed: &Bed, args: &[&str]) -> String {
    let config = bed.setup.dir.join("config.yaml");
    fs::write(&config, bed.setup.yaml()).unwrap();
    let output = run(&[args, &["--config", config.to_str().unwrap()]].concat());
    assert_eq!((output.code, output.errors.as_str()), (Some(0), ""), "{args:?}: {}", output.out);
    output.out
}

/// By tenant and line, in the order of their timestamps.
fn delivered(bed: &Bed, count: usize) -> Vec<(String, String)> {
    let mut entries = bed.entries(count);
    entries.sort_by_key(|entry| entry.timestamp_ns);
    let text = |line| String::from_utf8(line).unwrap();
    entries.into_iter().map(|entry| (entry.tenant, text(entry.line))).collect()
}

fn owned(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(tenant, line)| ((*tenant).to_owned(), (*line).to_owned())).collect()
}

#[test]
fn every_version_is_clean_and_shows_what_is_in_it() {
    for (version, unacked) in UNACKED {
        let bed = copy_of(version);
        let before = contents(&bed.setup.data_dir());
        let verified = good(&bed, &["wal", "verify", "--dlq"]);
        assert_eq!(verified.matches(": clean\n").count(), 2, "v{version}: {verified}");
        let exported = json_lines(&good(&bed, &["wal", "export", "--sink", "loki"]));
        let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
        let found: Vec<_> = exported.iter().map(|e| (text(e, "tenant"), text(e, "line"))).collect();
        assert_eq!(found, owned(unacked), "v{version}");
        let positions = json(&good(&bed, &["positions", "list", "--json"]));
        let position = &positions["positions"][0];
        assert_eq!(
            (&position["path"], &position["offset"]),
            (&SOURCE.into(), &SOURCE_TEXT.len().into()),
            "v{version}"
        );
        let queues = json(&good(&bed, &["dlq", "list", "--json"]));
        let queue = &queues["queues"][0];
        assert_eq!((&queue["sink"], &queue["entries"]), (&"loki".into(), &2.into()), "{queue}");
        assert_eq!(
            (&queue["reasons"]["refused"], &queue["reasons"]["too_old"]),
            (&1.into(), &1.into())
        );
        let letters = json_lines(&good(&bed, &["dlq", "export"]));
        let lines: Vec<&str> = letters.iter().map(|of| of["line"].as_str().unwrap()).collect();
        assert_eq!(lines, ["refused for good", "too old"], "v{version}");
        assert!(contents(&bed.setup.data_dir()) == before, "something was changed");
    }
}

#[test]
fn every_version_is_taken_over_and_exactly_what_is_unacked_is_delivered() {
    for (version, unacked) in UNACKED {
        let bed = copy_of(version);
        let product = bed.start();
        assert_eq!(delivered(&bed, unacked.len()), owned(unacked), "v{version}");
        let all_sent = || product.metric("log_capturer_wal_unacked_frames").unwrap_or(1.0) == 0.0;
        eventually("all of it is acked", &product, all_sent);
        stop(product);
        assert_eq!(bed.stub.entries().len(), unacked.len(), "v{version}");
        assert_eq!(good(&bed, &["wal", "export"]), "");
        assert_eq!(good(&bed, &["wal", "verify", "--dlq"]).matches(": clean\n").count(), 2);
    }
}

/// The file is another one here, so its position is moved to it.
#[test]
fn every_version_resumes_its_sources() {
    for (version, unacked) in UNACKED {
        let bed = copy_of(version);
        bed.append("app.log", format!("{SOURCE_TEXT}new\n"));
        let here = bed.log("app.log").display().to_string();
        let exported = good(&bed, &["positions", "export"]).replace(SOURCE, &here);
        let from = bed.setup.dir.join("positions.ndjson");
        fs::write(&from, exported).unwrap();
        good(&bed, &["positions", "import", from.to_str().unwrap()]);
        let product = bed.start();
        let expected = [unacked, &[("", "new")]].concat();
        let mut found = delivered(&bed, expected.len());
        stop(product);
        let mut expected = owned(&expected);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "v{version}");
    }
}

/// Says that a later version wrote it, and which version it takes to read it.
pub fn patch(path: &Path, version: u16, reader_min: u16) {
    let mut bytes = fs::read(path).unwrap();
    bytes[8..10].copy_from_slice(&version.to_le_bytes());
    bytes[10..12].copy_from_slice(&reader_min.to_le_bytes());
    let is_segment = parse_segment_name(path.file_name().unwrap().to_str().unwrap()).is_some();
    seal(&mut bytes, if is_segment { BLOCK_BYTES - 4 } else { CHECKPOINT_CRC });
    fs::write(path, bytes).unwrap();
}

/// Where the checksum of a checkpoint's header stands.
const CHECKPOINT_CRC: usize = 48;

fn seal(header: &mut [u8], crc_at: usize) {
    let crc = crc32c::crc32c(&header[..crc_at]);
    header[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A start ends with 78, says which file it is and what to do, and leaves everything as it was.
fn assert_refused(bed: &Bed, name: &Path) {
    let needs = format!("needs a reader of version {}", FORMAT_VERSION + 1);
    assert_refused_with(bed, name, &[&needs, "start the newer program again"]);
}

fn assert_refused_with(bed: &Bed, name: &Path, parts: &[&str]) {
    let before = contents(&bed.setup.data_dir());
    let Err(Error::Exited { status, log }) = Product::start(&bed.setup) else {
        panic!("{name:?}: it runs")
    };
    assert_eq!(status.code(), Some(78), "{name:?}: {log}");
    for part in parts.iter().chain([&name.to_str().unwrap()]) {
        assert!(log.contains(part), "{name:?}: {part} is missing in {log}");
    }
    let after = contents(&bed.setup.data_dir());
    assert!(after.keys().eq(before.keys()), "{name:?}: {:?}", after.keys());
    assert!(after == before, "{name:?}: something was changed");
    assert_eq!(bed.stub.stats().pushes, 0, "{name:?}: something was sent");
}

#[test]
fn a_later_version_is_refused_and_not_a_byte_is_changed() {
    let files = contents(&golden(FORMAT_VERSION));
    assert!(files.len() > 5, "{:?}", files.keys());
    for path in files.keys() {
        let name = path.strip_prefix(golden(FORMAT_VERSION)).unwrap();
        let bed = copy_of(FORMAT_VERSION);
        patch(&bed.setup.data_dir().join(name), FORMAT_VERSION + 1, FORMAT_VERSION + 1);
        assert_refused(&bed, name);
    }
}

#[test]
fn a_later_version_in_one_shard_keeps_the_others_from_starting() {
    let mut bed = copy_of(FORMAT_VERSION);
    bed.setup.cores = "{ shards: 2 }".into();
    let [mine, others] = ["shard-00", "shard-01"]
        .map(|shard| bed.setup.data_dir().join(shard).join("wal/00000000000000000001.wal"));
    let mut bytes = fs::read(mine).unwrap();
    bytes[12] = 1;
    fs::create_dir_all(others.parent().unwrap()).unwrap();
    fs::write(&others, bytes).unwrap();
    patch(&others, FORMAT_VERSION + 1, FORMAT_VERSION + 1);
    assert_refused(&bed, &others);
}

/// A later version that says that this one may read it: until it is told otherwise, it writes so.
#[test]
fn a_later_version_that_this_one_may_read_is_read() {
    let bed = copy_of(FORMAT_VERSION);
    for path in contents(&bed.setup.data_dir()).keys().filter(|path| !path.ends_with("lock")) {
        patch(path, FORMAT_VERSION + 1, FORMAT_VERSION);
    }
    let (_, unacked) = UNACKED[UNACKED.len() - 1];
    let product = bed.start();
    assert_eq!(delivered(&bed, unacked.len()), owned(unacked));
    stop(product);
}

#[test]
fn the_version_that_is_written_has_its_directory() {
    assert_eq!(UNACKED.last().unwrap().0, FORMAT_VERSION, "see golden/README.md");
}

/// Every file is as version 1 wrote it: what it knew nothing of is zero, and no position is of a tag.
fn assert_version_1(data_dir: &Path) {
    for (path, bytes) in contents(data_dir) {
        if !(bytes.starts_with(b"LCAPWAL\n") || bytes.starts_with(b"LCAPCKP\n")) {
            continue;
        }
        assert_eq!(bytes[8..12], [1, 0, 1, 0], "{path:?}");
        if let Ok(checkpoint) = Checkpoint::decode(&bytes) {
            assert!(checkpoint.acked.iter().all(|of| of.tag.is_none()), "{checkpoint:?}");
        }
        for frame in bytes.chunks(BLOCK_BYTES).filter(|block| block.starts_with(b"LCAPFRM\n")) {
            assert_eq!(frame[82..124], [0; 42], "{path:?}");
        }
    }
}

/// The version in the head of each file of logs.
fn versions(data_dir: &Path) -> Vec<u16> {
    let heads = contents(data_dir).into_values();
    let logs = heads.filter(|bytes| bytes.starts_with(b"LCAP"));
    logs.map(|bytes| u16::from_le_bytes([bytes[8], bytes[9]])).collect()
}

fn stated(bed: &Bed) -> String {
    fs::read_to_string(bed.setup.data_dir().join("format")).unwrap()
}

/// Says of itself that it reads version 1.
fn old_program(bed: &Bed) -> String {
    let program = bed.setup.dir.join("old");
    fs::write(&program, "#!/bin/sh\necho '{\"newest\": 1}'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program.display().to_string()
}

fn all_acked(product: &Product) {
    let unacked = || product.metric("log_capturer_wal_unacked_frames").unwrap_or(1.0);
    eventually("all of it is acked", product, || unacked() == 0.0);
}

#[test]
fn version_1_is_written_on_until_it_is_finalized() {
    let mut bed = copy_of(1);
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    bed.setup.drain_timeout = "1s".into();
    bed.stub.set_faults(vec![
        Fault::Tenant { tenant: "sick".into(), status: 403 },
        Fault::Refuse { needle: "bad".into(), status: 400, text: "no".into(), rest_stored: true },
    ]);
    let (_, unacked) = UNACKED[0];
    let product = bed.start();
    bed.entries(unacked.len());
    assert!(product.log().contains("log-capturer state finalize --data-dir"), "{}", product.log());
    // One tenant behind the others, and something for the dead-letter queue.
    push(&product, "sick", &[Pushed::now("sick", ["sick".into()])]);
    push(&product, "well", &[Pushed::now("well", ["well".into(), "bad".into()])]);
    bed.append("app.log", "new\n");
    bed.entries(unacked.len() + 2);
    let stored = || product.metric("log_capturer_dlq_stored_total").unwrap_or(0.0);
    eventually("what is bad is in the queue", &product, || stored() == 1.0);
    stop(product);
    assert_eq!(stated(&bed), "1\n");
    assert_version_1(&bed.setup.data_dir());
    let shown = json(&good(&bed, &["state", "show", "--json"]));
    for (key, expected) in [("writes", 1), ("stated", 1), ("newest", 2), ("reader_min", 1)] {
        assert_eq!(shown[key], expected, "{key}: {shown}");
    }
    assert_eq!(shown["files"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["finalize"], serde_json::json!({ "changes": true, "format": 2 }));

    let old = old_program(&bed);
    let compat = json(&good(&bed, &["state", "compat", "--json", "--with", &old]));
    assert_eq!(compat["reversible"], true, "{compat}");
    let ahead = compat["points_of_no_return"]["ahead"].as_array().unwrap();
    assert!(ahead.len() == 1 && ahead[0].as_str().unwrap().contains("state finalize"), "{compat}");

    bed.stub.heal();
    let product = bed.start();
    bed.entries(unacked.len() + 3);
    all_acked(&product);
    let config = bed.setup.dir.join("config.yaml");
    let finalize = ["state", "finalize", "--config", config.to_str().unwrap()];
    let refused = run(&finalize);
    assert_eq!(refused.code, Some(1));
    assert!(refused.errors.contains("stop it, finalize, and start it again"), "{}", refused.errors);
    assert_eq!(stated(&bed), "1\n");
    stop(product);
    assert_version_1(&bed.setup.data_dir());

    let before = contents(&bed.setup.data_dir());
    let finalized = good(&bed, &["state", "finalize"]);
    assert!(finalized.contains("format 2 is written from the next start on"), "{finalized}");
    assert_eq!(stated(&bed), "2\n");
    let (mut after, format) =
        (contents(&bed.setup.data_dir()), bed.setup.data_dir().join("format"));
    after.insert(format.clone(), before[&format].clone());
    assert!(after == before, "something else was changed");
    assert!(good(&bed, &["state", "finalize"]).contains("there is nothing to do"));
    let config = config.to_str().unwrap();
    let compat = run(&["state", "compat", "--config", config, "--with", &old]);
    assert_eq!(compat.code, Some(2), "{}", compat.errors);
    assert!(compat.errors.contains("it cannot be gone back to"), "{}", compat.errors);
    assert!(good(&bed, &["state", "compat", "--with", "0.1.0"]).starts_with("reversible"));
    let unknown = run(&["state", "compat", "--config", config, "--with", "9.9"]);
    assert_eq!(unknown.code, Some(78), "{}", unknown.errors);
    let shown = good(&bed, &["state", "show"]);
    for part in ["format 2 is written", "finalize would change nothing"] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    assert_eq!(versions(&bed.setup.data_dir()).into_iter().max(), Some(1), "{shown}");

    let product = bed.start();
    assert!(!product.log().contains("state finalize"), "{}", product.log());
    bed.append("app.log", "newer\n");
    bed.entries(unacked.len() + 4);
    all_acked(&product);
    stop(product);
    let log = contents(&bed.setup.data_dir().join("shard-00/wal"));
    let (newest, bytes) = log.iter().next_back().unwrap();
    assert!(bytes.starts_with(b"LCAPCKP\n") || bytes[8..12] == [2, 0, 1, 0], "{newest:?}");
    let of = |magic: &[u8]| -> Vec<u8> {
        log.values().filter(|bytes| bytes.starts_with(magic)).map(|bytes| bytes[8]).collect()
    };
    let (segments, checkpoints) = (of(b"LCAPWAL\n"), of(b"LCAPCKP\n"));
    assert_eq!((segments.last(), checkpoints.iter().max()), (Some(&2), Some(&2)));
}

#[test]
fn a_fresh_data_dir_and_one_of_the_newest_format_write_that() {
    let bed = Bed::new();
    let product = bed.start();
    bed.append("a.log", "a\n");
    bed.lines(1);
    stop(product);
    for bed in [bed, copy_of(FORMAT_VERSION)] {
        stop(bed.start());
        assert_eq!(stated(&bed), format!("{FORMAT_VERSION}\n"));
        let versions = versions(&bed.setup.data_dir());
        assert!(versions.len() > 1 && versions.iter().all(|of| *of == FORMAT_VERSION));
        assert!(!bed.product_log().contains("state finalize"), "{}", bed.product_log());
    }
}

#[test]
fn a_file_format_that_says_nothing_or_a_later_version_is_refused() {
    let later = format!("{}\n", FORMAT_VERSION + 1);
    for (text, fix) in [("garbage", "remove it"), (&later, "start the newer program again")] {
        let bed = copy_of(FORMAT_VERSION);
        let path = bed.setup.data_dir().join("format");
        fs::write(&path, text).unwrap();
        assert_refused_with(&bed, &path, &[fix]);
        let before = contents(&bed.setup.data_dir());
        let from = bed.setup.dir.join("positions.yaml");
        bed.append("app.log", SOURCE_TEXT);
        fs::write(&from, format!("{}: 7\n", bed.log("app.log").display())).unwrap();
        let config = bed.setup.dir.join("config.yaml");
        let from = from.to_str().unwrap();
        for args in [
            &["state", "show"][..],
            &["state", "finalize"],
            &["dlq", "purge", "--all"],
            &["positions", "import", from],
        ] {
            let refused = run(&[args, &["--config", config.to_str().unwrap()]].concat());
            assert_eq!(refused.code, Some(78), "{args:?}: {}", refused.errors);
            assert!(refused.errors.contains(fix), "{args:?}: {}", refused.errors);
            assert!(contents(&bed.setup.data_dir()) == before, "{args:?}: something was changed");
        }
    }
}

#[test]
fn what_a_command_writes_is_of_the_format_that_is_written() {
    let bed = copy_of(1);
    assert_eq!(good(&bed, &["dlq", "purge", "--all"]), "2 entries were removed\n");
    bed.append("app.log", SOURCE_TEXT);
    let from = bed.setup.dir.join("positions.yaml");
    fs::write(&from, format!("{}: 7\n", bed.log("app.log").display())).unwrap();
    good(&bed, &["positions", "import", from.to_str().unwrap()]);
    assert_version_1(&bed.setup.data_dir());
    good(&bed, &["state", "finalize"]);
    fs::write(&from, format!("{}: 14\n", bed.log("app.log").display())).unwrap();
    good(&bed, &["positions", "import", from.to_str().unwrap()]);
    assert!(versions(&bed.setup.data_dir()).contains(&2));
}

#[test]
fn state_is_shown_of_any_data_dir_and_refused_elsewhere() {
    let bed = copy_of(FORMAT_VERSION);
    let data_dir = bed.setup.data_dir();
    let shown = |dir: &Path| run(&["state", "show", "--data-dir", dir.to_str().unwrap()]);
    let before = contents(&data_dir);
    let found = shown(&data_dir);
    assert_eq!(found.code, Some(0), "{}", found.errors);
    for part in ["(the newest of the files)", "FORMAT", "read from format 2 on"] {
        assert!(found.out.contains(part), "{part} is missing in {}", found.out);
    }
    assert!(contents(&data_dir) == before, "something was changed");
    // What a later version wrote is shown, too, and then refused.
    let checkpoint = data_dir.join("shard-00/wal/checkpoint.a");
    patch(&checkpoint, FORMAT_VERSION + 1, FORMAT_VERSION + 1);
    let found = shown(&data_dir);
    assert_eq!(found.code, Some(78));
    assert!(found.out.contains("read from format 3 on"), "{}", found.out);
    assert!(found.errors.contains("start the newer program again"), "{}", found.errors);
    for command in ["show", "finalize"] {
        let nowhere = data_dir.join("nowhere");
        let refused = run(&["state", command, "--data-dir", nowhere.to_str().unwrap()]);
        assert_eq!(refused.code, Some(78), "{}", refused.errors);
        assert!(refused.errors.contains("expected that of a log-capturer"), "{}", refused.errors);
        assert_eq!(run(&["state", command]).code, Some(78));
    }
}

/// Makes the directory of the newest version where it is not there: none is ever written again, and none
/// of an older version by this program.
#[test]
#[ignore = "it writes into tests/golden"]
fn write() {
    if !golden(FORMAT_VERSION).exists() {
        write_wal(&golden(FORMAT_VERSION));
        write_dlq(&golden(FORMAT_VERSION));
    }
    let tool = run(&["wal", "verify", "--data-dir", golden(FORMAT_VERSION).to_str().unwrap()]);
    assert_eq!(tool.code, Some(0), "{BINARY}: {}", tool.out);
}

fn write_wal(data_dir: &Path) {
    let wal_options = Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: SEGMENT_BYTES,
        bytes_max: 1 << 20,
        group_bytes_max: BLOCK_BYTES,
        writes: FormatVersion::NEWEST,
    };
    let disk = PlainDisk::open(&data_dir.join("shard-00/wal"), &data_dir.join("quarantine"));
    let (wal, _) = sim::run(Wal::open(disk.unwrap(), wal_options)).unwrap();
    let frames = [
        ("team-a", "a 1", 0),
        ("team-a", "a 2", 0),
        ("", "file 1", 7),
        ("team-b", "b 1", 0),
        ("", "file 2", 14),
        ("", "file 3", 21),
    ];
    for (seq, (tenant, line, offset)) in (1..).zip(frames) {
        wal.append(sealed(seq, tenant, line, offset)).unwrap();
        let committed = sim::run(wal.commit()).unwrap();
        assert!(matches!(committed, Committed::Durable(_)));
        if seq == 3 {
            wal.sent(Seq(3));
            let behind = [("team-a".to_owned(), Seq(1))].into();
            wal.ack(0, Acked { all: Seq(3), behind });
        }
        if seq == 3 || seq == 5 {
            sim::run(wal.checkpoint()).unwrap();
        }
    }
    sim::run(wal.close()).unwrap();
}

fn sealed(seq: i64, tenant: &str, line: &str, offset: u64) -> Sealed {
    let stamp_ns = STAMP_NS + seq * SECOND_NS;
    let field = |number: u64, bytes: &[u8]| {
        let mut out = Vec::new();
        put_varint(&mut out, number << 3 | 2);
        put_varint(&mut out, bytes.len() as u64);
        [out, bytes.to_vec()].concat()
    };
    let mut stamp = Vec::new();
    put_varint(&mut stamp, 1 << 3);
    put_varint(&mut stamp, u64::try_from(stamp_ns / SECOND_NS).unwrap());
    let entry = [field(1, &stamp), field(2, line.as_bytes())].concat();
    let raw = field(1, &[field(1, b"{job=\"golden\"}"), field(2, &entry)].concat());
    let mut meta = tenant.as_bytes().to_vec();
    if offset > 0 {
        let read = &SOURCE_TEXT.as_bytes()[..usize::try_from(offset).unwrap()];
        let crc = crc32c::crc32c(read);
        Cursor {
            identity: Identity { dev: 1, ino: 2, birth_ns: 3 },
            fingerprint: Fingerprint { len: u16::try_from(read.len()).unwrap(), crc },
            offset,
            stamp_ns: seq * SECOND_NS,
            skipping: false,
            path: SOURCE.into(),
        }
        .encode(&mut meta);
    }
    Sealed {
        meta,
        tag_len: u16::try_from(tenant.len()).unwrap(),
        body: snap::raw::Encoder::new().compress_vec(&raw).unwrap(),
        raw_len: u32::try_from(raw.len()).unwrap(),
        entries: 1,
        stream: 0,
        oldest_arrival_ns: stamp_ns,
        oldest_stamp_ns: stamp_ns,
    }
}

/// Two records that nobody sends again, in frames of their own, and one that is settled.
fn write_dlq(data_dir: &Path) {
    let dlq_options = dlq::Options {
        segment_bytes: SEGMENT_BYTES,
        ..options::dlq_of(data_dir, "loki", 0, 64 << 20, FormatVersion::NEWEST)
    };
    let disk = PlainDisk::open(&dlq_options.dir, &dlq_options.quarantine).unwrap();
    let (queue, _) = sim::run(Dlq::open(disk, dlq_options)).unwrap();
    let refused = Record {
        sink: "loki".into(),
        tenant: "team-b".into(),
        labels: "{job=\"golden\"}".into(),
        timestamp_ns: STAMP_NS,
        line: b"refused for good".to_vec(),
        metadata: vec![("trace".into(), "1".into())],
        origin: Origin { shard: 0, frame: 1 },
        arrived_ns: STAMP_NS,
        reason: Reason::Refused,
        status: Some(400),
        text: "no".into(),
        attempts: 1000,
        first_rejected_ns: STAMP_NS,
        rejected_ns: STAMP_NS,
    };
    let too_old = Record { line: b"too old".to_vec(), reason: Reason::TooOld, ..refused.clone() };
    let settled = Record { line: b"settled".to_vec(), ..refused.clone() };
    for record in [&refused, &settled, &too_old] {
        sim::run(queue.put(std::slice::from_ref(record))).unwrap();
    }
    sim::run(queue.settle(&[Seq(2)], &[])).unwrap();
    sim::run(queue.close()).unwrap();
}
