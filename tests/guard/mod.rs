//! Who may come in, attacked: TLS and certificates, tokens and roles, and what is kept of it.
//!
//! - [`client`]: a client with keys of its own;
//! - [`http2`]: frames that no client sends;
//! - [`tls`]: handshakes, right and wrong ones, and certificates that change;
//! - [`tokens`]: every endpoint with every token, and what is no token;
//! - [`audit`]: who changed something, or was to;
//! - [`commands`]: how the commands reach an instance that asks who one is.

mod audit;
mod client;
mod commands;
mod http2;

mod tls;
mod tokens;

use crate::bed::{Bed, PATIENCE};
use crate::gateway::front::{Authority, Issued, write};
use bench::product::Product;
use client::Keys;
use std::path::Path;
use std::time::{Duration, Instant};

/// The value of `Authorization` with the token of this name.
fn bearer(name: &str) -> String {
    format!("authorization: Bearer planted-token-{name}")
}

fn sha256(name: &str) -> String {
    let hash =
        ring::digest::digest(&ring::digest::SHA256, format!("planted-token-{name}").as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An entry of `server.auth.tokens`, which has the role that is its name.
fn token(name: &str, more: &str) -> String {
    format!("{{ name: {name}, sha256: \"{}\", roles: [{name}]{more} }}", sha256(name))
}

/// One for each role.
fn tokens() -> String {
    ["ingest", "read", "operate"].map(|name| token(name, "")).join(", ")
}

/// An authority, and a server's certificate by it on 127.0.0.1 in files.
struct Ground {
    authority: Authority,
}

impl Ground {
    fn new() -> Ground {
        Ground { authority: Authority::new() }
    }

    /// The value of a listener's `tls`.
    fn tls(&self, dir: &Path, clients: Option<&Authority>) -> String {
        let issued = self.authority.issue("127.0.0.1");
        put(dir, &issued);
        let clients = clients.map(|clients| {
            let file = write(dir, "clients.pem", clients.pem());
            format!(", client_ca_file: {file:?}")
        });
        let (cert, key) = (dir.join("server.pem"), dir.join("server.key"));
        format!("tls: {{ cert_file: {cert:?}, key_file: {key:?}{} }}", clients.unwrap_or_default())
    }

    /// Of a client that knows the server's authority.
    fn keys(&self) -> Keys {
        Keys::new(self.authority.pem())
    }
}

/// As certbot and its like do: one file after the other.
fn put(dir: &Path, issued: &Issued) {
    for (name, text) in [("server.pem", &issued.cert), ("server.key", &issued.key)] {
        let next = write(dir, "next", text);
        std::fs::rename(next, dir.join(name)).unwrap();
    }
}

/// A metric, asked for as one may.
fn metric(product: &Product, keys: &Keys, headers: &[&str], name: &str) -> f64 {
    let answer = keys.ask(product.metrics, "GET", "/metrics", headers, "").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    bench::product::metric(&answer.text, name)
}

/// Starts it, where it is not to be asked without TLS.
fn start(bed: &Bed, keys: &Keys) -> Product {
    let product = Product::spawn(&bed.setup).unwrap_or_else(|error| panic!("{error}"));
    let start = Instant::now();
    while !keys.ask(product.api, "GET", "/ready", &[], "").is_ok_and(|answer| answer.status == 200)
    {
        assert!(start.elapsed() < PATIENCE, "not ready\n{}", product.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    product
}
