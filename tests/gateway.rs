//! What stands between the product and Loki: TLS, who asks, proxies, error pages of gateways, and
//! connections that end at the wrong moment.

pub mod front;

use crate::bed::{BINARY, Bed, eventually, stop};
use bench::load::Rotation;
use bench::product::{Error, Product};
use flate2::Compression;
use flate2::write::GzEncoder;
use front::{Authority, Gateway, Manner, Proxy, count, self_signed, write};
use std::io::Write;
use std::path::Path;
use std::process::Command;

const RETRIED: &str = r#"log_capturer_pushes_total{verdict="retried"}"#;
const HELD: &str = r#"log_capturer_pushes_total{verdict="held"}"#;

fn metric(product: &Product, name: &str) -> f64 {
    product.metric(name).unwrap()
}

/// A bed whose sink is a gateway with TLS, for the name `localhost` or another one.
fn secured(name: &str, clients: Option<&Authority>) -> (Bed, Gateway, Authority) {
    let mut bed = Bed::new();
    let authority = Authority::new();
    let tls = authority.server(name, clients);
    let gateway = Gateway::start(bed.stub.addr(), Some(tls), Manner::Pass);
    bed.setup.url = format!("https://localhost:{}", gateway.address.port());
    (bed, gateway, authority)
}

fn tls_keys(keys: &[(&str, &Path)]) -> String {
    let keys: Vec<String> =
        keys.iter().map(|(key, file)| format!("{key}: {:?}", file.display().to_string())).collect();
    format!("tls: {{ {} }}", keys.join(", "))
}

/// Waits until the log of a product that gets nothing through says something.
fn refused(bed: &Bed, text: &str) {
    let product = bed.start();
    bed.append("a.log", "kept\n");
    eventually(text, &product, || product.log().contains(text));
    assert_eq!(bed.stub.stats().received, 0, "{}", product.log());
    assert_eq!(bed.stub.stats().unmarked, 0, "{}", product.log());
    drop(product);
}

#[test]
fn an_authority_of_ones_own_is_trusted_and_an_unknown_one_is_not() {
    let (mut bed, gateway, authority) = secured("localhost", None);
    refused(
        &bed,
        "invalid peer certificate: UnknownIssuer; no known authority issued the sink's \
         certificate: name the file with its authority's certificate in sinks.loki.tls.ca_file",
    );
    assert!(count(&gateway.counts().handshakes_failed) > 0);
    bed.setup.sink_keys.push(tls_keys(&[("ca_file", &authority.file(&bed.setup.dir))]));
    let product = bed.start();
    bed.append("a.log", "sent\n");
    assert_eq!(bed.texts(2), ["kept", "sent"]);
    assert_eq!(metric(&product, RETRIED), 0.0);
    assert!(gateway.names().iter().all(|name| name == "localhost"), "{:?}", gateway.names());
    stop(product);
}

#[test]
fn a_certificate_for_another_name_needs_that_name() {
    let (mut bed, gateway, authority) = secured("loki.internal", None);
    let ca_file = authority.file(&bed.setup.dir);
    bed.setup.sink_keys.push(tls_keys(&[("ca_file", &ca_file)]));
    refused(&bed, "correct the url, or set sinks.loki.tls.server_name");
    assert!(count(&gateway.counts().handshakes_failed) > 0);
    let keys = [("ca_file", &*ca_file), ("server_name", "loki.internal".as_ref())];
    *bed.setup.sink_keys.last_mut().unwrap() = tls_keys(&keys);
    let product = bed.start();
    assert_eq!(bed.texts(1), ["kept"]);
    assert!(gateway.names().contains(&"loki.internal".to_owned()), "{:?}", gateway.names());
    let host = format!("\r\nhost: localhost:{}\r\n", gateway.address.port());
    assert!(gateway.heads().iter().all(|head| head.contains(&host)), "{:?}", gateway.heads());
    stop(product);
}

#[test]
fn an_authority_that_serves_by_itself_is_told_from_an_unknown_one() {
    let mut bed = Bed::new();
    let (tls, cert) = self_signed("localhost");
    let gateway = Gateway::start(bed.stub.addr(), Some(tls), Manner::Pass);
    bed.setup.url = format!("https://localhost:{}", gateway.address.port());
    let ca_file = write(&bed.setup.dir, "ca.pem", &cert);
    bed.setup.sink_keys.push(tls_keys(&[("ca_file", &ca_file)]));
    refused(&bed, "the sink's certificate is an authority's: give the sink one without CA:TRUE");
    assert!(count(&gateway.counts().handshakes_failed) > 0);
}

