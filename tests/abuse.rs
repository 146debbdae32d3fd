//! Hostile, broken and slow clients: they are refused or cut, others are served, nothing that was
//! answered with success is lost, and memory stays bounded.

use crate::bed::{Bed, PATIENCE, eventually, stop};
use bench::load::proto;
use bench::measure::now_ns;
use bench::product::Product;
use bench::stub::{Away, Kept};
use flate2::{Compress, Compression, FlushCompress, Status};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PUSH: &str = "/loki/api/v1/push";
const RAW: &str = "/loki/api/v1/raw?job=raw";
const LOGS: &str = "/api/v1/logs";
const JSON: &str = "content-type: application/json\r\n";
const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
const MIB: u64 = 1 << 20;

/// A client that says what it likes.
struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap())
    }

    /// From another address of this host.
    fn from(source: Ipv4Addr, address: SocketAddr) -> Client {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((source, 0))).unwrap();
        connect(&socket, &address).unwrap();
        Client::over(socket.into())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    /// Sends as much as is taken: a server that has read enough may close.
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// A line of a head, empty where the connection has ended.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) => String::from_utf8_lossy(&line).to_lowercase(),
            Err(error) if is_end(&error) => String::new(),
            Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
        }
    }

    /// None where the connection ends in place of one.
    fn answer(&mut self) -> Option<Answer> {
        let mut head = self.line();
        while !head.ends_with("\r\n\r\n") {
            let line = self.line();
            if line.is_empty() {
                assert!(head.is_empty(), "half an answer: {head}");
                return None;
            }
            head.push_str(&line);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut answer = Answer { status: status.expect("a status"), head, text: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut text = vec![0; length];
        self.reader.read_exact(&mut text).unwrap();
        answer.text = String::from_utf8(text).unwrap();
        Some(answer)
    }

    fn expect(&mut self, status: u16) -> Answer {
        let answer = self.answer().unwrap_or_else(|| panic!("closed in place of {status}"));
        assert_eq!(answer.status, status, "{answer:?}");
        answer
    }

    /// Waits for the end of the connection; nothing more may come.
    fn expect_end(&mut self) {
        let answer = self.answer();
        assert!(answer.is_none(), "{answer:?}");
    }

    fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        self.answer()
    }

    fn post(&mut self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Option<Answer> {
        self.send(request(path, headers, body));
        self.answer()
    }
}

/// Whether an error is how a connection ends, and no silence.
fn is_end(error: &std::io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn request(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn post(product: &Product, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let answer = Client::connect(product.api).post(path, headers, body);
    answer.unwrap_or_else(|| panic!("no answer to {path}\n{}", product.log()))
}

/// Whoever behaves is served.
fn assert_serves(product: &Product) {
    let mut client = Client::connect(product.api);
    assert_eq!(client.get("/ready").expect("an answer").status, 200);
    let answer = client.post(RAW, "", "well-behaved\n").expect("an answer");
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// What has arrived after everything that was taken in.
fn lines_of(bed: &Bed, product: &Product) -> Vec<String> {
    let taken = product.metric("log_capturer_logs_processed_total").unwrap();
    let entries = bed.entries(usize::try_from(bench::product::whole(taken)).unwrap());
    entries.iter().map(text).collect()
}

fn text(entry: &Kept) -> String {
    String::from_utf8_lossy(&entry.line).into_owned()
}

/// What of `answered` has not arrived.
fn missing(bed: &Bed, answered: &[String]) -> usize {
    let there: HashSet<String> = bed.stub.entries().iter().map(text).collect();
    answered.iter().filter(|line| !there.contains(*line)).count()
}

fn push_of(labels: &serde_json::Value, line: &str) -> String {
    json!({"streams": [{"stream": labels, "values": [[now_ns().to_string(), line]]}]}).to_string()
}

fn protobuf_of(labels: &str, line: &str) -> Vec<u8> {
    let (mut entries, mut push) = (Vec::new(), Vec::new());
    proto::entry(now_ns().cast_unsigned(), line.as_bytes(), &mut entries);
    proto::stream(labels, &entries, &mut push);
    snap::raw::Encoder::new().compress_vec(&push).unwrap()
}

/// Ten gigabytes of zeros behind `head`, in ten megabytes: one block that stands for itself, again
/// and again.
fn bomb(head: &[u8]) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), false);
    let mut block = Vec::with_capacity(64 << 10);
    let status = deflate.compress_vec(&vec![0; 1 << 20], &mut block, FlushCompress::Full).unwrap();
    assert!(matches!(status, Status::Ok) && deflate.total_in() == MIB);
    [head, &block.repeat(10 << 10)].concat()
}

/// What the process took at its peak since `before`.
fn grown(product: &Product, before: u64) -> u64 {
    product.usage().unwrap().rss_peak_bytes.saturating_sub(before)
}

// ---- Bodies.

#[test]
fn ten_gigabytes_in_a_bomb_cost_little_memory() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let gzip = bomb(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    let zlib = bomb(&[0x78, 0xda]);
    for (encoding, body) in [("gzip", &gzip), ("deflate", &zlib), ("deflate", &zlib[2..].into())] {
        for (path, kind) in [(PUSH, JSON), (PUSH, PROTOBUF), (RAW, ""), (LOGS, JSON)] {
            let headers = format!("{kind}content-encoding: {encoding}\r\n");
            let answer = post(&product, path, &headers, body);
            assert!(matches!(answer.status, 400 | 413), "{path} {encoding}: {answer:?}");
        }
        assert_serves(&product);
    }
    let grown = grown(&product, before);
    println!("twelve bombs cost {} KiB", grown >> 10);
    assert!(grown < 32 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn a_snappy_block_that_lies_about_its_length_costs_nothing() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    // 4 GiB, all that an u64 holds, 30 MiB, and one byte more than there is.
    let short = protobuf_of("{job=\"a\"}", "x");
    let longer = [&[short[0] + 1], &short[1..]].concat();
    for lie in [
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0],
        &[0x80, 0x80, 0x80, 0x0f, 0],
        &longer,
        &[],
    ] {
        let answer = post(&product, PUSH, PROTOBUF, lie);
        assert!(matches!(answer.status, 400 | 413), "{lie:?}: {answer:?}");
    }
    assert_serves(&product);
    let grown = grown(&product, before);
    assert!(grown < 8 * MIB, "{grown} bytes");
    stop(product);
}

/// What a parser makes of a few bytes may be large: as much as a bomb, where there are many.
#[test]
fn many_small_elements_cost_no_more_than_some_times_their_bytes() {
    const BYTES: usize = 4_000_000;
    const TIMES_MAX: u64 = 24;
    let bed = Bed::new();
    let now = now_ns();
    let many = |before: &str, element: &str, after: &str| {
        let elements = vec![element; BYTES / (element.len() + 1)].join(",");
        format!("{before}{elements}{after}")
    };
    let values = "{\"streams\":[{\"stream\":{\"a\":\"b\"},\"values\":[";
    let pairs = vec!["\"k\":\"\""; 100].join(",");
    let mut over = Vec::new();
    for (path, body) in [
        (LOGS, many("[", "{}", "]")),
        (LOGS, many("[", "[]", "]")),
        (LOGS, many("[", "{\"message\":\"a\"}", "]")),
        (LOGS, many("{\"message\":\"a\",\"labels\":{", "\"a\":\"\"", "}}")),
        (LOGS, many("{\"message\":\"a\",\"unknown\":[", "1", "]}")),
        (PUSH, many("{\"streams\":[", "{}", "]}")),
        (PUSH, many("{\"streams\":[{\"stream\":{", "\"a\":\"\"", "},\"values\":[]}]}")),
        (PUSH, many(values, &format!("[\"{now}\",\"\"]"), "]}]}")),
        (PUSH, many(values, &format!("[\"{now}\",\"\",{{\"k\":\"\"}}]"), "]}]}")),
        (PUSH, many(values, &format!("[\"{now}\",\"\",{{{pairs}}}]"), "]}]}")),
    ] {
        // The peak is of a process.
        let product = bed.start();
        assert_serves(&product);
        let before = product.usage().unwrap().rss_peak_bytes;
        let answer = post(&product, path, JSON, &body);
        let grown = grown(&product, before);
        let shown = &body[..100];
        println!("{} KiB for {} KiB: {} {shown}", grown >> 10, body.len() >> 10, answer.status);
        if grown > TIMES_MAX * body.len() as u64 {
            over.push(format!("{grown} bytes for {}: {} {shown}", body.len(), answer.status));
        }
        assert_serves(&product);
        product.kill();
    }
    assert!(over.is_empty(), "{over:#?}");
}

#[test]
fn a_length_that_lies_harms_nobody() {
    let bed = Bed::new();
    let product = bed.start();
    let head = |lengths: &str| format!("POST {RAW} HTTP/1.1\r\nhost: x\r\n{lengths}\r\n");

    // More is declared than comes.
    let mut client = Client::connect(product.api);
    client.send(head("content-length: 100\r\n") + "half a line");
    client.half_close();
    if let Some(answer) = client.answer() {
        assert_eq!(answer.status, 400, "{answer:?}");
    }

    // Less is declared: what is behind is no request.
    let mut client = Client::connect(product.api);
    client.send(head("content-length: 6\r\n") + "whole\nbehind it\r\n\r\n");
    client.expect(204);
    client.expect(400);
    client.expect_end();

    // Too much is refused before anything of it is there.
    for length in ["1000000000000000000", "16777217"] {
        let mut client = Client::connect(product.api);
        client.send(head(&format!("content-length: {length}\r\n")));
        assert!(client.expect(413).closes(), "what follows may be the body");
        client.expect_end();
    }

    // No number, and several.
    for lengths in [
        "content-length: 99999999999999999999999\r\n",
        "content-length: -6\r\n",
        "content-length: +6\r\n",
        "content-length: 6, 7\r\n",
        "content-length: 0x6\r\n",
        "content-length: 6\r\ncontent-length: 7\r\n",
        "content-length: 7\r\ncontent-length: 6\r\n",
    ] {
        let mut client = Client::connect(product.api);
        client.send(head(lengths) + "lying\nGET /ready HTTP/1.1\r\nhost: x\r\n\r\n");
        client.expect(400);
        client.expect_end();
    }
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["whole", "well-behaved"]);
    stop(product);
}

