//! The real disk: one directory, O_DIRECT through io_uring on the executor that calls it.
//!
//! Data moves through the ring; operations on names (list, rename, unlink, sync of the directory)
//! have no place in the ring and run on the executor's blocking thread, so that none stalls a shard.

use crate::disk::{Disk, DiskError, Entry, OPEN_DIRECT, PARENTS_SYNCED};
use crate::failpoint;
use crate::format::{BLOCK_BYTES, TMP_SUFFIX, parse_segment_name};
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct UringDisk {
    dir: PathBuf,
    quarantine: PathBuf,
    /// Of the file system, what segments leave to others.
    kept_bytes: u64,
}

pub struct UringFile {
    file: DmaFile,
    path: PathBuf,
    /// Blocks from here on were not written before.
    fresh_from: Cell<u64>,
}

/// A DMA buffer that knows how much of it is meant.
pub struct UringBuffer(DmaBuffer);

impl std::ops::Deref for UringBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::ops::DerefMut for UringBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl UringDisk {
    /// Makes the directory where it is missing, readable by its owner alone.
    pub async fn open(dir: &Path, quarantine: &Path) -> Result<UringDisk, DiskError> {
        for path in [dir, quarantine] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| error("create directory", path, source))?;
        }
        for parent in dir.ancestors().skip(1).take(PARENTS_SYNCED) {
            sync_directory(parent)?;
        }
        probe(dir).await?;
        Ok(UringDisk { dir: dir.to_owned(), quarantine: quarantine.to_owned(), kept_bytes: 0 })
    }

    /// Segments leave so much of the file system free, or a quarter of it: to checkpoints, and to
    /// whatever has to be written before segments can go.
    #[must_use]
    pub fn keeping(self, kept_bytes: u64) -> UringDisk {
        UringDisk { kept_bytes, ..self }
    }

    async fn create_at(
        &self,
        tmp: &Path,
        bytes: u64,
        head: UringBuffer,
    ) -> Result<DmaFile, DiskError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .read(true)
            .mode(0o600)
            // A write returns when it is durable: one operation, one wake-up, where a write and
            // a sync were two of each, and a thread of the kernel's for the sync.
            .custom_flags(libc::O_DSYNC)
            .dma_open(tmp)
            .await
            .map_err(|e| ring_error("create", tmp, e))?;
        let filled = async {
            step("create.allocate", tmp)?;
            file.pre_allocate(bytes, false).await.map_err(|e| ring_error("allocate", tmp, e))?;
            step("create.write", tmp)?;
            write_all(&file, tmp, 0, head).await?;
            step("create.sync", tmp)?;
            file.fdatasync().await.map_err(|e| ring_error("sync", tmp, e))
        };
        match filled.await {
            Ok(()) => Ok(file),
            Err(error) => {
                // Its space is what is missing when the disk is full: give it back.
                let _ = file.close().await;
                let _ = fs::remove_file(tmp);
                Err(error)
            }
        }
    }
}

impl Disk for UringDisk {
    type File = UringFile;
    type Buffer = UringBuffer;

    fn buffer(&self, bytes: usize) -> UringBuffer {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES));
        UringBuffer(glommio::allocate_dma_buffer(bytes))
    }

    async fn list(&self) -> Result<Vec<Entry>, DiskError> {
        let dir = self.dir.clone();
        blocking(move || list_directory(&dir)).await
    }

    async fn create(
        &self,
        name: &str,
        bytes: u64,
        head: UringBuffer,
    ) -> Result<UringFile, DiskError> {
        let tmp = self.dir.join(format!("{name}{TMP_SUFFIX}"));
        if self.kept_bytes > 0 && parse_segment_name(name).is_some() {
            let (dir, kept_bytes) = (self.dir.clone(), self.kept_bytes);
            blocking(move || keep_room(&dir, bytes, kept_bytes)).await?;
        }
        let file = self.create_at(&tmp, bytes, head).await?;
        let (dir, path) = (self.dir.clone(), self.dir.join(name));
        let renamed = {
            let path = path.clone();
            blocking(move || {
                step("create.rename", &path)?;
                fs::rename(&tmp, &path).map_err(|source| error("rename", &tmp, source))?;
                step("create.sync_directory", &path)?;
                sync_directory(&dir)?;
                step("create.done", &path)
            })
            .await
        };
        match renamed {
            Ok(()) => Ok(UringFile { file, path, fresh_from: Cell::new(BLOCK_BYTES as u64) }),
            Err(error) => {
                let _ = file.close().await;
                Err(error)
            }
        }
    }

    async fn open(&self, name: &str) -> Result<UringFile, DiskError> {
        let path = self.dir.join(name);
        step("open", &path)?;
        let file = DmaFile::open(&path).await.map_err(|e| ring_error("open", &path, e))?;
        file.fdatasync().await.map_err(|e| ring_error("sync", &path, e))?;
        Ok(UringFile { file, path, fresh_from: Cell::new(0) })
    }

    async fn read(&self, file: &UringFile, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        step("read", &file.path)?;
        let read = file
            .file
            .read_at_aligned(at, bytes)
            .await
            .map_err(|e| ring_error("read", &file.path, e))?;
        Ok(read.to_vec())
    }

    async fn write(&self, file: &UringFile, at: u64, buffer: UringBuffer) -> Result<(), DiskError> {
        step("write", &file.path)?;
        let end = at + buffer.len() as u64;
        write_all(&file.file, &file.path, at, buffer).await?;
        if end > file.fresh_from.get() {
            look_at_journal(file).await?;
            file.fresh_from.set(end);
        }
        step("write.done", &file.path)
    }

    async fn remove(&self, names: &[String]) -> Result<(), DiskError> {
        let (dir, names) = (self.dir.clone(), names.to_vec());
        blocking(move || {
            for name in names {
                let path = dir.join(name);
                step("remove", &path)?;
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error("remove", &path, e));
                    }
                    _ => {}
                }
            }
            step("remove.sync_directory", &dir)?;
            sync_directory(&dir)?;
            step("remove.done", &dir)
        })
        .await
    }

    async fn quarantine(&self, name: &str) -> Result<(), DiskError> {
        let from = self.dir.join(name);
        let owner = self.dir.parent().and_then(Path::file_name).unwrap_or_default();
        let to = self.quarantine.join(format!("{}-{name}", owner.to_string_lossy()));
        blocking(move || {
            if to.exists() {
                return Ok(());
            }
            step("quarantine", &from)?;
            fs::copy(&from, &to).map_err(|source| error("copy to quarantine", &from, source))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600))
                .map_err(|source| error("chmod", &to, source))
        })
        .await
    }

    async fn close(&self, file: UringFile) -> Result<(), DiskError> {
        let UringFile { file, path, .. } = file;
        step("close", &path)?;
        file.close().await.map_err(|e| ring_error("close", &path, e))
    }
}