#[test]
fn a_gateway_without_tls_is_told_from_one_with_it() {
    let mut bed = Bed::new();
    // The stub answers what it takes for a bad request.
    bed.setup.url = bed.stub.url().replace("http:", "https:");
    refused(&bed, "does the sink speak TLS there? if not, sinks.loki.url begins with http://");
}

#[test]
fn a_gateway_that_asks_for_a_certificate_gets_the_right_one() {
    let clients = Authority::new();
    let (mut bed, gateway, authority) = secured("localhost", Some(&clients));
    let (ca_file, dir) = (authority.file(&bed.setup.dir), bed.setup.dir.clone());
    bed.setup.sink_keys.push(tls_keys(&[("ca_file", &ca_file)]));
    refused(&bed, "set sinks.loki.tls.cert_file and sinks.loki.tls.key_file");
    let failed = count(&gateway.counts().handshakes_failed);
    assert!(failed > 0);
    // One by another authority than the gateway knows, then the right one.
    let issue = |authority: &Authority| {
        let issued = authority.issue("client");
        (write(&dir, "cert.pem", &issued.cert), write(&dir, "key.pem", &issued.key))
    };
    let (cert, key) = issue(&authority);
    let files = [("ca_file", &*ca_file), ("cert_file", &*cert), ("key_file", &*key)];
    *bed.setup.sink_keys.last_mut().unwrap() = tls_keys(&files);
    refused(&bed, "the sink does not take the client certificate in sinks.loki.tls.cert_file");
    assert!(count(&gateway.counts().handshakes_failed) > failed);
    issue(&clients);
    let product = bed.start();
    assert_eq!(bed.texts(2), ["kept", "kept"]);
    assert_eq!(metric(&product, RETRIED), 0.0);
    stop(product);
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let clients = Authority::new();
    let (mut bed, gateway, authority) = secured("localhost", Some(&clients));
    let (ca_file, dir) = (authority.file(&bed.setup.dir), bed.setup.dir.clone());
    let right = std::fs::read(&ca_file).unwrap();
    let issue = |authority: &Authority| {
        let issued = authority.issue("client");
        (write(&dir, "cert.pem", &issued.cert), write(&dir, "key.pem", &issued.key))
    };
    // The authority that the gateway had once, and a certificate by it.
    let old = Authority::new();
    old.file(&bed.setup.dir);
    let (cert, key) = issue(&old);
    let files = [("ca_file", &*ca_file), ("cert_file", &*cert), ("key_file", &*key)];
    bed.setup.sink_keys.push(tls_keys(&files));
    let product = bed.start();
    bed.append("a.log", "kept\n");
    let says = |text: &str| eventually(text, &product, || product.log().contains(text));
    says("invalid peer certificate");
    // Half of it is there: what it held last is used.
    std::fs::write(&ca_file, &right[..right.len() / 4 * 3]).unwrap();
    says("what the files of TLS held last is used");
    std::fs::write(&ca_file, &right).unwrap();
    says("the files of TLS were read again");
    // The gateway is trusted now, and does not trust the client yet.
    assert_eq!(bed.stub.stats().unmarked, 0, "{}", product.log());
    issue(&clients);
    assert_eq!(bed.texts(1), ["kept"]);
    assert!(count(&gateway.counts().handshakes_failed) > 0);
    stop(product);
}

#[test]
fn files_that_cannot_be_used_are_said_at_the_start() {
    for (key, file) in
        [("tls", "ca_file: /nowhere/ca.pem"), ("auth", "bearer: { token_file: /nowhere/token }")]
    {
        let mut bed = Bed::new();
        bed.setup.url = "https://localhost:1".into();
        bed.setup.sink_keys.push(format!("{key}: {{ {file} }}"));
        let Err(Error::Exited { status, log }) = Product::start(&bed.setup) else {
            panic!("it started");
        };
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(&format!("sinks.loki.{key}.")), "{log}");
        assert!(log.contains("/nowhere/") && log.contains("cannot be read: No such file"), "{log}");
        assert!(log.contains("check the path"), "{log}");
    }
}