#[test]
fn a_length_beside_chunks_counts_for_nothing_and_nothing_is_smuggled() {
    let bed = Bed::new();
    let product = bed.start();
    let smuggled = "GET /ready HTTP/1.1\r\nhost: x\r\n\r\n";
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
    ] {
        let mut client = Client::connect(product.api);
        client.send(format!("POST {RAW} HTTP/1.1\r\nhost: x\r\n{framing}\r\n0\r\n\r\n{smuggled}"));
        // RFC 9112, 6.1: refused, or read by its chunks; the connection ends in any case.
        let answer = client.expect(204);
        assert!(answer.closes(), "{framing}: {answer:?}");
        client.expect_end();
    }
    for framing in [
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: identity\r\ncontent-length: 0\r\n",
    ] {
        let mut client = Client::connect(product.api);
        client.send(format!("POST {RAW} HTTP/1.1\r\nhost: x\r\n{framing}\r\n0\r\n\r\n{smuggled}"));
        client.expect(400);
        client.expect_end();
    }
    let mut client = Client::connect(product.api);
    client.send(format!("POST {RAW} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"));
    client.expect(400);
    client.expect_end();
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["well-behaved"]);
    stop(product);
}

#[test]
fn broken_chunks_store_nothing() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["limits: { body_bytes_max: 1MiB }".into()];
    let product = bed.start();
    let chunked = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunks in [
        "zz\r\nab\r\n0\r\n\r\n".to_owned(),
        "-2\r\nab\r\n0\r\n\r\n".to_owned(),
        "fffffffffffffffff\r\nab".to_owned(),
        "2\r\nabcd\r\n0\r\n\r\n".to_owned(),
        "2\nab\n0\n\n".to_owned(),
        "\r\n\r\n".to_owned(),
        format!("2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(100_000)),
        format!("2\r\nab\r\n0\r\nt: {}\r\n\r\n", "x".repeat(100_000)),
        // It ends in the middle.
        "10\r\nab".to_owned(),
        "2\r\nab\r\n".to_owned(),
    ] {
        let mut client = Client::connect(product.api);
        client.send(format!("{chunked}{chunks}"));
        client.half_close();
        let shown: String = chunks.chars().take(30).collect();
        if let Some(answer) = client.answer() {
            assert!(matches!(answer.status, 400 | 431), "{shown:?}: {answer:?}");
            assert!(answer.closes(), "{shown:?}: {answer:?}");
        }
        client.expect_end();
    }
    // Good ones, and too many of them.
    let mut client = Client::connect(product.api);
    client.send(format!("{chunked}3\r\nin \r\nA;ext=1\r\ntwo chunks\r\n0\r\ntrailer: x\r\n\r\n"));
    client.expect(204);
    client.send(&chunked);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    (0..17).for_each(|_| client.send(&chunk));
    assert!(client.expect(413).closes());
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["in two chunks", "well-behaved"]);
    stop(product);
}

