//! The circuit breaker of one tenant of one sink: while the sink fails it, nothing is sent but one
//! probe now and then.
//!
//! | state | what goes | on a pass | on a failure |
//! |---|---|---|---|
//! | closed | everything | closed | open |
//! | open, until its time | nothing | | |
//! | half-open, its time over | one probe | closed | open, for longer |

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// One push, and a small one: its answer decides.
    Probe,
    /// Nothing before this; without a time, nothing before the probe under way is answered.
    Shut(Option<Instant>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    refuses: bool,
    since_unix_ns: i64,
    reason: String,
    /// Pushes that passed, ever.
    passes: u64,
}

/// What operators see of a breaker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Seen {
    pub tenant: String,
    pub state: &'static str,
    /// Since when it is not closed, or closed again; Unix time in milliseconds.
    pub since_unix_ms: i64,
    pub failures: u32,
    /// Of the last failure.
    pub reason: String,
}

/// So many probes in a row that failed.
const LONG_FAILURES: u32 = 2;

impl Breaker {
    fn new() -> Breaker {
        Breaker {
            state: State::Closed,
            failures: 0,
            refuses: false,
            since_unix_ns: perf::clock::unix_ns(),
            reason: String::new(),
            passes: 0,
        }
    }

    /// What may go now; who is told [`Gate::Probe`] has to send one, or give it back.
    pub fn ask(&mut self, now: Instant) -> Gate {
        match self.state {
            State::Closed => Gate::Open,
            State::Open { until } if until > now => Gate::Shut(Some(until)),
            State::Open { .. } => {
                self.state = State::HalfOpen;
                Gate::Probe
            }
            State::HalfOpen => Gate::Shut(None),
        }
    }

    /// There was nothing to probe with.
    pub fn give_back(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.state = State::Open { until: now };
        }
    }

    /// A push failed, and that says nothing of the sink: others decide. `smaller`: its halves do.
    pub fn undecided(&mut self, now: Instant, smaller: bool) {
        if smaller {
            self.failures = 0;
        }
        self.give_back(now);
    }

    /// The sink answered and serves this tenant; `stored`: it took the push. True where that is news.
    pub fn passed(&mut self, stored: bool) -> bool {
        self.passes += u64::from(stored);
        self.failures = 0;
        let news = self.state != State::Closed;
        if news {
            self.state = State::Closed;
            self.since_unix_ns = perf::clock::unix_ns();
        }
        news
    }

    /// The sink failed; `wait` gives for how long it is left alone, given how often it failed in a row.
    pub fn failed(&mut self, now: Instant, reason: String, wait: impl Fn(u32) -> Duration) {
        self.refuses = false;
        if self.state == State::Closed {
            self.since_unix_ns = perf::clock::unix_ns();
        }
        self.reason = reason;
        // Several pushes that were under way fail one after the other: once counted, the latest time.
        let known = match self.state {
            State::Open { until } => until,
            State::Closed | State::HalfOpen => {
                self.failures = self.failures.saturating_add(1);
                now
            }
        };
        self.state = State::Open { until: known.max(now + wait(self.failures)) };
    }

    /// The last failure was the sink's refusal to serve this tenant, which does not pass by itself.
    pub fn refused(&mut self) {
        self.refuses = true;
    }

    /// Nothing passes, and that is no failure of the moment.
    #[must_use]
    pub fn fails_for_long(&self) -> bool {
        !self.is_closed() && (self.refuses || self.failures >= LONG_FAILURES)
    }

    /// What the last failure was.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes
    }

    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}

/// The breakers of a sink, by tenant.
#[derive(Debug, Default)]
pub struct Breakers(HashMap<String, Breaker>);

/// Of more tenants, those that are well are forgotten.
const TENANTS_KEPT_MAX: usize = 1024;

impl Breakers {
    pub fn of(&mut self, tenant: &str) -> &mut Breaker {
        if !self.0.contains_key(tenant) {
            if self.0.len() >= TENANTS_KEPT_MAX {
                self.0.retain(|_, breaker| !breaker.is_closed());
            }
            self.0.insert(tenant.to_owned(), Breaker::new());
        }
        self.0.get_mut(tenant).expect("just made where there was none")
    }

