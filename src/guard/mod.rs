//! Who may come in: on each listener, what a request needs and what whoever asks may do.
//!
//! A request is judged once, by its head, before anything of its body is read ([`Post::admit`]). Whoever comes is
//! known by a token ([`token`]) or by the certificate of the connection ([`keys`]); where nobody is asked, by where
//! they come from. What changed something, or was to, is kept ([`audit`]).

pub mod audit;
pub mod keys;
pub mod token;

mod denied;
mod who;

pub use denied::Denied;
pub use who::{Pass, Role, Roles, Who};

use crate::lock;
use audit::Audit;
use denied::REASONS;
use hyper::header::{AUTHORIZATION, HeaderMap};
use io::http::{Connection, Keyring};
use keys::{Ring, Standing};
use perf::errors::ErrorKey;
use perf::guard::counts;
use prometheus::IntCounter;
use shards::rate::Rates;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Api,
    Metrics,
}

impl Listener {
    /// Where its keys are in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Listener::Api => "server",
            Listener::Metrics => "metrics",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Token {
    pub name: Arc<str>,
    pub sha256: [u8; token::HASH_BYTES],
    pub roles: Roles,
    /// None: any number.
    pub requests_per_second: Option<u64>,
}

/// Of one configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub tokens: Vec<Token>,
    pub client_roles: Roles,
    /// Whether whoever comes is asked who they are: on `server.listen`, on `metrics.listen`.
    pub asks: [bool; 2],
    pub tls: [Option<keys::Options>; 2],
}

/// What is in force.
struct Rules {
    options: Options,
    /// Of each token.
    rates: Vec<Option<Rates>>,
}

/// A configuration whose files were read: nothing is left that could fail.
pub struct Prepared {
    rules: Rules,
    keys: [Option<keys::Read>; 2],
}

impl Options {
    pub fn prepare(mut self) -> Result<Prepared, String> {
        let mut read = |listener: Listener| {
            let tls = self.tls[listener as usize].take();
            tls.map(|tls| tls.read(listener.name())).transpose()
        };
        let keys = [read(Listener::Api)?, read(Listener::Metrics)?];
        let rate = |token: &Token| token.requests_per_second.map(|max| Rates::new(Some(max), None));
        let rates = self.tokens.iter().map(rate).collect();
        Ok(Prepared { rules: Rules { options: self, rates }, keys })
    }
}

/// One for the process, as long as it lives.
pub struct Guard {
    rules: Mutex<Arc<Rules>>,
    /// Goes up with each change of them.
    version: AtomicU64,
    rings: [Arc<Ring>; 2],
    /// Of each address.
    failures: Rates,
    pub audit: Audit,
    told: Mutex<Told>,
}

/// What was said of those who were turned away.
struct Told {
    at: Option<Instant>,
    handshakes: [u64; 2],
    refused: u64,
}

/// A second, of each address; the right token counts as none.
const FAILURES_MAX: u64 = 10;
/// How often it is said how many were turned away.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Longer ones are wrong without being looked at.
const TOKEN_BYTES_MAX: usize = 512;

impl Guard {
    #[must_use]
    pub fn new(prepared: Prepared, audit: Audit) -> Guard {
        let rings = [Listener::Api, Listener::Metrics].map(|of| Arc::new(Ring::new(of)));
        let none = Rules { options: Options::default(), rates: Vec::new() };
        let told = Told { at: None, handshakes: [0; 2], refused: 0 };
        let guard = Guard {
            rules: Mutex::new(Arc::new(none)),
            version: AtomicU64::new(0),
            rings,
            failures: Rates::new(None, Some(FAILURES_MAX)),
            audit,
            told: Mutex::new(told),
        };
        guard.put_in_force(prepared);
        guard
    }

    pub fn put_in_force(&self, prepared: Prepared) {
        for (ring, keys) in self.rings.iter().zip(prepared.keys) {
            ring.put(keys);
        }
        *lock(&self.rules) = Arc::new(prepared.rules);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The files of TLS alone.
    pub fn renew(&self, prepared: Prepared) {
        for (ring, keys) in self.rings.iter().zip(prepared.keys) {
            ring.put(keys);
        }
    }

    #[must_use]
    pub fn ring(&self, listener: Listener) -> &Arc<Ring> {
        &self.rings[listener as usize]
    }

    /// Once a second: whether files changed, and who was turned away.
    pub fn look(&self) {
        self.rings.iter().for_each(|ring| ring.look());
        let told = &mut *lock(&self.told);
        let failures = [0, 1].map(|at| self.rings[at].failures());
        let handshakes = failures.map(|(count, _)| count);
        let refused = REASONS.iter().flat_map(|reason| {
            [Listener::Api, Listener::Metrics].map(|of| counts().refused(of.name(), reason).get())
        });
        let refused: u64 = refused.sum();
        let is_news = handshakes != told.handshakes || refused != told.refused;
        if !is_news || told.at.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            return;
        }
        let since: u64 = handshakes.iter().sum::<u64>() - told.handshakes.iter().sum::<u64>();
        if since > 0 {
            let most = failures.iter().max_by_key(|(count, _)| *count).map_or("", |(_, why)| why);
            tracing::warn!(
                error_key = ErrorKey::HandshakesFailed.name(),
                connections = since,
                most,
                "TLS did not begin on some connections; log_capturer_tls_handshake_errors_total tells why"
            );
        }
        if refused > told.refused {
            tracing::warn!(
                error_key = ErrorKey::RequestsRefused.name(),
                requests = refused - told.refused,
                "requests were refused for who asked; log_capturer_auth_refused_total tells why"
            );
        }
        *told = Told { at: Some(Instant::now()), handshakes, refused };
    }
}

