//! The parts on the way of a line, each alone: cargo bench. Under `cargo test` each runs once.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use glommio::{LocalExecutorBuilder, Placement};
use io::disk::Disk;
use io::format::{BLOCK_BYTES, Cursor, FormatVersion, Seq};
use io::sim::{SimDisk, run};
use io::tail::{Fingerprint, Identity};
use io::uring::UringDisk;
use io::wal::{Committed, Options, Sealed, Wal};
use log_capturer::batch::Batch;
use log_capturer::labels;
use log_capturer::stream::Streams;
use shards::ring::Ring;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LINES: usize = 1_000;
const NOW_NS: i64 = 1_767_225_600_000_000_000;
/// Of the recovery: as many frames as are found again.
const FRAMES: u64 = 1_000;

/// As a service logs them, 128 bytes each.
fn text() -> Vec<Vec<u8>> {
    let line = |n: usize| {
        let mut line = format!(
            "2026-01-01T00:00:00.{n:06}Z INFO service=checkout method=GET path=/api/v1/orders/{} status=200 duration_ms={} ",
            n * 7_919 % 10_007,
            n * 31 % 997
        )
        .into_bytes();
        line.resize(128, b'.');
        line
    };
    (0..LINES).map(line).collect()
}

fn fill(batch: &mut Batch, streams: &mut Streams, lines: &[Vec<u8>]) {
    let (id, _) = streams.acquire("{filename=\"/var/log/app.log\", job=\"app\"}".into());
    let mut open = batch.lines(streams.get_mut(id), NOW_NS);
    lines.iter().for_each(|line| open.push(line));
}

fn encode(c: &mut Criterion) {
    let lines = text();
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Bytes((LINES * 128) as u64));
    group.bench_function("encode 1,000 lines", |b| {
        b.iter_batched_ref(
            || (Batch::default(), Streams::default()),
            |(batch, streams)| fill(batch, streams, &lines),
            BatchSize::LargeInput,
        );
    });
    let mut streams = Streams::default();
    let mut batch = Batch::default();
    group.bench_function("encode and seal 1,000 lines", |b| {
        b.iter(|| {
            fill(&mut batch, &mut streams, &lines);
            black_box(batch.seal(Vec::new(), 0, 0).body.len())
        });
    });
    group.finish();
}

fn label_handling(c: &mut Criterion) {
    let fixed = BTreeMap::from([("job", "varlogs"), ("host", "node-17"), ("env", "prod")]);
    let fixed = fixed.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut group = c.benchmark_group("labels");
    group.bench_function("of a file", |b| {
        b.iter(|| labels::of_file(&fixed, black_box(Path::new("/var/log/nginx/access.log"))));
    });
    let mut streams = Streams::default();
    let known = labels::of_file(&fixed, Path::new("/var/log/nginx/access.log"));
    streams.acquire(known.clone());
    group.bench_function("acquire and release a known stream", |b| {
        b.iter_batched(
            || known.clone(),
            |labels| {
                let (id, _) = streams.acquire(labels);
                streams.release(id);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn ring(c: &mut Criterion) {
    let ring = Ring::new(1_024, Arc::default());
    c.bench_function("ring: push and pop", |b| {
        b.iter(|| {
            assert!(ring.push_quietly(black_box(7_u64)).is_ok());
            ring.pop()
        });
    });
}

fn options() -> Options {
    Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: 16 << 20,
        bytes_max: 256 << 20,
        group_bytes_max: 1 << 20,
        writes: FormatVersion::NEWEST,
    }
}

fn frame() -> Sealed {
    let mut meta = Vec::new();
    let cursor = Cursor {
        identity: Identity { dev: 1, ino: 2, birth_ns: 3 },
        fingerprint: Fingerprint { len: 3, crc: 9 },
        offset: 4,
        stamp_ns: NOW_NS,
        skipping: false,
        path: "/var/log/app.log".into(),
    };
    cursor.encode(&mut meta);
    let body = vec![7; 8 * BLOCK_BYTES - 512];
    Sealed {
        meta,
        tag_len: 0,
        body,
        raw_len: 100_000,
        entries: 500,
        stream: 0,
        oldest_arrival_ns: NOW_NS,
        oldest_stamp_ns: NOW_NS,
    }
}

/// Appends a frame, makes it durable, acks it, and now and then trims.
async fn carry<D: Disk>(wal: &Wal<D>) {
    let seq = wal.append(frame()).unwrap_or_else(|_| panic!("the quota is not used up"));
    loop {
        match wal.commit().await.expect("the disk is well") {
            Committed::Nothing => break,
            _ => continue,
        }
    }
    wal.sent(seq);
    wal.ack(0, io::wal::Acked::up_to(seq));
    if wal.can_trim() {
        wal.checkpoint().await.expect("the disk is well");
    }
}

fn wal(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal");
    group.throughput(Throughput::Bytes(frame().body.len() as u64));
    let (memory, _) = run(Wal::open(SimDisk::default(), options())).expect("an empty log opens");
    group.bench_function("append and commit 32 KiB, in memory", |b| {
        b.iter(|| run(carry(&memory)));
    });
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    group.bench_function("append and commit 32 KiB, on this disk", |b| {
        b.iter_custom(|times| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let (log, quarantine) = (dir.path().join("wal"), dir.path().join("quarantine"));
            let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(16 << 20);
            let measured = executor.spawn(move || async move {
                let disk = UringDisk::open(&log, &quarantine).await.expect("io_uring");
                let (wal, _) = Wal::open(disk, options()).await.expect("an empty log opens");
                let start = Instant::now();
                for _ in 0..times {
                    carry(&wal).await;
                }
                let elapsed = start.elapsed();
                wal.close().await.expect("the disk is well");
                elapsed
            });
            measured.expect("an executor").join().expect("it does not panic")
        });
    });
    group.finish();
}

fn recovery(c: &mut Criterion) {
    let disk = SimDisk::default();
    let (wal, _) = run(Wal::open(disk.clone(), options())).expect("an empty log opens");
    for _ in 0..FRAMES {
        wal.append(frame()).unwrap_or_else(|_| panic!("the quota is not used up"));
        while !matches!(run(wal.commit()).expect("the disk is well"), Committed::Nothing) {}
    }
    assert_eq!(wal.ladder().durable.0, Seq(FRAMES));
    let mut group = c.benchmark_group("recovery");
    group.throughput(Throughput::Elements(FRAMES)).sample_size(10);
    group.bench_function("of 1,000 frames of 32 KiB, in memory", |b| {
        b.iter(|| run(Wal::open(disk.clone(), options())).expect("it opens").1);
    });
    group.finish();
}

criterion_group!(micro, encode, label_handling, ring, wal, recovery);
criterion_main!(micro);
