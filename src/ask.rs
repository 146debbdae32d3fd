//! Asks others by HTTP, with manners: within a time, for no more than so many bytes, and only whom it was told to.

use crate::push::{tls, wire};
use clap::Args;
use config::Config;
use serde::{Deserialize, Deserializer, de::Visitor};
use serde_json::Value;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{StatusCode, Uri};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::DefaultResolver;

/// Of what others say in an error.
const WORDS_MAX: usize = 200;

/// What did not come of asking.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no answer from {url}: {error}")]
    Unreached { url: Text, error: Text },
    #[error("{url}: {what}")]
    Unlike { url: Text, what: Text },
}

/// The variable of the environment with a token.
const TOKEN_VARIABLE: &str = "LOG_CAPTURER_TOKEN";
/// Of a file with a token.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// For telling whether it is there.
const READY_TIME_MAX: Duration = Duration::from_secs(5);
/// Of an answer to an order.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// How an instance that asks who one is is asked.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Instances that ask who one is")]
pub struct AccessArgs {
    /// A file with a token that the instance knows (server.auth.tokens). Without it, LOG_CAPTURER_TOKEN of the
    /// environment is one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// For https: these authorities in place of Mozilla's (PEM).
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// For https: the name in the instance's certificate, where that is not the host of its address.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// For mutual TLS: a client certificate with its chain (PEM).
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key (PEM, without a passphrase).
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
}

/// Names what was given, the file and the fix.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(String);

/// What was read of [`AccessArgs`].
#[derive(Clone, Default)]
pub struct Access {
    authorization: Option<String>,
    tls: Option<TlsConfig>,
    server_name: Option<String>,
}

/// Without what it says.
impl fmt::Debug for Access {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// For who is not known to be the one that the token is for.
    #[must_use]
    pub fn without_token(&self) -> Access {
        Access { authorization: None, ..self.clone() }
    }

    /// The token goes to no other host: the configuration that names it may be anybody's.
    #[must_use]
    pub fn for_host_of(&self, address: SocketAddr) -> Access {
        if is_of_this_host(address.ip()) { self.clone() } else { self.without_token() }
    }
}

/// How an instance may be asked there. It may run with the configuration before: so first as this one has it, then the
/// other way.
#[must_use]
pub fn urls(config: &Config, address: SocketAddr) -> [String; 2] {
    let schemes = if config.server.tls.is_some() { ["https", "http"] } else { ["http", "https"] };
    schemes.map(|scheme| format!("{scheme}://{}", reachable(address)))
}

/// What a socket can be bound to.
fn is_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

impl AccessArgs {
    pub fn open(&self) -> Result<Access, AccessError> {
        let token = match &self.token_file {
            Some(file) => {
                let wrong = |what| format!("--token-file {}: {what}", file.display());
                Some(token_of(file).map_err(|what| AccessError(wrong(what)))?)
            }
            None => std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()),
        };
        let options = tls::Options {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            server_name: self.server_name.clone(),
        };
        let flag = |key: &str| format!("--{}", key.replace('_', "-"));
        Ok(Access {
            authorization: token.map(|token| format!("Bearer {token}")),
            tls: Some(tls::config(&options, &flag).map_err(AccessError)?),
            server_name: options.server_name,
        })
    }
}

/// The token in a file. The error does not repeat what was found.
pub fn token_of(file: &Path) -> Result<String, String> {
    let text = config::read_text(file, TOKEN_BYTES_MAX).map_err(|error| error.to_string())?;
    let token = text.trim();
    let is_printable = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
    let wrong = || "expected a token in one line, found something else".to_owned();
    if is_printable { Ok(token.to_owned()) } else { Err(wrong()) }
}

/// An address that means all of this host's is no address to connect to.
#[must_use]
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A server that is asked.
#[derive(Clone)]
pub struct Server {
    agent: ureq::Agent,
    url: String,
    /// The whole header, where it wants to know who asks.
    authorization: Option<String>,
}