/// Has glommio find out what the device can do. It reads from the first file that it opens on a
/// device to see whether the device can be polled; of an empty file that read always succeeds, and
/// then every later read of a device that cannot be polled fails with EOPNOTSUPP.
///
/// A file that is there serves; one is written only where there is none, so that a start on a full
/// disk needs no space.
async fn probe(dir: &Path) -> Result<(), DiskError> {
    let there = list_directory(dir)?.into_iter().find(|entry| entry.bytes >= BLOCK_BYTES as u64);
    if let Some(entry) = there {
        let path = dir.join(entry.name);
        let file = DmaFile::open(&path).await.map_err(|e| ring_error("probe", &path, e))?;
        return file.close().await.map_err(|e| ring_error("probe", &path, e));
    }
    let path = dir.join(format!("probe{TMP_SUFFIX}"));
    let failed = |source| error("probe", &path, source);
    fs::write(&path, [0; BLOCK_BYTES]).map_err(failed)?;
    fs::File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
    let opened = DmaFile::open(&path).await.map_err(|e| ring_error(OPEN_DIRECT, &path, e));
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
    };
    file.close().await.map_err(|e| ring_error("probe", &path, e))?;
    fs::remove_file(&path).map_err(failed)
}

async fn write_all(
    file: &DmaFile,
    path: &Path,
    at: u64,
    buffer: UringBuffer,
) -> Result<(), DiskError> {
    let expected = buffer.len();
    let written = file.write_at(buffer.0, at).await.map_err(|e| ring_error("write", path, e))?;
    if written != expected {
        let short = std::io::Error::new(
            std::io::ErrorKind::WriteZero,
            format!("{written} of {expected} bytes were written"),
        );
        return Err(error("write", path, short));
    }
    Ok(())
}

/// Behind the first write to blocks: that they are the file's stands in the file system's journal. ext4 may
/// answer the sync of such a write with success though it gave up its journal meanwhile (jbd2, where another sync
/// ended the same transaction); whoever begins a transaction is told. To allocate what is allocated begins one.
async fn look_at_journal(file: &UringFile) -> Result<(), DiskError> {
    let looked = file.file.pre_allocate(BLOCK_BYTES as u64, true).await;
    looked.map_err(|e| ring_error("write", &file.path, e))
}

fn keep_room(dir: &Path, bytes: u64, kept_bytes: u64) -> Result<(), DiskError> {
    let failed = |errno: rustix::io::Errno| error("keep room for others in", dir, errno.into());
    let disk = rustix::fs::statvfs(dir).map_err(failed)?;
    let kept_bytes = kept_bytes.min(disk.f_blocks * disk.f_frsize / 4);
    if disk.f_bavail * disk.f_frsize < bytes + kept_bytes {
        return Err(failed(rustix::io::Errno::NOSPC));
    }
    Ok(())
}

fn list_directory(dir: &Path) -> Result<Vec<Entry>, DiskError> {
    step("list", dir)?;
    // What a crash left between a rename and the sync of its directory is settled here.
    sync_directory(dir)?;
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| error("list", dir, source))? {
        let entry = entry.map_err(|source| error("list", dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let meta = entry.metadata().map_err(|source| error("stat", &entry.path(), source))?;
        if !meta.is_file() {
            continue;
        }
        if name.ends_with(TMP_SUFFIX) {
            fs::remove_file(entry.path())
                .map_err(|source| error("remove", &entry.path(), source))?;
            continue;
        }
        entries.push(Entry { name, bytes: meta.len() });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn sync_directory(dir: &Path) -> Result<(), DiskError> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| error("sync directory", dir, source))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}

fn step(name: &'static str, path: &Path) -> Result<(), DiskError> {
    failpoint::at(name, path).map_err(|source| error(name, path, source))
}

fn error(operation: &'static str, path: &Path, source: std::io::Error) -> DiskError {
    DiskError { operation, path: path.display().to_string(), source }
}

fn ring_error(
    operation: &'static str,
    path: &Path,
    source: glommio::GlommioError<()>,
) -> DiskError {
    // glommio wraps the kernel's answer with the path; the number inside is what decides.
    let source = match source {
        glommio::GlommioError::IoError(source)
        | glommio::GlommioError::EnhancedIoError { source, .. } => source,
        other => std::io::Error::other(other.to_string()),
    };
    error(operation, path, source)
}
