//! Which paths the groups ask for.

use super::{DiscoverError, Group};
use globset::{GlobBuilder, GlobMatcher};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// The patterns of all groups.
#[derive(Debug)]
pub struct Globs(Vec<GroupGlobs>);

#[derive(Debug)]
struct GroupGlobs {
    include: Vec<PathGlob>,
    exclude: Vec<Exclude>,
    follow_symlinks: bool,
}

#[derive(Debug)]
enum Exclude {
    Name(GlobMatcher),
    Path(PathGlob),
}

/// A pattern, part by part; a path matches part by part.
#[derive(Debug)]
struct PathGlob(Vec<Part>);

#[derive(Debug)]
enum Part {
    /// `**`: any number of directories, also none.
    AnyDepth,
    Literal(OsString),
    Glob(GlobMatcher),
}

impl Globs {
    pub fn new(groups: &[Group]) -> Result<Globs, DiscoverError> {
        groups.iter().map(GroupGlobs::new).collect::<Result<_, _>>().map(Globs)
    }

    /// The directories that the walk begins with: the part of each pattern that is no pattern.
    pub fn roots(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> =
            self.0.iter().flat_map(|group| &group.include).map(PathGlob::root).collect();
        roots.sort();
        roots.dedup();
        roots
    }

    /// The first group that wants a file at `path`.
    #[must_use]
    pub fn group_of(&self, path: &Path) -> Option<usize> {
        let parts = parts(path);
        self.0.iter().position(|group| group.wants(path, &parts))
    }

    /// Whether files of interest may be in the directory, or below it.
    pub fn may_contain(&self, dir: &Path) -> bool {
        let parts = parts(dir);
        self.0.iter().flat_map(|group| &group.include).any(|glob| goes_below(&glob.0, &parts))
    }

    pub fn follow_symlinks(&self, group: usize) -> bool {
        self.0[group].follow_symlinks
    }

    pub fn any_follows_symlinks(&self) -> bool {
        self.0.iter().any(|group| group.follow_symlinks)
    }
}

impl GroupGlobs {
    fn new(group: &Group) -> Result<GroupGlobs, DiscoverError> {
        let include = group.include.iter().map(|text| PathGlob::new(text));
        let exclude = group.exclude.iter().map(|text| {
            if text.contains('/') {
                PathGlob::new(text).map(Exclude::Path)
            } else {
                compile(text, text).map(Exclude::Name)
            }
        });
        Ok(GroupGlobs {
            include: include.collect::<Result<_, _>>()?,
            exclude: exclude.collect::<Result<_, _>>()?,
            follow_symlinks: group.follow_symlinks,
        })
    }

    fn wants(&self, path: &Path, parts: &[&OsStr]) -> bool {
        self.include.iter().any(|glob| matches(&glob.0, parts))
            && !self.exclude.iter().any(|exclude| match exclude {
                Exclude::Name(name) => path.file_name().is_some_and(|found| name.is_match(found)),
                Exclude::Path(glob) => matches(&glob.0, parts),
            })
    }
}

impl PathGlob {
    fn new(text: &str) -> Result<PathGlob, DiscoverError> {
        if !text.starts_with('/') {
            return Err(DiscoverError::Pattern {
                pattern: text.into(),
                reason: "expected an absolute path".into(),
            });
        }
        let parts = text.split('/').filter(|part| !part.is_empty() && *part != ".");
        let parts = parts.map(|part| match part {
            "**" => Ok(Part::AnyDepth),
            part if part.contains(['*', '?', '[', '{', '\\']) => {
                compile(part, text).map(Part::Glob)
            }
            part => Ok(Part::Literal(part.into())),
        });
        Ok(PathGlob(parts.collect::<Result<_, _>>()?))
    }

    fn root(&self) -> PathBuf {
        let mut root = PathBuf::from("/");
        for part in &self.0[..self.0.len().saturating_sub(1)] {
            let Part::Literal(name) = part else { break };
            root.push(name);
        }
        root
    }
}

fn compile(part: &str, pattern: &str) -> Result<GlobMatcher, DiscoverError> {
    let glob = GlobBuilder::new(part).literal_separator(true).backslash_escape(true).build();
    let glob = glob.map_err(|error| DiscoverError::Pattern {
        pattern: pattern.into(),
        reason: error.kind().to_string(),
    })?;
    Ok(glob.compile_matcher())
}

