//! Planted looks, for these tests and for those of what stands on windows.

use super::look::{Buckets, Look, TO_ACK, Way};
use super::*;

/// An instance that takes in so many lines a second, all acked within a bucket, looked at every second.
pub struct Plan {
    pub lines_per_second: f64,
    /// Upper edge of the bucket.
    pub seconds: f64,
    pub seconds_total: usize,
}

impl Plan {
    #[must_use]
    pub fn well() -> Plan {
        Plan { lines_per_second: 1_000.0, seconds: 0.05, seconds_total: 60 }
    }

    #[must_use]
    pub fn look(&self, at: usize) -> Look {
        let lines = self.lines_per_second * at as f64;
        let mut look = Look { at: at as f64, started: 5.0, memory_bytes: 30e6, ..Look::default() };
        look.counts.lines = lines;
        look.counts.bytes = lines * 100.0;
        look.counts.cpu_seconds = at as f64 * 0.02;
        let text: String = [0.01, 0.025, 0.05, 0.25, 0.5, 1.0, 2.5, f64::INFINITY]
            .iter()
            .map(|edge| {
                let count = if *edge >= self.seconds { lines } else { 0.0 };
                let edge = if edge.is_finite() { edge.to_string() } else { "+Inf".into() };
                format!("log_capturer_source_to_ack_seconds_bucket{{sink=\"loki\",le=\"{edge}\"}} {count}\n")
            })
            .collect();
        let text = text + "process_start_time_seconds 5\nlog_capturer_logs_processed_total 0\n";
        let read = Look::of(0.0, &exposition::parse(&text).unwrap()).unwrap();
        look.counts.times = read.counts.times;
        look
    }

    /// `change` is told the second.
    #[must_use]
    pub fn window(&self, name: &str, change: impl Fn(usize, &mut Look)) -> Window {
        let mut window = Window::new(name.into(), 60.0);
        for at in 0..=self.seconds_total {
            let mut look = self.look(at);
            change(at, &mut look);
            window.take(Ok(Seen { look, health: Some(well()) }));
        }
        window
    }
}

#[test]
fn only_what_came_within_it_counts() {
    let plan = Plan::well();
    let before = |_: usize, look: &mut Look| {
        look.counts.lines += 1e9;
        look.counts.errors.insert("refused".into(), 5.0);
        look.dead_letters = 70.0;
    };
    let window = plan.window("a", before);
    assert_eq!((window.looks, window.seconds(), window.total.lines), (61, 60.0, 60_000.0));
    assert_eq!(window.rate(|of| of.lines), Some(1_000.0));
    assert_eq!(window.total.error_ratio(), Some(0.0));
    assert_eq!((window.dead_letters_more(), window.restarts, window.breaker_openings), (0.0, 0, 0));
    let to_ack = &window.total.times[&Way { of: TO_ACK.into(), sink: Some("loki".into()) }];
    assert_eq!((to_ack.count(), to_ack.bounds(0.99)), (60_000.0, Some((0.025, 0.05))));
    let slope = window.memory_slope().unwrap();
    assert_eq!((slope.per_hour, slope.half_width), (0.0, Some(0.0)));
}

#[test]
fn a_restart_begins_anew_and_nothing_is_counted_twice() {
    let plan = Plan::well();
    let window = plan.window("a", |at, look| {
        if at > 30 {
            // It had taken in 30,000 lines, and takes in as many again.
            let anew = plan.look(at - 30);
            look.counts = anew.counts;
            look.started = 9.0;
            look.memory_bytes = 10e6;
        }
    });
    assert_eq!((window.restarts, window.total.lines), (1, 60_000.0));
    assert_eq!(window.memory_slope().unwrap().per_hour, 0.0);
    assert_eq!(window.memory_bytes_max, 30e6);
}

#[test]
fn breakers_that_open_are_counted_once() {
    let opens = |at: usize, look: &mut Look| {
        let open = f64::from(u8::from((10..20).contains(&at) || at == 40));
        look.breakers_open.insert("loki".into(), open);
    };
    assert_eq!(Plan::well().window("a", opens).breaker_openings, 2);
    let from_the_start = |_: usize, look: &mut Look| {
        look.breakers_open.insert("loki".into(), 1.0);
    };
    assert_eq!(Plan::well().window("a", from_the_start).breaker_openings, 1);
}

#[test]
fn hours_take_no_more_room_than_minutes() {
    let plan = Plan { seconds_total: 9_000, ..Plan::well() };
    let window = plan.window("a", |at, look| look.memory_bytes += at as f64 * 1e3);
    assert!(window.points.len() < POINTS_MAX, "{}", window.points.len());
    assert_eq!(window.recent().lines, 60_000.0);
    let slope = window.memory_slope().unwrap();
    assert!((slope.per_hour - 3.6e6).abs() < 1.0, "{slope:?}");
}

