//! From ring to Loki: the senders of one sink, on the egress core.
//!
//! Each sender is a thread that blocks on one push at a time. The way of a frame here, in order:
//!
//! 1. [`Egress::claim`] takes the next push of a [`Track`] (the frames of one tenant and one shard)
//!    whose tenant's [`crate::breaker`] lets it pass;
//! 2. [`Client::post`] sends it;
//! 3. [`judge`] says what the answer means;
//! 4. [`Egress::settle`] tells track and breaker, and acks go back to the shard. What failed goes out
//!    again when its time has come, and no sender waits for that.

use crate::alone::{Heat, REST_NS_MAX};
use crate::breaker::{Breakers, Gate, Seen};
use crate::handoff::Lane;
use crate::lock;
use crate::push::{Client, Push, Reply};
use crate::track::{Ack, Because, Job, Piece, Terms, Track};
use crate::verdict::{Answer, REJECT_AFTER, Reason, Scope, Verdict, backoff, judge, refuses_rate};
use io::failpoint;
use perf::errors::ErrorKey;
use perf::metrics;
use perf::recorder::{Since, SinkRecorder};
use perf::stage::SinkTime;
use shards::bell::Bell;
use shards::stop::{Phase, Stop};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    /// The sink's name.
    pub sink: String,
    /// Of frames that name no tenant.
    pub tenant: Arc<str>,
    /// What a push holds at most before compression; one larger frame goes out alone.
    pub push_bytes_max: usize,
    /// Entries older than this are not sent.
    pub age_max: Duration,
    /// Bytes a second that the sink takes of a stream, which may come from all of these shards.
    pub stream_rate: u64,
    pub shards: usize,
    pub heat: Arc<Heat>,
}

/// What all senders of a sink share.
pub struct Egress {
    lanes: Vec<(Arc<Lane>, Mutex<Tracks>)>,
    /// Taken after a lane's tracks, never before.
    breakers: Mutex<Breakers>,
    client: Client,
    options: Options,
    /// Rung for each frame handed over, and when something may go again.
    bell: Arc<Bell>,
    stop: Stop,
    counts: metrics::Sink,
    times: Arc<SinkRecorder>,
    /// Where the next search begins, so that all lanes have their turn.
    turn: AtomicUsize,
    /// Those that run.
    senders: AtomicUsize,
    /// How far the sink's clock is ahead of ours.
    ahead_ns: AtomicI64,
    /// Entries that were refused since that was said last, and when it was.
    refused: AtomicU64,
    refused_said_ns: AtomicI64,
}

/// Of one lane, by tenant; held for moments, never over a push.
#[derive(Default)]
struct Tracks {
    by_tenant: BTreeMap<Arc<str>, Track>,
    last: Option<Arc<str>>,
}

/// What a sender has to send.
pub(crate) struct Claim {
    lane: usize,
    /// As its frames name it.
    pub tenant: Arc<str>,
    pub job: Job,
    started: Since,
}

/// When something is decided: by the time that passes, and by the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub at: Instant,
    pub unix_ns: i64,
}

impl Moment {
    fn now() -> Moment {
        Moment { at: Instant::now(), unix_ns: perf::clock::unix_ns() }
    }
}

/// What came longer ago has waited.
const BEHIND_NS: i64 = 2_000_000_000;
/// While the sink refuses service, it is asked this often.
const HOLD_INTERVAL: Duration = Duration::from_secs(5);
/// What is said of entries that are refused is said this often.
const SAY_INTERVAL_NS: i64 = 10_000_000_000;
/// A clock that is off by less is not off: answers have full seconds, and take their time.
const CLOCK_STEP_NS: i64 = 3_000_000_000;