/// Likewise.
impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// None where the url has no scheme and host, or more than a path behind them; a password in it would be
    /// shown wherever the server is named.
    #[must_use]
    pub fn new(url: &str) -> Option<Server> {
        Server::known(url, &Access::default())
    }

    /// The instance that has this configuration; none where its port is not known. Whether
    /// it has TLS is asked.
    #[must_use]
    pub fn of_instance(config: &Config, access: &Access) -> Option<Server> {
        let address = reachable(config.server.listen);
        if address.port() == 0 {
            return None;
        }
        let stranger = access.without_token();
        let urls = urls(config, address);
        let answers = |url: &&String| {
            let asked = Server::known(url, &stranger)
                .map(|server| server.get("/ready", READY_TIME_MAX, ANSWER_BYTES_MAX));
            // One with TLS answers 400 to who has none.
            matches!(asked, Some(Ok((status, _))) if status != StatusCode::BAD_REQUEST)
        };
        let url = urls.iter().find(answers).unwrap_or(&urls[0]);
        Server::known(url, &access.for_host_of(address))
    }

    /// Likewise, to which one is known by `access`. Give it to instances alone: who is asked gets the token.
    #[must_use]
    pub fn known(url: &str, access: &Access) -> Option<Server> {
        let url = url.trim_end_matches('/');
        let parts = url.parse::<Uri>().ok();
        let scheme =
            parts.as_ref().and_then(|url| url.scheme_str().filter(|_| url.host().is_some()));
        if !matches!(scheme, Some("http" | "https")) || url.contains(['?', '#', '@']) {
            return None;
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // It is not far, and whoever names one means that one.
            .proxy(None)
            .max_redirects(0);
        let agent = match &access.tls {
            None => agent.build().into(),
            Some(tls) => {
                let name = access.server_name.as_deref();
                let connector = wire::connector(&parts?, name, false).ok()?;
                let config = agent.tls_config(tls.clone()).build();
                ureq::Agent::with_parts(config, connector, DefaultResolver::default())
            }
        };
        Some(Server { agent, url: url.to_owned(), authorization: access.authorization.clone() })
    }

    #[must_use]
    pub fn authorized(self, authorization: String) -> Server {
        Server { authorization: Some(authorization), ..self }
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// With the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> String {
        let parts = self.url.parse::<Uri>().expect("it was parsed before");
        parts.host().expect("it has one").to_owned()
    }

    /// Whatever its status is, it is an answer.
    pub fn get(
        &self,
        path: &str,
        limit: Duration,
        bytes_max: u64,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let unreached = |error: ureq::Error| Failure::Unreached {
            url: Text::of(&self.url),
            error: Text::of(&error.to_string()),
        };
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.config().timeout_global(Some(limit)).build();
        let mut response = request.call().map_err(unreached)?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(bytes_max);
        Ok((status, body.read_to_vec().map_err(unreached)?))
    }

    /// Has something done; whatever its status is, it is an answer.
    pub fn post(
        &self,
        path: &str,
        body: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let unreached = |error: ureq::Error| Failure::Unreached {
            url: Text::of(&format!("{}{path}", self.url)),
            error: Text::of(&error.to_string()),
        };
        let mut request = self.agent.post(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.content_type("application/json");
        let request = request.config().timeout_global(Some(limit)).build();
        let mut response = request.send(body).map_err(unreached)?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        Ok((status, body.read_to_vec().map_err(unreached)?))
    }

    /// The body of a success.
    pub fn success(&self, path: &str, limit: Duration, bytes_max: u64) -> Result<Vec<u8>, Failure> {
        let (status, body) = self.get(path, limit, bytes_max)?;
        if status.is_success() {
            return Ok(body);
        }
        // Its own words, where it has some.
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let said = said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or_default();
        let said = said.chars().take(WORDS_MAX).collect::<String>();
        Err(self.unlike(path, format!("{status} {said}{}", hint(status)).trim_end()))
    }

    /// A success, read as JSON.
    pub fn json<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        limit: Duration,
        bytes_max: u64,
    ) -> Result<T, Failure> {
        let body = self.success(path, limit, bytes_max)?;
        serde_json::from_slice(&body).map_err(|error| self.unlike(path, &error.to_string()))
    }

    /// It answered something else than was expected.
    #[must_use]
    pub fn unlike(&self, path: &str, what: &str) -> Failure {
        let path = path.split('?').next().unwrap_or_default();
        Failure::Unlike { url: Text::of(&format!("{}{path}", self.url)), what: Text::of(what) }
    }
}

/// What to do about an answer to whom nobody knows.
#[must_use]
pub fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; give a token with the role by --token-file FILE or LOG_CAPTURER_TOKEN"
        }
        _ => "",
    }
}

/// Printable: control characters, and those that turn the direction of text, are written out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(String);

impl Text {
    #[must_use]
    pub fn of(text: &str) -> Text {
        let write = |c: char| match c {
            c if c.is_control() || is_unseen(c) => c.escape_default().to_string(),
            c => c.into(),
        };
        Text(text.chars().map(write).collect())
    }
}

/// Changes how others look, and has no look of its own.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = Text;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text::of(text))
            }
        }

        from.deserialize_str(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_command() {
        let text = "a\u{1b}]0;x\u{7}\u{9b}2J\r\n\t\u{202e}ü\u{feff}\u{7f}";
        let clean = Text::of(text);
        assert!(!clean.chars().any(|c| c.is_control() || is_unseen(c)), "{clean}");
        assert!(clean.contains('ü') && clean.contains("\\u{1b}"), "{clean}");
    }

    #[test]
    fn an_instance_that_listens_everywhere_is_asked_here() {
        for (listen, asked) in [
            ("0.0.0.0:8401", "127.0.0.1:8401"),
            ("[::]:1", "[::1]:1"),
            ("10.1.2.3:9", "10.1.2.3:9"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
