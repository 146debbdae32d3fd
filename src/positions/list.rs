//! Positions as they stand in the logs, beside what their files are now.

use super::CommandError;
use super::form::{Form, Name, Print, device};
use crate::discover::latest;
use crate::inspect::findings::{self, Finding};
use crate::inspect::log;
use crate::place::Place;
use crate::table::{self, plain, row};
use io::format::Cursor;
use io::tail::{Identity, open_regular};
use io::wal::survey::Reach;
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

/// A cursor, and the shard whose log has it.
#[derive(Debug, Clone)]
pub struct Position {
    pub shard: usize,
    pub cursor: Cursor,
}

/// Those of all shards; of two for one file the later. What is damaged is said on standard error.
pub fn read(place: &Place) -> Result<Vec<Position>, CommandError> {
    let homes = log::homes(&place.data_dir, false).map_err(|error| place.unlike(&error))?;
    let mut all = Vec::new();
    for home in &homes {
        let (log, found) = findings::read(home, &[], Reach::Tail)?;
        found.iter().filter(|finding| finding.is_damage()).for_each(say);
        let shard = home.shard;
        all.extend(
            log.survey.cursors.to_vec().into_iter().map(|cursor| Position { shard, cursor }),
        );
    }
    let mut positions = latest(all, |position| &position.cursor);
    positions.sort_by(|a, b| a.cursor.path.cmp(&b.cursor.path));
    Ok(positions)
}

fn say(finding: &Finding) {
    eprintln!("{finding}");
}

/// Where files are now: under their names, or another in the same directory.
#[derive(Default)]
struct Files(HashMap<PathBuf, HashMap<u64, PathBuf>>);

impl Files {
    /// The path of the file, and its size.
    fn find(&mut self, cursor: &Cursor) -> Option<(PathBuf, u64)> {
        let here = size_of(&cursor.path, &cursor.identity).map(|size| (cursor.path.clone(), size));
        here.or_else(|| {
            let dir = cursor.path.parent()?;
            let names = self.0.entry(dir.to_owned()).or_insert_with(|| by_inode(dir));
            let path = names.get(&cursor.identity.ino)?;
            Some((path.clone(), size_of(path, &cursor.identity)?))
        })
    }
}

fn size_of(path: &Path, identity: &Identity) -> Option<u64> {
    let (_, found, size) = open_regular(path, true).ok()?;
    (found.incarnation() == identity.incarnation()).then_some(size)
}

fn by_inode(dir: &Path) -> HashMap<u64, PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| (entry.ino(), entry.path())).collect()
}

fn forms(place: &Place) -> Result<Vec<(Position, Form)>, CommandError> {
    let mut files = Files::default();
    let form = |position: Position| {
        let Position { shard, cursor } = &position;
        let found = files.find(cursor);
        let size = found.as_ref().map(|(_, size)| *size);
        let form = Form {
            path: Name::of(&cursor.path),
            file: found.map(|(path, _)| Name::of(&path)),
            offset: cursor.offset,
            size,
            behind_bytes: size.map(|size| size.saturating_sub(cursor.offset)),
            stamp_ns: Some(cursor.stamp_ns),
            skipping: cursor.skipping,
            dev: device(cursor),
            ino: cursor.identity.ino,
            birth_ns: cursor.identity.birth_ns,
            fingerprint: Some(Print::from(cursor.fingerprint)),
            shard: Some(*shard),
        };
        (position, form)
    };
    Ok(read(place)?.into_iter().map(form).collect())
}

pub fn export(place: &Place, out: &mut impl Write) -> Result<(), CommandError> {
    for (_, form) in forms(place)? {
        let line = serde_json::to_string(&form).expect("a position is JSON");
        writeln!(out, "{line}").map_err(CommandError::Output)?;
    }
    Ok(())
}

pub fn list(place: &Place, as_json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let forms = forms(place)?;
    let said = if as_json {
        let forms: Vec<&Form> = forms.iter().map(|(_, form)| form).collect();
        writeln!(out, "{:#}", json!({ "positions": forms }))
    } else if forms.is_empty() {
        writeln!(out, "no positions under {}", place.data_dir.display())
    } else {
        let head = row([
            "SHARD",
            "OFFSET",
            "SIZE",
            "BEHIND BYTES",
            "STAMP",
            "DEV",
            "INODE",
            "FIRST BYTES",
            "PATH",
            "NOW",
        ]);
        let rows: Vec<_> = std::iter::once(head).chain(forms.iter().map(cells)).collect();
        table::print(&rows, out)
    };
    said.map_err(CommandError::Output)
}

fn cells((position, form): &(Position, Form)) -> Vec<String> {
    let Position { shard, cursor } = position;
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let now = match &form.file {
        None => "gone".to_owned(),
        Some(name) if *name == form.path => String::new(),
        Some(name) => name.path().map_or_else(|error| error, |path| plain(&path.to_string_lossy())),
    };
    let print = cursor.fingerprint;
    vec![
        shard.to_string(),
        cursor.offset.to_string(),
        number(form.size),
        number(form.behind_bytes),
        table::time(cursor.stamp_ns),
        form.dev.clone(),
        form.ino.to_string(),
        format!("{}/{:08x}", print.len, print.crc),
        plain(&cursor.path.to_string_lossy()),
        now,
    ]
}
