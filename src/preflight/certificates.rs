//! The files of TLS: whether they can be used, belong together, and for how long.

use super::clients;
use super::finding::{Finding, Level};
use super::trust::Trust;
use crate::options;
use crate::push::{self, tls};
use config::Config;
use perf::clock::unix_ns;
use serde_json::json;
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY_S: i64 = 86_400;
/// Who renews by hand needs as long.
const DAYS_MIN: i64 = 14;

#[must_use]
pub fn look(config: &Config) -> Vec<Finding> {
    clients(config).flat_map(|client| of_sink(&client)).collect()
}

fn of_sink(client: &push::Options) -> Vec<Finding> {
    let sink = &client.key;
    if client.tls.files().next().is_none() {
        return Vec::new();
    }
    let mut found = vec![match tls::config(&client.tls, &|key| format!("{sink}.tls.{key}")) {
        Ok(_) => Finding::ok("tls_files", "can be used, and belong together").of(sink.as_str()),
        Err(message) => Finding::of_message(Level::NoGo, "tls_files", &message).of(sink.as_str()),
    }];
    found.extend(file(sink, "ca_file", client.tls.ca_file.as_deref()));
    found.extend(file(sink, "cert_file", client.tls.cert_file.as_deref()));
    found
}

/// Of both listeners.
#[must_use]
pub fn of_listeners(config: &Config) -> Vec<Finding> {
    let tls = options::guard(config).tls.into_iter().zip(["server", "metrics"]);
    tls.filter_map(|(tls, section)| Some((tls?, section)))
        .flat_map(|(tls, section)| {
            const NAME: &str = "listener_tls_files";
            let first = match tls.clone().read(section) {
                Ok(_) => Finding::ok(NAME, "can be used, and belong together").of(section),
                Err(message) => Finding::of_message(Level::NoGo, NAME, &message).of(section),
            };
            let cert = file(section, "cert_file", Some(&tls.cert_file));
            let clients = file(section, "client_ca_file", tls.client_ca_file.as_deref());
            [Some(first), cert, clients].into_iter().flatten()
        })
        .collect()
}

/// How long the certificates in a file are valid; of authorities, one may do.
fn file(section: &str, key: &str, file: Option<&Path>) -> Option<Finding> {
    let (file, is_bundle) = (file?, key.ends_with("ca_file"));
    let key = format!("{section}.tls.{key}");
    // What cannot be read was just said.
    let certificates = tls::certificates(&key, file).ok()?;
    let terms: Vec<Term> = certificates.iter().filter_map(|der| Term::of(der)).collect();
    let fix = format!("renew it, and write it to {}; it is read again by itself", file.display());
    let now_s = unix_ns() / 1_000_000_000;
    let judged = || judge("certificates", &terms, now_s, is_bundle, fix).of(key);
    (!terms.is_empty()).then(judged)
}

/// Those that a sink shows, its own first; none where it shows none that can be read. One that has expired does no harm
/// where the way to the authority goes past it, as past a root that another one has signed anew.
pub fn of_server(shown: &[Vec<u8>], trust: Option<&Trust>) -> Option<Finding> {
    const NAME: &str = "sink_certificate";
    let terms: Vec<Term> = shown.iter().filter_map(|der| Term::of(der)).collect();
    let now_s = unix_ns() / 1_000_000_000;
    let fix = "renew the sink's certificate, on the side of the sink or of the gateway before it";
    if terms.is_empty() {
        return None;
    }
    let holds = |at_s| trust.is_some_and(|trust| trust.verify(shown, at_s).is_ok());
    if !holds(now_s) {
        return Some(judge(NAME, &terms, now_s, false, fix.into()));
    }
    let (used, unused) = split(terms, now_s, holds);
    let mut found = judge(NAME, &used, now_s, false, fix.into());
    let unused: Vec<String> = unused
        .iter()
        .filter(|term| term.level(now_s) > Level::Ok)
        .map(|term| term.text(now_s))
        .collect();
    if !unused.is_empty() {
        let note = format!("{}; shown, and not needed: {}", found.found, unused.join(", "));
        found.found = note;
    }
    Some(found)
}

