//! From ring to Loki: the senders on the egress core.
//!
//! Each sender is a thread that blocks on one push at a time. The way of a frame here, in order:
//!
//! 1. [`Egress::claim`] a lane that has frames and is nobody's: until it is given back no other
//!    sender touches it, so the frames of a lane keep their order;
//! 2. [`LaneState::coalesce`] what waits into one push, up to `push_bytes_max`;
//! 3. [`Client::post`] it;
//! 4. [`judge`] the answer;
//! 5. ack the frames to their shard, or put the push back: the same bytes go out again when their
//!    time has come, and no sender waits for that.

use crate::handoff::{Ack, Frame, Lane};
use crate::push::{Client, Push};
use crate::verdict::{Answer, Verdict, backoff, judge};
use perf::metrics;
use shards::bell::Bell;
use shards::stop::{Phase, Stop};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    /// What a push holds at most before compression; one larger frame goes out alone.
    pub push_bytes_max: usize,
}

/// What all senders of a sink share.
pub struct Egress {
    lanes: Vec<(Arc<Lane>, Mutex<LaneState>)>,
    client: Client,
    options: Options,
    /// Rung for each frame handed over.
    bell: Arc<Bell>,
    stop: Stop,
    counts: metrics::Sink,
}

/// What is under way of one lane; held by the sender that claimed it.
#[derive(Default)]
pub struct LaneState {
    /// Taken from the ring and not in a push.
    waiting: VecDeque<Frame>,
    /// Made, and not accepted yet.
    push: Option<Push>,
    not_before: Option<Instant>,
    failures: u32,
    /// Set by a split: how many of `waiting` go out in pushes of at most so many frames.
    split: Option<Split>,
    /// When a failure was last said; not for each of many in a row, as when a limit is reached again
    /// and again.
    reported: Option<Instant>,
    /// It was said, and its end was not.
    failing: bool,
}

struct Split {
    frames_max: usize,
    left: usize,
}

/// A failing sink is reported again after this long.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// While the sink refuses service, it is asked this often.
const HOLD_INTERVAL: Duration = Duration::from_secs(5);

impl Egress {
    #[must_use]
    pub fn new(
        lanes: Vec<Arc<Lane>>,
        client: Client,
        options: Options,
        bell: Arc<Bell>,
        stop: Stop,
        counts: metrics::Sink,
    ) -> Egress {
        let lanes = lanes.into_iter().map(|lane| (lane, Mutex::default())).collect();
        Egress { lanes, client, options, bell, stop, counts }
    }

    /// One sender, until the process leaves.
    pub fn run(&self) {
        while let Some((lane, mut state)) = self.claim() {
            let Some(push) = state
                .push
                .take()
                .or_else(|| state.coalesce(lane, self.options.push_bytes_max).map(Push::new))
            else {
                continue;
            };
            let started = Instant::now();
            self.counts.in_flight.inc();
            let answer = self.client.post(&push);
            self.counts.in_flight.dec();
            self.counts.push_seconds.observe(started.elapsed().as_secs_f64());
            state.failures += 1;
            match judge(&answer, push.frames.len(), state.failures) {
                Verdict::Accepted => self.accepted(lane, &mut state, push),
                Verdict::Split => self.split(&mut state, push, &answer),
                Verdict::Reject => self.rejected(lane, &mut state, push, &answer),
                Verdict::Retry { after } => {
                    self.counts.retried.inc();
                    let wait = backoff(state.failures, jitter()).max(after.unwrap_or_default());
                    self.again(&mut state, push, wait, &answer, "a push failed, it is sent again");
                }
                Verdict::Hold => {
                    self.counts.held.inc();
                    let text = "the sink refuses pushes; they are kept until it takes them";
                    self.again(&mut state, push, HOLD_INTERVAL, &answer, text);
                }
            }
        }
    }

