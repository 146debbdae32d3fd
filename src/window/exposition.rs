//! Reads Prometheus' text format, as `/metrics` answers it.

use std::collections::BTreeMap;

/// One line of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    /// Empty where it has no such label.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// All samples; or the first line that is none.
pub fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let lines = text.lines().map(str::trim);
    let samples = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        let shown: String = line.chars().take(100).collect();
        sample(line)
            .ok_or_else(|| format!("expected a sample such as process_open_fds 9, found {shown:?}"))
    };
    samples.map(read).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A time may follow.
    let value = rest.split_whitespace().next()?;
    Some(Sample { name: name.into(), labels, value: value.parse().ok()? })
}

/// What stands behind the brace, and what is behind them.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(name.trim().to_owned(), value);
        rest = after;
    }
}

/// Up to the quote, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c => c,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_as_they_are_written() {
        let text = "# HELP a b\n\na 3\nb{x=\"1\",y=\"q\\\"\\\\\\n}\"} 4.5e1 1700000000000\nc{} +Inf\nd{le=\"+Inf\",} NaN\n# EOF\n";
        let samples = parse(text).unwrap();
        let names: Vec<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!((samples[0].value, samples[1].value), (3.0, 45.0));
        assert_eq!((samples[1].label("x"), samples[1].label("y")), ("1", "q\"\\\n}"));
        assert_eq!((samples[0].label("x"), samples[3].label("le")), ("", "+Inf"));
        assert!(samples[2].value.is_infinite() && samples[3].value.is_nan());
    }

    #[test]
    fn what_is_none_is_named() {
        for text in ["<html>", "a", "a{x=\"1\" 3", "a{x=\"1} 3", "a b", "{x=\"1\"} 2", "a{x} 1"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn what_the_product_writes_is_read() {
        use perf::exposition::Format;
        let times = perf::recorder::Times::new(1, 1, std::time::Duration::ZERO, true);
        let metrics = perf::metrics::Metrics::new(1, &["lo\"ki".into()], &["refused"], times);
        let text = String::from_utf8(metrics.encode(Format::Text)).unwrap();
        let samples = parse(&text).unwrap();
        let expected = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples.len(), expected);
        assert!(samples.iter().any(|sample| sample.label("sink") == "lo\"ki"));
    }
}
