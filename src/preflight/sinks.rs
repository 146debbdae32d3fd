//! Sinks: whether they are reached, are ready, take a line, give it back, and have the same time.

use super::certificates;
use super::finding::{Finding, Level};
use super::served;
use super::trial::{LABELS, Line};
use super::trust::Trust;
use crate::options;
use crate::push::proxy::Way;
use crate::push::{self, Client};
use crate::verdict::{Answer, History, Verdict, judge};
use config::{Config, Loki, Sink, SinkKind};
use perf::clock::unix_ns;
use serde_json::json;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;
use ureq::http::Uri;

/// Longer than that, for an address and for a connection, nobody waits here.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// What clocks that are kept by NTP never differ by.
const CLOCK_S_MAX: f64 = 5.0;

#[must_use]
pub fn look(config: &Config, push: bool) -> Vec<Finding> {
    let of = |sink: &Sink| {
        let key = format!("sinks.{}", sink.name);
        let named = move |finding: Finding| finding.of(key.clone());
        one(sink, push).into_iter().map(named).collect::<Vec<_>>()
    };
    config.sinks.iter().flat_map(of).collect()
}

fn one(sink: &Sink, push: bool) -> Vec<Finding> {
    let SinkKind::Loki(loki) = &sink.kind;
    let options = options::client(sink);
    let (address, stream) = address(&options);
    let mut found = vec![address];
    let Some(stream) = stream else { return found };
    found.extend(certificate(stream, &options));
    match Client::new(&options) {
        Ok(client) => found.extend(ask(&client, &options, loki, push)),
        Err(message) => {
            found.push(Finding::of_message(Level::NoGo, "sink_client", &message));
        }
    }
    found
}

fn ask(client: &Client, options: &push::Options, loki: &Loki, push: bool) -> Vec<Finding> {
    let (ready, mut offset) = timed(|| client.get("/ready", &loki.tenant));
    let mut found = vec![judge_ready(&ready, &options.url)];
    let is_broken = matches!(ready, Answer::Broken(_));
    if push && !is_broken {
        let line = Line::new();
        let (answer, pushed_offset) = timed(|| line.push(client, &loki.tenant));
        offset = pushed_offset.or(offset);
        let finding = judge_push(&answer, &options.key);
        let is_taken = finding.level == Level::Ok;
        found.push(finding);
        if is_taken {
            let (answer, is_there) = line.query(client, &loki.tenant);
            found.push(judge_query(&answer, is_there));
        }
    }
    found.extend(offset.map(|offset_s| judge_clock(offset_s, loki)));
    found
}

/// An answer, and how far our clock is ahead of the sink's, in seconds, where it says its time.
fn timed(ask: impl FnOnce() -> push::Reply) -> (Answer, Option<f64>) {
    let start_ns = unix_ns();
    let reply = ask();
    let middle_s = (start_ns + (unix_ns() - start_ns) / 2) as f64 / 1e9;
    // Its Date is in whole seconds.
    let offset = reply.date_unix_s.map(|date_s| middle_s - (date_s as f64 + 0.5));
    (reply.answer, offset)
}

