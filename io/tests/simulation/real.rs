//! The simulated disk is honest: what it does is what the real ones do, operation by operation.

use io::disk::{Disk, DiskError};
use io::format::{BLOCK_BYTES, FormatVersion, Seq};
use io::plain::PlainDisk;
use io::sim::{SimDisk, below, one_in, random, run};
use io::uring::UringDisk;
use io::wal::{Acked, Backlog, Committed, Options, Wal};
use std::collections::BTreeMap;
use std::fmt::Debug;

const NAMES: [&str; 4] = ["00000000000000000001.wal", "checkpoint.a", "checkpoint.b", "x"];

/// What an operation gave, without paths.
fn said<T: Debug>(result: Result<T, DiskError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}", error.source.kind()),
    }
}

fn checksum(result: Result<Vec<u8>, DiskError>) -> String {
    said(result.map(|bytes| (bytes.len(), crc32c::crc32c(&bytes))))
}

fn filled<D: Disk>(disk: &D, blocks: usize, seed: &mut u64) -> D::Buffer {
    let mut buffer = disk.buffer(blocks * BLOCK_BYTES);
    let word = random(seed).to_le_bytes();
    buffer.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
    buffer
}

/// Operations as the seed says, and what each gave.
async fn operate<D: Disk>(disk: &D, mut seed: u64) -> Vec<String> {
    let seed = &mut seed;
    let mut heard = Vec::new();
    let mut files: BTreeMap<usize, (D::File, usize)> = BTreeMap::new();
    for n in 0..60 {
        let name = NAMES[below(seed, NAMES.len())];
        let open = files.keys().copied().nth(below(seed, files.len().max(1)));
        match (below(seed, 8), open) {
            (0, _) => heard.push(said(disk.list().await)),
            (1 | 2, _) => {
                let (head, blocks) = (1 + below(seed, 3), 3 + below(seed, 20));
                let head = filled(disk, head, seed);
                match disk.create(name, (blocks * BLOCK_BYTES) as u64, head).await {
                    Ok(file) => drop(files.insert(n, (file, blocks))),
                    Err(error) => heard.push(said::<()>(Err(error))),
                }
            }
            (3, _) => match disk.open(name).await {
                Ok(file) => disk.close(file).await.expect("just opened"),
                Err(error) => heard.push(said::<()>(Err(error))),
            },
            (4, Some(open)) => {
                let (file, blocks) = &files[&open];
                let at = below(seed, *blocks);
                let buffer = filled(disk, 1 + below(seed, blocks - at), seed);
                heard.push(said(disk.write(file, (at * BLOCK_BYTES) as u64, buffer).await));
            }
            (5, Some(open)) => {
                let (file, blocks) = &files[&open];
                let at = below(seed, blocks + 1) * BLOCK_BYTES;
                let bytes = (1 + below(seed, 24)) * BLOCK_BYTES;
                heard.push(checksum(disk.read(file, at as u64, bytes).await));
            }
            (6, Some(open)) if one_in(seed, 2) => {
                let (file, _) = files.remove(&open).expect("it is open");
                heard.push(said(disk.close(file).await));
            }
            (6, _) => heard.push(said(disk.quarantine(name).await)),
            _ => {
                let names = [name.to_owned(), NAMES[below(seed, NAMES.len())].to_owned()];
                heard.push(said(disk.remove(&names[..1 + below(seed, 2)]).await));
            }
        }
    }
    for (file, _) in files.into_values() {
        disk.close(file).await.expect("it is open");
    }
    heard
}

/// A log over two runs, and what it said; the contents of its frames included.
async fn log<D: Disk + Clone>(disk: &D, mut seed: u64) -> Vec<String> {
    let seed = &mut seed;
    let options = Options {
        owner: 0,
        sinks: vec!["loki".into()],
        segment_bytes: 8 * BLOCK_BYTES as u64,
        bytes_max: 64 * BLOCK_BYTES as u64,
        group_bytes_max: 4 * BLOCK_BYTES,
        writes: FormatVersion::NEWEST,
    };
    let mut heard = Vec::new();
    let mut n = 0;
    for _ in 0..2 {
        let (wal, recovered) = Wal::open(disk.clone(), options.clone()).await.expect("opens");
        heard.push(format!("{recovered:?} {:?}", wal.ladder()));
        for _ in 0..20 {
            match below(seed, 5) {
                0 | 1 => {
                    n += 1;
                    let taken = wal.append(crate::model::frame(n, 1 + below(seed, 900)));
                    heard.push(format!("{:?}", taken.ok()));
                }
                2 => match wal.commit().await.expect("no fault") {
                    Committed::Durable(frames) => heard.push(format!("{frames:?}")),
                    other => heard.push(format!("{other:?}")),
                },
                3 => {
                    let ladder = wal.ladder();
                    let span = ladder.durable.0.0 - ladder.acked.0.0;
                    let to = Seq(ladder.acked.0.0 + random(seed) % (span + 1));
                    wal.sent(to);
                    wal.ack(0, Acked::up_to(to));
                }
                _ => wal.checkpoint().await.expect("no fault"),
            }
        }
        let mut backlog = Backlog::new(wal.ladder().acked.0.next(), None);
        let batch = backlog.read(&wal, 1 << 20).await.expect("no fault");
        heard.push(format!("{batch:?}"));
        backlog.close(&wal).await.expect("no fault");
        heard.push(said(disk.list().await));
        wal.close().await.expect("no fault");
    }
    heard
}

#[test]
fn the_simulated_disk_does_what_the_plain_one_does() {
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let (home, aside) = (dir.path().join("wal"), dir.path().join("aside"));
        let plain = PlainDisk::open(&home, &aside).unwrap();
        assert_eq!(run(operate(&SimDisk::default(), seed)), run(operate(&plain, seed)), "{seed}");
        let dir = tempfile::tempdir().unwrap();
        let plain = PlainDisk::open(&dir.path().join("wal"), &aside).unwrap();
        assert_eq!(run(log(&SimDisk::default(), seed)), run(log(&plain, seed)), "{seed}");
    }
}

#[test]
fn the_simulated_disk_does_what_the_real_one_does() {
    // Not a tmpfs: O_DIRECT and io_uring are what is compared.
    let root = env!("CARGO_TARGET_TMPDIR");
    let executor = glommio::LocalExecutorBuilder::default().spawn(move || async move {
        for seed in 100..120 {
            let dir = tempfile::tempdir_in(root).unwrap();
            let (home, aside) = (dir.path().join("wal"), dir.path().join("aside"));
            let real = UringDisk::open(&home, &aside).await.unwrap();
            let simulated = SimDisk::default();
            assert_eq!(operate(&simulated, seed).await, operate(&real, seed).await, "{seed}");
            let home = dir.path().join("log");
            let real = UringDisk::open(&home, &aside).await.unwrap();
            assert_eq!(log(&SimDisk::default(), seed).await, log(&real, seed).await, "{seed}");
        }
    });
    executor.unwrap().join().unwrap();
}
