//! A Loki-compatible receiver that really decodes, keeps account of every line, and fails on demand.
//!
//! It runs on one thread of its own. What is stored, how often, and in which order is in [`Stats`];
//! [`Stub::verify`] holds it against what was written.

pub mod decode;
pub mod labels;

mod http;
mod ledger;
mod receive;

#[cfg(test)]
mod encode;
#[cfg(test)]
mod tests;

use crate::load::Written;
use hdrhistogram::Histogram;
use receive::Store;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often [`Stub::wait_until`] looks.
const WAIT_STEP: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the stub cannot listen on {addr}: {source}: choose another port or stop its owner")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("the stub's thread cannot start: {0}")]
    Thread(io::Error),
}

/// What is kept of each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounting {
    /// Marks, order, latency, duplicates and Loki's limits: everything that can be verified.
    PerLine,
    /// Entries and bytes are counted after a full decode; labels and limits are not looked at.
    Count,
}

/// What Loki refuses; [`Limits::loki`] has its defaults.
#[derive(Debug, Clone)]
pub struct Limits {
    pub line_bytes_max: usize,
    pub label_names_max: usize,
    pub label_name_bytes_max: usize,
    pub label_value_bytes_max: usize,
    pub streams_max: usize,
    pub age_max: Duration,
    pub ahead_max: Duration,
    /// How far an entry may be behind the newest of its stream.
    pub behind_max: Duration,
    /// Of one push, compressed.
    pub body_bytes_max: usize,
    /// Of one push, decompressed: what one ingester takes.
    pub decoded_bytes_max: usize,
}

impl Limits {
    #[must_use]
    pub fn loki() -> Limits {
        Limits {
            line_bytes_max: 262_144,
            label_names_max: 15,
            label_name_bytes_max: 1_024,
            label_value_bytes_max: 2_048,
            streams_max: 5_000,
            age_max: Duration::from_hours(7 * 24),
            ahead_max: Duration::from_mins(10),
            behind_max: Duration::from_hours(1),
            body_bytes_max: 100 << 20,
            decoded_bytes_max: 4 << 20,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    pub accounting: Accounting,
    pub limits: Limits,
    /// Entries kept for [`Stub::entries`]; repeated ones are not kept twice.
    pub keep_entries: usize,
    /// Marked lines that account can be kept of, at four bytes each.
    pub lines_max: u64,
    pub writers_max: usize,
    pub connections_max: usize,
}

impl Options {
    /// Any free port of this host, Loki's limits, room for 64 million lines.
    #[must_use]
    pub fn new(accounting: Accounting) -> Options {
        Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            accounting,
            limits: Limits::loki(),
            keep_entries: 0,
            lines_max: 64 << 20,
            writers_max: 4_096,
            connections_max: 1_024,
        }
    }
}

/// What happens to a push instead of, or before, an answer as Loki gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored and this is said.
    Answer { status: u16, text: String, retry_after: Option<String> },
    /// Stored and answered as always, but only after this long.
    Delay(Duration),
    /// Nothing is stored and the connection is reset.
    Reset,
    /// All is stored, and then the connection is reset.
    LostAnswer,
}

impl Fault {
    #[must_use]
    pub fn answer(status: u16, text: &str) -> Fault {
        Fault::Answer { status, text: text.into(), retry_after: None }
    }
}

/// How the whole receiver is not there. Open connections are reset at the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// Connections are refused; the port stays reserved.
    Refusing,
    /// Connections are accepted, requests are read, and nothing is ever answered.
    Silent,
}

/// Proof that faults happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub answered: u64,
    pub delayed: u64,
    pub reset: u64,
    pub answers_lost: u64,
    /// Times that the port was closed.
    pub refusals: u64,
    /// Requests that were read while silent.
    pub swallowed: u64,
    /// Connections that were cut because the receiver went away.
    pub cut: u64,
}

