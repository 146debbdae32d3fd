//! The keys of a listener: its certificate, and the authorities of its clients, from files that are read again
//! when they change.

use super::Listener;
use crate::lock;
use crate::push::auth::State;
use crate::push::tls::{certificates, private_key, read};
use io::http::{Failure, Keyring, Keys};
use perf::errors::ErrorKey;
use perf::guard::counts;
use prometheus::IntCounter;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// PEM: the certificate with its chain.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Clients need a certificate by one of these.
    pub client_ca_file: Option<PathBuf>,
}

/// What was read of the files.
pub struct Read {
    options: Options,
    /// Before they were read: what changed meanwhile is seen the next time.
    states: Vec<Option<State>>,
    config: Arc<ServerConfig>,
    authorities: Vec<CertificateDer<'static>>,
    expires_at_s: Option<i64>,
}

impl Options {
    fn states(&self) -> Vec<Option<State>> {
        let files = [Some(&self.cert_file), Some(&self.key_file), self.client_ca_file.as_ref()];
        files.into_iter().flatten().map(|file| State::of(file)).collect()
    }

    /// `listener` is where the keys of the configuration are: each error names one, the file and the fix.
    pub fn read(self, listener: &str) -> Result<Read, String> {
        let states = self.states();
        let name = |key: &str| format!("{listener}.tls.{key}");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut authorities = Vec::new();
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let key = name("client_ca_file");
                authorities = certificates(&key, file)?;
                let wrong = |error: &dyn std::fmt::Display| {
                    format!(
                        "{key}: {}: expected certificates of authorities, found one that is none: {error}; write the \
                         file anew",
                        file.display()
                    )
                };
                let mut roots = RootCertStore::empty();
                for authority in &authorities {
                    roots.add(authority.clone()).map_err(|error| wrong(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(&error))?)
            }
        };
        let chain = certificates(&name("cert_file"), &self.cert_file)?;
        let expires_at_s = chain.first().and_then(|own| expires_at_s(own));
        let key = name("key_file");
        let private = private_key(&key, &self.key_file, &read(&key, &self.key_file)?)?;
        let mut config = builder.with_single_cert(chain, private).map_err(|error| {
            format!(
                "{key}: {} is no key for the certificate in {}: {error}; the first certificate there has to be the \
                 one that the key was made for",
                self.key_file.display(),
                self.cert_file.display()
            )
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if self.client_ca_file.is_some() {
            // A session that is taken up again shows no certificate: one that expired meanwhile would do.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Read { options: self, states, config: Arc::new(config), authorities, expires_at_s })
    }
}

fn expires_at_s(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Of one listener, as long as the process lives.
pub struct Ring {
    listener: Listener,
    held: Mutex<Held>,
    failed: [IntCounter; Failure::ALL.len()],
}

#[derive(Default)]
struct Held {
    read: Option<Read>,
    /// With each change of the authorities, another one.
    authorities: u64,
    /// As the files stood when they were looked at last.
    seen: Vec<Option<State>>,
}

impl Ring {
    pub fn new(listener: Listener) -> Ring {
        let failed = Failure::ALL.map(|why| counts().handshake(listener.name(), why.name()));
        Ring { listener, held: Mutex::default(), failed }
    }

    /// From now on; connections that there are stay as they are.
    pub fn put(&self, read: Option<Read>) {
        let held = &mut *lock(&self.held);
        let before = held.read.as_ref().map(|read| &read.authorities);
        if before != read.as_ref().map(|read| &read.authorities) {
            held.authorities += 1;
        }
        counts().expiry(self.listener.name(), read.as_ref().and_then(|read| read.expires_at_s));
        held.seen = read.as_ref().map(|read| read.states.clone()).unwrap_or_default();
        held.read = read;
    }

    /// Reads the files again where they are others, and rest: one is written after the other. What cannot be used
    /// leaves what there is in force.
    pub fn look(&self) {
        let options = {
            let held = &mut *lock(&self.held);
            let Some(read) = &mut held.read else { return };
            let states = read.options.states();
            let rests = std::mem::replace(&mut held.seen, states.clone()) == states;
            if !rests || read.states == states {
                return;
            }
            // Said once, until they change again.
            read.states = states;
            read.options.clone()
        };
        let listener = self.listener.name();
        match options.read(listener) {
            Ok(read) => {
                self.put(Some(read));
                tracing::info!(
                    listener,
                    "the files of TLS were read again; new connections get them"
                );
            }
            Err(error) => tracing::warn!(
                error_key = ErrorKey::TlsUnreadable.name(),
                listener,
                error,
                "what the files of TLS held last is used"
            ),
        }
    }

    /// Which authorities clients are known by now.
    pub fn authorities(&self) -> u64 {
        lock(&self.held).authorities
    }

    /// How many handshakes failed, and most of them why.
    pub fn failures(&self) -> (u64, &'static str) {
        let counted = Failure::ALL.iter().zip(&self.failed);
        let counted = counted.map(|(why, count)| (count.get(), why.name()));
        let most = counted.clone().max_by_key(|(count, _)| *count);
        (counted.map(|(count, _)| count).sum(), most.map_or("", |(_, why)| why))
    }
}

impl Keyring for Ring {
    fn keys(&self) -> Option<Keys> {
        let held = lock(&self.held);
        let config = held.read.as_ref()?.config.clone();
        Some(Keys { config, authorities: held.authorities })
    }

    fn failed(&self, why: Failure) {
        self.failed[why as usize].inc();
    }
}
