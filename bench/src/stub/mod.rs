//! A Loki-compatible receiver that really decodes, keeps account of every line, and fails on demand.
//!
//! It runs on one thread of its own. What is stored, how often, and in which order is in [`Stats`];
//! [`Stub::verify`] holds it against what was written.

pub mod decode;
pub mod labels;

mod account;
mod answer;
mod faults;
mod http;
mod json;
mod ledger;
mod limits;
mod query;
mod receive;
mod refused;
mod stats;
mod tenants;
mod wire;

#[cfg(test)]
mod tests;

pub use faults::{Away, Fault, FaultCounts, Script};
pub use limits::{Limits, Rate};
pub use stats::{Backlog, Kept, Reason, Stats, TenantStats, Travels, Verified};

use crate::load::Written;
use account::Watch;
use hdrhistogram::Histogram;
use receive::Store;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// Lines are decoded and summed up, so that a whole corpus can be held against them. Not looked
    /// at are order, labels, limits but those of a whole push, and what faults look for in it.
    Count,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    pub accounting: Accounting,
    pub limits: Limits,
    /// Entries kept for [`Stub::entries`]; repeated ones are not kept twice.
    pub keep_entries: usize,
    /// Marked lines of which account is kept at a time, at four bytes each; the oldest are settled.
    pub lines_max: u64,
    pub writers_max: usize,
    pub connections_max: usize,
    /// Whether a push needs X-Scope-OrgID.
    pub auth: bool,
    /// How far its clock is ahead of this host's, in seconds: for Date and for the limits of age.
    pub clock_ahead_s: i64,
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
            auth: false,
            clock_ahead_s: 0,
        }
    }
}

/// State that the handle and the serving thread share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    faults: Mutex<VecDeque<Script>>,
    /// Pushes that came on kept connections while some of those were closed.
    kept_requests: AtomicU64,
    link: watch::Sender<Link>,
    connections_max: usize,
    auth: bool,
    /// The serving thread.
    thread_id: OnceLock<i32>,
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

    fn faults(&self) -> MutexGuard<'_, VecDeque<Script>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut faults = self.faults();
        let fault = faults.front()?.fault.clone();
        use_up(&mut faults);
        Some(fault)
    }

    /// Whether the connection of a further request is closed instead of its being read.
    fn closes_request(&self, tenant: &str) -> bool {
        let mut faults = self.faults();
        let Some(one_of) = faults.front().and_then(|of| of.fault.closes_one_of(tenant)) else {
            return false;
        };
        let nth = self.kept_requests.fetch_add(1, Ordering::Relaxed) + 1;
        let closes = nth.is_multiple_of(one_of);
        if closes {
            use_up(&mut faults);
        }
        closes
    }
}

/// One push has had its fault.
fn use_up(faults: &mut VecDeque<Script>) {
    let Some(Script { pushes: Some(left), .. }) = faults.front_mut() else { return };
    *left -= 1;
    if *left == 0 {
        faults.pop_front();
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
            kept_requests: AtomicU64::new(0),
            link: watch::Sender::new(Link::Up),
            connections_max: options.connections_max,
            auth: options.auth,
            thread_id: OnceLock::new(),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("loki-stub".into())
            .spawn(move || {
                serving.thread_id.get_or_init(|| rustix::thread::gettid().as_raw_nonzero().get());
                runtime.block_on(http::serve(listener, addr, serving));
            })
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

    /// What the serving thread took of a CPU so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let id = self.shared.thread_id.get().copied().unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat"));
        let ns = stat.ok().and_then(|stat| stat.split(' ').next()?.parse().ok());
        Duration::from_nanos(ns.unwrap_or_default())
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

    /// In which company a stream travelled; labels as in [`Kept`]. All zero where it never did.
    #[must_use]
    pub fn travels(&self, tenant: &str, labels: &str) -> Travels {
        self.shared.store().tenants.travels(tenant, labels).unwrap_or_default()
    }

    /// The same of every stream, by tenant and labels.
    #[must_use]
    pub fn all_travels(&self) -> BTreeMap<(String, String), Travels> {
        self.shared.store().tenants.all_travels()
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.store().limits.clone()
    }

    /// From now on, as when an operator changes them; what the buckets hold stays.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.store().limits = limits;
    }

    /// See [`Options::clock_ahead_s`].
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.shared.store().clock_ahead_ns = seconds.saturating_mul(1_000_000_000);
    }

    /// Begins to look on how long what was written until now takes to come.
    pub fn watch_backlog(&self) {
        let since_ns = crate::measure::now_ns();
        self.shared.store().backlog = Watch { since_ns, ..Watch::default() };
    }

    /// What of it has come so far.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let Watch { since_ns, lines, first_ns, last_ns } = self.shared.store().backlog;
        let after = |ns: i64| u64::try_from(ns.saturating_sub(since_ns)).unwrap_or(0);
        let time = |ns| Duration::from_nanos(if lines == 0 { 0 } else { after(ns) });
        Backlog { lines, first: time(first_ns), last: time(last_ns) }
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
        *self.shared.faults() = VecDeque::from([Script { fault, pushes: None }]);
    }

    /// As [`Stub::set_fault`], several at once: to each push those happen that concern it.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.set_fault(Fault::Many(faults));
    }

    /// The next pushes, after those of earlier calls; then all is well again.
    pub fn script_fault(&self, fault: Fault, pushes: u64) {
        assert!(pushes > 0);
        self.script(Script { fault, pushes: Some(pushes) });
    }

    /// What comes after what was scripted before.
    pub fn script(&self, script: Script) {
        self.shared.faults().push_back(script);
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
