//! Handshakes, right and wrong ones, and certificates that change.

use super::client::{Keys, Talk};
use super::{Ground, bearer, metric, put, start, tokens};
use crate::bed::{Bed, PATIENCE, eventually, stop};
use crate::clients::{has, runs};
use crate::gateway::front::{Authority, Issued, write};
use bench::product::Product;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, SystemTime};

const RAW: &str = "/loki/api/v1/raw?job=raw";
const FAILED: &str = "log_capturer_tls_handshake_errors_total";

/// Both listeners with TLS.
fn secured(ground: &Ground, clients: Option<&Authority>) -> Bed {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![ground.tls(&bed.setup.dir, clients)];
    bed.setup.metrics_keys = vec![ground.tls(&bed.setup.dir, clients)];
    bed
}

fn failed(product: &Product, keys: &Keys, listener: &str, reason: &str) -> f64 {
    let text = keys.ask(product.metrics, "GET", "/metrics", &[], "").unwrap().text;
    let line = format!("{FAILED}{{listener=\"{listener}\",reason=\"{reason}\"}} ");
    text.lines().find_map(|of| of.strip_prefix(&line)).map_or(0.0, |count| count.parse().unwrap())
}

#[test]
fn lines_and_metrics_go_over_tls_by_http_1_and_2() {
    let ground = Ground::new();
    let bed = secured(&ground, None);
    let keys = ground.keys();
    let product = start(&bed, &keys);
    let mut talk = keys.connect(product.api).unwrap();
    for number in 0..50 {
        // Larger than a record, and than what a socket takes at once.
        let body = format!("{number} {}\n", "x".repeat(if number == 7 { 200_000 } else { 20 }));
        assert_eq!(talk.ask("POST", RAW, &[], &body).unwrap().status, 204);
    }
    assert_eq!(bed.texts_of_pushes(50).len(), 50);
    let document = talk.ask("GET", "/openapi.json", &[], "").unwrap();
    assert!(document.text.len() > 50_000, "an answer larger than a record");
    for (offered, taken) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        for address in [product.api, product.metrics] {
            let talk = keys.offering(offered).connect(address).unwrap();
            assert_eq!(talk.tls().alpn_protocol(), Some(taken.as_bytes()));
        }
    }
    let version = keys.connect(product.api).unwrap().tls().protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
    let expiry = "log_capturer_tls_certificate_expiry_timestamp_seconds{listener=\"server\"}";
    assert!(metric(&product, &keys, &[], expiry) > 1e9);
    if has("curl", runs("curl", &["--version"]), "apt-get install curl") {
        let ca = write(&bed.setup.dir, "ca.pem", ground.authority.pem());
        let ask = |more: &[&str]| {
            let output = Command::new("curl")
                .args([
                    "-sS",
                    "--cacert",
                    ca.to_str().unwrap(),
                    "-w",
                    " %{http_code} %{http_version}",
                ])
                .args(more)
                .output()
                .unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        let url = format!("https://{}", product.api);
        assert_eq!(ask(&["--http2", &format!("{url}/ready")]), "ready\n 200 2");
        let body = "y".repeat(300_000);
        let file = write(&bed.setup.dir, "body", &body);
        let data = format!("@{}", file.display());
        let pushed = ask(&["--http2", "--data-binary", &data, &format!("{url}{RAW}")]);
        assert!(pushed.ends_with("204 2") || pushed.contains("400"), "{pushed}");
        assert_eq!(
            ask(&["--http1.1", "--tls-max", "1.2", &format!("{url}/ready")]),
            "ready\n 200 1.1"
        );
        let old = ask(&[
            "--tlsv1.0",
            "--tls-max",
            "1.1",
            "--ciphers",
            "ALL:@SECLEVEL=0",
            &format!("{url}/ready"),
        ]);
        assert!(old.starts_with("curl:") || old.contains("000"), "{old}");
    }
    stop(product);
}

