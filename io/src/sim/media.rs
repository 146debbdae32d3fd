//! What a disk holds: what is durable, what is only visible yet, and what a crash makes of that.
//!
//! Blocks and names are pending until their file or directory is synced. A crash decides on each by
//! itself: kept, dropped, torn or garbled. So it is harsher than any file system, most of which keep an
//! order among names.

use super::{Events, below, one_in, random};
use crate::format::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::rc::Rc;

const SECTOR_BYTES: usize = 512;
/// Files that are gone, of which the blocks go to those that come.
const FREED_MAX: usize = 4;

pub type Block = Rc<[u8; BLOCK_BYTES]>;

#[derive(Clone, Debug, Default)]
pub struct File {
    bytes: usize,
    durable: Vec<Block>,
    visible: Vec<Block>,
    /// Written and not synced, in their order.
    pending: Vec<(usize, Block)>,
    /// A sync failed: those that follow say that they succeed, and do nothing.
    lies: bool,
}

/// What becomes of what was pending.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Kept,
    Dropped,
    /// Of each by itself, as this seed says.
    Mixed(u64),
}

impl Outcome {
    /// One of `n`: 0 is dropped, 1 is kept.
    fn of(&mut self, n: usize) -> usize {
        match self {
            Outcome::Dropped => 0,
            Outcome::Kept => 1,
            Outcome::Mixed(seed) => below(seed, n),
        }
    }

    fn random(&mut self) -> u64 {
        match self {
            Outcome::Mixed(seed) => random(seed),
            _ => 0,
        }
    }
}

/// A change of the directory: a name that means a file now, and one that means none.
#[derive(Clone, Debug)]
struct Naming {
    set: Option<(String, usize)>,
    unset: Option<String>,
}

/// Names and files; a clone shares the blocks.
#[derive(Clone, Debug)]
pub struct Media {
    durable: BTreeMap<String, usize>,
    visible: BTreeMap<String, usize>,
    pending: Vec<Naming>,
    files: Vec<File>,
    freed: Vec<Vec<Block>>,
    zero: Block,
    pub events: Events,
}

impl Default for Media {
    fn default() -> Media {
        Media {
            durable: BTreeMap::new(),
            visible: BTreeMap::new(),
            pending: Vec::new(),
            files: Vec::new(),
            freed: Vec::new(),
            zero: Rc::new([0; BLOCK_BYTES]),
            events: Events::default(),
        }
    }
}

impl File {
    fn sync(&mut self) {
        if !self.lies {
            for (at, block) in self.pending.drain(..) {
                self.durable[at] = block;
            }
        }
    }

    /// The power, or the process, is gone: what was not synced is settled by chance.
    fn settle(&mut self, outcome: &mut Outcome, power: bool, events: &Events) {
        let (mut kept, mut lost) = (0, 0);
        for (at, block) in std::mem::take(&mut self.pending) {
            // A kernel that goes on writes blocks as a whole, or not.
            match outcome.of(if power { 4 } else { 2 }) {
                0 => lost += 1,
                1 => {
                    kept += 1;
                    self.durable[at] = block;
                }
                2 => {
                    events.count("torn block");
                    let torn = Rc::make_mut(&mut self.durable[at]);
                    let bytes = outcome.of(BLOCK_BYTES / SECTOR_BYTES) * SECTOR_BYTES;
                    torn[..bytes].copy_from_slice(&block[..bytes]);
                }
                _ => {
                    events.count("garbled block");
                    let garbled = Rc::make_mut(&mut self.durable[at]);
                    garbled.copy_from_slice(&block[..]);
                    let from = outcome.of(BLOCK_BYTES / SECTOR_BYTES) * SECTOR_BYTES;
                    for bytes in garbled[from..from + SECTOR_BYTES].chunks_mut(8) {
                        bytes.copy_from_slice(&outcome.random().to_le_bytes());
                    }
                }
            }
        }
        if kept > 0 && lost > 0 {
            events.count("torn group");
        }
        self.visible.clone_from(&self.durable);
        self.lies = false;
    }
}

impl Media {
    pub fn names(&self) -> impl Iterator<Item = (&String, u64)> {
        self.visible.iter().map(|(name, file)| (name, self.files[*file].bytes as u64))
    }

    #[must_use]
    pub fn file(&self, name: &str) -> Option<usize> {
        self.visible.get(name).copied()
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.names().map(|(_, bytes)| bytes).sum()
    }

    #[must_use]
    pub fn is_synced(&self, file: usize) -> bool {
        self.files[file].pending.is_empty()
    }

    #[must_use]
    pub fn directory_is_synced(&self) -> bool {
        self.pending.is_empty()
    }

    /// An empty file that is new, and has this name.
    pub fn link(&mut self, name: &str) -> usize {
        self.files.push(File::default());
        let file = self.files.len() - 1;
        self.name(Naming { set: Some((name.to_owned(), file)), unset: None });
        file
    }

    /// The blocks that files of this other disk hold are free here.
    pub fn inherit(&mut self, other: &Media) {
        let files = other.visible.values().map(|file| &other.files[*file].visible);
        self.freed.extend(files.filter(|blocks| blocks.len() > 1).cloned());
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let file = self.visible[from];
        self.name(Naming { set: Some((to.to_owned(), file)), unset: Some(from.to_owned()) });
    }

    pub fn unlink(&mut self, name: &str) {
        if self.visible.contains_key(name) {
            self.name(Naming { set: None, unset: Some(name.to_owned()) });
        }
    }

