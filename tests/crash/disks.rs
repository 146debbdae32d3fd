//! The power goes, the disk is full or fails, memory is short: on file systems made for that. Where they
//! cannot be made, that is said, and nothing is claimed.

use super::load::Load;
use crate::bed::{Bed, PATIENCE, agent, stop};
use bench::measure::now_ns;
use bench::stub::{Accounting, Away, Limits, Options};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A file system at `dir`, until it is dropped.
pub struct Mounted(PathBuf);

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    match Command::new(program).args(args).output() {
        Err(error) => Err(format!("{program}: {error}")),
        Ok(output) if !output.status.success() => {
            Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => Ok(()),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

impl Mounted {
    /// A new one in a file, which takes no space where nothing was written.
    pub fn ext4(image: &Path, dir: &Path, bytes: u64) -> Result<Mounted, String> {
        File::create(image).and_then(|file| file.set_len(bytes)).map_err(|e| e.to_string())?;
        // Without a lazy initialization that would go on in the background.
        let options = "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run("mkfs.ext4", &["-q", "-m", "0", "-E", options, text(image)])?;
        let mounted = Mounted::image(image, dir)?;
        run("chmod", &["700", text(dir)])?;
        Ok(mounted)
    }

    /// One that was there before.
    pub fn image(image: &Path, dir: &Path) -> Result<Mounted, String> {
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        run("mount", &["-o", "loop", text(image), text(dir)])?;
        Ok(Mounted(dir.to_owned()))
    }

    pub fn tmpfs(dir: &Path, bytes: u64) -> Result<Mounted, String> {
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let options = format!("size={bytes},mode=700");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", text(dir)])?;
        Ok(Mounted(dir.to_owned()))
    }

    /// Without O_DIRECT.
    pub fn ramfs(dir: &Path) -> Result<Mounted, String> {
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        run("mount", &["-t", "ramfs", "-o", "mode=700", "ramfs", text(dir)])?;
        Ok(Mounted(dir.to_owned()))
    }

    /// What is only in memory is gone, the journal of the file system included, and everything fails
    /// from now on: as where the power goes, but for the process, which sees it.
    fn power_off(&self) {
        const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const NO_LOG_FLUSH: u32 = 2;
        let dir = File::open(&self.0).expect("it is mounted");
        // SAFETY: this ioctl reads a u32, which lives for the call.
        let done = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_SHUTDOWN, &NO_LOG_FLUSH) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    fn unmount(self) {
        let start = Instant::now();
        // The kernel lets go of a ring's files some time after its process has ended.
        while let Err(reason) = run("umount", &[text(&self.0)]) {
            assert!(start.elapsed() < PATIENCE, "{reason}");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the product may have been killed just now.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub fn made<T>(made: Result<T, String>) -> Option<T> {
    made.map_err(|reason| eprintln!("skipped: no such file system can be made here: {reason}")).ok()
}

#[test]
fn where_the_power_goes_nothing_that_was_acknowledged_is_lost() {
    let mut load = Load::new();
    let (image, data_dir) = (load.bed.setup.dir.join("disk"), load.bed.setup.data_dir());
    let Some(mut mounted) = made(Mounted::ext4(&image, &data_dir, 256 * MIB)) else { return };
    for round in 0..8 {
        let product = load.spawn("");
        (0..20 + 17 * round).for_each(|_| load.step(&product));
        mounted.power_off();
        let status = load.until_it_ends(product, "the end");
        let log = load.bed.product_log();
        assert_eq!(status.code(), Some(1), "{status}\n{log}");
        assert!(log.contains("Input/output error"), "{log}");
        mounted.unmount();
        mounted = Mounted::image(&image, &data_dir).expect("it was mounted before");
    }
    load.assert_nothing_is_lost("power");
    mounted.unmount();
}

/// Blocks that were allocated cannot be written: EIO where the log expects it least.
#[test]
fn where_the_disk_under_the_file_system_is_full_it_ends_and_nothing_is_lost() {
    let mut load = Load::new();
    let dir = load.bed.setup.dir.clone();
    let (below, data_dir) = (dir.join("below"), load.bed.setup.data_dir());
    let Some(small) = made(Mounted::tmpfs(&below, 24 * MIB)) else { return };
    let image = below.join("disk");
    let Some(mounted) = made(Mounted::ext4(&image, &data_dir, 256 * MIB)) else { return };
    load.bed.stub.go_away(Away::Refusing);
    let product = load.spawn("");
    let status = load.until_it_ends(product, "the end of the disk");
    let log = load.bed.product_log();
    assert_eq!(status.code(), Some(1), "{status}\n{log}");
    assert!(log.contains("Input/output error"), "{log}");
    mounted.unmount();
    // The operator makes room.
    run("mount", &["-o", "remount,size=512m", text(&below)]).expect("it is larger now");
    let _ = run("e2fsck", &["-fy", text(&image)]);
    let mounted = Mounted::image(&image, &data_dir).expect("it was mounted before");
    load.heal();
    load.assert_nothing_is_lost("EIO");
    mounted.unmount();
    drop(small);
}

#[test]
fn on_a_small_tmpfs_what_comes_waits_for_room() {
    let mut load = Load::new();
    let Some(_small) = made(Mounted::tmpfs(&load.bed.setup.data_dir(), 24 * MIB)) else { return };
    load.bed.stub.go_away(Away::Refusing);
    let product = load.spawn("");
    let start = Instant::now();
    while product.metric("log_capturer_wal_full").is_ok_and(|full| full == 0.0) {
        assert!(start.elapsed() < PATIENCE, "it was never full\n{}", product.log());
        load.step(&product);
    }
    load.heal();
    (0..20).for_each(|_| load.step(&product));
    stop(product);
    load.assert_nothing_is_lost("tmpfs");
}

#[test]
fn a_data_directory_that_goes_away_ends_it_with_the_reason() {
    let mut load = Load::new();
    let product = load.spawn("");
    (0..20).for_each(|_| load.step(&product));
    let (data_dir, away) = (load.bed.setup.data_dir(), load.bed.setup.dir.join("away"));
    fs::rename(&data_dir, &away).unwrap();
    let status = load.until_it_ends(product, "the end");
    let log = load.bed.product_log();
    assert_eq!(status.code(), Some(1), "{status}\n{log}");
    assert!(log.contains("No such file or directory") && log.contains("shard-00"), "{log}");
    fs::rename(&away, &data_dir).unwrap();
    load.assert_nothing_is_lost("gone and back");
}

#[test]
fn a_file_system_that_becomes_read_only_ends_it_and_is_refused_at_the_start() {
    let mut load = Load::new();
    let (image, data_dir) = (load.bed.setup.dir.join("disk"), load.bed.setup.data_dir());
    let Some(mounted) = made(Mounted::ext4(&image, &data_dir, 256 * MIB)) else { return };
    let product = load.spawn("");
    (0..20).for_each(|_| load.step(&product));
    // As the kernel does after an error: whoever has files open for writing does not keep it from that.
    run("mount", &["-o", "remount,ro,abort", text(&data_dir)])
        .or_else(|_| run("mount", &["-o", "remount,abort", text(&data_dir)]))
        .expect("it becomes read-only");
    let status = load.until_it_ends(product, "the end");
    let log = load.bed.product_log();
    assert_eq!(status.code(), Some(1), "{status}\n{log}");
    let Err(bench::product::Error::Exited { status, log }) =
        bench::product::Product::start(&load.bed.setup)
    else {
        panic!("it started");
    };
    assert!(matches!(status.code(), Some(1 | 78)), "{status}\n{log}");
    assert!(log.contains("Read-only file system") && log.contains(text(&data_dir)), "{log}");
    mounted.unmount();
    let mounted = Mounted::image(&image, &data_dir).expect("it was mounted before");
    load.assert_nothing_is_lost("read-only");
    mounted.unmount();
}

/// A control group that a process is put into; removed when it is dropped, after the process.
struct Memory(PathBuf);

impl Memory {
    fn limit(bytes: u64) -> Result<Memory, String> {
        let name = format!("log-capturer-test-{}", std::process::id());
        let (old, new) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, key) =
            if old.is_dir() { (old, "memory.limit_in_bytes") } else { (new, "memory.max") };
        let dir = root.join(name);
        let told = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir(&dir).map_err(told)?;
        let memory = Memory(dir.clone());
        fs::write(dir.join(key), bytes.to_string()).map_err(told)?;
        Ok(memory)
    }

    fn take_in(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).expect("it may be moved");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A million label sets, lines from files and no sink, in 96 MiB.
#[test]
fn with_little_memory_and_a_million_label_sets_it_goes_on() {
    const PUSHES: usize = 1000;
    const STREAMS: usize = 1000;
    let memory = match Memory::limit(96 * MIB) {
        Ok(memory) => memory,
        Err(reason) => {
            eprintln!("skipped: no control group can be made here: {reason}");
            return;
        }
    };
    let keep_entries = 2 * PUSHES * STREAMS;
    let options = Options { keep_entries, ..Options::new(Accounting::PerLine) };
    let mut load = Load::with(Bed::with(options));
    load.bed.stub.set_limits(Limits { streams_max: 10_000, ..Limits::loki() });
    let product = load.spawn("");
    memory.take_in(product.pid());
    load.bed.stub.go_away(Away::Refusing);
    let url = format!("http://{}/loki/api/v1/push", product.api);
    let agent = agent();
    for push in 0..PUSHES {
        let streams: Vec<String> = (0..STREAMS)
            .map(|n| {
                format!(r#"{{"stream":{{"id":"{push}-{n}"}},"values":[["{}","x"]]}}"#, now_ns())
            })
            .collect();
        let body = format!(r#"{{"streams":[{}]}}"#, streams.join(","));
        let answer = agent.post(&url).content_type("application/json").send(body).unwrap();
        assert!([204, 503].contains(&answer.status().as_u16()), "{answer:?}");
        if push % 10 == 0 {
            load.step(&product);
        }
    }
    let usage = product.usage().expect("it is alive");
    println!("{} MiB at most", usage.rss_peak_bytes / MIB);
    load.heal();
    // Thousands of new streams go alone, each as a push.
    let start = Instant::now();
    while product.metric("log_capturer_wal_unacked_frames").unwrap() > 0.0 {
        assert!(start.elapsed() < 5 * PATIENCE, "it never drained\n{}", product.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    stop(product);
    load.assert_nothing_is_lost("memory");
}
