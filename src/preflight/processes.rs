//! Which process has a lock or a port.

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    /// As the kernel has it; empty where it does not say.
    pub name: String,
}

/// Who has the lock of a data_dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    Free,
    Held(Holder),
    /// By a process of another host or container, or one that cannot be seen.
    HeldElsewhere,
}

impl Holder {
    fn of(pid: i32) -> Holder {
        let stat = Process::new(pid).and_then(|process| process.stat());
        Holder { pid, name: stat.map(|stat| stat.comm).unwrap_or_default() }
    }

    #[must_use]
    pub fn is_log_capturer(&self) -> bool {
        self.name == env!("CARGO_PKG_NAME")
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { "a process" } else { &self.name };
        write!(f, "{name} (pid {})", self.pid)
    }
}

/// The kernel is asked first. Where it names nobody, a process of another host or container may have it:
/// so it is tried, shared and for a moment.
pub fn lock_of(data_dir: &Path) -> std::io::Result<Lock> {
    let path = data_dir.join("lock");
    let inode = match fs::metadata(&path) {
        Ok(meta) => meta.ino(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Lock::Free),
        Err(error) => return Err(error),
    };
    let locks = procfs::locks().unwrap_or_default();
    let of_file = |lock: &&procfs::Lock| {
        lock.inode == inode && matches!(lock.lock_type, procfs::LockType::FLock)
    };
    // Inodes of other file systems may have the same number.
    let device = fs::metadata(&path)?.dev();
    let same = |lock: &procfs::Lock| {
        (lock.devmaj, lock.devmin) == (rustix::fs::major(device), rustix::fs::minor(device))
    };
    let found = locks.iter().filter(of_file).find(|lock| same(lock)).and_then(|lock| lock.pid);
    // Some file systems (btrfs, overlayfs) show files another device than they lock.
    let likely = || {
        let holders = locks.iter().filter(of_file).filter_map(|lock| lock.pid).map(Holder::of);
        holders.into_iter().find(Holder::is_log_capturer)
    };
    if let Some(holder) = found.map(Holder::of).or_else(likely) {
        return Ok(Lock::Held(holder));
    }
    match File::open(&path)?.try_lock_shared() {
        Ok(()) => Ok(Lock::Free),
        Err(TryLockError::WouldBlock) => Ok(Lock::HeldElsewhere),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Those who listen on an address, as far as this user may see; none where that is nobody's business.
#[must_use]
pub fn listeners(address: SocketAddr) -> Vec<Holder> {
    let sockets = procfs::net::tcp().into_iter().chain(procfs::net::tcp6()).flatten();
    let inodes: HashSet<u64> = sockets
        .filter(|socket| socket.state == TcpState::Listen && is_at(socket, address))
        .map(|socket| socket.inode)
        .collect();
    let Ok(processes) = procfs::process::all_processes() else { return Vec::new() };
    let has = |process: &Process| {
        let Ok(mut fds) = process.fd() else { return false };
        fds.any(|fd| match fd {
            Ok(fd) => matches!(fd.target, FDTarget::Socket(inode) if inodes.contains(&inode)),
            Err(_) => false,
        })
    };
    processes.flatten().filter(has).map(|process| Holder::of(process.pid)).collect()
}

/// Where a process listens, as far as this user may see.
#[must_use]
pub fn addresses_of(pid: i32) -> Vec<SocketAddr> {
    let Ok(fds) = Process::new(pid).and_then(|process| process.fd()) else { return Vec::new() };
    let socket = |fd: procfs::process::FDInfo| match fd.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    };
    let inodes: HashSet<u64> = fds.flatten().filter_map(socket).collect();
    let sockets = procfs::net::tcp().into_iter().chain(procfs::net::tcp6()).flatten();
    let found = sockets
        .filter(|socket| socket.state == TcpState::Listen && inodes.contains(&socket.inode))
        .map(|socket| socket.local_address);
    // A port may be shared by several.
    found.collect::<HashSet<_>>().into_iter().collect()
}

/// Whoever listens on every address has this one as well, and the other way round.
fn is_at(socket: &TcpNetEntry, address: SocketAddr) -> bool {
    let (has, wanted) = (socket.local_address.ip(), address.ip());
    socket.local_address.port() == address.port()
        && (has == wanted || has.is_unspecified() || wanted.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn this_process_is_found_by_its_lock_and_its_port() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(lock_of(dir.path()).unwrap(), Lock::Free);
        let file = File::create(dir.path().join("lock")).unwrap();
        assert_eq!(lock_of(dir.path()).unwrap(), Lock::Free);
        file.try_lock().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        match lock_of(dir.path()).unwrap() {
            Lock::Held(holder) => assert_eq!(holder.pid, own),
            other => panic!("{other:?}"),
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pids = |address| listeners(address).iter().map(|of| of.pid).collect::<Vec<_>>();
        assert!(pids(address).contains(&own));
        assert!(addresses_of(own).contains(&address));
        assert!(pids(SocketAddr::from(([0; 4], address.port()))).contains(&own));
        drop(listener);
        assert!(!pids(address).contains(&own));
    }
}
