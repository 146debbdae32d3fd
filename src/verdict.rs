//! What an answer of Loki's means for the push it answers: one pure function.
//!
//! | answer | verdict |
//! |---|---|
//! | 200, 204 | accepted; nothing else is |
//! | 400, 422 | isolate: something in it is refused, found by halves; alone, it is rejected |
//! | 413, 500 of a message that is too large | split: in smaller pushes; a single entry is rejected |
//! | 429 of one stream (its rate, the number of streams) | isolate; alone, again later, others go on; in the end in halves, where it is its rate |
//! | 429, 5xx, 408, no answer | again later; the same push many times over: split |
//! | 260, other 2xx, 3xx, 401, 403, 404, other 4xx | the sink refuses service: held, and said |
//!
//! A push is never dropped. Loki answers some of its limits like an overload, with 429 or 500 for
//! ever; what tells them apart is that other pushes pass. A single entry that fails for long while
//! others pass is rejected, too: it goes to the dead-letter queue, which tries it again by itself.

use std::fmt;
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

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status { code, text, .. } => {
                write!(f, "{code}: {}", &text[..text.floor_char_boundary(500)])
            }
            Answer::Broken(error) => f.write_str(error),
        }
    }
}

/// What is known of the push that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// It holds one entry and no more.
    pub single: bool,
    /// All its entries are of one stream.
    pub one_stream: bool,
    /// It holds more than any limit is for: a smaller one may pass.
    pub large: bool,
    /// How often it failed so far, this one included.
    pub failures: u32,
    /// Others of its tenant passed since it failed last: what they did before an outage says nothing
    /// of what fails in it.
    pub others_pass: bool,
}

/// Why an entry is in the dead-letter queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The sink refused it alone.
    Refused,
    /// Older than the sink takes, by our clock and its own.
    TooOld,
    /// It failed again and again, while others passed.
    Failing,
    /// Its stream is limited, for long.
    StreamLimited,
    /// Its tenant is refused service, and it held up others.
    Held,
}

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Tenant,
    /// One stream only: the others go on.
    Stream,
    /// Either: it shows when the others go on.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// The same again, not before this is over (and after the usual backoff).
    Retry {
        after: Option<Duration>,
        scope: Scope,
    },
    /// In smaller pushes, from now on.
    Split,
    /// Something in it is refused, or limited, and is to be found.
    Isolate,
    /// The same again, whenever the operator has mended it.
    Hold,
    /// Into the dead-letter queue.
    Reject(Reason),
    /// Likewise, with everything else of its stream: the labels are refused.
    RejectStream,
}

/// So many failures in a row make a push suspect of being too large.
const SPLIT_AFTER: u32 = 6;
/// So many failures of what is large in a limited stream make it suspect of being more than its burst.
const HALVE_AFTER: u32 = 3;
/// So many failures of a single entry, or of a limited stream, while others pass, are for ever.
pub const REJECT_AFTER: u32 = 12;
/// A Retry-After above this is taken as this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How Loki begins what it says of a single stream's limits.
const STREAM_RATE: &str = "per stream rate limit exceeded";
const STREAMS_MAX: &str = "maximum active stream limit exceeded";
/// What it says of a message that one of its parts cannot take.
const TOO_LARGE: [&str; 2] = ["received message larger than max", "message larger than max"];
/// What it says of labels, which holds for every entry under them.
const LABELS: [&str; 6] = [
    "label names; limit",
    "label name too long",
    "label value too long",
    "duplicate label name",
    "error parsing labels",
    "at least one label pair is required",
];

#[must_use]
pub fn judge(answer: &Answer, history: &History) -> Verdict {
    let Answer::Status { code, retry_after, text } = answer else {
        return failed(None, history, history.others_pass);
    };
    let after = retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    let text = text.to_ascii_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    match code {
        200 | 204 => Verdict::Accepted,
        400 | 422 if history.single => Verdict::Reject(Reason::Refused),
        400 if history.one_stream && says(&LABELS) => Verdict::RejectStream,
        400 | 422 => Verdict::Isolate,
        413 if history.single => Verdict::Reject(Reason::Refused),
        413 => Verdict::Split,
        429 if says(&[STREAM_RATE]) => limited_stream(after, history, true),
        429 if says(&[STREAMS_MAX]) => limited_stream(after, history, false),
        500 if says(&TOO_LARGE) && history.single => Verdict::Reject(Reason::Refused),
        500 if says(&TOO_LARGE) => Verdict::Split,
        429 | 500 => failed(after, history, true),
        408 | 501..=599 => failed(after, history, history.others_pass),
        _ => Verdict::Hold,
    }
}

