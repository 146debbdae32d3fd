//! What stands in `data_dir`: whether this program reads it, what is damaged, and which program before
//! this one can be started again.

use super::finding::{Finding, Level};
use crate::inspect::findings::{self, Finding as Damage};
use crate::inspect::log::{self, Home};
use crate::state::compat::{Compat, Other};
use crate::state::{State, StateError};
use config::Config;
use io::format::{FORMAT_VERSION, FormatVersion};
use io::wal::survey::Reach;
use serde_json::json;
use std::path::Path;

const PREVIOUS: &str = "rollback_program";

#[must_use]
pub fn look(config: &Config, previous: &Path) -> Vec<Finding> {
    if !config.data_dir.is_dir() {
        let found = format!("nothing is there yet; format {FORMAT_VERSION} will be written");
        return vec![Finding::ok("formats", found)];
    }
    let state = State::read(&config.data_dir).and_then(|state| state.check().map(|()| state));
    let mut found = match state {
        Ok(state) => {
            let mut found =
                vec![readable(&state), rollback(state.writes().number(), state.reader_min())];
            found.extend(kept(&state, previous));
            found
        }
        Err(error) => vec![refused(&error)],
    };
    let sinks: Vec<String> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
    match log::homes(&config.data_dir, true) {
        Ok(homes) => found.extend(homes.iter().flat_map(|home| damage(home, &sinks))),
        Err(error) => found.push(Finding::no_go(
            "logs",
            format!("{}: {error}", config.data_dir.display()),
            "run this as the user of log-capturer",
        )),
    }
    found
}

fn refused(error: &StateError) -> Finding {
    let text = error.to_string();
    match text.split_once("; ") {
        Some((found, fix)) => Finding::no_go("formats", found, fix),
        None => Finding::no_go(
            "formats",
            text,
            "start the program that wrote it, or give this one a data_dir of its own",
        ),
    }
}

fn readable(state: &State) -> Finding {
    let unread: Vec<String> = state.unreadable.iter().map(ToString::to_string).collect();
    let writes = state.writes();
    let found = format!(
        "{} files are read; format {writes} is written, this program knows up to {FORMAT_VERSION}",
        state.files.len()
    );
    let figures = json!({
        "files": state.files.len(), "writes": writes.number(), "newest": FORMAT_VERSION,
        "reader_min": state.reader_min(),
    });
    if unread.is_empty() {
        return Finding::ok("formats", found).figures(figures);
    }
    let found = format!("logs that cannot be looked at: {}", unread.join(", "));
    Finding::no_go("formats", found, "run this as the user of log-capturer").figures(figures)
}

/// `reader_min`: the oldest format whose program reads all that is there.
fn rollback(writes: u16, reader_min: u16) -> Finding {
    let newest = FormatVersion::NEWEST.number();
    let figures = json!({ "writes": writes, "reader_min": reader_min });
    let finding = if reader_min > writes {
        let found = format!(
            "not to a program of format {writes}: files are there that format {reader_min} at least reads"
        );
        let fix = "keep the present program at hand to go back to, not an older one";
        Finding::warning("rollback", found, fix)
    } else if writes < newest {
        let found = format!(
            "stays possible to a program of format {writes}, until log-capturer state finalize is run"
        );
        Finding::ok("rollback", found)
    } else {
        Finding::ok("rollback", format!("to programs that read format {writes}, as it is now"))
    };
    finding.figures(figures)
}

/// Of the program that was before, where it is kept.
fn kept(state: &State, program: &Path) -> Option<Finding> {
    if !program.is_file() {
        return None;
    }
    let finding = match Other::of_program(program) {
        Ok(other) => judge_kept(&Compat::of(state, other)),
        Err(error) => Finding::warning(
            PREVIOUS,
            format!("the kept program cannot be asked: {error}"),
            "run it by hand; for a way back, keep one that runs there",
        ),
    };
    Some(finding.of(program.display().to_string()))
}

fn judge_kept(compat: &Compat) -> Finding {
    let figures = compat.document();
    let newest = compat.other.newest;
    let finding = if compat.is_reversible() {
        let until = match compat.ahead.first() {
            Some(_) => ", until log-capturer state finalize is run",
            None => "",
        };
        Finding::ok(PREVIOUS, format!("it reads format {newest}, and all that is there{until}"))
    } else {
        Finding::warning(
            PREVIOUS,
            format!("it would refuse what is there: {}", compat.passed.join("; ")),
            "go back to it only with a data_dir of its own, or keep a program that reads this",
        )
    };
    finding.figures(figures)
}

/// What a start would report of a log.
fn damage(home: &Home, sinks: &[String]) -> Vec<Finding> {
    let (log, mut damage) = match findings::read(home, sinks, Reach::Everything) {
        Ok(read) => read,
        Err(error) => {
            let fix = if error.is_format() {
                "start the newer program again, or give this one a data_dir of its own"
            } else {
                "look after the disk (dmesg, smartctl); if only permissions are wrong, run this as the user \
                 of log-capturer"
            };
            return vec![Finding::no_go("logs", error.to_string(), fix).of(home.to_string())];
        }
    };
    damage.retain(Damage::is_damage);
    if damage.is_empty() {
        let found = format!("{} segments, no damage", log.survey.segments.len());
        let figures = json!({ "segments": log.survey.segments.len() });
        return vec![Finding::ok("logs", found).of(home.to_string()).figures(figures)];
    }
    let acked = log.standing.acked;
    let judged = |of: &Damage| {
        let is_lost = of.frames.is_some_and(|frames| frames.last > acked);
        let level = if is_lost { Level::NoGo } else { Level::Warning };
        let found = format!("{}: byte {}: {}", of.file.display(), of.offset, of.what);
        let figures = json!({
            "offset": of.offset, "first_seq": of.frames.map(|frames| frames.first.0),
            "last_seq": of.frames.map(|frames| frames.last.0),
        });
        Finding::at(level, "logs", found, of.fix).of(home.to_string()).figures(figures)
    };
    damage.iter().map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_is_possible_where_an_older_program_reads_everything() {
        let newest = FormatVersion::NEWEST.number();
        let old = rollback(1, 1);
        assert_eq!(old.level, Level::Ok);
        assert!(old.found.contains("stays possible to a program of format 1"), "{old:?}");
        assert_eq!(rollback(1, 2).level, Level::Warning);
        assert_eq!(rollback(newest, 1).level, Level::Ok);
    }

    #[test]
    fn a_kept_program_that_would_refuse_it_is_a_warning() {
        let other = Other { name: "p".into(), newest: 1 };
        let judged = |passed: &[&str], ahead: &[&str]| {
            let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
            judge_kept(&Compat { other: other.clone(), passed: texts(passed), ahead: texts(ahead) })
        };
        assert_eq!(judged(&[], &[]).level, Level::Ok);
        assert!(judged(&[], &["finalize"]).found.contains("until log-capturer state finalize"));
        let passed = judged(&["format 2 is written"], &[]);
        assert_eq!(passed.level, Level::Warning);
        assert!(passed.found.contains("format 2 is written"), "{passed:?}");
    }
}