impl Egress {
    #[must_use]
    pub fn new(
        lanes: Vec<Arc<Lane>>,
        client: Client,
        options: Options,
        bell: Arc<Bell>,
        stop: Stop,
        counts: metrics::Sink,
        times: Arc<SinkRecorder>,
    ) -> Egress {
        Egress {
            lanes: lanes.into_iter().map(|lane| (lane, Mutex::default())).collect(),
            breakers: Mutex::default(),
            client,
            options,
            bell,
            stop,
            counts,
            times,
            turn: AtomicUsize::new(0),
            senders: AtomicUsize::new(0),
            ahead_ns: AtomicI64::new(0),
            refused: AtomicU64::new(0),
            refused_said_ns: AtomicI64::new(0),
        }
    }

    /// One sender, until there is no more to do. It ends with an answer to all that it sent.
    pub fn run(&self) {
        self.senders.fetch_add(1, Ordering::AcqRel);
        self.send();
        // One ring is heard by one of them.
        self.bell.ring();
        if self.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lanes.iter().for_each(|(lane, _)| lane.end());
        }
    }

    fn send(&self) {
        while let Some(claim) = self.claim() {
            let push = Push::of(self.tenant(&claim.tenant), &claim.job);
            self.counts.in_flight.inc();
            failpoint::passed("push");
            let reply = self.client.post(&push);
            failpoint::passed("push.answered");
            self.counts.in_flight.dec();
            self.settle(claim, &reply, push.body.len(), Moment::now());
        }
    }

    fn tenant(&self, named: &Arc<str>) -> Arc<str> {
        if named.is_empty() { self.options.tenant.clone() } else { named.clone() }
    }

    /// The next push. Waits for one; `None` when it is time to go.
    fn claim(&self) -> Option<Claim> {
        loop {
            if matches!(self.stop.phase(), Phase::Yielding | Phase::Leaving) {
                return None;
            }
            let now = Moment::now();
            let mut next_due: Option<Instant> = None;
            let first = self.turn.fetch_add(1, Ordering::Relaxed);
            for at in 0..self.lanes.len() {
                let lane = (first + at) % self.lanes.len();
                let (claim, due) = self.claim_of(lane, now);
                if claim.is_some() {
                    if self.has_more(now.at) {
                        // Rings for several pushes are heard as one: pass it on.
                        self.bell.ring();
                    }
                    return claim;
                }
                next_due = next_due.into_iter().chain(due).min();
            }
            self.bell.wait_blocking(next_due);
        }
    }

    /// Whether another sender has something to do, as far as that shows without waiting.
    fn has_more(&self, now: Instant) -> bool {
        self.lanes.iter().any(|(lane, tracks)| {
            let due = |tracks: MutexGuard<'_, Tracks>| {
                tracks.by_tenant.values().any(|track| track.is_due(now))
            };
            !lane.frames.is_empty() || tracks.try_lock().is_ok_and(due)
        })
    }

    /// The next push of one lane; else when there may be one.
    pub(crate) fn claim_of(&self, at: usize, now: Moment) -> (Option<Claim>, Option<Instant>) {
        let (lane, tracks) = &self.lanes[at];
        let mut tracks = lock(tracks);
        while let Some(frame) = lane.frames.pop() {
            let tenant = frame.tenant.clone();
            tracks.by_tenant.entry(tenant).or_default().take_in(frame);
        }
        let mut next_due: Option<Instant> = None;
        for tenant in tracks.in_turn() {
            let track = tracks.by_tenant.get_mut(&tenant).expect("named just now");
            if !track.is_due(now.at) {
                if track.is_over(now.at) {
                    tracks.by_tenant.remove(&tenant);
                    continue;
                }
                // What fails with the others waits for a time of its own, which is when the next
                // probe may go: it is never due while the gate is shut.
                let given_up = self.give_up(at, &tenant, track);
                let next = if given_up { Some(now.at) } else { track.next_due() };
                next_due = next_due.into_iter().chain(next).min();
                continue;
            }
            let gate = lock(&self.breakers).of(&self.tenant(&tenant)).ask(now.at);
            if let Gate::Shut(until) = gate {
                let given_up = self.give_up(at, &tenant, track);
                let next = if given_up { Some(now.at) } else { until };
                next_due = next_due.into_iter().chain(next).min();
                continue;
            }
            let probe = gate == Gate::Probe;
            let terms = Terms {
                now: now.at,
                oldest_ns: self.oldest_ns(now),
                bytes_max: self.options.push_bytes_max,
                behind_ns: now.unix_ns.saturating_sub(BEHIND_NS),
                forgotten_ns: now.unix_ns.saturating_sub(REST_NS_MAX),
                stream_bytes_max: self.options.stream_rate / 2 / self.options.shards as u64,
                // What is limited by the second is taken as a whole or not at all.
                alone_bytes_max: usize::try_from(self.options.stream_rate).unwrap_or(usize::MAX),
                probe,
            };
            let job = track.next(terms);
            self.send_acks(at, track);
            if track.is_over(now.at) {
                tracks.by_tenant.remove(&tenant);
            }
            match job {
                Some(job) => {
                    tracks.last = Some(tenant.clone());
                    let started = self.times.start();
                    return (Some(Claim { lane: at, tenant, job, started }), None);
                }
                None if probe => {
                    lock(&self.breakers).of(&self.tenant(&tenant)).give_back(now.at);
                    // Who asked meanwhile waits for the answer to a probe that was not sent.
                    self.bell.ring();
                }
                None => {}
            }
        }
        (None, next_due)
    }

    /// Of a tenant of which nothing passes, what holds up others, and else of its streams those of which
    /// nothing passes: where others of it do, they were rejected before. True where there was something.
    fn give_up(&self, lane: usize, tenant: &Arc<str>, track: &mut Track) -> bool {
        let to = self.lanes[lane].0.given_up_of(tenant);
        if !track.holds(to, 0) {
            return false;
        }
        let (failures_min, text) = {
            let mut breakers = lock(&self.breakers);
            let breaker = breakers.of(&self.tenant(tenant));
            match breaker.is_closed() {
                true => (REJECT_AFTER, "its stream is limited".into()),
                false if !breaker.fails_for_long() => return false,
                false => (0, breaker.reason().into()),
            }
        };
        if !track.holds(to, failures_min) {
            return false;
        }
        let because = Because { reason: Reason::Held, status: None, text };
        track.give_up(to, failures_min, &because);
        self.send_acks(lane, track);
        true
    }

    /// Tells track, breaker and shard what became of a push.
    pub(crate) fn settle(&self, claim: Claim, reply: &Reply, body_bytes: usize, moment: Moment) {
        if let Some(date) = reply.date_unix_s.filter(|_| is_sinks_own(&reply.answer)) {
            self.see_clock(date, moment);
        }
        let Claim { lane, tenant: named, job, started } = claim;
        let answered = self.times.start();
        self.times.took(SinkTime::Push, started, answered, 1);
        let now = moment.at;
        let answer = &reply.answer;
        let tenant = self.tenant(&named);
        let mut tracks = lock(&self.lanes[lane].1);
        let mut breakers = lock(&self.breakers);
        let breaker = breakers.of(&tenant);
        let passes = breaker.passes();
        let verdict = judge(answer, &job.history(passes));
        self.count(&verdict, &job, body_bytes);
        if verdict == Verdict::Accepted {
            self.time(&job, started, answered, moment);
        }
        if let Some(stream) = job.stream().filter(|_| refuses_rate(answer)) {
            self.options.heat.refused(stream, moment.unix_ns);
        }
        let fails = match verdict {
            Verdict::Retry { scope, .. } => scope != Scope::Stream,
            Verdict::Hold => true,
            _ => false,
        };
        if fails {
            let reason = answer.to_string();
            if breaker.is_closed() {
                let held = verdict == Verdict::Hold;
                self.say_failing(&tenant, &reason, held);
            }
            breaker.failed(now, reason, |failures| pause(&verdict, failures, moment));
            if verdict == Verdict::Hold {
                breaker.refused();
            }
        } else if is_no_service(answer) {
            // The push is suspect, and whether the sink serves others is not known.
            breaker.undecided(now, verdict == Verdict::Split);
        } else if breaker.passed(verdict == Verdict::Accepted) {
            tracing::info!(sink = self.options.sink, %tenant, "the sink accepts pushes again");
        }
        self.counts.breakers_open.set(i64::try_from(breakers.open()).unwrap_or(i64::MAX));
        drop(breakers);
        let track = tracks.by_tenant.get_mut(&named).expect("it has a push under way");
        match verdict {
            Verdict::Accepted => track.accepted(job, now),
            Verdict::Retry { scope: Scope::Tenant, .. } | Verdict::Hold => {
                track.again(job, None, passes, now);
            }
            Verdict::Retry { scope: Scope::Stream | Scope::Unknown, .. } => {
                let wait = pause(&verdict, job.failures + 1, moment);
                track.set_aside(job, Some(now + wait), passes, now);
            }
            Verdict::Split => track.halve(job, true),
            Verdict::Isolate => track.halve(job, false),
            Verdict::Reject(reason) => self.reject(track, job, reason, answer),
            Verdict::RejectStream => self.reject(track, job, Reason::Refused, answer),
        }
        self.send_acks(lane, track);
        if track.is_over(now) {
            tracks.by_tenant.remove(&named);
        }
        drop(tracks);
        if verdict != Verdict::Accepted {
            // Whoever sleeps learns when this may go again: this sender may be busy then.
            self.bell.ring();
        }
    }

    fn reject(&self, track: &mut Track, job: Job, reason: Reason, answer: &Answer) {
        let (status, text) = match answer {
            Answer::Status { code, text, .. } => (Some(*code), text.as_str()),
            Answer::Broken(error) => (None, error.as_str()),
        };
        self.say_refused(job.entries(), answer);
        track.reject(job, &Because { reason, status, text: text.into() });
    }

    /// At once, and then for all that follow in some time together: there may be many.
    fn say_refused(&self, entries: u64, answer: &Answer) {
        self.refused.fetch_add(entries, Ordering::Relaxed);
        let now_ns = perf::clock::unix_ns();
        let before_ns = self.refused_said_ns.load(Ordering::Relaxed);
        if now_ns.saturating_sub(before_ns) < SAY_INTERVAL_NS {
            return;
        }
        self.refused_said_ns.store(now_ns, Ordering::Relaxed);
        tracing::warn!(
            error_key = ErrorKey::EntriesRefused.name(),
            sink = self.options.sink,
            reason = %answer,
            entries = self.refused.swap(0, Ordering::Relaxed),
            "the sink refuses entries: they go to the dead-letter queue"
        );
    }

    /// How long the lines of a push took that was stored.
    fn time(&self, job: &Job, started: Since, answered: Since, moment: Moment) {
        let between = |since: Since, until: Since| match (since, until) {
            (Some(since), Some(until)) => until.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        // What is sent again from the dead-letter queue came long ago.
        let timed = job.pieces.iter().filter(|piece| piece.frame.since.is_some());
        let of_piece = |piece: &Piece| {
            let frame = &piece.frame;
            let ns = moment.unix_ns.saturating_sub(frame.oldest_arrival_ns).max(0);
            let took = Duration::from_nanos(ns.unsigned_abs()) + frame.waited;
            let lines = frame.entries.into();
            [
                (SinkTime::SourceToAck, took, lines),
                (SinkTime::Handoff, between(frame.since, started), lines),
            ]
        };
        let send = (SinkTime::Send, between(started, answered), job.entries());
        self.times.record(timed.flat_map(of_piece).chain([send]));
    }

    fn count(&self, verdict: &Verdict, job: &Job, body_bytes: usize) {
        let counts = &self.counts;
        match verdict {
            Verdict::Accepted => {
                counts.accepted.inc();
                counts.push_body_bytes.inc_by(body_bytes as u64);
                counts.push_entries.inc_by(job.entries());
            }
            Verdict::Retry { .. } => counts.retried.inc(),
            Verdict::Hold => counts.held.inc(),
            Verdict::Split => counts.split.inc(),
            Verdict::Isolate => counts.isolated.inc(),
            Verdict::Reject(_) | Verdict::RejectStream => counts.rejected.inc(),
        }
    }

    fn say_failing(&self, tenant: &str, reason: &str, held: bool) {
        let sink = &self.options.sink;
        if held {
            tracing::warn!(
                error_key = ErrorKey::PushHeld.name(),
                sink,
                tenant,
                reason,
                "the sink refuses pushes; they are kept until it takes them"
            );
        } else {
            tracing::warn!(
                error_key = ErrorKey::PushFailed.name(),
                sink,
                tenant,
                reason,
                "a push failed, it is sent again"
            );
        }
    }

    fn send_acks(&self, lane: usize, track: &mut Track) {
        for ack in track.acks() {
            self.lanes[lane].0.ack(Ack { answered: self.times.start(), ..ack });
        }
    }

    /// Whoever is older is refused: by the sink's own clock, as far as it is known.
    fn oldest_ns(&self, now: Moment) -> i64 {
        let age_ns = i64::try_from(self.options.age_max.as_nanos()).unwrap_or(i64::MAX);
        let now_ns = now.unix_ns.saturating_add(self.ahead_ns.load(Ordering::Relaxed));
        now_ns.saturating_sub(age_ns)
    }

    fn see_clock(&self, date_unix_s: i64, now: Moment) {
        let ahead = date_unix_s.saturating_mul(1_000_000_000) - now.unix_ns;
        let ahead = if ahead.abs() < CLOCK_STEP_NS { 0 } else { ahead };
        self.ahead_ns.store(ahead, Ordering::Relaxed);
        self.counts.clock_ahead_seconds.set(ahead as f64 / 1e9);
    }

    /// State, reason and since when, of each tenant.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.breakers).seen()
    }

    #[must_use]
    pub fn sink(&self) -> &str {
        &self.options.sink
    }
}

