//! How far each file is read, and how much of it is not.

use super::{Panel, Wrong};
use crate::sightings::Sighting;
use hyper::StatusCode;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::Serialize;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Shards answer at once, or when their log has room again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Lag,
    Path,
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    limit: usize,
    sort: Sort,
}

#[derive(Debug, Serialize)]
struct Position {
    path: String,
    shard: usize,
    labels: String,
    /// Everything before is taken in.
    offset: u64,
    /// None where the file is not there by this name.
    size: Option<u64>,
    lag_bytes: u64,
    lag_seconds: f64,
    open: bool,
}

impl Query {
    fn read(text: &str) -> Result<Query, Wrong> {
        let mut query = Query { limit: LIMIT, sort: Sort::Lag };
        let mut names = HashSet::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !names.insert(name.clone()) {
                return Err((StatusCode::BAD_REQUEST, format!("{name}: expected once")));
            }
            let expected = match (&*name, &*value) {
                ("sort", "lag") => {
                    query.sort = Sort::Lag;
                    continue;
                }
                ("sort", "path") => {
                    query.sort = Sort::Path;
                    continue;
                }
                ("limit", limit) => {
                    // A plus sign is no digit.
                    let limit = limit.parse().ok().filter(|_| !limit.starts_with('+'));
                    if let Some(limit) = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit)) {
                        query.limit = limit;
                        continue;
                    }
                    format!("limit: expected a number from 1 to {LIMIT_MAX}")
                }
                ("sort", _) => "sort: expected lag or path".to_owned(),
                (name, _) => format!("{name}: there is limit and sort"),
            };
            return Err((StatusCode::BAD_REQUEST, format!("{expected}, found {value:?}")));
        }
        Ok(query)
    }
}

impl Panel {
    pub(super) async fn positions(&self, query: &str) -> Result<Value, Wrong> {
        let query = Query::read(query)?;
        let asked: Vec<u64> = self.sightings.iter().map(|shard| shard.ask()).collect();
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        let mut seen = Vec::new();
        for (shard, asked) in self.sightings.iter().zip(asked) {
            seen.push(loop {
                if let Some(seen) = shard.answer(asked) {
                    break seen;
                }
                if Instant::now() >= deadline {
                    let text = "a shard takes too long; try again later";
                    return Err((StatusCode::SERVICE_UNAVAILABLE, text.to_owned()));
                }
                glommio::timer::sleep(LOOK_INTERVAL).await;
            });
        }
        // There may be many, and each is looked at: that is not for a shard's thread.
        let listed = glommio::executor().spawn_blocking(move || {
            let of = |(shard, seen): (usize, std::sync::Arc<Vec<Sighting>>)| {
                seen.iter().map(|seen| position(shard, seen)).collect::<Vec<_>>()
            };
            let all: Vec<Position> = seen.into_iter().enumerate().flat_map(of).collect();
            listed(all, &query)
        });
        Ok(listed.await)
    }
}

fn listed(mut all: Vec<Position>, query: &Query) -> Value {
    let (total, lag_bytes) = (all.len(), all.iter().map(|one| one.lag_bytes).sum::<u64>());
    all.sort_by(|a, b| a.path.cmp(&b.path));
    if query.sort == Sort::Lag {
        all.sort_by_key(|one| Reverse(one.lag_bytes));
    }
    all.truncate(query.limit);
    json!({ "positions": all, "total": total, "lag_bytes": lag_bytes })
}

fn position(shard: usize, seen: &Sighting) -> Position {
    let stat = statx(CWD, &seen.path, AtFlags::empty(), StatxFlags::BASIC_STATS);
    // Another file may have the name by now.
    let size = stat.ok().filter(|stat| stat.stx_ino == seen.identity.ino).map(|stat| stat.stx_size);
    let lag_bytes = size.map_or(0, |size| size.saturating_sub(seen.offset));
    let waits = seen.waits_since.filter(|_| lag_bytes > 0);
    let lag = waits.map_or(Duration::ZERO, |since| since.elapsed());
    Position {
        path: seen.path.display().to_string(),
        shard,
        labels: seen.labels.clone(),
        offset: seen.offset,
        size,
        lag_bytes,
        lag_seconds: (lag.as_secs_f64() * 1000.0).round() / 1000.0,
        open: seen.open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_said_to_be_wrong() {
        let read = |text| Query::read(text).map_err(|(_, text)| text);
        assert_eq!(read("").unwrap(), Query { limit: LIMIT, sort: Sort::Lag });
        assert_eq!(read("sort=path&limit=7").unwrap(), Query { limit: 7, sort: Sort::Path });
        for (text, says) in [
            ("limit=0", "limit: expected a number from 1 to 100000, found \"0\""),
            ("limit=%2B7", "limit: expected"),
            ("limit=many", "limit: expected"),
            ("sort=size", "sort: expected lag or path"),
            ("order=lag", "there is limit and sort"),
            ("limit=1&sort=lag&limit=1", "limit: expected once"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
