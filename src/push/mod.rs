//! Frames become one HTTP push: their snappy blocks joined, nothing decompressed but what is of one
//! stream alone. And the client that posts it:
//!
//! - [`address`]: where connections go;
//! - [`proxy`]: through which proxy;
//! - [`wire`]: how they are made;
//! - [`agent`]: what of that is made anew when files change;
//! - [`tls`]: whom they trust, and who they are;
//! - [`auth`]: who asks;
//! - [`reply`]: what came back.

mod address;
mod agent;
pub mod auth;
pub mod proxy;
mod reply;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wire;

pub use reply::Reply;

use crate::track::{Job, Piece};
use crate::verdict::Answer;
use crate::{block, part};
use address::Addresses;
use agent::Agents;
use auth::Authorization;
use proxy::Way;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::{HeaderName, HeaderValue, Uri};

/// What goes out together, joined. An entry's bytes never change: sent again, Loki knows it and stores
/// nothing twice.
pub struct Push {
    /// Empty: none is named.
    tenant: Arc<str>,
    pub body: Vec<u8>,
}

impl Push {
    #[must_use]
    pub fn new(tenant: Arc<str>, pieces: &[Piece]) -> Push {
        assert!(!pieces.is_empty());
        let raw_bytes = pieces.iter().map(|piece| u64::from(piece.frame.raw_len)).sum();
        let body = block::join(pieces.iter().map(|piece| &piece.frame.body[..]), raw_bytes);
        Push { tenant, body }
    }

    /// What a track gives. A stream that is sent alone may be limited, and goes as a single element, as
    /// each of its frames is: Loki hides nothing of it then.
    #[must_use]
    pub fn of(tenant: Arc<str>, job: &Job) -> Push {
        let bodies = || job.pieces.iter().map(|piece| &piece.frame.body[..]);
        let several = job.is_one_stream() && job.pieces.len() > 1;
        match several.then(|| part::merge(bodies())).flatten() {
            Some(body) => Push { tenant, body },
            None => Push::new(tenant, &job.pieces),
        }
    }
}

/// Not printed, not even for debugging: secrets are in it.
#[derive(Clone)]
pub struct Options {
    /// Where the sink's keys are in the configuration, such as `sinks.loki`: errors name them.
    pub key: String,
    pub url: String,
    /// Each push, from connecting to the end of the answer.
    pub timeout: Duration,
    pub connections: usize,
    pub tls: tls::Options,
    pub auth: Option<auth::Options>,
    pub proxy: proxy::Choice,
    /// Of every push, beside its own.
    pub headers: Vec<(String, String)>,
}

/// How long a connection is kept that nothing is sent on: less than the servers before Loki keep one
/// (a minute and more). Where one closes earlier, that is seen before it is used, or the push goes out
/// again.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);

/// Of Loki's endpoint for pushes.
const PUSH_PATH: &str = "/loki/api/v1/push";

fn wrong(error: impl Into<ureq::http::Error>) -> ureq::Error {
    ureq::Error::Http(error.into())
}

/// The same push within what is left of its time.
#[derive(Clone, Copy)]
struct Again {
    /// On a new connection, whichever are kept.
    fresh: bool,
}

/// Posts pushes; one for all senders, which share its connections.
#[derive(Clone)]
pub struct Client {
    agents: Arc<Agents>,
    addresses: Addresses,
    key: String,
    url: Uri,
    timeout: Duration,
    /// What an error begins with, where it may be the proxy's.
    through: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    auth: Option<Arc<Authorization>>,
}

