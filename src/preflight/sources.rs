//! Sources: what each pattern finds, whether it may be read, and whether its directories can be watched.

use super::finding::{Finding, Level};
use config::{Config, FileSource};
use io::tail::{Globs, Group, OpenError, open_regular};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "sources";
/// Names that are looked at for one pattern: then it is said that there are more.
const NAMES_MAX: usize = 200_000;
/// Where symbolic links lead round in a circle, it ends here; as in discovery.
const DEPTH_MAX: usize = 64;
/// Files that are named.
const NAMED_MAX: usize = 3;

/// What was found of one pattern.
#[derive(Debug, Default)]
struct Walked {
    files: u64,
    excluded: u64,
    /// Why files, or directories on the way, cannot be read.
    unreadable: Vec<String>,
    /// Matched, but neither a file nor a directory, or a symbolic link that is not followed.
    others: u64,
    /// Names that were looked at.
    names: usize,
    /// There is more than was looked at.
    cut: bool,
}

#[must_use]
pub fn look(config: &Config) -> Vec<Finding> {
    if config.sources.files.is_empty() {
        return vec![Finding::ok(NAME, "no files: lines come by HTTP alone")];
    }
    let mut dirs = BTreeSet::new();
    let mut found = Vec::new();
    for files in &config.sources.files {
        for include in &files.include {
            let finding = match walk(files, include, &mut dirs) {
                Ok(walked) => judge(include, &walked),
                Err(message) => {
                    Finding::no_go(NAME, message, "correct the pattern").of(include.as_str())
                }
            };
            found.push(finding);
        }
    }
    found.push(watches(dirs.len(), limit("max_user_watches")));
    found.push(instances(
        rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).map(drop),
    ));
    found
}

/// As discovery does, but within bounds. `dirs`: those that would be watched.
fn walk(files: &FileSource, include: &str, dirs: &mut BTreeSet<PathBuf>) -> Result<Walked, String> {
    let group = |exclude: &[String]| Group {
        include: vec![include.to_owned()],
        exclude: exclude.to_vec(),
        follow_symlinks: files.follow_symlinks,
    };
    let globs = |exclude| Globs::new(&[group(exclude)]).map_err(|error| error.to_string());
    let (wanted, matching) = (globs(&files.exclude)?, globs(&[])?);
    let mut walked = Walked::default();
    let mut waiting: Vec<PathBuf> = matching
        .roots()
        .iter()
        .filter_map(|root| root.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned))
        .collect();
    while let Some(dir) = waiting.pop() {
        if dir.components().count() > DEPTH_MAX {
            continue;
        }
        match fs::read_dir(&dir) {
            Ok(entries) => {
                dirs.insert(dir);
                for entry in entries.flatten() {
                    walked.names += 1;
                    if walked.names > NAMES_MAX {
                        walked.cut = true;
                        return Ok(walked);
                    }
                    waiting.extend(walked.take(
                        &entry.path(),
                        files.follow_symlinks,
                        &wanted,
                        &matching,
                    ));
                }
            }
            Err(error) => walked.unreadable.push(format!("{}: {error}", dir.display())),
        }
    }
    Ok(walked)
}

impl Walked {
    /// Counts a name; gives it back where it is a directory to look into.
    fn take(
        &mut self,
        path: &Path,
        follow: bool,
        wanted: &Globs,
        matching: &Globs,
    ) -> Option<PathBuf> {
        let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let kind = meta.ok()?.file_type();
        if kind.is_dir() {
            return matching.may_contain(path).then(|| path.to_owned());
        }
        matching.group_of(path)?;
        match wanted.group_of(path) {
            None => self.excluded += 1,
            Some(_) if !kind.is_file() => self.others += 1,
            Some(_) => match open_regular(path, follow) {
                // It was removed meanwhile.
                Err(OpenError::NotFound { .. }) => {}
                Err(error) => {
                    self.files += 1;
                    self.unreadable.push(error.to_string());
                }
                Ok(_) => self.files += 1,
            },
        }
        None
    }
}