/// A stream comes faster than the sink takes it.
#[must_use]
pub fn refuses_rate(answer: &Answer) -> bool {
    match answer {
        Answer::Status { code: 429, text, .. } => text.to_ascii_lowercase().contains(STREAM_RATE),
        _ => false,
    }
}

/// `by_size`: by how much of it comes, so that less may pass.
fn limited_stream(after: Option<Duration>, history: &History, by_size: bool) -> Verdict {
    if !history.one_stream {
        Verdict::Isolate
    } else if history.others_pass && history.failures >= REJECT_AFTER {
        Verdict::Reject(Reason::StreamLimited)
    } else if by_size && history.large && !history.single && history.failures >= HALVE_AFTER {
        Verdict::Isolate
    } else {
        Verdict::Retry { after, scope: Scope::Stream }
    }
}

/// `by_content`: it may be for what the push holds.
fn failed(after: Option<Duration>, history: &History, by_content: bool) -> Verdict {
    let History { single, one_stream, failures, others_pass, .. } = *history;
    if single && others_pass && failures >= REJECT_AFTER {
        Verdict::Reject(Reason::Failing)
    } else if !single && by_content && failures >= SPLIT_AFTER {
        Verdict::Split
    } else {
        // What fails while others pass is not to hold them up, and what may be alone in failing is to
        // let them show it.
        let scope = match (others_pass, one_stream && by_content && failures >= SPLIT_AFTER) {
            (true, _) => Scope::Stream,
            (false, true) => Scope::Unknown,
            (false, false) => Scope::Tenant,
        };
        Verdict::Retry { after, scope }
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

    fn status(code: u16, text: &str) -> Answer {
        Answer::Status { code, retry_after: None, text: text.into() }
    }

    const MANY: History =
        History { single: false, one_stream: false, large: true, failures: 1, others_pass: false };
    const STREAM: History = History { one_stream: true, ..MANY };
    const ONE: History = History { single: true, large: false, ..STREAM };

    const fn retry(scope: Scope) -> Verdict {
        Verdict::Retry { after: None, scope }
    }

    /// Loki's answers, each with what it says, for many streams, for one, and for a single entry.
    #[test]
    fn every_answer_has_its_verdict() {
        use Verdict::{Accepted, Hold, Isolate, Reject, RejectStream, Split};
        let again = || retry(Scope::Tenant);
        let alone = || retry(Scope::Stream);
        let refused = || Reject(Reason::Refused);
        let too_large = "rpc error: code = ResourceExhausted desc = grpc: received message larger \
                         than max (5242880 vs. 4194304)";
        let labels = "Error parsing labels '{a=}' with error: 1:4: parse error";
        for (code, text, many, stream, one) in [
            (204, "", Accepted, Accepted, Accepted),
            (200, "", Accepted, Accepted, Accepted),
            (201, "", Hold, Hold, Hold),
            (202, "", Hold, Hold, Hold),
            (260, "ingestion blocked for user fake", Hold, Hold, Hold),
            (301, "", Hold, Hold, Hold),
            (307, "", Hold, Hold, Hold),
            (400, "snappy: corrupt input", Isolate, Isolate, refused()),
            (400, labels, Isolate, RejectStream, refused()),
            (400, "entry for stream '{}' has timestamp too old: x", Isolate, Isolate, refused()),
            (400, "entry for stream '{}' has timestamp too new: x", Isolate, Isolate, refused()),
            (400, "Max entry size '262144' bytes exceeded", Isolate, Isolate, refused()),
            (400, "has structured metadata too large: '9' bytes", Isolate, Isolate, refused()),
            (400, "'{}' has 16 label names; limit 15", Isolate, RejectStream, refused()),
            (400, "stream '{}' has label value too long", Isolate, RejectStream, refused()),
            (400, "ignored, reason: 'entry too far behind'", Isolate, Isolate, refused()),
            (422, "error at least one valid stream is required", Isolate, Isolate, refused()),
            (401, "no org id", Hold, Hold, Hold),
            (403, "", Hold, Hold, Hold),
            (404, "404 page not found", Hold, Hold, Hold),
            (405, "", Hold, Hold, Hold),
            (408, "", again(), again(), again()),
            (413, "request body too large", Split, Split, refused()),
            (429, "ingestion rate limit exceeded for user fake", again(), again(), again()),
            (429, "Per stream rate limit exceeded (limit: 3MB/sec)", Isolate, alone(), alone()),
            (429, "Maximum active stream limit exceeded when", Isolate, alone(), alone()),
            (429, "", again(), again(), again()),
            (500, "internal", again(), again(), again()),
            (500, too_large, Split, Split, refused()),
            (502, "<html>", again(), again(), again()),
            (503, "", again(), again(), again()),
            (504, "", again(), again(), again()),
        ] {
            let answer = status(code, text);
            assert_eq!(judge(&answer, &MANY), many, "{code} {text:?} for many streams");
            assert_eq!(judge(&answer, &STREAM), stream, "{code} {text:?} for one stream");
            assert_eq!(judge(&answer, &ONE), one, "{code} {text:?} for one entry");
        }
        let broken = Answer::Broken("connection reset".into());
        assert_eq!([MANY, STREAM, ONE].map(|of| judge(&broken, &of)), [again(), again(), again()]);
    }

    #[test]
    fn what_fails_again_and_again_is_made_smaller_and_in_the_end_set_aside() {
        let often = |of: History, failures, others_pass| History { failures, others_pass, ..of };
        for code in [429, 500] {
            let answer = status(code, "sick");
            for others_pass in [false, true] {
                let split = judge(&answer, &often(MANY, SPLIT_AFTER, others_pass));
                assert_eq!(split, Verdict::Split, "{code}");
            }
        }
        for answer in [status(503, ""), status(408, ""), Answer::Broken("timed out".into())] {
            let alone = judge(&answer, &often(MANY, 99, false));
            assert_eq!(alone, retry(Scope::Tenant), "an outage is no fault of the push");
            assert_eq!(judge(&answer, &often(MANY, SPLIT_AFTER, true)), Verdict::Split);
        }
        for answer in [status(500, ""), status(429, ""), Answer::Broken("reset".into())] {
            let content = matches!(answer, Answer::Status { .. });
            let scope = if content { Scope::Unknown } else { Scope::Tenant };
            assert_eq!(judge(&answer, &often(ONE, 999, false)), retry(scope));
            let early = often(ONE, REJECT_AFTER - 1, true);
            assert_eq!(judge(&answer, &early), retry(Scope::Stream), "others go on meanwhile");
            let late = often(ONE, REJECT_AFTER, true);
            assert_eq!(judge(&answer, &late), Verdict::Reject(Reason::Failing));
        }
        let limited = status(429, "Maximum active stream limit exceeded when");
        assert_eq!(judge(&limited, &often(STREAM, 999, false)), retry(Scope::Stream));
        let rejected = judge(&limited, &often(STREAM, REJECT_AFTER, true));
        assert_eq!(rejected, Verdict::Reject(Reason::StreamLimited));
        let fast = status(429, "Per stream rate limit exceeded (limit: 3MB/sec)");
        assert_eq!(judge(&fast, &often(STREAM, HALVE_AFTER, false)), Verdict::Isolate);
        let line = History { large: true, ..ONE };
        assert_eq!(judge(&fast, &often(line, HALVE_AFTER, false)), retry(Scope::Stream));
        let rejected = judge(&fast, &often(line, REJECT_AFTER, true));
        assert_eq!(rejected, Verdict::Reject(Reason::StreamLimited), "it has no halves");
        let small = History { large: false, ..often(STREAM, 999, false) };
        assert_eq!(judge(&fast, &small), retry(Scope::Stream), "less is not what it takes");
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let after = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            let answer = Answer::Status { code: 429, retry_after, text: String::new() };
            match judge(&answer, &MANY) {
                Verdict::Retry { after, .. } => after.map(|time| time.as_secs()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((after(7), after(86_400)), (Some(7), Some(60)));
    }

    #[test]
    fn backoff_grows_to_its_cap_and_jitters() {
        assert_eq!(backoff(1, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(2, 0.0), Duration::from_millis(100));
        assert_eq!(backoff(4, 1.0), Duration::from_millis(200));
        assert_eq!(backoff(1_000_000, 0.0), Duration::from_secs(5));
    }
}
