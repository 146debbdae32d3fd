//! A disk in memory, in the steps that the real ones take.
//!
//! Each step may fail, or be where the power goes; faults are planted by the number of the step. Without
//! [latency](SimDisk::set_latency) every operation completes at once, so that [`super::run`] drives the
//! code above; with it each waits between its steps, and the [`super::Scheduler`] mixes them.

use super::media::{Media, Outcome};
use super::{Clock, Events, random};
use crate::disk::{Disk, DiskError, Entry};
use crate::format::{BLOCK_BYTES, TMP_SUFFIX};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a step does instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with this error number. A file of which a write or sync failed is not to be trusted: its
    /// later syncs succeed, and do nothing.
    Error(i32),
    /// A write that writes a part; elsewhere like `Error(EIO)`.
    Short,
    /// The power goes: this and every later step fails until [`SimDisk::restart`].
    Crash,
}

#[derive(Clone, Default)]
pub struct SimDisk(Rc<RefCell<State>>);

#[derive(Clone, Default)]
struct State {
    media: Media,
    quarantined: Vec<String>,
    faults: BTreeMap<u64, Fault>,
    operations: u64,
    crashed: bool,
    bytes_max: Option<u64>,
    stale: bool,
    /// The most ticks that a step takes; 0: it does not wait.
    latency: u64,
    clock: Clock,
    seed: u64,
    /// What is done to names and files, where somebody wants to know.
    trace: Option<Vec<String>>,
}

impl State {
    fn poison(&mut self, file: &SimFile) {
        if file.name.ends_with(".wal") {
            self.media.events.count("poisoned segment");
        }
        self.media.sync_failed(file.index);
    }
}

impl SimDisk {
    /// A disk that counts what happens to it there.
    #[must_use]
    pub fn with_events(events: Events) -> SimDisk {
        let disk = SimDisk::default();
        disk.0.borrow_mut().media.events = events;
        disk
    }