#[test]
fn heads_that_no_client_sends_are_refused() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let many: String = (0..1000).map(|n| format!("h{n}: x\r\n")).collect();
    let long = "x".repeat(1 << 20);
    for (head, statuses) in [
        (format!("GET /ready HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n"), &[431, 400][..]),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), &[414, 431, 400]),
        (format!("{long}\r\n\r\n"), &[431, 400]),
        (format!("GET /ready HTTP/1.1\r\nhost: x\r\n{many}\r\n"), &[431, 400]),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03 a TLS hello\r\n\r\n".into(), &[400]),
        ("\0\0\0\0\0\0\0\0\r\n\r\n".into(), &[400]),
        ("let me in\r\n\r\n".into(), &[400]),
        ("GET /ready\r\n\r\n".into(), &[400, 505]),
        ("GET /ready HTTP/0.9\r\n\r\n".into(), &[400, 505]),
        ("GET /ready HTTP/3.0\r\nhost: x\r\n\r\n".into(), &[400, 505]),
        ("GET /ready HTTP/1.1\r\nhost: x\r\na\0b: c\r\n\r\n".into(), &[400]),
        ("GET /ready HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n".into(), &[400]),
        ("GET /ready HTTP/1.1\r\nhost : x\r\n\r\n".into(), &[400]),
        ("GET /ready HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n".into(), &[400]),
    ] {
        let shown: String = head.chars().take(60).collect();
        let mut client = Client::connect(product.api);
        client.send(head);
        match client.answer() {
            Some(answer) => assert!(statuses.contains(&answer.status), "{shown:?}: {answer:?}"),
            None => assert!(statuses.is_empty(), "closed unanswered: {shown:?}"),
        }
        client.expect_end();
    }
    let mut client = Client::connect(product.api);
    client.send("GET /ready HTTP/1.1\r\n\r\n");
    let status = client.answer().expect("an answer").status;
    assert!(matches!(status, 200 | 400), "without a host: {status}");
    assert_serves(&product);
    let grown = grown(&product, before);
    assert!(grown < 8 * MIB, "{grown} bytes");
    stop(product);
}

// ---- Time.

/// Sends `head`, then a byte a second, until the connection ends; gives what was answered.
fn drip(address: SocketAddr, head: String) -> Option<Answer> {
    let mut client = Client::connect(address);
    client.send(head);
    client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "it is not cut");
        match client.reader.fill_buf() {
            Err(error) if !is_end(&error) => client.send("x"),
            _ => {
                client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return client.answer();
            }
        }
    }
}

#[test]
fn a_byte_a_second_is_cut_in_head_and_body_while_others_are_served() {
    let mut bed = Bed::new();
    let limits = "limits: { head_timeout: 1s, body_timeout: 1s, idle_timeout: 2s }";
    bed.setup.server_keys = vec![limits.into()];
    let product = bed.start();
    let api = product.api;
    let head = || "GET /ready HTTP/1.1\r\nhost: x\r\nslow: ".to_owned();
    let body = || format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    let slow: Vec<_> = (0..20)
        .map(|number| {
            let (in_body, start) = (number % 2 == 0, if number % 2 == 0 { body() } else { head() });
            thread::spawn(move || (in_body, drip(api, start)))
        })
        .collect();
    let silent = thread::spawn(move || Client::connect(api).answer());
    let mut served = 0;
    while !slow.iter().all(thread::JoinHandle::is_finished) {
        assert_serves(&product);
        served += 1;
    }
    assert!(served > 1, "{served}");
    for client in slow {
        match client.join().unwrap() {
            (true, answer) => {
                let answer = answer.expect("a body that is given up is answered");
                assert_eq!(answer.status, 408, "{answer:?}");
                assert!(answer.closes(), "{answer:?}");
            }
            (false, answer) => assert!(answer.is_none_or(|answer| answer.status == 408)),
        }
    }
    let idle = silent.join().unwrap();
    assert!(idle.is_none(), "who says nothing is told nothing: {idle:?}");
    assert!(lines_of(&bed, &product).iter().all(|line| line == "well-behaved"));
    stop(product);
}

#[test]
fn a_body_below_the_least_rate_is_cut_long_before_its_time() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["limits: { body_timeout: 1h, body_rate_min: 1KiB }".into()];
    let product = bed.start();
    let head = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n");
    let answer = drip(product.api, head).expect("an answer");
    assert_eq!(answer.status, 408, "{answer:?}");
    assert_serves(&product);
    stop(product);
}

#[test]
fn bodies_that_are_declared_and_do_not_come_keep_nobody_out() {
    let bed = Bed::new();
    let product = bed.start();
    let head = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 16777216\r\n");
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(product.api);
        client.send(format!("{head}expect: 100-continue\r\n\r\n"));
        // Their turn has come: the body is being read, or they were told to wait.
        let status = client.answer().expect("an answer").status;
        assert!(matches!(status, 100 | 503), "{status}");
        waiting.push(client);
    }
    let other = Client::from(Ipv4Addr::new(127, 0, 0, 2), product.api).post(RAW, "", "other\n");
    let other = other.expect("an answer");
    assert_eq!(other.status, 204, "{other:?}");
    assert_eq!(lines_of(&bed, &product), ["other"]);
    stop(product);
}

// ---- Conversation.