/// Those by whose end it holds no more, and the others: of what it holds without.
fn split(terms: Vec<Term>, now_s: i64, holds: impl Fn(i64) -> bool) -> (Vec<Term>, Vec<Term>) {
    let mut ends: Vec<i64> =
        terms.iter().map(|term| term.to_s).filter(|end| *end >= now_s).collect();
    ends.sort_unstable();
    let end = ends.into_iter().find(|end| !holds(end + 1));
    let end = end.unwrap_or(now_s);
    let is_unused = |term: &Term| term.to_s < end || term.from_s > now_s;
    let (unused, used): (Vec<Term>, Vec<Term>) = terms.into_iter().partition(is_unused);
    (used, unused)
}

/// Of what and when a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone)]
struct Term {
    subject: String,
    from_s: i64,
    to_s: i64,
}

impl Term {
    fn of(der: &[u8]) -> Option<Term> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Term {
            subject: certificate.subject().to_string(),
            from_s: validity.not_before.timestamp(),
            to_s: validity.not_after.timestamp(),
        })
    }

    fn level(&self, now_s: i64) -> Level {
        match self.to_s - now_s {
            _ if self.from_s > now_s => Level::NoGo,
            left if left <= 0 => Level::NoGo,
            left if left < DAYS_MIN * DAY_S => Level::Warning,
            _ => Level::Ok,
        }
    }

    fn text(&self, now_s: i64) -> String {
        let subject = &self.subject;
        let days = (self.to_s - now_s) / DAY_S;
        if self.from_s > now_s {
            format!("{subject}: not valid before {}", time(self.from_s))
        } else if self.to_s <= now_s {
            format!("{subject}: expired on {}, {} days ago", time(self.to_s), -days)
        } else {
            format!("{subject}: expires on {}, in {days} days", time(self.to_s))
        }
    }
}

/// Certificates may be valid for longer than nanoseconds can tell.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
}

/// Of a bundle one authority may do: those that have expired are a warning where others have not.
fn judge(name: &'static str, terms: &[Term], now_s: i64, is_bundle: bool, fix: String) -> Finding {
    let levels = || terms.iter().map(|term| term.level(now_s));
    let worst = levels().max().unwrap_or(Level::Ok);
    let some_valid = is_bundle && levels().any(|level| level < Level::NoGo);
    let level = if some_valid { worst.min(Level::Warning) } else { worst };
    // The first to expire, or those that are not well.
    let unwell: Vec<&Term> = terms.iter().filter(|term| term.level(now_s) > Level::Ok).collect();
    let first = terms.iter().min_by_key(|term| term.to_s);
    let shown = if unwell.is_empty() { first.into_iter().collect() } else { unwell };
    let texts: Vec<String> = shown.iter().map(|term| term.text(now_s)).collect();
    let found = format!("{} certificates; {}", terms.len(), texts.join(", "));
    let days = terms.iter().map(|term| (term.to_s - now_s).div_euclid(DAY_S)).min();
    Finding::at(level, name, found, fix).figures(json!({ "days_left": days }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_that_are_left_decide() {
        let now_s = 1_000 * DAY_S;
        let term = |from, to| Term {
            subject: "CN=x".into(),
            from_s: now_s + from * DAY_S,
            to_s: now_s + to * DAY_S,
        };
        let judged = |terms: &[Term], bundle| judge("x", terms, now_s, bundle, "renew it".into());
        for (from, to, level, text) in [
            (-9, 14, Level::Ok, "in 14 days"),
            (-9, 13, Level::Warning, "in 13 days"),
            (-9, -2, Level::NoGo, "2 days ago"),
            (-9, 0, Level::NoGo, "0 days ago"),
            (1, 99, Level::NoGo, "not valid before"),
            (-9, 800_000, Level::Ok, "in 800000 days"),
        ] {
            let found = judged(&[term(from, to)], false);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.found.contains(text), "{found:?}");
        }
        let mixed = [term(-9, -2), term(-9, 99)];
        assert_eq!(judged(&mixed, false).level, Level::NoGo);
        let found = judged(&mixed, true);
        assert_eq!((found.level, &found.figures["days_left"]), (Level::Warning, &(-2).into()));
    }
}
