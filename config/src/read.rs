//! Reads values out of the tree, and keeps everything that is wrong with them.

use crate::error::Problem;
use crate::expand::expand;
use crate::secret::{REDACTED, Secret};
use crate::tree::{Node, Value};
use crate::units;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A key that has another name now. For one version it is read by the name before, and that is said.
pub struct Renamed {
    /// Where it stands; `*` is a name of the operator's choice.
    pub section: &'static str,
    pub before: &'static str,
    pub now: &'static str,
}

/// Those of this version.
pub const RENAMED: &[Renamed] = &[];

/// What all sections share: the variables, and what was found so far.
pub struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    names: &'a [Renamed],
    problems: Vec<Problem>,
    /// Keys that were read by the name before.
    renamed: Vec<String>,
}

/// A key, its line and its value.
type Entry = (String, usize, Node);

/// A map of the tree. A key that nobody asked for is a problem.
#[derive(Default)]
pub struct Section {
    path: String,
    pub line: usize,
    entries: Vec<Entry>,
    asked: Vec<&'static str>,
}

/// A text, and where it stands.
#[derive(Debug, Clone)]
pub struct Text {
    pub line: usize,
    pub key: String,
    pub text: String,
}

impl Text {
    pub fn problem(&self, expected: &str) -> Problem {
        Problem::new(self.line, &self.key, format!("expected {expected}, found {:?}", self.text))
    }
}