impl Tracks {
    /// The tenants, those first whose turn it is.
    fn in_turn(&self) -> Vec<Arc<str>> {
        let all = || self.by_tenant.keys();
        let Some(last) = &self.last else { return all().cloned().collect() };
        let later = all().filter(|tenant| *tenant > last);
        later.chain(all().filter(|tenant| *tenant <= last)).cloned().collect()
    }
}

/// Loki said so, and not whatever else is in between: what is too old goes by its clock alone.
fn is_sinks_own(answer: &Answer) -> bool {
    matches!(answer, Answer::Status { code: 200 | 204 | 400 | 422, .. })
}

/// As in an outage, whatever else it may be.
fn is_no_service(answer: &Answer) -> bool {
    match answer {
        Answer::Status { code, .. } => matches!(code, 408 | 500..=599),
        Answer::Broken(_) => true,
    }
}

/// How long a failure is waited for.
fn pause(verdict: &Verdict, failures: u32, now: Moment) -> Duration {
    match verdict {
        Verdict::Retry { after, .. } => {
            backoff(failures, jitter(now)).max(after.unwrap_or_default())
        }
        _ => HOLD_INTERVAL.mul_f64(1.0 - jitter(now) / 2.0),
    }
}

/// Anything from 0 to 1 that differs between hosts and moments: no two are at the same nanosecond.
fn jitter(now: Moment) -> f64 {
    let mixed = now.unix_ns.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from((mixed >> 32) as u32) / f64::from(u32::MAX)
}
