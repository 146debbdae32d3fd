//! What chance does: Student's t and the exact bounds of a share, both out of the incomplete beta function.

/// Of ln Γ: Stirling's series is exact to 1e-13 from here on.
const STIRLING_FROM: f64 = 10.0;
/// Steps of a continued fraction, and of a search by halves: both end long before.
const STEPS_MAX: u32 = 100_000;
const HALVES: u32 = 100;
/// Nobody needs more than so many digits of a bound.
const NEAR: f64 = 1e-9;
/// More are no surer: a wider interval is none too narrow, and the fraction takes as many steps as their root.
const ALL_MAX: f64 = 1e9;

/// How many standard errors from the middle no more than `chance` is beyond, on both sides together.
#[must_use]
pub fn student(freedom: f64, chance: f64) -> f64 {
    // Beyond t, on both sides: I(f / (f + t^2); f / 2, 1 / 2).
    let beyond = |t: f64| beta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    let mut high = 1.0;
    while beyond(high) > chance && high < 1e150 {
        high *= 2.0;
    }
    search(0.0, high, |t| beyond(t) > chance)
}

/// Where a share is of which `of` were seen in `all`: Clopper and Pearson's bounds, beyond each of which it is with no
/// more than `chance`, however few there are.
#[must_use]
pub fn share(of: f64, all: f64, chance: f64) -> (f64, f64) {
    if all <= 0.0 {
        return (0.0, 1.0);
    }
    let of = of.clamp(0.0, all) * (ALL_MAX / all).min(1.0);
    let all = all.min(ALL_MAX);
    // At a share p, at least k of n are seen with I(p; k, n - k + 1).
    let at_least = |k: f64, p: f64| beta(k, all - k + 1.0, p);
    let low = if of > 0.0 { search(0.0, 1.0, |p| at_least(of, p) < chance) } else { 0.0 };
    let high =
        if of < all { search(0.0, 1.0, |p| 1.0 - at_least(of + 1.0, p) > chance) } else { 1.0 };
    (low, high)
}

/// How many of these count, where those that follow each other are alike: of n that correlate by r from one to the next,
/// n (1 - r) / (1 + r). They are what is left of a mean or a line. A few do not tell r well: so it is taken for one
/// standard error more than it looks.
#[must_use]
pub fn counting(rest: &[f64]) -> f64 {
    let squares: f64 = rest.iter().map(|rest| rest * rest).sum();
    let pairs: f64 = rest.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let n = rest.len() as f64;
    let r =
        if squares > 0.0 { (pairs / squares + n.sqrt().recip()).clamp(0.0, 0.999) } else { 0.0 };
    n * (1.0 - r) / (1.0 + r)
}

/// Where `below` ends to hold.
fn search(mut low: f64, mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVES {
        if high - low <= NEAR * high {
            break;
        }
        let middle = f64::midpoint(low, high);
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The regularized incomplete beta function I(x; a, b).
fn beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    // The fraction ends soon on this side of the middle.
    if x < (a + 1.0) / (a + b + 2.0) {
        (front - a.ln()).exp() * fraction(a, b, x)
    } else {
        1.0 - (front - b.ln()).exp() * fraction(b, a, 1.0 - x)
    }
}

/// Its continued fraction 1 / (1 + d1 / (1 + d2 / (1 + ...))), from the front, by the quotients of its numerators and
/// denominators (Lentz).
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let apart = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut above, mut below) = (1.0, 1.0 / apart(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = below;
    for step in 1..STEPS_MAX {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = value;
        for term in [even, odd] {
            above = apart(1.0 + term / above);
            below = 1.0 / apart(1.0 + term * below);
            value *= above * below;
        }
        if (value - before).abs() <= 1e-15 * value.abs() {
            break;
        }
    }
    value
}

/// Stirling's series, for small ones by ln Γ(x) = ln Γ(x + 1) - ln x.
fn ln_gamma(mut x: f64) -> f64 {
    let mut less = 0.0;
    while x < STIRLING_FROM {
        less += x.ln();
        x += 1.0;
    }
    let (inverse, square) = (1.0 / x, 1.0 / (x * x));
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    (x - 0.5) * x.ln() - x + std::f64::consts::TAU.ln() / 2.0 + series - less
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-3 * expected.abs(), "{found}, not {expected}");
    }

    #[test]
    fn t_is_that_of_the_tables() {
        for (freedom, chance, t) in [
            (1.0, 0.05, 12.706),
            (3.0, 0.05, 3.182),
            (3.0, 0.01, 5.841),
            (10.0, 0.05, 2.228),
            (10.0, 0.001, 4.587),
            (30.0, 0.05, 2.042),
            (30.0, 1e-4, 4.482),
            (1e6, 0.05, 1.960),
            (1e6, 0.01, 2.576),
        ] {
            near(student(freedom, chance), t);
        }
        assert!(student(3.0, 1e-12).is_finite());
    }

    #[test]
    fn bounds_of_a_share_are_those_of_the_tables() {
        for (of, all, low, high) in [
            (0.0, 10.0, 0.0, 0.3085),
            (1.0, 10.0, 0.002_529, 0.4450),
            (5.0, 10.0, 0.1871, 0.8129),
            (10.0, 10.0, 0.6915, 1.0),
            (10.0, 1000.0, 0.004_805, 0.018_31),
            (0.0, 1e9, 0.0, 3.689e-9),
        ] {
            let found = share(of, all, 0.025);
            near(found.0, low);
            near(found.1, high);
        }
        assert_eq!(share(3.0, 0.0, 0.025), (0.0, 1.0));
        let (low, high) = share(5e8, 1e9, 0.025);
        assert!(low > 0.4999 && high < 0.5001, "{low} {high}");
    }
}
