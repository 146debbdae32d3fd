//! TLS to the sink: its files, read and checked, and what its errors mean.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Authorities in place of Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate with its chain, and its key: both, or none.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// What the sink's certificate is for, where that is not the host of the url.
    pub server_name: Option<String>,
}

impl Options {
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca_file, &self.cert_file, &self.key_file].into_iter().flatten()
    }
}

/// What ureq is to do. It takes bad certificates for none, and a key that does not fit for a bug: so
/// all is tried here first, and an error names the key, as `key` calls it, the file and the fix.
pub fn config(options: &Options, key: &dyn Fn(&str) -> String) -> Result<TlsConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider.clone());
    if let Some(name) = &options.server_name
        && ServerName::try_from(name.as_str()).is_err()
    {
        return Err(format!(
            "{}: expected a host name or an IP address, found {name:?}; it is the name in the \
             certificate",
            key("server_name")
        ));
    }
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        let key = key("ca_file");
        let certificates = certificates(&key, file)?;
        for (at, certificate) in certificates.iter().enumerate() {
            roots.add(certificate.clone()).map_err(|error| {
                format!(
                    "{key}: {}: certificate {} of {} is none that can be trusted: {error}; remove \
                     it, or write the file anew",
                    file.display(),
                    at + 1,
                    certificates.len()
                )
            })?;
        }
        tls = tls.root_certs(RootCerts::Specific(Arc::new(owned(&certificates))));
    }
    if let (Some(cert_file), Some(key_file)) = (&options.cert_file, &options.key_file) {
        let chain = certificates(&key("cert_file"), cert_file)?;
        let name = key("key_file");
        // Read once: what was tried is what ureq gets.
        let pem = read(&name, key_file)?;
        let key = private_key(&name, key_file, &pem)?;
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key)
            .map_err(|error| {
                format!(
                    "{name}: {} is no key for the certificate in {}: {error}; the \
                     first certificate there has to be the one that the key was made for",
                    key_file.display(),
                    cert_file.display()
                )
            })?;
        let key = PrivateKey::from_pem(&pem).map_err(|error| error.to_string())?;
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&owned(&chain), key)));
    }
    Ok(tls.build())
}

fn owned(certificates: &[CertificateDer<'_>]) -> Vec<Certificate<'static>> {
    certificates.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
}

pub fn read(key: &str, file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| {
        format!(
            "{key}: {} cannot be read: {error}; check the path, and that this user may read it",
            file.display()
        )
    })
}

pub fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(key, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!(
            "{key}: {}: expected certificates as PEM (-----BEGIN CERTIFICATE-----), found none; of \
             DER, openssl x509 -inform der makes PEM",
            file.display()
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(format!(
            "{key}: {}: expected certificates as PEM, found a broken one: {error}; write the file \
             anew",
            file.display()
        )),
    }
}

pub fn private_key(key: &str, file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        // No word of what was found: it may be a part of a key.
        format!(
            "{key}: {}: expected a private key as PEM without a passphrase, found none; openssl \
             pkey -in FILE takes the passphrase off, and makes PEM",
            file.display()
        )
    })
}

/// What the operator can do about an error of TLS; `sink` is where its keys are.
pub fn hint(error: &ureq::Error, sink: &str) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    Some(match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "no known authority issued the sink's certificate: name the file with its authority's \
             certificate in {sink}.tls.ca_file"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the sink's certificate is for another name: correct the url, or set \
             {sink}.tls.server_name"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "renew the sink's certificate, or set this machine's clock".into(),
        // What openssl req -x509 makes, unless it is told otherwise.
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            format!(
                "the sink's certificate is an authority's: give the sink one without CA:TRUE, and \
                 name its authority's in {sink}.tls.ca_file"
            )
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => format!(
            "the sink wants a client certificate: set {sink}.tls.cert_file and {sink}.tls.key_file"
        ),
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure,
        ) => format!("the sink does not take the client certificate in {sink}.tls.cert_file"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("does the sink speak TLS there? if not, {sink}.url begins with http://")
        }
        _ => return None,
    })
}
