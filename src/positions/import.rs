//! Positions from elsewhere become cursors, where the next run reads them.
//!
//! A cursor counts in whichever shard's log it stands; it is put into that of the shard that will read
//! the file. It is written as a run does it: the log is recovered, takes the cursor over, and writes
//! checkpoints, to both slots, so that neither knows less. Its stamp is later than that of any cursor
//! there is for the file, so that it counts.
//!
//! A crash between two shards leaves some written: the same import goes on, what is written is unchanged.
//!
//! What is safe: forward skips lines that the old position would have sent; the one who imports says
//! that they are sent. Back sends lines again, with timestamps of their own, which Loki takes for
//! others: only by force. An offset within a line makes a line of the rest of it.

use super::CommandError;
use super::form::Form;
use super::list::{self, Position};
use crate::discover::{self, shard_of};
use crate::inspect::findings;
use crate::inspect::log;
use crate::place::{self, Place, PlaceError};
use crate::{ingest, labels, options, state};
use config::Config;
use io::format::{Cursor, FormatVersion, PATH_BYTES_MAX};
use io::plain::PlainDisk;
use io::plain::run as block_on;
use io::tail::{Fingerprint, Globs, Incarnation, open_regular};
use io::wal::Wal;
use io::wal::survey::Reach;
use perf::clock::unix_ns;
use shards::topology::Plan;
use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct How {
    /// What cannot be imported is left out.
    pub skip: bool,
    /// Back, too.
    pub force: bool,
    pub dry_run: bool,
}

/// How long ago a stream had its last line whose position says nothing of that: so long that it counts
/// as new to the sink ([`crate::alone`]), which may not know it, and not so long that the cursor of a
/// file that is late is forgotten.
const UNKNOWN_AGE: Duration = Duration::from_secs(3600);

/// A stream's lines are never stamped before its last one: one further ahead than clocks differ would put
/// them there, too.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// A position as it was given.
#[derive(Debug)]
struct Wanted {
    line: usize,
    path: PathBuf,
    /// Where the file is now.
    file: Option<PathBuf>,
    offset: u64,
    stamp_ns: Option<i64>,
    skipping: bool,
    fingerprint: Fingerprint,
}

/// What becomes of one.
enum Fate {
    Write { shard: usize, cursor: Cursor, before: Option<u64> },
    Unchanged,
}

/// Reads all, judges all, and then writes.
pub fn run(place: &Place, from: &Path, how: How, out: &mut impl Write) -> Result<(), CommandError> {
    let config = place.config.as_ref().expect("import has a configuration");
    let wanted = read(from)?;
    // Where nothing is to be written, nothing is made.
    let is_fresh = how.dry_run && !place.data_dir.exists();
    let _lock = if is_fresh { None } else { Some(lock(place)?) };
    let known = if is_fresh { Vec::new() } else { known(place)? };
    let format = if is_fresh { FormatVersion::NEWEST } else { state::writes(&place.data_dir)? };
    let judge = Judge::new(place, config, how, known)?;
    let mut writes: BTreeMap<usize, Vec<Cursor>> = BTreeMap::new();
    let (mut written, mut unchanged, mut refused) = (0_u64, 0_u64, 0_u64);
    let mut named = HashMap::new();
    for wanted in &wanted {
        let path = wanted.path.display();
        match judge.judge(wanted).and_then(|fate| once(fate, wanted.line, &mut named)) {
            Ok(Fate::Write { shard, cursor, before }) => {
                let before = before.map_or_else(|| "new".to_owned(), |before| before.to_string());
                let offset = cursor.offset;
                writeln!(out, "{path}: {before} -> {offset}, shard {shard}")
                    .map_err(CommandError::Output)?;
                writes.entry(shard).or_default().push(cursor);
                written += 1;
            }
            Ok(Fate::Unchanged) => unchanged += 1,
            Err(error) => {
                eprintln!("{}:{}: {path}: {error}", from.display(), wanted.line);
                refused += 1;
            }
        }
    }
    if refused > 0 && !how.skip {
        return Err(CommandError::Failed(format!(
            "nothing was written: {refused} of {} positions cannot be imported; --skip-missing leaves \
             them out",
            wanted.len()
        )));
    }
    if !how.dry_run {
        for (shard, cursors) in writes {
            write(judge.options(shard, format), cursors)?;
        }
    }
    let what = if how.dry_run { "would be written" } else { "were written" };
    writeln!(out, "{written} positions {what}, {unchanged} unchanged, {refused} left out")
        .map_err(CommandError::Output)
}

