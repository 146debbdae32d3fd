//! The dead-letter queues by HTTP.

use super::{Panel, Wrong, object};
use crate::desk::{How, What};
use crate::dlq::Filter;
use crate::labels;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A filter and some labels.
pub(super) const ORDER_BYTES_MAX: usize = 64 << 10;
/// Queues may be long, and disks slow.
const ORDER_TIME_MAX: Duration = Duration::from_secs(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    filter: Vec<String>,
    labels: BTreeMap<String, String>,
    restamp: bool,
}

impl Panel {
    pub(super) fn dlq_stats(&self) -> Value {
        let queues = self.desk.slots().iter().filter_map(|slot| {
            let stats = slot.stats()?;
            let by_reason: BTreeMap<&str, u64> =
                stats.by_reason.iter().map(|(reason, count)| (reason.name(), *count)).collect();
            Some(json!({
                "shard": slot.shard,
                "sink": slot.sink,
                "entries": stats.entries,
                "frames": stats.frames,
                "bytes": stats.bytes,
                "bytes_max": stats.bytes_max,
                "by_reason": by_reason,
                "oldest_unix_ms": stats.oldest_ns.map(|ns| ns / 1_000_000),
                "exhausted": stats.exhausted,
                "undecodable_frames": stats.undecodable_frames,
                "damaged_frames": stats.damaged_frames,
                "dropped": stats.dropped,
            }))
        });
        let queues: Vec<Value> = queues.collect();
        let entries: u64 = queues.iter().filter_map(|queue| queue["entries"].as_u64()).sum();
        json!({ "entries": entries, "queues": queues })
    }

    pub(super) async fn order(&self, path: &str, body: &[u8]) -> Result<Value, Wrong> {
        let (what, filter) = read_order(path, body)?;
        let Some(asked) = self.desk.ask(&what, &filter) else {
            let text = "too many orders are under way; try again later";
            return Err((StatusCode::SERVICE_UNAVAILABLE, text.into()));
        };
        let deadline = Instant::now() + ORDER_TIME_MAX;
        loop {
            match asked.answer() {
                Some(Ok(entries)) => return Ok(json!({ "entries": entries })),
                Some(Err(error)) => return Err((StatusCode::INTERNAL_SERVER_ERROR, error)),
                None if Instant::now() >= deadline => {
                    let text = "the queues take too long; what was asked is still under way";
                    return Err((StatusCode::GATEWAY_TIMEOUT, text.into()));
                }
                None => glommio::timer::sleep(LOOK_INTERVAL).await,
            }
        }
    }
}

fn read_order(path: &str, body: &[u8]) -> Result<(What, Filter), Wrong> {
    let wrong = |text: String| (StatusCode::BAD_REQUEST, text);
    let order: Order = object(body).map_err(|error| {
        wrong(format!(
            "expected {{\"filter\": [\"reason=too_old\"], \"labels\": {{}}, \"restamp\": false}}: \
             {error}"
        ))
    })?;
    let filter = Filter::parse(&order.filter).map_err(|error| wrong(error.to_string()))?;
    if let Some(name) = order.labels.keys().find(|name| !labels::is_name(name)) {
        return Err(wrong(format!(
            "labels: expected a label name, found {name:?}: letters, digits and _ only, no digit first"
        )));
    }
    let what = match path {
        "/dlq/purge" => What::Purge,
        _ => What::Reprocess(How { labels: order.labels, restamp: order.restamp }),
    };
    Ok((what, filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_or_said_to_be_wrong() {
        let (what, filter) = read_order("/dlq/reprocess", b"").unwrap();
        assert!(filter.is_empty() && matches!(what, What::Reprocess(how) if how == How::default()));
        let body = br#"{"filter": ["reason=too_old"], "labels": {"a": "b"}, "restamp": true}"#;
        let (what, filter) = read_order("/dlq/reprocess", body).unwrap();
        assert_eq!(filter.texts(), ["reason=too_old"]);
        assert!(matches!(what, What::Reprocess(how) if how.restamp && how.labels["a"] == "b"));
        assert!(matches!(read_order("/dlq/purge", b"{}").unwrap().0, What::Purge));
        for (body, says) in [
            (&b"{"[..], "expected {\"filter\""),
            (b"[]", "expected {\"filter\""),
            (b"[[], {}, true]", "expected {\"filter\""),
            (b"{\"fliter\": []}", "fliter"),
            (b"{\"filter\": [\"reason\"]}", "expected"),
            (b"{\"labels\": {\"1a\": \"b\"}}", "label name"),
        ] {
            let (code, text) = read_order("/dlq/purge", body).unwrap_err();
            assert_eq!(code, StatusCode::BAD_REQUEST);
            assert!(text.contains(says), "{text}");
        }
    }
}