    fn name(&mut self, naming: Naming) {
        let gone = naming.apply(&mut self.visible);
        for file in gone {
            let blocks = &self.files[file].visible;
            // Those of slots are never met where a frame may begin.
            if blocks.len() > 1 {
                self.freed.push(blocks.clone());
            }
        }
        let surplus = self.freed.len().saturating_sub(FREED_MAX);
        self.freed.drain(..surplus);
        self.pending.push(naming);
    }

    /// Room for `bytes`: zeros, and by chance what was there before.
    pub fn allocate(&mut self, file: usize, bytes: usize, stale: bool, seed: &mut u64) {
        let blocks = bytes.div_ceil(BLOCK_BYTES);
        let of = &mut self.files[file];
        of.bytes = bytes;
        of.durable = vec![self.zero.clone(); blocks];
        if stale && !self.freed.is_empty() && one_in(seed, 2) {
            let freed = &self.freed[below(seed, self.freed.len())];
            of.durable.iter_mut().zip(freed).for_each(|(block, stale)| block.clone_from(stale));
        }
        of.visible.clone_from(&of.durable);
    }

    pub fn write(&mut self, file: usize, at: usize, bytes: &[u8]) {
        assert!(at.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_BYTES));
        let file = &mut self.files[file];
        for (n, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let block: [u8; BLOCK_BYTES] = block.try_into().expect("a chunk");
            let zero = block == *self.zero;
            let block = if zero { self.zero.clone() } else { Rc::new(block) };
            let at = at / BLOCK_BYTES + n;
            file.visible[at] = block.clone();
            file.pending.push((at, block));
        }
    }

    pub fn sync(&mut self, file: usize) {
        if self.files[file].lies && !self.is_synced(file) {
            self.events.count("lying sync");
        }
        self.files[file].sync();
    }

    pub fn sync_failed(&mut self, file: usize) {
        self.files[file].lies = true;
    }

    /// Who opens a file that is not to be trusted sees what is on the disk (O_DIRECT), whatever that is.
    pub fn reveal(&mut self, file: usize, seed: u64) {
        let file = &mut self.files[file];
        if file.lies {
            file.settle(&mut Outcome::Mixed(seed), false, &self.events);
            file.lies = true;
        }
    }

    pub fn sync_directory(&mut self) {
        for naming in std::mem::take(&mut self.pending) {
            naming.apply(&mut self.durable);
        }
    }

    #[must_use]
    pub fn read(&self, file: usize, at: usize, bytes: usize) -> Vec<u8> {
        let file = &self.files[file];
        let end = (at + bytes).min(file.bytes);
        let mut read = Vec::with_capacity(end.saturating_sub(at));
        for block in file.visible.iter().skip(at / BLOCK_BYTES) {
            let left = end.saturating_sub(at + read.len());
            read.extend_from_slice(&block[..left.min(BLOCK_BYTES)]);
            if left <= BLOCK_BYTES {
                break;
            }
        }
        read
    }

    /// The power is gone, and back.
    pub fn crash(&mut self, mut outcome: Outcome) {
        let (mut set, mut unset) = (0, 0);
        for naming in std::mem::take(&mut self.pending) {
            if outcome.of(2) == 1 {
                naming.apply(&mut self.durable);
            } else if naming.set.is_some() && naming.unset.is_some() {
                set += 1;
            } else if naming.unset.is_some() {
                unset += 1;
            }
        }
        (0..set).for_each(|_| self.events.count("dropped rename"));
        (0..unset).for_each(|_| self.events.count("dropped unlink"));
        self.visible.clone_from(&self.durable);
        let events = self.events.clone();
        self.files.iter_mut().for_each(|file| file.settle(&mut outcome, true, &events));
        self.forget();
    }

    /// The process is gone: names stay, and what was being written is written or not.
    pub fn kill(&mut self, mut outcome: Outcome) {
        let events = self.events.clone();
        self.files.iter_mut().for_each(|file| file.settle(&mut outcome, false, &events));
    }

    /// Files without a name hold nothing any more.
    fn forget(&mut self) {
        for (at, file) in self.files.iter_mut().enumerate() {
            if !self.durable.values().any(|named| *named == at) {
                *file = File::default();
            }
        }
    }

    /// Changes what is durable, and seen.
    pub fn damage(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let file = self.visible[name];
        let mut bytes = self.read(file, 0, self.files[file].bytes);
        change(&mut bytes);
        let file = &mut self.files[file];
        file.bytes = bytes.len();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let block = |chunk: &[u8]| Rc::new(chunk.try_into().expect("a whole block"));
        file.durable = bytes.chunks_exact(BLOCK_BYTES).map(block).collect();
        file.visible.clone_from(&file.durable);
    }

    /// A byte of what is durable flips; what is being written is well.
    pub fn rot(&mut self, name: &str, at: usize, bits: u8) {
        let file = &mut self.files[self.visible[name]];
        let (block, at) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
        Rc::make_mut(&mut file.durable[block])[at] ^= bits;
        if file.pending.iter().all(|(pending, _)| *pending != block) {
            file.visible[block] = file.durable[block].clone();
        }
    }

    pub fn lose(&mut self, name: &str) {
        self.visible.remove(name);
        self.durable.remove(name);
    }
}

impl Naming {
    /// The files that have no name for it.
    fn apply(&self, names: &mut BTreeMap<String, usize>) -> Vec<usize> {
        let unset = self.unset.as_ref().and_then(|name| names.remove(name));
        let replaced = self.set.as_ref().and_then(|(name, file)| names.insert(name.clone(), *file));
        let named = self.set.as_ref().map(|(_, file)| *file);
        unset.into_iter().chain(replaced).filter(|file| Some(*file) != named).collect()
    }
}
