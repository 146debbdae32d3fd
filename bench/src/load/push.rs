//! A backlog as pushes by HTTP, sent as fast as they are answered.

use super::corpus::{self, Corpus};
use super::{Error, proto};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// As much text as one push holds.
const PUSH_TEXT_BYTES: usize = 1 << 20;
/// Of one push.
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Pushes {
    bodies: Vec<Vec<u8>>,
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
    /// Encodes the corpus: a stream for each file, times from now on backwards.
    pub fn prepare(corpus: &Corpus) -> Result<Pushes, Error> {
        let mut pushes = Pushes { bodies: Vec::new(), lines: 0, text_bytes: 0 };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now_ns = u64::try_from(now.as_nanos()).expect("a time before the year 2554");
        for (writer, path) in corpus.files.iter().enumerate() {
            let text = corpus::map(path)?;
            let labels = format!("{{job=\"push\", file=\"{writer}\"}}");
            let times_ns = now_ns - corpus.written.lines[writer]..;
            let mut entries = Vec::with_capacity(PUSH_TEXT_BYTES * 5 / 4);
            let mut begin = 0;
            for (time_ns, end) in times_ns.zip(memchr::memchr_iter(b'\n', &text)) {
                proto::entry(time_ns, &text[begin..end], &mut entries);
                pushes.text_bytes += (end - begin) as u64;
                pushes.lines += 1;
                begin = end + 1;
                if entries.len() >= PUSH_TEXT_BYTES {
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
        self.bodies.push(compressed.expect("a push is far below snappy's 4 GiB"));
        entries.clear();
    }

    /// Sends each push once over so many connections.
    pub fn send(&self, url: &str, connections: usize) -> Result<Sent, Error> {
        let url = format!("{}/loki/api/v1/push", url.trim_end_matches('/'));
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let all: Vec<Result<Sent, Error>> = std::thread::scope(|scope| {
            let senders: Vec<_> =
                (0..connections).map(|_| scope.spawn(|| self.connection(&url, &next))).collect();
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

    fn connection(&self, url: &str, next: &AtomicUsize) -> Result<Sent, Error> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build()
            .into();
        let mut sent = Sent::default();
        while let Some(body) = self.bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
            let post = agent.post(url).content_type("application/x-protobuf").send(&body[..]);
            let http = |source| Error::Push { url: url.to_owned(), source: Box::new(source) };
            let mut answer = post.map_err(http)?;
            let status = answer.status().as_u16();
            *sent.answers.entry(status).or_default() += 1;
            let text = answer.body_mut().read_to_string().map_err(http)?;
            if !(200..300).contains(&status) && sent.refusal.is_none() {
                sent.refusal = Some(text);
            }
        }
        Ok(sent)
    }
}
