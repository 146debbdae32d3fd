//! Which configuration is in force, by HTTP, and how it is changed.

use super::{Panel, Wrong, object};
use crate::appliance::Report;
use crate::lock;
use crate::settings::history::{History, Version};
use crate::settings::{Asked, Outcome, What};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Number, Value, json};
use std::sync::mpsc;
use std::time::Duration;

/// A version.
pub(super) const ORDER_BYTES_MAX: usize = 1 << 10;
/// Above, not every whole number has a float.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Where the API asks the control thread.
pub struct Control {
    report: mpsc::Sender<Report>,
}

impl Control {
    #[must_use]
    pub fn new(report: mpsc::Sender<Report>) -> Control {
        Control { report }
    }

    /// Asks for a change, and waits for what becomes of it.
    async fn change(&self, what: What) -> Outcome {
        let (asked, answer) = Asked::new(what);
        // Nobody listens any more where the process is leaving.
        let _ = self.report.send(Report::Change(asked));
        loop {
            let outcome = lock(&answer).take();
            match outcome {
                Some(outcome) => return outcome,
                None => glommio::timer::sleep(LOOK_INTERVAL).await,
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    version: Option<Number>,
}

impl Order {
    fn version(&self) -> Result<Option<u64>, String> {
        let Some(version) = &self.version else { return Ok(None) };
        // JSON knows no integers: 3.0 is 3.
        let whole = version.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(n));
        let whole = || whole?.to_string().parse().ok();
        let number = version.as_u64().or_else(whole);
        number.map(Some).ok_or_else(|| format!("{version} is no number of a version"))
    }
}

impl Panel {
    pub(super) async fn reload(&self) -> Result<Value, Wrong> {
        told(self.control.change(What::Reload).await)
    }

    pub(super) async fn rollback(&self, body: &[u8]) -> Result<Value, Wrong> {
        told(self.control.change(What::Rollback(read_order(body)?)).await)
    }

    pub(super) fn history(&self) -> Result<Value, Wrong> {
        let versions = History::of(&self.data_dir).versions();
        let failed = |error: &dyn ToString| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let versions = versions.map_err(|error| failed(&error))?;
        Ok(json!({ "versions": versions.iter().map(shown).collect::<Vec<_>>() }))
    }
}

pub fn shown(version: &Version) -> Value {
    json!({
        "version": version.number,
        "since": version.since.to_string(),
        "hash": version.hash,
    })
}

/// Which version is asked for.
fn read_order(body: &[u8]) -> Result<Option<u64>, Wrong> {
    object(body).and_then(|order: Order| order.version()).map_err(|error| {
        (StatusCode::BAD_REQUEST, format!("expected {{\"version\": 3}} or nothing: {error}"))
    })
}

/// What an outcome is answered with.
pub fn status(outcome: &Outcome) -> StatusCode {
    match outcome {
        Outcome::Changed { .. } | Outcome::Unchanged => StatusCode::OK,
        Outcome::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::Unknown(_) => StatusCode::NOT_FOUND,
        Outcome::Busy(_) => StatusCode::CONFLICT,
        Outcome::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn told(outcome: Outcome) -> Result<Value, Wrong> {
    let status = status(&outcome);
    match outcome {
        Outcome::Changed { changes, warning } => {
            Ok(json!({ "outcome": "changed", "changes": changes, "warning": warning }))
        }
        Outcome::Unchanged => Ok(json!({ "outcome": "unchanged", "changes": [], "warning": null })),
        Outcome::Refused(why)
        | Outcome::Unknown(why)
        | Outcome::Busy(why)
        | Outcome::Failed(why) => Err((status, why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_or_said_to_be_wrong() {
        assert_eq!(read_order(b" ").unwrap(), None);
        for body in [&br#"{"version": 3}"#[..], br#"{"version": 3.0}"#] {
            assert_eq!(read_order(body).unwrap(), Some(3));
        }
        for body in
            [&b"[3]"[..], b"3", br#"{"version": -1}"#, br#"{"version": 1.5}"#, br#"{"versoin": 1}"#]
        {
            let (code, text) = read_order(body).unwrap_err();
            assert_eq!(code, StatusCode::BAD_REQUEST);
            assert!(text.starts_with("expected {\"version\": 3}"), "{text}");
        }
    }
}
