//! A simulated disk: what was not synced may be lost, kept or torn by a crash, as the seed says.
//!
//! Every operation completes at once, so a test drives the code above it with [`run`] and without a
//! runtime; where it is asked to, each waits once before and once after it did what it does, so that
//! [`together`] mixes the steps of two tasks. Faults are planted by the number of the operation at
//! which they strike.

use crate::disk::{Disk, DiskError, Entry};
use crate::format::BLOCK_BYTES;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What the next operation of a kind does instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with this error number and changes nothing that is durable.
    Error(i32),
    /// The power goes: this and every later operation fails until [`SimDisk::restart`].
    Crash,
}

#[derive(Clone, Default)]
pub struct SimDisk(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    /// By name; a file without a name is gone when it is closed.
    names: BTreeMap<String, usize>,
    files: Vec<Contents>,
    quarantined: Vec<String>,
    faults: BTreeMap<u64, Fault>,
    operations: u64,
    crashed: bool,
    bytes_max: Option<u64>,
    waits: bool,
}

#[derive(Default, Clone)]
struct Contents {
    durable: Vec<u8>,
    /// Writes since the last sync, in their order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Contents {
    fn current(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (at, written) in &self.unsynced {
            bytes[*at..*at + written.len()].copy_from_slice(written);
        }
        bytes
    }
}

impl SimDisk {
    /// Operations that change something, so far: where a fault may be planted.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    pub fn plant(&self, operation: u64, fault: Fault) {
        self.0.borrow_mut().faults.insert(operation, fault);
    }

    pub fn limit(&self, bytes_max: Option<u64>) {
        self.0.borrow_mut().bytes_max = bytes_max;
    }

    /// From now on operations wait, for [`together`].
    pub fn wait(&self, waits: bool) {
        self.0.borrow_mut().waits = waits;
    }

    async fn step(&self) {
        if self.0.borrow().waits {
            futures_lite::future::yield_now().await;
        }
    }

    #[must_use]
    pub fn crashed(&self) -> bool {
        self.0.borrow().crashed
    }

    #[must_use]
    pub fn quarantined(&self) -> Vec<String> {
        self.0.borrow().quarantined.clone()
    }

    /// After the power came back: each unsynced block is kept, dropped or torn, as `seed` says.
    pub fn restart(&self, mut seed: u64) {
        let mut state = self.0.borrow_mut();
        state.crashed = false;
        state.faults.clear();
        for file in &mut state.files {
            for (at, written) in std::mem::take(&mut file.unsynced) {
                for (block, bytes) in written.chunks(BLOCK_BYTES).enumerate() {
                    let start = at + block * BLOCK_BYTES;
                    let keep = match random(&mut seed) % 3 {
                        0 => 0,
                        1 => bytes.len(),
                        _ => usize::try_from(random(&mut seed) % 8).expect("below 8") * 512,
                    };
                    file.durable[start..start + keep].copy_from_slice(&bytes[..keep]);
                }
            }
        }
    }

    /// The durable bytes of a file, to damage them.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.borrow_mut();
        let file = state.names[name];
        change(&mut state.files[file].durable);
    }

    /// Makes the file vanish, as rot in a directory would.
    pub fn lose(&self, name: &str) {
        self.0.borrow_mut().names.remove(name);
    }

    fn change<T>(
        &self,
        operation: &'static str,
        name: &str,
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T, DiskError> {
        let mut state = self.0.borrow_mut();
        let number = state.operations;
        state.operations += 1;
        let fault = state.faults.remove(&number);
        state.crashed |= fault == Some(Fault::Crash);
        match fault {
            Some(Fault::Error(errno)) if !state.crashed => Err(error(operation, name, errno)),
            _ if state.crashed => Err(error(operation, name, libc::EIO)),
            _ => Ok(change(&mut state)),
        }
    }
}

impl State {
    fn file(&self, file: &SimFile) -> &Contents {
        &self.files[file.index]
    }

