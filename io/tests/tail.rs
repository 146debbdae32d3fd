//! Discovery keeps track of every file through every change of names, on a real file system.

use io::tail::{
    Discoverer, Event, FileId, Fingerprint, Group, Identity, Known, Options, open_regular,
};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long something that must happen is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

struct Run {
    events: Receiver<Event>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Run {
    fn start(options: Options, known: Vec<Known>) -> Run {
        let (send, events) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let discoverer = Discoverer::new(options, known).unwrap();
        let thread = std::thread::spawn(move || {
            let ended = discoverer
                .run(|| stopped.load(Ordering::Relaxed), |event, _| drop(send.send(event)));
            ended.unwrap();
        });
        Run { events, stop, thread: Some(thread) }
    }

    fn next(&self) -> Event {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("an event comes") {
                Event::Settled => {}
                event => return event,
            }
        }
    }

    /// All events up to, and without, the first one that `last` picks.
    fn until(&self, last: impl Fn(&Event) -> bool) -> (Vec<Event>, Event) {
        let mut events = Vec::new();
        loop {
            let event = self.next();
            if last(&event) {
                return (events, event);
            }
            events.push(event);
        }
    }

    fn until_ready(&self) -> Vec<Event> {
        self.until(|event| *event == Event::Ready).0
    }

    fn found(&self, name: &str) -> Found {
        let is = |event: &Event| matches!(event, Event::Found { path, .. } if path.ends_with(name));
        Found::of(&self.until(is).1)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("joined once").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Found {
    file: FileId,
    identity: Identity,
    name: String,
    resumed: Option<usize>,
    at_start: bool,
}

impl Found {
    fn of(event: &Event) -> Found {
        let Event::Found { file, identity, path, resumed, at_start, .. } = event else {
            panic!("expected Found, found {event:?}");
        };
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        Found { file: *file, identity: *identity, name, resumed: *resumed, at_start: *at_start }
    }
}

fn options(include: &[PathBuf]) -> Options {
    Options {
        groups: vec![Group {
            include: include.iter().map(|path| path.to_str().unwrap().to_owned()).collect(),
            exclude: vec!["*.gz".into()],
            follow_symlinks: false,
        }],
        reconcile_interval: Duration::from_secs(3600),
        event_interval: Duration::from_millis(5),
        watches_max: 1000,
        files_max: 1000,
        left_out: Vec::new(),
    }
}

fn logs(dir: &Path) -> Options {
    options(&[dir.join("*.log")])
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn known(path: &Path) -> Known {
    let (file, identity, size) = open_regular(path, false).unwrap();
    let mut fingerprint = Fingerprint::EMPTY;
    fingerprint.grow(&file, size).unwrap();
    Known { identity, fingerprint, offset: size, path: path.to_owned() }
}

#[test]
fn files_at_the_start_come_oldest_first_and_later_ones_as_they_are_made() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["c.log", "a.log", "b.txt", "b.log.gz", "b.log"] {
        append(&dir.path().join(name), "x\n");
        std::thread::sleep(Duration::from_millis(10));
    }
    let run = Run::start(logs(dir.path()), vec![]);
    let found: Vec<Found> = run.until_ready().iter().map(Found::of).collect();
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["c.log", "a.log", "b.log"]);
    assert!(found.iter().all(|found| found.at_start && found.resumed.is_none()));
    append(&dir.path().join("d.log"), "x\n");
    let later = run.found("d.log");
    assert!(!later.at_start);
    assert!(later.file > found[2].file);
}

#[test]
fn a_file_to_be_left_out_is_told_once_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    append(&at("a.log"), "x\n");
    append(&at("own.log"), "x\n");
    let own = known(&at("own.log"));
    let mut options = logs(dir.path());
    options.left_out = vec![own.identity];
    options.reconcile_interval = Duration::from_millis(20);
    // It is there, so it is not missing either.
    let run = Run::start(options, vec![own]);
    let events = run.until_ready();
    let left_out = Event::LeftOut { path: at("own.log") };
    assert_eq!(events.iter().filter(|event| **event == left_out).count(), 1, "{events:?}");
    assert_eq!(events.len(), 2, "{events:?}");
    append(&at("own.log"), "y\n");
    fs::rename(at("own.log"), at("moved.log")).unwrap();
    // Another file of that name is one like others.
    append(&at("own.log"), "z\n");
    let (before, found) = run.until(|event| matches!(event, Event::Found { .. }));
    assert_eq!((before, Found::of(&found).name.as_str()), (vec![], "own.log"));
    std::thread::sleep(Duration::from_millis(100));
    append(&at("end.log"), "x\n");
    let (before, _) = run.until(|event| matches!(event, Event::Found { .. }));
    let file = Found::of(&found).file;
    assert!(before.iter().all(|event| *event == Event::Changed { file }), "{before:?}");
}