#[test]
fn who_closes_its_half_is_answered_and_who_goes_leaves_nothing_behind() {
    let mut bed = Bed::new();
    // So that answers are waited for.
    bed.setup.wal = "{ commit_interval: 300ms }".into();
    let product = bed.start();
    assert_serves(&product);
    let mut client = Client::connect(product.api);
    client.send(request(RAW, "", "half closed\n"));
    client.half_close();
    client.expect(204);
    client.expect_end();
    drop(client);
    let open = || product.usage().unwrap().descriptors;
    let before = open();
    for number in 0..50 {
        let mut client = Client::connect(product.api);
        client.send(request(RAW, "", format!("gone {number}\n")));
        // What is not read when it closes makes the kernel send a reset in place of an end.
        if number % 2 == 0 {
            client.half_close();
        }
    }
    let gone = |line: &String| line.starts_with("gone ");
    eventually("those that ended in order arrive", &product, || {
        let lines: Vec<_> = bed.stub.entries().iter().map(text).filter(gone).collect();
        (0..50).step_by(2).all(|number| lines.contains(&format!("gone {number}")))
    });
    eventually("their descriptors are closed", &product, || open() <= before);
    assert_serves(&product);
    stop(product);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let bed = Bed::new();
    let product = bed.start();
    let mut requests = Vec::new();
    for number in 0..50 {
        requests.extend(request(RAW, "", format!("line {number}\n")));
        requests.extend(request(LOGS, JSON, format!(r#"{{"message":"log {number}"}}"#)));
        requests.extend(request("/nowhere", "", "x"));
        requests.extend(request(LOGS, JSON, "{}"));
    }
    let mut client = Client::connect(product.api);
    client.send(&requests);
    client.half_close();
    for _ in 0..50 {
        for status in [204, 202, 404, 400] {
            client.expect(status);
        }
    }
    client.expect_end();
    let lines = lines_of(&bed, &product);
    let of = |kind: &str| -> Vec<_> {
        lines.iter().filter(|line| line.starts_with(kind)).cloned().collect()
    };
    let expected = |kind: &str| -> Vec<_> { (0..50).map(|n| format!("{kind} {n}")).collect() };
    assert_eq!(of("line"), expected("line"));
    assert_eq!(of("log"), expected("log"));
    stop(product);
}

#[test]
fn who_reads_no_answer_is_held_up_and_holds_up_nobody() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let mut client = Client::connect(product.api);
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let requests = "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let held_up = (0..10_000).find_map(|_| client.stream.write_all(requests.as_bytes()).err());
    let error = held_up.expect("its requests are read no further");
    assert!(!is_end(&error), "{error}");
    assert_serves(&product);
    let grown = grown(&product, before);
    assert!(grown < 8 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn a_body_is_asked_for_only_where_it_is_wanted() {
    let bed = Bed::new();
    let product = bed.start();
    let head = |path: &str, rest: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{rest}\r\n")
    };
    let mut client = Client::connect(product.api);
    for _ in 0..2 {
        client.send(head(RAW, "content-length: 9\r\n"));
        client.expect(100);
        client.send("expected\n");
        client.expect(204);
    }
    let length = "content-length: 1000000000\r\n";
    for (path, rest, status) in [
        (RAW, length.to_owned(), 413),
        (RAW, "content-length: 9\r\ncontent-encoding: zstd\r\n".into(), 400),
        ("/loki/api/v1/raw?1=2", "content-length: 9\r\n".into(), 400),
        ("/nowhere", "content-length: 9\r\n".into(), 404),
    ] {
        let mut client = Client::connect(product.api);
        client.send(head(path, &rest));
        client.expect(status);
        client.expect_end();
    }
    assert_eq!(lines_of(&bed, &product).len(), 2);
    stop(product);
}

// ---- Connections.

/// As many descriptors as this process may have.
fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let max = maximum.unwrap_or(1 << 20);
    if current.is_some_and(|current| current < max) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(max), maximum }).unwrap();
    }
    max
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    let max = raise_descriptors();
    let count = 10_000.min(max.saturating_sub(1000));
    let mut bed = Bed::new();
    bed.setup.server_keys =
        vec!["limits: { connections_max: 20000, address_connections_max: 15000 }".into()];
    let product = bed.start();
    let before = product.usage().unwrap().rss_bytes;
    let idle: Vec<_> = (0..count).map(|_| TcpStream::connect(product.api).unwrap()).collect();
    let open = || product.usage().unwrap().descriptors;
    eventually("all are accepted", &product, || open() > count);
    let mut other = Client::from(Ipv4Addr::new(127, 0, 0, 2), product.api);
    for path in ["/ready", "/health"] {
        assert_eq!(other.get(path).expect("an answer").status, 200);
    }
    assert_eq!(other.post(RAW, "", "among many\n").expect("an answer").status, 204);
    assert!(product.metric("log_capturer_http_requests_total").unwrap() >= 1.0);
    let grown = product.usage().unwrap().rss_bytes.saturating_sub(before);
    println!("{count} idle connections take {} bytes each", grown / count);
    assert!(grown / count < 32 << 10, "{grown} bytes");
    assert_eq!(lines_of(&bed, &product), ["among many"]);
    drop(idle);
    eventually("all are closed", &product, || open() < 200);
    stop(product);
}

/// A connection that is counted among the others, and stays.
fn settled(source: Ipv4Addr, product: &Product) -> Client {
    let mut client = None;
    eventually("a connection is let in", product, || {
        // One that was told to close counts until it does.
        client = None;
        let mut next = Client::from(source, product.api);
        let is_in = next.get("/ready").is_some_and(|answer| !answer.closes());
        client = Some(next);
        is_in
    });
    client.expect("it was let in")
}

fn assert_crowded(client: &mut Client) {
    let answer = client.post(RAW, "", "too many\n").expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u64>().is_ok()), "{answer:?}");
    assert!(answer.closes(), "{answer:?}");
    client.expect_end();
}

#[test]
fn beyond_the_most_connections_pushes_wait_and_questions_are_answered() {
    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    let mut bed = Bed::new();
    bed.setup.server_keys =
        vec!["limits: { connections_max: 8, address_connections_max: 4 }".into()];
    let product = bed.start();
    let mut here: Vec<_> = (0..4).map(|_| settled(HERE, &product)).collect();
    assert_crowded(&mut Client::from(HERE, product.api));
    let mut asking = Client::from(HERE, product.api);
    let answer = asking.get("/health").expect("an answer");
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    // Another address has its own share, and there is one for all.
    let mut there: Vec<_> = (0..4).map(|_| settled(THERE, &product)).collect();
    for client in there.iter_mut().chain(&mut here) {
        assert_eq!(client.post(RAW, "", "let in\n").expect("an answer").status, 204);
    }
    assert_crowded(&mut Client::from(Ipv4Addr::new(127, 0, 0, 3), product.api));
    // However many come, what they can hold is little.
    let crowd: Vec<_> = (0..200).map(|_| TcpStream::connect(product.api).unwrap()).collect();
    eventually("most are turned away", &product, || {
        product.usage().unwrap().descriptors < 100
            && crowd.iter().filter(|c| ended(c)).count() > 150
    });
    drop((crowd, here, there));
    let mut client = settled(HERE, &product);
    assert_eq!(client.post(RAW, "", "let in\n").expect("an answer").status, 204);
    assert!(lines_of(&bed, &product).iter().all(|line| line == "let in"));
    stop(product);
}

