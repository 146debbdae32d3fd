//! Faults of Loki and of the way to it, of TLS, and of secrets.

use super::{Report, configured, good, look, report, small};
use crate::bed::{BINARY, Bed};
use crate::gateway::front::{Authority, Gateway, Issued, Manner, server, write};
use crate::loki::loki;
use bench::stub::{Accounting, Away, Fault, Options};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A good bed behind a gateway.
fn behind(manner: Manner) -> (Bed, Gateway) {
    let mut bed = good();
    let gateway = Gateway::start(bed.stub.addr(), None, manner);
    bed.setup.url = format!("http://{}", gateway.address);
    (bed, gateway)
}

fn answer(status: &str, text: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

#[test]
fn a_loki_that_is_away_or_unknown_is_no_go() {
    let mut bed = good();
    bed.stub.go_away(Away::Refusing);
    let found = look(&bed);
    found.assert("sink_address", "no-go", "Connection refused", "start the sink");
    found.assert_otherwise_well(&["sink_address"]);
    bed.setup.url = "http://loki.invalid:3100".into();
    look(&bed).assert("sink_address", "no-go", "loki.invalid does not resolve", "sinks.loki.url");
}

#[test]
fn a_loki_that_is_not_ready_is_no_go_and_the_push_is_tried_all_the_same() {
    let words = "Ingester not ready: waiting for 15s after being ready";
    let (bed, _gateway) =
        behind(Manner::AnswerFor("/ready", answer("503 Service Unavailable", words)));
    let found = look(&bed);
    found.assert("sink_ready", "no-go", words, "wait until it answers 200");
    found.assert("sink_push", "ok", "accepted", "");
    found.assert_otherwise_well(&["sink_ready"]);
}

#[test]
fn queries_that_fail_are_a_warning_only() {
    let manner =
        Manner::AnswerFor("/loki/api/v1/query_range", answer("502 Bad Gateway", "no querier"));
    let (bed, gateway) = behind(manner);
    let found = look(&bed);
    found.assert("sink_query", "warning", "no querier", "Loki's queriers");
    found.assert_otherwise_well(&["sink_query"]);
    assert_eq!(found.code, Some(1));
    let nothing = r#"{"status":"success","data":{"resultType":"streams","result":[]}}"#;
    gateway.set(Manner::AnswerFor("/loki/api/v1/query_range", answer("200 OK", nothing)));
    look(&bed).assert(
        "sink_query",
        "warning",
        "a query does not find it",
        "look for it in Grafana",
    );
    gateway.set(Manner::AnswerFor("/loki/api/v1/query_range", answer("403 Forbidden", "no")));
    look(&bed).assert("sink_query", "ok", "queries are not served there (403)", "");
}

#[test]
fn a_real_loki_takes_the_line_and_gives_it_back() {
    let Some(url) = loki() else { return };
    let mut bed = good();
    bed.setup.url = url;
    let found = look(&bed);
    found.assert("sink_ready", "ok", "GET /ready answers 200", "");
    found.assert("sink_push", "ok", "accepted", "");
    found.assert("sink_query", "ok", "the line was found by a query", "");
}

#[test]
fn refusals_of_the_push_are_told_with_what_to_do() {
    let mut bed = good();
    for (status, fix) in [
        (401, "correct sinks.loki.auth"),
        (404, "correct sinks.loki.url"),
        (503, "see Loki's own log"),
        (400, "sinks.loki.limits have to be as Loki's own"),
    ] {
        bed.stub.set_fault(Fault::answer(status, "as planted"));
        let found = look(&bed);
        found.assert("sink_push", "no-go", "as planted", fix);
        assert_eq!(found.finding("sink_push")["figures"]["status"], status);
    }
    bed.stub.set_fault(Fault::answer(429, "ingestion rate limit exceeded"));
    look(&bed).assert("sink_push", "warning", "rate limit", "raise Loki's limits");
    bed.stub.set_fault(Fault::Tenant { tenant: "team-a".into(), status: 403 });
    bed.setup.sink_keys.push("tenant: team-a".into());
    look(&bed).assert("sink_push", "no-go", "not for team-a", "the tenant in sinks.loki.tenant");
    bed.stub.heal();
    look(&bed).assert("sink_push", "ok", "accepted", "");
    assert_eq!(bed.stub.entries()[0].tenant, "team-a");
}

#[test]
fn a_loki_that_asks_for_a_tenant_is_told_from_one_that_does_not() {
    let options = Options { auth: true, keep_entries: 9, ..Options::new(Accounting::PerLine) };
    let mut bed = Bed::with(options);
    small(&mut bed);
    bed.append("a.log", "one\n");
    look(&bed).assert("sink_push", "no-go", "no org id", "set sinks.loki.tenant");
    bed.setup.sink_keys.push("tenant: me".into());
    look(&bed).assert_otherwise_well(&[]);
}

#[test]
fn a_clock_that_is_off_is_a_warning_and_beyond_the_sinks_limit_a_no_go() {
    let bed = good();
    bed.stub.set_clock_ahead(60);
    let found = look(&bed);
    found.assert("sink_clock", "warning", "behind the sink's", "timedatectl");
    found.assert_otherwise_well(&["sink_clock"]);
    bed.stub.set_clock_ahead(-3600);
    let found = look(&bed);
    found.assert("sink_clock", "no-go", "ahead of the sink's", "set both clocks by NTP");
    found.assert("sink_push", "no-go", "a line was refused", "clocks have to agree");
    let ahead = found.finding("sink_clock")["figures"]["ahead_seconds"].as_f64().unwrap();
    assert!((3590.0..3660.0).contains(&ahead), "{ahead}");
}

/// Since 1970: an hour more than so many days from now.
fn in_days(days: i64) -> Option<Duration> {
    let now_s = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    Some(Duration::from_secs(now_s.saturating_add_signed(days * 86_400 + 3600)))
}

/// With a certificate of one's own that is valid until so many days from now.
fn with_certificate(days: Option<i64>) -> (Bed, Gateway, Authority) {
    let mut bed = good();
    let authority = Authority::new();
    let tls = authority.server("localhost", Some(&authority));
    let gateway = Gateway::start(bed.stub.addr(), Some(tls), Manner::Pass);
    bed.setup.url = format!("https://localhost:{}", gateway.address.port());
    let until = days.and_then(in_days);
    use_certificate(&mut bed, &authority, &authority.issue_until("client", until));
    (bed, gateway, authority)
}

fn use_certificate(bed: &mut Bed, authority: &Authority, issued: &Issued) {
    let dir = bed.setup.dir.clone();
    let (ca, cert) = (authority.file(&dir), write(&dir, "cert.pem", &issued.cert));
    let key = write(&dir, "key.pem", &issued.key);
    private(&key);
    let text = |path: &Path| path.display().to_string();
    let keys = format!(
        "tls: {{ ca_file: {:?}, cert_file: {:?}, key_file: {:?} }}",
        text(&ca),
        text(&cert),
        text(&key)
    );
    bed.setup.sink_keys.push(keys);
}

fn private(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn certificates_are_held_against_the_calendar() {
    let (bed, _gateway, _) = with_certificate(None);
    let found = look(&bed);
    found.assert_otherwise_well(&[]);
    found.assert("sink_ready", "ok", "TLS works", "");
    found.assert("sink_certificate", "ok", "expires on", "");
    found.assert("certificates", "ok", "expires on", "");
    let (bed, _gateway, _) = with_certificate(Some(5));
    let found = look(&bed);
    found.assert("certificates", "warning", "in 5 days", "renew it");
    assert_eq!(found.finding("certificates")["figures"]["days_left"], 5);
    found.assert_otherwise_well(&["certificates"]);
    let (bed, _gateway, _) = with_certificate(Some(-3));
    let found = look(&bed);
    found.assert("certificates", "no-go", "expired on", "renew it");
}

#[test]
fn the_certificate_that_a_sink_shows_is_held_against_the_calendar_as_well() {
    let mut bed = good();
    let authority = Authority::new();
    let ca = authority.file(&bed.setup.dir).display().to_string();
    bed.setup.sink_keys.push(format!("tls: {{ ca_file: {ca:?} }}"));
    let mut shown = |days| {
        let issued = authority.issue_until("localhost", in_days(days));
        let gateway = Gateway::start(bed.stub.addr(), Some(server(&issued, None)), Manner::Pass);
        bed.setup.url = format!("https://localhost:{}", gateway.address.port());
        look(&bed)
    };
    let soon = shown(7);
    soon.assert("sink_certificate", "warning", "in 7 days", "renew the sink's certificate");
    soon.assert("sink_push", "ok", "accepted", "");
    soon.assert_otherwise_well(&["sink_certificate"]);
    let expired = shown(-7);
    expired.assert("sink_certificate", "no-go", "expired on", "renew the sink's certificate");
    expired.assert("sink_tls", "no-go", "expired", "renew the sink's certificate");
}

#[test]
fn an_expired_certificate_that_is_not_on_the_way_is_a_note() {
    let mut bed = good();
    let authority = Authority::new();
    let ca = authority.file(&bed.setup.dir).display().to_string();
    bed.setup.sink_keys.push(format!("tls: {{ ca_file: {ca:?} }}"));
    let mut shown = |own, behind| {
        let mut issued = authority.issue_until("localhost", in_days(own));
        issued.cert.push_str(&authority.issue_until("old root", in_days(behind)).cert);
        let gateway = Gateway::start(bed.stub.addr(), Some(server(&issued, None)), Manner::Pass);
        bed.setup.url = format!("https://localhost:{}", gateway.address.port());
        look(&bed)
    };
    let found = shown(90, -7);
    found.assert("sink_certificate", "ok", "in 90 days; shown, and not needed: ", "");
    found.assert("sink_certificate", "ok", "expired on", "");
    found.assert_otherwise_well(&[]);
    assert_eq!(found.finding("sink_certificate")["figures"]["days_left"], 90);
    shown(90, 3).assert("sink_certificate", "ok", "not needed: ", "");
    shown(7, -7).assert("sink_certificate", "warning", "in 7 days", "renew the sink's certificate");
    shown(-7, 90).assert("sink_certificate", "no-go", "expired on", "renew the sink's certificate");
}

#[test]
fn files_of_tls_that_cannot_be_used_are_named() {
    let (mut bed, _gateway, authority) = with_certificate(None);
    let (cert, other) = (authority.issue("client"), authority.issue("client"));
    bed.setup.sink_keys.pop();
    use_certificate(&mut bed, &authority, &Issued { cert: cert.cert.clone(), key: other.key });
    let found = look(&bed);
    found.assert(
        "tls_files",
        "no-go",
        "is no key for the certificate in",
        "the first certificate there",
    );
    found.assert("sink_client", "no-go", "is no key for the certificate in", "");
    fs::write(bed.setup.dir.join("cert.pem"), "no PEM\n").unwrap();
    look(&bed).assert("tls_files", "no-go", "expected certificates as PEM", "openssl x509");
    fs::remove_file(bed.setup.dir.join("cert.pem")).unwrap();
    look(&bed).assert("tls_files", "no-go", "cert.pem cannot be read", "check the path");
}

#[test]
fn a_sink_of_another_name_or_authority_fails_in_tls() {
    let mut bed = good();
    let authority = Authority::new();
    let gateway = Gateway::start(
        bed.stub.addr(),
        Some(authority.server("loki.internal", None)),
        Manner::Pass,
    );
    bed.setup.url = format!("https://localhost:{}", gateway.address.port());
    look(&bed).assert("sink_tls", "no-go", "UnknownIssuer", "sinks.loki.tls.ca_file");
    let ca = authority.file(&bed.setup.dir).display().to_string();
    bed.setup.sink_keys.push(format!("tls: {{ ca_file: {ca:?} }}"));
    look(&bed).assert("sink_tls", "no-go", "", "set sinks.loki.tls.server_name");
}

#[test]
fn a_secret_as_a_text_is_a_warning_and_where_everyone_reads_it_a_no_go() {
    let mut bed = good();
    let auth = |password: &str| format!("auth: {{ basic: {{ username: me, {password} }} }}");
    bed.setup.sink_keys.push(auth("password: s3cret"));
    let kept = look(&bed);
    kept.assert(
        "secrets",
        "warning",
        "sinks.loki.auth.basic.password",
        "put the secret in a variable",
    );
    kept.assert_otherwise_well(&["secrets"]);
    let config = configured(&bed, &bed.setup.yaml());
    let again = |bed: &Bed| -> Report {
        let file = bed.setup.dir.join("config.yaml");
        let password = ("PASSWORD", "s3cret");
        let args = ["preflight", "--json", "--config"];
        report(Command::new(BINARY).args(args).arg(file).envs([password]))
    };
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let open = again(&bed);
    open.assert("secrets", "no-go", "every user may read", "chmod 600");
    assert!(!open.document.to_string().contains("s3cret"));

    *bed.setup.sink_keys.last_mut().unwrap() = auth("password: \"${PASSWORD}\"");
    fs::write(&config, bed.setup.yaml()).unwrap();
    again(&bed).assert_otherwise_well(&[]);
    let file = write(&bed.setup.dir, "password", "s3cret\n");
    *bed.setup.sink_keys.last_mut().unwrap() =
        auth(&format!("password_file: {:?}", file.display().to_string()));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    look(&bed).assert("secrets", "warning", "every user may read", "chmod 600");
    private(&file);
    look(&bed).assert_otherwise_well(&[]);
    fs::remove_file(&file).unwrap();
    look(&bed).assert("sink_client", "no-go", "it cannot be read", "check the path");
}