/// A file has one position.
fn once(fate: Fate, line: usize, named: &mut HashMap<Incarnation, usize>) -> Result<Fate, String> {
    let Fate::Write { cursor, .. } = &fate else { return Ok(fate) };
    match named.insert(cursor.identity.incarnation(), line) {
        None => Ok(fate),
        Some(before) => Err(format!("line {before} names the same file")),
    }
}

fn read(from: &Path) -> Result<Vec<Wanted>, CommandError> {
    let name = from.display().to_string();
    let failed = |error: std::io::Error| CommandError::Wrong(format!("{name}: {error}"));
    let text = if name == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(from)
    };
    let text = text.map_err(failed)?;
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if serde_json::from_str::<Form>(first).is_ok() {
        return lines(&text, &name);
    }
    let offsets = config::offsets(&text, &name)?;
    Ok(offsets.into_iter().map(Wanted::from).collect())
}

/// What was exported.
fn lines(text: &str, name: &str) -> Result<Vec<Wanted>, CommandError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, text)| {
            let line = at + 1;
            let wrong = |error: String| {
                let text = format!("{name}:{line}: {error}; expected a line of positions export");
                CommandError::Wrong(text)
            };
            let form: Form =
                serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            Ok(Wanted {
                line,
                path: form.path.path().map_err(wrong)?,
                file: form.file.map(|file| file.path()).transpose().map_err(wrong)?,
                offset: form.offset,
                stamp_ns: form.stamp_ns,
                skipping: form.skipping,
                fingerprint: form.fingerprint.map_or(Fingerprint::EMPTY, Fingerprint::from),
            })
        })
        .collect()
}

impl From<config::Offset> for Wanted {
    fn from(config::Offset { line, path, offset }: config::Offset) -> Wanted {
        Wanted {
            line,
            path: path.into(),
            file: None,
            offset,
            stamp_ns: None,
            skipping: false,
            fingerprint: Fingerprint::EMPTY,
        }
    }
}

/// Makes the data_dir where it is missing, as a first start does, and keeps everyone else out.
fn lock(place: &Place) -> Result<File, CommandError> {
    let dir = place.data_dir.display();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&place.data_dir);
    made.map_err(|error| PlaceError::Failed(format!("data_dir {dir}: cannot be made: {error}")))?;
    place.lock()?.ok_or_else(|| {
        CommandError::Failed(format!(
            "data_dir {dir} is in use by a log-capturer that runs, and would not see what is written: \
             stop it, import, and start it again"
        ))
    })
}

/// What the logs say. One that a later version wrote, or that is of another shard, is left as it is.
fn known(place: &Place) -> Result<Vec<Position>, CommandError> {
    let homes = log::homes(&place.data_dir, false).map_err(|error| place.unlike(&error))?;
    for home in &homes {
        let (log, found) = findings::read(home, &[], Reach::Tail)?;
        if log.survey.has_foreign() {
            let damage = found.iter().filter(|finding| finding.is_damage());
            let texts: Vec<String> = damage.map(ToString::to_string).collect();
            return Err(CommandError::Wrong(format!("nothing was written:\n{}", texts.join("\n"))));
        }
    }
    list::read(place)
}

/// Decides what becomes of positions.
struct Judge<'a> {
    config: &'a Config,
    how: How,
    now_ns: i64,
    globs: Globs,
    groups: Vec<discover::Group>,
    /// Shards that read files, and all that there are.
    reading: usize,
    count: usize,
    known: HashMap<Incarnation, Position>,
}