/// Where connections go: the sink's address, or that of the proxy before it.
fn address(options: &push::Options) -> (Finding, Option<TcpStream>) {
    const NAME: &str = "sink_address";
    let (host, port, through) = match endpoint(options) {
        Ok(endpoint) => endpoint,
        Err(message) => return (Finding::of_message(Level::NoGo, NAME, &message), None),
    };
    let what = format!("{through}{host}:{port}");
    let limit = options.timeout.min(CONNECT_TIME_MAX);
    let addresses = match resolve(&host, port, limit) {
        Ok(addresses) if !addresses.is_empty() => addresses,
        found => {
            let error = found.err().unwrap_or_else(|| "it has no address".into());
            let fix = format!(
                "correct {}.url, or the name service of this host (getent hosts {host})",
                options.key
            );
            let found = format!("{what}: {host} does not resolve: {error}");
            return (Finding::no_go(NAME, found, fix), None);
        }
    };
    let mut errors = Vec::new();
    for address in &addresses {
        match TcpStream::connect_timeout(address, limit) {
            Ok(stream) => {
                let figures = json!({ "address": address.to_string() });
                let found = format!("{what} accepts connections at {address}");
                return (Finding::ok(NAME, found).figures(figures), Some(stream));
            }
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    let fix = format!(
        "start the sink, open the way to it (firewall, proxy), or correct {}.url",
        options.key
    );
    let found = format!("{what} cannot be reached: {}", errors.join(", "));
    (Finding::no_go(NAME, found, fix), None)
}

/// Of a sink with TLS; one behind a proxy is not looked at.
fn certificate(stream: TcpStream, options: &push::Options) -> Option<Finding> {
    let (host, _, through) = endpoint(options).ok()?;
    if !options.url.starts_with("https:") || !through.is_empty() {
        return None;
    }
    let name = options.tls.server_name.as_deref().unwrap_or(&host);
    let limit = options.timeout.min(CONNECT_TIME_MAX);
    let shown = served::certificates(stream, name, limit);
    certificates::of_server(&shown, Trust::of(&options.tls, name).as_ref())
}

fn endpoint(options: &push::Options) -> Result<(String, u16, &'static str), String> {
    let url: Uri = options.url.parse().map_err(|error| format!("{}.url: {error}", options.key))?;
    let key = format!("{}.proxy", options.key);
    let port_of = |uri: &Uri| {
        let port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        uri.port_u16().unwrap_or(port)
    };
    let host = |uri: &Uri| uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let way = Way::choose(&options.proxy, &url, &key, &|name: &str| std::env::var(name).ok())?;
    Ok(match way {
        Way::Direct => (host(&url), port_of(&url), ""),
        Way::Tunnel(proxy) => (proxy.host().to_owned(), proxy.port(), "the proxy "),
        Way::Forward { proxy, .. } => (host(&proxy), port_of(&proxy), "the proxy "),
    })
}

/// The lookup cannot be ended: where it takes too long, its thread is left to itself.
fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    let (tell, told) = mpsc::channel();
    let name = host.to_owned();
    std::thread::spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody may be waiting any more.
        let _ = tell.send(found.map_err(|error| error.to_string()));
    });
    told.recv_timeout(limit).unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

fn judge_ready(answer: &Answer, url: &str) -> Finding {
    const NAME: &str = "sink_ready";
    let tls = if url.starts_with("https:") { "TLS works; " } else { "" };
    match answer {
        Answer::Broken(error) => {
            let (found, fix) = error
                .split_once("; ")
                .unwrap_or((error, "look after the sink, and what is before it"));
            let name = if tls.is_empty() { NAME } else { "sink_tls" };
            Finding::no_go(name, found, fix)
        }
        Answer::Status { code: code @ 200..=299, .. } => {
            Finding::ok(NAME, format!("{tls}GET /ready answers {code}"))
        }
        Answer::Status { code: 429 | 500..=599, .. } => Finding::no_go(
            NAME,
            format!("{tls}GET /ready answers {answer}"),
            "wait until it answers 200; Loki's own log says what it waits for",
        ),
        Answer::Status { code, .. } => Finding::ok(
            NAME,
            format!("{tls}GET /ready is not served there ({code}); the push tells"),
        ),
    }
}

fn judge_push(answer: &Answer, key: &str) -> Finding {
    const NAME: &str = "sink_push";
    let history =
        History { single: true, one_stream: true, large: false, failures: 1, others_pass: false };
    let verdict = judge(answer, &history);
    let code = match answer {
        Answer::Status { code, .. } => Some(*code),
        Answer::Broken(_) => None,
    };
    let level = match (&verdict, code) {
        (Verdict::Accepted, _) => Level::Ok,
        (_, Some(429)) => Level::Warning,
        _ => Level::NoGo,
    };
    let found = match verdict {
        Verdict::Accepted => format!("a line in {LABELS} was accepted"),
        Verdict::Retry { .. } => format!("a line was not taken now: {answer}"),
        Verdict::Hold => format!("the sink refuses service: {answer}"),
        _ => format!("a line was refused: {answer}"),
    };
    Finding::at(level, NAME, found, fix(code, key)).figures(json!({ "status": code }))
}

/// What the operator can do about an answer.
fn fix(code: Option<u16>, key: &str) -> String {
    match code {
        Some(401) => format!(
            "correct {key}.auth (user, password, token), and set {key}.tenant where Loki has several tenants"
        ),
        Some(403) => format!("have this user and the tenant in {key}.tenant allowed to push there"),
        Some(404 | 405) => format!("correct {key}.url: POST /loki/api/v1/push has to be behind it"),
        Some(407) => format!("put the proxy's user and password in {key}.proxy"),
        Some(300..=399) => format!("write the url to which it leads in {key}.url"),
        Some(429) => {
            "wait, or raise Loki's limits (ingestion_rate_mb, per_stream_rate_limit)".into()
        }
        Some(400 | 422) => {
            format!(
                "see what Loki says; {key}.limits have to be as Loki's own, and clocks have to agree"
            )
        }
        Some(500..=599) => "see Loki's own log, and wait until it takes lines".into(),
        _ => format!("look after the sink, and what is before it; {key}.url names it"),
    }
}

