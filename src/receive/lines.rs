//! Plain lines, with their labels in the query.

use super::Ack;
use crate::labels;
use std::collections::BTreeMap;

/// What a query says: `ack`, and labels.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub ack: Option<Ack>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    #[error("ack: expected durable or memory, found {0:?}")]
    Ack(String),
    #[error("{0:?} is no label name: letters, digits and _ only, no digit first")]
    Name(String),
}

impl Query {
    /// Reads `ack`, and labels where the query has them.
    pub fn read(text: &str, with_labels: bool) -> Result<Query, BadQuery> {
        let mut query = Query::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match (name.as_ref(), value.as_ref()) {
                ("ack", "durable") => query.ack = Some(Ack::Durable),
                ("ack", "memory") => query.ack = Some(Ack::Memory),
                ("ack", other) => return Err(BadQuery::Ack(other.to_owned())),
                _ if !with_labels => {}
                (name, _) if !labels::is_name(name) => return Err(BadQuery::Name(name.to_owned())),
                (name, value) => {
                    query.labels.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        Ok(query)
    }
}

/// The lines of a text without their ends; empty ones are left out.
pub fn of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').map(trimmed).filter(|line| !line.is_empty())
}

/// Makes one array of values that stand on lines of their own. The lines stay lines: a text that goes
/// on in the next one stays none.
#[must_use]
pub fn joined(text: &[u8]) -> Vec<u8> {
    let mut array = Vec::with_capacity(text.len() + count(text) + 2);
    array.push(b'[');
    for line in of(text).filter(|line| !line.trim_ascii().is_empty()) {
        if array.len() > 1 {
            array.extend_from_slice(b",\n");
        }
        array.extend_from_slice(line);
    }
    array.push(b']');
    array
}

pub fn count(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count() + 1
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_labels_and_how_to_answer() {
        let query = Query::read("job=a%20b&ack=memory&host=x%22y&empty=", true).unwrap();
        let labels = [("empty", ""), ("host", "x\"y"), ("job", "a b")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(query, Query { ack: Some(Ack::Memory), labels });
        assert_eq!(Query::read("", true).unwrap(), Query::default());
        assert_eq!(Query::read("ack=maybe", true), Err(BadQuery::Ack("maybe".into())));
        assert_eq!(Query::read("a.b=1", false).unwrap(), Query::default());
        assert_eq!(Query::read("a.b=1", true), Err(BadQuery::Name("a.b".into())));
    }

    #[test]
    fn lines_end_as_they_may() {
        let found: Vec<&[u8]> = of(b"a\r\n\nb\0\xff\n\r\nc").collect();
        assert_eq!(found, [&b"a"[..], b"b\0\xff", b"c"]);
        assert_eq!(of(b"").count(), 0);
        assert_eq!(joined(b"{}\r\n\n {\"a\": 1}\n"), b"[{},\n {\"a\": 1}]");
        assert_eq!(joined(b" \n"), b"[]");
    }
}
