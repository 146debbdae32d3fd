//! A server that answers what a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Fake {
    address: SocketAddr,
}

type Answer = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

impl Fake {
    /// `answer` is told the path and the head of a request. It ends with the tests.
    pub fn new(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Arc<Answer> = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = answer.clone();
                std::thread::spawn(move || serve(stream, &*answer));
            }
        });
        Fake { address }
    }

    /// An instance whose memory depends on how often it was looked at.
    pub fn instance(memory: impl Fn(u64) -> f64 + Send + Sync + 'static) -> Fake {
        let looks = AtomicU64::new(0);
        Fake::new(move |path, _| match path {
            "/health" => (200, r#"{"status":"healthy","services":{},"checks":{}}"#.into()),
            _ => {
                let looks = looks.fetch_add(1, Ordering::Relaxed);
                let (lines, memory) = (looks * 1_000, memory(looks));
                let text = format!(
                    "process_start_time_seconds 5\nlog_capturer_logs_processed_total{{shard=\"0\"}} {lines}\n\
                     process_resident_memory_bytes {memory}\n"
                );
                (200, text)
            }
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(mut stream: TcpStream, answer: &Answer) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (status, body) = answer(path, &head);
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // Who asked may have gone.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
