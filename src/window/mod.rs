//! A window of an instance: what it did between the first look at it and the last.
//!
//! A [`look`] is read from `/metrics` ([`exposition`]) of a [`target`], or from what a [`prometheus`] has kept; the
//! [`Window`] takes one after the other, and [`figures`] are what came of it. Latency is the difference of the histograms
//! between looks: what was before the window is not in it. It stays as small for hours as for minutes.

pub mod batches;
pub mod chance;
pub mod exposition;
pub mod figures;
pub mod look;
pub mod names;
pub mod prometheus;
pub mod slope;
pub mod target;

use crate::health::Level;
use batches::Batches;
use look::{Counts, Look};
use slope::Slope;
use std::collections::VecDeque;
use target::{Health, Seen};

/// Where there are more, every second one is forgotten.
const POINTS_MAX: usize = 2_000;

/// What is plotted of one look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub at: f64,
    /// How often it was restarted before.
    pub restarts: usize,
    pub lines_per_second: f64,
    pub cpu_cores: f64,
    pub memory_bytes: f64,
    pub dead_letters: f64,
    /// None where nothing was acked since the look before.
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
    pub error_ratio: Option<f64>,
}

#[derive(Debug, Clone)]
pub struct Window {
    pub instance: String,
    /// By which it is called, here and elsewhere.
    pub addresses: Vec<String>,
    /// What the last so many seconds are, for [`Window::recent`].
    recent_seconds: f64,
    first: Option<Look>,
    last: Option<Look>,
    /// What came between them.
    pub total: Counts,
    recent: VecDeque<(f64, Counts)>,
    pub batches: Batches,
    pub points: Vec<Point>,
    step: f64,
    pub looks: usize,
    pub missed: usize,
    pub missed_in_row: usize,
    /// Why it did not answer last.
    pub error: Option<String>,
    pub restarts: usize,
    pub breaker_openings: usize,
    pub memory_bytes_max: f64,
    /// The worst that was seen, and the last.
    pub worst: Option<Health>,
    pub health: Option<Health>,
    pub critical_in_row: usize,
}

impl Window {
    #[must_use]
    pub fn new(instance: String, recent_seconds: f64) -> Window {
        Window {
            addresses: vec![instance.clone()],
            instance,
            recent_seconds,
            first: None,
            last: None,
            total: Counts::default(),
            recent: VecDeque::new(),
            batches: Batches::default(),
            points: Vec::new(),
            step: 0.0,
            looks: 0,
            missed: 0,
            missed_in_row: 0,
            error: None,
            restarts: 0,
            breaker_openings: 0,
            memory_bytes_max: 0.0,
            worst: None,
            health: None,
            critical_in_row: 0,
        }
    }

    pub fn take(&mut self, seen: Result<Seen, String>) {
        match seen {
            Ok(Seen { look, health }) => {
                self.missed_in_row = 0;
                if let Some(health) = health {
                    self.take_health(health);
                }
                self.take_look(look);
            }
            Err(error) => {
                self.missed += 1;
                self.missed_in_row += 1;
                self.error = Some(error);
            }
        }
    }

    fn take_health(&mut self, health: Health) {
        self.critical_in_row = match health.status {
            Level::Critical => self.critical_in_row + 1,
            _ => 0,
        };
        if self.worst.as_ref().is_none_or(|worst| health.status > worst.status) {
            self.worst = Some(health.clone());
        }
        self.health = Some(health);
    }

    pub fn take_look(&mut self, look: Look) {
        self.looks += 1;
        self.memory_bytes_max = self.memory_bytes_max.max(look.memory_bytes);
        let Some(last) = self.last.replace(look) else {
            self.first.clone_from(&self.last);
            let look = self.last.as_ref().expect("just taken");
            self.breaker_openings += usize::from(look.all_breakers_open() > 0.0);
            return;
        };
        let look = self.last.as_ref().expect("just taken");
        let restarted = look.is_of_another_process(&last);
        self.restarts += usize::from(restarted);
        let opened = look.breakers_open.iter().filter(|(sink, open)| {
            let before =
                if restarted { 0.0 } else { last.breakers_open.get(*sink).copied().unwrap_or(0.0) };
            **open > before
        });
        self.breaker_openings += opened.count();
        // Of one that was started anew, all is new.
        let more = if restarted { look.counts.clone() } else { look.counts.since(&last.counts) };
        self.total.add(&more);
        let near = self.points.last().is_some_and(|last| look.at - last.at < self.step);
        let seconds = look.at - last.at;
        self.batches.take(seconds, &more);
        if seconds > 0.0 && !near {
            self.points.push(Point::of(look, &more, seconds, self.restarts));
        }
        self.recent.push_back((look.at, more));
        let oldest = look.at - self.recent_seconds;
        while self.recent.front().is_some_and(|(at, _)| *at <= oldest) {
            self.recent.pop_front();
        }
        self.thin();
    }

    fn thin(&mut self) {
        if self.points.len() < POINTS_MAX {
            return;
        }
        let mut keep = false;
        self.points.retain(|_| {
            keep = !keep;
            keep
        });
        self.step = self.seconds() / self.points.len() as f64;
    }

    /// From the first look to the last.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        let at = |look: &Option<Look>| look.as_ref().map_or(0.0, |look| look.at);
        at(&self.last) - at(&self.first)
    }

    #[must_use]
    pub fn last(&self) -> Option<&Look> {
        self.last.as_ref()
    }

    /// Of the time so far; None where there was no time.
    #[must_use]
    pub fn rate(&self, of: impl Fn(&Counts) -> f64) -> Option<f64> {
        let seconds = self.seconds();
        (seconds > 0.0).then(|| of(&self.total) / seconds)
    }

    /// What came last.
    #[must_use]
    pub fn recent(&self) -> Counts {
        let mut sum = Counts::default();
        for (_, counts) in &self.recent {
            sum.add(counts);
        }
        sum
    }

    /// How many more entries are in the dead-letter queues, and those that were dropped there.
    #[must_use]
    pub fn dead_letters_more(&self) -> f64 {
        let entries = |look: &Option<Look>| look.as_ref().map_or(0.0, |look| look.dead_letters);
        entries(&self.last) - entries(&self.first) + self.total.dropped
    }

    /// Of the process that runs now.
    #[must_use]
    pub fn memory_slope(&self) -> Option<Slope> {
        let points = self.points.iter().filter(|point| point.restarts == self.restarts);
        let points: Vec<_> = points.map(|point| (point.at, point.memory_bytes)).collect();
        slope::slope(&points)
    }
}

impl Point {
    fn of(look: &Look, more: &Counts, seconds: f64, restarts: usize) -> Point {
        let slowest = more.slowest().map(|(_, buckets)| buckets);
        Point {
            at: look.at,
            restarts,
            lines_per_second: more.lines / seconds,
            cpu_cores: more.cpu_seconds / seconds,
            memory_bytes: look.memory_bytes,
            dead_letters: look.dead_letters,
            p50_seconds: slowest.and_then(|buckets| buckets.quantile(0.5)),
            p99_seconds: slowest.and_then(|buckets| buckets.quantile(0.99)),
            error_ratio: more.error_ratio(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
