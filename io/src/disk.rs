//! What the log needs of a disk: eight operations with one-sentence contracts.
//!
//! [`crate::uring::UringDisk`] does them for real, [`crate::plain::PlainDisk`] by blocking calls and
//! `sim::SimDisk` in memory with faults and crashes. A disk is one directory; names are plain
//! file names in it.

use std::ops::{Deref, DerefMut};

/// A disk operation that failed, with what and where.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {source}")]
pub struct DiskError {
    pub operation: &'static str,
    pub path: String,
    pub source: std::io::Error,
}

/// What was tried first of a directory.
pub(crate) const OPEN_DIRECT: &str = "open with O_DIRECT";

impl DiskError {
    /// No space, no quota, no descriptor for now: back-pressure, not a failure.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE];
        self.source.raw_os_error().is_some_and(|error| full.contains(&error))
    }

    /// The file system does not do direct I/O.
    #[must_use]
    pub fn lacks_direct_io(&self) -> bool {
        self.operation == OPEN_DIRECT && self.source.raw_os_error() == Some(libc::EINVAL)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub bytes: u64,
}

/// A disk's directory may be new, and those that it is in as well: so many of them are synced, for a
/// file is only as durable as its name.
pub const PARENTS_SYNCED: usize = 2;

// The futures stay on the executor of the shard that owns the disk: no `Send` is wanted.
#[allow(async_fn_in_trait)]
pub trait Disk {
    type File;
    type Buffer: Deref<Target = [u8]> + DerefMut;

    /// A buffer of `bytes` (a multiple of the block) that may be written; it may hold anything.
    fn buffer(&self, bytes: usize) -> Self::Buffer;

    /// The files of the directory, in the order of their names; what was not finished is removed.
    async fn list(&self) -> Result<Vec<Entry>, DiskError>;

    /// A file of `bytes` that starts with `head`: when this returns it stands in the directory
    /// under `name`, durably and in place of what had that name; before, nothing is seen of it.
    async fn create(
        &self,
        name: &str,
        bytes: u64,
        head: Self::Buffer,
    ) -> Result<Self::File, DiskError>;

    /// Opens for reading what is surely on the disk: what was only in memory is synced first.
    async fn open(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Up to `bytes` from `at` (both multiples of the block); fewer only at the end of the file.
    async fn read(&self, file: &Self::File, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError>;

    /// Writes all of `buffer` at `at` (a multiple of the block): when this returns it is durable.
    /// After a failure nothing is known of it, and nothing that was not durable before may be
    /// counted on.
    async fn write(
        &self,
        file: &Self::File,
        at: u64,
        buffer: Self::Buffer,
    ) -> Result<(), DiskError>;

    /// Removes the files; when this returns they are gone durably. One that is missing is no error.
    async fn remove(&self, names: &[String]) -> Result<(), DiskError>;

    /// Copies a damaged file aside, once.
    async fn quarantine(&self, name: &str) -> Result<(), DiskError>;

    async fn close(&self, file: Self::File) -> Result<(), DiskError>;
}
