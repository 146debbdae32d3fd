//! What is shown of a snapshot, as texts and tables: nothing here knows a terminal.

use super::fetch::{Alarm, Number, Positions, Quantiles, Shard, Sink, Sort, Source, Stage, Stats};
use crate::ask::Text;
use std::io::Write;

/// How something is meant. A word says so as well wherever it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// Of less interest.
    Dim,
    Good,
    Warn,
    Bad,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl Cell {
    #[must_use]
    pub fn tone(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), tone: Tone::Plain }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Name,
    /// Takes what room is left, and shows its end.
    Path,
    /// Takes what room is left.
    Words,
}

/// `rank`: the higher ones go first where room is short.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub rank: u8,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    pub title: String,
    pub columns: &'static [Column],
    pub rows: Vec<Vec<Cell>>,
    /// In place of rows.
    pub none: String,
}

/// A share of a quota.
#[derive(Debug, Clone)]
pub struct Gauge {
    pub name: &'static str,
    pub ratio: f64,
    pub said: String,
    pub tone: Tone,
}

#[derive(Debug, Clone, Default)]
pub struct View {
    /// The most important first.
    pub head: Vec<Cell>,
    pub rates: Vec<Cell>,
    pub alarms: Vec<Cell>,
    /// End to end, of each sink.
    pub ends: Vec<Vec<Cell>>,
    pub objective: Vec<Cell>,
    pub gauges: Vec<Gauge>,
    pub stages: Table,
    pub shards: Table,
    pub sinks: Table,
    pub sources: Table,
}

const fn column(name: &'static str, kind: Kind, rank: u8) -> Column {
    Column { name, kind, rank }
}

const STAGES: [Column; 5] = [
    column("STAGE", Kind::Name, 0),
    column("P50", Kind::Number, 2),
    column("P95", Kind::Number, 3),
    column("P99", Kind::Number, 0),
    column("MAX", Kind::Number, 4),
];
const SHARDS: [Column; 8] = [
    column("SHARD", Kind::Number, 0),
    column("CPU", Kind::Number, 3),
    column("LINES/S", Kind::Number, 0),
    column("BUSY", Kind::Number, 0),
    column("LOG", Kind::Name, 4),
    column("UNACKED", Kind::Number, 5),
    column("FILES", Kind::Number, 6),
    column("LAG", Kind::Name, 1),
];
const SINKS: [Column; 14] = [
    column("SINK", Kind::Name, 0),
    column("STATE", Kind::Name, 0),
    column("LINES/S", Kind::Number, 1),
    column("LAG", Kind::Number, 0),
    column("UNACKED", Kind::Number, 4),
    column("IN FLIGHT", Kind::Number, 6),
    column("ACCEPTED", Kind::Number, 7),
    column("RETRIED", Kind::Number, 5),
    column("SPLIT", Kind::Number, 9),
    column("ISOLATED", Kind::Number, 10),
    column("HELD", Kind::Number, 8),
    column("REJECTED", Kind::Number, 3),
    column("BREAKERS", Kind::Name, 2),
    column("REASON", Kind::Words, 11),
];
const SOURCES: [Column; 5] = [
    column("LAG", Kind::Number, 0),
    column("SINCE", Kind::Number, 2),
    column("OFFSET", Kind::Number, 4),
    column("SHARD", Kind::Number, 3),
    column("PATH", Kind::Path, 0),
];

/// The objective where the instance tells none.
const OBJECTIVE_SECONDS: f64 = 0.5;
/// The stages of shards, in the order of a line's way. Those of sinks follow, and then what is new.
const WAY: [&str; 8] = ["read", "pipeline", "seal", "append", "sync", "handoff", "send", "ack"];

