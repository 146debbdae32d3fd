//! The keys of a listener: its certificate, and the authorities of its clients, from files that are read again
//! when they change.

use super::{Listener, token};
use crate::lock;
use crate::push::auth::State;
use crate::push::tls::{certificates, private_key, read};
use io::http::{Client, Connection, Failure, Keyring, Keys, Verified};
use perf::errors::ErrorKey;
use perf::guard::counts;
use prometheus::IntCounter;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

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
    /// Where clients need a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
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
        let (mut authorities, mut verified_by) = (Vec::new(), None);
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
                let verifier = verifier.build().map_err(|error| wrong(&error))?;
                verified_by = Some(verifier.clone());
                builder.with_client_cert_verifier(verifier)
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
        let (config, verifier) = (Arc::new(config), verified_by);
        Ok(Read { options: self, states, config, authorities, verifier, expires_at_s })
    }
}

fn expires_at_s(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// What connections that come now are.
const PLAIN: u8 = 0;
const TLS: u8 = 1;
const MUTUAL: u8 = 2;
/// How long a certificate is good for without another look.
const VERIFY_INTERVAL: Duration = Duration::from_secs(60);

/// What a connection is by the keys in force.
#[derive(Debug)]
pub enum Standing<'a> {
    /// As those are that begin now; with the client, where a certificate is needed.
    Current(Option<&'a Client>),
    /// Without TLS, which is needed by now.
    Plain,
    /// With TLS, which is not needed any more.
    Secured,
    /// Without a certificate that would be taken now.
    Uncertified,
}

/// What a client's certificate is called: its subject; where it has none, another name in it, or its hash.
pub fn name(client: &Client) -> Arc<str> {
    client
        .name
        .get_or_init(|| name_of(client.chain.first().map_or(&[][..], |own| own)).into())
        .clone()
}

fn name_of(certificate: &[u8]) -> String {
    let named = X509Certificate::from_der(certificate).ok().and_then(|(_, certificate)| {
        let subject = certificate.subject().to_string();
        if !subject.is_empty() {
            return Some(subject);
        }
        let others = certificate.subject_alternative_name().ok()??;
        others.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
            GeneralName::URI(name) => Some(format!("URI:{name}")),
            _ => None,
        })
    });
    named.unwrap_or_else(|| format!("sha256:{}", token::hex(&token::hash(certificate))))
}

/// Of one listener, as long as the process lives.
pub struct Ring {
    listener: Listener,
    held: Mutex<Held>,
    /// With each change of the authorities, another one.
    authorities: AtomicU64,
    /// [`PLAIN`], [`TLS`] or [`MUTUAL`].
    mode: AtomicU8,
    failed: [IntCounter; Failure::ALL.len()],
}

#[derive(Default)]
struct Held {
    read: Option<Read>,
    /// As the files stood when they were looked at last.
    seen: Vec<Option<State>>,
}

impl Ring {
    pub fn new(listener: Listener) -> Ring {
        let failed = Failure::ALL.map(|why| counts().handshake(listener.name(), why.name()));
        let (authorities, mode) = (AtomicU64::new(0), AtomicU8::new(PLAIN));
        Ring { listener, held: Mutex::default(), authorities, mode, failed }
    }

    /// From now on; connections that there are stay as they are, as far as their [`Standing`] is good.
    pub fn put(&self, read: Option<Read>) {
        self.put_into(&mut lock(&self.held), read);
    }

    fn put_into(&self, held: &mut Held, read: Option<Read>) {
        let mode = match &read {
            None => PLAIN,
            Some(read) if read.verifier.is_none() => TLS,
            Some(_) => MUTUAL,
        };
        let before = held.read.as_ref().map(|read| &read.authorities);
        if before != read.as_ref().map(|read| &read.authorities) {
            self.authorities.fetch_add(1, Ordering::AcqRel);
        }
        self.mode.store(mode, Ordering::Release);
        counts().expiry(self.listener.name(), read.as_ref().and_then(|read| read.expires_at_s));
        held.seen = read.as_ref().map(|read| read.states.clone()).unwrap_or_default();
        held.read = read;
    }

    /// Reads the files again where they are others, and rest: one is written after the other. What cannot be used
    /// leaves what there is in force.
    pub fn look(&self) {
        let options = lock(&self.held).read.as_ref().map(|read| read.options.clone());
        let Some(options) = options else { return };
        // Disks may be slow, and every connection waits for what is held.
        let states = options.states();
        {
            let held = &mut *lock(&self.held);
            let read = held.read.as_mut().filter(|read| read.options == options);
            let Some(read) = read else { return };
            let rests = std::mem::replace(&mut held.seen, states.clone()) == states;
            if !rests || read.states == states {
                return;
            }
            // Said once, until they change again.
            read.states = states;
        }
        let asked = options.clone();
        let listener = self.listener.name();
        match options.read(listener) {
            Ok(read) => {
                let held = &mut *lock(&self.held);
                if held.read.as_ref().is_none_or(|held| held.options != asked) {
                    return;
                }
                self.put_into(held, Some(read));
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

    /// What a connection is by the keys in force.
    pub fn standing<'a>(&self, connection: &'a Connection) -> Standing<'a> {
        match (connection.is_secured(), self.mode.load(Ordering::Acquire)) {
            (false, PLAIN) | (true, TLS) => Standing::Current(None),
            (false, _) => Standing::Plain,
            (true, PLAIN) => Standing::Secured,
            (true, _) => {
                let client = connection.client().filter(|client| self.holds(client));
                client.map_or(Standing::Uncertified, |client| Standing::Current(Some(client)))
            }
        }
    }

    /// Whether the certificate would be taken now. It is looked at again when the authorities are others, and when
    /// time has passed, since it may have expired.
    fn holds(&self, client: &Client) -> bool {
        let authorities = self.authorities.load(Ordering::Acquire);
        let last = client.verified.get();
        if last.authorities == authorities && last.at.elapsed() < VERIFY_INTERVAL {
            return last.holds;
        }
        let verifier = lock(&self.held).read.as_ref().and_then(|read| read.verifier.clone());
        let holds = verifier.zip(client.chain.split_first()).is_some_and(|(verifier, shown)| {
            verifier.verify_client_cert(shown.0, shown.1, UnixTime::now()).is_ok()
        });
        client.verified.set(Verified { authorities, at: Instant::now(), holds });
        holds
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
        Some(Keys { config, authorities: self.authorities.load(Ordering::Acquire) })
    }

    fn failed(&self, why: Failure) {
        self.failed[why as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    #[test]
    fn a_certificate_has_a_name_whatever_is_in_it() {
        let named = |subject: &str, others: &[&str]| {
            let others: Vec<String> = others.iter().map(|&name| name.to_owned()).collect();
            let mut params = CertificateParams::new(others).unwrap();
            params.distinguished_name = DistinguishedName::new();
            if !subject.is_empty() {
                params.distinguished_name.push(DnType::CommonName, subject);
            }
            name_of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
        };
        assert_eq!(named("shipper", &["host"]), "CN=shipper");
        assert_eq!(named("", &["host", "other"]), "DNS:host");
        for name in [named("", &[]), named("", &["127.0.0.1"]), name_of(b"nonsense")] {
            assert!(name.len() == 71 && name.starts_with("sha256:"), "{name}");
        }
    }
}
