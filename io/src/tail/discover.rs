//! Which files there are, and what happens to their names.
//!
//! inotify says that something happened to a name; what it is, is looked up then ([`Discoverer::look`]),
//! so that lost, doubled and late notices all lead to the same state. A file that is not under its
//! name any more is *lost* at first: it is searched for by its identity, and given up after
//! [`LOST_TIME`].

use super::glob::Globs;
use super::identity::{Incarnation, Stat};
use super::watch::{Notice, Watcher};
use super::{Event, FileId, Identity, Known, Options, open_regular};
use inotify::WatchDescriptor;
use rustix::fs::FileType;
use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error("the pattern {pattern:?} cannot be used: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("inotify failed: {0}")]
    Watch(#[from] std::io::Error),
}

/// How soon a stop is noticed.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// How often directories without a watch, and files behind symbolic links, are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A file that nothing was found of for this long has been removed.
const LOST_TIME: Duration = Duration::from_secs(1);
/// How often notices that came during a look are taken in before what was found is told.
const ROUNDS_MAX: usize = 64;
/// Where symbolic links lead round in a circle, it ends here.
const DEPTH_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct DirId(u32);

/// Finds files, and follows their names.
pub struct Discoverer {
    options: Options,
    globs: Globs,
    watcher: Watcher,
    dirs: HashMap<DirId, Dir>,
    dir_at: HashMap<PathBuf, DirId>,
    watched: HashMap<WatchDescriptor, DirId>,
    files: HashMap<FileId, Tracked>,
    by_identity: HashMap<Identity, FileId>,
    known: Vec<Known>,
    /// Those of `known` that no file was found for.
    unclaimed: HashMap<Incarnation, usize>,
    next_id: u32,
    at_start: bool,
    /// Names to look at.
    dirty: VecDeque<(DirId, OsString)>,
    /// Files to tell a change of.
    changed: Vec<FileId>,
    lost: Vec<FileId>,
    /// Those of `lost` to search for.
    sought: Vec<FileId>,
    candidates: Vec<Candidate>,
    /// Renames of which one end was seen.
    moved_from: HashMap<u32, PathBuf>,
    /// Where a name that was moved within this batch was before.
    origins: HashMap<PathBuf, PathBuf>,
    polled_dirs_told: usize,
    files_limit_told: bool,
    left_out_told: HashSet<Identity>,
}

struct Dir {
    path: PathBuf,
    /// Without one it is polled.
    watch: Option<WatchDescriptor>,
    names: HashMap<OsString, FileId>,
}

struct Tracked {
    identity: Identity,
    place: Option<(DirId, OsString)>,
    /// Behind a symbolic link, where inotify tells nothing.
    linked: bool,
    size: u64,
    modified_ns: i64,
    changed: bool,
    lost_at: Option<Instant>,
    /// The directory where it was last.
    last_dir: PathBuf,
}

/// A file that is not followed yet.
struct Candidate {
    dir: DirId,
    name: OsString,
    /// Where it was created, if it was moved since.
    origin: PathBuf,
    group: usize,
    linked: bool,
    stat: Stat,
}

impl Discoverer {
    pub fn new(options: Options, known: Vec<Known>) -> Result<Discoverer, DiscoverError> {
        Ok(Discoverer {
            globs: Globs::new(&options.groups)?,
            options,
            watcher: Watcher::new(),
            dirs: HashMap::new(),
            dir_at: HashMap::new(),
            watched: HashMap::new(),
            files: HashMap::new(),
            by_identity: HashMap::new(),
            unclaimed: (known.iter().map(|known| known.identity.incarnation()).zip(0..)).collect(),
            known,
            next_id: 0,
            at_start: true,
            dirty: VecDeque::new(),
            changed: Vec::new(),
            lost: Vec::new(),
            sought: Vec::new(),
            candidates: Vec::new(),
            moved_from: HashMap::new(),
            origins: HashMap::new(),
            polled_dirs_told: 0,
            files_limit_told: false,
            left_out_told: HashSet::new(),
        })
    }

    /// Tells all that happens, until `stop` says so, with the moment from which on it may have happened: not
    /// before that, where inotify told of it.
    pub fn run(
        mut self,
        stop: impl Fn() -> bool,
        mut tell: impl FnMut(Event, Instant),
    ) -> Result<(), DiscoverError> {
        let mut told = false;
        let noticed = Cell::new(Instant::now());
        let mut emit = |event: Event| {
            // Said once for all that was told before, and not for nothing.
            if std::mem::replace(&mut told, event != Event::Settled) || event != Event::Settled {
                tell(event, noticed.get());
            }
        };
        self.walk();
        self.settle(&mut emit)?;
        for at in self.missing() {
            emit(Event::Missing { known: at });
        }
        self.at_start = false;
        emit(Event::Ready);
        let mut quiet_until = Instant::now();
        let mut taken_at = noticed.get();
        let mut poll_at = Instant::now() + POLL_INTERVAL;
        let mut reconcile_at = Instant::now() + self.options.reconcile_interval;
        while !stop() {
            emit(Event::Settled);
            let rest = quiet_until.saturating_duration_since(Instant::now());
            std::thread::sleep(rest.min(STOP_INTERVAL));
            if rest > STOP_INTERVAL {
                continue;
            }
            let wait = STOP_INTERVAL.min(poll_at.saturating_duration_since(Instant::now()));
            // What waits already came while nobody looked.
            let waits = self.watcher.wait(Duration::ZERO)?;
            if waits || self.watcher.wait(wait)? {
                let now = Instant::now();
                noticed.set(if waits { taken_at } else { now });
                taken_at = now;
                self.take_in(&mut emit)?;
                self.settle(&mut emit)?;
                quiet_until = Instant::now() + self.options.event_interval;
            }
            if reconcile_at <= Instant::now() {
                noticed.set(Instant::now());
                self.reconcile();
                self.settle(&mut emit)?;
                reconcile_at = Instant::now() + self.options.reconcile_interval;
            }
            if poll_at <= Instant::now() {
                noticed.set(Instant::now());
                self.poll();
                self.settle(&mut emit)?;
                self.give_up_lost(&mut emit);
                poll_at = Instant::now() + POLL_INTERVAL;
            }
        }
        Ok(())
    }

    /// Enters all directories that lead to files. Where one is missing, the nearest one above is
    /// watched for it.
    fn walk(&mut self) {
        for root in self.globs.roots() {
            if let Some(dir) = root.ancestors().find(|dir| dir.is_dir()) {
                self.enter(dir);
            }
        }
    }

    /// Watches a directory, then lists it: what comes in between is seen twice rather than never.
    fn enter(&mut self, path: &Path) {
        if self.dir_at.contains_key(path) || path.components().count() > DEPTH_MAX {
            return;
        }
        let room = self.watched.len() < self.options.watches_max;
        let watch = if room { self.watcher.watch(path) } else { None };
        if watch.as_ref().is_some_and(|watch| self.watched.contains_key(watch)) {
            // The same directory by another path.
            return;
        }
        let dir = DirId(self.take_id());
        if let Some(watch) = &watch {
            self.watched.insert(watch.clone(), dir);
        }
        self.dir_at.insert(path.to_owned(), dir);
        self.dirs.insert(dir, Dir { path: path.to_owned(), watch, names: HashMap::new() });
        self.list(dir, |_, _| true);
    }

    fn take_id(&mut self) -> u32 {
        self.next_id = self.next_id.checked_add(1).expect("four billion files in one run");
        self.next_id
    }

    /// Marks the names in a directory that `which` picks, of those that are not followed.
    fn list(&mut self, dir: DirId, which: impl Fn(&Discoverer, &fs::DirEntry) -> bool) {
        let Ok(entries) = fs::read_dir(&self.dirs[&dir].path) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !self.dirs[&dir].names.contains_key(&name) && which(self, &entry) {
                self.dirty.push_back((dir, name));
            }
        }
    }

    /// Takes in what inotify has, and looks at everything if it lost some.
    fn take_in(&mut self, emit: &mut dyn FnMut(Event)) -> Result<(), DiscoverError> {
        if self.read_notices()? {
            emit(Event::Overflow);
            self.reconcile();
        }
        Ok(())
    }

    /// Takes in what inotify has; true if it lost some.
    fn read_notices(&mut self) -> Result<bool, DiscoverError> {
        let mut overflow = false;
        let mut gone = Vec::new();
        let Discoverer {
            watcher, watched, dirs, files, changed, dirty, moved_from, origins, ..
        } = self;
        let mut dirty_name = |watch: &WatchDescriptor, name: &OsStr| -> Option<PathBuf> {
            let dir = *watched.get(watch)?;
            dirty.push_back((dir, name.to_owned()));
            Some(dirs[&dir].path.join(name))
        };
        watcher.read(|notice| match notice {
            Notice::Written(watch, name) => {
                let dir = watched.get(&watch).and_then(|dir| dirs.get(dir));
                let file = dir.and_then(|dir| dir.names.get(name));
                if let Some(tracked) = file.and_then(|file| files.get_mut(file))
                    && !std::mem::replace(&mut tracked.changed, true)
                {
                    changed.push(*file.expect("it was tracked"));
                }
            }
            Notice::Name(watch, name) => {
                dirty_name(&watch, name);
            }
            Notice::MovedFrom(watch, name, rename) => {
                if let Some(path) = dirty_name(&watch, name) {
                    let origin = origins.remove(&path).unwrap_or(path);
                    moved_from.insert(rename, origin);
                }
            }
            Notice::MovedTo(watch, name, rename) => {
                if let Some(path) = dirty_name(&watch, name)
                    && let Some(origin) = moved_from.remove(&rename)
                {
                    origins.insert(path, origin);
                }
            }
            Notice::Gone(watch) => gone.push(watch),
            Notice::Overflow => overflow = true,
        })?;
        for watch in gone {
            if let Some(dir) = self.watched.get(&watch).copied() {
                self.leave(dir);
                self.walk();
            }
        }
        Ok(overflow)
    }

    /// A directory is gone, and all below it with it.
    fn leave(&mut self, dir: DirId) {
        let Some(path) = self.dirs.get(&dir).map(|dir| dir.path.clone()) else { return };
        let below = |dir: &Dir| dir.path.starts_with(&path);
        let gone: Vec<DirId> =
            self.dirs.iter().filter(|(_, dir)| below(dir)).map(|(id, _)| *id).collect();
        for id in gone {
            let dir = self.dirs.remove(&id).expect("just listed");
            self.dir_at.remove(&dir.path);
            if let Some(watch) = dir.watch {
                self.watched.remove(&watch);
                self.watcher.forget(watch);
            }
            for file in dir.names.into_values() {
                self.lose(file, dir.path.clone());
            }
        }
    }

    /// Looks at everything.
    fn reconcile(&mut self) {
        self.walk();
        for dir in self.dirs.keys().copied().collect::<Vec<_>>() {
            self.look_over(dir);
        }
    }

    fn poll(&mut self) {
        let polled = |(id, dir): (&DirId, &Dir)| dir.watch.is_none().then_some(*id);
        for dir in self.dirs.iter().filter_map(polled).collect::<Vec<_>>() {
            self.look_over(dir);
        }
        let linked = self.files.values().filter(|tracked| tracked.linked);
        self.dirty.extend(linked.filter_map(|tracked| tracked.place.clone()));
        self.sought.extend_from_slice(&self.lost);
    }

    fn look_over(&mut self, dir: DirId) {
        if !self.dirs[&dir].path.is_dir() {
            self.leave(dir);
            return;
        }
        let names = self.dirs[&dir].names.keys().map(|name| (dir, name.clone()));
        self.dirty.extend(names);
        self.list(dir, |this, entry| {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    !this.dir_at.contains_key(&path) && this.globs.may_contain(&path)
                }
                Ok(kind) if kind.is_symlink() => this.globs.any_follows_symlinks(),
                _ => this.globs.group_of(&path).is_some(),
            }
        });
    }

    /// Looks at all names that were marked and tells what came of it: first of the files that were
    /// there, so that the old generation of a log is heard of before the new one.
    ///
    /// A look finds what stands under a name by then, which may be newer than the notice. An older
    /// file that stood there before has been renamed before, so that a notice of it is waiting:
    /// those that came in the meantime are taken in too, before a file found is told.
    fn settle(&mut self, emit: &mut dyn FnMut(Event)) -> Result<(), DiscoverError> {
        for _ in 0..ROUNDS_MAX {
            self.look_at_dirty(emit);
            self.take_in(emit)?;
            if self.dirty.is_empty() {
                // The other end of a rename comes at once, or not at all.
                self.moved_from.clear();
                break;
            }
        }
        self.look_at_dirty(emit);
        for file in std::mem::take(&mut self.changed) {
            if let Some(tracked) = self.files.get_mut(&file) {
                tracked.changed = false;
                emit(Event::Changed { file });
            }
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by_key(|candidate| {
            let Identity { ino, birth_ns, .. } = candidate.stat.identity();
            (if birth_ns == 0 { candidate.stat.modified_ns() } else { birth_ns }, ino)
        });
        for candidate in candidates {
            self.follow(candidate, emit);
        }
        self.origins.clear();
        let polled = self.dirs.values().filter(|dir| dir.watch.is_none()).count();
        if polled > self.polled_dirs_told {
            emit(Event::WatchLimit { dirs: polled });
        }
        self.polled_dirs_told = polled;
        Ok(())
    }

    fn look_at_dirty(&mut self, emit: &mut dyn FnMut(Event)) {
        loop {
            while let Some((dir, name)) = self.dirty.pop_front() {
                self.look(dir, name, emit);
            }
            if !self.search() {
                break;
            }
        }
    }

    /// What stands under this name now?
    fn look(&mut self, dir: DirId, name: OsString, emit: &mut dyn FnMut(Event)) {
        let Some(at) = self.dirs.get(&dir) else { return };
        let path = at.path.join(&name);
        let before = at.names.get(&name).copied();
        let mut found = Stat::of(&path, false);
        let linked = found.as_ref().is_some_and(|stat| stat.file_type() == FileType::Symlink);
        if linked {
            found = if self.globs.any_follows_symlinks() { Stat::of(&path, true) } else { None };
        }
        let kind = found.as_ref().map(Stat::file_type);
        if kind == Some(FileType::Directory) && self.globs.may_contain(&path) {
            self.enter(&path);
        }
        let found = found.filter(|_| kind == Some(FileType::RegularFile));
        if let (Some(file), Some(stat)) = (before, &found)
            && self.files[&file].identity == stat.identity()
        {
            self.note(file, stat);
            return;
        }
        if let Some(file) = before {
            self.displace(file);
        }
        let Some(stat) = found else { return };
        match self.by_identity.get(&stat.identity()).copied() {
            Some(file) => self.place(file, dir, name, path, emit),
            None => self.consider(dir, name, path, linked, stat),
        }
    }

    /// A file that is where it was.
    fn note(&mut self, file: FileId, stat: &Stat) {
        let tracked = self.files.get_mut(&file).expect("just seen");
        if tracked.size != stat.size() || tracked.modified_ns != stat.modified_ns() {
            tracked.size = stat.size();
            tracked.modified_ns = stat.modified_ns();
            if !std::mem::replace(&mut tracked.changed, true) {
                self.changed.push(file);
            }
        }
    }

    /// A file is not any more where it was.
    fn displace(&mut self, file: FileId) {
        let tracked = self.files.get_mut(&file).expect("it is followed");
        let Some((dir, name)) = tracked.place.take() else { return };
        let Some(dir) = self.dirs.get_mut(&dir) else { return };
        dir.names.remove(&name);
        let path = dir.path.clone();
        self.lose(file, path);
    }

    fn lose(&mut self, file: FileId, last_dir: PathBuf) {
        let Some(tracked) = self.files.get_mut(&file) else { return };
        tracked.place = None;
        tracked.last_dir = last_dir;
        tracked.lost_at = Some(Instant::now());
        self.lost.push(file);
        self.sought.push(file);
        if !std::mem::replace(&mut tracked.changed, true) {
            self.changed.push(file);
        }
    }

    /// A file that is followed stands under this name, too: it has moved here, unless it is still
    /// where it was and this is a second name of it.
    fn place(
        &mut self,
        file: FileId,
        dir: DirId,
        name: OsString,
        path: PathBuf,
        emit: &mut dyn FnMut(Event),
    ) {
        let tracked = &self.files[&file];
        if let Some((dir, name)) = &tracked.place {
            let stands = self.dirs.get(dir).map(|dir| dir.path.join(name));
            let stat = stands.and_then(|path| Stat::of(&path, tracked.linked));
            if stat.is_some_and(|stat| stat.identity() == tracked.identity) {
                return;
            }
            self.displace(file);
        }
        self.lost.retain(|lost| *lost != file);
        let tracked = self.files.get_mut(&file).expect("just seen");
        tracked.lost_at = None;
        tracked.place = Some((dir, name.clone()));
        self.dirs.get_mut(&dir).expect("just seen").names.insert(name, file);
        emit(Event::Renamed { file, path });
    }

    /// A file that is not followed: should it be?
    fn consider(&mut self, dir: DirId, name: OsString, path: PathBuf, linked: bool, stat: Stat) {
        let moved_from = self.origins.get(&path);
        let origin = moved_from.filter(|_| self.globs.group_of(&path).is_none()).unwrap_or(&path);
        let mut group = self.globs.group_of(origin);
        if group.is_none()
            && let Some(at) = self.known_at(&stat.identity())
        {
            // It was read under a name that matched.
            group = self.globs.group_of(&self.known[at].path);
        }
        let Some(group) = group else { return };
        if linked && !self.globs.follow_symlinks(group) {
            return;
        }
        let origin = origin.clone();
        self.candidates.push(Candidate { dir, name, origin, group, linked, stat });
    }

    fn follow(&mut self, candidate: Candidate, emit: &mut dyn FnMut(Event)) {
        let Candidate { dir, name, origin, group, linked, stat } = candidate;
        let identity = stat.identity();
        let Some(at) = self.dirs.get(&dir) else { return };
        let path = at.path.join(&name);
        if self.options.left_out.contains(&identity) {
            // It is there, so it is not missing.
            self.unclaimed.remove(&identity.incarnation());
            if self.left_out_told.insert(identity) {
                emit(Event::LeftOut { path });
            }
            return;
        }
        if let Some(file) = self.by_identity.get(&identity).copied() {
            // It was seen under two names, and this is the later one.
            self.place(file, dir, name, path, emit);
            return;
        }
        if self.files.len() >= self.options.files_max {
            if !std::mem::replace(&mut self.files_limit_told, true) {
                emit(Event::FilesLimit { files_max: self.options.files_max });
            }
            return;
        }
        self.files_limit_told = false;
        let claimed = self.claim(&path, group, &identity);
        let file = FileId(self.take_id());
        self.by_identity.insert(identity, file);
        self.dirs.get_mut(&dir).expect("just seen").names.insert(name.clone(), file);
        let tracked = Tracked {
            identity,
            place: Some((dir, name)),
            linked,
            size: stat.size(),
            modified_ns: stat.modified_ns(),
            changed: false,
            lost_at: None,
            last_dir: PathBuf::new(),
        };
        self.files.insert(file, tracked);
        let moved = origin != path;
        emit(Event::Found {
            file,
            identity,
            path: origin,
            group,
            resumed: claimed.resumed(),
            at_start: self.at_start && claimed == Claim::Unknown,
            size: stat.size(),
        });
        if moved {
            emit(Event::Renamed { file, path });
        }
    }

    fn known_at(&self, identity: &Identity) -> Option<usize> {
        self.unclaimed.get(&identity.incarnation()).copied()
    }

    /// Is this the file that an earlier run read? Where the identity leaves a doubt, its first
    /// bytes decide.
    fn claim(&mut self, path: &Path, group: usize, identity: &Identity) -> Claim {
        let Some(at) = self.known_at(identity) else { return Claim::Unknown };
        let known = &self.known[at];
        // With a birth time it is the same file, even if it was truncated and begins otherwise.
        let sure = known.identity == *identity && identity.birth_ns != 0;
        let alike = || {
            let opened = open_regular(path, self.globs.follow_symlinks(group));
            opened.is_ok_and(|(file, ..)| known.fingerprint.matches(&file).unwrap_or(false))
        };
        if sure || alike() {
            self.unclaimed.remove(&identity.incarnation());
            Claim::Same(at)
        } else {
            Claim::Replaced
        }
    }

    /// The known files that are in nobody's place, as far as the patterns ask for them.
    fn missing(&self) -> Vec<usize> {
        let wanted = |at: &usize| self.globs.group_of(&self.known[*at].path).is_some();
        let mut missing: Vec<usize> = self.unclaimed.values().copied().filter(wanted).collect();
        missing.sort_unstable();
        missing
    }

    /// Marks the names that lost files may have now, in the directories they were in; true if there
    /// is something to look at.
    fn search(&mut self) -> bool {
        let mut inodes: HashMap<PathBuf, HashSet<u64>> = HashMap::new();
        for file in std::mem::take(&mut self.sought) {
            if let Some(tracked) = self.files.get(&file).filter(|tracked| tracked.place.is_none()) {
                let inodes = inodes.entry(tracked.last_dir.clone()).or_default();
                inodes.insert(tracked.identity.ino);
            }
        }
        for (path, inodes) in inodes {
            if let Some(dir) = self.dir_at.get(&path).copied() {
                self.list(dir, |_, entry| inodes.contains(&entry.ino()));
            }
        }
        !self.dirty.is_empty() || !self.sought.is_empty()
    }

    fn give_up_lost(&mut self, emit: &mut dyn FnMut(Event)) {
        let (files, by_identity) = (&mut self.files, &mut self.by_identity);
        self.lost.retain(|file| {
            let lost_at = files[file].lost_at.expect("it is lost");
            let over = lost_at.elapsed() >= LOST_TIME;
            if over {
                let tracked = files.remove(file).expect("just seen");
                by_identity.remove(&tracked.identity);
                emit(Event::Removed { file: *file });
            }
            !over
        });
    }
}

/// What became of the question whether a file is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Unknown,
    Same(usize),
    /// One like it was, and this is another.
    Replaced,
}

impl Claim {
    fn resumed(self) -> Option<usize> {
        match self {
            Claim::Same(at) => Some(at),
            Claim::Unknown | Claim::Replaced => None,
        }
    }
}