impl View {
    #[must_use]
    pub fn of(stats: &Stats, positions: Option<&Result<Positions, Text>>, sort: Sort) -> View {
        View {
            head: head(stats),
            rates: rates(stats),
            alarms: stats.told.alarms.iter().map(alarm).collect(),
            ends: ends(stats),
            objective: objective(stats),
            gauges: gauges(stats),
            stages: stages(stats),
            shards: Table {
                title: format!("Shards ({})", stats.told.shards.len()),
                columns: &SHARDS,
                rows: stats.told.shards.iter().map(shard).collect(),
                none: "none told".into(),
            },
            sinks: Table {
                title: format!("Sinks ({})", stats.told.sinks.len()),
                columns: &SINKS,
                rows: stats.told.sinks.iter().map(sink).collect(),
                none: "none told".into(),
            },
            sources: sources(positions, sort),
        }
    }

    /// All of it, for whatever is no terminal.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        for line in [&self.head, &self.rates] {
            let texts: Vec<&str> = line.iter().map(|cell| cell.text.as_str()).collect();
            writeln!(out, "{}", texts.join("  "))?;
        }
        writeln!(out, "\nAlarms: {}", self.alarms.len())?;
        for alarm in &self.alarms {
            writeln!(out, "{}", alarm.text)?;
        }
        writeln!(out)?;
        for end in self.ends.iter().chain([&self.objective]) {
            let texts: Vec<&str> = end.iter().map(|cell| cell.text.as_str()).collect();
            writeln!(out, "{}", texts.join("  "))?;
        }
        for Gauge { name, said, .. } in &self.gauges {
            writeln!(out, "{name}: {said}")?;
        }
        for table in [&self.stages, &self.shards, &self.sinks, &self.sources] {
            table.print(out)?;
        }
        Ok(())
    }
}

impl Table {
    /// How wide each column is.
    #[must_use]
    pub fn widths(&self) -> Vec<usize> {
        let of = |(at, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            let widest = cells.map(|cell| width(&cell.text)).max().unwrap_or(0);
            widest.max(width(column.name))
        };
        self.columns.iter().enumerate().map(of).collect()
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "\n{}", self.title)?;
        if self.rows.is_empty() {
            return writeln!(out, "{}", self.none);
        }
        let widths = self.widths();
        let names: Vec<Cell> = self.columns.iter().map(|column| column.name.into()).collect();
        for row in std::iter::once(&names).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, column), all) in row.iter().zip(self.columns).zip(&widths) {
                let fill = " ".repeat(all.saturating_sub(width(&cell.text)));
                let cell = match column.kind {
                    Kind::Number => format!("{fill}{}  ", cell.text),
                    _ => format!("{}{fill}  ", cell.text),
                };
                line.push_str(&cell);
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Columns on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    ratatui::text::Span::raw(text).width()
}

fn head(stats: &Stats) -> Vec<Cell> {
    let told = &stats.told;
    let mut head = vec![format!("log-capturer {}", stats.version).into(), level(&told.status)];
    if told.ready == Some(false) {
        head.push(Cell::from("NOT READY").tone(Tone::Bad));
    }
    head.push(format!("up {}", or_dash(told.uptime_seconds, age)).into());
    head
}

fn level(status: &Text) -> Cell {
    let word = if status.is_empty() { "-".into() } else { status.to_uppercase() };
    Cell::from(word).tone(match &**status {
        "healthy" => Tone::Good,
        "warning" => Tone::Warn,
        "degraded" | "critical" => Tone::Bad,
        _ => Tone::Plain,
    })
}

fn rates(stats: &Stats) -> Vec<Cell> {
    let told = &stats.told;
    let process = &told.process;
    let max = process.max_fds.filter(|max| *max < 1e15).map(|max| format!(" of {}", count(max)));
    vec![
        format!("{} lines/s", or_dash(told.lines_per_second, count)).into(),
        format!("{} MB/s", or_dash(told.bytes_per_second, |rate| decimals(rate / 1e6))).into(),
        format!("CPU {}", or_dash(process.cpu_ratio, percent)).into(),
        format!("memory {}", or_dash(process.resident_bytes, bytes)).into(),
        format!("fds {}{}", or_dash(process.open_fds, count), max.unwrap_or_default()).into(),
        format!("threads {}", or_dash(process.threads, count)).into(),
    ]
}

fn alarm(alarm: &Alarm) -> Cell {
    let Cell { text, tone } = level(&alarm.status);
    Cell { text: format!("{text} {}: {}", alarm.check, alarm.message), tone }
}

