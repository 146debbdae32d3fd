//! A client that may do anything, and what is looked at behind it.

use crate::bed::{Bed, PATIENCE};
use bench::load::proto;
use bench::measure::now_ns;
use bench::product::Product;
use bench::stub::Kept;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde_json::json;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};

pub const PUSH: &str = "/loki/api/v1/push";
pub const RAW: &str = "/loki/api/v1/raw?job=raw";
pub const LOGS: &str = "/api/v1/logs";
pub const JSON: &str = "content-type: application/json\r\n";
pub const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
pub const MIB: u64 = 1 << 20;

/// A client that says what it likes.
pub struct Client {
    pub stream: TcpStream,
    pub reader: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap())
    }

    /// From another address of this host.
    pub fn from(source: Ipv4Addr, address: SocketAddr) -> Client {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((source, 0))).unwrap();
        connect(&socket, &address).unwrap();
        Client::over(socket.into())
    }

    pub fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    /// Sends as much as is taken: a server that has read enough may close.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// A line of a head, empty where the connection has ended.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) => String::from_utf8_lossy(&line).to_lowercase(),
            Err(error) if is_end(&error) => String::new(),
            Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
        }
    }

    /// None where the connection ends in place of one.
    pub fn answer(&mut self) -> Option<Answer> {
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

    pub fn expect(&mut self, status: u16) -> Answer {
        let answer = self.answer().unwrap_or_else(|| panic!("closed in place of {status}"));
        assert_eq!(answer.status, status, "{answer:?}");
        answer
    }

    /// Waits for the end of the connection; nothing more may come.
    pub fn expect_end(&mut self) {
        let answer = self.answer();
        assert!(answer.is_none(), "{answer:?}");
    }

    pub fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        self.answer()
    }

    pub fn post(&mut self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Option<Answer> {
        self.send(request(path, headers, body));
        self.answer()
    }
}

/// Whether an error is how a connection ends, and no silence.
pub fn is_end(error: &std::io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

pub fn request(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn post(product: &Product, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let answer = Client::connect(product.api).post(path, headers, body);
    answer.unwrap_or_else(|| panic!("no answer to {path}\n{}", product.log()))
}

/// Whoever behaves is served.
pub fn assert_serves(product: &Product) {
    let mut client = Client::connect(product.api);
    assert_eq!(client.get("/ready").expect("an answer").status, 200);
    let answer = client.post(RAW, "", "well-behaved\n").expect("an answer");
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// What has arrived after everything that was taken in.
pub fn lines_of(bed: &Bed, product: &Product) -> Vec<String> {
    let taken = product.metric("log_capturer_logs_processed_total").unwrap();
    let entries = bed.entries(usize::try_from(bench::product::whole(taken)).unwrap());
    entries.iter().map(text).collect()
}

pub fn text(entry: &Kept) -> String {
    String::from_utf8_lossy(&entry.line).into_owned()
}

/// What of `answered` has not arrived.
pub fn missing(bed: &Bed, answered: &[String]) -> usize {
    let there: HashSet<String> = bed.stub.entries().iter().map(text).collect();
    answered.iter().filter(|line| !there.contains(*line)).count()
}

pub fn push_of(labels: &serde_json::Value, line: &str) -> String {
    json!({"streams": [{"stream": labels, "values": [[now_ns().to_string(), line]]}]}).to_string()
}

pub fn protobuf_of(labels: &str, line: &str) -> Vec<u8> {
    let (mut entries, mut push) = (Vec::new(), Vec::new());
    proto::entry(now_ns().cast_unsigned(), line.as_bytes(), &mut entries);
    proto::stream(labels, &entries, &mut push);
    snap::raw::Encoder::new().compress_vec(&push).unwrap()
}

/// Ten gigabytes of zeros behind `head`, in ten megabytes: one block that stands for itself, again
/// and again.
pub fn bomb(head: &[u8]) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), false);
    let mut block = Vec::with_capacity(64 << 10);
    let status = deflate.compress_vec(&vec![0; 1 << 20], &mut block, FlushCompress::Full).unwrap();
    assert!(matches!(status, Status::Ok) && deflate.total_in() == MIB);
    [head, &block.repeat(10 << 10)].concat()
}

/// What the process took at its peak since `before`.
pub fn grown(product: &Product, before: u64) -> u64 {
    product.usage().unwrap().rss_peak_bytes.saturating_sub(before)
}

/// Lines that nothing makes smaller, each with its number in front.
pub fn noise(number: u64, bytes: usize) -> String {
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

pub fn assert_told_to_wait(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    let wait = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(wait.is_some_and(|seconds| (1..60).contains(&seconds)), "{answer:?}");
}
