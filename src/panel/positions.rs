//! How far each file is read, and how much of it is not.

use super::{Panel, Wrong};
use crate::health::rounded;
use crate::lock;
use crate::sightings::Sighting;
use hyper::StatusCode;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::Serialize;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Shards answer at once, or when their log has room again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Who asks again so soon gets what is known.
const FRESH_TIME: Duration = Duration::from_secs(1);
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

/// What was seen last. All who ask within a second get the same, so that shards are not asked at the pace of
/// whoever asks.
#[derive(Default)]
pub struct Listing {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    all: Arc<Found>,
    /// Somebody is looking.
    busy: bool,
}

#[derive(Default)]
struct Found {
    /// By path.
    all: Vec<Position>,
    /// Where those are there that lag most, in that order.
    by_lag: Vec<usize>,
}

/// Whoever looks; what is dropped before it has looked makes way for the next.
struct Looker(Arc<Listing>);

impl Drop for Looker {
    fn drop(&mut self) {
        lock(&self.0.seen).busy = false;
    }
}

impl Panel {
    pub(super) async fn positions(&self, query: &str) -> Result<Value, Wrong> {
        let query = Query::read(query)?;
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        loop {
            let looker = {
                let mut seen = lock(&self.listing.seen);
                if seen.at.is_some_and(|at| at.elapsed() < FRESH_TIME) {
                    let found = seen.all.clone();
                    drop(seen);
                    return Ok(found.listed(&query));
                }
                let free = !std::mem::replace(&mut seen.busy, true);
                free.then(|| Looker(self.listing.clone()))
            };
            if let Some(looker) = looker {
                self.look(looker, deadline).await?;
            }
            in_time(deadline)?;
            glommio::timer::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn look(&self, looker: Looker, deadline: Instant) -> Result<(), Wrong> {
        let asked: Vec<u64> = self.sightings.iter().map(|shard| shard.ask()).collect();
        let mut seen = Vec::new();
        for (shard, asked) in self.sightings.iter().zip(asked) {
            seen.push(loop {
                if let Some(seen) = shard.answer(asked) {
                    break seen;
                }
                in_time(deadline)?;
                glommio::timer::sleep(LOOK_INTERVAL).await;
            });
        }
        // There may be many, and one may be on a disk that does not answer: that is for no thread of a shard,
        // nor for its CPU.
        let cpu = self.egress_cpu;
        let look = move || {
            let _ = shards::topology::pin(cpu);
            let of = |(shard, seen): (usize, Arc<Vec<Sighting>>)| {
                seen.iter().map(|seen| position(shard, seen)).collect::<Vec<_>>()
            };
            let found = Found::of(seen.into_iter().enumerate().flat_map(of).collect());
            let mut seen = lock(&looker.0.seen);
            (seen.at, seen.all) = (Some(Instant::now()), Arc::new(found));
        };
        let started = std::thread::Builder::new().name("positions".into()).spawn(look);
        started.map(drop).map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
    }
}

fn in_time(deadline: Instant) -> Result<(), Wrong> {
    if Instant::now() < deadline {
        return Ok(());
    }
    let text = "a shard or a disk takes too long; try again later";
    Err((StatusCode::SERVICE_UNAVAILABLE, text.to_owned()))
}

impl Found {
    fn of(mut all: Vec<Position>) -> Found {
        all.sort_by(|a, b| a.path.cmp(&b.path));
        let mut by_lag: Vec<usize> = (0..all.len()).collect();
        by_lag.sort_by_key(|at| Reverse(all[*at].lag_bytes));
        Found { all, by_lag }
    }

    fn listed(&self, query: &Query) -> Value {
        let first = match query.sort {
            Sort::Path => self.all.iter().take(query.limit).collect::<Vec<_>>(),
            Sort::Lag => self.by_lag.iter().take(query.limit).map(|at| &self.all[*at]).collect(),
        };
        let lag_bytes: u64 = self.all.iter().map(|one| one.lag_bytes).sum();
        json!({ "positions": first, "total": self.all.len(), "lag_bytes": lag_bytes })
    }
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
        lag_seconds: rounded(lag.as_secs_f64()),
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
