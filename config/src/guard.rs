//! The keys that say who may come in: TLS of a listener, tokens, and what may be open to anyone.

use crate::client::file;
use crate::error::Problem;
use crate::read::{Reader, Section};
use crate::secret::Secret;
use crate::{Metrics, Server};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Each is compared with what a request brings.
const TOKENS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;
/// What every token begins with that is made by `log-capturer token new`.
const TOKEN_PREFIX: &str = "lct_";
const RATE_MAX: usize = 1_000_000;
const SHA256_DIGITS: usize = 64;

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Clients need a certificate that these authorities issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Send lines.
    Ingest,
    /// Ask how it goes.
    Read,
    /// Change something; and ask.
    Operate,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Token {
    pub name: String,
    /// The hash of the token, in hexadecimal digits. Nothing shows it.
    pub sha256: Secret,
    pub roles: Vec<Role>,
    /// 0: any number.
    pub requests_per_second: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerAuth {
    /// Of both listeners.
    pub tokens: Vec<Token>,
    /// What a client's certificate is enough for.
    pub client_roles: Vec<Role>,
    /// Anyone may come in, from other hosts, too.
    pub allow_unauthenticated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MetricsAuth {
    /// Likewise; also where there are tokens.
    pub allow_unauthenticated: bool,
}

impl ListenTls {
    fn asks(tls: Option<&ListenTls>) -> bool {
        tls.is_some_and(|tls| tls.client_ca_file.is_some())
    }
}

impl Server {
    /// Whether whoever comes is asked who they are.
    #[must_use]
    pub fn asks(&self) -> bool {
        !self.auth.tokens.is_empty() || ListenTls::asks(self.tls.as_ref())
    }
}

impl Metrics {
    /// Likewise; the tokens are those of `server`.
    #[must_use]
    pub fn asks(&self, server: &Server) -> bool {
        let open = self.auth.allow_unauthenticated;
        ListenTls::asks(self.tls.as_ref()) || !open && !server.auth.tokens.is_empty()
    }
}

pub fn tls(r: &mut Reader<'_>, listener: &mut Section) -> Option<ListenTls> {
    let mut section = r.section(listener, "tls");
    let s = &mut section;
    let given = ["cert_file", "key_file", "client_ca_file"].map(|key| s.has(key));
    let cert_file = file(r, s, "cert_file");
    let key_file = file(r, s, "key_file");
    let client_ca_file = file(r, s, "client_ca_file");
    for (is_given, key) in [(given[0], "cert_file"), (given[1], "key_file")] {
        if given.contains(&true) && !is_given {
            let text = "expected a path, found nothing";
            let problem = Problem::new(s.line, s.key(key), text);
            r.problem(problem.hint("TLS needs a certificate and its key"));
        }
    }
    r.finish(section);
    Some(ListenTls { cert_file: cert_file?, key_file: key_file?, client_ca_file })
}

pub fn server(r: &mut Reader<'_>, server: &mut Section) -> ServerAuth {
    let mut section = r.section(server, "auth");
    let s = &mut section;
    let (line, key) = (s.line, s.key("tokens"));
    let tokens = r.section_list(s, "tokens");
    if tokens.len() > TOKENS_MAX {
        let text = format!("expected at most {TOKENS_MAX} tokens, found {}", tokens.len());
        r.problem(Problem::new(line, &key, text));
    }
    let tokens: Vec<Token> = tokens.into_iter().filter_map(|of| token(r, of)).collect();
    let (mut names, mut hashes) = (BTreeSet::new(), BTreeSet::new());
    for Token { name, sha256, .. } in &tokens {
        if !names.insert(name) || !hashes.insert(sha256.reveal()) {
            let text =
                format!("expected each name and each sha256 once, found those of {name:?} again");
            r.problem(Problem::new(line, &key, text).hint("give each token a name of its own"));
        }
    }
    let given = s.has("client_roles");
    let client_roles = roles(r, s, "client_roles");
    let auth = ServerAuth {
        tokens,
        client_roles: if given { client_roles } else { vec![Role::Ingest, Role::Read] },
        allow_unauthenticated: r.boolean(s, "allow_unauthenticated", false),
    };
    r.finish(section);
    auth
}

pub fn metrics(r: &mut Reader<'_>, metrics: &mut Section) -> MetricsAuth {
    let mut section = r.section(metrics, "auth");
    let allow_unauthenticated = r.boolean(&mut section, "allow_unauthenticated", false);
    r.finish(section);
    MetricsAuth { allow_unauthenticated }
}

fn token(r: &mut Reader<'_>, mut section: Section) -> Option<Token> {
    let s = &mut section;
    let mut name = r.required(s, "name", "a name for the token");
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(text) = &name
        && !((1..=NAME_BYTES_MAX).contains(&text.text.len()) && text.text.chars().all(is_sign))
    {
        // The text is not repeated: it may be the token in the place of its name.
        let expected = format!("expected 1 to {NAME_BYTES_MAX} letters, digits, _, - and .");
        r.problem(Problem::new(text.line, &text.key, format!("{expected}, found something else")));
        name = None;
    } else if let Some(text) = &name
        && text.text.to_ascii_lowercase().starts_with(TOKEN_PREFIX)
    {
        let found =
            format!("expected a name, found something that begins as tokens do ({TOKEN_PREFIX})");
        let problem = Problem::new(text.line, &text.key, found);
        r.problem(problem.hint(
            "names are shown everywhere: if it is the token, make another one with log-capturer token new --name NAME",
        ));
        name = None;
    }
    let sha256 = sha256(r, s);
    let (line, key) = (s.line, s.key("roles"));
    let is_read = !s.has("roles");
    let roles = roles(r, s, "roles");
    if is_read || roles.is_empty() {
        let problem = Problem::new(line, key, "expected what it is for, found nothing");
        r.problem(problem.hint("such as [ingest], [read] or [operate]"));
    }
    let requests_per_second = r.integer(s, "requests_per_second", 0, 0..=RATE_MAX);
    r.finish(section);
    Some(Token { name: name?.text, sha256: sha256?, roles, requests_per_second })
}

fn sha256(r: &mut Reader<'_>, section: &mut Section) -> Option<Secret> {
    let (given, line, key) = (section.has("sha256"), section.line, section.key("sha256"));
    let secret = r.secret(section, "sha256", "the hash of a token");
    let is_hash =
        |text: &str| text.len() == SHA256_DIGITS && text.chars().all(|c| c.is_ascii_hexdigit());
    let wrong = match &secret {
        Some(secret) if is_hash(secret.reveal()) => return Some(secret.to_lowercase()),
        Some(_) => "something else",
        None if given => return None,
        None => "nothing",
    };
    let text = format!(
        "expected the SHA-256 of a token, {SHA256_DIGITS} hexadecimal digits, found {wrong}"
    );
    let hint = "log-capturer token new makes a token and this line; the value is not shown";
    r.problem(Problem::new(line, key, text).hint(hint));
    None
}

fn roles(r: &mut Reader<'_>, section: &mut Section, key: &'static str) -> Vec<Role> {
    let mut roles = Vec::new();
    for text in r.texts(section, key) {
        match text.text.as_str() {
            "ingest" => roles.push(Role::Ingest),
            "read" => roles.push(Role::Read),
            "operate" => roles.push(Role::Operate),
            _ => r.problem(text.problem("ingest or read or operate")),
        }
    }
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Who listens for other hosts asks them who they are, or says that it does not.
pub fn check(r: &mut Reader<'_>, server: &Server, metrics: &Metrics) {
    if server.asks() && server.auth.allow_unauthenticated {
        let text = "expected false where there are tokens or tls.client_ca_file, found true";
        let problem = Problem::new(0, "server.auth.allow_unauthenticated", text);
        r.problem(problem.hint("remove it, or those"));
    }
    let open = |r: &mut Reader<'_>, section: &str, listen: SocketAddr, asks, allowed, role| {
        if listen.ip().to_canonical().is_loopback() || asks || allowed {
            return;
        }
        let text = format!(
            "expected who may come in, since {section}.listen is for other hosts ({listen}), found nobody"
        );
        let problem = Problem::new(0, format!("{section}.auth"), text);
        r.problem(problem.hint(format!(
            "give who comes a token (log-capturer token new --name NAME --role {role} prints the line for \
             server.auth.tokens) or a certificate ({section}.tls.client_ca_file), listen on 127.0.0.1, or, where only \
             those reach it who may, set {section}.auth.allow_unauthenticated: true"
        )));
    };
    let allowed = server.auth.allow_unauthenticated;
    open(r, "server", server.listen, server.asks(), allowed, "ingest");
    let allowed = metrics.auth.allow_unauthenticated;
    open(r, "metrics", metrics.listen, metrics.asks(server), allowed, "read");
}