    /// How many are not closed.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.values().filter(|breaker| !breaker.is_closed()).count()
    }

    /// All of them, in the order of their tenants.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let mut all: Vec<Seen> = self
            .0
            .iter()
            .map(|(tenant, breaker)| Seen {
                tenant: tenant.clone(),
                state: match breaker.state {
                    State::Closed => "closed",
                    State::Open { .. } => "open",
                    State::HalfOpen => "half-open",
                },
                since_unix_ms: breaker.since_unix_ns / 1_000_000,
                failures: breaker.failures,
                reason: breaker.reason.clone(),
            })
            .collect();
        all.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failing_sink_gets_one_probe_at_a_time_and_less_and_less_often() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        assert_eq!(breaker.ask(now), Gate::Open);
        let wait = |failures| SECOND * failures;
        breaker.failed(now, "503".into(), wait);
        assert_eq!(breaker.ask(now), Gate::Shut(Some(now + SECOND)));
        assert_eq!(breaker.ask(now + SECOND), Gate::Probe);
        assert_eq!(breaker.ask(now + SECOND), Gate::Shut(None), "one is under way");
        breaker.failed(now + SECOND, "504".into(), wait);
        assert_eq!(breaker.ask(now + 2 * SECOND), Gate::Shut(Some(now + 3 * SECOND)));
        assert_eq!(breaker.ask(now + 3 * SECOND), Gate::Probe);
        breaker.give_back(now + 3 * SECOND);
        assert_eq!(breaker.ask(now + 3 * SECOND), Gate::Probe, "nobody had anything to send");
        assert!(breaker.passed(true));
        assert!(!breaker.passed(true), "no news");
        assert_eq!((breaker.ask(now), breaker.passes(), breaker.failures()), (Gate::Open, 2, 0));
    }

    #[test]
    fn what_fails_for_itself_does_not_close_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.undecided(now, true);
        assert!(breaker.is_closed());
        breaker.failed(now, "500".into(), |_| SECOND);
        assert_eq!(breaker.ask(now + SECOND), Gate::Probe);
        breaker.undecided(now + SECOND, false);
        assert_eq!((breaker.is_closed(), breaker.failures()), (false, 1));
        assert_eq!(breaker.ask(now + SECOND), Gate::Probe, "another one, at once");
        breaker.undecided(now + SECOND, true);
        assert_eq!((breaker.is_closed(), breaker.failures()), (false, 0));
    }

    #[test]
    fn pushes_that_fail_together_do_not_shorten_the_wait() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.failed(now, "429".into(), |_| 9 * SECOND);
        breaker.failed(now, "reset".into(), |_| SECOND);
        assert_eq!(breaker.ask(now), Gate::Shut(Some(now + 9 * SECOND)));
    }

    #[test]
    fn operators_see_state_reason_and_since_when() {
        let mut breakers = Breakers::default();
        breakers.of("b").failed(Instant::now(), "403: no".into(), |_| SECOND);
        assert!(breakers.of("a").is_closed());
        assert_eq!(breakers.open(), 1);
        let seen = breakers.seen();
        assert_eq!(seen.iter().map(|s| s.state).collect::<Vec<_>>(), ["closed", "open"]);
        assert_eq!((seen[1].reason.as_str(), seen[1].failures), ("403: no", 1));
        assert!(seen[1].since_unix_ms > 1_700_000_000_000);
    }

    #[test]
    fn tenants_that_are_well_are_not_kept_for_ever() {
        let mut breakers = Breakers::default();
        breakers.of("sick").failed(Instant::now(), String::new(), |_| SECOND);
        (0..5000).for_each(|n| assert!(breakers.of(&n.to_string()).is_closed()));
        assert!(breakers.seen().len() <= TENANTS_KEPT_MAX);
        assert_eq!(breakers.open(), 1);
    }
}