#[test]
fn who_has_not_the_right_certificate_stays_out_and_is_told_why() {
    let (ground, clients, others) = (Ground::new(), Authority::new(), Authority::new());
    let bed = secured(&ground, Some(&clients));
    let with = |own: &Issued| Keys::with(ground.authority.pem(), Some(own));
    let known = with(&clients.issue("shipper"));
    let product = start(&bed, &known);
    let expired = clients.issue_until("shipper", Some(Duration::from_secs(1_000_000)));
    for (keys, reason) in [
        (ground.keys(), "no_client_certificate"),
        (with(&others.issue("shipper")), "bad_client_certificate"),
        (with(&expired), "bad_client_certificate"),
        // It does not trust the server.
        (Keys::with(others.pem(), Some(&clients.issue("shipper"))), "distrusted"),
    ] {
        for (address, listener) in [(product.api, "server"), (product.metrics, "metrics")] {
            let before = failed(&product, &known, listener, reason);
            let error = keys.ask(address, "GET", "/ready", &[], "").expect_err("it stays out");
            let text = error.to_string();
            assert!(text.contains("alert") || text.contains("certificate"), "{reason}: {text}");
            eventually("it is counted", &product, || {
                failed(&product, &known, listener, reason) == before + 1.0
            });
        }
    }
    // A certificate is enough to send lines and to ask, not to change anything.
    let ask = |method, path, body| known.ask(product.api, method, path, &[], body).unwrap();
    assert_eq!(ask("POST", RAW, "a\n").status, 204);
    assert_eq!(ask("GET", "/stats", "").status, 200);
    let denied = ask("POST", "/dlq/purge", "");
    assert_eq!(denied.status, 403, "{denied:?}");
    assert!(
        denied.text.contains("role operate") && denied.text.contains("certificate CN="),
        "{denied:?}"
    );
    eventually("it is said", &product, || product.log().contains("handshakes_failed"));
    stop(product);
}

#[test]
fn what_a_certificate_is_enough_for_is_set_and_a_token_adds_to_it() {
    let (ground, clients) = (Ground::new(), Authority::new());
    let mut bed = secured(&ground, Some(&clients));
    let keys = Keys::with(ground.authority.pem(), Some(&clients.issue("admin")));
    bed.setup
        .server_keys
        .push(format!("auth: {{ client_roles: [operate], tokens: [{}] }}", tokens()));
    let product = start(&bed, &keys);
    let ask = |method, path, headers: &[&str]| {
        keys.ask(product.api, method, path, headers, "a\n").unwrap().status
    };
    let ingest = bearer("ingest");
    assert_eq!(ask("POST", RAW, &[]), 403);
    assert_eq!(ask("POST", RAW, &[&ingest]), 204);
    assert_eq!(ask("POST", "/dlq/purge", &[&ingest]), 400, "the body is no order");
    assert_eq!(ask("GET", "/stats", &[]), 200);
    assert_eq!(ask("GET", "/security/audit", &[&ingest]), 200, "the certificate is enough");
    assert_eq!(
        ask("GET", "/stats", &["authorization: Bearer wrong"]),
        401,
        "whoever claims to be more is"
    );
    let kept = keys.ask(product.api, "GET", "/security/audit", &[], "").unwrap().json();
    let who = kept["entries"][0]["who"].as_str().unwrap();
    assert!(who.starts_with("token ingest, certificate ") && who.contains("CN="), "{who}");
    stop(product);
}

#[test]
fn http_on_a_port_of_tls_is_told_so() {
    let ground = Ground::new();
    let bed = secured(&ground, None);
    let keys = ground.keys();
    let product = start(&bed, &keys);
    for address in [product.api, product.metrics] {
        let answer = Keys::none().ask(address, "POST", RAW, &[&bearer("ingest")], "a\n").unwrap();
        assert_eq!(answer.status, 400);
        assert!(answer.text.contains("https"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert!(failed(&product, &keys, "server", "not_tls") >= 1.0);
    // Nonsense that begins like TLS.
    let mut stream = TcpStream::connect(product.api).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[0x16, 0x03, 0x01, 0xff, 0xff, 1, 2, 3]).unwrap();
    let _ = stream.write_all(&[7; 4_000]);
    expect_end(stream);
    eventually("it is counted", &product, || failed(&product, &keys, "server", "protocol") >= 1.0);
    assert_eq!(keys.ask(product.api, "GET", "/ready", &[], "").unwrap().status, 200);
    stop(product);
}

/// The connection ends, whatever comes before.
fn expect_end(mut stream: TcpStream) {
    let mut heard = [0; 1024];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                assert!(
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "it is not cut"
                );
                return;
            }
        }
    }
}