#[test]
fn a_password_and_a_token_are_read_again_when_they_change() {
    for (keys, headers) in [
        (
            "basic: { username: me, password_file",
            [
                "Basic bWU6b25lLXMzY3JldA==",
                "Basic bWU6dHdvLXMzY3JldA==",
                "Basic bWU6dGhyZWUtczNjcmV0",
            ],
        ),
        ("bearer: { token_file", ["Bearer one-s3cret", "Bearer two-s3cret", "Bearer three-s3cret"]),
    ] {
        let mut bed = Bed::new();
        let demand = |number: usize| Manner::Demand(format!("authorization: {}", headers[number]));
        let gateway = Gateway::start(bed.stub.addr(), None, demand(0));
        bed.setup.url = format!("http://{}", gateway.address);
        let dir = bed.setup.dir.clone();
        let file = write(&dir, "secret", "one-s3cret\n");
        bed.setup
            .sink_keys
            .push(format!("auth: {{ {keys}: {:?} }} }}", file.display().to_string()));
        let product = bed.start();
        bed.append("a.log", "one\n");
        assert_eq!(bed.texts(1), ["one"]);
        assert_eq!(count(&gateway.counts().unauthorized), 0);

        // It changes on both sides: nothing is held for that.
        write(&dir, "secret", "two-s3cret\n");
        gateway.set(demand(1));
        bed.append("a.log", "two\n");
        assert_eq!(bed.texts(2), ["one", "two"]);
        assert_eq!(metric(&product, HELD), 0.0, "{}", product.log());

        // The gateway changes first: pushes are held until the file follows.
        gateway.set(demand(2));
        bed.append("a.log", "three\n");
        eventually("it is held", &product, || metric(&product, HELD) > 0.0);
        assert!(product.log().contains("401: who?"), "{}", product.log());
        assert!(count(&gateway.counts().unauthorized) > 0);
        write(&dir, "secret", "three-s3cret");
        assert_eq!(bed.texts(3), ["one", "two", "three"]);
        assert_eq!(metric(&product, RETRIED), 0.0);
        assert!(!product.log().contains("s3cret"), "{}", product.log());
        stop(product);
    }
}

#[test]
fn secrets_are_not_printed_and_headers_go_along() {
    let mut bed = Bed::new();
    let gateway = Gateway::start(bed.stub.addr(), None, Manner::Demand("x-api-key: s3cret".into()));
    bed.setup.url = format!("http://{}", gateway.address);
    bed.setup.sink_keys.push("headers: { X-Api-Key: s3cret }".into());
    bed.setup.sink_keys.push("auth: { basic: { username: me, password: s3cret } }".into());
    let product = bed.start();
    bed.append("a.log", "x\n");
    assert_eq!(bed.texts(1), ["x"]);
    let heads = gateway.heads();
    assert!(heads[0].contains("\r\nauthorization: Basic bWU6czNjcmV0\r\n"), "{heads:?}");
    let file = bed.setup.dir.join("config.yaml");
    let check = Command::new(BINARY).arg("check").arg("--config").arg(file).output().unwrap();
    let printed = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.success() && !printed.contains("s3cret"), "{printed}");
    assert_eq!(printed.matches("<redacted>").count(), 2, "{printed}");
    stop(product);
    assert!(!bed.product_log().contains("s3cret"));
}

#[test]
fn a_proxy_gives_a_tunnel_for_https_and_takes_http_as_it_is() {
    let (mut bed, gateway, authority) = secured("loki.invalid", None);
    let proxy = Proxy::start(gateway.address);
    bed.setup.url = "https://loki.invalid:3100".into();
    let ca_file = authority.file(&bed.setup.dir);
    bed.setup.sink_keys.push(tls_keys(&[("ca_file", &ca_file)]));
    bed.setup.sink_keys.push(format!("proxy: \"http://me:s3cret@{}\"", proxy.address));
    let product = bed.start();
    bed.append("a.log", "by a tunnel\n");
    assert_eq!(bed.texts(1), ["by a tunnel"]);
    stop(product);
    for head in proxy.heads() {
        assert!(head.starts_with("CONNECT loki.invalid:3100 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nproxy-authorization: Basic bWU6czNjcmV0\r\n"), "{head}");
    }
    assert!(count(&gateway.counts().passed) > 0 && !proxy.heads().is_empty());
    assert!(gateway.heads().iter().all(|head| !head.contains("proxy-authorization")));

    let plain = Proxy::start(bed.stub.addr());
    bed.setup.url = "http://loki.invalid:3100".into();
    bed.setup.sink_keys.truncate(1);
    bed.setup.sink_keys.push(format!("proxy: \"http://{}\"", plain.address));
    let product = bed.start();
    bed.append("a.log", "as it is\n");
    assert_eq!(bed.texts(2), ["by a tunnel", "as it is"]);
    stop(product);
    assert!(!plain.heads().is_empty());
    for head in plain.heads() {
        assert!(head.starts_with("POST http://loki.invalid:3100/loki/api/v1/push HTTP"), "{head}");
    }
    assert!(!bed.product_log().contains("s3cret"));
}

