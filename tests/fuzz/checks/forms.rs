//! Bodies in every form, decoded.

use super::bed::{BODY, Bed, FIXED, JSON, Outcome};
use super::json::Json;
use super::loki;
use log_capturer::receive::lines::Query;
use log_capturer::receive::{Form, json, otlp};

/// Loki's push in protobuf, before it is compressed.
pub fn push_protobuf(raw: &[u8]) {
    let block = snap::raw::Encoder::new().compress_vec(raw).expect("a short text");
    let Ok(found) = both(Form::Protobuf, &block, &Query::default(), true) else { return };
    // Loki would have found the same in what came.
    if found.refused == 0
        && let Ok(came) = loki::read(raw)
        && came.iter().all(|entry| loki::labels(&entry.labels).is_ok())
    {
        let facts = |entry: &loki::Entry| {
            (entry.stamp_ns, entry.line.clone(), entry.metadata.clone(), pairs(&entry.labels))
        };
        let came: Vec<_> = came.iter().map(facts).collect();
        assert_eq!(found.entries.iter().map(facts).collect::<Vec<_>>(), came);
    }
}

/// Loki's push in JSON.
pub fn push_json(body: &[u8]) {
    let found = both(Form::Json, body, &Query::default(), true);
    again(Form::Json, body, JSON, &found);
}

/// Log entries, one or an array of such.
pub fn logs(body: &[u8]) {
    let found = both(Form::Log, body, &Query::default(), false);
    again(Form::Log, body, JSON, &found);
}

/// Log entries, one on each line, which are what each alone is.
pub fn ndjson(body: &[u8]) {
    let Ok(found) = both(Form::LogLines, body, &Query::default(), false) else { return };
    let mut alone = Vec::new();
    let mut refused = 0;
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        // An array on a line is none of this form.
        let is_object = line.trim_ascii_start().starts_with(b"{");
        match Bed::wide().take(Form::Log, line, &Query::default()) {
            Ok(outcome) if is_object => {
                refused += outcome.refused;
                alone.extend(outcome.entries);
            }
            _ => return,
        }
    }
    assert_eq!(found.refused, refused);
    let facts = |entry: &loki::Entry| (entry.labels.clone(), entry.line.clone());
    assert_eq!(
        found.entries.iter().map(facts).collect::<Vec<_>>(),
        alone.iter().map(facts).collect::<Vec<_>>()
    );
}

/// A query on the first line, and plain lines behind it.
pub fn lines(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (query, body) = data.split_at(end);
    let Ok(query) = std::str::from_utf8(query) else { return };
    let without = Query::read(query, false);
    let Ok(query) = Query::read(query, true) else { return };
    assert!(without.is_ok_and(|q| q.ack == query.ack && q.labels.is_empty()));
    let body = body.get(1..).unwrap_or_default();
    let Ok(found) = both(Form::Lines, body, &query, false) else { return };
    let lines = body.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    assert_eq!(found.lines + found.refused, lines.len() as u64);
    assert!(found.entries.is_sorted_by(|a, b| a.stamp_ns < b.stamp_ns));
    let mut labels = query.labels;
    labels.retain(|_, value| !value.is_empty());
    let labels: Vec<_> = labels.into_iter().collect();
    // They are in the order in which they came.
    let mut lines = lines.iter();
    for entry in &found.entries {
        assert!(lines.any(|line| *line == entry.line));
        assert_eq!(pairs(&entry.labels), labels);
    }
}

/// OTLP's exports in protobuf.
pub fn otlp_protobuf(body: &[u8]) {
    let form = Form::Otlp(otlp::Kind::Protobuf);
    let found = both(form, body, &Query::default(), false);
    bounded(&found);
}

/// OTLP's exports in JSON.
pub fn otlp_json(body: &[u8]) {
    let form = Form::Otlp(otlp::Kind::Json);
    let found = both(form, body, &Query::default(), false);
    bounded(&found);
    let limits = json::Limits { depth_max: 10 + 4 * otlp::DEPTH_MAX, ..JSON };
    again(form, body, limits, &found);
}

/// What is made of an export is no more than it may be.
fn bounded(found: &Result<Outcome, String>) {
    let Ok(found) = found else { return };
    let pairs = |entry: &loki::Entry| -> usize {
        entry.metadata.iter().map(|(name, value)| name.len() + value.len()).sum()
    };
    let made = |entry: &loki::Entry| entry.line.len() + pairs(entry);
    assert!(found.entries.iter().map(made).sum::<usize>() <= 4 * BODY.decoded_bytes_max);
}

/// Takes a body in where it may be kept and where it has to be changed: the same comes of it.
/// `stamped`: each entry has a timestamp of its own.
fn both(form: Form, body: &[u8], query: &Query, stamped: bool) -> Result<Outcome, String> {
    let wide = Bed::wide().take(form, body, query);
    let narrow = Bed::narrow().take(form, body, query);
    let (wide, narrow) = match (wide, narrow) {
        (Ok(wide), Ok(narrow)) => (wide, narrow),
        (wide, narrow) => {
            assert_eq!(wide.as_ref().err(), narrow.as_ref().err());
            return wide;
        }
    };
    assert_eq!(wide.lines + wide.refused, narrow.lines + narrow.refused);
    if wide.refused + narrow.refused > 0 {
        return Ok(wide);
    }
    for (entry, other) in wide.entries.iter().zip(&narrow.entries) {
        assert_eq!(entry.line, other.line);
        if stamped {
            assert_eq!(entry.stamp_ns, other.stamp_ns);
        }
        let mut expected = pairs(&entry.labels);
        expected.retain(|(name, _)| name != FIXED.0);
        expected.push((FIXED.0.to_owned(), FIXED.1.to_owned()));
        expected.sort();
        let (own, more) = other.metadata.split_at(entry.metadata.len());
        assert_eq!(own, entry.metadata);
        match more {
            [] => assert_eq!(pairs(&other.labels), expected),
            [(name, labels)] => {
                assert_eq!(name, "overflow_labels");
                assert_eq!(pairs(labels), expected);
                assert_eq!(pairs(&other.labels)[1].0, "log_capturer_overflow");
            }
            more => panic!("{more:?}"),
        }
    }
    Ok(wide)
}

/// Labels, sorted.
fn pairs(labels: &str) -> Vec<(String, String)> {
    let mut pairs = loki::labels(labels).expect("Loki reads them");
    pairs.sort();
    pairs
}

/// What another reader of JSON writes of a body is the same body.
fn again(form: Form, body: &[u8], limits: json::Limits, found: &Result<Outcome, String>) {
    let read = serde_json::from_slice::<Json>(body);
    let Ok(found) = found else {
        return;
    };
    let read = read.expect("what is taken is JSON");
    let (depth, values) = read.extent();
    assert!(depth <= limits.depth_max && values <= limits.values_max, "{depth} {values}");
    if read.has_float() {
        return;
    }
    let text = read.to_string();
    let again = Bed::wide().take(form, text.as_bytes(), &Query::default());
    let again = again.expect("it was taken before");
    assert_eq!(again.refused, found.refused);
    let facts =
        |entry: &loki::Entry| (entry.labels.clone(), entry.line.clone(), entry.metadata.clone());
    assert_eq!(
        found.entries.iter().map(facts).collect::<Vec<_>>(),
        again.entries.iter().map(facts).collect::<Vec<_>>()
    );
}
