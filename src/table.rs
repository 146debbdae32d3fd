//! What people read: aligned rows, times and ages.

use std::io::Write;

/// Columns as wide as their widest cell; the last one is as it is.
pub fn print(rows: &[Vec<String>], out: &mut impl Write) -> std::io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let (last, cells) = row.split_last().expect("a row has a cell");
        for (cell, width) in cells.iter().zip(&widths) {
            write!(out, "{cell:width$}  ")?;
        }
        writeln!(out, "{last}")?;
    }
    Ok(())
}

/// A row of texts.
#[must_use]
pub fn row<T: ToString>(cells: impl IntoIterator<Item = T>) -> Vec<String> {
    cells.into_iter().map(|cell| cell.to_string()).collect()
}

/// In its two largest units.
#[must_use]
pub fn age(ns: i64) -> String {
    let seconds = ns.max(0) / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (1.., ..) => format!("{days}d{}h", hours % 24),
        (_, 1.., _) => format!("{hours}h{}m", minutes % 60),
        (.., 1..) => format!("{minutes}m{}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

/// What a terminal does not take for a command.
#[must_use]
pub fn plain(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}

#[must_use]
pub fn time(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(ns.into()).map_or_else(|_| ns.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_times_and_ages_are_for_people() {
        let ages = [-5, 7, 61, 3_725, 90_061].map(|seconds| age(seconds * 1_000_000_000));
        assert_eq!(ages, ["0s", "7s", "1m1s", "1h2m", "1d1h"]);
        assert_eq!(plain("ü\u{1b}[31m\n"), "ü\\u{1b}[31m\\n");
        assert_eq!(time(1_700_000_000_000_000_001), "2023-11-14T22:13:20.000000001Z");
        let mut out = Vec::new();
        print(&[row(["A", "B"]), row(["ü", "long one"]), row(["xyz", ""])], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A    B\nü    long one\nxyz  \n");
    }
}