impl<'a> Judge<'a> {
    fn new(
        place: &Place,
        config: &'a Config,
        how: How,
        known: Vec<Position>,
    ) -> Result<Judge<'a>, CommandError> {
        let wrong = |error: String| CommandError::Wrong(error);
        let plan = Plan::of_this_machine(&options::topology(config));
        let reading = plan.map_err(|error| wrong(error.to_string()))?.shards.len();
        let there = place::shards(&place.data_dir).unwrap_or_default();
        let discover::Options { discovery, groups, .. } = options::discovery(config);
        Ok(Judge {
            config,
            how,
            now_ns: unix_ns(),
            globs: Globs::new(&discovery.groups).map_err(|error| wrong(error.to_string()))?,
            groups,
            reading,
            count: there.last().map_or(0, |(number, _)| number + 1).max(reading),
            known: known.into_iter().map(|of| (of.cursor.identity.incarnation(), of)).collect(),
        })
    }

    fn options(&self, shard: usize, writes: FormatVersion) -> ingest::Options {
        options::shard(self.config, shard, self.count, writes, &Arc::default())
    }

    fn judge(&self, wanted: &Wanted) -> Result<Fate, String> {
        let Wanted { path, offset, .. } = wanted;
        if !path.is_absolute() || path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
            return Err("expected an absolute path".into());
        }
        let group = self.globs.group_of(path).ok_or(
            "no entry of sources.files includes it, so that it would not be read; add it there, or \
             leave it out",
        )?;
        let cursor = self.cursor(wanted, group)?;
        let known = self.known.get(&cursor.identity.incarnation()).map(|known| &known.cursor);
        let before = known.map(|known| known.offset);
        if let Some(known) = known {
            if known.offset == *offset && known.identity == cursor.identity {
                return Ok(Fate::Unchanged);
            }
            if known.offset > *offset && !self.how.force {
                return Err(format!(
                    "its position is {} already; --force goes back to {offset}, and sends lines twice",
                    known.offset
                ));
            }
        }
        let labels = labels::of_file(&self.groups[group].labels, &cursor.path);
        Ok(Fate::Write { shard: shard_of(&labels, self.reading), cursor, before })
    }

    /// Of the file as it is now.
    fn cursor(&self, wanted: &Wanted, group: usize) -> Result<Cursor, String> {
        let Wanted { path, offset, .. } = wanted;
        let at = wanted.file.as_ref().unwrap_or(path);
        let opened = open_regular(at, self.globs.follow_symlinks(group));
        let (file, identity, size) = opened.map_err(|error| error.to_string())?;
        if *offset > size {
            return Err(format!(
                "the offset {offset} is beyond the end of {}, at {size}: it was truncated or is another \
                 file; 0 reads all of it",
                at.display()
            ));
        }
        let mut fingerprint = wanted.fingerprint;
        let alike = fingerprint.matches(&file).map_err(|error| error.to_string())?;
        if !alike {
            return Err(format!(
                "{} begins otherwise than the file that was exported: it was rotated or truncated \
                 since; path and offset alone take it as it is",
                at.display()
            ));
        }
        fingerprint.grow(&file, size).map_err(|error| error.to_string())?;
        let stamp_ns = self.stamp(wanted, identity.incarnation())?;
        Ok(Cursor {
            identity,
            fingerprint,
            offset: *offset,
            stamp_ns,
            skipping: wanted.skipping,
            path: path.clone(),
        })
    }

    /// Later than that of any cursor there is for the file.
    fn stamp(&self, wanted: &Wanted, file: Incarnation) -> Result<i64, String> {
        let ns = |time: Duration| i64::try_from(time.as_nanos()).expect("a day at most");
        let stamp_ns = wanted.stamp_ns.unwrap_or(self.now_ns - ns(UNKNOWN_AGE));
        if stamp_ns > self.now_ns + ns(AHEAD_MAX) {
            let ahead =
                "more than a day ahead of this host's clock: set the clock, or leave it out";
            return Err(format!("its stamp_ns is {stamp_ns}, {ahead}"));
        }
        let known = self.known.get(&file);
        Ok(known.map_or(stamp_ns, |known| stamp_ns.max(known.cursor.stamp_ns.saturating_add(1))))
    }
}

/// Recovers a log, has it take the cursors over, and makes that durable.
fn write(options: ingest::Options, cursors: Vec<Cursor>) -> Result<(), CommandError> {
    let disk = PlainDisk::open(&options.dir, &options.quarantine)
        .map_err(|error| CommandError::Wal(error.into()))?;
    let (wal, _) = block_on(Wal::open(disk, options.wal))?;
    for cursor in cursors {
        assert!(wal.adopt(cursor), "its stamp is later than any that is known");
    }
    for _slot in io::format::CHECKPOINT_SLOTS {
        block_on(wal.checkpoint()).map_err(|error| CommandError::Wal(error.into()))?;
    }
    block_on(wal.close()).map_err(|error| CommandError::Wal(error.into()))
}