fn ends(stats: &Stats) -> Vec<Vec<Cell>> {
    let told = &stats.told;
    let limit = told.slo.objective.latency_seconds.unwrap_or(OBJECTIVE_SECONDS);
    let of = |(sink, spans): (&Text, &super::fetch::Spans)| {
        let Quantiles { p50_seconds, p95_seconds, p99_seconds, .. } =
            spans.last_minute.unwrap_or_default();
        let over = |number: f64| number > limit;
        let tone = |number: Number| match number {
            None => Tone::Dim,
            Some(number) if over(number) => Tone::Bad,
            Some(_) => Tone::Plain,
        };
        let mut line = vec![Cell::from(format!("source to {sink}"))];
        line.push(match p99_seconds {
            None => Cell::from("no lines in the last minute").tone(Tone::Dim),
            Some(p99) => {
                let (word, tone) =
                    if over(p99) { ("OVER", Tone::Bad) } else { ("within", Tone::Good) };
                Cell::from(format!("p99 {} {word} {}", time(p99), time(limit))).tone(tone)
            }
        });
        for (name, number) in [("p95", p95_seconds), ("p50", p50_seconds)] {
            line.push(Cell::from(format!("{name} {}", or_dash(number, time))).tone(tone(number)));
        }
        line
    };
    told.latency.source_to_ack.iter().map(of).collect()
}

fn objective(stats: &Stats) -> Vec<Cell> {
    let slo = &stats.told.slo;
    let limit = slo.objective.latency_seconds.unwrap_or(OBJECTIVE_SECONDS);
    let share = slo.objective.ratio.map(|ratio| format!("{} of lines ", percent(ratio)));
    let mut line = vec![match slo.met {
        Some(true) => Cell::from("objective met").tone(Tone::Good),
        Some(false) => Cell::from("objective NOT MET").tone(Tone::Bad),
        None => Cell::from("objective -"),
    }];
    line.push(format!("{}within {}", share.unwrap_or_default(), time(limit)).into());
    let left = or_dash(slo.error_budget_remaining_ratio, percent);
    line.push(format!("error budget left {left}").into());
    line
}

fn gauges(stats: &Stats) -> Vec<Gauge> {
    let told = &stats.told;
    let gauge = |name, part: Number, of: Number, more: String, bad: bool| {
        let ratio = share(part, of).unwrap_or(0.0);
        let tone = match ratio {
            _ if bad => Tone::Bad,
            0.9.. => Tone::Bad,
            0.75.. => Tone::Warn,
            _ => Tone::Good,
        };
        let said = format!(
            "{} of {} ({}){more}",
            or_dash(part, bytes),
            or_dash(of, bytes),
            or_dash(share(part, of), percent)
        );
        Gauge { name, ratio: ratio.clamp(0.0, 1.0), said, tone }
    };
    let full = if told.wal.full { ", FULL: reading waits" } else { "" };
    let log = gauge("log", told.wal.bytes, told.wal.bytes_max, full.into(), told.wal.full);
    let reasons = told
        .dlq
        .by_reason
        .iter()
        .map(|(reason, number)| format!("{reason} {}", or_dash(*number, count)));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    let entries = told.dlq.entries.unwrap_or(0.0);
    let more = match told.dlq.entries {
        None => String::new(),
        Some(0.0) => ", no entries".into(),
        Some(entries) if reasons.is_empty() => format!(", {} entries", count(entries)),
        Some(entries) => format!(", {} entries: {reasons}", count(entries)),
    };
    let mut dead = gauge("dead letters", told.dlq.bytes, told.dlq.bytes_max, more, false);
    if entries == 0.0 {
        // What an empty queue takes is no figure.
        dead.tone = Tone::Good;
    } else if dead.tone == Tone::Good {
        dead.tone = Tone::Warn;
    }
    let mut all = vec![log, dead];
    if let (Some(free), Some(size)) = (told.data_dir.free_bytes, told.data_dir.size_bytes)
        && size > 0.0
    {
        let used = (size - free).max(0.0);
        let more = format!(", {} free", bytes(free));
        all.push(gauge("disk", Some(used), Some(size), more, false));
    }
    all
}

