//! A backlog as pushes by HTTP, sent as fast as they are answered.

use super::client::{self, Client};
use super::corpus::{self, Corpus};
use super::{Error, proto};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Of one push.
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Pushes {
    /// Whole, so that sending them costs little.
    requests: Vec<Vec<u8>>,
    pub lines: u64,
    pub text_bytes: u64,
}

/// What came of them.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    pub elapsed: Duration,
    /// Pushes by status.
    pub answers: BTreeMap<u16, u64>,
    /// The first answer that is not 2xx: its text.
    pub refusal: Option<String>,
}

impl Pushes {
    /// Encodes the corpus: a stream for each file, times from now on backwards, and as much text in
    /// a push as fills `text_bytes`.
    pub fn prepare(corpus: &Corpus, text_bytes: usize) -> Result<Pushes, Error> {
        let mut pushes = Pushes { requests: Vec::new(), lines: 0, text_bytes: 0 };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now_ns = u64::try_from(now.as_nanos()).expect("a time before the year 2554");
        for (writer, path) in corpus.files.iter().enumerate() {
            let text = corpus::map(path)?;
            let labels = format!("{{job=\"push\", file=\"{writer}\"}}");
            let times_ns = now_ns - corpus.written.lines[writer]..;
            let mut entries = Vec::with_capacity(text_bytes * 5 / 4);
            let (mut begin, mut push_begin) = (0, 0);
            for (time_ns, end) in times_ns.zip(memchr::memchr_iter(b'\n', &text)) {
                proto::entry(time_ns, &text[begin..end], &mut entries);
                pushes.text_bytes += (end - begin) as u64;
                pushes.lines += 1;
                begin = end + 1;
                if begin - push_begin >= text_bytes {
                    push_begin = begin;
                    pushes.seal(&labels, &mut entries);
                }
            }
            if !entries.is_empty() {
                pushes.seal(&labels, &mut entries);
            }
        }
        Ok(pushes)
    }

    fn seal(&mut self, labels: &str, entries: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(entries.len() + 256);
        proto::stream(labels, entries, &mut body);
        let compressed = snap::raw::Encoder::new().compress_vec(&body);
        let compressed = compressed.expect("a push is far below snappy's 4 GiB");
        let mut request = Vec::with_capacity(compressed.len() + 256);
        let kind = "Content-Type: application/x-protobuf\r\n";
        client::post("/loki/api/v1/push", kind, &compressed, &mut request);
        self.requests.push(request);
        entries.clear();
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.requests.len()
    }

    /// As they are sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.requests.iter().map(Vec::len).sum()
    }

    /// Sends each push once over so many connections.
    pub fn send(&self, addr: SocketAddr, connections: usize) -> Result<Sent, Error> {
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let all: Vec<Result<Sent, Error>> = std::thread::scope(|scope| {
            let senders: Vec<_> =
                (0..connections).map(|_| scope.spawn(|| self.connection(addr, &next))).collect();
            senders
                .into_iter()
                .map(|sender| sender.join().unwrap_or(Err(Error::Panicked)))
                .collect()
        });
        let mut sent = Sent { elapsed: start.elapsed(), ..Sent::default() };
        for one in all {
            let one = one?;
            for (status, count) in one.answers {
                *sent.answers.entry(status).or_default() += count;
            }
            sent.refusal = sent.refusal.or(one.refusal);
        }
        Ok(sent)
    }

    fn connection(&self, addr: SocketAddr, next: &AtomicUsize) -> Result<Sent, Error> {
        let mut client = Client::connect(addr, TIMEOUT).map_err(Error::client(addr))?;
        let mut sent = Sent::default();
        while let Some(request) = self.requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let status = client.send(request).map_err(Error::client(addr))?;
            *sent.answers.entry(status).or_default() += 1;
            if !(200..300).contains(&status) && sent.refusal.is_none() {
                sent.refusal = Some(client.text());
            }
        }
        Ok(sent)
    }
}