/// Everything that was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Push requests read in full, whatever was answered.
    pub pushes: u64,
    /// Of them, those answered 204 with all stored (or masked as Loki does).
    pub pushes_stored: u64,
    /// Bodies as they came over the wire.
    pub wire_bytes: u64,
    /// Decompressed bodies of pushes that could be decoded.
    pub decoded_bytes: u64,
    /// Entries taken, the repeated ones too.
    pub entries: u64,
    pub line_bytes: u64,
    /// Entries that a limit refused.
    pub entries_refused: u64,
    /// Distinct marked lines.
    pub received: u64,
    /// Further deliveries of lines received before.
    pub repeated: u64,
    /// Of them, those whose timestamp is not that of the first: a query shows both.
    pub repeated_visibly: u64,
    /// Lines with a mark and a wrong checksum.
    pub corrupted: u64,
    /// Lines without a mark, the repeated ones too.
    pub unmarked: u64,
    /// Of them, those equal in stream, timestamp and line to a kept one.
    pub unmarked_repeated: u64,
    /// Marked lines beyond the bounds of the account.
    pub unaccounted: u64,
    /// Entries beyond [`Options::keep_entries`].
    pub not_kept: u64,
    /// First deliveries whose timestamp is not above all before in their stream.
    pub out_of_order: u64,
    /// First deliveries where timestamp and sequence number disagree within stream and writer.
    pub out_of_sequence: u64,
    pub faults: FaultCounts,
    /// Pushes by the status that was sent.
    pub answers: BTreeMap<u16, u64>,
}

/// An entry that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As Loki renders them: sorted, `{a="b", c="d"}`.
    pub labels: String,
    pub timestamp_ns: i64,
    pub line: Vec<u8>,
}

/// What was written held against what was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub written: u64,
    /// Distinct lines.
    pub received: u64,
    pub lost: u64,
    /// Lines received that nobody wrote.
    pub unwritten: u64,
    pub repeated: u64,
    pub repeated_visibly: u64,
    pub corrupted: u64,
    pub unmarked: u64,
    pub unaccounted: u64,
    pub out_of_order: u64,
    pub out_of_sequence: u64,
}

impl Verified {
    /// Each line written arrived exactly as written, in order. Invisible repetitions are allowed.
    #[must_use]
    pub fn complete(&self) -> bool {
        let Verified { written, received, repeated, .. } = *self;
        *self == Verified { written, received, repeated, ..Verified::default() }
            && written == received
    }

    /// Complete, and each line came once.
    #[must_use]
    pub fn exactly_once(&self) -> bool {
        self.complete() && self.repeated == 0
    }
}

/// State that the handle and the serving thread share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    faults: Mutex<VecDeque<Scripted>>,
    link: watch::Sender<Link>,
    body_bytes_max: usize,
    connections_max: usize,
}

struct Scripted {
    fault: Fault,
    /// None: until healed.
    pushes_left: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    Away(Away),
    Stopped,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while it was held is reported by its own thread.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, VecDeque<Scripted>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut faults = self.faults();
        let scripted = faults.front_mut()?;
        let fault = scripted.fault.clone();
        if let Some(left) = &mut scripted.pushes_left {
            *left -= 1;
            if *left == 0 {
                faults.pop_front();
            }
        }
        Some(fault)
    }
}

