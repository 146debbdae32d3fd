//! How much a figure moves by itself: the window in parts, each of which has the figure, and the standard error of their
//! mean. Lines that travel together take as long as each other, so that their number says little of how sure a figure is.

use super::chance;
use super::look::Counts;

/// Parts are joined in pairs where there are so many.
const PARTS_MAX: usize = 20;
/// Fewer say nothing.
const PARTS_MIN: usize = 4;

#[derive(Debug, Clone, Default)]
pub struct Batches {
    /// How long each is, and what came in it.
    parts: Vec<(f64, Counts)>,
    /// How long they are to be.
    seconds: f64,
}

impl Batches {
    pub fn take(&mut self, seconds: f64, more: &Counts) {
        match self.parts.last_mut() {
            Some((took, counts)) if *took + seconds / 2.0 < self.seconds => {
                *took += seconds;
                counts.add(more);
            }
            _ => self.parts.push((seconds, more.clone())),
        }
        if self.parts.len() < PARTS_MAX {
            return;
        }
        let join = |pair: &[(f64, Counts)]| {
            let mut counts = pair[0].1.clone();
            pair[1..].iter().for_each(|(_, more)| counts.add(more));
            (pair.iter().map(|(took, _)| took).sum(), counts)
        };
        self.parts = self.parts.chunks(2).map(join).collect();
        let seconds: f64 = self.parts.iter().map(|(took, _)| took).sum();
        self.seconds = seconds / self.parts.len() as f64;
    }

    /// What `of` makes of the parts and their seconds; None where too few have it.
    #[must_use]
    pub fn estimate(&self, of: impl Fn(&Counts, f64) -> Option<f64>) -> Option<Estimate> {
        let known = |(seconds, counts): &(f64, Counts)| Some((*seconds, of(counts, *seconds)?));
        let values: Vec<(f64, f64)> =
            self.parts.iter().filter(|(seconds, _)| *seconds > 0.0).filter_map(known).collect();
        Estimate::of(&values)
    }
}

/// Of a mean, what adding up leaves.
const ROUNDING: f64 = 1e-12;
/// Parts that count are never taken for fewer: with one degree of freedom the mean is known to some sixty times what its
/// parts differ by, and that holds for whatever they are alike in. A quiet figure is known even so.
const COUNTING_MIN: f64 = 2.0;

/// A mean, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    /// Its standard error, of so many degrees of freedom.
    pub error: f64,
    pub freedom: f64,
}

impl Estimate {
    /// Of weights and values. Those that follow each other may be alike: then fewer count.
    fn of(values: &[(f64, f64)]) -> Option<Estimate> {
        let n = values.len() as f64;
        let weight: f64 = values.iter().map(|(weight, _)| weight).sum();
        let mean = values.iter().map(|(weight, value)| weight * value).sum::<f64>() / weight;
        // What is left by rounding is nothing, and is alike.
        let rest = |value: f64| {
            if (value - mean).abs() > ROUNDING * mean.abs() { value - mean } else { 0.0 }
        };
        let rest: Vec<f64> = values.iter().map(|(weight, value)| weight * rest(*value)).collect();
        let squares: f64 = rest.iter().map(|rest| rest * rest).sum();
        let counting = chance::counting(&rest).max(COUNTING_MIN);
        let enough = values.len() >= PARTS_MIN && mean.is_finite();
        enough.then(|| Estimate {
            mean,
            error: (n * squares / (counting - 1.0)).sqrt() / weight,
            freedom: counting - 1.0,
        })
    }

    /// Of what is so many times as much.
    #[must_use]
    pub fn times(self, factor: f64) -> Estimate {
        Estimate { mean: self.mean * factor, error: self.error * factor.abs(), ..self }
    }

    /// Of the difference of two that have nothing to do with each other (Welch and Satterthwaite).
    #[must_use]
    pub fn less(self, other: Estimate) -> Estimate {
        let error = self.error.hypot(other.error);
        let part = |of: Estimate| of.error.powi(4) / of.freedom;
        let freedom = if error > 0.0 {
            error.powi(4) / (part(self) + part(other))
        } else {
            self.freedom + other.freedom
        };
        Estimate { mean: self.mean - other.mean, error, freedom }
    }

    /// It is further off than this with no more than `chance`, on both sides together.
    #[must_use]
    pub fn half_width(self, chance: f64) -> f64 {
        if self.error > 0.0 { self.error * chance::student(self.freedom, chance) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(count: u32, lines: impl Fn(u32) -> f64) -> Batches {
        let mut batches = Batches::default();
        for at in 0..count {
            batches.take(1.0, &Counts { lines: lines(at), ..Counts::default() });
        }
        batches
    }

    fn rate(counts: &Counts, seconds: f64) -> Option<f64> {
        Some(counts.lines / seconds)
    }

    fn error(batches: &Batches) -> Option<f64> {
        batches.estimate(rate).map(|estimate| estimate.error)
    }

    #[test]
    fn what_moves_by_itself_has_an_error() {
        assert_eq!(error(&batches(3, |_| 7.0)), None);
        assert_eq!(error(&batches(50, |_| 7.0)), Some(0.0));
        // 0 and 2 in turn: their standard deviation is 1, a little more of so few.
        let moved = error(&batches(16, |at| f64::from(at % 2 * 2))).unwrap();
        assert!((moved - 1.0 / 15f64.sqrt()).abs() < 1e-9, "{moved}");
    }

    #[test]
    fn hours_are_no_more_parts_and_nothing_is_lost() {
        let batches = batches(7_200, f64::from);
        assert!(
            (PARTS_MAX / 2..PARTS_MAX).contains(&batches.parts.len()),
            "{}",
            batches.parts.len()
        );
        let seconds: f64 = batches.parts.iter().map(|(seconds, _)| seconds).sum();
        let lines: f64 = batches.parts.iter().map(|(_, counts)| counts.lines).sum();
        assert_eq!((seconds, lines), (7_200.0, 7_200.0 * 7_199.0 / 2.0));
    }
}