fn stages(stats: &Stats) -> Table {
    let latency = &stats.told.latency;
    let row = |name: String, last: Option<Quantiles>| {
        let last = last.unwrap_or_default();
        let of = |number: Number| {
            let tone = if number.is_none() { Tone::Dim } else { Tone::Plain };
            Cell::from(or_dash(number, time)).tone(tone)
        };
        vec![
            name.into(),
            of(last.p50_seconds),
            of(last.p95_seconds),
            of(last.p99_seconds),
            of(last.max_seconds),
        ]
    };
    let mut rows = Vec::new();
    let known = WAY.iter().filter_map(|name| latency.stages.get_key_value(&Text::of(name)));
    let new = latency.stages.iter().filter(|(name, _)| !WAY.contains(&&***name));
    for (name, stage) in known.chain(new) {
        match stage {
            Stage::Whole(spans) => rows.push(row(name.to_string(), spans.last_minute)),
            Stage::BySink(sinks) => {
                let several = sinks.len() > 1;
                rows.extend(sinks.iter().map(|(sink, spans)| {
                    let name = if several { format!("{name} {sink}") } else { name.to_string() };
                    row(name, spans.last_minute)
                }));
            }
        }
    }
    if !rows.is_empty() {
        rows.push(row("commit alone".into(), latency.commit.last_minute));
        rows.push(row("HTTP answer".into(), latency.http_answer.last_minute));
    }
    Table {
        title: "Latency by stage, last minute".into(),
        columns: &STAGES,
        rows,
        none: "none told".into(),
    }
}

fn shard(of: &Shard) -> Vec<Cell> {
    let busy = match of.busy_ratio {
        Some(0.95..) => Tone::Bad,
        Some(0.8..) => Tone::Warn,
        _ => Tone::Plain,
    };
    let full = if of.wal_full { " FULL" } else { "" };
    let log =
        format!("{}/{}{full}", or_dash(of.wal_bytes, bytes), or_dash(of.wal_bytes_max, bytes));
    let lag = match (of.lag_bytes, of.lag_seconds) {
        (Some(0.0), _) => "none".to_owned(),
        (bytes_behind, since) => {
            format!("{}, {}", or_dash(bytes_behind, bytes), or_dash(since, time))
        }
    };
    vec![
        or_dash(of.shard, count).into(),
        or_dash(of.cpu, count).into(),
        or_dash(of.lines_per_second, count).into(),
        Cell::from(or_dash(of.busy_ratio, percent)).tone(busy),
        Cell::from(log).tone(if of.wal_full { Tone::Bad } else { Tone::Plain }),
        or_dash(of.unacked_frames, count).into(),
        or_dash(of.files_watched, count).into(),
        lag.into(),
    ]
}

fn sink(of: &Sink) -> Vec<Cell> {
    let (state, tone) = match &*of.state {
        "passes" => ("passes".to_owned(), Tone::Good),
        "" => ("-".to_owned(), Tone::Plain),
        other => (other.to_uppercase(), Tone::Bad),
    };
    let (breakers, broken) = match of.breakers_open {
        None => ("-".to_owned(), Tone::Plain),
        Some(0.0) => ("closed".to_owned(), Tone::Plain),
        Some(open) => (format!("{} OPEN", count(open)), Tone::Bad),
    };
    let pushes = &of.pushes;
    let wrong = |number: Number| {
        let tone = if number.unwrap_or(0.0) > 0.0 { Tone::Warn } else { Tone::Plain };
        Cell::from(or_dash(number, count)).tone(tone)
    };
    vec![
        of.sink.to_string().into(),
        Cell::from(state).tone(tone),
        or_dash(of.lines_per_second, count).into(),
        or_dash(of.lag_seconds, time).into(),
        or_dash(of.unacked_lines, count).into(),
        or_dash(of.in_flight, count).into(),
        or_dash(pushes.accepted, count).into(),
        wrong(pushes.retried),
        or_dash(pushes.split, count).into(),
        or_dash(pushes.isolated, count).into(),
        wrong(pushes.held),
        wrong(pushes.rejected),
        Cell::from(breakers).tone(broken),
        Cell::from(of.reason.as_ref().map_or_else(String::new, Text::to_string)).tone(Tone::Warn),
    ]
}