#[test]
fn many_writes_make_few_events() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "x\n");
    let mut options = logs(dir.path());
    options.event_interval = Duration::from_millis(50);
    let run = Run::start(options, vec![]);
    let file = Found::of(&run.until_ready()[0]).file;
    for _ in 0..2000 {
        append(&path, "x\n");
    }
    append(&dir.path().join("end.log"), "x\n");
    let is_end = |event: &Event| matches!(event, Event::Found { .. });
    let (events, _) = run.until(is_end);
    assert!(!events.is_empty());
    assert!(events.iter().all(|event| *event == Event::Changed { file }));
    assert!(events.len() < 200, "{} events", events.len());
}

#[test]
fn an_old_generation_is_heard_of_before_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    append(&at("a.log"), "1\n");
    let run = Run::start(logs(dir.path()), vec![]);
    let mut current = Found::of(&run.until_ready()[0]);
    let mut older = None;
    for _ in 0..5 {
        let _ = fs::rename(at("a.log.1"), at("a.log.2"));
        fs::rename(at("a.log"), at("a.log.1")).unwrap();
        append(&at("a.log"), "1\n");
        let (before, found) = run.until(|event| matches!(event, Event::Found { .. }));
        let renamed = |file, name| Event::Renamed { file, path: at(name) };
        assert!(before.contains(&renamed(current.file, "a.log.1")), "{before:?}");
        if let Some(older) = older.filter(|_| at("a.log.2").exists()) {
            assert!(before.contains(&renamed(older, "a.log.2")), "{before:?}");
        }
        older = Some(current.file);
        current = Found::of(&found);
    }
    fs::remove_file(at("a.log")).unwrap();
    let (_, removed) = run.until(|event| matches!(event, Event::Removed { .. }));
    // The overwritten generations have no name either.
    let mut removed = vec![removed];
    while !removed.contains(&Event::Removed { file: current.file }) {
        removed.push(run.until(|event| matches!(event, Event::Removed { .. })).1);
    }
}

#[test]
fn no_generation_of_a_storm_is_missed() {
    const GENERATIONS: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let mut options = logs(dir.path());
    // Many rotations fall into one batch of events.
    options.event_interval = Duration::from_millis(100);
    let run = Run::start(options, vec![]);
    run.until_ready();
    let mut made = Vec::new();
    let path = dir.path().join("a.log");
    for generation in 0..GENERATIONS {
        append(&path, "x\n");
        made.push(open_regular(&path, false).unwrap().1);
        if generation % 7 == 0 {
            // Renamed twice before anyone looks.
            fs::rename(&path, dir.path().join("passing")).unwrap();
            fs::rename(dir.path().join("passing"), path.with_extension(format!("{generation}")))
                .unwrap();
        } else {
            fs::rename(&path, path.with_extension(format!("{generation}"))).unwrap();
        }
    }
    append(&dir.path().join("end.log"), "x\n");
    let mut found: Vec<Identity> = Vec::new();
    let mut places: HashMap<FileId, PathBuf> = HashMap::new();
    loop {
        match run.next() {
            Event::Found { path, .. } if path.ends_with("end.log") => break,
            Event::Found { file, identity, path, .. } => {
                assert!(path.ends_with("a.log"), "all were a.log once: {}", path.display());
                found.push(identity);
                places.insert(file, path);
            }
            Event::Renamed { file, path } => drop(places.insert(file, path)),
            Event::Changed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(found, made, "each once, in their order");
    assert!(places.values().all(|path| path.exists()), "where they are now is known");
}

#[test]
fn files_rotated_while_nobody_looked_are_resumed_under_their_new_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut read = Vec::new();
    for name in ["first.log", "second.log", "kept.log", "cut.log"] {
        append(&at(name), &format!("{name}\n"));
        read.push(known(&at(name)));
    }
    fs::rename(at("first.log"), at("first.log.2")).unwrap();
    fs::rename(at("second.log"), at("second.log.1")).unwrap();
    append(&at("second.log"), "new\n");
    fs::write(at("cut.log"), "").unwrap();
    let run = Run::start(logs(dir.path()), read);
    let mut found: Vec<Found> = run.until_ready().iter().map(Found::of).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let brief: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.resumed, f.at_start)).collect();
    assert_eq!(
        brief,
        [
            ("cut.log", Some(3), false),
            ("first.log.2", Some(0), false),
            ("kept.log", Some(2), false),
            ("second.log", None, true),
            ("second.log.1", Some(1), false),
        ]
    );
    let files: HashMap<&str, FileId> = found.iter().map(|f| (f.name.as_str(), f.file)).collect();
    assert!(files["second.log.1"] < files["second.log"]);
}

