//! A report as one HTML page that needs nothing beside it.

use super::{Error, Plot, Report};
use maud::{DOCTYPE, PreEscaped, html};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #ddd}\
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.ok{color:#00734f}.missed{color:#b00020;font-weight:600}\
svg{width:100%;height:auto}code{background:#f3f3f3;padding:.1rem .3rem}dl{display:grid;grid-template-columns:8rem 1fr}dd{margin:0;overflow-wrap:anywhere}\
td{overflow-wrap:break-word}.verdict{font-size:1.6rem;font-weight:600}";

/// What stands on a page, from top to bottom.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub title: String,
    /// What came of it, where that is one word.
    pub verdict: Option<Cell>,
    /// What it is about: names and values.
    pub facts: Vec<(String, String)>,
    pub tables: Vec<Table>,
    pub plots: Vec<Plot>,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    pub title: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone, Default)]
pub struct Cell {
    pub text: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Plain,
    Number,
    Ok,
    Missed,
}

impl Cell {
    #[must_use]
    pub fn new(text: impl Into<String>, kind: Kind) -> Cell {
        Cell { text: text.into(), kind }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::new(text, Kind::Plain)
    }
}

impl Kind {
    fn class(self) -> Option<&'static str> {
        match self {
            Kind::Plain => None,
            Kind::Number => Some("n"),
            Kind::Ok => Some("ok"),
            Kind::Missed => Some("missed"),
        }
    }
}

impl Page {
    pub fn html(&self) -> Result<String, Error> {
        let plots = self.plots.iter().map(|plot| Ok((&plot.title, plot.svg()?)));
        let plots = plots.collect::<Result<Vec<_>, Error>>()?;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    @if let Some(verdict) = &self.verdict {
                        p.verdict { span class=[verdict.kind.class()] { (verdict.text) } }
                    }
                    dl {
                        @for (name, value) in &self.facts {
                            dt { (name) }
                            dd { @if name == "command" { code { (value) } } @else { (value) } }
                        }
                    }
                    @for table in &self.tables {
                        h2 { (table.title) }
                        table {
                            thead { tr { @for head in &table.head { th { (head) } } } }
                            tbody {
                                @for row in &table.rows {
                                    tr { @for cell in row { td class=[cell.kind.class()] { (cell.text) } } }
                                }
                            }
                        }
                    }
                    @for (title, svg) in &plots {
                        h2 { (title) }
                        figure style="margin:0" { (PreEscaped(svg)) }
                    }
                }
            }
        };
        Ok(page.into_string())
    }
}

pub fn page(report: &Report) -> Result<String, Error> {
    let machine = &report.machine;
    let facts = [
        ("date", report.date.clone()),
        ("commit", report.commit.clone()),
        ("compiler", report.rustc.clone()),
        ("machine", format!("{} x {}, {} GiB", machine.cpus, machine.cpu, machine.memory_gib)),
        ("system", format!("Linux {}, {}", machine.kernel, machine.disk)),
        ("command", report.command.clone()),
    ];
    let rows = report.figures.iter().enumerate().map(|(at, figure)| {
        let [name, measured, target, mark] = figure.cells();
        let first = at == 0 || report.figures[at - 1].group != figure.group;
        let group = if first { figure.group.as_str() } else { "" };
        let kind = match mark.as_str() {
            "ok" => Kind::Ok,
            "MISSED" => Kind::Missed,
            _ => Kind::Plain,
        };
        let measured = Cell::new(measured, Kind::Number);
        vec![group.into(), name.into(), measured, target.into(), Cell::new(mark, kind)]
    });
    let figures = Table {
        title: "Figures".into(),
        head: ["", "", "measured", "target", ""].map(String::from).to_vec(),
        rows: rows.collect(),
    };
    Page {
        title: format!("log-capturer {}", report.name),
        verdict: None,
        facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        tables: vec![figures],
        plots: report.plots.clone(),
    }
    .html()
}
