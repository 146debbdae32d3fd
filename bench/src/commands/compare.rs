//! Two records side by side: what has become worse by more than it may.

use crate::report::{self, Better, Figure, Report, number};
use clap::Args;
use comfy_table::{Table, presets};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The record that counts.
    base: PathBuf,
    /// The record that is held against it.
    new: PathBuf,
    /// By how much a figure may be worse, in percent.
    #[arg(long, default_value_t = 10.0)]
    tolerance: f64,
    /// The same for figures whose name contains a text: CPU=20. Repeat it; the first that fits counts.
    #[arg(long = "tolerance-of", value_name = "TEXT=PERCENT")]
    tolerances: Vec<Tolerance>,
}

#[derive(Debug, Clone, PartialEq)]
struct Tolerance {
    text: String,
    percent: f64,
}

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Tolerance, String> {
        let wrong = || format!("expected TEXT=PERCENT, such as CPU=20, found {text:?}");
        let (name, percent) = text.rsplit_once('=').ok_or_else(wrong)?;
        let percent = percent.trim_end_matches('%').parse().map_err(|_| wrong())?;
        Ok(Tolerance { text: name.to_owned(), percent })
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Kept,
    /// So many figures are worse than they may be, or are missing.
    Worse(usize),
}

pub fn run(options: &Options) -> Result<(String, Outcome), report::Error> {
    let (base, new) = (Report::read(&options.base)?, Report::read(&options.new)?);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec!["", "", "base", "new", "worse by", "allowed", ""]);
    let mut worse = 0;
    for figure in &base.figures {
        let same = |other: &&Figure| other.group == figure.group && other.name == figure.name;
        let other = new.figures.iter().find(same);
        let allowed = options.of(figure);
        let (by, verdict) = match other {
            None => (None, "MISSING"),
            Some(other) => match worsening(figure, other.value) {
                None => (None, ""),
                Some(by) => (Some(by), if by > allowed { "WORSE" } else { "ok" }),
            },
        };
        worse += usize::from(matches!(verdict, "MISSING" | "WORSE"));
        table.add_row(vec![
            figure.group.clone(),
            figure.name.clone(),
            format!("{} {}", number(figure.value), figure.unit),
            other.map_or(String::new(), |other| number(other.value)),
            by.map_or(String::new(), |by| format!("{by:+.1} %")),
            if figure.better == Better::Neither { String::new() } else { format!("{allowed} %") },
            verdict.to_owned(),
        ]);
    }
    let mut text = format!(
        "{table}\nbase: commit {}, {}\nnew: commit {}, {}",
        base.commit, base.date, new.commit, new.date
    );
    if base.machine != new.machine {
        text.push_str("\nThe machines are not the same: compare ratios rather than times.");
    }
    Ok((text, if worse == 0 { Outcome::Kept } else { Outcome::Worse(worse) }))
}

impl Options {
    fn of(&self, figure: &Figure) -> f64 {
        let name = format!("{} {}", figure.group, figure.name);
        let fits = |tolerance: &&Tolerance| name.contains(&tolerance.text);
        self.tolerances.iter().find(fits).map_or(self.tolerance, |tolerance| tolerance.percent)
    }
}

/// In percent of the base; below 0 where it became better.
fn worsening(base: &Figure, new: f64) -> Option<f64> {
    let more = match base.better {
        Better::Neither => return None,
        Better::Less => new - base.value,
        Better::More => base.value - new,
    };
    Some(match (more, base.value) {
        (0.0, _) => 0.0,
        (more, 0.0) => more.signum() * f64::INFINITY,
        (more, value) => more / value.abs() * 100.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(new: f64, figure: Figure, tolerances: &[&str]) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut report = Report::new("slo");
        report.add("live", [figure]);
        report::write(&path("base"), &report.json()).unwrap();
        report.figures[0].value = new;
        report::write(&path("new"), &report.json()).unwrap();
        let tolerances = tolerances.iter().map(|text| text.parse().unwrap()).collect();
        let (base, new) = (path("base"), path("new"));
        run(&Options { base, new, tolerance: 10.0, tolerances }).unwrap().1
    }

    #[test]
    fn what_is_worse_by_more_than_allowed_is_found() {
        assert_eq!(compared(109.0, Figure::less("CPU", 100.0, "%"), &[]), Outcome::Kept);
        assert_eq!(compared(111.0, Figure::less("CPU", 100.0, "%"), &[]), Outcome::Worse(1));
        assert_eq!(compared(111.0, Figure::less("CPU", 100.0, "%"), &["CPU=20"]), Outcome::Kept);
        assert_eq!(compared(1.0, Figure::less("CPU", 100.0, "%"), &[]), Outcome::Kept);
        assert_eq!(compared(89.0, Figure::more("rate", 100.0, ""), &["CPU=20"]), Outcome::Worse(1));
        assert_eq!(compared(1.0, Figure::less("lost", 0.0, ""), &[]), Outcome::Worse(1));
        assert_eq!(compared(1.0, Figure::plain("size", 100.0, ""), &[]), Outcome::Kept);
    }

    #[test]
    fn a_figure_that_is_gone_counts_as_worse() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut report = Report::new("slo");
        report::write(&path("new"), &report.json()).unwrap();
        report.add("live", [Figure::less("CPU", 1.0, "%")]);
        report::write(&path("base"), &report.json()).unwrap();
        let (base, new) = (path("base"), path("new"));
        let (table, outcome) =
            run(&Options { base, new, tolerance: 10.0, tolerances: vec![] }).unwrap();
        assert_eq!(outcome, Outcome::Worse(1));
        assert!(table.contains("MISSING"), "{table}");
    }
}
