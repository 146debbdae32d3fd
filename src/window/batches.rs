//! How much a figure moves by itself: the window in parts, each of which has the figure, and the standard error of their
//! mean. Lines that travel together take as long as each other, so that their number says little of how sure a figure is.

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

    /// The standard error of what `of` makes of a part and its seconds; None where too few have it.
    #[must_use]
    pub fn error(&self, of: impl Fn(&Counts, f64) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> =
            self.parts.iter().filter_map(|(seconds, counts)| of(counts, *seconds)).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (values.len() >= PARTS_MIN).then(|| (squares / (n - 1.0) / n).sqrt())
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

    #[test]
    fn what_moves_by_itself_has_an_error() {
        assert_eq!(batches(3, |_| 7.0).error(rate), None);
        assert_eq!(batches(50, |_| 7.0).error(rate), Some(0.0));
        // 0 and 2 in turn: their standard deviation is 1, a little more of so few.
        let moved = batches(16, |at| f64::from(at % 2 * 2)).error(rate).unwrap();
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