#[test]
fn handshakes_that_do_not_go_on_are_cut_while_others_are_served() {
    let ground = Ground::new();
    let mut bed = secured(&ground, None);
    bed.setup.server_keys.push(
        "limits: { head_timeout: 1s, connections_max: 64, address_connections_max: 64 }".into(),
    );
    let keys = ground.keys();
    let product = start(&bed, &keys);
    let slow = |start: &'static [u8]| {
        let connect = move |address: SocketAddr| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // Beyond the limit, it may be closed at once.
            let _ = stream.write_all(start);
            stream
        };
        (0..60).map(|_| connect(product.api)).collect::<Vec<_>>()
    };
    // Those that say nothing, and those that begin and say no more; more than there may be.
    let silent = slow(b"");
    let begun = slow(&[0x16, 0x03, 0x01, 0x01, 0x00, 0x01]);
    silent.into_iter().chain(begun).for_each(expect_end);
    eventually("they are counted", &product, || failed(&product, &keys, "server", "slow") >= 60.0);
    assert_eq!(keys.ask(product.api, "POST", RAW, &[], "a\n").unwrap().status, 204);
    let lines = product.log().lines().filter(|line| line.contains("handshakes_failed")).count();
    assert!(lines < 20, "sums, and not a line for each: {lines}");
    stop(product);
}

fn reload(product: &Product, keys: &Keys) -> (u16, String) {
    let answer = keys.ask(product.api, "POST", "/config/reload", &[], "").unwrap();
    (answer.status, answer.text)
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let ground = Ground::new();
    let bed = secured(&ground, None);
    let keys = ground.keys();
    let product = start(&bed, &keys);
    let mut kept: Vec<Talk> = (0..8).map(|_| keys.connect(product.api).unwrap()).collect();
    let first = kept[0].certificate();
    let shown = || keys.connect(product.api).unwrap().certificate();
    put(&bed.setup.dir, &ground.authority.issue("127.0.0.1"));
    eventually("it is read again by itself", &product, || shown() != first);
    let second = shown();
    for talk in &mut kept {
        assert_eq!(talk.ask("POST", RAW, &[], "kept\n").unwrap().status, 204);
        assert_eq!(talk.certificate(), first);
    }
    // One that is broken is said, at a reload and by itself, and the one before stays.
    let good = fs::read(bed.setup.dir.join("server.key")).unwrap();
    write(&bed.setup.dir, "server.key", "-----BEGIN PRIVATE KEY-----\nx\n");
    eventually("it is said", &product, || product.log().contains("tls_unreadable"));
    let (status, text) = reload(&product, &keys);
    assert_eq!(status, 422, "{text}");
    assert!(
        text.contains("server.tls.key_file") || text.contains("metrics.tls.key_file"),
        "{text}"
    );
    // A key of another certificate.
    write(&bed.setup.dir, "server.key", &ground.authority.issue("127.0.0.1").key);
    let (status, text) = reload(&product, &keys);
    assert!(status == 422 && text.contains("is no key for the certificate"), "{text}");
    assert_eq!(shown(), second);
    fs::write(bed.setup.dir.join("server.key"), good).unwrap();
    // At once, where it is asked for.
    put(&bed.setup.dir, &ground.authority.issue("127.0.0.1"));
    let (status, text) = reload(&product, &keys);
    assert!(status == 200 && text.contains("unchanged"), "{text}");
    assert!(![&first, &second].contains(&&shown()));
    for talk in &mut kept {
        assert_eq!(talk.ask("GET", "/ready", &[], "").unwrap().status, 200);
    }
    stop(product);
}

