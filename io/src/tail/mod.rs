//! Finding the files to read: which there are, which is which, and when one has changed.
//!
//! A file is known by its [`Identity`], never by its name: names move when logs rotate. One thread
//! runs the [`Discoverer`] for the whole process and says what happened as [`Event`]s; it opens no
//! file for longer than it takes to look at its first bytes, so idle files cost no descriptor.

mod discover;
mod glob;
mod identity;
mod watch;

pub use discover::{DiscoverError, Discoverer};
pub use glob::Globs;
pub use identity::{
    Contents, Fingerprint, Identity, Incarnation, OpenError, identity_of, open_regular,
};

use std::path::PathBuf;
use std::time::Duration;

/// Which of the files found in this run; a file found later has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

#[derive(Debug, Clone)]
pub struct Options {
    pub groups: Vec<Group>,
    /// How often everything is looked at, whatever inotify says or does not say.
    pub reconcile_interval: Duration,
    /// After events were delivered, those that follow are collected for this long.
    pub event_interval: Duration,
    /// Directories that are watched at most; more are polled.
    pub watches_max: usize,
    pub files_max: usize,
    /// Files that are not followed, whatever matches them.
    pub left_out: Vec<Identity>,
}

/// Files that are treated alike. A file belongs to the first group that includes it.
#[derive(Debug, Clone)]
pub struct Group {
    /// Absolute patterns: `*`, `?`, `[…]` and `{…}` within a name, `**` for any number of
    /// directories.
    pub include: Vec<String>,
    /// Patterns of names (`*.gz`), or of whole paths where they have a slash.
    pub exclude: Vec<String>,
    pub follow_symlinks: bool,
}

/// A file that an earlier run read.
#[derive(Debug, Clone)]
pub struct Known {
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    pub offset: u64,
    pub path: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A file to follow. `resumed` is the place in the list of known files that it was found under.
    Found {
        file: FileId,
        identity: Identity,
        path: PathBuf,
        group: usize,
        resumed: Option<usize>,
        /// It was there when discovery began, and is not known.
        at_start: bool,
        size: u64,
    },
    /// It may have something to read.
    Changed { file: FileId },
    /// It has another name now, which need not match any pattern.
    Renamed { file: FileId, path: PathBuf },
    /// It has no name any more, or none that can be found.
    Removed { file: FileId },
    /// A file of the known ones is not there any more.
    Missing { known: usize },
    /// The kernel dropped events; everything was looked at instead.
    Overflow,
    /// So many directories cannot be watched and are polled.
    WatchLimit { dirs: usize },
    /// There are more files than this; the rest is not followed.
    FilesLimit { files_max: usize },
    /// A file matches and is one of those to be left out.
    LeftOut { path: PathBuf },
    /// All files that are there were found.
    Ready,
    /// Nothing more for now: what was told since the last one belongs together.
    Settled,
}
