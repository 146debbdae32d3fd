//! The objective (so many of the lines acked in so long), held against what was: error budget and burn
//! rates.
//!
//! A burn rate of 1 uses up the error budget (the lines that may be late) in just the time of the
//! objective; of 10, in a tenth of it. Lines that wait and are overdue count as late before they are acked:
//! else an outage would look well.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// How long a line may take.
    pub latency: Duration,
    /// How many of the lines may not take longer; below 1.
    pub ratio: f64,
    pub lines_per_second: f64,
}

pub const WINDOWS: [(&str, Duration); 4] = [
    ("5m", Duration::from_secs(5 * 60)),
    ("1h", Duration::from_secs(3600)),
    ("6h", Duration::from_secs(6 * 3600)),
    ("3d", Duration::from_secs(3 * 24 * 3600)),
];
/// What is remembered for three days is remembered by the minute.
const SLOT: Duration = Duration::from_secs(60);
const SLOTS_MAX: usize = 3 * 24 * 60 + 1;

/// Lines that were acked, and those of them that were late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lines {
    pub acked: u64,
    pub late: u64,
}

/// What was, minute by minute.
#[derive(Debug)]
pub struct History {
    objective: Objective,
    start: Instant,
    /// As it was at the end of each minute, since the start.
    slots: VecDeque<Lines>,
    now: Lines,
    /// Lines that wait for longer than they may.
    overdue: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub name: &'static str,
    pub lines: u64,
    pub late: u64,
    /// 0 where there were no lines.
    pub burn_rate: f64,
}

impl History {
    #[must_use]
    pub fn new(objective: Objective, start: Instant) -> History {
        let (slots, now) = (VecDeque::new(), Lines::default());
        History { objective, start, slots, now, overdue: 0 }
    }

    /// How it stands at `at`: lines since the start, and those that are overdue.
    pub fn tick(&mut self, at: Instant, lines: Lines, overdue: u64) {
        let minutes = at.saturating_duration_since(self.start).as_secs() / SLOT.as_secs();
        let known = self.slots_seen();
        for _ in known..minutes {
            self.slots.push_back(self.now);
            if self.slots.len() > SLOTS_MAX {
                self.slots.pop_front();
                self.start += SLOT;
            }
        }
        (self.now, self.overdue) = (lines, overdue);
    }

    fn slots_seen(&self) -> u64 {
        self.slots.len() as u64
    }

    #[must_use]
    pub fn windows(&self) -> [Window; 4] {
        WINDOWS.map(|(name, time)| {
            let minutes = usize::try_from(time.as_secs() / SLOT.as_secs()).expect("three days");
            let before = self.slots.len().checked_sub(minutes + 1).map(|at| self.slots[at]);
            let before = before.unwrap_or_default();
            let lines = self.now.acked - before.acked + self.overdue;
            let late = self.now.late - before.late + self.overdue;
            let ratio = if lines == 0 { 0.0 } else { late as f64 / lines as f64 };
            Window { name, lines, late, burn_rate: ratio / (1.0 - self.objective.ratio) }
        })
    }

    /// What is left of the error budget over the longest window; negative where it is overdrawn.
    #[must_use]
    pub fn budget_left(&self) -> f64 {
        1.0 - self.windows()[WINDOWS.len() - 1].burn_rate
    }

    #[must_use]
    pub fn objective(&self) -> &Objective {
        &self.objective
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVE: Objective =
        Objective { latency: Duration::from_millis(500), ratio: 0.99, lines_per_second: 10_000.0 };

    fn rates(history: &History) -> [f64; 4] {
        history.windows().map(|window| (window.burn_rate * 1000.0).round() / 1000.0)
    }

    #[test]
    fn a_burst_of_late_lines_leaves_one_window_after_the_other() {
        let start = Instant::now();
        let mut history = History::new(OBJECTIVE, start);
        assert_eq!(rates(&history), [0.0; 4]);
        let mut lines = Lines::default();
        for second in 0..4 * 24 * 3600 {
            // Ten minutes, an hour after the start, in which a tenth is late.
            lines.acked += 100;
            lines.late += if (3600..4200).contains(&second) { 10 } else { 0 };
            history.tick(start + Duration::from_secs(second), lines, 0);
            match second {
                3599 => assert_eq!(rates(&history), [0.0; 4]),
                // Of the hour, ten minutes with a burn rate of 10.
                4199 => {
                    let [five, hour, ..] = rates(&history);
                    assert!((9.9..=10.1).contains(&five), "{five}");
                    assert!((1.6..1.7).contains(&hour), "{hour}");
                    assert!(history.budget_left() < 0.0);
                }
                4560 => assert_eq!(rates(&history)[0], 0.0),
                7800 => assert_eq!(rates(&history)[1], 0.0),
                26_000 => {
                    let [five, hour, six, three] = rates(&history);
                    assert_eq!((five, hour, six), (0.0, 0.0, 0.0));
                    assert!(three > 0.2, "{three}");
                }
                _ => {}
            }
        }
        assert_eq!(rates(&history), [0.0; 4]);
        assert_eq!(history.budget_left(), 1.0);
        assert!(history.slots.len() <= SLOTS_MAX);
    }

    #[test]
    fn what_is_overdue_is_late_before_it_is_acked_and_not_twice() {
        let start = Instant::now();
        let mut history = History::new(OBJECTIVE, start);
        history.tick(start, Lines { acked: 100, late: 0 }, 100);
        assert_eq!(rates(&history), [50.0; 4]);
        history.tick(start + SLOT, Lines { acked: 200, late: 100 }, 0);
        assert_eq!(rates(&history), [50.0; 4]);
    }

    #[test]
    fn a_pause_of_the_process_is_no_time_without_minutes() {
        let start = Instant::now();
        let mut history = History::new(OBJECTIVE, start);
        history.tick(start, Lines { acked: 10, late: 10 }, 0);
        history.tick(start + Duration::from_secs(7200), Lines { acked: 20, late: 10 }, 0);
        assert_eq!(rates(&history)[..2], [0.0, 0.0]);
        assert_eq!(rates(&history)[2], 50.0);
    }
}