    /// Steps that change something, so far: where a fault may be planted.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    pub fn plant(&self, operation: u64, fault: Fault) {
        self.0.borrow_mut().faults.insert(operation, fault);
    }

    /// What was planted and did not strike is gone.
    pub fn heal(&self) {
        self.0.borrow_mut().faults.clear();
    }

    pub fn limit(&self, bytes_max: Option<u64>) {
        self.0.borrow_mut().bytes_max = bytes_max;
    }

    /// From now on, new files hold blocks of those that are gone; also of that disk, which was here
    /// before.
    pub fn set_stale(&self, before: &SimDisk) {
        let mut state = self.0.borrow_mut();
        state.stale = true;
        state.media.inherit(&before.0.borrow().media);
    }

    /// From now on, each step takes up to so many ticks of `clock`; 0: none, and it does not wait.
    pub fn set_latency(&self, latency: u64, clock: &Clock) {
        let mut state = self.0.borrow_mut();
        (state.latency, state.clock) = (latency, clock.clone());
    }

    /// By which latency and stale blocks go from now on.
    pub fn reseed(&self, seed: u64) {
        self.0.borrow_mut().seed = seed;
    }

    #[must_use]
    pub fn crashed(&self) -> bool {
        self.0.borrow().crashed
    }

    #[must_use]
    pub fn quarantined(&self) -> Vec<String> {
        self.0.borrow().quarantined.clone()
    }

    #[must_use]
    pub fn events(&self) -> Events {
        self.0.borrow().media.events.clone()
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.borrow().media.file(name).is_some()
    }

    /// What stands under the names, without a step.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let state = self.0.borrow();
        let entry = |(name, bytes): (&String, u64)| Entry { name: name.clone(), bytes };
        state.media.names().map(entry).collect()
    }

    /// Another disk with the same on it, as it is just now.
    #[must_use]
    pub fn snapshot(&self) -> SimDisk {
        SimDisk(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    /// After the power came back: all that was pending is kept or not, as `seed` says.
    pub fn restart(&self, seed: u64) {
        self.restart_with(Outcome::Mixed(seed));
    }

    pub fn restart_with(&self, outcome: Outcome) {
        let mut state = self.0.borrow_mut();
        state.crashed = false;
        state.faults.clear();
        state.media.crash(outcome);
    }

    /// After the process was killed, and the kernel went on.
    pub fn kill(&self, seed: u64) {
        let mut state = self.0.borrow_mut();
        state.faults.clear();
        state.media.kill(Outcome::Mixed(seed));
    }

    /// The durable bytes of a file, to damage them.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.0.borrow_mut().media.damage(name, change);
    }

    /// Bits of one byte flip.
    pub fn rot(&self, name: &str, at: usize, bits: u8) {
        self.0.borrow_mut().media.rot(name, at, bits);
    }

    /// Makes the file vanish, as rot in a directory would.
    pub fn lose(&self, name: &str) {
        self.0.borrow_mut().media.lose(name);
    }

    /// From now on, notes each step.
    pub fn trace(&self) {
        self.0.borrow_mut().trace = Some(Vec::new());
    }

    #[must_use]
    pub fn traced(&self) -> Vec<String> {
        self.0.borrow().trace.clone().unwrap_or_default()
    }

    async fn wait(&self) {
        let (clock, ticks) = {
            let mut state = self.0.borrow_mut();
            if state.latency == 0 {
                return;
            }
            let ticks = random(&mut state.seed) % state.latency;
            (state.clock.clone(), ticks)
        };
        clock.sleep(ticks).await;
    }

    /// One step: what strikes it, if anything.
    fn strike(&self, step: &'static str, name: &str) -> Option<Fault> {
        let mut state = self.0.borrow_mut();
        let number = state.operations;
        state.operations += 1;
        let fault = if state.crashed { Some(Fault::Crash) } else { state.faults.remove(&number) };
        if !state.crashed {
            let struck = fault.map_or(String::new(), |fault| format!(" {fault:?}"));
            state.trace.iter_mut().for_each(|t| t.push(format!("{number} {step} {name}{struck}")));
        }
        if fault == Some(Fault::Crash) && !state.crashed {
            state.crashed = true;
            state.media.events.count(match step {
                "create" | "allocate" | "write head" | "sync head" if name.contains(".wal") => {
                    "crash in birth"
                }
                "create" | "allocate" | "write head" | "sync head" => "crash in checkpoint",
                "rename" => "crash at rename",
                "sync directory" => "crash at directory sync",
                "remove" => "crash in removal",
                _ => "crash in write",
            });
        }
        fault
    }

    /// One step that is done whole or not.
    async fn step<T>(
        &self,
        step: &'static str,
        name: &str,
        done: impl FnOnce(&mut State) -> T,
    ) -> Result<T, DiskError> {
        self.wait().await;
        match self.strike(step, name) {
            None => Ok(done(&mut self.0.borrow_mut())),
            Some(fault) => Err(failure(step, name, fault)),
        }
    }

    async fn write_at(
        &self,
        step: &'static str,
        file: &SimFile,
        at: u64,
        buffer: &[u8],
    ) -> Result<(), DiskError> {
        self.wait().await;
        let at = usize::try_from(at).expect("small");
        // What was on its way when the power went, or an error came, may be there or not.
        let was_crashed = self.crashed();
        let fault = self.strike(step, &file.name);
        let mut state = self.0.borrow_mut();
        let part = (buffer.len() / 2).next_multiple_of(BLOCK_BYTES).min(buffer.len());
        match fault {
            None => state.media.write(file.index, at, buffer),
            Some(_) if was_crashed => {}
            Some(Fault::Crash) => state.media.write(file.index, at, buffer),
            Some(Fault::Error(_) | Fault::Short) => {
                state.media.events.count("failed write");
                state.poison(file);
                state.media.write(file.index, at, &buffer[..part]);
            }
        }
        fault.map_or(Ok(()), |fault| Err(failure(step, &file.name, fault)))
    }

    async fn sync_file(&self, step: &'static str, file: &SimFile) -> Result<(), DiskError> {
        let synced = self.step(step, &file.name, |state| state.media.sync(file.index)).await;
        if synced.is_err() && !self.crashed() {
            let mut state = self.0.borrow_mut();
            state.media.events.count("failed sync");
            state.poison(file);
        }
        synced
    }

    async fn sync_directory(&self, name: &str) -> Result<(), DiskError> {
        self.step("sync directory", name, |state| state.media.sync_directory()).await
    }

    async fn fill(&self, file: &SimFile, bytes: u64, head: &[u8]) -> Result<(), DiskError> {
        let full = {
            let state = self.0.borrow();
            state.bytes_max.is_some_and(|max| state.media.bytes() + bytes > max)
        };
        if full {
            self.events().count("disk full");
            return Err(failure("allocate", &file.name, Fault::Error(libc::ENOSPC)));
        }
        let size = usize::try_from(bytes).expect("small");
        self.step("allocate", &file.name, |state| {
            let State { media, stale, seed, .. } = state;
            media.allocate(file.index, size, *stale, seed);
        })
        .await?;
        self.write_at("write head", file, 0, head).await?;
        self.sync_file("sync head", file).await
    }
}

