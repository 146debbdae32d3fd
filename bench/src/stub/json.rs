//! A push as JSON, brought into the form of the other ones.

use crate::load::proto;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow)]
    streams: Vec<Stream<'a>>,
}

#[derive(Deserialize)]
struct Stream<'a> {
    stream: BTreeMap<String, String>,
    #[serde(borrow)]
    values: Vec<Value<'a>>,
}

/// Timestamp, line, and structured metadata where there is some.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value<'a> {
    Plain(#[serde(borrow)] std::borrow::Cow<'a, str>, String),
    Metadata(#[serde(borrow)] std::borrow::Cow<'a, str>, String, BTreeMap<String, String>),
}

/// The same push as protobuf, or why not.
pub fn to_protobuf(body: &[u8]) -> Result<Vec<u8>, String> {
    let push: Push<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut out = Vec::with_capacity(body.len());
    for Stream { stream, values } in push.streams {
        let pairs: Vec<String> =
            stream.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let mut entries = Vec::new();
        for value in values {
            let (time, line, metadata) = match value {
                Value::Plain(time, line) => (time, line, BTreeMap::new()),
                Value::Metadata(time, line, metadata) => (time, line, metadata),
            };
            let time_ns =
                time.parse().map_err(|_| format!("expected nanoseconds, found {time:?}"))?;
            proto::entry_with(time_ns, line.as_bytes(), &metadata, &mut entries);
        }
        proto::stream(&format!("{{{}}}", pairs.join(", ")), &entries, &mut out);
    }
    Ok(out)
}
