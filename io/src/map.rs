//! Files to look at, mapped: for commands that change nothing, beside a process that runs.
//!
//! The one place with a mapping. Segments and checkpoint slots keep their length from birth to
//! removal, and a removed file lives on while it is mapped; but a file that someone else cuts, or a disk
//! that cannot read, is a signal (SIGBUS) to whoever touches the mapping there. So pages are asked for
//! before they are touched, and what the kernel cannot give is an error like any other. A file that is
//! cut in the moment between ends the command; what it looks at is not harmed.

use crate::disk::{Disk, DiskError, Entry};
use crate::plain::PlainDisk;
use memmap2::{Advice, Mmap};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// A directory of which everything is read and nothing written.
#[derive(Clone, Debug)]
pub struct MapDisk {
    dir: PathBuf,
    plain: PlainDisk,
}

#[derive(Debug)]
pub struct MapFile {
    file: File,
    path: PathBuf,
    /// None of an empty file.
    map: Option<Mmap>,
}

impl MapDisk {
    #[must_use]
    pub fn new(dir: &Path) -> MapDisk {
        MapDisk { dir: dir.to_owned(), plain: PlainDisk::read_only(dir) }
    }

    fn refused<T>(&self, operation: &'static str, name: &str) -> Result<T, DiskError> {
        Err(failed(operation, &self.dir.join(name))(Error::from_raw_os_error(libc::EROFS)))
    }
}

impl MapFile {
    fn open(path: &Path) -> std::io::Result<MapFile> {
        let file = File::open(path)?;
        let map = match file.metadata()?.len() {
            0 => None,
            // SAFETY: the mapping is of a file that the log writes block by block and never cuts; what
            // is read is copied out, by checksums of its own, so that bytes that change meanwhile are
            // bytes that do not count. See above for files that others cut.
            _ => Some(unsafe { Mmap::map(&file) }?),
        };
        Ok(MapFile { file, path: path.to_owned(), map })
    }

    /// Up to `bytes` from `at`, as far as the file goes now.
    fn read(&self, at: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
        let Some(map) = &self.map else { return Ok(Vec::new()) };
        let size = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        let end = size.min(map.len());
        let Some(at) = usize::try_from(at).ok().filter(|at| *at < end) else {
            return Ok(Vec::new());
        };
        let bytes = bytes.min(end - at);
        match map.advise_range(Advice::PopulateRead, at, bytes) {
            // Kernels before 5.14 do not know it.
            Err(error) if error.kind() != ErrorKind::InvalidInput => {
                let text = format!("the disk cannot read it, or someone cut the file ({error})");
                Err(Error::other(text))
            }
            _ => Ok(map[at..at + bytes].to_vec()),
        }
    }
}

impl Disk for MapDisk {
    type File = MapFile;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn list(&self) -> Result<Vec<Entry>, DiskError> {
        self.plain.list().await
    }

    async fn create(&self, name: &str, _: u64, _: Vec<u8>) -> Result<MapFile, DiskError> {
        self.refused("create", name)
    }

    async fn open(&self, name: &str) -> Result<MapFile, DiskError> {
        let path = self.dir.join(name);
        MapFile::open(&path).map_err(failed("map", &path))
    }

    async fn read(&self, file: &MapFile, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        file.read(at, bytes).map_err(failed("read", &file.path))
    }

    async fn write(&self, file: &MapFile, _: u64, _: Vec<u8>) -> Result<(), DiskError> {
        Err(failed("write", &file.path)(Error::from_raw_os_error(libc::EROFS)))
    }

    async fn remove(&self, names: &[String]) -> Result<(), DiskError> {
        self.refused("remove", &names.join(", "))
    }

    async fn quarantine(&self, name: &str) -> Result<(), DiskError> {
        self.refused("quarantine", name)
    }

    async fn close(&self, _: MapFile) -> Result<(), DiskError> {
        Ok(())
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(Error) -> DiskError + use<> {
    let path = path.display().to_string();
    move |source| DiskError { operation, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::run;
    use std::fs;

    #[test]
    fn what_is_there_is_read_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [[7; 4096], [8; 4096]].concat()).unwrap();
        fs::write(dir.path().join("empty"), "").unwrap();
        let disk = MapDisk::new(dir.path());
        let file = run(disk.open("a")).unwrap();
        assert_eq!(run(disk.read(&file, 4096, 8192)).unwrap(), [8; 4096]);
        assert_eq!(run(disk.read(&file, 8192, 4096)).unwrap(), []);
        let empty = run(disk.open("empty")).unwrap();
        assert_eq!(run(disk.read(&empty, 0, 4096)).unwrap(), []);
        assert!(run(disk.open("none")).unwrap_err().to_string().starts_with("map "));
        for refused in [
            run(disk.create("b", 1, Vec::new())).map(drop),
            run(disk.write(&file, 0, vec![9])),
            run(disk.remove(&["a".into()])),
            run(disk.quarantine("a")),
        ] {
            assert!(refused.unwrap_err().to_string().contains("Read-only"));
        }
        assert_eq!(run(disk.list()).unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_is_cut_or_removed_meanwhile_is_no_signal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, [7; 8192]).unwrap();
        let disk = MapDisk::new(dir.path());
        let file = run(disk.open("a")).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert_eq!(run(disk.read(&file, 0, 8192)).unwrap(), [7; 100]);
        assert_eq!(run(disk.read(&file, 4096, 4096)).unwrap(), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(run(disk.read(&file, 0, 8192)).unwrap(), [7; 100]);
    }
}