#[test]
fn the_environments_proxy_counts_where_it_is_asked_for() {
    let mut bed = Bed::new();
    let proxy = Proxy::start(bed.stub.addr());
    let file = bed.setup.dir.join("with-proxy");
    // Written by another process: no child of this one may hold it open when it is run.
    let binary = |except: &str| {
        let script = format!(
            "#!/bin/sh\nhttp_proxy=http://{} no_proxy={except} NO_PROXY= exec {BINARY} \"$@\"\n",
            proxy.address
        );
        let write = "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh").args(["-c", write, "sh", &script]).arg(&file).status();
        assert!(written.unwrap().success());
    };
    binary("");
    bed.setup.binary.clone_from(&file);
    let mut lines = 0;
    let mut send = |bed: &Bed| {
        let product = bed.start();
        bed.append("a.log", "x\n");
        lines += 1;
        bed.texts(lines);
        stop(product);
        proxy.heads().len()
    };
    assert_eq!(send(&bed), 0, "nobody asked for it");
    bed.setup.sink_keys.push("proxy: environment".into());
    let through = send(&bed);
    assert!(through > 0);
    binary("127.0.0.1");
    assert_eq!(send(&bed), through, "it is excepted");
}

#[test]
fn a_gateways_compressed_error_page_is_read() {
    let mut bed = Bed::new();
    let mut page = GzEncoder::new(Vec::new(), Compression::fast());
    page.write_all(b"<html>no backend is up</html>").unwrap();
    let page = page.finish().unwrap();
    let head = format!(
        "HTTP/1.1 502 Bad Gateway\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        page.len()
    );
    let answer = Manner::Answer([head.into_bytes(), page].concat());
    let gateway = Gateway::start(bed.stub.addr(), None, answer);
    bed.setup.url = format!("http://{}", gateway.address);
    let product = bed.start();
    bed.append("a.log", "x\n");
    assert_eq!(bed.texts(1), ["x"]);
    assert_eq!(count(&gateway.counts().answered), 1);
    assert_eq!(metric(&product, RETRIED), 1.0);
    assert!(product.log().contains("502: <html>no backend is up</html>"), "{}", product.log());
    stop(product);
}

/// How the product gets to a gateway.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Plain,
    Tls,
    /// TLS within a proxy's tunnel.
    Tunnel,
    /// Plain, through a proxy.
    Forward,
}

const WAYS: [Way; 4] = [Way::Plain, Way::Tls, Way::Tunnel, Way::Forward];

/// Lines through a gateway that ends connections: none of that is a failure, and nothing comes twice.
/// Gives how many connections there were, and how many pushes were dropped.
fn through_connections_that_end(manner: Manner, way: Way) -> (u64, u64) {
    let mut bed = Bed::new();
    let authority = Authority::new();
    let tls = matches!(way, Way::Tls | Way::Tunnel);
    let server = tls.then(|| authority.server("localhost", None));
    let gateway = Gateway::start(bed.stub.addr(), server, manner);
    let scheme = if tls { "https" } else { "http" };
    bed.setup.url = format!("{scheme}://localhost:{}", gateway.address.port());
    if tls {
        bed.setup.sink_keys.push(tls_keys(&[("ca_file", &authority.file(&bed.setup.dir))]));
    }
    let proxy = Proxy::start(gateway.address);
    if matches!(way, Way::Tunnel | Way::Forward) {
        bed.setup.sink_keys.push(format!("proxy: \"http://{}\"", proxy.address));
    }
    let product = bed.start();
    let written = bed.writer(5_000, 10_000, Rotation::Never).wait().unwrap();
    bed.assert_exactly_once(&written);
    assert_eq!(metric(&product, RETRIED), 0.0, "{way:?}: {}", product.log());
    assert_eq!(metric(&product, HELD), 0.0, "{way:?}: {}", product.log());
    stop(product);
    (count(&gateway.counts().connections), count(&gateway.counts().dropped))
}

#[test]
fn connections_are_kept() {
    for way in WAYS {
        let (connections, _) = through_connections_that_end(Manner::Pass, way);
        assert!(connections <= 4, "{way:?}: {connections}, and there are four senders");
    }
}

#[test]
fn connections_that_are_closed_behind_their_answer_are_no_failures() {
    for way in WAYS {
        let (connections, _) = through_connections_that_end(Manner::CloseBehind, way);
        assert!(connections > 10, "{way:?}: {connections}");
    }
}

#[test]
fn connections_that_are_closed_as_a_push_comes_are_no_failures() {
    for way in WAYS {
        let (_, dropped) = through_connections_that_end(Manner::CloseOnSecond, way);
        assert!(dropped > 10, "{way:?}: {dropped}");
    }
}
