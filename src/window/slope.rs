//! How fast something grows, and how sure that is: least squares.
//!
//! Memory at one look is much as at the look before. So looks do not count as independent: of n with residuals that
//! correlate by r from one to the next, n (1 - r) / (1 + r) count. A step in an allocator looks like growth, and its
//! residuals tell that it is none.

use super::chance;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// Of whatever it is an hour.
    pub per_hour: f64,
    /// None where too few looks count.
    pub standard_error: Option<f64>,
    /// Half of the interval in which it is with 95 %.
    pub half_width: Option<f64>,
    /// Over so long.
    pub seconds: f64,
    /// Degrees of freedom of the standard error. What a version before did not know.
    #[serde(default)]
    pub freedom: Option<f64>,
}

impl Slope {
    /// Where it is with 95 %.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, f64)> {
        let half = self.half_width?;
        Some((self.per_hour - half, self.per_hour + half))
    }

    /// Outside of which it is with no more than `chance`.
    #[must_use]
    pub fn interval_at(&self, chance: f64) -> Option<(f64, f64)> {
        let half = self.standard_error? * chance::student(self.freedom?, chance);
        Some((self.per_hour - half, self.per_hour + half))
    }
}

/// What its interval leaves out.
const CHANCE: f64 = 0.05;
/// Fewer that count say nothing.
const COUNTING_MIN: f64 = 5.0;

/// Of seconds and values; None where there is no line through them.
#[must_use]
pub fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if points.len() < 3 || spread <= 0.0 {
        return None;
    }
    let per_second = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread;
    let rest: Vec<f64> =
        points.iter().map(|point| point.1 - y - per_second * (point.0 - x)).collect();
    let squares: f64 = rest.iter().map(|rest| rest * rest).sum();
    let counting = chance::counting(&rest);
    let hour = 3600.0;
    let standard_error =
        (counting >= COUNTING_MIN).then(|| (squares / (counting - 2.0) / spread).sqrt() * hour);
    Some(Slope {
        per_hour: per_second * hour,
        standard_error,
        half_width: standard_error.map(|error| error * chance::student(counting - 2.0, CHANCE)),
        freedom: standard_error.map(|_| counting - 2.0),
        seconds: points.last()?.0 - points.first()?.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a fixed sequence that looks random, in -1..1.
    fn noise(at: usize) -> f64 {
        let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn line(count: usize, value: impl Fn(f64, usize) -> f64) -> Slope {
        let points: Vec<_> = (0..count).map(|at| (at as f64, value(at as f64, at))).collect();
        slope(&points).unwrap()
    }

    #[test]
    fn a_line_is_found_with_its_interval() {
        let exact = line(10, |x, _| 100.0 + 2.0 * x);
        assert!((exact.per_hour - 7200.0).abs() < 1e-6, "{exact:?}");
        assert!(exact.half_width.unwrap() < 1e-3, "{exact:?}");
        let (low, high) = line(400, |x, at| x * 0.01 + noise(at)).interval().unwrap();
        assert!(low < 36.0 && 36.0 < high && high - low < 20.0, "{low} {high}");
        let (low, high) = line(400, |_, at| noise(at)).interval().unwrap();
        assert!(low < 0.0 && 0.0 < high, "{low} {high}");
        assert_eq!(line(9, |_, _| 3.0).interval(), Some((0.0, 0.0)));
    }

    #[test]
    fn a_step_is_no_certain_growth() {
        let step = line(60, |x, _| if x < 30.0 { 0.0 } else { 4.0 });
        let (low, _) = step.interval().unwrap_or((-1.0, 0.0));
        assert!(low < 0.0, "{step:?}");
    }

    #[test]
    fn no_line_no_slope() {
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[(1.0, 1.0), (2.0, 1.0)]), None);
        assert_eq!(slope(&[(1.0, 1.0); 5]), None);
        assert_eq!(line(4, |x, _| x * x).half_width, None);
    }
}
