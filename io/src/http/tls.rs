//! TLS of a listener's connections: the handshake, within the limits that a request's head has, and why it failed.

use super::Connection;
use super::watch::Phase;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use futures_rustls::TlsAcceptor;
use futures_rustls::server::TlsStream;
use glommio::net::TcpStream;
use rustls::pki_types::CertificateDer;
use rustls::{Error, ServerConfig};
use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::Instant;

/// What connections that come now are secured with.
#[derive(Debug, Clone)]
pub struct Keys {
    pub config: Arc<ServerConfig>,
    /// Tells apart the authorities by which clients are known: another number, other authorities.
    pub authorities: u64,
}

/// Who has the keys of a listener, and is told where they did not help.
pub trait Keyring {
    /// None: connections are not secured.
    fn keys(&self) -> Option<Keys>;
    fn failed(&self, why: Failure);
}

/// A client that showed its certificate, and that it has the key to it.
#[derive(Debug)]
pub struct Client {
    /// Its certificate, and those between it and an authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// What it is called: read once, by whoever asks for it first.
    pub name: OnceCell<Arc<str>>,
    /// What it was found to be the last time.
    pub verified: Cell<Verified>,
}

/// What the authorities say of a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Verified {
    /// Of the [`Keys`] by which it was verified.
    pub authorities: u64,
    pub at: Instant,
    pub holds: bool,
}

/// Why there is no conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It took too long.
    Slow,
    /// The client speaks something else, such as HTTP.
    NotTls,
    /// No certificate, where one is asked for.
    NoCertificate,
    /// One of other authorities, or that is not valid now.
    BadCertificate,
    /// The client does not trust this end.
    Distrusted,
    /// No version or cipher in common, or nonsense.
    Protocol,
    /// The connection broke off.
    Broken,
}

impl Failure {
    pub const ALL: [Failure; 7] = [
        Failure::Slow,
        Failure::NotTls,
        Failure::NoCertificate,
        Failure::BadCertificate,
        Failure::Distrusted,
        Failure::Protocol,
        Failure::Broken,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Failure::Slow => "slow",
            Failure::NotTls => "not_tls",
            Failure::NoCertificate => "no_client_certificate",
            Failure::BadCertificate => "bad_client_certificate",
            Failure::Distrusted => "distrusted",
            Failure::Protocol => "protocol",
            Failure::Broken => "broken",
        }
    }

    fn of(error: &std::io::Error) -> Failure {
        match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            Some(Error::NoCertificatesPresented) => Failure::NoCertificate,
            Some(Error::InvalidCertificate(_)) => Failure::BadCertificate,
            Some(Error::AlertReceived(_)) => Failure::Distrusted,
            Some(_) => Failure::Protocol,
            None => Failure::Broken,
        }
    }
}

/// What the first record of a conversation begins with.
const HANDSHAKE: u8 = 0x16;
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 57\r\nconnection: close\r\n\r\nexpected TLS here, found none; the url begins with https\n";

/// Shakes hands. Where that fails, the client gets to read why.
pub(super) async fn accept(
    mut stream: TcpStream,
    keys: Keys,
    keyring: &dyn Keyring,
    connection: &Connection,
) -> Option<Box<TlsStream<TcpStream>>> {
    connection.wait.enter(Phase::Handshake);
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first[0] != HANDSHAKE => {
            keyring.failed(Failure::NotTls);
            let _ = stream.write_all(NOT_TLS).await;
            hear_out(stream, connection).await;
            return None;
        }
        Ok(1) => {}
        // Whoever only looks whether somebody listens is no failure.
        _ => return None,
    }
    match TlsAcceptor::from(keys.config).accept(stream).into_fallible().await {
        Ok(stream) => {
            if let Some(shown) = stream.get_ref().1.peer_certificates() {
                let chain = shown.iter().map(|one| one.clone().into_owned()).collect();
                let authorities = keys.authorities;
                let verified = Verified { authorities, at: Instant::now(), holds: true };
                let (name, verified) = (OnceCell::new(), Cell::new(verified));
                let _ = connection.client.set(Client { chain, name, verified });
            }
            connection.wait.enter(Phase::Idle);
            Some(Box::new(stream))
        }
        Err((error, stream)) => {
            keyring.failed(Failure::of(&error));
            hear_out(stream, connection).await;
            None
        }
    }
}

/// A socket that is closed with unread data resets the connection, and the client reads nothing.
async fn hear_out(mut stream: TcpStream, connection: &Connection) {
    connection.wait.enter(Phase::Close);
    if stream.close().await.is_err() {
        return;
    }
    let mut heard = [0; 512];
    while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {}
}