#[test]
fn a_file_that_took_the_place_of_a_known_one_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "old\n");
    let mut old = known(&path);
    // The same inode number, another birth: as after a removal and the making of another.
    old.identity.birth_ns -= 1;
    let run = Run::start(logs(dir.path()), vec![old]);
    let events = run.until_ready();
    assert_eq!(Found::of(&events[0]).resumed, None);
    assert_eq!(events[1..], [Event::Missing { known: 0 }]);
}

#[test]
fn after_a_change_of_device_numbers_the_first_bytes_decide() {
    let dir = tempfile::tempdir().unwrap();
    let (same, other) = (dir.path().join("same.log"), dir.path().join("other.log"));
    append(&same, "same\n");
    append(&other, "other\n");
    let mut known = vec![known(&same), known(&other)];
    known.iter_mut().for_each(|known| known.identity.dev += 1);
    known[1].fingerprint.crc ^= 1;
    let run = Run::start(logs(dir.path()), known);
    let events = run.until_ready();
    let found = |name: &str| {
        let found = events[..2].iter().map(Found::of).find(|found| found.name == name).unwrap();
        (found.resumed, found.at_start)
    };
    assert_eq!(found("same.log"), (Some(0), false));
    assert_eq!(found("other.log"), (None, false), "not a file never seen before");
    assert_eq!(events[2..], [Event::Missing { known: 1 }]);
}

#[test]
fn only_regular_files_are_found_and_links_only_where_they_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let target = tempfile::tempdir().unwrap();
    append(&target.path().join("target"), "x\n");
    std::os::unix::fs::symlink(target.path().join("target"), at("link.log")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("dangling.log")).unwrap();
    fs::create_dir(at("dir.log")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo.log"), fifo, mode, 0).unwrap();
    append(&at("a.log"), "x\n");
    fs::hard_link(at("a.log"), at("also-a.log")).unwrap();

    let run = Run::start(logs(dir.path()), vec![]);
    assert_eq!(run.until_ready().len(), 1, "one file by two names");
    drop(run);

    let mut allowed = logs(dir.path());
    allowed.groups[0].follow_symlinks = true;
    let run = Run::start(allowed, vec![]);
    let found: Vec<Found> = run.until_ready().iter().map(Found::of).collect();
    assert_eq!(found.len(), 2);
    let link = found.iter().find(|found| found.name == "link.log").unwrap().file;
    append(&target.path().join("target"), "more\n");
    assert_eq!(run.next(), Event::Changed { file: link });
}

#[test]
fn directories_are_found_when_they_appear_and_left_when_they_go() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/yet");
    let run = Run::start(options(&[root.join("**/*.log")]), vec![]);
    assert_eq!(run.until_ready(), []);
    fs::create_dir_all(root.join("x/y")).unwrap();
    append(&root.join("x/y/deep.log"), "1\n");
    let deep = run.found("deep.log");
    append(&root.join("shallow.log"), "1\n");
    let shallow = run.found("shallow.log");
    fs::rename(root.join("x"), root.join("z")).unwrap();
    let path = root.join("z/y/deep.log");
    run.until(|event| *event == Event::Renamed { file: deep.file, path: path.clone() });
    fs::remove_dir_all(&root).unwrap();
    let (before, _) = run.until(|event| matches!(event, Event::Removed { .. }));
    assert!(!before.iter().any(|event| matches!(event, Event::Found { .. })));
    run.until(|event| matches!(event, Event::Removed { .. }));
    fs::create_dir_all(&root).unwrap();
    append(&root.join("shallow.log"), "1\n");
    assert_ne!(run.found("shallow.log").identity, shallow.identity);
}

#[test]
fn without_watches_directories_are_polled() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = logs(dir.path());
    options.watches_max = 0;
    let run = Run::start(options, vec![]);
    assert_eq!(run.until_ready(), [Event::WatchLimit { dirs: 1 }]);
    append(&dir.path().join("a.log"), "x\n");
    let file = run.found("a.log").file;
    append(&dir.path().join("a.log"), "x\n");
    assert_eq!(run.next(), Event::Changed { file });
    fs::rename(dir.path().join("a.log"), dir.path().join("a.log.1")).unwrap();
    let path = dir.path().join("a.log.1");
    run.until(|event| *event == Event::Renamed { file, path: path.clone() });
}

#[test]
fn what_no_event_told_of_is_found_by_a_reconcile() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "x\n");
    let mut options = logs(dir.path());
    options.reconcile_interval = Duration::from_millis(50);
    let run = Run::start(options, vec![]);
    let file = Found::of(&run.until_ready()[0]).file;
    // inotify tells nothing of writes through a mapping; a new time of change stands for one.
    fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(run.next(), Event::Changed { file });
}

#[test]
fn there_is_a_limit_to_the_number_of_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.log", "b.log", "c.log"] {
        append(&dir.path().join(name), "x\n");
    }
    let mut options = logs(dir.path());
    options.files_max = 2;
    let run = Run::start(options, vec![]);
    let events = run.until_ready();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2], Event::FilesLimit { files_max: 2 });
}