    fn bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].durable.len() as u64).sum()
    }
}

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
        let state = self.0.borrow();
        let entry = |(name, file): (&String, &usize)| Entry {
            name: name.clone(),
            bytes: state.files[*file].durable.len() as u64,
        };
        Ok(state.names.iter().map(entry).collect())
    }

    async fn create(&self, name: &str, bytes: u64, head: Vec<u8>) -> Result<SimFile, DiskError> {
        self.step().await;
        let full = {
            let state = self.0.borrow();
            state.bytes_max.is_some_and(|max| state.bytes() + bytes > max)
        };
        if full {
            return Err(error("allocate", name, libc::ENOSPC));
        }
        let created = self.change("create", name, |state| {
            let mut durable = head;
            durable.resize(usize::try_from(bytes).expect("small"), 0);
            state.files.push(Contents { durable, unsynced: Vec::new() });
            let index = state.files.len() - 1;
            state.names.insert(name.to_owned(), index);
            SimFile { index, name: name.to_owned() }
        });
        self.step().await;
        created
    }

    async fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        self.step().await;
        let index = self.0.borrow().names.get(name).copied();
        let index = index.ok_or_else(|| error("open", name, libc::ENOENT))?;
        Ok(SimFile { index, name: name.to_owned() })
    }

    async fn read(&self, file: &SimFile, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        self.step().await;
        let contents = self.0.borrow().file(file).current();
        let at = usize::try_from(at).expect("small").min(contents.len());
        Ok(contents[at..(at + bytes).min(contents.len())].to_vec())
    }

    /// Two operations, between which the power may be cut: the blocks, then their sync.
    async fn write(&self, file: &SimFile, at: u64, buffer: Vec<u8>) -> Result<(), DiskError> {
        self.step().await;
        // A write that the power cut is among those that may be torn.
        let at = usize::try_from(at).expect("small");
        let crashing = {
            let state = self.0.borrow();
            !state.crashed && state.faults.get(&state.operations) == Some(&Fault::Crash)
        };
        if crashing {
            self.0.borrow_mut().files[file.index].unsynced.push((at, buffer.clone()));
        }
        self.change("write", &file.name, |state| {
            state.files[file.index].unsynced.push((at, buffer));
        })?;
        self.step().await;
        let synced = self.change("sync", &file.name, |state| {
            let contents = &mut state.files[file.index];
            contents.durable = contents.current();
            contents.unsynced.clear();
        });
        if synced.is_err() && !self.crashed() {
            // What Linux does: the lost pages are clean now, and the next sync succeeds.
            self.0.borrow_mut().files[file.index].unsynced.clear();
        }
        self.step().await;
        synced
    }

    async fn remove(&self, names: &[String]) -> Result<(), DiskError> {
        self.step().await;
        let removed = self.change("remove", &names.join(" "), |state| {
            for name in names {
                state.names.remove(name);
            }
        });
        self.step().await;
        removed
    }

    async fn quarantine(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        if !state.quarantined.iter().any(|there| there == name) {
            state.quarantined.push(name.to_owned());
        }
        Ok(())
    }

    async fn close(&self, _: SimFile) -> Result<(), DiskError> {
        Ok(())
    }
}

fn error(operation: &'static str, name: &str, errno: i32) -> DiskError {
    let source = std::io::Error::from_raw_os_error(errno);
    DiskError { operation, path: name.to_owned(), source }
}

/// Runs a future that never waits.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("the simulated disk completes at once"),
    }
}

/// Runs two tasks, the steps of which come in an order that `seed` says.
pub fn together<A, B>(
    seed: &mut u64,
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> (A, B) {
    use futures_lite::future::poll_once;
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (mut a, mut b) = (None, None);
    while a.is_none() || b.is_none() {
        if random(seed).is_multiple_of(2) {
            if a.is_none() {
                a = run(poll_once(one.as_mut()));
            }
        } else if b.is_none() {
            b = run(poll_once(other.as_mut()));
        }
    }
    (a.expect("done"), b.expect("done"))
}

/// splitmix64: one multiplication quality is enough to pick faults.
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
