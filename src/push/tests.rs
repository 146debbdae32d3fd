//! The client against small servers that each do one thing wrong.

use super::*;
use crate::handoff::Frame;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const ACCEPTED: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

fn piece(content: &[u8]) -> Piece {
    let body = snap::raw::Encoder::new().compress_vec(content).unwrap();
    let raw_len = u32::try_from(content.len()).unwrap();
    Piece::of(Frame { body: Arc::new(body), raw_len, ..Frame::for_tests() })
}

fn push_of(contents: &[Vec<u8>]) -> Push {
    let pieces: Vec<Piece> = contents.iter().map(|content| piece(content)).collect();
    Push::new("".into(), &pieces)
}

fn push() -> Push {
    push_of(&[b"a push".to_vec()])
}

#[test]
fn joined_blocks_decompress_to_joined_contents() {
    let contents: Vec<Vec<u8>> = (0..40_usize)
        .map(|n| format!("line {n} of many lines; ").repeat(1 + n * n * 11).into_bytes())
        .collect();
    for count in [1, 2, 40] {
        let push = push_of(&contents[..count]);
        let joined = snap::raw::Decoder::new().decompress_vec(&push.body).unwrap();
        assert!(joined == contents[..count].concat(), "{count} blocks");
    }
}

/// What a server does with the next request of a connection.
#[derive(Clone, Copy)]
enum Step {
    /// Reads it and answers.
    Answer(&'static [u8]),
    /// Reads it, answers with a head, and then one byte after the other, without end.
    Trickle(&'static [u8]),
    /// Reads it and says nothing, until the client is gone.
    Silence,
    /// Reads it; the connection is closed then, as it is behind the last step.
    Close,
    /// Sees it come and resets the connection.
    Reset,
    /// Reads its head, answers, and resets the connection while the rest comes.
    Early(&'static [u8]),
}

/// Serves connections in turn, each as its steps say; gives its address and, in their order, the
/// requests as they came, in small letters.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(connections: &[&[Step]]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        let connections: Vec<Vec<Step>> = connections.iter().map(|steps| steps.to_vec()).collect();
        std::thread::spawn(move || {
            for steps in connections {
                let (stream, _) = listener.accept().unwrap();
                serve(&stream, &steps, &seen);
            }
        });
        Server { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: &TcpStream, steps: &[Step], seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for step in steps {
        if let Step::Reset = step {
            stream.peek(&mut [0]).unwrap();
            seen.lock().unwrap().push("reset".into());
            return;
        }
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if reader.read_line(&mut request).unwrap_or(0) == 0 {
                return;
            }
        }
        let mut request = request.to_lowercase();
        if let Step::Early(answer) = step {
            seen.lock().unwrap().push(request);
            stream.write_all(answer).unwrap();
            // The client is to be in the midst of its body.
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        // None with a CONNECT.
        let length = request.split_once("content-length: ").and_then(|(_, l)| l.split_once('\r'));
        let mut body = vec![0; length.map_or(0, |(length, _)| length.parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        request.push_str(&body.escape_ascii().to_string());
        seen.lock().unwrap().push(request);
        match step {
            Step::Answer(answer) => stream.write_all(answer).unwrap(),
            Step::Trickle(head) => {
                stream.write_all(head).unwrap();
                while stream.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Step::Silence => {
                let _ = reader.read(&mut [0]);
            }
            Step::Close | Step::Reset | Step::Early(_) => return,
        }
    }
}

fn options(url: &str) -> Options {
    Options {
        key: "sinks.loki".into(),
        url: format!("{url}/loki/api/v1/push"),
        timeout: Duration::from_secs(60),
        connections: 4,
        tls: tls::Options::default(),
        auth: None,
        proxy: proxy::Choice::None,
        headers: Vec::new(),
    }
}

fn client(options: &Options) -> Client {
    Client::new(options).unwrap_or_else(|error| panic!("{error}"))
}

fn code(reply: &Reply) -> u16 {
    match &reply.answer {
        Answer::Status { code, .. } => *code,
        Answer::Broken(error) => panic!("{error}"),
    }
}

fn broken(reply: Reply) -> String {
    match reply.answer {
        Answer::Broken(error) => error,
        Answer::Status { code, .. } => panic!("{code}"),
    }
}

#[test]
fn a_connection_that_was_closed_while_it_was_idle_is_no_failure() {
    let once: &[Step] = &[Step::Answer(ACCEPTED)];
    let server = Server::start(&[once; 5]);
    let client = client(&options(&server.url));
    for _ in 0..5 {
        assert_eq!(code(&client.post(&push())), 204);
    }
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_kept_connection_that_breaks_before_an_answer_is_tried_again_at_once() {
    for end in [Step::Close, Step::Reset] {
        let server = Server::start(&[
            &[Step::Answer(ACCEPTED), end],
            &[Step::Answer(ACCEPTED), end],
            &[Step::Answer(ACCEPTED)],
        ]);
        let client = client(&options(&server.url));
        for _ in 0..3 {
            assert_eq!(code(&client.post(&push())), 204);
        }
        let requests = server.requests();
        assert_eq!(requests.len(), 5, "three, and two once more: {requests:?}");
        let first = &requests[0];
        assert!(requests.iter().all(|r| r == first || r == "reset"), "the same: {requests:?}");
    }
}

#[test]
fn a_new_connection_that_breaks_is_a_failure_and_so_is_half_an_answer() {
    let server =
        Server::start(&[&[Step::Close], &[Step::Answer(ACCEPTED), Step::Answer(b"HTTP/1.1 2")]]);
    let client = client(&options(&server.url));
    broken(client.post(&push()));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(code(&client.post(&push())), 204);
    broken(client.post(&push()));
    assert_eq!(server.requests().len(), 3, "none was sent twice");
}

#[test]
fn a_kept_connection_that_stays_silent_is_waited_for_once() {
    let server = Server::start(&[&[Step::Answer(ACCEPTED), Step::Silence]]);
    let client = client(&Options { timeout: Duration::from_millis(300), ..options(&server.url) });
    assert_eq!(code(&client.post(&push())), 204);
    assert!(broken(client.post(&push())).contains("timeout"));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_answer_that_comes_byte_by_byte_ends_in_time_with_its_status() {
    let head = b"HTTP/1.1 503 Oh\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                 retry-after: Sun, 06 Nov 1994 08:50:00 GMT\r\ncontent-length: 9999999\r\n\r\n";
    // Then one that never gets to the end of its head.
    let half = b"HTTP/1.1 503 Oh\r\nx: ";
    let server = Server::start(&[&[Step::Trickle(head)], &[Step::Trickle(half)]]);
    let client = client(&Options { timeout: Duration::from_millis(500), ..options(&server.url) });
    let start = Instant::now();
    let reply = client.post(&push());
    assert_eq!(reply.date_unix_s, Some(784_111_777));
    let Answer::Status { code, retry_after, text } = reply.answer else { panic!("{reply:?}") };
    assert_eq!((code, retry_after), (503, Some(Duration::from_secs(23))), "by the sink's clock");
    assert!(text.starts_with("xx"), "{text}");
    assert!(broken(client.post(&push())).contains("timeout"));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn an_answer_that_comes_before_the_push_has_gone_is_read() {
    let refused: &[u8] = b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge";
    let server =
        Server::start(&[&[Step::Early(refused)], &[Step::Answer(ACCEPTED), Step::Early(refused)]]);
    let client = client(&options(&server.url));
    // More than what the kernel takes of a connection that is not read.
    let mut seed = 7_u64;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    });
    let large = push_of(&[noise.take(24 << 20).collect()]);
    let refusal = |reply: Reply| match reply.answer {
        Answer::Status { code, text, .. } => (code, text),
        Answer::Broken(error) => panic!("{error}"),
    };
    assert_eq!(refusal(client.post(&large)), (413, "large".into()));
    assert_eq!(code(&client.post(&push())), 204);
    assert_eq!(refusal(client.post(&large)), (413, "large".into()), "on a kept connection");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_secret_that_is_refused_is_read_again_and_sent_again_at_once() {
    let refused: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    let server =
        Server::start(&[&[Step::Answer(refused), Step::Answer(refused), Step::Answer(ACCEPTED)]]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "one").unwrap();
    let password = auth::Source::File(file.clone());
    let auth = auth::Options::Basic { username: "me".into(), password };
    let client = client(&Options { auth: Some(auth), ..options(&server.url) });
    assert_eq!(code(&client.post(&push())), 401);
    fs::write(&file, "two").unwrap();
    assert_eq!(code(&client.post(&push())), 204);
    let header =
        |password| format!("\r\nauthorization: {}\r\n", auth::basic("me", password)).to_lowercase();
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests[..2].iter().all(|r| r.contains(&header("one"))), "{requests:?}");
    assert!(requests[2].contains(&header("two")), "{requests:?}");
}

#[test]
fn a_proxy_is_asked_for_the_whole_url_on_every_request() {
    let server = Server::start(&[&[Step::Answer(ACCEPTED), Step::Answer(ACCEPTED)]]);
    let at = server.url.replace("http://", "http://me:p%40ss@");
    let client = client(&Options {
        proxy: proxy::Choice::At(at),
        headers: vec![("x-api-key".into(), "k".into())],
        ..options("http://loki.invalid:3100")
    });
    for _ in 0..2 {
        assert_eq!(code(&client.post(&push())), 204);
    }
    for request in server.requests() {
        let line = "post http://loki.invalid:3100/loki/api/v1/push http/1.1\r\n";
        assert!(request.starts_with(line), "{request}");
        assert!(request.contains("\r\nhost: loki.invalid:3100\r\n"), "{request}");
        assert!(request.contains("\r\nproxy-authorization: basic bwu6cebzcw==\r\n"), "{request}");
        assert!(request.contains("\r\nx-api-key: k\r\n"), "{request}");
    }
}

#[test]
fn errors_name_the_proxy_and_what_to_do() {
    let server = Server::start(&[]);
    let at = server.url.replace("http://", "http://me:s3cret@");
    let options = |url: &str| Options { proxy: proxy::Choice::At(at.clone()), ..options(url) };
    let address = server.url.replace("http://", "");
    for url in ["http://loki.invalid", "https://loki.invalid"] {
        let error = broken(client(&options(url)).post(&push()));
        assert!(error.starts_with(&format!("through the proxy {address}: ")), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let refused = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    let server = Server::start(&[&[Step::Answer(refused)]]);
    let proxy = proxy::Choice::At(server.url.clone());
    let error = broken(client(&Options { proxy, ..options("https://loki.invalid") }).post(&push()));
    assert!(error.contains("407"), "{error}");
    assert!(error.ends_with("put the proxy's user and password in sinks.loki.proxy"), "{error}");
}

/// The files of an authority, and of a client certificate by it.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            let made = rcgen::generate_simple_self_signed(vec![format!("{name}.test")]).unwrap();
            fs::write(dir.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
            let key = made.signing_key.serialize_pem();
            fs::write(dir.path().join(format!("{name}.key")), key).unwrap();
        }
        Files { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

fn tls_error(tls: tls::Options) -> String {
    Client::new(&Options { tls, ..options("https://h") }).err().unwrap_or_default()
}

#[test]
fn files_of_tls_are_checked_at_the_start() {
    let files = Files::new();
    let ca =
        |file: &Path| tls_error(tls::Options { ca_file: Some(file.into()), ..Default::default() });
    assert_eq!(ca(&files.path("one.pem")), "");
    let pem = |name: &str| fs::read_to_string(files.path(name)).unwrap();
    assert_eq!(ca(&files.write("both", pem("one.pem") + "\ntext\n" + &pem("two.pem"))), "");

    let found = ca(&files.path("none"));
    let starts = format!("sinks.loki.tls.ca_file: {}", files.path("none").display());
    assert!(
        found.starts_with(&starts) && found.contains("cannot be read: No such file"),
        "{found}"
    );
    for content in ["", "no PEM\n", &pem("one.key")] {
        let found = ca(&files.write("other", content));
        assert!(
            found.contains("expected certificates as PEM") && found.contains("none"),
            "{found}"
        );
    }
    let cut = pem("one.pem").replace("-----END CERTIFICATE-----", "");
    assert!(ca(&files.write("cut", cut)).contains("a broken one"));
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let found = ca(&files.write("junk", pem("one.pem") + junk));
    assert!(found.contains("certificate 2 of 2 is none that can be trusted"), "{found}");

    let pair = |cert: &str, key: &str| {
        tls_error(tls::Options {
            cert_file: Some(files.path(cert)),
            key_file: Some(files.path(key)),
            ..Default::default()
        })
    };
    assert_eq!(pair("one.pem", "one.key"), "");
    let found = pair("one.pem", "two.key");
    assert!(found.starts_with("sinks.loki.tls.key_file: "), "{found}");
    assert!(found.contains("two.key is no key for the certificate in"), "{found}");
    let found = pair("one.pem", "one.pem");
    assert!(found.contains("expected a private key as PEM without a passphrase"), "{found}");
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    files.write("locked", locked);
    assert!(pair("one.pem", "locked").contains("openssl pkey"), "{}", pair("one.pem", "locked"));
    assert!(pair("none", "one.key").starts_with("sinks.loki.tls.cert_file: "));
    let named = tls::Options { server_name: Some("a b".into()), ..Default::default() };
    assert!(tls_error(named).starts_with("sinks.loki.tls.server_name: expected"));
}