    /// A lane with something to send now. Waits for one; `None` when it is time to go.
    fn claim(&self) -> Option<(&Lane, MutexGuard<'_, LaneState>)> {
        loop {
            if self.stop.phase() == Phase::Leaving {
                return None;
            }
            let now = Instant::now();
            let mut next: Option<Instant> = None;
            for (at, (lane, state)) in self.lanes.iter().enumerate() {
                // Claimed by another sender, who looks again when it is done.
                let Ok(state) = state.try_lock() else { continue };
                let due = state.not_before.filter(|due| *due > now);
                if state.push.is_none() && state.waiting.is_empty() && lane.frames.is_empty() {
                    continue;
                }
                if let Some(due) = due {
                    next = Some(next.map_or(due, |next| next.min(due)));
                    continue;
                }
                if self.lanes[at + 1..].iter().any(|(lane, _)| !lane.frames.is_empty()) {
                    // Rings for several lanes are heard as one: pass it on.
                    self.bell.ring();
                }
                return Some((lane, state));
            }
            self.bell.wait_blocking(next);
        }
    }

    fn accepted(&self, lane: &Lane, state: &mut LaneState, push: Push) {
        self.counts.accepted.inc();
        self.counts.push_body_bytes.inc_by(push.body.len() as u64);
        self.counts.push_entries.inc_by(push.entries());
        let arrived_ns = push.frames.iter().map(|frame| frame.oldest_arrival_ns).min();
        let took_ns = arrived_ns.map_or(0, |arrived| perf::clock::unix_ns() - arrived);
        self.counts.ack_seconds.observe(took_ns as f64 / 1e9);
        if std::mem::take(&mut state.failing) {
            tracing::info!("the sink accepts pushes again");
        }
        let frames = &push.frames;
        let ack = Ack::Delivered {
            last: frames[frames.len() - 1].seq,
            frames: frames.len(),
            bytes: frames.iter().map(Frame::bytes).sum(),
        };
        state.push_is_done(push.frames.len());
        lane.ack(ack);
    }

    fn rejected(&self, lane: &Lane, state: &mut LaneState, push: Push, answer: &Answer) {
        self.counts.rejected.inc();
        let reason = describe(answer);
        tracing::error!(reason, entries = push.entries(), "the sink refuses a frame: it is parked");
        state.push_is_done(push.frames.len());
        for frame in push.frames {
            let ack = Ack::Rejected { frame, reason: reason.clone() };
            lane.ack(ack);
        }
    }

    fn split(&self, state: &mut LaneState, push: Push, answer: &Answer) {
        self.counts.split.inc();
        let frames = push.frames.len();
        tracing::warn!(reason = describe(answer), frames, "a push is sent again in two halves");
        state.split(push.frames);
    }

    fn again(
        &self,
        state: &mut LaneState,
        push: Push,
        wait: Duration,
        answer: &Answer,
        text: &'static str,
    ) {
        state.not_before = Some(Instant::now() + wait);
        state.push = Some(push);
        if state.reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
            state.reported = Some(Instant::now());
            state.failing = true;
            tracing::warn!(reason = describe(answer), failures = state.failures, "{text}");
        }
    }
}

impl LaneState {
    /// The frames of the next push: all that wait and fit, of one tenant, in their order.
    fn coalesce(&mut self, lane: &Lane, bytes_max: usize) -> Option<Vec<Frame>> {
        let frames_max = self.split.as_ref().map_or(usize::MAX, |split| split.frames_max);
        let mut frames: Vec<Frame> = Vec::new();
        let mut bytes = 0;
        while let Some(frame) = self.waiting.pop_front().or_else(|| lane.frames.pop()) {
            let fits = frames.first().is_none_or(|first| {
                frames.len() < frames_max
                    && bytes + frame.raw_len as usize <= bytes_max
                    && first.tenant == frame.tenant
            });
            if !fits {
                self.waiting.push_front(frame);
                break;
            }
            bytes += frame.raw_len as usize;
            frames.push(frame);
        }
        (!frames.is_empty()).then_some(frames)
    }

