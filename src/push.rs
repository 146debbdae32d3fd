//! Frames become one HTTP push: their snappy blocks joined, nothing decompressed.

use crate::block;
use crate::handoff::Frame;
use crate::verdict::Answer;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// Of an answer no more than this is read: an error page may be endless.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Frames of one lane that go out together. Once made, its bytes never change: sent again, Loki
/// knows them and stores nothing twice.
pub struct Push {
    pub frames: Vec<Frame>,
    pub body: Vec<u8>,
}

impl Push {
    #[must_use]
    pub fn new(frames: Vec<Frame>) -> Push {
        assert!(!frames.is_empty());
        let raw_bytes = frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        let body = block::join(frames.iter().map(|frame| frame.body.as_slice()), raw_bytes);
        Push { frames, body }
    }

    #[must_use]
    pub fn entries(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.entries)).sum()
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub url: String,
    /// Each push, from connecting to the end of the answer.
    pub timeout: Duration,
    pub connections: usize,
}

/// How long an address is used before its name is looked up again.
const ADDRESS_TIME_MAX: Duration = Duration::from_secs(10);

/// The address of the sink. ureq asks for it with every request, and the lookup starts a thread, so
/// that it can be given up in time: here that happens now and then, and after a failure.
#[derive(Debug, Default, Clone)]
struct Addresses(Arc<Mutex<Option<Found>>>);

/// When, and what.
type Found = (Instant, Vec<SocketAddr>);

impl Addresses {
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let resolver = DefaultResolver::default();
        if let Some((at, known)) = known
            && at.elapsed() < ADDRESS_TIME_MAX
        {
            let mut addresses = resolver.empty();
            known.into_iter().for_each(|address| addresses.push(address));
            return Ok(addresses);
        }
        let found = resolver.resolve(uri, config, timeout)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), found.to_vec()));
        Ok(found)
    }
}

/// Posts pushes; one for all senders, which share its connections.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    addresses: Addresses,
    url: String,
}

impl Client {
    #[must_use]
    pub fn new(options: &Options) -> Client {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(options.timeout))
            .max_idle_connections_per_host(options.connections)
            .max_idle_connections(options.connections)
            // Every answer is judged, none is followed and none turned into an error.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("log-capturer/", env!("CARGO_PKG_VERSION")))
            .build();
        let addresses = Addresses::default();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), addresses.clone());
        Client { agent, addresses, url: options.url.clone() }
    }

    /// Sends one push and waits for its answer; never longer than the timeout.
    #[must_use]
    pub fn post(&self, push: &Push) -> Answer {
        let tenant = &push.frames[0].tenant;
        let mut request = self.agent.post(&self.url).content_type("application/x-protobuf");
        if !tenant.is_empty() {
            request = request.header("X-Scope-OrgID", tenant.as_str());
        }
        let mut response = match request.send(&push.body[..]) {
            Ok(response) => response,
            Err(error) => {
                self.addresses.forget();
                return Answer::Broken(error.to_string());
            }
        };
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let code = response.status().as_u16();
        let mut text = Vec::new();
        // A status without its text is an answer all the same.
        let _ = response.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Answer::Status { code, retry_after, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: &[u8]) -> Frame {
        let body = snap::raw::Encoder::new().compress_vec(content).unwrap();
        Frame { body, raw_len: u32::try_from(content.len()).unwrap(), ..Frame::for_tests() }
    }

    #[test]
    fn joined_blocks_decompress_to_joined_contents() {
        let contents: Vec<Vec<u8>> = (0..40_usize)
            .map(|n| format!("line {n} of many lines; ").repeat(1 + n * n * 11).into_bytes())
            .collect();
        for count in [1, 2, 40] {
            let push = Push::new(contents[..count].iter().map(|c| frame(c)).collect());
            let joined = snap::raw::Decoder::new().decompress_vec(&push.body).unwrap();
            assert!(joined == contents[..count].concat(), "{count} blocks");
        }
    }
}
