//! The real disk by ordinary blocking calls, for commands that run beside the shards and not in
//! one.
//!
//! Every operation completes at once: [`run`] drives what stands above it, and neither
//! an executor nor io_uring is needed. Opened [`read only`](PlainDisk::read_only) it changes
//! nothing, so that it may look at the directory of a process that runs.

use crate::disk::{Disk, DiskError, Entry, PARENTS_SYNCED};
use crate::format::TMP_SUFFIX;
use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct PlainDisk {
    dir: PathBuf,
    /// Where damaged files are copied to; nothing is written where there is none.
    quarantine: Option<PathBuf>,
}

#[derive(Debug)]
pub struct PlainFile {
    file: File,
    path: PathBuf,
}

impl PlainDisk {
    /// Makes the directory where it is missing, readable by its owner alone.
    pub fn open(dir: &Path, quarantine: &Path) -> Result<PlainDisk, DiskError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir).map_err(error("create directory", dir))?;
        for parent in dir.ancestors().skip(1).take(PARENTS_SYNCED) {
            sync_directory(parent)?;
        }
        Ok(PlainDisk { dir: dir.to_owned(), quarantine: Some(quarantine.to_owned()) })
    }

    /// Refuses everything that would change something.
    #[must_use]
    pub fn read_only(dir: &Path) -> PlainDisk {
        PlainDisk { dir: dir.to_owned(), quarantine: None }
    }

    fn writable(&self, operation: &'static str, name: &str) -> Result<PathBuf, DiskError> {
        let path = self.dir.join(name);
        match &self.quarantine {
            Some(_) => Ok(path),
            None => Err(error(operation, &path)(Error::from_raw_os_error(libc::EROFS))),
        }
    }
}

impl Disk for PlainDisk {
    type File = PlainFile;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn list(&self) -> Result<Vec<Entry>, DiskError> {
        let failed = error("list", &self.dir);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let meta = match entry.metadata() {
                // Removed since, by the process that runs.
                Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
                meta => meta.map_err(error("stat", &entry.path()))?,
            };
            if !meta.is_file() {
                continue;
            }
            if name.ends_with(TMP_SUFFIX) {
                if self.quarantine.is_some() {
                    fs::remove_file(entry.path()).map_err(error("remove", &entry.path()))?;
                }
                continue;
            }
            entries.push(Entry { name, bytes: meta.len() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    async fn create(&self, name: &str, bytes: u64, head: Vec<u8>) -> Result<PlainFile, DiskError> {
        let path = self.writable("create", name)?;
        let tmp = self.dir.join(format!("{name}{TMP_SUFFIX}"));
        let made = || {
            let mut options = fs::OpenOptions::new();
            options.create(true).truncate(true).read(true).write(true).mode(0o600);
            let file = options.open(&tmp)?;
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, bytes)?;
            file.write_all_at(&head, 0)?;
            file.sync_all()?;
            fs::rename(&tmp, &path)?;
            Ok(file)
        };
        match made() {
            Ok(file) => {
                sync_directory(&self.dir)?;
                Ok(PlainFile { file, path })
            }
            Err(source) => {
                // Its space is what is missing when the disk is full: give it back.
                let _ = fs::remove_file(&tmp);
                Err(error("create", &tmp)(source))
            }
        }
    }

    async fn open(&self, name: &str) -> Result<PlainFile, DiskError> {
        let path = self.dir.join(name);
        let file = File::open(&path).map_err(error("open", &path))?;
        if self.quarantine.is_some() {
            file.sync_data().map_err(error("sync", &path))?;
        }
        Ok(PlainFile { file, path })
    }

    async fn read(&self, file: &PlainFile, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        let mut buffer = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            match file.file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(again) if again.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(error("read", &file.path)(source)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    async fn write(&self, file: &PlainFile, at: u64, buffer: Vec<u8>) -> Result<(), DiskError> {
        file.file.write_all_at(&buffer, at).map_err(error("write", &file.path))?;
        file.file.sync_data().map_err(error("sync", &file.path))
    }

    async fn remove(&self, names: &[String]) -> Result<(), DiskError> {
        for name in names {
            let path = self.writable("remove", name)?;
            match fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(error("remove", &path)(source));
                }
                _ => {}
            }
        }
        sync_directory(&self.dir)
    }

    async fn quarantine(&self, name: &str) -> Result<(), DiskError> {
        let Some(quarantine) = &self.quarantine else { return Ok(()) };
        let (from, to) = (self.dir.join(name), quarantine.join(name));
        if to.exists() {
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(quarantine)
            .map_err(error("create directory", quarantine))?;
        fs::copy(&from, &to).map(drop).map_err(error("copy to quarantine", &from))
    }

    async fn close(&self, _: PlainFile) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Runs a future that never waits.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("the disk completes at once"),
    }
}

fn sync_directory(dir: &Path) -> Result<(), DiskError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(error("sync directory", dir))
}

fn error(operation: &'static str, path: &Path) -> impl Fn(Error) -> DiskError + use<> {
    let path = path.display().to_string();
    move |source| DiskError { operation, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (home, aside) = (dir.path().join("wal"), dir.path().join("aside"));
        let disk = PlainDisk::open(&home, &aside).unwrap();
        let file = run(disk.create("a", 8192, vec![7; 4096])).unwrap();
        run(disk.write(&file, 4096, vec![8; 4096])).unwrap();
        fs::write(home.join("b.tmp"), "half").unwrap();
        let looking = PlainDisk::read_only(&home);
        let entries = [Entry { name: "a".into(), bytes: 8192 }];
        assert_eq!(run(looking.list()).unwrap(), entries);
        assert!(home.join("b.tmp").exists(), "the process that runs is not done with it");
        assert_eq!(run(disk.list()).unwrap(), entries);
        assert!(!home.join("b.tmp").exists());
        let file = run(looking.open("a")).unwrap();
        assert_eq!(run(looking.read(&file, 4096, 8192)).unwrap(), [8; 4096]);
        run(looking.quarantine("a")).unwrap();
        assert!(!aside.exists());
        let refused = run(looking.remove(&["a".into()])).unwrap_err().to_string();
        assert!(refused.contains("Read-only"), "{refused}");
        run(disk.quarantine("a")).unwrap();
        run(disk.remove(&["a".into(), "c".into()])).unwrap();
        assert!(aside.join("a").exists() && !home.join("a").exists());
    }
}
