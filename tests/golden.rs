//! What earlier versions left on the disk is read by this one: the directories under `golden/`, each by
//! the real binary. What a later version left is refused, and not touched.

use crate::bed::{BINARY, Bed, eventually, stop};
use crate::tools::{contents, json, json_lines, run};
use bench::product::{Error, Product};
use bench::stub::{self, Accounting, Limits};
use io::format::{
    BLOCK_BYTES, Cursor, FORMAT_VERSION, FRAME_HEADER_BYTES, Seq, parse_segment_name,
};
use io::plain::PlainDisk;
use io::sim;
use io::tail::{Fingerprint, Identity};
use io::wal::{Acked, Committed, Options, Sealed, Wal};
use log_capturer::batch::put_varint;
use log_capturer::dlq::{self, Dlq, Origin, Reason, Record};
use log_capturer::options;
use std::fs;
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
fn copy_of(version: u16) -> Bed {
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
fn patch(path: &Path, version: u16, reader_min: u16) {
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
    let before = contents(&bed.setup.data_dir());
    let Err(Error::Exited { status, log }) = Product::start(&bed.setup) else {
        panic!("{name:?}: it runs")
    };
    assert_eq!(status.code(), Some(78), "{name:?}: {log}");
    let needs = format!("needs a reader of version {}", FORMAT_VERSION + 1);
    for part in [&*needs, "start the newer program again", name.to_str().unwrap()] {
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

/// Makes the directories that are not there: none is ever written again.
#[test]
#[ignore = "it writes into tests/golden"]
fn write() {
    for (version, _) in UNACKED.iter().filter(|(version, _)| !golden(*version).exists()) {
        write_wal(&golden(*version), *version);
        write_dlq(&golden(*version));
        if *version == 1 {
            as_version_1(&golden(1).join("shard-00/wal"));
            as_version_1(&golden(1).join("shard-00/dlq/loki"));
        }
    }
    let tool = run(&["wal", "verify", "--data-dir", golden(FORMAT_VERSION).to_str().unwrap()]);
    assert_eq!(tool.code, Some(0), "{BINARY}: {}", tool.out);
}

/// Bytes that were 0 then, the checksum behind them, and what says that in the next segment.
fn as_version_1(log: &Path) {
    let mut previous_crc = [0; 4];
    for (path, mut bytes) in contents(log) {
        if bytes.starts_with(b"LCAPWAL\n") {
            bytes[32..36].copy_from_slice(&previous_crc);
        }
        for frame in bytes.chunks_mut(BLOCK_BYTES).filter(|b| b.starts_with(b"LCAPFRM\n")) {
            frame[88..96].fill(0);
            seal(frame, FRAME_HEADER_BYTES - 4);
            previous_crc.copy_from_slice(&frame[FRAME_HEADER_BYTES - 4..][..4]);
        }
        fs::write(&path, bytes).unwrap();
        patch(&path, 1, 1);
    }
}

fn write_wal(data_dir: &Path, version: u16) {
    let wal_options = Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: SEGMENT_BYTES,
        bytes_max: 1 << 20,
        group_bytes_max: BLOCK_BYTES,
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
            // Version 1 knew no positions of tags.
            let by_tag = Acked { all: Seq(3), behind };
            wal.ack(0, if version == 1 { Acked::up_to(Seq(1)) } else { by_tag });
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
        ..options::dlq_of(data_dir, "loki", 0, 64 << 20)
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