fn parts(path: &Path) -> Vec<&OsStr> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

fn matches(glob: &[Part], path: &[&OsStr]) -> bool {
    match (glob, path) {
        ([], []) => true,
        // At its end, `**` stands for all files below.
        ([Part::AnyDepth], path) => !path.is_empty(),
        ([Part::AnyDepth, rest @ ..], path) => {
            (0..path.len()).any(|skipped| matches(rest, &path[skipped..]))
        }
        ([part, glob @ ..], [name, path @ ..]) => part.is(name) && matches(glob, path),
        _ => false,
    }
}

/// Whether something below `dir` could match.
fn goes_below(glob: &[Part], dir: &[&OsStr]) -> bool {
    match (glob, dir) {
        ([], _) => false,
        ([Part::AnyDepth, ..], _) | (_, []) => true,
        ([part, glob @ ..], [name, dir @ ..]) => part.is(name) && goes_below(glob, dir),
    }
}

impl Part {
    fn is(&self, name: &OsStr) -> bool {
        match self {
            Part::AnyDepth => unreachable!("handled where parts are taken off"),
            Part::Literal(literal) => literal == name,
            Part::Glob(glob) => glob.is_match(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(include: &[&str], exclude: &[&str]) -> Globs {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let group =
            Group { include: texts(include), exclude: texts(exclude), follow_symlinks: false };
        Globs::new(&[group]).unwrap()
    }

    #[test]
    fn patterns_match_paths_as_operators_expect() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            ("/var/log/*.log", &["/var/log/a.log"], &["/var/log/a/b.log", "/var/log/a.txt"]),
            ("/l/**/*.log", &["/l/a.log", "/l/x/y/a.log"], &["/l", "/k/a.log"]),
            ("/l/**", &["/l/a", "/l/x/y"], &["/l", "/k/a"]),
            ("/l/*/app?.log", &["/l/x/app1.log"], &["/l/app1.log", "/l/x/app.log"]),
            ("/l/{a,b}.[lt]og", &["/l/a.log", "/l/b.tog"], &["/l/c.log"]),
            ("/l/a.log", &["/l/a.log"], &["/l/a_log"]),
            ("/a/**/b/**/c", &["/a/b/c", "/a/x/b/y/z/c"], &["/a/x/c"]),
        ];
        for (pattern, yes, no) in cases {
            let globs = globs(&[pattern], &[]);
            for path in yes {
                assert_eq!(globs.group_of(Path::new(path)), Some(0), "{pattern} {path}");
            }
            for path in no {
                assert_eq!(globs.group_of(Path::new(path)), None, "{pattern} {path}");
            }
        }
    }

    #[test]
    fn a_file_belongs_to_the_first_group_that_includes_and_does_not_exclude_it() {
        let mut both = globs(&["/l/*"], &["*.gz", "/l/tmp*"]);
        both.0.extend(globs(&["/l/**"], &[]).0);
        let group = |path: &str| both.group_of(Path::new(path));
        assert_eq!(group("/l/a.log"), Some(0));
        assert_eq!(group("/l/a.gz"), Some(1));
        assert_eq!(group("/l/tmp1"), Some(1));
        assert_eq!(group("/l/x/a.log"), Some(1));
        assert_eq!(group("/a.log"), None);
    }

    #[test]
    fn only_directories_that_lead_somewhere_are_walked() {
        let globs = globs(&["/l/*/app/*.log", "/m/**/x"], &[]);
        assert_eq!(globs.roots(), [Path::new("/l"), Path::new("/m")]);
        for (dir, expected) in [
            ("/l", true),
            ("/l/a", true),
            ("/l/a/app", true),
            ("/l/a/other", false),
            ("/l/a/app/deep", false),
            ("/m/any/depth", true),
            ("/n", false),
        ] {
            assert_eq!(globs.may_contain(Path::new(dir)), expected, "{dir}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_work_is_refused() {
        let new = |include: &str| {
            let include = vec![include.to_owned()];
            let group = Group { include, exclude: vec![], follow_symlinks: false };
            Globs::new(&[group]).unwrap_err().to_string()
        };
        assert!(new("*.log").contains("expected an absolute path"));
        assert!(new("/l/[a").contains("/l/[a"));
    }
}