    /// Puts the frames of a push back, to go out in halves of it until all of them are through.
    fn split(&mut self, push: Vec<Frame>) {
        let frames = push.len();
        // Those of an earlier split that are still to go, and these, which may reach beyond them.
        let left = self.split.take().map_or(frames, |split| split.left.max(frames));
        self.split = Some(Split { frames_max: frames.div_ceil(2), left });
        self.failures = 0;
        self.not_before = None;
        for frame in push.into_iter().rev() {
            self.waiting.push_front(frame);
        }
    }

    fn push_is_done(&mut self, frames: usize) {
        self.failures = 0;
        self.not_before = None;
        if let Some(split) = &mut self.split {
            split.left = split.left.saturating_sub(frames);
            if split.left == 0 {
                self.split = None;
            }
        }
    }
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Status { code, text, .. } => {
            let end = text.floor_char_boundary(500);
            format!("{code}: {}", &text[..end])
        }
        Answer::Broken(error) => error.clone(),
    }
}

/// Anything from 0 to 1 that differs between hosts and moments.
fn jitter() -> f64 {
    f64::from((perf::clock::unix_ns() & 0x7fff_ffff) as u32 ^ std::process::id().rotate_left(16))
        / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::format::Seq;

    fn lane_with(frames: u64) -> Lane {
        let lane = Lane::new(Arc::default(), Arc::default());
        for seq in 1..=frames {
            let frame = Frame { seq: Seq(seq), raw_len: 10, ..Frame::for_tests() };
            assert!(lane.frames.push(frame).is_ok());
        }
        lane
    }

    fn seqs(frames: &[Frame]) -> Vec<u64> {
        frames.iter().map(|frame| frame.seq.0).collect()
    }

    /// Refuses the frames in `bad` wherever they are, and gives what passed and what was refused
    /// alone, in their order.
    fn pushed(frames: u64, bad: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let lane = lane_with(frames);
        let mut state = LaneState::default();
        let (mut passed, mut refused) = (Vec::new(), Vec::new());
        while let Some(push) = state.coalesce(&lane, 1000) {
            let seqs = seqs(&push);
            if !seqs.iter().any(|seq| bad.contains(seq)) {
                state.push_is_done(push.len());
                passed.extend(seqs);
            } else if push.len() == 1 {
                state.push_is_done(1);
                refused.extend(seqs);
            } else {
                state.split(push);
            }
        }
        assert!(state.split.is_none(), "later pushes are whole again");
        (passed, refused)
    }

    #[test]
    fn halving_finds_what_is_refused_alone_and_keeps_the_order() {
        for (frames, bad) in [
            (1, &[1][..]),
            (2, &[2]),
            (11, &[6, 7]),
            (11, &[1]),
            (11, &[11]),
            (100, &[3, 50, 51, 99]),
            (250, &[101, 102, 200]),
        ] {
            let (passed, refused) = pushed(frames, bad);
            assert_eq!(refused, bad);
            let expected: Vec<u64> = (1..=frames).filter(|seq| !bad.contains(seq)).collect();
            assert_eq!(passed, expected);
        }
    }

    #[test]
    fn a_push_holds_frames_of_one_tenant_and_no_more_than_its_bytes() {
        let lane = lane_with(3);
        let other = Frame { seq: Seq(4), tenant: "b".into(), ..Frame::for_tests() };
        let large = Frame { seq: Seq(5), tenant: "b".into(), raw_len: 99, ..Frame::for_tests() };
        assert!(lane.frames.push(other).is_ok() && lane.frames.push(large).is_ok());
        let mut state = LaneState::default();
        let mut next = || state.coalesce(&lane, 25).map(|frames| seqs(&frames));
        assert_eq!(next(), Some(vec![1, 2]));
        assert_eq!(next(), Some(vec![3]));
        assert_eq!(next(), Some(vec![4]));
        assert_eq!(next(), Some(vec![5]), "one larger frame goes out alone");
        assert_eq!(next(), None);
    }
}
