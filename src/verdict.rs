//! What an answer of Loki's means for the push it answers: one pure function.
//!
//! | answer | verdict |
//! |---|---|
//! | 200, 204 | accepted; nothing else is |
//! | 400, 413, 422 | refused for good: in halves while there are several frames, then parked |
//! | 408, 429, 5xx, no answer | again later; the same failure many times over: in halves |
//! | 260, other 2xx, 3xx, 401, 403, 404, other 4xx | the sink refuses service: held, and said |
//!
//! A push is never dropped. Loki answers some refusals of its limits with 429 or 500 for ever
//! (more than its burst, more than 4 MiB for one ingester): smaller pushes get through.

use std::time::Duration;

/// What came back for a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status {
        code: u16,
        retry_after: Option<Duration>,
        text: String,
    },
    /// No answer: refused, reset, timed out, not resolved.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// The same bytes again, not before this is over (and after the usual backoff).
    Retry {
        after: Option<Duration>,
    },
    /// The frames again, in smaller pushes.
    Split,
    /// The same bytes again, whenever the operator has mended it.
    Hold,
    /// Refused alone: kept aside with the reason.
    Reject,
}

/// So many equal failures in a row make a push of several frames suspect of being too large.
const SPLIT_AFTER: u32 = 6;
/// A Retry-After above this is taken as this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// `frames`: how many the push holds. `failures`: how often it failed so far, this one included.
#[must_use]
pub fn judge(answer: &Answer, frames: usize, failures: u32) -> Verdict {
    let suspect = frames > 1 && failures >= SPLIT_AFTER;
    let Answer::Status { code, retry_after, .. } = answer else {
        return Verdict::Retry { after: None };
    };
    let after = retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    match code {
        200 | 204 => Verdict::Accepted,
        400 | 413 | 422 if frames > 1 => Verdict::Split,
        400 | 413 | 422 => Verdict::Reject,
        429 | 500 if suspect => Verdict::Split,
        408 | 429 | 500..=599 => Verdict::Retry { after },
        _ => Verdict::Hold,
    }
}

/// How long to wait before try `failures + 1`: doubles from 50 ms to 5 s, less up to a half by
/// `jitter` (0 to 1), so that the senders of many hosts do not come back in step.
#[must_use]
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let capped = Duration::from_millis(50 << failures.clamp(1, 8).saturating_sub(1));
    capped.min(Duration::from_secs(5)).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after: None, text: String::new() }
    }

    #[test]
    fn every_answer_has_its_verdict() {
        let retry = Verdict::Retry { after: None };
        for (code, one, several) in [
            (200, Verdict::Accepted, Verdict::Accepted),
            (204, Verdict::Accepted, Verdict::Accepted),
            (201, Verdict::Hold, Verdict::Hold),
            (260, Verdict::Hold, Verdict::Hold),
            (301, Verdict::Hold, Verdict::Hold),
            (307, Verdict::Hold, Verdict::Hold),
            (400, Verdict::Reject, Verdict::Split),
            (401, Verdict::Hold, Verdict::Hold),
            (403, Verdict::Hold, Verdict::Hold),
            (404, Verdict::Hold, Verdict::Hold),
            (408, retry.clone(), retry.clone()),
            (413, Verdict::Reject, Verdict::Split),
            (422, Verdict::Reject, Verdict::Split),
            (429, retry.clone(), retry.clone()),
            (500, retry.clone(), retry.clone()),
            (502, retry.clone(), retry.clone()),
            (503, retry.clone(), retry.clone()),
            (504, retry.clone(), retry.clone()),
        ] {
            assert_eq!(judge(&status(code), 1, 1), one, "{code} for one frame");
            assert_eq!(judge(&status(code), 9, 1), several, "{code} for several frames");
        }
        assert_eq!(judge(&Answer::Broken("reset".into()), 9, 99), retry);
    }

    #[test]
    fn what_fails_for_ever_is_made_smaller() {
        for code in [429, 500] {
            assert_eq!(judge(&status(code), 9, SPLIT_AFTER), Verdict::Split);
            assert_eq!(judge(&status(code), 1, 99), Verdict::Retry { after: None });
        }
        assert_eq!(judge(&status(503), 9, 99), Verdict::Retry { after: None });
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let answer = |seconds| Answer::Status {
            code: 429,
            retry_after: Some(Duration::from_secs(seconds)),
            text: String::new(),
        };
        let after = |seconds| Verdict::Retry { after: Some(Duration::from_secs(seconds)) };
        assert_eq!(judge(&answer(7), 1, 1), after(7));
        assert_eq!(judge(&answer(86_400), 1, 1), after(60));
    }

    #[test]
    fn backoff_grows_to_its_cap_and_jitters() {
        assert_eq!(backoff(1, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(2, 0.0), Duration::from_millis(100));
        assert_eq!(backoff(4, 1.0), Duration::from_millis(200));
        assert_eq!(backoff(1_000_000, 0.0), Duration::from_secs(5));
    }
}