/// Whether the other side has closed.
fn ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => is_end(&error),
    }
}

/// Leaves the product so many descriptors more than it has, and gives what it could have before.
fn limit_descriptors(product: &Product, more: u64) -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(product.usage().unwrap().descriptors + more);
    let pid = i32::try_from(product.pid()).ok().and_then(Pid::from_raw);
    let before = prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    before.current.unwrap_or(1 << 20)
}

/// Connects until the product has no descriptors any more.
fn take_descriptors(product: &Product) -> Vec<Client> {
    let mut many: Vec<_> = (0..40).map(|_| Client::connect(product.api)).collect();
    many.iter_mut().for_each(|client| client.send("GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"));
    eventually("it has no descriptors", product, || refused_descriptors(product) > 0);
    many
}

fn refused_descriptors(product: &Product) -> usize {
    product.log().matches("a connection could not be accepted").count()
}

#[test]
fn without_descriptors_it_goes_on_rests_and_comes_back() {
    let bed = Bed::new();
    let product = bed.start();
    let mut old = Client::connect(product.api);
    assert_eq!(old.post(RAW, "", "before\n").expect("an answer").status, 204);
    bed.entries(1);
    limit_descriptors(&product, 8);
    let many = take_descriptors(&product);
    let (start, cpu) = (Instant::now(), product.usage().unwrap().cpu);
    let said = refused_descriptors(&product);
    eventually("it tries now and then", &product, || refused_descriptors(&product) >= said + 5);
    let took = product.usage().unwrap().cpu - cpu;
    assert!(took < start.elapsed() / 2, "{took:?} of CPU in {:?}", start.elapsed());
    assert_eq!(old.post(RAW, "", "during\n").expect("an answer").status, 204);
    drop(many);
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["before", "during", "well-behaved"]);
    stop(product);
}

#[test]
fn without_descriptors_for_its_log_it_does_not_end_and_loses_nothing() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 64MiB, segment_bytes: 1MiB }".into();
    let product = bed.start();
    let mut old = Client::connect(product.api);
    assert_eq!(old.post(RAW, "", "before\n").expect("an answer").status, 204);
    bed.entries(1);
    limit_descriptors(&product, 8);
    let many = take_descriptors(&product);
    let (mut answered, mut refused) = (Vec::new(), 0);
    for number in 0..30 {
        let line = noise(number, 200_000);
        let answer = old.post(RAW, "", &line);
        let answer = answer.unwrap_or_else(|| panic!("no answer\n{}", product.log()));
        assert!(matches!(answer.status, 204 | 503), "{answer:?}");
        match answer.status {
            204 => answered.push(line),
            _ => refused += 1,
        }
    }
    println!("{} posts were answered with success, {refused} were not", answered.len());
    drop(many);
    assert_serves(&product);
    eventually("what was answered arrives", &product, || missing(&bed, &answered) == 0);
    eventually("posting works again", &product, || {
        let answer = old.post(RAW, "", noise(100, 200_000)).expect("an answer");
        answer.status == 204
    });
    stop(product);
}

// ---- Labels and tenants.

