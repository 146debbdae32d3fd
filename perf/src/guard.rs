//! What is counted where connections and requests are turned away. Of the process, whatever configuration is in
//! force.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts};
use std::sync::LazyLock;

pub struct Counts {
    handshakes: IntCounterVec,
    refused: IntCounterVec,
    expiry: IntGaugeVec,
    /// Calls that changed something, or were to, and are not in the audit log.
    pub unaudited: IntCounter,
}

static COUNTS: LazyLock<Counts> = LazyLock::new(|| {
    let counters = |name: &str, help: &str| {
        IntCounterVec::new(Opts::new(name, help), &["listener", "reason"]).expect("a valid name")
    };
    Counts {
        handshakes: counters(
            "log_capturer_tls_handshake_errors_total",
            "Connections on which TLS did not begin, by why.",
        ),
        refused: counters(
            "log_capturer_auth_refused_total",
            "Requests that were refused for who asks: without or with wrong credentials, without the role, or too many.",
        ),
        expiry: IntGaugeVec::new(
            Opts::new(
                "log_capturer_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that the listener shows expires, in seconds since 1970.",
            ),
            &["listener"],
        )
        .expect("a valid name"),
        unaudited: IntCounter::new(
            "log_capturer_audit_lost_total",
            "Calls that are not in the audit log: too many at once were refused, or the disk failed.",
        )
        .expect("a valid name"),
    }
});

#[must_use]
pub fn counts() -> &'static Counts {
    &COUNTS
}

impl Counts {
    #[must_use]
    pub fn handshake(&self, listener: &str, reason: &str) -> IntCounter {
        self.handshakes.with_label_values(&[listener, reason])
    }

    #[must_use]
    pub fn refused(&self, listener: &str, reason: &str) -> IntCounter {
        self.refused.with_label_values(&[listener, reason])
    }

    /// None: it shows none.
    pub fn expiry(&self, listener: &str, at_s: Option<i64>) {
        match at_s {
            Some(at_s) => self.expiry.with_label_values(&[listener]).set(at_s),
            None => {
                let _ = self.expiry.remove_label_values(&[listener]);
            }
        }
    }

    /// To be registered.
    pub fn families(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.handshakes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.expiry.clone()),
            Box::new(self.unaudited.clone()),
        ]
    }
}
