//! Sizes (`64MiB`) and durations (`50ms`): read and printed.

use serde::Serializer;
use std::time::Duration;

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

const DURATIONS: [(&str, u64); 5] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Bytes of a size; the error is a hint.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, &SIZES, "64MiB")
}

/// The error is a hint.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &DURATIONS, "50ms").map(Duration::from_nanos)
}

fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if number.is_empty() {
        return Err(format!("write a whole number and a unit, such as {example}"));
    }
    if unit.is_empty() && number == "0" {
        return Ok(0);
    }
    if unit.is_empty() {
        return Err(format!("add a unit: one of {}", names()));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("the unit is one of {}", names()));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| "the number is too large".into())
}

pub fn bytes_text(bytes: u64) -> String {
    text(bytes, &SIZES[4..], "B")
}

pub fn duration_text(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    text(nanos / 1_000 * 1_000, &DURATIONS, "s")
}

/// In the largest unit that needs no fraction.
fn text(value: u64, units: &[(&str, u64)], zero_unit: &str) -> String {
    let unit = units.iter().rev().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("{value}{zero_unit}"),
    }
}

pub fn print_duration<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&duration_text(*duration))
}

pub fn print_bytes<T, S>(bytes: &T, to: S) -> Result<S::Ok, S::Error>
where
    T: Copy + TryInto<u64>,
    S: Serializer,
{
    to.serialize_str(&bytes_text((*bytes).try_into().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_and_printed() {
        for (text, bytes) in [("0", 0), ("1B", 1), ("3MiB", 3 << 20), ("5MB", 5_000_000)] {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for (text, millis) in
            [("0", 0), ("0ms", 0), ("50ms", 50), ("2 s", 2_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        }
        assert_eq!(bytes_text(64 << 20), "64MiB");
        assert_eq!(bytes_text(1_000), "1000B");
        assert_eq!(bytes_text(0), "0B");
        assert_eq!(duration_text(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(duration_text(Duration::from_secs(3_600)), "1h");
        assert_eq!(duration_text(Duration::ZERO), "0s");
        for value in [0, 1, 999, 1_000, 1 << 20, 12_345_678] {
            assert_eq!(parse_bytes(&bytes_text(value)), Ok(value));
            let micros = Duration::from_micros(value);
            assert_eq!(parse_duration(&duration_text(micros)), Ok(micros));
        }
    }

    #[test]
    fn what_is_no_size_says_what_is_missing() {
        let hint = |text| parse_bytes(text).unwrap_err();
        assert_eq!(hint("64"), "add a unit: one of B, kB, MB, GB, KiB, MiB, GiB");
        assert_eq!(hint("64Mb"), "the unit is one of B, kB, MB, GB, KiB, MiB, GiB");
        assert_eq!(hint("1.5MiB"), "the unit is one of B, kB, MB, GB, KiB, MiB, GiB");
        assert_eq!(hint("much"), "write a whole number and a unit, such as 64MiB");
        assert_eq!(hint("99999999999GiB"), "the number is too large");
        assert_eq!(hint("-1B"), "write a whole number and a unit, such as 64MiB");
    }
}