fn judge(include: &str, walked: &Walked) -> Finding {
    let Walked { files, excluded, unreadable, others, cut, .. } = walked;
    let figures = json!({
        "files": files, "excluded": excluded, "unreadable": unreadable.len(), "others": others,
        "all_looked_at": !cut,
    });
    let more = if *cut { "at least " } else { "" };
    let counts = format!("{more}{files} files, {excluded} excluded");
    let finding = if !unreadable.is_empty() {
        let named = unreadable.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let found = format!("{counts}; {} cannot be read: {named}", unreadable.len());
        let fix = "give log-capturer's user the right (its group adm, setfacl -m u:USER:rX), or exclude them";
        Finding::warning(NAME, found, fix)
    } else if *files == 0 && *cut {
        let found = format!(
            "matches nothing among the first {NAMES_MAX} names, and there are more: {excluded} excluded"
        );
        let fix = "narrow the pattern: a start walks through all of it as well, and looks again and again";
        Finding::warning(NAME, found, fix)
    } else if *files == 0 {
        let others = match others {
            0 => String::new(),
            others => format!(", {others} that are no files (symbolic links need follow_symlinks)"),
        };
        let fix = "correct include and exclude, unless the files are to come later";
        Finding::warning(NAME, format!("matches nothing: {counts}{others}"), fix)
    } else {
        Finding::ok(NAME, counts)
    };
    finding.of(include).figures(figures)
}

/// None where the kernel does not say.
fn limit(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
}

fn watches(dirs: usize, max: Option<u64>) -> Finding {
    let level = if max.is_some_and(|max| dirs as u64 > max) { Level::Warning } else { Level::Ok };
    let has = max.map_or_else(|| "an unknown number".into(), |max| max.to_string());
    let found = format!(
        "{dirs} directories to watch, {has} may be (fs.inotify.max_user_watches); more are polled"
    );
    let fix = format!(
        "sysctl -w fs.inotify.max_user_watches={}, and in /etc/sysctl.d",
        dirs.max(8192) * 2
    );
    let figures = json!({ "directories": dirs, "max_user_watches": max });
    Finding::at(level, "inotify_watches", found, fix).figures(figures)
}

/// One is made, as a start does it.
fn instances(made: rustix::io::Result<()>) -> Finding {
    let max = limit("max_user_instances");
    let has = max.map_or_else(|| "an unknown number".into(), |max| max.to_string());
    match made {
        Ok(()) => Finding::ok(
            "inotify_instances",
            format!("one more can be made, of {has} for this user"),
        ),
        Err(error) => Finding::no_go(
            "inotify_instances",
            format!("none can be made, of {has} for this user: {error}"),
            "sysctl -w fs.inotify.max_user_instances=1024, and in /etc/sysctl.d",
        ),
    }
    .figures(json!({ "max_user_instances": max }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(include: &str, exclude: &[&str]) -> FileSource {
        let exclude = exclude.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(",");
        let text = format!(
            "version: 1\ndata_dir: /d\nsinks: {{ loki: {{ url: \"http://h\" }} }}\n\
             sources: {{ files: [{{ include: [{include:?}], exclude: [{exclude}] }}] }}\n"
        );
        config::parse(&text, "f", &|_| None).unwrap().sources.files.remove(0)
    }

    #[test]
    fn a_pattern_finds_its_files_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/deep")).unwrap();
        for name in ["a/x.log", "a/x.log.gz", "a/deep/y.log", "z.log"] {
            fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(at("z.log"), at("a/link.log")).unwrap();
        let counted = |include: &str, exclude: &[&str]| {
            let include = at(include).display().to_string();
            let mut dirs = BTreeSet::new();
            let walked = walk(&source(&include, exclude), &include, &mut dirs).unwrap();
            (walked.files, walked.excluded, walked.others, dirs.len())
        };
        assert_eq!(counted("a/*.log", &[]), (1, 0, 1, 1));
        assert_eq!(counted("a/**", &["*.gz"]), (2, 1, 1, 2));
        assert_eq!(counted("a/x.log", &[]), (1, 0, 0, 1));
        assert_eq!(counted("none/*.log", &[]), (0, 0, 0, 1), "the nearest directory is watched");
    }

    #[test]
    fn nothing_and_unreadable_are_warnings() {
        let judged = |walked: Walked| judge("/l/*.log", &walked).level;
        assert_eq!(judged(Walked { files: 2, ..Walked::default() }), Level::Ok);
        assert_eq!(judged(Walked::default()), Level::Warning);
        assert_eq!(judged(Walked { cut: true, ..Walked::default() }), Level::Warning);
        assert_eq!(judged(Walked { cut: true, files: 1, ..Walked::default() }), Level::Ok);
        let unreadable = vec!["/l/a: Permission denied".to_owned()];
        assert_eq!(judged(Walked { files: 2, unreadable, ..Walked::default() }), Level::Warning);
        assert_eq!(watches(9, Some(8)).level, Level::Warning);
        assert_eq!(watches(8, Some(8)).level, Level::Ok);
        assert_eq!(instances(Err(rustix::io::Errno::MFILE)).level, Level::NoGo);
    }
}
