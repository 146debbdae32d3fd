//! Answers byte for byte, and what becomes of connections.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

struct Client {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Client {
    fn new(stub: &Stub) -> Client {
        let stream = TcpStream::connect(stub.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = compressed(&one(LABELS, b"x"));
        Client { stream: BufReader::new(stream), body }
    }

    fn send(&mut self) -> std::io::Result<()> {
        let head = format!(
            "POST /loki/api/v1/push HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\n\r\n",
            self.body.len()
        );
        let mut request = head.into_bytes();
        request.extend(&self.body);
        self.stream.get_mut().write_all(&request)
    }

    /// Head and body; empty where the connection ended.
    fn answer(&mut self) -> (String, Vec<u8>) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.stream.read_line(&mut head) {
                Ok(1..) => {}
                _ => return (head, Vec::new()),
            }
        }
        let head = head.to_lowercase();
        let length = head.split_once("content-length: ");
        let length = length.map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (head, body)
    }

    fn push(&mut self) -> (String, Vec<u8>) {
        self.send().unwrap();
        self.answer()
    }

    /// Whether the other end has closed it, in whatever way.
    fn ended(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 16]), Ok(0) | Err(_))
    }
}

#[test]
fn a_204_may_have_a_body_and_the_connection_goes_on() {
    let stub = stub();
    stub.script_fault(Fault::BodyOn204("abc".into()), 1);
    let mut client = Client::new(&stub);
    let (head, body) = client.push();
    assert!(
        head.starts_with("http/1.1 204 no content\r\n") && head.contains("\r\ndate: "),
        "{head}"
    );
    assert_eq!(body, b"abc");
    let (head, body) = client.push();
    assert!(head.starts_with("http/1.1 204 ") && body.is_empty(), "{head}");
    let stats = stub.stats();
    assert_eq!((stats.pushes_stored, stats.faults.bodies_on_204, stats.answers[&204]), (2, 1, 2));
}

#[test]
fn idle_connections_are_closed_without_a_word() {
    let stub = stub();
    stub.set_faults(vec![Fault::CloseIdle]);
    for _ in 0..3 {
        let mut client = Client::new(&stub);
        let (head, _) = client.push();
        assert!(head.starts_with("http/1.1 204 ") && !head.contains("connection"), "{head}");
        assert!(client.ended());
    }
    stub.set_faults(vec![Fault::answer(429, "slow\n"), Fault::CloseIdle]);
    let mut client = Client::new(&stub);
    let (head, body) = client.push();
    assert!(head.starts_with("http/1.1 429 too many requests\r\n"), "{head}");
    assert_eq!(body, b"slow\n");
    assert!(client.ended());
    let stats = stub.stats();
    assert_eq!((stats.faults.closed_idle, stats.pushes_stored), (4, 3));
}

#[test]
fn a_kept_connection_is_closed_when_a_request_comes() {
    let stub = stub();
    stub.set_fault(Fault::CloseOnRequest { one_of: 2 });
    let mut client = Client::new(&stub);
    for _ in 0..2 {
        assert!(client.push().0.starts_with("http/1.1 204 "));
    }
    // The second of those that came on a kept connection.
    let _ = client.send();
    assert_eq!(client.answer().0, "");
    let stats = stub.stats();
    assert_eq!((stats.arrived, stats.pushes, stats.entries), (3, 2, 2));
    assert_eq!(stats.faults.closed_on_request, 1);
    stub.heal();
    stub.script_fault(Fault::CloseOnRequest { one_of: 1 }, 2);
    let mut client = Client::new(&stub);
    assert!(client.push().0.starts_with("http/1.1 204 "), "the first is never closed");
    let _ = client.send();
    assert_eq!(client.answer().0, "");
    let mut client = Client::new(&stub);
    (0..3).for_each(|_| assert!(client.push().0.starts_with("http/1.1 204 ")));
}

#[test]
fn an_endless_answer_is_sent_while_it_is_read() {
    let stub = stub();
    stub.script_fault(Fault::Endless { status: 500 }, 1);
    let mut client = Client::new(&stub);
    client.send().unwrap();
    let mut read = vec![0; 8 << 20];
    client.stream.read_exact(&mut read).unwrap();
    let head = String::from_utf8_lossy(&read[..80]).to_lowercase();
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert!(head.contains("\r\ncontent-length: 10000000000\r\n\r\nxx"), "{head}");
    drop(client);
    let stats = stub.stats();
    assert_eq!((stats.faults.endless, stats.answers[&500], stats.entries), (1, 1, 0));
    assert!(stats.faults.endless_bytes > 7 << 20);
    assert!(Client::new(&stub).push().0.starts_with("http/1.1 204 "), "it goes on");
}

#[test]
fn garbage_redirects_and_other_success_are_answered() {
    let stub = stub();
    stub.script_fault(Fault::Garbage, 1);
    let mut client = Client::new(&stub);
    client.send().unwrap();
    let mut read = Vec::new();
    client.stream.read_to_end(&mut read).unwrap();
    assert!(read.starts_with(b"\x16\x03\x01 garbage"));
    let location = "http://127.0.0.1:1/".to_owned();
    stub.script_fault(Fault::Redirect { status: 307, location }, 1);
    stub.script_fault(Fault::answer(201, "made\n"), 1);
    let mut client = Client::new(&stub);
    let (head, _) = client.push();
    assert!(head.starts_with("http/1.1 307 "), "{head}");
    assert!(head.contains("\r\nlocation: http://127.0.0.1:1/\r\n"), "{head}");
    assert!(client.push().0.starts_with("http/1.1 201 created\r\n"));
    let stats = stub.stats();
    let faults = &stats.faults;
    assert_eq!((faults.garbage, faults.redirected, faults.answered, stats.entries), (1, 1, 1, 0));
}

#[test]
fn the_date_is_that_of_its_clock_or_what_it_is_told() {
    let stub = Stub::start(Options {
        clock_ahead_s: 366 * 24 * 3_600,
        ..Options::new(Accounting::PerLine)
    })
    .unwrap();
    let year = |head: &str| -> i32 {
        let date = head.split_once("\r\ndate: ").expect("it has one").1;
        date.split(' ').nth(3).unwrap().parse().unwrap()
    };
    let mut client = Client::new(&stub);
    let ahead = year(&client.push().0);
    stub.set_clock_ahead(0);
    let now = year(&client.push().0);
    assert!((1..=2).contains(&(ahead - now)), "{ahead} and {now}");
    stub.script_fault(Fault::Date("yesterday".into()), 1);
    assert!(client.push().0.contains("\r\ndate: yesterday\r\n"));
    assert_eq!(stub.stats().faults.dated, 1);
}