/// A running receiver; it stops when dropped.
pub struct Stub {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    pub fn start(options: Options) -> Result<Stub, Error> {
        let (listener, addr) = http::listen(options.listen)
            .map_err(|source| Error::Listen { addr: options.listen, source })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new(&options)),
            faults: Mutex::new(VecDeque::new()),
            link: watch::Sender::new(Link::Up),
            body_bytes_max: options.limits.body_bytes_max,
            connections_max: options.connections_max,
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("loki-stub".into())
            .spawn(move || runtime.block_on(http::serve(listener, addr, serving)))
            .map_err(Error::Thread)?;
        Ok(Stub { addr, shared, thread: Some(thread) })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the product's `sinks.loki.url` is set to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.store().stats.clone()
    }

    /// Entries taken so far: cheaper than [`Stub::stats`].
    #[must_use]
    pub fn entries_taken(&self) -> u64 {
        self.shared.store().stats.entries
    }

    /// Distinct lines of a writer.
    #[must_use]
    pub fn received(&self, writer: u32) -> u64 {
        self.shared.store().ledger.received(writer)
    }

    /// Distinct lines of all writers.
    #[must_use]
    pub fn received_in_all(&self) -> u64 {
        self.shared.store().ledger.received_in_all()
    }

    /// The first [`Options::keep_entries`] entries, in the order they came.
    #[must_use]
    pub fn entries(&self) -> Vec<Kept> {
        self.shared.store().kept.clone()
    }

    /// The labels of all streams, in the order they first came.
    #[must_use]
    pub fn streams(&self) -> Vec<String> {
        self.shared.store().streams()
    }

    /// Microseconds from a line's write to the whole push being here, of first deliveries.
    #[must_use]
    pub fn latency(&self) -> Histogram<u64> {
        self.shared.store().latency.clone()
    }

    /// The same since the last call of this.
    #[must_use]
    pub fn take_latency_window(&self) -> Histogram<u64> {
        let mut store = self.shared.store();
        let window = store.latency_window.clone();
        store.latency_window.reset();
        window
    }

    /// Every push from now on, until [`Stub::heal`].
    pub fn set_fault(&self, fault: Fault) {
        *self.shared.faults() = VecDeque::from([Scripted { fault, pushes_left: None }]);
    }

    /// The next pushes, after those of earlier calls; then all is well again.
    pub fn script_fault(&self, fault: Fault, pushes: u64) {
        assert!(pushes > 0);
        self.shared.faults().push_back(Scripted { fault, pushes_left: Some(pushes) });
    }

    pub fn go_away(&self, away: Away) {
        self.shared.link.send_replace(Link::Away(away));
    }

    /// Ends all faults and comes back if it was away.
    pub fn heal(&self) {
        self.shared.faults().clear();
        self.come_back();
    }

    /// Comes back if it was away; scripted faults stay.
    pub fn come_back(&self) {
        self.shared.link.send_replace(Link::Up);
    }

    /// Waits until `reached` holds; false if it does not within `limit`.
    #[must_use]
    pub fn wait_until(&self, limit: Duration, mut reached: impl FnMut(&Stats) -> bool) -> bool {
        let start = Instant::now();
        loop {
            if reached(&self.shared.store().stats) {
                return true;
            }
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(WAIT_STEP);
        }
    }

    /// Waits until so many distinct marked lines are here.
    #[must_use]
    pub fn wait_for_lines(&self, lines: u64, limit: Duration) -> bool {
        self.wait_until(limit, |stats| stats.received >= lines)
    }

    /// Holds what was written against what came so far.
    #[must_use]
    pub fn verify(&self, written: &Written) -> Verified {
        let store = self.shared.store();
        let by_writer = || (0_u32..).zip(written.lines.iter().copied());
        let known = u32::try_from(written.lines.len()).unwrap_or(u32::MAX);
        let strangers = store.ledger.writers().filter(|writer| *writer >= known);
        Verified {
            written: written.lines.iter().sum(),
            received: store.ledger.received_in_all(),
            lost: by_writer().map(|(w, lines)| store.ledger.missing(w, lines)).sum(),
            unwritten: by_writer()
                .map(|(w, lines)| store.ledger.unwritten(w, lines))
                .chain(strangers.map(|w| store.ledger.received(w)))
                .sum(),
            repeated: store.stats.repeated,
            repeated_visibly: store.stats.repeated_visibly,
            corrupted: store.stats.corrupted,
            unmarked: store.stats.unmarked,
            unaccounted: store.stats.unaccounted,
            out_of_order: store.stats.out_of_order,
            out_of_sequence: store.stats.out_of_sequence,
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.link.send_replace(Link::Stopped);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}
