//! The certificate that a sink shows: of a handshake over which nothing else goes. Whether it is to be
//! trusted is not asked here: that says the client of pushes, which is asked beside this.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The first is the sink's own, then those above it; none where there is no TLS.
#[must_use]
pub fn certificates(mut stream: TcpStream, name: &str, limit: Duration) -> Vec<Vec<u8>> {
    let provider = Arc::new(ring::default_provider());
    let witness = Arc::new(Witness { provider: provider.clone(), seen: Mutex::default() });
    // It may want a certificate of ours, and break off: what it showed before is enough.
    let _ = shake_hands(&mut stream, name, limit, provider, witness.clone());
    std::mem::take(&mut witness.seen.lock().unwrap_or_else(PoisonError::into_inner))
}

fn shake_hands(
    stream: &mut TcpStream,
    name: &str,
    limit: Duration,
    provider: Arc<CryptoProvider>,
    witness: Arc<Witness>,
) -> Option<()> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(witness)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    while connection.is_handshaking() {
        connection.complete_io(stream).ok()?;
    }
    Some(())
}

/// Keeps what it is shown.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<Vec<u8>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(own).chain(above).map(|certificate| certificate.to_vec());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
