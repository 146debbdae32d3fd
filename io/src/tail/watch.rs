//! inotify: one watch for each directory.

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What the kernel told of a directory.
pub(super) enum Notice<'a> {
    /// The file of this name was written to.
    Written(WatchDescriptor, &'a OsStr),
    /// The name came, went, or stands for another file.
    Name(WatchDescriptor, &'a OsStr),
    /// The two ends of a rename have the same number.
    MovedFrom(WatchDescriptor, &'a OsStr, u32),
    MovedTo(WatchDescriptor, &'a OsStr, u32),
    /// The directory itself went away or has another name.
    Gone(WatchDescriptor),
    /// Notices were dropped.
    Overflow,
}

/// Without inotify (no instances left, no such kernel) nothing can be watched.
pub(super) struct Watcher {
    inotify: Option<Inotify>,
    buffer: Vec<u8>,
}

const BUFFER_BYTES: usize = 64 << 10;

impl Watcher {
    pub fn new() -> Watcher {
        Watcher { inotify: Inotify::init().ok(), buffer: vec![0; BUFFER_BYTES] }
    }

    /// Watches a directory; `None` where that is not possible, and it has to be polled.
    pub fn watch(&mut self, dir: &Path) -> Option<WatchDescriptor> {
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        self.inotify.as_ref()?.watches().add(dir, mask).ok()
    }

    pub fn forget(&mut self, watch: WatchDescriptor) {
        if let Some(inotify) = &self.inotify {
            // The kernel has removed it already where the directory is gone.
            let _ = inotify.watches().remove(watch);
        }
    }

    /// Waits until there is something to read, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).expect("a short time");
        let mut fds: Vec<PollFd<'_>> =
            self.inotify.iter().map(|inotify| PollFd::new(inotify, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hands what is there to `take`, without waiting.
    pub fn read(&mut self, mut take: impl FnMut(Notice<'_>)) -> io::Result<()> {
        let Some(inotify) = &mut self.inotify else { return Ok(()) };
        loop {
            let events = match inotify.read_events(&mut self.buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    take(Notice::Overflow);
                } else if event
                    .mask
                    .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED)
                {
                    take(Notice::Gone(event.wd));
                } else if let Some(name) = event.name {
                    take(if event.mask.contains(EventMask::MODIFY) {
                        Notice::Written(event.wd, name)
                    } else if event.mask.contains(EventMask::MOVED_FROM) {
                        Notice::MovedFrom(event.wd, name, event.cookie)
                    } else if event.mask.contains(EventMask::MOVED_TO) {
                        Notice::MovedTo(event.wd, name, event.cookie)
                    } else {
                        Notice::Name(event.wd, name)
                    });
                }
            }
        }
    }
}
