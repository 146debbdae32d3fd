//! Whether what a sink shows leads to an authority that is trusted, at any time: by the verifier of the client of
//! pushes.

use crate::push::tls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{Error, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

pub struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl Trust {
    /// None where its authorities cannot be used, which is said elsewhere.
    #[must_use]
    pub fn of(options: &tls::Options, name: &str) -> Option<Trust> {
        let mut roots = RootCertStore::empty();
        match &options.ca_file {
            Some(file) => {
                for certificate in tls::certificates("ca_file", file).ok()? {
                    roots.add(certificate).ok()?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(ring::default_provider());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let name = ServerName::try_from(name.to_owned()).ok()?;
        Some(Trust { verifier: builder.build().ok()?, name })
    }

    /// `shown`: the sink's own first. Not all of them need be on the way to the authority.
    pub fn verify(&self, shown: &[Vec<u8>], at_s: i64) -> Result<(), Error> {
        let all: Vec<CertificateDer<'_>> =
            shown.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let (own, above) = all.split_first().ok_or(Error::NoCertificatesPresented)?;
        let seconds = u64::try_from(at_s).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verifier.verify_server_cert(own, above, &self.name, &[], at).map(drop)
    }
}