/// The guard of one listener on one shard.
pub struct Post {
    guard: Arc<Guard>,
    listener: Listener,
    seen: RefCell<(u64, Arc<Rules>)>,
    refused: [IntCounter; REASONS.len()],
}

/// What a request brings to be known by.
enum Brought<'a> {
    Nothing,
    Token(&'a [u8]),
    /// Another scheme, several, or nonsense.
    Else,
}

/// Which time a request is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Again,
}

/// Why a token is good for nothing.
enum Turned {
    Unknown(&'static str),
    Rate(Duration),
}

impl Post {
    #[must_use]
    pub fn new(guard: Arc<Guard>, listener: Listener) -> Rc<Post> {
        let version = guard.version.load(Ordering::Acquire);
        let seen = RefCell::new((version, lock(&guard.rules).clone()));
        let refused = REASONS.map(|reason| counts().refused(listener.name(), reason));
        Rc::new(Post { guard, listener, seen, refused })
    }

    #[must_use]
    pub fn keyring(&self) -> Arc<dyn Keyring> {
        self.guard.ring(self.listener).clone()
    }

    /// Who asks, where they may. Where nothing is needed, anyone may, and a token that is not known is none.
    pub fn admit(
        &self,
        needed: Option<Role>,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Pass, Denied> {
        self.counted(self.judge(needed, headers, connection, Look::First), connection)
    }

    /// Whether they still may, by the rules in force now: the request counts once in its token's rate.
    pub fn admit_again(
        &self,
        needed: Role,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<(), Denied> {
        let admitted = self.judge(Some(needed), headers, connection, Look::Again);
        self.counted(admitted, connection).map(drop)
    }

    fn counted(
        &self,
        admitted: Result<Pass, Denied>,
        connection: &Connection,
    ) -> Result<Pass, Denied> {
        if let Err(denied) = &admitted {
            self.refused[denied.reason()].inc();
            if denied.closes() {
                connection.end();
            }
        }
        admitted
    }

    fn judge(
        &self,
        needed: Option<Role>,
        headers: &HeaderMap,
        connection: &Connection,
        look: Look,
    ) -> Result<Pass, Denied> {
        let version = self.guard.version.load(Ordering::Acquire);
        if self.seen.borrow().0 != version {
            *self.seen.borrow_mut() = (version, lock(&self.guard.rules).clone());
        }
        let seen = self.seen.borrow();
        let rules = &*seen.1;
        let peer = connection.peer.to_canonical();
        let certificate = self.of_connection(needed, headers, connection)?;
        if !rules.options.asks[self.listener as usize] {
            return of_place(needed, peer);
        }
        let roles = rules.options.client_roles;
        let known = certificate.map(|name| Pass { who: Who::Certificate(name), roles });
        let known = match rules.by_token(known.clone(), headers, look) {
            Ok(known) => known,
            // Whoever probes with a token of yesterday is to learn how it goes all the same.
            Err(_) if needed.is_none() => known,
            Err(Turned::Rate(wait)) => return Err(Denied::Rate(wait)),
            Err(Turned::Unknown(found)) => return Err(self.unknown(found, peer)),
        };
        match (known, needed) {
            (Some(pass), None) => Ok(pass),
            (Some(pass), Some(role)) if pass.may(role) => Ok(pass),
            (Some(pass), Some(role)) => Err(Denied::Role { role, who: pass.who }),
            (None, None) => Ok(Pass { who: Who::Anyone, roles: Roles::default() }),
            (None, Some(_)) => Err(self.unknown("none", peer)),
        }
    }

    /// What the client's certificate is called. A connection that would not be made so now ends with its next answer.
    fn of_connection(
        &self,
        needed: Option<Role>,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Option<Arc<str>>, Denied> {
        let standing = self.guard.ring(self.listener).standing(connection);
        if !matches!(standing, Standing::Current(_)) {
            connection.end();
        }
        match standing {
            Standing::Current(client) => Ok(client.map(keys::name)),
            Standing::Plain if headers.contains_key(AUTHORIZATION) => {
                Err(Denied::Connection("TLS"))
            }
            Standing::Uncertified if needed.is_some() => Err(Denied::Connection(
                "a certificate that is valid and by an authority of client_ca_file",
            )),
            Standing::Plain | Standing::Secured | Standing::Uncertified => Ok(None),
        }
    }

    fn unknown(&self, found: &'static str, peer: IpAddr) -> Denied {
        match self.guard.failures.take(&network(peer), 1) {
            Ok(()) => Denied::Unknown { found },
            Err(wait) => Denied::Failures(wait),
        }
    }
}

impl Rules {
    /// Who is `known` by a certificate, and by the token that comes with it.
    fn by_token(
        &self,
        known: Option<Pass>,
        headers: &HeaderMap,
        look: Look,
    ) -> Result<Option<Pass>, Turned> {
        let token = match brought(headers) {
            _ if self.options.tokens.is_empty() => return Ok(known),
            Brought::Nothing => return Ok(known),
            Brought::Else => return Err(Turned::Unknown("something else")),
            Brought::Token(token) => token,
        };
        let at = self.find(token).ok_or(Turned::Unknown("another one"))?;
        if let Some(rate) = self.rates[at].as_ref().filter(|_| look == Look::First) {
            rate.take(&(), 1).map_err(Turned::Rate)?;
        }
        let Token { name, roles, .. } = &self.options.tokens[at];
        Ok(Some(Pass::by_token(known, name.clone(), *roles)))
    }

    /// Which token it is. How long that takes does not depend on how much of one is right.
    fn find(&self, token: &[u8]) -> Option<usize> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let hash = token::hash(token);
        let mut found = None;
        for (at, known) in self.options.tokens.iter().enumerate() {
            let same: Choice = known.sha256.ct_eq(&hash);
            if bool::from(same) {
                found = Some(at);
            }
        }
        found
    }
}

/// Where nobody is asked: what changes anything is for this host.
fn of_place(needed: Option<Role>, peer: IpAddr) -> Result<Pass, Denied> {
    let asks = Roles::default().with(Role::Ingest).with(Role::Read);
    if peer.is_loopback() {
        return Ok(Pass { who: Who::Loopback, roles: asks.with(Role::Operate) });
    }
    match needed {
        Some(Role::Operate) => Err(Denied::Elsewhere),
        _ => Ok(Pass { who: Who::Anyone, roles: asks }),
    }
}

/// Only of the one header: never of the query, where it would stand in logs of others.
fn brought(headers: &HeaderMap) -> Brought<'_> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Brought::Nothing };
    let value = value.as_bytes();
    match value.split_at_checked("Bearer ".len()) {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case(b"Bearer ") && all.next().is_none() =>
        {
            Brought::Token(token.trim_ascii())
        }
        _ => Brought::Else,
    }
}

/// Whoever has one address of IPv6 has the 2^64 of its network.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(peer) => {
            let mut segments = peer.segments();
            segments[4..].fill(0);
            IpAddr::from(segments)
        }
        peer => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::brought as brought_by;
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn one_bearer_token_and_nothing_like_it() {
        let brought = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
            }
            match brought_by(&headers) {
                Brought::Nothing => "nothing".to_owned(),
                Brought::Token(token) => String::from_utf8_lossy(token).into_owned(),
                Brought::Else => "else".to_owned(),
            }
        };
        assert_eq!(brought(&[]), "nothing");
        assert_eq!(brought(&[b"Bearer a.b"]), "a.b");
        assert_eq!(brought(&[b"bEARER   a "]), "a");
        assert_eq!(brought(&[b"Bearer "]), "");
        for wrong in
            [&b"Bearer"[..], b"", b"Basic YTpi", b"a", b"Bearer\ta", b"\xff\xfe", b"Bearera b"]
        {
            assert_eq!(brought(&[wrong]), "else", "{wrong:?}");
        }
        assert_eq!(brought(&[b"Bearer a", b"Bearer a"]), "else");
    }

    #[test]
    fn a_token_is_found_by_its_hash_alone() {
        let token = |name: &str, secret: &str| Token {
            name: name.into(),
            sha256: token::hash(secret.as_bytes()),
            roles: Roles::default(),
            requests_per_second: None,
        };
        let options =
            Options { tokens: vec![token("a", "one"), token("b", "two")], ..Options::default() };
        let rules = options.prepare().unwrap().rules;
        assert_eq!((rules.find(b"one"), rules.find(b"two")), (Some(0), Some(1)));
        let long = [b'a'; TOKEN_BYTES_MAX + 1];
        for wrong in [&b""[..], b"On", b"one ", b"One", &long] {
            assert_eq!(rules.find(wrong), None);
        }
    }
}