impl<'a> Reader<'a> {
    pub fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Reader<'a> {
        Reader { variable, names: RENAMED, problems: Vec::new(), renamed: Vec::new() }
    }

    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// What to say of keys that were read by the name before.
    pub fn take_renamed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.renamed)
    }

    pub fn root(&mut self, node: Node) -> Section {
        self.section_of(String::new(), node)
    }

    /// An empty section where there is none, or something else.
    fn section_of(&mut self, path: String, node: Node) -> Section {
        let line = node.line;
        let entries = match node.value {
            Value::Map(entries) => entries,
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::List(_) => {
                // A text is not repeated: it may be a secret in the place of its map.
                let is_list = matches!(node.value, Value::List(_));
                let found = if is_list { "a list" } else { "a text" };
                self.problem(Problem::new(line, &path, format!("expected a map, found {found}")));
                Vec::new()
            }
        };
        let entries = self.by_present_names(&path, entries);
        Section { path, line, entries, asked: Vec::new() }
    }

    fn by_present_names(&mut self, path: &str, mut entries: Vec<Entry>) -> Vec<Entry> {
        for Renamed { before, now, .. } in self.names.iter().filter(|of| is_in(path, of.section)) {
            let Some(at) = entries.iter().position(|(name, ..)| name == before) else { continue };
            let line = entries[at].1;
            let key = if path.is_empty() { (*before).into() } else { format!("{path}.{before}") };
            if entries.iter().any(|(name, ..)| name == now) {
                let text = format!("this is {now}, which stands there, too");
                self.problem(Problem::new(line, key, text).hint("keep one of them"));
                entries.remove(at);
                continue;
            }
            (*now).clone_into(&mut entries[at].0);
            self.renamed.push(format!(
                "line {line}: {key}: this is called {now} now; the next version does not know the name before"
            ));
        }
        entries
    }

    /// Complains of the keys that nobody asked for.
    pub fn finish(&mut self, section: Section) {
        for (key, line, _) in &section.entries {
            let nearest = section.asked.iter().min_by_key(|asked| distance(key, asked));
            let near = nearest.filter(|asked| distance(key, asked) <= 2.max(key.len() / 3));
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there is {}", section.asked.join(", ")),
            };
            self.problem(Problem::new(*line, section.key(key), "this key is unknown").hint(hint));
        }
    }

    pub fn section(&mut self, of: &mut Section, key: &'static str) -> Section {
        let path = of.key(key);
        match of.take(key) {
            Some(node) => self.section_of(path, node),
            None => Section { path, line: of.line, entries: Vec::new(), asked: Vec::new() },
        }
    }

    /// Nothing where the key is not there, or has no value.
    pub fn section_if_given(&mut self, of: &mut Section, key: &'static str) -> Option<Section> {
        let path = of.key(key);
        let node = of.take(key).filter(|node| node.value != Value::Null)?;
        Some(self.section_of(path, node))
    }

    /// A map of sections with names of the operator's choice.
    pub fn sections(&mut self, of: &mut Section, key: &'static str) -> Vec<(String, Section)> {
        let mut outer = self.section(of, key);
        let path = outer.path.clone();
        std::mem::take(&mut outer.entries)
            .into_iter()
            .map(|(name, _, node)| {
                let section = self.section_of(format!("{path}.{name}"), node);
                (name, section)
            })
            .collect()
    }

    /// A list of sections.
    pub fn section_list(&mut self, of: &mut Section, key: &'static str) -> Vec<Section> {
        let path = of.key(key);
        self.list(of, key, "a list of maps")
            .into_iter()
            .enumerate()
            .map(|(at, node)| self.section_of(format!("{path}[{at}]"), node))
            .collect()
    }

    fn list(&mut self, of: &mut Section, key: &'static str, expected: &str) -> Vec<Node> {
        let path = of.key(key);
        match of.take(key) {
            None | Some(Node { value: Value::Null, .. }) => Vec::new(),
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => {
                let text = format!("expected {expected}, found {}", node.describe());
                let problem = Problem::new(node.line, path, text);
                self.problem(problem.hint("put it in [ ]"));
                Vec::new()
            }
        }
    }

    pub fn texts(&mut self, of: &mut Section, key: &'static str) -> Vec<Text> {
        let path = of.key(key);
        let items = self.list(of, key, "a list of texts");
        let item = |(at, node)| self.text_of(format!("{path}[{at}]"), node, "a text");
        items.into_iter().enumerate().filter_map(item).collect()
    }

    pub fn text_map(&mut self, of: &mut Section, key: &'static str) -> BTreeMap<String, Text> {
        let mut section = self.section(of, key);
        let path = section.path.clone();
        let mut texts = BTreeMap::new();
        for (name, _, node) in std::mem::take(&mut section.entries) {
            if let Some(text) = self.text_of(format!("{path}.{name}"), node, "a text") {
                texts.insert(name, text);
            }
        }
        texts
    }

    pub fn text(&mut self, of: &mut Section, key: &'static str, expected: &str) -> Option<Text> {
        let path = of.key(key);
        let node = of.take(key)?;
        if node.value == Value::Null {
            return None;
        }
        self.text_of(path, node, expected)
    }

    pub fn required(
        &mut self,
        of: &mut Section,
        key: &'static str,
        expected: &str,
    ) -> Option<Text> {
        let problems = self.problems.len();
        let text = self.text(of, key, expected);
        if text.is_none() && self.problems.len() == problems {
            let text = format!("expected {expected}, found nothing");
            self.problem(Problem::new(of.line, of.key(key), text).hint("this key is required"));
        }
        text
    }

    fn text_of(&mut self, key: String, node: Node, expected: &str) -> Option<Text> {
        let line = node.line;
        let Value::Scalar(raw) = node.value else {
            let text = format!("expected {expected}, found {}", node.describe());
            self.problem(Problem::new(line, key, text));
            return None;
        };
        match expand(&raw, self.variable) {
            Ok(text) => Some(Text { line, key, text }),
            Err((text, hint)) => {
                self.problem(Problem::new(line, key, text).hint(hint));
                None
            }
        }
    }

    /// A text that may hold a secret, with its variables put in and as it was written; no error
    /// repeats it.
    pub fn hidden(
        &mut self,
        of: &mut Section,
        key: &'static str,
        expected: &str,
    ) -> Option<(String, String)> {
        let path = of.key(key);
        let node = of.take(key).filter(|node| node.value != Value::Null)?;
        self.hidden_of(path, node, expected)
    }

    fn hidden_of(&mut self, key: String, node: Node, expected: &str) -> Option<(String, String)> {
        let raw = match &node.value {
            Value::Scalar(raw) => raw.clone(),
            _ => String::new(),
        };
        let problem = if raw.contains(REDACTED) {
            Problem::new(node.line, &key, format!("expected {expected}, found {REDACTED}"))
                .hint("that is what is printed in place of a secret: write the secret itself")
        } else if expand(&raw, &|_| Some(String::new())).is_err() {
            let text = "expected variables such as ${PASSWORD} in it, found another $";
            Problem::new(node.line, &key, text)
                .hint("write $$ for a dollar sign; the value may be a secret and is not shown")
        } else {
            return self.text_of(key, node, expected).map(|text| (text.text, raw));
        };
        self.problem(problem);
        None
    }

    pub fn secret(
        &mut self,
        of: &mut Section,
        key: &'static str,
        expected: &str,
    ) -> Option<Secret> {
        self.hidden(of, key, expected).map(|(text, raw)| Secret::written(text, &raw))
    }

    /// Names of the operator's choice, with the lines where they stand.
    pub fn secret_map(
        &mut self,
        of: &mut Section,
        key: &'static str,
    ) -> Vec<(String, usize, Secret)> {
        let mut section = self.section(of, key);
        let path = section.path.clone();
        let mut secrets = Vec::new();
        for (name, line, node) in std::mem::take(&mut section.entries) {
            if let Some((text, raw)) = self.hidden_of(format!("{path}.{name}"), node, "a text") {
                secrets.push((name, line, Secret::written(text, &raw)));
            }
        }
        secrets
    }

    /// `read` gives the value, or a hint.
    pub fn value<T>(
        &mut self,
        of: &mut Section,
        key: &'static str,
        expected: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(of, key, expected)?;
        match read(&text.text) {
            Ok(value) => Some(value),
            Err(hint) => {
                let problem = text.problem(expected);
                self.problem(if hint.is_empty() { problem } else { problem.hint(hint) });
                None
            }
        }
    }

    pub fn bytes(
        &mut self,
        of: &mut Section,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let (min, max) = (units::bytes_text(*range.start()), units::bytes_text(*range.end()));
        let expected = format!("a size from {min} to {max}");
        let read = |text: &str| units::parse_bytes(text).and_then(|size| within(size, &range));
        self.value(of, key, &expected, read).unwrap_or(default)
    }

    pub fn duration(
        &mut self,
        of: &mut Section,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let min = units::duration_text(*range.start());
        let max = units::duration_text(*range.end());
        let expected = format!("a duration from {min} to {max}");
        let read = |text: &str| units::parse_duration(text).and_then(|time| within(time, &range));
        self.value(of, key, &expected, read).unwrap_or(default)
    }

    pub fn integer(
        &mut self,
        of: &mut Section,
        key: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |text: &str| {
            text.parse().map_err(|_| String::new()).and_then(|number| within(number, &range))
        };
        self.value(of, key, &expected, read).unwrap_or(default)
    }

    pub fn number(
        &mut self,
        of: &mut Section,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let Some(text) = self.text(of, key, &expected) else { return default };
        let number = text.text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(text.problem(&expected));
        }
        number.unwrap_or(default)
    }

    pub fn boolean(&mut self, of: &mut Section, key: &'static str, default: bool) -> bool {
        self.choice(of, key, default, &[("true", true), ("false", false)])
    }

    pub fn choice<T: Copy>(
        &mut self,
        of: &mut Section,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let read = |text: &str| {
            let chosen = choices.iter().find(|(name, _)| *name == text);
            chosen.map(|(_, value)| *value).ok_or_else(String::new)
        };
        self.value(of, key, &names.join(" or "), read).unwrap_or(default)
    }

    /// Any node, for keys that take values of several shapes.
    pub fn any(&mut self, of: &mut Section, key: &'static str) -> Option<Node> {
        of.take(key).filter(|node| node.value != Value::Null)
    }

    /// A whole number within a node of [`Reader::any`].
    pub fn integer_of(&mut self, key: &str, node: &Node, expected: &str) -> Option<usize> {
        let text = self.text_of(key.into(), node.clone(), expected)?;
        let number = text.text.parse().ok();
        if number.is_none() {
            self.problem(text.problem(expected));
        }
        number
    }
}

