//! What a check found, how grave it is, and what to do; and all of it as a table or as JSON.

use crate::table::{self, plain};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;

/// In the order of their weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    #[serde(rename = "ok")]
    Ok,
    /// It would run, and something is not as it is best.
    #[serde(rename = "warning")]
    Warning,
    /// It would not start, or nothing would arrive.
    #[serde(rename = "no-go")]
    NoGo,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::NoGo => "no-go",
        }
    }

    /// Of all findings, as a word and as an exit code.
    #[must_use]
    pub fn verdict(self) -> (&'static str, u8) {
        match self {
            Level::Ok => ("go", 0),
            Level::Warning => ("warnings", 1),
            Level::NoGo => ("no-go", 2),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    /// Of several things that are checked alike, which one: a key, a pattern, a file.
    pub of: Option<String>,
    pub level: Level,
    pub found: String,
    /// What was measured, by names with units.
    pub figures: Value,
    /// What to do, where it is not well.
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(name: &'static str, found: impl Into<String>) -> Finding {
        Finding::new(name, Level::Ok, found.into(), None)
    }

    pub fn warning(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding::new(name, Level::Warning, found.into(), Some(fix.into()))
    }

    pub fn no_go(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding::new(name, Level::NoGo, found.into(), Some(fix.into()))
    }

    /// The fix is said where it is not well.
    pub fn at(
        level: Level,
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        let fix = (level > Level::Ok).then(|| fix.into());
        Finding::new(name, level, found.into(), fix)
    }

    /// Of a message that says what to do behind its first semicolon, as those of a start do.
    pub fn of_message(level: Level, name: &'static str, message: &str) -> Finding {
        let (found, fix) = message
            .split_once("; ")
            .unwrap_or((message, "mend what it names, then run this again"));
        Finding::at(level, name, found, fix)
    }

    fn new(name: &'static str, level: Level, found: String, fix: Option<String>) -> Finding {
        Finding { name, of: None, level, found, figures: json!({}), fix }
    }

    #[must_use]
    pub fn of(self, of: impl Into<String>) -> Finding {
        Finding { of: Some(of.into()), ..self }
    }

    #[must_use]
    pub fn figures(self, figures: Value) -> Finding {
        Finding { figures, ..self }
    }
}

/// The gravest of all.
#[must_use]
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

#[must_use]
pub fn document(findings: &[Finding]) -> Value {
    json!({ "verdict": worst(findings).verdict().0, "findings": findings })
}

/// What is not well stands in full; the rest in a line each.
pub fn print(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    let mut rows = vec![table::row(["LEVEL", "CHECK", "FOUND"])];
    for Finding { name, of, level, found, fix, .. } in findings {
        let found = match of {
            Some(of) => format!("{of}: {found}"),
            None => found.clone(),
        };
        rows.push(vec![level.name().into(), (*name).into(), plain(&found)]);
        let fix = fix.as_ref().map(|fix| plain(fix));
        rows.extend(fix.map(|fix| vec![String::new(), String::new(), format!("to do: {fix}")]));
    }
    table::print(&rows, out)?;
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let verdict = worst(findings).verdict().0;
    let [no_go, warnings, well] = [Level::NoGo, Level::Warning, Level::Ok].map(count);
    writeln!(out, "{verdict}: {no_go} no-go, {warnings} warnings, {well} ok")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_finding_decides() {
        let mut findings = Vec::new();
        assert_eq!(worst(&findings).verdict(), ("go", 0));
        findings.push(Finding::ok("kernel", "6.1"));
        assert_eq!(worst(&findings).verdict(), ("go", 0));
        findings.push(Finding::warning("numa", "two nodes", "choose one").of("shard 1"));
        assert_eq!(worst(&findings).verdict(), ("warnings", 1));
        findings.push(Finding::of_message(Level::NoGo, "data_dir", "it is\x1b[31m red; paint it"));
        assert_eq!(worst(&findings).verdict(), ("no-go", 2));
        let document = document(&findings);
        assert_eq!(document["findings"][1]["level"], "warning");
        assert_eq!(document["findings"][1]["of"], "shard 1");
        assert_eq!(document["findings"][2]["fix"], "paint it");
        let mut out = Vec::new();
        print(&findings, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("warning  numa      shard 1: two nodes\n"), "{out}");
        assert!(out.contains("                   to do: paint it\n"), "{out}");
        assert!(out.ends_with("no-go: 1 no-go, 1 warnings, 1 ok\n"), "{out}");
        assert!(!out.contains('\x1b'), "{out}");
    }
}
