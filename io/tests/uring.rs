//! The real disk keeps the contract of the trait, at every size that the log uses.

use glommio::{LocalExecutorBuilder, Placement};
use io::disk::Disk;
use io::uring::UringDisk;

#[test]
fn what_was_written_is_read_at_every_size_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, quarantine) = (dir.path().join("wal"), dir.path().join("quarantine"));
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(4 << 20);
    let done = executor.spawn(move || async move {
        const BLOCK: usize = 4096;
        const FILE: usize = 8 << 20;
        let disk = UringDisk::open(&wal, &quarantine).await.unwrap();
        let mut head = disk.buffer(BLOCK);
        head.fill(1);
        let file = disk.create("a", FILE as u64, head).await.unwrap();
        let content = |at: usize| u8::try_from(at / BLOCK * 7 % 251).unwrap();
        for size in [BLOCK, 3 * BLOCK, 64 << 10, 1 << 20] {
            let mut at = BLOCK;
            while at + size <= FILE {
                let mut buffer = disk.buffer(size);
                buffer.iter_mut().enumerate().for_each(|(i, byte)| *byte = content(at + i));
                disk.write(&file, at as u64, buffer).await.unwrap();
                at += size.max(1 << 20);
            }
        }
        for size in [BLOCK, 3 * BLOCK, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 2 << 20] {
            for at in [BLOCK, BLOCK + size] {
                let read = disk.read(&file, at as u64, size).await;
                let read = read.unwrap_or_else(|error| panic!("{size} bytes at {at}: {error}"));
                assert_eq!(read.len(), size);
                assert!(read.iter().take(BLOCK).all(|byte| *byte == content(at)));
            }
        }
        disk.close(file).await.unwrap();
    });
    done.unwrap().join().unwrap();
}