impl Section {
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, ..)| name == key)
    }

    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    pub fn line_of(&self, key: &str) -> Option<usize> {
        self.entries.iter().find(|(name, ..)| name == key).map(|(_, line, _)| *line)
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.asked.push(key);
        let at = self.entries.iter().position(|(name, ..)| name == key)?;
        Some(self.entries.remove(at).2)
    }
}

/// Whether a path is that of a section; places in lists are none of its names.
fn is_in(path: &str, section: &str) -> bool {
    let names = |path: &str| -> Vec<String> {
        let name = |part: &str| part.split('[').next().unwrap_or_default().to_owned();
        path.split('.').map(name).collect()
    };
    let (path, section) = (names(path), names(section));
    path.len() == section.len()
        && path.iter().zip(&section).all(|(name, of)| of == "*" || name == of)
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(String::new()) }
}

/// How many letters have to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[Renamed] = &[
        Renamed { section: "", before: "dir", now: "data_dir" },
        Renamed { section: "sinks.*", before: "wait", now: "linger" },
        Renamed { section: "sources.files", before: "path", now: "include" },
    ];

    /// What there is of it, what was said of names, and what is wrong.
    fn read(text: &str) -> (Vec<String>, Vec<String>, Vec<Problem>) {
        let mut r = Reader { names: NAMES, ..Reader::new(&|_| None) };
        let mut root = r.root(Node::parse(text).unwrap());
        let mut found = vec![r.text(&mut root, "data_dir", "a path")];
        for (_, mut sink) in r.sections(&mut root, "sinks") {
            found.push(r.text(&mut sink, "linger", "a time"));
            r.finish(sink);
        }
        let mut sources = r.section(&mut root, "sources");
        for mut files in r.section_list(&mut sources, "files") {
            found.push(r.text(&mut files, "include", "a glob"));
            r.finish(files);
        }
        r.finish(sources);
        r.finish(root);
        let found = found.into_iter().flatten().map(|text| text.text).collect();
        (found, r.take_renamed(), r.into_problems())
    }

    #[test]
    fn a_key_is_read_by_its_name_before_and_that_is_said() {
        let text = "dir: /d\nsinks:\n  loki:\n    wait: 5ms\nsources: { files: [{ path: /l }] }";
        let (found, said, problems) = read(text);
        assert_eq!((found, problems), (vec!["/d".into(), "5ms".into(), "/l".into()], vec![]));
        assert_eq!(
            said[1],
            "line 4: sinks.loki.wait: this is called linger now; the next version does not know the name before"
        );
        assert_eq!(said.len(), 3);
        assert!(said[2].contains("sources.files[0].path: this is called include now"), "{said:?}");
        let (found, said, problems) = read("dir: /d\ndata_dir: /e");
        assert_eq!((found, said.len()), (vec!["/e".to_owned()], 0));
        assert_eq!((problems[0].line, &*problems[0].key), (1, "dir"));
        // Elsewhere it is a key like any other.
        assert_eq!(read("wait: 5ms").2[0].text, "this key is unknown");
    }

    #[test]
    fn the_distance_of_words() {
        assert_eq!(distance("linger", "linger"), 0);
        assert_eq!(distance("lingr", "linger"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