#[test]
fn tls_begins_and_ends_with_a_reload_and_listeners_stay() {
    let ground = Ground::new();
    let mut bed = Bed::new();
    let product = bed.start();
    let plain = Keys::none();
    let mut kept = plain.connect(product.api).unwrap();
    assert_eq!(kept.ask("GET", "/ready", &[], "").unwrap().status, 200);
    let mut with_token = plain.connect(product.api).unwrap();
    assert_eq!(with_token.ask("GET", "/ready", &[], "").unwrap().status, 200);
    let clients = Authority::new();
    bed.setup.server_keys = vec![ground.tls(&bed.setup.dir, Some(&clients))];
    fs::write(bed.setup.dir.join("config.yaml"), bed.setup.yaml()).unwrap();
    let (status, text) = reload(&product, &plain);
    assert!(status == 200 && text.contains("server.tls.client_ca_file"), "{text}");
    let keys = Keys::with(ground.authority.pem(), Some(&clients.issue("a")));
    assert_eq!(keys.ask(product.api, "GET", "/stats", &[], "").unwrap().status, 200);
    assert_eq!(plain.ask(product.api, "GET", "/ready", &[], "").unwrap().status, 400);
    // What is kept of before is known by nothing, and ends.
    let last = kept.ask("GET", "/ready", &[], "").unwrap();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(kept.ask("GET", "/ready", &[], "").is_err());
    let refused = with_token.ask("GET", "/ready", &[&bearer("read")], "").unwrap();
    assert_eq!((refused.status, refused.header("connection")), (401, Some("close")), "{refused:?}");
    assert!(refused.text.contains("expected TLS"), "{refused:?}");
    // One more authority: who was known stays so, on kept connections, too.
    let mut kept = keys.connect(product.api).unwrap();
    assert_eq!(kept.ask("GET", "/stats", &[], "").unwrap().status, 200);
    let others = Authority::new();
    let admitted = Keys::with(ground.authority.pem(), Some(&others.issue("b")));
    write(&bed.setup.dir, "clients.pem", &format!("{}{}", clients.pem(), others.pem()));
    eventually("the authorities are read again", &product, || {
        admitted.ask(product.api, "GET", "/stats", &[], "").is_ok()
    });
    let answer = kept.ask("GET", "/stats", &[], "").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, None), "{answer:?}");
    // Others: who was known by those before is not any more.
    write(&bed.setup.dir, "clients.pem", others.pem());
    eventually("the authorities are read again", &product, || {
        let answer = kept.ask("GET", "/stats", &[], "").unwrap();
        let refused = (401, Some("close"));
        answer.status != 200 && (answer.status, answer.header("connection")) == refused
    });
    assert!(kept.ask("GET", "/ready", &[], "").is_err(), "it is closed");
    assert!(keys.ask(product.api, "GET", "/stats", &[], "").is_err());
    let mut kept = admitted.connect(product.api).unwrap();
    assert_eq!(kept.ask("GET", "/stats", &[], "").unwrap().status, 200);
    // Without TLS again.
    bed.setup.server_keys = Vec::new();
    fs::write(bed.setup.dir.join("config.yaml"), bed.setup.yaml()).unwrap();
    product.signal(rustix::process::Signal::HUP);
    eventually("TLS ends", &product, || {
        plain.ask(product.api, "GET", "/ready", &[], "").is_ok_and(|of| of.status == 200)
    });
    let last = kept.ask("GET", "/stats", &[], "").unwrap();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")), "{last:?}");
    stop(product);
}

#[test]
fn a_certificate_that_expires_is_good_no_longer_on_kept_connections() {
    let (ground, clients) = (Ground::new(), Authority::new());
    let bed = secured(&ground, Some(&clients));
    let soon = SystemTime::now() + Duration::from_secs(20);
    let until = soon.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let brief = clients.issue_until("brief", Some(until));
    let brief = Keys::with(ground.authority.pem(), Some(&brief));
    let lasting = Keys::with(ground.authority.pem(), Some(&clients.issue("lasting")));
    let product = start(&bed, &lasting);
    let mut kept = brief.connect(product.api).unwrap();
    assert_eq!(kept.ask("GET", "/stats", &[], "").unwrap().status, 200);
    while SystemTime::now() <= soon + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(200));
    }
    // Another authority has all verified again; else that is done once a minute.
    let more = format!("{}{}", clients.pem(), Authority::new().pem());
    write(&bed.setup.dir, "clients.pem", &more);
    eventually("it is refused", &product, || {
        kept.ask("GET", "/stats", &[], "").unwrap().status == 401
    });
    assert!(kept.ask("GET", "/stats", &[], "").is_err(), "it is closed");
    assert_eq!(lasting.ask(product.api, "GET", "/stats", &[], "").unwrap().status, 200);
    stop(product);
}

#[test]
fn files_that_cannot_be_used_are_no_start() {
    let ground = Ground::new();
    let bed = secured(&ground, None);
    write(&bed.setup.dir, "server.pem", "nothing");
    let Err(error) = Product::spawn(&bed.setup) else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("exit status: 78") && text.contains("server.tls.cert_file"), "{text}");
    assert!(text.contains("expected certificates as PEM"), "{text}");
}