fn sources(positions: Option<&Result<Positions, Text>>, sort: Sort) -> Table {
    let by = sort.name();
    let table = |title, rows, none: String| Table { title, columns: &SOURCES, rows, none };
    match positions {
        None => table(format!("Sources by {by}"), Vec::new(), "not answered yet".into()),
        Some(Err(error)) => {
            table(format!("Sources by {by}"), Vec::new(), format!("NO ANSWER: {error}"))
        }
        Some(Ok(positions)) => {
            let (shown, total) = (positions.positions.len(), positions.total);
            let total = total.map_or_else(|| shown.to_string(), count);
            let behind = or_dash(positions.lag_bytes, bytes);
            let title = format!("Sources by {by} ({shown} of {total}, {behind} behind)");
            table(title, positions.positions.iter().map(source).collect(), "no files".into())
        }
    }
}

fn source(of: &Source) -> Vec<Cell> {
    let behind = of.lag_bytes.unwrap_or(0.0) > 0.0;
    let gone = if of.size.is_none() { "(gone) " } else { "" };
    vec![
        or_dash(of.lag_bytes, bytes).into(),
        if behind { or_dash(of.lag_seconds, time) } else { "-".into() }.into(),
        or_dash(of.offset, bytes).into(),
        or_dash(of.shard, count).into(),
        format!("{gone}{}", of.path).into(),
    ]
}

fn or_dash(number: Number, say: impl Fn(f64) -> String) -> String {
    number.filter(|number| number.is_finite()).map_or_else(|| "-".to_owned(), say)
}

fn share(part: Number, of: Number) -> Number {
    Some(part? / of.filter(|of| *of > 0.0)?)
}

/// Whole, with its thousands apart.
#[must_use]
pub fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let text = match percent.abs() {
        100.5.. => count(percent),
        // 99.95 % is not all.
        1.0..99.0 => format!("{percent:.1}"),
        _ => format!("{percent:.2}"),
    };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} %")
}

/// To three digits or so.
fn decimals(number: f64) -> String {
    match number.abs() {
        0.0 => "0".into(),
        100.0.. => count(number),
        _ => format!("{number:.2}"),
    }
}

fn tenths(number: f64) -> String {
    if number.abs() < 100.0 { format!("{number:.1}") } else { count(number) }
}

#[must_use]
pub fn bytes(number: f64) -> String {
    let mut number = number;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if number.abs() < 1024.0 {
            let text = if unit == "B" { count(number) } else { tenths(number) };
            return format!("{text} {unit}");
        }
        number /= 1024.0;
    }
    format!("{} PiB", tenths(number))
}

fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "0".into(),
        60.0.. => age(seconds),
        1.0.. => format!("{} s", decimals(seconds)),
        0.001.. => {
            let ms = seconds * 1e3;
            if ms >= 10.0 { format!("{ms:.0} ms") } else { format!("{ms:.1} ms") }
        }
        _ => format!("{:.0} us", seconds * 1e6),
    }
}

fn age(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    let ns = (seconds * 1e9) as i64;
    crate::table::age(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        let counts = [0.0, 999.0, 1000.4, 1_234_567.0, -12_345.0].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567", "-12,345"]);
        let sizes = [0.0, 1023.0, 1536.0, 8.0 * 1024f64.powi(3), 1e18].map(bytes);
        assert_eq!(sizes, ["0 B", "1,023 B", "1.5 KiB", "8.0 GiB", "888 PiB"]);
        let times = [0.0, 0.000_12, 0.0013, 0.0274, 2.5, 61.0, 90_000.0].map(time);
        assert_eq!(times, ["0", "120 us", "1.3 ms", "27 ms", "2.50 s", "1m1s", "1d1h"]);
        assert_eq!(
            [0.0, 0.0117, 0.5, 0.9995, 1.0, 12.345].map(percent).join(" "),
            "0 % 1.2 % 50 % 99.95 % 100 % 1,234 %"
        );
    }
}
