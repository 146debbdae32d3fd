//! What stands before Loki: a gateway with and without TLS, which counts what it does to requests, and
//! a proxy.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An authority that issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate behind that of another authority.
    pub fn file(&self, dir: &Path) -> PathBuf {
        let other = Authority::new();
        write(dir, "ca.pem", &format!("{}\n{}", other.pem, self.pem))
    }

    pub fn issue(&self, name: &str) -> Issued {
        self.issue_until(name, None)
    }

    /// Valid until so long after 1970.
    pub fn issue_until(&self, name: &str, until: Option<Duration>) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        // Another one than its authority's: else it looks as if it had issued itself.
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(until) = until {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + until;
        }
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { cert, key: key.serialize_pem() }
    }

    /// The TLS of a server; with `clients`, of one that serves those with a certificate by it.
    pub fn server(&self, name: &str, clients: Option<&Authority>) -> ServerConfig {
        server(&self.issue(name), clients)
    }
}

/// A server whose certificate nobody issued but itself, as an authority; and that certificate.
pub fn self_signed(name: &str) -> (ServerConfig, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap().pem();
    let issued = Issued { cert: cert.clone(), key: key.serialize_pem() };
    (server(&issued, None), cert)
}

pub fn server(issued: &Issued, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    // Its own, and what is shown behind it.
    let chain = CertificateDer::pem_slice_iter(issued.cert.as_bytes()).map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    builder.with_single_cert(chain.collect(), key).unwrap()
}

pub fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let file = dir.join(name);
    fs::write(&file, content).unwrap();
    file
}

/// What a gateway does with requests.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Passes them on.
    Pass,
    /// Passes those on whose head has this line, in small letters but for its value; others get 401.
    Demand(String),
    /// Answers the next one with these bytes, and passes on from then on.
    Answer(Vec<u8>),
    /// Answers those for this path with these bytes.
    AnswerFor(&'static str, Vec<u8>),
    /// Passes one on, and closes the connection behind its answer without saying so.
    CloseBehind,
    /// Passes one on, and closes the connection when the next one has come.
    CloseOnSecond,
}

#[derive(Default)]
pub struct Counts {
    pub connections: AtomicU64,
    /// That ended before a request was read.
    pub handshakes_failed: AtomicU64,
    pub passed: AtomicU64,
    pub unauthorized: AtomicU64,
    pub answered: AtomicU64,
    /// Read, neither passed nor answered.
    pub dropped: AtomicU64,
}

pub fn count(of: &AtomicU64) -> u64 {
    of.load(Ordering::SeqCst)
}

fn add(to: &AtomicU64) {
    to.fetch_add(1, Ordering::SeqCst);
}

pub struct Gateway {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    stub: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    manner: Mutex<Manner>,
    heads: Mutex<Vec<String>>,
    names: Mutex<Vec<String>>,
    counts: Counts,
}

impl Gateway {
    pub fn start(stub: SocketAddr, tls: Option<ServerConfig>, manner: Manner) -> Gateway {
        let shared = Arc::new(Shared {
            stub,
            tls: tls.map(Arc::new),
            manner: Mutex::new(manner),
            heads: Mutex::default(),
            names: Mutex::default(),
            counts: Counts::default(),
        });
        let serving = shared.clone();
        let address = listen(move |stream| serving.serve(stream));
        Gateway { address, shared }
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    pub fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// The heads of all requests; names of headers are in small letters.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// The names that clients asked for when TLS began.
    pub fn names(&self) -> Vec<String> {
        self.shared.names.lock().unwrap().clone()
    }
}

/// A thread for each connection, until the program ends.
fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (serve.clone(), stream.unwrap());
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        add(&self.counts.connections);
        let Some(tls) = &self.tls else {
            // It ends when the client does, or when it is told to.
            let _ = self.converse(stream);
            return;
        };
        let connection = ServerConnection::new(tls.clone()).unwrap();
        let mut tls = StreamOwned::new(connection, stream);
        while tls.conn.is_handshaking() {
            if tls.conn.complete_io(&mut tls.sock).is_err() {
                add(&self.counts.handshakes_failed);
                // So that the client gets to read why.
                let _ = tls.sock.shutdown(Shutdown::Write);
                let _ = tls.sock.set_read_timeout(Some(Duration::from_secs(2)));
                let _ = io::copy(&mut tls.sock, &mut io::sink());
                return;
            }
        }
        if let Some(name) = tls.conn.server_name() {
            self.names.lock().unwrap().push(name.to_owned());
        }
        let _ = self.converse(tls);
    }

    fn converse(&self, client: impl Read + Write) -> io::Result<()> {
        let mut client = BufReader::new(client);
        let mut loki = BufReader::new(TcpStream::connect(self.stub)?);
        for number in 1.. {
            let (head, request) = message(&mut client)?;
            let head = lower_names(&head);
            self.heads.lock().unwrap().push(head.clone());
            let manner = self.manner.lock().unwrap().clone();
            match &manner {
                Manner::Demand(line) if !head.lines().any(|found| found == line) => {
                    add(&self.counts.unauthorized);
                    let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 5\r\n\r\nwho?\n";
                    client.get_mut().write_all(answer)?;
                    continue;
                }
                Manner::Answer(answer) => {
                    add(&self.counts.answered);
                    *self.manner.lock().unwrap() = Manner::Pass;
                    client.get_mut().write_all(answer)?;
                    client.get_mut().flush()?;
                    continue;
                }
                Manner::AnswerFor(path, answer) if head.contains(&format!(" {path}")) => {
                    add(&self.counts.answered);
                    client.get_mut().write_all(answer)?;
                    client.get_mut().flush()?;
                    continue;
                }
                Manner::CloseOnSecond if number > 1 => {
                    add(&self.counts.dropped);
                    return Ok(());
                }
                _ => {}
            }
            loki.get_mut().write_all(&request)?;
            let (_, answer) = message(&mut loki)?;
            add(&self.counts.passed);
            client.get_mut().write_all(&answer)?;
            client.get_mut().flush()?;
            if matches!(manner, Manner::CloseBehind) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// One request or answer: its head, and all of it.
fn message(from: &mut impl BufRead) -> io::Result<(String, Vec<u8>)> {
    let head = head(from)?;
    let length = lower_names(&head)
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let whole = [head.as_bytes(), &body].concat();
    Ok((head, whole))
}

fn head(from: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn lower_names(head: &str) -> String {
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\r\n", name.to_lowercase()),
        None => format!("{line}\r\n"),
    };
    head.lines().map(lower).collect()
}

/// A proxy: tunnels and requests go to one address, whatever name they are for.
pub struct Proxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start(to: SocketAddr) -> Proxy {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        let address = listen(move |stream| {
            let _ = relay(stream, to, &seen);
        });
        Proxy { address, heads }
    }

    /// Of each connection, the first head; names of headers are in small letters.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn relay(client: TcpStream, to: SocketAddr, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let head = head(&mut from)?;
    seen.lock().unwrap().push(lower_names(&head));
    let server = TcpStream::connect(to)?;
    if head.starts_with("CONNECT ") {
        (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        (&server).write_all(head.as_bytes())?;
    }
    let (mut answers, mut back) = (server.try_clone()?, client);
    std::thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    io::copy(&mut from, &mut &server)?;
    server.shutdown(Shutdown::Both)
}