#[test]
fn odd_label_values_arrive_whole_and_break_out_of_nothing() {
    let bed = Bed::new();
    let product = bed.start();
    let odd =
        ["a\",b=\"x", "}{", "two\nlines\r\n\ttab", "back\\slash\\\"", "a', `b`", "ü😀\u{1}\u{7f}"];
    for (at, value) in odd.iter().enumerate() {
        let line = |by: &str| format!("{by} {at}");
        let answer = post(&product, PUSH, JSON, push_of(&json!({"odd": value}), &line("push")));
        assert_eq!(answer.status, 204, "{answer:?}");
        let log = json!({"message": line("log"), "source_type": "t", "labels": {"odd": value}});
        assert_eq!(post(&product, LOGS, JSON, log.to_string()).status, 202);
        let bytes = value.bytes();
        let query: String = bytes.map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/loki/api/v1/raw?odd={query}");
        assert_eq!(post(&product, &path, "", line("raw")).status, 204);
        // As Loki writes it, and as another may.
        let escaped: String = value.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        let answer = post(
            &product,
            PUSH,
            PROTOBUF,
            protobuf_of(&format!("{{ odd = \"{escaped}\" ,}}"), &line("proto")),
        );
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    let entries = bed.entries(4 * odd.len());
    for entry in &entries {
        let labels = bench::stub::labels::parse(entry.labels.as_bytes()).unwrap();
        let (by, at) =
            text(entry).split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let value = odd[at.parse::<usize>().unwrap()].to_owned();
        let mut expected = vec![("odd".to_owned(), value)];
        if by == "log" {
            expected.push(("source_type".into(), "t".into()));
        }
        assert_eq!(labels.pairs, expected, "{by}");
    }
    assert_eq!(entries.len(), 4 * odd.len());
    stop(product);
}

#[test]
fn a_label_of_sixteen_megabytes_is_refused_in_bounded_memory() {
    let bed = Bed::new();
    let product = bed.start();
    assert_serves(&product);
    let before = product.usage().unwrap().rss_peak_bytes;
    let large = "x".repeat(16_000_000);
    let refused = |answer: Answer| {
        assert!(matches!(answer.status, 400 | 413 | 431), "{:?}", answer.status);
        assert!(answer.text.len() < 10_000, "{} bytes of an answer", answer.text.len());
    };
    refused(post(&product, PUSH, JSON, push_of(&json!({"large": large}), "x")));
    refused(post(&product, PUSH, JSON, push_of(&json!({large.as_str(): "value"}), "x")));
    refused(post(&product, PUSH, PROTOBUF, protobuf_of(&format!("{{large={large:?}}}"), "x")));
    refused(post(&product, LOGS, JSON, json!({"message": "x", "level": large}).to_string()));
    refused(post(&product, &format!("/loki/api/v1/raw?large={large}"), "", "x"));
    assert_serves(&product);
    let grown = grown(&product, before);
    println!("labels of 16 MB cost {} KiB", grown >> 10);
    assert!(grown < 128 * MIB, "{grown} bytes");
    stop(product);
}

#[test]
fn labels_that_loki_would_refuse_are_refused_with_the_reason() {
    let bed = Bed::new();
    let product = bed.start();
    let sixteen: BTreeMap<String, &str> = (0..16).map(|n| (format!("l{n:02}"), "x")).collect();
    let as_text: Vec<String> = sixteen.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    let as_text = format!("{{{}}}", as_text.join(", "));
    let query: Vec<String> = sixteen.iter().map(|(n, v)| format!("{n}={v}")).collect();
    for (labels, said) in [
        (json!({"__x": "y"}), "reserved label name: '__x'"),
        (json!(sixteen), "has 16 label names; limit 15"),
        (json!({}), "at least one label pair is required"),
        (json!({"a-b": "y"}), "a-b"),
        (json!({"": "y"}), "label"),
        (json!({"a": "x".repeat(3000)}), "label value too long"),
        (json!({"a".repeat(2000): "y"}), "label name too long"),
    ] {
        let answer = post(&product, PUSH, JSON, push_of(&labels, "refused"));
        assert_eq!(answer.status, 400, "{labels} {answer:?}");
        assert!(answer.text.contains(said), "{labels} {answer:?}");
    }
    for (labels, said) in [
        ("{__x=\"y\"}", "reserved label name: '__x'"),
        (as_text.as_str(), "has 16 label names; limit 15"),
        ("{a=\"1\", b=\"2\", a=\"3\"}", "duplicate label name: 'a'"),
        ("{a=\"1\", a=\"1\"}", "duplicate label name: 'a'"),
        ("{}", "at least one label pair is required"),
        ("", "parse labels"),
        ("{", "parse labels"),
        ("{a=\"b\"", "parse labels"),
        ("a=\"b\"", "parse labels"),
        ("{a=b}", "parse labels"),
        ("{a=\"b\" c=\"d\"}", "parse labels"),
        ("{a=\"b}", "parse labels"),
        ("{a=\"\\q\"}", "parse labels"),
        ("{a=\"b\"} and more", "parse labels"),
        ("{a=\"two\nlines\"}", "parse labels"),
        ("{1a=\"b\"}", "parse labels"),
        ("{a!=\"b\"}", "parse labels"),
    ] {
        let answer = post(&product, PUSH, PROTOBUF, protobuf_of(labels, "refused"));
        assert_eq!(answer.status, 400, "{labels} {answer:?}");
        assert!(answer.text.contains(said), "{labels} {answer:?}");
    }
    for (query, said) in [
        ("__x=y", "reserved label name: '__x'".to_owned()),
        (query.join("&").as_str(), "has 16 label names; limit 15".into()),
        ("", "at least one label pair is required".into()),
        ("a=", "at least one label pair is required".into()),
    ] {
        let answer = post(&product, &format!("/loki/api/v1/raw?{query}"), "", "refused");
        assert_eq!(answer.status, 400, "{query} {answer:?}");
        assert!(answer.text.contains(&said), "{query} {answer:?}");
    }
    let log = json!({"message": "refused", "labels": {"__x": "y"}});
    let answer = post(&product, LOGS, JSON, log.to_string());
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text.contains("reserved label name"), "{answer:?}");
    assert!(product.metric("log_capturer_lines_refused_total").unwrap() > 0.0);
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["well-behaved"]);
    stop(product);
}

/// Loki answers 500 to such a push, whenever it is sent: no line behind it would arrive.
#[test]
fn metadata_without_a_name_is_refused_and_holds_up_nobody() {
    let bed = Bed::new();
    let product = bed.start();
    let values = |pairs| json!([[now_ns().to_string(), "x", pairs]]);
    let unnamed = json!({"streams": [{"stream": {"a": "b"}, "values": values(json!({"": "v"}))}]});
    let pairs = BTreeMap::from([(String::new(), "v".to_owned())]);
    let (mut entries, mut push) = (Vec::new(), Vec::new());
    proto::entry_with(now_ns().cast_unsigned(), b"x", &pairs, &mut entries);
    proto::stream("{a=\"b\"}", &entries, &mut push);
    let push = snap::raw::Encoder::new().compress_vec(&push).unwrap();
    for (kind, body) in [(JSON, unnamed.to_string().into_bytes()), (PROTOBUF, push)] {
        let answer = post(&product, PUSH, kind, body);
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["well-behaved"]);
    stop(product);
}

#[test]
fn streams_beyond_the_most_go_into_one_with_their_labels_and_no_line_is_lost() {
    const STREAMS: usize = 20_000;
    const STREAMS_MAX: usize = 100;
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("streams_max: {STREAMS_MAX}")];
    bed.setup.cores = "{ shards: 1 }".into();
    let product = bed.start();
    let before = product.usage().unwrap().rss_peak_bytes;
    for part in 0..4 {
        let numbers = (0..STREAMS / 4).map(|at| part * STREAMS / 4 + at);
        if part % 2 == 1 {
            let mut push = Vec::new();
            for number in numbers {
                let mut entries = Vec::new();
                let line = number.to_string();
                proto::entry(now_ns().cast_unsigned(), line.as_bytes(), &mut entries);
                proto::stream(&format!("{{id=\"{number}\"}}"), &entries, &mut push);
            }
            let push = snap::raw::Encoder::new().compress_vec(&push).unwrap();
            let answer = post(&product, PUSH, PROTOBUF, push);
            assert_eq!(answer.status, 204, "{answer:?}");
            continue;
        }
        let streams: Vec<_> = numbers
            .map(|number| {
                let stamp = now_ns().to_string();
                json!({"stream": {"id": number.to_string()}, "values": [[stamp, number.to_string()]]})
            })
            .collect();
        let answer = post(&product, PUSH, JSON, json!({"streams": streams}).to_string());
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    let entries = bed.entries(STREAMS);
    let mut numbers = BTreeSet::new();
    for entry in &entries {
        let line = text(entry);
        let own = format!("{{id=\"{line}\"}}");
        if entry.labels != own {
            assert_eq!(entry.labels, "{log_capturer_overflow=\"true\"}");
            assert_eq!(entry.metadata, [("overflow_labels".to_owned(), own)]);
        }
        assert!(numbers.insert(line), "twice");
    }
    assert_eq!(numbers.len(), STREAMS);
    assert_eq!(bed.stub.streams().len(), STREAMS_MAX + 1);
    let grown = grown(&product, before);
    println!("{STREAMS} streams cost {} KiB", grown >> 10);
    assert!(grown < 64 * MIB, "{grown} bytes");
    stop(product);
}