/// An open file: also where its name goes meanwhile.
#[derive(Debug)]
pub struct SimFile {
    index: usize,
    name: String,
}

impl Disk for SimDisk {
    type File = SimFile;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        // Whatever a real buffer may hold: not zeros.
        vec![0xa5; bytes]
    }

    async fn list(&self) -> Result<Vec<Entry>, DiskError> {
        if !self.0.borrow().media.directory_is_synced() {
            self.sync_directory("").await?;
        }
        for Entry { name, .. } in self.entries() {
            if name.ends_with(TMP_SUFFIX) {
                self.step("remove", &name, |state| state.media.unlink(&name)).await?;
            }
        }
        Ok(self.entries())
    }

    async fn create(&self, name: &str, bytes: u64, head: Vec<u8>) -> Result<SimFile, DiskError> {
        let tmp = format!("{name}{TMP_SUFFIX}");
        let index = self.step("create", &tmp, |state| state.media.link(&tmp)).await?;
        let mut file = SimFile { index, name: tmp.clone() };
        if let Err(error) = self.fill(&file, bytes, &head).await {
            if !self.crashed() {
                self.0.borrow_mut().media.unlink(&tmp);
            }
            return Err(error);
        }
        self.step("rename", &tmp, |state| state.media.rename(&tmp, name)).await?;
        if !crate::planted!(NoDirectorySync) {
            self.sync_directory(name).await?;
        }
        name.clone_into(&mut file.name);
        self.wait().await;
        Ok(file)
    }

    async fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        self.wait().await;
        let index = self.0.borrow().media.file(name);
        let index = index.ok_or_else(|| failure("open", name, Fault::Error(libc::ENOENT)))?;
        let file = SimFile { index, name: name.to_owned() };
        {
            let mut state = self.0.borrow_mut();
            let seed = random(&mut state.seed);
            state.media.reveal(index, seed);
        }
        if !self.0.borrow().media.is_synced(index) {
            self.sync_file("sync", &file).await?;
        }
        Ok(file)
    }

    async fn read(&self, file: &SimFile, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        self.wait().await;
        let at = usize::try_from(at).expect("small");
        Ok(self.0.borrow().media.read(file.index, at, bytes))
    }

    async fn write(&self, file: &SimFile, at: u64, buffer: Vec<u8>) -> Result<(), DiskError> {
        self.write_at("write", file, at, &buffer).await?;
        self.sync_file("sync", file).await?;
        self.wait().await;
        Ok(())
    }

    async fn remove(&self, names: &[String]) -> Result<(), DiskError> {
        for name in names {
            self.step("remove", name, |state| state.media.unlink(name)).await?;
        }
        self.sync_directory("").await?;
        self.wait().await;
        Ok(())
    }

    async fn quarantine(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        if state.quarantined.iter().any(|there| there == name) {
            return Ok(());
        }
        if state.media.file(name).is_none() {
            return Err(failure("copy to quarantine", name, Fault::Error(libc::ENOENT)));
        }
        state.quarantined.push(name.to_owned());
        Ok(())
    }

    async fn close(&self, _: SimFile) -> Result<(), DiskError> {
        Ok(())
    }
}

fn failure(operation: &'static str, name: &str, fault: Fault) -> DiskError {
    let source = match fault {
        Fault::Error(errno) => std::io::Error::from_raw_os_error(errno),
        Fault::Crash => std::io::Error::from_raw_os_error(libc::EIO),
        Fault::Short => std::io::Error::new(std::io::ErrorKind::WriteZero, "a short write"),
    };
    DiskError { operation, path: name.to_owned(), source }
}