fn agent(
    options: &Options,
    url: &Uri,
    tunnel: Option<ureq::Proxy>,
    forwards: bool,
    addresses: Addresses,
) -> Result<ureq::Agent, String> {
    let tls = tls::config(&options.tls, &|key| format!("{}.tls.{key}", options.key))?;
    let connector = wire::connector(url, options.tls.server_name.as_deref(), forwards)?;
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(options.timeout))
        .max_idle_connections_per_host(options.connections)
        .max_idle_connections(options.connections)
        .max_idle_age(IDLE_TIME_MAX)
        // Every answer is judged, none is followed and none turned into an error.
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(tunnel)
        .tls_config(tls)
        .user_agent(concat!("log-capturer/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(ureq::Agent::with_parts(config, connector, addresses))
}

impl Client {
    /// Everything that can be wrong before the first push is found here: the error names the key, what
    /// is wrong and what to do.
    pub fn new(options: &Options) -> Result<Client, String> {
        let sink = &options.key;
        let url: Uri = options.url.parse().map_err(|error| format!("{sink}.url: {error}"))?;
        let key = format!("{sink}.proxy");
        let way = Way::choose(&options.proxy, &url, &key, &|name: &str| std::env::var(name).ok())?;
        let mut headers = Vec::new();
        for (name, value) in &options.headers {
            let wrong = || format!("{sink}.headers.{name}: expected a header, found none");
            let name = HeaderName::try_from(name).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        let (mut tunnel, mut forward, mut through) = (None, None, String::new());
        match way {
            Way::Direct => {}
            Way::Tunnel(proxy) => {
                through = format!("through the proxy {}:{}: ", proxy.host(), proxy.port());
                tunnel = Some(proxy);
            }
            Way::Forward { proxy, authorization } => {
                let address = proxy.authority().map(ToString::to_string).unwrap_or_default();
                through = format!("through the proxy {address}: ");
                if let Some(text) = authorization {
                    let mut value = HeaderValue::try_from(text).map_err(|e| e.to_string())?;
                    value.set_sensitive(true);
                    headers.push((HeaderName::from_static("proxy-authorization"), value));
                }
                forward = Some(proxy);
            }
        }
        let addresses = Addresses::new(forward.clone());
        let make = {
            let (options, url, addresses) = (options.clone(), url.clone(), addresses.clone());
            move || agent(&options, &url, tunnel.clone(), forward.is_some(), addresses.clone())
        };
        let agents = Agents::new(options.tls.files().cloned().collect(), make)?;
        let auth = options.auth.clone().map(|auth| Authorization::new(auth, sink)).transpose()?;
        Ok(Client {
            agents: Arc::new(agents),
            addresses,
            key: sink.clone(),
            url,
            timeout: options.timeout,
            through,
            headers,
            auth: auth.map(Arc::new),
        })
    }

    /// Sends one push and waits for its answer; never longer than the timeout.
    #[must_use]
    pub fn post(&self, push: &Push) -> Reply {
        let deadline = Instant::now() + self.timeout;
        let header = self.auth.as_ref().map(|auth| auth.header());
        let reply = self.send(push, header.as_ref(), None, deadline);
        let refused = matches!(reply.answer, Answer::Status { code: 401, .. });
        if let (true, Some(auth), Some(header)) = (refused, &self.auth, &header)
            && let Some(header) = auth.instead_of(header)
        {
            return self.send(push, Some(&header), Some(Again { fresh: false }), deadline);
        }
        reply
    }

    /// Sends it, and once more where a connection broke that the sink may have closed while nothing
    /// was under way: that is no failure of the sink's.
    fn send(
        &self,
        push: &Push,
        auth: Option<&HeaderValue>,
        again: Option<Again>,
        deadline: Instant,
    ) -> Reply {
        wire::begin();
        let mut answer = self.ask(push, auth, again, deadline);
        if let Err(error) = &answer
            && !matches!(error, ureq::Error::Timeout(_))
            && wire::broke_on_a_kept_connection()
        {
            tracing::debug!(%error, "a kept connection was closed, the push is sent on a new one");
            answer = self.ask(push, auth, Some(Again { fresh: true }), deadline);
        }
        match answer {
            Ok(response) => Reply::of(response),
            Err(error) => {
                self.addresses.forget();
                Reply::broken(self.explain(&error))
            }
        }
    }

    fn ask(
        &self,
        push: &Push,
        auth: Option<&HeaderValue>,
        again: Option<Again>,
        deadline: Instant,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let tenant = &push.tenant;
        let mut request = self.agents.now().post(&self.url).content_type("application/x-protobuf");
        if !tenant.is_empty() {
            request = request.header("X-Scope-OrgID", &**tenant);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(auth) = auth {
            request = request.header("authorization", auth);
        }
        // Settings of a request's own cost more, and its connection a new TLS configuration: so the
        // first try is without.
        if let Some(Again { fresh }) = again {
            let left = deadline.saturating_duration_since(Instant::now());
            let idle_time_max = if fresh { Duration::ZERO } else { IDLE_TIME_MAX };
            let config = request.config().timeout_global(Some(left)).max_idle_age(idle_time_max);
            request = config.build();
        }
        request.send(&push.body[..])
    }

    /// Asks the sink for something else than a push, the way that pushes go.
    #[must_use]
    pub fn get(&self, path_and_query: &str, tenant: &str) -> Reply {
        let asked = self.address_of(path_and_query).and_then(|url| {
            let mut request = self.agents.now().get(&url);
            if !tenant.is_empty() {
                request = request.header("X-Scope-OrgID", tenant);
            }
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
            if let Some(auth) = &self.auth {
                request = request.header("authorization", auth.header());
            }
            request.call()
        });
        asked.map_or_else(|error| Reply::broken(self.explain(&error)), Reply::of)
    }

    /// Beside that of the pushes: what comes before Loki's own path stays.
    fn address_of(&self, path_and_query: &str) -> Result<Uri, ureq::Error> {
        let mut parts = self.url.clone().into_parts();
        let before = self.url.path().strip_suffix(PUSH_PATH).unwrap_or_default();
        parts.path_and_query = Some(format!("{before}{path_and_query}").parse().map_err(wrong)?);
        Uri::from_parts(parts).map_err(wrong)
    }

    fn explain(&self, error: &ureq::Error) -> String {
        let hint = tls::hint(error, &self.key).or_else(|| match error {
            ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => {
                Some(format!("put the proxy's user and password in {}.proxy", self.key))
            }
            _ => None,
        });
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{}{error}{hint}", self.through)
    }
}
