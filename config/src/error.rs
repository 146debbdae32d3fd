//! What is wrong with a configuration, in one line each: where, what was expected, what was found,
//! and what to do.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 where it belongs to no line.
    pub line: usize,
    /// Such as `sinks.loki.linger`; empty for the file as a whole.
    pub key: String,
    pub text: String,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(line: usize, key: impl Into<String>, text: impl Into<String>) -> Problem {
        Problem { line, key: key.into(), text: text.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

/// Everything that is wrong, in the order of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    file: String,
    problems: Vec<Problem>,
}

impl Errors {
    pub(crate) fn new(file: &str, mut problems: Vec<Problem>) -> Errors {
        assert!(!problems.is_empty(), "errors without a problem");
        problems.sort_by_key(|problem| problem.line);
        Errors { file: file.into(), problems }
    }

    pub(crate) fn of_file(file: &str, error: &std::io::Error) -> Errors {
        let text = format!("the file cannot be read: {error}");
        let problem = Problem::new(0, "", text).hint("check the path and its permissions");
        Errors::new(file, vec![problem])
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Problem { line, key, text, hint } in &self.problems {
            write!(f, "{}:", self.file)?;
            if *line > 0 {
                write!(f, "{line}:")?;
            }
            if !key.is_empty() {
                write!(f, " {key}:")?;
            }
            write!(f, " {text}")?;
            if let Some(hint) = hint {
                write!(f, "; {hint}")?;
            }
            writeln!(f)?;
        }
        let count = self.problems.len();
        write!(f, "{count} error{} in {}", if count == 1 { "" } else { "s" }, self.file)
    }
}

impl std::error::Error for Errors {}
