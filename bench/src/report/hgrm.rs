//! Latencies as HdrHistogram's own text, which its plotter reads, and as a curve.

use hdrhistogram::Histogram;
use std::fmt::Write;

/// Steps for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

/// The percentile distribution, in milliseconds, of a histogram of microseconds.
#[must_use]
pub fn write(histogram: &Histogram<u64>) -> String {
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        let (value, quantile) = (millis(step.value_iterated_to()), step.quantile_iterated_to());
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{value:>12.3} {quantile:>14.12} {:>10}",
            histogram.count_between(0, step.value_iterated_to())
        );
        let _ = if quantile < 1.0 {
            writeln!(out, " {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(out)
        };
    }
    let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    let _ = writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        millis(histogram.max()),
        histogram.len()
    );
    let _ =
        writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", histogram.buckets(), 2_048);
    out
}

/// The same as points: 1 / (1 - percentile), milliseconds.
#[must_use]
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    histogram
        .iter_quantiles(TICKS_PER_HALF)
        .filter(|step| step.quantile_iterated_to() < 1.0)
        .map(|step| (1.0 / (1.0 - step.quantile_iterated_to()), millis(step.value_iterated_to())))
        .collect()
}

fn millis(us: u64) -> f64 {
    us as f64 / 1e3
}
