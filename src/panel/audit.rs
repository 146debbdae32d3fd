//! The audit log by HTTP.

use super::{Panel, Wrong};
use crate::guard::audit::SHOWN_MAX;
use hyper::StatusCode;
use serde_json::{Value, json};

const SHOWN: usize = 100;

impl Panel {
    /// Newest first.
    pub(super) fn audit(&self, query: &str) -> Result<Value, Wrong> {
        let limit = read_limit(query).map_err(|text| (StatusCode::BAD_REQUEST, text))?;
        Ok(json!({ "entries": self.guard.audit.last(limit) }))
    }
}

fn read_limit(query: &str) -> Result<usize, String> {
    let mut limit = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "limit" {
            return Err(format!("{name}: unknown; there is limit"));
        }
        if limit.is_some() {
            return Err("limit: expected once, found twice".into());
        }
        let number = value.parse().ok().filter(|number| (1..=SHOWN_MAX).contains(number));
        let wrong = || format!("limit: expected a number from 1 to {SHOWN_MAX}, found {value:?}");
        limit = Some(number.ok_or_else(wrong)?);
    }
    Ok(limit.unwrap_or(SHOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_or_said_to_be_wrong() {
        assert_eq!((read_limit(""), read_limit("limit=7")), (Ok(SHOWN), Ok(7)));
        for wrong in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=1", "count=3"] {
            assert!(read_limit(wrong).is_err(), "{wrong}");
        }
    }
}
