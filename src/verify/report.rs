//! What came of it: as a table, as JSON, and as a sheet to sign.

use super::judge::{Judged, Verdict};
use crate::table::{self, row};
use crate::window::figures::Figures;
use crate::window::{Point, Window};
use bench::report::{Cell, Kind, Page, PageTable, Plot, Scale, Series};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// As `--json` writes it. A later version adds keys and changes none.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: u64,
    pub written_by: &'static str,
    pub verdict: Verdict,
    pub started: String,
    pub ended: String,
    pub for_seconds: f64,
    pub seconds: f64,
    /// Why it did not go on to the end.
    pub ended_early: Option<String>,
    pub rules: Vec<Judged>,
    pub instances: Vec<Figures>,
    #[serde(skip)]
    plots: Vec<Plot>,
}

/// In UTC.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Report {
    #[must_use]
    pub fn new(
        rules: Vec<Judged>,
        windows: &[Window],
        started: String,
        (wanted, took): (Duration, Duration),
        ended_early: Option<String>,
    ) -> Report {
        Report {
            version: 1,
            written_by: env!("CARGO_PKG_VERSION"),
            verdict: Verdict::of(&rules),
            started,
            ended: now(),
            for_seconds: wanted.as_secs_f64(),
            seconds: took.as_secs_f64(),
            ended_early,
            rules,
            instances: windows.iter().map(Figures::of).collect(),
            plots: plots(windows),
        }
    }

    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures are finite") + "\n"
    }

    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut rows = vec![row(["INSTANCE", "RULE", "FOUND", "LIMIT", "VERDICT", "WHY"])];
        rows.extend(self.rules.iter().map(|judged| {
            row([
                judged.instance.as_deref().unwrap_or("all"),
                judged.rule,
                &judged.found(),
                &judged.allowed(),
                judged.verdict.text(),
                &judged.why,
            ])
        }));
        table::print(&rows, out)?;
        if let Some(why) = &self.ended_early {
            writeln!(out, "ended after {:.0} s of {:.0} s: {why}", self.seconds, self.for_seconds)?;
        }
        writeln!(out, "{}", self.verdict.text())
    }

    pub fn html(&self) -> Result<String, bench::report::Error> {
        let names: Vec<&str> = self.instances.iter().map(|of| of.instance.as_str()).collect();
        let mut facts = vec![
            ("instances", names.join(", ")),
            ("from", self.started.clone()),
            ("to", self.ended.clone()),
            ("time", format!("{:.0} s, of {:.0} s", self.seconds, self.for_seconds)),
        ];
        facts.extend(self.ended_early.clone().map(|why| ("ended early", why)));
        facts.extend([
            ("by", format!("log-capturer {}", self.written_by)),
            ("name", String::new()),
            ("signature", String::new()),
        ]);
        Page {
            title: "log-capturer verify".into(),
            verdict: Some(Cell::new(self.verdict.text(), kind(self.verdict))),
            facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            tables: vec![self.rules_table(), self.figures_table(), self.latency_table()],
            plots: self.plots.clone(),
        }
        .html()
    }

    fn rules_table(&self) -> PageTable {
        let number = |text: String| Cell::new(text, Kind::Number);
        let rows = self.rules.iter().map(|judged| {
            vec![
                judged.instance.as_deref().unwrap_or("all").into(),
                judged.rule.into(),
                number(judged.found()),
                number(judged.allowed()),
                Cell::new(judged.verdict.text(), kind(judged.verdict)),
                judged.why.as_str().into(),
            ]
        });
        table("Rules", &["instance", "rule", "found", "limit", "verdict", "why"], rows.collect())
    }

    fn figures_table(&self) -> PageTable {
        let rows = self.instances.iter().map(|of| {
            let slope = of.memory_bytes_slope.map_or("-".into(), |slope| {
                let error =
                    slope.standard_error.map_or("?".into(), |error| format!("{:.2}", error / 1e6));
                format!("{:.2} ± {error}", slope.per_hour / 1e6)
            });
            let texts = [
                format!("{:.1}", of.lines_per_second),
                format!("{:.3}", of.bytes_per_second / 1e6),
                format!("{:.3}", of.cpu_cores),
                format!("{:.1}", of.memory_bytes_max / 1e6),
                slope,
                format!("{:.0}", of.open_fds),
                format!("{:.0}", of.threads),
                format!("{} of {}", of.looks_missed, of.looks + of.looks_missed),
            ];
            let numbers = texts.map(|text| Cell::new(text, Kind::Number));
            std::iter::once(of.instance.as_str().into()).chain(numbers).collect()
        });
        let head = [
            "instance",
            "lines/s",
            "MB/s",
            "CPU cores",
            "memory MB",
            "MB/h, standard error",
            "descriptors",
            "threads",
            "looks missed",
        ];
        table("Figures", &head, rows.collect())
    }

    fn latency_table(&self) -> PageTable {
        let ms = |seconds: Option<f64>| {
            let text = seconds.map_or("-".into(), |seconds| format!("{:.2}", seconds * 1e3));
            Cell::new(text, Kind::Number)
        };
        let rows = self.instances.iter().flat_map(|of| {
            of.latency.iter().filter(|way| way.lines > 0.0).map(move |way| {
                vec![
                    of.instance.as_str().into(),
                    way.name().into(),
                    Cell::new(format!("{:.0}", way.lines), Kind::Number),
                    ms(way.p50_seconds),
                    ms(way.p95_seconds),
                    ms(way.p99_seconds),
                ]
            })
        });
        table("Latency, ms", &["instance", "of", "lines", "p50", "p95", "p99"], rows.collect())
    }
}

fn table(title: &str, head: &[&str], rows: Vec<Vec<Cell>>) -> PageTable {
    let head = head.iter().map(|text| (*text).to_owned()).collect();
    PageTable { title: title.into(), head, rows }
}

fn kind(verdict: Verdict) -> Kind {
    match verdict {
        Verdict::Go => Kind::Ok,
        Verdict::NoGo => Kind::Missed,
        Verdict::NotEnoughData | Verdict::Skipped => Kind::Plain,
    }
}

/// Each figure over time, a line for each instance.
fn plots(windows: &[Window]) -> Vec<Plot> {
    let plot = |title: &str, y: &str, of: fn(&Point) -> Option<f64>| {
        let series = windows.iter().map(|window| {
            let points = window.points.iter().filter_map(|point| Some((point.at, of(point)?)));
            Series::new(window.instance.clone(), points.collect())
        });
        let (title, x, y) = (title.into(), "seconds".into(), y.into());
        Plot { title, x, y, scale: Scale::Linear, series: series.collect() }
    };
    vec![
        plot("lines", "lines/s", |point| Some(point.lines_per_second)),
        plot("p50 from source to ack, slowest sink", "ms", |point| Some(point.p50_seconds? * 1e3)),
        plot("p99 from source to ack, slowest sink", "ms", |point| Some(point.p99_seconds? * 1e3)),
        plot("errors", "% of lines", |point| Some(point.error_ratio? * 100.0)),
        plot("memory", "MB", |point| Some(point.memory_bytes / 1e6)),
        plot("CPU", "cores", |point| Some(point.cpu_cores)),
        plot("dead letters", "entries", |point| Some(point.dead_letters)),
    ]
}