fn as_tenant(product: &Product, tenant: &str, line: &str) -> Answer {
    post(product, RAW, &format!("x-scope-orgid: {tenant}\r\n"), line)
}

#[test]
fn a_tenant_is_named_by_the_client_only_where_it_may() {
    let bed = Bed::new();
    let product = bed.start();
    assert_eq!(as_tenant(&product, "intruder", "ignored").status, 204);
    assert_eq!(as_tenant(&product, "not/even valid", "ignored too").status, 204);
    let tenants: Vec<_> = bed.entries(2).into_iter().map(|entry| entry.tenant).collect();
    assert_eq!(tenants, ["", ""]);
    stop(product);

    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    bed.setup.sink_keys.push("tenant: own".into());
    let product = bed.start();
    // All in one commit, as many as may be.
    thread::scope(|scope| {
        for number in 0..20 {
            let (tenant, product) = (["one", "two"][number % 2], &product);
            scope.spawn(move || {
                let answer = as_tenant(product, tenant, &format!("of {tenant} {number}"));
                assert_eq!(answer.status, 204, "{answer:?}");
            });
        }
    });
    assert_eq!(post(&product, RAW, "", "of own").status, 204);
    let signs = "!-_.*'()aZ9";
    assert_eq!(as_tenant(&product, signs, &format!("of {signs}")).status, 204);
    for bad in ["", "a/b", "a b", "a|b", "ä", "..", ".", &"x".repeat(151)] {
        let answer = as_tenant(&product, bad, "of nobody");
        assert_eq!(answer.status, 400, "{bad:?}: {answer:?}");
        assert!(answer.text.to_lowercase().contains("x-scope-orgid"), "{bad:?}: {answer:?}");
    }
    let entries = bed.entries(22);
    assert_eq!(entries.len(), 22);
    for entry in entries {
        let line = text(&entry);
        assert_eq!(line.split(' ').nth(1), Some(entry.tenant.as_str()), "{line}");
    }
    stop(product);
}

// ---- Rates, quota and disk.

/// Posts what uses up some seconds of 1 KiB a second.
fn post_much(product: &Product, source: Ipv4Addr) -> Answer {
    let answer = Client::from(source, product.api).post(RAW, "", "x".repeat(4000));
    answer.expect("an answer")
}

fn assert_told_to_wait(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    let wait = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(wait.is_some_and(|seconds| (1..60).contains(&seconds)), "{answer:?}");
}

#[test]
fn who_sends_too_fast_is_told_how_long_to_wait_and_then_passes() {
    const OTHERS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];
    for (key, others_pass) in [("client_rate_max: 1KiB", true), ("rate_max: 1KiB", false)] {
        let mut bed = Bed::new();
        bed.setup.server_keys = vec![key.into()];
        let product = bed.start();
        assert_eq!(post_much(&product, Ipv4Addr::LOCALHOST).status, 204);
        assert_told_to_wait(&post_much(&product, Ipv4Addr::LOCALHOST), 429);
        // Some may share a cell by chance; all of them never do.
        let others = OTHERS.map(|other| post_much(&product, other).status);
        assert_eq!(others.contains(&204), others_pass, "{key}: {others:?}");
        let mut client = Client::connect(product.api);
        assert_eq!(client.get("/ready").expect("an answer").status, 200);
        eventually("it passes again", &product, || {
            client.post(RAW, "", "after a while").expect("an answer").status == 204
        });
        bed.entries(2);
        stop(product);
    }
}

/// Lines that nothing makes smaller, each with its number in front.
fn noise(number: u64, bytes: usize) -> String {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut line = format!("{number} ");
    while line.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let _ = std::fmt::Write::write_fmt(&mut line, format_args!("{state:x}"));
    }
    line
}

/// Posts until there is no room; gives what was answered with success, and the refusal.
fn fill(product: &Product) -> (Vec<String>, Answer) {
    let mut client = Client::connect(product.api);
    let mut answered = Vec::new();
    for number in 0..5_000 {
        let line = noise(number, 200_000);
        let answer = client.post(RAW, "", &line).expect("an answer");
        if answer.status != 204 {
            return (answered, answer);
        }
        answered.push(line);
    }
    panic!("it never fills: {}", product.log());
}

/// Without room it says so and answers questions; with room again, what was answered arrives.
fn assert_fills_and_recovers(bed: &Bed, product: &Product) {
    bed.stub.go_away(Away::Refusing);
    let (answered, refusal) = fill(product);
    assert_told_to_wait(&refusal, 503);
    assert!(answered.len() > 10, "{}", answered.len());
    assert_eq!(product.metric("log_capturer_wal_full").unwrap(), 1.0);
    let mut client = Client::connect(product.api);
    for path in ["/ready", "/health"] {
        assert_eq!(client.get(path).expect("an answer").status, 200, "{path}");
    }
    bed.stub.heal();
    eventually("what was answered arrives", product, || missing(bed, &answered) == 0);
    eventually("posting works again", product, || {
        client.post(RAW, "", "room again").expect("an answer").status == 204
    });
    eventually("and arrives", product, || missing(bed, &["room again".to_owned()]) == 0);
    eventually("it is not full", product, || {
        product.metric("log_capturer_wal_full").unwrap() == 0.0
    });
}

#[test]
fn with_the_quota_used_up_posts_are_told_to_wait_and_none_that_was_taken_is_lost() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 16MiB, segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    assert_fills_and_recovers(&bed, &product);
    stop(product);
}