fn judge_query(answer: &Answer, is_there: bool) -> Finding {
    const NAME: &str = "sink_query";
    match answer {
        _ if is_there => Finding::ok(NAME, "the line was found by a query"),
        Answer::Status { code: code @ (401 | 403..=405), .. } => {
            Finding::ok(NAME, format!("not asked for: queries are not served there ({code})"))
        }
        Answer::Status { code: 200, .. } => Finding::warning(
            NAME,
            "the line was accepted, and a query does not find it after some seconds",
            "look for it in Grafana; if it never comes, see the log of Loki's ingesters",
        ),
        _ => Finding::warning(
            NAME,
            format!("queries fail: {answer}"),
            "see the log of Loki's queriers",
        ),
    }
}

/// `offset_s`: how far our clock is ahead.
fn judge_clock(offset_s: f64, loki: &Loki) -> Finding {
    let (future_s, age_s) =
        (loki.limits.future_max.as_secs_f64(), loki.limits.age_max.as_secs_f64());
    let level = match offset_s {
        offset if offset > future_s || -offset > age_s => Level::NoGo,
        offset if offset.abs() > CLOCK_S_MAX => Level::Warning,
        _ => Level::Ok,
    };
    let side = if offset_s > 0.0 { "ahead of" } else { "behind" };
    let found = match level {
        Level::Ok => "agrees with this one within its second or so".to_owned(),
        Level::Warning => format!("this clock is {:.0} s {side} the sink's", offset_s.abs()),
        Level::NoGo => format!(
            "this clock is {:.0} s {side} the sink's, which refuses lines from the future beyond {future_s} s and \
             of an age beyond {age_s} s",
            offset_s.abs()
        ),
    };
    let rounded = (offset_s * 10.0).round() / 10.0;
    let fix = "set both clocks by NTP (timedatectl set-ntp true; chronyc tracking shows which one is off)";
    Finding::at(level, "sink_clock", found, fix).figures(json!({ "ahead_seconds": rounded }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after: None, text: "words".into() }
    }

    #[test]
    fn answers_are_judged_with_a_fix() {
        for (code, level, words) in [
            (204, Level::Ok, ""),
            (429, Level::Warning, "Loki's limits"),
            (401, Level::NoGo, "sinks.a.auth"),
            (403, Level::NoGo, "sinks.a.tenant"),
            (404, Level::NoGo, "sinks.a.url"),
            (302, Level::NoGo, "sinks.a.url"),
            (400, Level::NoGo, "sinks.a.limits"),
            (503, Level::NoGo, "Loki's own log"),
            (260, Level::NoGo, "look after the sink"),
        ] {
            let found = judge_push(&status(code), "sinks.a");
            assert_eq!(found.level, level, "{code}: {found:?}");
            assert!(found.fix.unwrap_or_default().contains(words), "{code}");
        }
        assert_eq!(judge_push(&Answer::Broken("x".into()), "sinks.a").level, Level::NoGo);
        let ready = |code| judge_ready(&status(code), "http://h").level;
        assert_eq!([200, 404, 401, 503].map(ready), [Level::Ok, Level::Ok, Level::Ok, Level::NoGo]);
        let query = |code, is_there| judge_query(&status(code), is_there).level;
        assert_eq!((query(200, true), query(404, false)), (Level::Ok, Level::Ok));
        assert_eq!((query(200, false), query(500, false)), (Level::Warning, Level::Warning));
    }

    #[test]
    fn clocks_are_held_against_what_the_sink_takes() {
        let text = "version: 1\ndata_dir: /d\nsinks: { loki: { url: \"http://h\", limits: { future_max: 10m } } }\n";
        let config = config::parse(text, "f", &|_| None).unwrap();
        let SinkKind::Loki(loki) = &config.sinks[0].kind;
        let level = |offset_s| judge_clock(offset_s, loki).level;
        assert_eq!([0.4, -4.9, 5.0].map(level), [Level::Ok; 3]);
        assert_eq!([5.1, -601.0, 600.0].map(level), [Level::Warning; 3]);
        assert_eq!([601.0, -1e9].map(level), [Level::NoGo; 2]);
    }
}
