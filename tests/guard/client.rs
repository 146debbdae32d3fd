//! A client with keys of its own: over TLS, or without where there are none.

use crate::bed::PATIENCE;
use crate::gateway::front::Issued;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}", self.text))
    }
}

/// What a client knows, and is known by.
#[derive(Clone)]
pub struct Keys(Option<Arc<ClientConfig>>);

impl Keys {
    pub fn none() -> Keys {
        Keys(None)
    }

    pub fn new(authority: &str) -> Keys {
        Keys::with(authority, None)
    }

    pub fn with(authority: &str, own: Option<&Issued>) -> Keys {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let cert = CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        Keys(Some(Arc::new(config)))
    }

    /// That offers these protocols inside of TLS.
    pub fn offering(&self, protocols: &[&str]) -> Keys {
        let mut config = (**self.0.as_ref().expect("TLS")).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Keys(Some(Arc::new(config)))
    }

    pub fn connect(&self, address: SocketAddr) -> io::Result<Talk> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Some(config) = &self.0 else { return Ok(Talk::Plain(stream)) };
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Talk::Tls(Box::new(tls)))
    }

    pub fn ask(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> io::Result<Answer> {
        self.connect(address)?.ask(method, path, headers, body)
    }
}

/// A connection.
pub enum Talk {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Talk {
    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Talk::Plain(stream) => stream,
            Talk::Tls(stream) => &mut **stream,
        }
    }

    pub fn tls(&self) -> &ClientConnection {
        match self {
            Talk::Plain(_) => panic!("there is no TLS"),
            Talk::Tls(stream) => &stream.conn,
        }
    }

    /// The server's certificate.
    pub fn certificate(&self) -> Vec<u8> {
        self.tls().peer_certificates().expect("it showed one")[0].to_vec()
    }

    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> io::Result<Answer> {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n"
        );
        // A server that refuses it may have closed already, and its answer is there.
        let sent = self.stream().write_all(head.as_bytes()).and_then(|()| {
            self.stream().write_all(body.as_bytes())?;
            self.stream().flush()
        });
        self.answer().map_err(|error| sent.err().unwrap_or(error))
    }

    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream().read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut answer = Answer { status: status.expect("a status"), head, text: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut text = vec![0; length];
        self.stream().read_exact(&mut text)?;
        answer.text = String::from_utf8(text).unwrap();
        Ok(answer)
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}