#[test]
fn looks_that_are_missed_in_a_row_are_counted() {
    let mut window = Window::new("a".into(), 60.0);
    window.take(Err("gone".into()));
    window.take(Err("gone".into()));
    assert_eq!((window.missed, window.missed_in_row), (2, 2));
    let health =
        Health { status: Level::Critical, unwell: "queue".into(), breakers_all_open: false };
    window.take(Ok(Seen { look: Plan::well().look(1), health: Some(health) }));
    assert_eq!((window.missed, window.missed_in_row, window.critical_in_row), (2, 0, 1));
    assert_eq!(window.rate(|of| of.lines), None);
}

/// A fixed sequence that looks random.
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// From 0 to 1, and neither.
    pub fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1u64 << 53) as f64 + 0.5 / (1u64 << 53) as f64
    }

    /// Around 0, with a standard deviation of 1.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.share().ln()).sqrt() * (std::f64::consts::TAU * self.share()).cos()
    }
}

/// An instance that moves by itself, looked at every five seconds.
#[derive(Debug, Clone, Copy)]
pub struct Nature {
    pub looks: usize,
    pub lines_per_second: f64,
    /// Standard deviation of the rate from look to look, of the rate.
    pub noise: f64,
    /// How much of that stays to the look behind it.
    pub alike: f64,
    /// In seconds. Half of the lines are quicker, and one of a hundred takes 4.6 times as long.
    pub latency: f64,
    /// Standard deviation of its logarithm from look to look.
    pub latency_noise: f64,
    /// Of the lines.
    pub errors: f64,
}

impl Nature {
    /// `with_latency`: that takes longer to compute.
    #[must_use]
    pub fn window(&self, name: &str, random: &mut Random, with_latency: bool) -> Window {
        self.watch(name, random, with_latency, |_| ())
    }

    /// `seen` is shown the window at each look.
    pub fn watch(
        &self,
        name: &str,
        random: &mut Random,
        with_latency: bool,
        mut seen: impl FnMut(&Window),
    ) -> Window {
        let mut window = Window::new(name.into(), 60.0);
        let mut look = Look { started: 5.0, memory_bytes: 30e6, ..Look::default() };
        let fresh = (1.0 - self.alike * self.alike).sqrt();
        let (mut rate, mut slow) = (random.normal(), random.normal());
        for at in 0..self.looks {
            look.at = at as f64 * EVERY;
            window.take(Ok(Seen { look: look.clone(), health: Some(well()) }));
            seen(&window);
            rate = self.alike * rate + fresh * random.normal();
            slow = self.alike * slow + fresh * random.normal();
            let lines = self.lines(rate);
            look.counts.lines += lines;
            look.counts.bytes += lines * 100.0;
            look.counts.cpu_seconds += lines * 2e-5;
            *look.counts.errors.entry("refused".into()).or_default() += self.errors(lines, random);
            if with_latency {
                let counts = self.latencies(lines, slow);
                let way = Way { of: TO_ACK.into(), sink: Some("loki".into()) };
                let before = look.counts.times.entry(way).or_default();
                *before = before.plus(&counts);
            }
        }
        window
    }

    /// Bursts stay above zero, and have this mean: a logarithmic normal distribution.
    fn lines(&self, moved: f64) -> f64 {
        let spread = (1.0 + self.noise * self.noise).ln();
        let factor = (spread.sqrt() * moved - spread / 2.0).exp();
        (self.lines_per_second * EVERY * factor).round()
    }

    fn errors(&self, lines: f64, random: &mut Random) -> f64 {
        let mut errors = 0.0;
        let mut line = 0.0;
        while self.errors > 0.0 && line < lines {
            errors += f64::from(u8::from(random.share() < self.errors));
            line += 1.0;
        }
        errors
    }

    fn latencies(&self, lines: f64, moved: f64) -> Buckets {
        let middle = self.latency * (self.latency_noise * moved).exp();
        let count = |edge: f64| (lines / (1.0 + (middle / edge).powi(3))).round();
        Buckets::of(&LATENCY_EDGES.map(|edge| (edge, count(edge))))
    }
}

const EVERY: f64 = 5.0;

#[must_use]
pub fn well() -> Health {
    Health { status: Level::Healthy, unwell: String::new(), breakers_all_open: false }
}

/// Those of the product, of which the quickest are left out.
const LATENCY_EDGES: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, f64::INFINITY];
