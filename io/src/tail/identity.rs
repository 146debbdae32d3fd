//! Which file is which, whatever it is called.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One file among all that ever were on this machine. The birth time tells a new file from an old
/// one whose inode number it got; it is 0 where the file system does not keep one, and there the
/// [`Fingerprint`] has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub birth_ns: i64,
}

/// What of an identity outlives a reboot: device numbers may change, but where there is a birth time
/// nothing else has it.
pub type Incarnation = (Option<u64>, u64, i64);

impl Identity {
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        ((self.birth_ns == 0).then_some(self.dev), self.ino, self.birth_ns)
    }
}

const FINGERPRINT_BYTES_MAX: usize = 1024;

/// A checksum of the first bytes of a file: of as many as it had, up to 1 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub len: u16,
    pub crc: u32,
}

/// What a file holds.
pub trait Contents {
    fn size(&self) -> std::io::Result<u64>;

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;
}

impl Contents for File {
    fn size(&self) -> std::io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl Fingerprint {
    /// Of a file that nothing was read of; it fits every file.
    pub const EMPTY: Fingerprint = Fingerprint { len: 0, crc: 0 };

    /// Whether the file begins with the bytes that this was taken of.
    pub fn matches(&self, file: &impl Contents) -> std::io::Result<bool> {
        let mut buffer = [0; FINGERPRINT_BYTES_MAX];
        let bytes = &mut buffer[..self.len.into()];
        Ok(read_start(file, bytes)? == bytes.len() && crc32c::crc32c(bytes) == self.crc)
    }

    /// Takes more of the file in, where it has more by now and 1 KiB is not reached.
    pub fn grow(&mut self, file: &impl Contents, size: u64) -> std::io::Result<()> {
        if usize::from(self.len) == FINGERPRINT_BYTES_MAX || size <= u64::from(self.len) {
            return Ok(());
        }
        let mut buffer = [0; FINGERPRINT_BYTES_MAX];
        let read = read_start(file, &mut buffer)?;
        self.len = u16::try_from(read).expect("1 KiB at most");
        self.crc = crc32c::crc32c(&buffer[..read]);
        Ok(())
    }
}

fn read_start(file: &impl Contents, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: there is no such file", path.display())]
    NotFound { path: PathBuf },
    #[error("{}: expected a regular file, found a {found}", path.display())]
    NotRegular { path: PathBuf, found: &'static str },
    #[error("{}: a symbolic link; set follow_symlinks to read what it points to", path.display())]
    Symlink { path: PathBuf },
    #[error("{}: {source}; can this user read it?", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// Opens a regular file for reading, with its size. Never waits: a FIFO put in place of a log does
/// not hang its reader.
pub fn open_regular(
    path: &Path,
    follow_symlinks: bool,
) -> Result<(File, Identity, u64), OpenError> {
    let failed = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::NOENT => OpenError::NotFound { path: path.into() },
        rustix::io::Errno::LOOP => OpenError::Symlink { path: path.into() },
        errno => OpenError::Io { path: path.into(), source: errno.into() },
    };
    let no_follow = if follow_symlinks { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | no_follow;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?);
    let stat = statx(file.as_fd(), "", AtFlags::EMPTY_PATH).map_err(failed)?;
    let kind = stat.file_type();
    if kind != FileType::RegularFile {
        return Err(OpenError::NotRegular { path: path.into(), found: kind_name(kind) });
    }
    Ok((file, stat.identity(), stat.size()))
}

/// Of an open file, where it is a regular one.
#[must_use]
pub fn identity_of(file: impl AsFd) -> Option<Identity> {
    let stat = statx(file.as_fd(), "", AtFlags::EMPTY_PATH).ok()?;
    (stat.file_type() == FileType::RegularFile).then(|| stat.identity())
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    }
}

/// What is to be known of a file without opening it.
pub(super) struct Stat(Statx);

impl Stat {
    /// Of the file at `path`; `None` where there is none, or none that may be looked at.
    pub fn of(path: &Path, follow_symlinks: bool) -> Option<Stat> {
        let flags = if follow_symlinks { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        statx(rustix::fs::CWD, path, flags).ok()
    }

    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.0.stx_mode.into())
    }

    pub fn identity(&self) -> Identity {
        let birth = self.0.stx_btime;
        let has_birth = self.0.stx_mask & StatxFlags::BTIME.bits() != 0;
        Identity {
            dev: u64::from(self.0.stx_dev_major) << 32 | u64::from(self.0.stx_dev_minor),
            ino: self.0.stx_ino,
            birth_ns: if has_birth { nanos(birth.tv_sec, birth.tv_nsec) } else { 0 },
        }
    }

    pub fn size(&self) -> u64 {
        self.0.stx_size
    }

    pub fn modified_ns(&self) -> i64 {
        nanos(self.0.stx_mtime.tv_sec, self.0.stx_mtime.tv_nsec)
    }
}

fn statx(dir: impl AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> rustix::io::Result<Stat> {
    debug_assert!(dir.as_fd().as_raw_fd() != -1);
    rustix::fs::statx(dir, path, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME).map(Stat)
}

fn nanos(seconds: i64, nanos: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_fingerprint_grows_to_a_kibibyte_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut fingerprint = Fingerprint::EMPTY;
        for size in [0, 10, 1000, 1024, 5000] {
            fs::write(&path, vec![b'x'; size]).unwrap();
            let file = File::open(&path).unwrap();
            assert!(fingerprint.matches(&file).unwrap(), "the start is the same at {size}");
            fingerprint.grow(&file, size as u64).unwrap();
            assert_eq!(usize::from(fingerprint.len), size.min(1024));
        }
        fs::write(&path, [b"y".as_slice(), &b"x".repeat(4999)].concat()).unwrap();
        assert!(!fingerprint.matches(&File::open(&path).unwrap()).unwrap());
        fs::write(&path, "xxx").unwrap();
        assert!(!fingerprint.matches(&File::open(&path).unwrap()).unwrap(), "shorter than it was");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let error = |name: &str, follow| open_regular(&at(name), follow).unwrap_err().to_string();
        fs::write(at("file"), "12345").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let (_, identity, size) = open_regular(&at("file"), false).unwrap();
        assert_eq!(size, 5);
        assert_eq!(open_regular(&at("link"), true).unwrap().1, identity);
        assert!(error("link", false).contains("set follow_symlinks"));
        assert!(error("fifo", false).contains("expected a regular file, found a FIFO"));
        assert!(error(".", false).contains("found a directory"));
        assert!(error("none", false).contains("no such file"));
    }

    #[test]
    fn a_new_file_with_an_old_inode_number_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            fs::write(&path, "same").unwrap();
            assert!(seen.insert(open_regular(&path, false).unwrap().1));
            fs::remove_file(&path).unwrap();
        }
    }
}