/// A small file system at `dir`, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn ext4(image: &Path, dir: &Path, bytes: u64) -> Result<Mounted, String> {
        let run = |program: &str, args: &[&str]| match Command::new(program).args(args).output() {
            Err(error) => Err(format!("{program}: {error}")),
            Ok(output) if !output.status.success() => {
                Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Ok(_) => Ok(()),
        };
        File::create(image).and_then(|file| file.set_len(bytes)).map_err(|e| e.to_string())?;
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let (image, text) = (image.to_str().expect("text"), dir.to_str().expect("text"));
        run("mkfs.ext4", &["-q", "-m", "0", "-E", "root_owner=0:0", image])?;
        run("mount", &["-o", "loop", image, text])?;
        let mounted = Mounted(dir.to_owned());
        run("chmod", &["700", text])?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the product may have been killed just now.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn with_the_disk_full_posts_are_told_to_wait_and_none_that_was_taken_is_lost() {
    let mut bed = Bed::new();
    let image = bed.setup.dir.join("disk");
    let _mounted = match Mounted::ext4(&image, &bed.setup.data_dir(), 32 * MIB) {
        Ok(mounted) => mounted,
        Err(reason) => {
            eprintln!("skipped: no small file system can be mounted: {reason}");
            return;
        }
    };
    bed.setup.wal = "{ segment_bytes: 4MiB, ring_bytes_max: 1MiB }".into();
    let product = bed.start();
    assert_fills_and_recovers(&bed, &product);
    stop(product);
}

// ---- Acknowledgement, order and end.

#[test]
fn an_answer_from_memory_waits_for_no_disk_and_arrives_after_a_stop() {
    for by_query in [true, false] {
        let mut bed = Bed::new();
        bed.setup.wal = "{ commit_interval: 1s }".into();
        if !by_query {
            bed.setup.server_keys = vec!["ack: memory".into()];
        }
        let product = bed.start();
        let commits = || product.metric("log_capturer_wal_commits_total").unwrap();
        let mut client = Client::connect(product.api);
        let mut post = |ack: &str, line: String| {
            let path = format!("{RAW}&{ack}");
            assert_eq!(client.post(&path, "", line).expect("an answer").status, 204);
        };
        let memory = if by_query { "ack=memory" } else { "" };
        let mut posted = 0;
        eventually("an answer comes before the disk has it", &product, || {
            post("ack=durable", format!("durable {posted}"));
            let before = commits();
            post(memory, format!("memory {posted}"));
            posted += 1;
            commits() == before
        });
        stop(product);
        let lines: HashSet<String> = bed.entries(2 * posted).iter().map(text).collect();
        let expected =
            (0..posted).flat_map(|n| [format!("durable {n}"), format!("memory {n}")]).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn lines_of_one_stream_over_many_connections_keep_the_order_of_each() {
    for shards in 1..=2 {
        assert_keeps_order(shards);
    }
}

fn assert_keeps_order(shards: usize) {
    const CONNECTIONS: usize = 8;
    const POSTS: usize = 100;
    let mut bed = Bed::new();
    bed.setup.cores = format!("{{ shards: {shards}, egress: 0 }}");
    let product = bed.start();
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let product = &product;
            scope.spawn(move || {
                let mut client = Client::connect(product.api);
                for post in 0..POSTS {
                    let line = |at: usize| format!("{connection} {:04}", 2 * post + at);
                    let answer = if post % 2 == 0 {
                        let path = "/loki/api/v1/raw?source_type=api";
                        client.post(path, "", format!("{}\n{}\n", line(0), line(1)))
                    } else {
                        let log = |at| json!({"message": line(at)});
                        client.post(LOGS, JSON, json!([log(0), log(1)]).to_string())
                    };
                    let status = answer.expect("an answer").status;
                    assert!(matches!(status, 202 | 204), "{status}");
                }
            });
        }
    });
    let mut entries = bed.entries(2 * POSTS * CONNECTIONS);
    entries.sort_by_key(|entry| entry.timestamp_ns);
    let mut of_each = vec![Vec::new(); CONNECTIONS];
    for entry in &entries {
        let line = text(entry);
        let (connection, number) = line.split_once(' ').unwrap();
        of_each[connection.parse::<usize>().unwrap()].push(number.parse::<usize>().unwrap());
    }
    for numbers in of_each {
        assert_eq!(numbers, (0..2 * POSTS).collect::<Vec<_>>());
    }
    let distinct: BTreeSet<_> = entries.iter().map(|entry| entry.timestamp_ns).collect();
    assert_eq!(distinct.len(), entries.len(), "two lines have one timestamp");
    stop(product);
}

#[test]
fn sigterm_among_requests_loses_none_that_was_answered() {
    let bed = Bed::new();
    let product = bed.start();
    let answered = Mutex::new(Vec::new());
    let refused = AtomicBool::new(false);
    thread::scope(|scope| {
        for connection in 0..8 {
            let (answered, refused, api) = (&answered, &refused, product.api);
            scope.spawn(move || {
                let mut client = Client::connect(api);
                for number in 0.. {
                    let line = format!("{connection} {number}");
                    match client.post(RAW, "", &line) {
                        Some(answer) if answer.status == 204 => answered.lock().unwrap().push(line),
                        Some(answer) => {
                            assert_eq!(answer.status, 503, "{answer:?}");
                            refused.store(true, Ordering::Relaxed);
                            return;
                        }
                        None => return,
                    }
                }
            });
        }
        eventually("requests are under way", &product, || answered.lock().unwrap().len() > 200);
        product.signal(Signal::TERM);
    });
    println!("told to wait: {}, else closed", refused.load(Ordering::Relaxed));
    assert!(product.wait(PATIENCE).unwrap().success());
    let product = bed.start();
    let answered = answered.into_inner().unwrap();
    eventually("every one arrives", &product, || missing(&bed, &answered) == 0);
    assert_serves(&product);
    stop(product);
}

#[test]
fn while_it_drains_posts_are_told_to_wait_and_what_was_answered_before_is_kept() {
    let bed = Bed::new();
    let product = bed.start();
    bed.stub.go_away(Away::Refusing);
    assert_serves(&product);
    let mut old = Client::connect(product.api);
    assert_eq!(old.get("/ready").expect("an answer").status, 200);
    product.signal(Signal::TERM);
    eventually("it says that it stops", &product, || !product.is_ready());
    for client in [&mut old, &mut Client::connect(product.api)] {
        assert_told_to_wait(&client.post(RAW, "", "too late\n").expect("an answer"), 503);
        assert_eq!(client.get("/ready").expect("an answer").status, 503);
    }
    bed.stub.heal();
    assert!(product.wait(PATIENCE).unwrap().success());
    assert_eq!(bed.entries(1).iter().map(text).collect::<Vec<_>>(), ["well-behaved"]);
}
