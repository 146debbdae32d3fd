//! Which entries a command means: `--filter reason=too_old --filter older=1h`; all must hold.

use super::record::{Reason, Record};
use crate::labels;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Reason(Reason),
    Status(u16),
    Tenant(String),
    Sink(String),
    /// By when it was refused first.
    Older(Duration),
    Newer(Duration),
    Text(String),
    Line(String),
    Label(String, String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {found:?}: expected {expected}")]
pub struct FilterError {
    pub found: String,
    pub expected: String,
}

const FORMS: &str = "reason=too_old, status=400, tenant=NAME, sink=NAME, older=1h, newer=1h, \
                     text~WORDS, line~WORDS or label.NAME=VALUE";
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

impl Filter {
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Filter, FilterError> {
        texts
            .iter()
            .map(|text| Condition::parse(text.as_ref()))
            .collect::<Result<_, _>>()
            .map(Filter)
    }

    /// It means everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn matches(&self, record: &Record, now_ns: i64) -> bool {
        self.0.iter().all(|condition| condition.holds(record, now_ns))
    }

    /// The one sink whose entries may match, where one is named.
    #[must_use]
    pub fn sink(&self) -> Option<&str> {
        self.0.iter().find_map(|condition| match condition {
            Condition::Sink(sink) => Some(sink.as_str()),
            _ => None,
        })
    }

    /// Whether there may be a match among records with these reasons.
    pub fn may_match<'a>(&self, mut reasons: impl Iterator<Item = &'a Reason>) -> bool {
        let wanted: Vec<&Reason> = self
            .0
            .iter()
            .filter_map(|condition| match condition {
                Condition::Reason(reason) => Some(reason),
                _ => None,
            })
            .collect();
        wanted.is_empty() || reasons.any(|reason| wanted.iter().all(|wanted| *wanted == reason))
    }

    /// As it is written.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl Condition {
    fn parse(text: &str) -> Result<Condition, FilterError> {
        let wrong = |expected: &str| FilterError { found: text.into(), expected: expected.into() };
        let at = text.find(['=', '~']).ok_or_else(|| wrong(FORMS))?;
        let (key, value) = (&text[..at], &text[at + 1..]);
        let contains = text.as_bytes()[at] == b'~';
        if value.is_empty() && key != "tenant" {
            return Err(wrong(&format!("a value behind {}", &text[..=at])));
        }
        let value = value.to_owned();
        match (key, contains) {
            ("reason", false) => {
                // One that this version does not give may be here all the same.
                let known = Reason::parse(&value);
                let is_name = value.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let names = || format!("one of {}", Reason::names().collect::<Vec<_>>().join(", "));
                if is_name { Ok(Condition::Reason(known)) } else { Err(wrong(&names())) }
            }
            ("status", false) => match value.parse() {
                Ok(status) if (100..=599).contains(&status) => Ok(Condition::Status(status)),
                _ => Err(wrong("a status of HTTP, from 100 to 599")),
            },
            ("tenant", false) => Ok(Condition::Tenant(value)),
            ("sink", false) => Ok(Condition::Sink(value)),
            ("older" | "newer", false) => {
                let time =
                    duration(&value).ok_or_else(|| wrong("a time such as 90s, 15m, 1h or 7d"))?;
                Ok(if key == "older" { Condition::Older(time) } else { Condition::Newer(time) })
            }
            ("text", true) => Ok(Condition::Text(value)),
            ("line", true) => Ok(Condition::Line(value)),
            ("text" | "line", false) => Err(wrong(&format!("{key}~WORDS that it contains"))),
            _ => match key.strip_prefix("label.").filter(|_| !contains) {
                Some(name) if labels::is_name(name) => Ok(Condition::Label(name.into(), value)),
                Some(_) => Err(wrong("label.NAME=VALUE with a name of letters, digits and _")),
                None => Err(wrong(FORMS)),
            },
        }
    }

    fn holds(&self, record: &Record, now_ns: i64) -> bool {
        let age = || {
            let age = now_ns.saturating_sub(record.first_rejected_ns);
            Duration::from_nanos(u64::try_from(age).unwrap_or(0))
        };
        match self {
            Condition::Reason(reason) => record.reason == *reason,
            Condition::Status(status) => record.status == Some(*status),
            Condition::Tenant(tenant) => record.tenant == *tenant,
            Condition::Sink(sink) => record.sink == *sink,
            Condition::Older(time) => age() >= *time,
            Condition::Newer(time) => age() < *time,
            Condition::Text(part) => record.text.contains(part.as_str()),
            Condition::Line(part) => memchr::memmem::find(&record.line, part.as_bytes()).is_some(),
            Condition::Label(name, value) => labels::parse(&record.labels)
                .is_ok_and(|pairs| pairs.iter().any(|(n, v)| n == name && v == value)),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Reason(reason) => write!(f, "reason={reason}"),
            Condition::Status(status) => write!(f, "status={status}"),
            Condition::Tenant(tenant) => write!(f, "tenant={tenant}"),
            Condition::Sink(sink) => write!(f, "sink={sink}"),
            Condition::Older(time) => write!(f, "older={}s", time.as_secs()),
            Condition::Newer(time) => write!(f, "newer={}s", time.as_secs()),
            Condition::Text(part) => write!(f, "text~{part}"),
            Condition::Line(part) => write!(f, "line~{part}"),
            Condition::Label(name, value) => write!(f, "label.{name}={value}"),
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| number.parse::<u64>().ok())??;
    number.checked_mul(*seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(texts: &[&str]) -> Filter {
        Filter::parse(texts).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn all_conditions_must_hold() {
        let mut record = Record::for_tests("GET /a?b=c~d 200");
        record.tenant = "a".into();
        record.labels = r#"{job="x=\"y\"", z="1"}"#.into();
        record.text = "entry too far behind: {…}".into();
        let hour = 3_600_000_000_000;
        let now = record.first_rejected_ns + hour;
        let holds = |texts: &[&str]| filter(texts).matches(&record, now);
        for text in [
            "reason=refused",
            "status=400",
            "tenant=a",
            "sink=loki",
            "older=1h",
            "older=59m",
            "newer=3601s",
            "newer=1d",
            "text~too far",
            "line~b=c~d",
            "label.job=x=\"y\"",
            "label.z=1",
        ] {
            assert!(holds(&[text]), "{text}");
            assert!(holds(&["status=400", text]), "{text}");
            assert!(!holds(&["status=401", text]), "{text}");
            let again = Filter::parse(&filter(&[text]).texts()).unwrap();
            assert_eq!(again, filter(&[text]));
        }
        for text in [
            "reason=too_old",
            "reason=of_tomorrow",
            "status=500",
            "tenant=",
            "sink=loki2",
            "older=61m",
            "newer=1h",
            "text~behind {",
            "line~GETS",
            "label.job=x",
            "label.y=1",
        ] {
            assert!(!holds(&[text]), "{text}");
        }
        assert!(holds(&[]));
        let reasons = [Reason::Refused, Reason::TooOld];
        assert!(filter(&["reason=too_old", "status=100"]).may_match(reasons.iter()));
        assert!(!filter(&["reason=failing"]).may_match(reasons.iter()));
        assert!(filter(&["status=400"]).may_match(reasons.iter()));
    }

    #[test]
    fn errors_say_what_was_expected() {
        for (text, expected) in [
            ("", "reason=too_old, status=400"),
            ("reason", "reason=too_old, status=400"),
            ("colour=red", "reason=too_old, status=400"),
            ("reason~old", "reason=too_old, status=400"),
            ("reason=", "a value behind reason="),
            ("reason=Too Old", "one of refused, too_old, too_large, stream_limited, failing"),
            ("status=4xx", "a status of HTTP, from 100 to 599"),
            ("status=99", "a status of HTTP, from 100 to 599"),
            ("older=1", "a time such as 90s, 15m, 1h or 7d"),
            ("older=-1h", "a time such as 90s, 15m, 1h or 7d"),
            ("newer=99999999999999999999d", "a time such as 90s, 15m, 1h or 7d"),
            ("text=a", "text~WORDS that it contains"),
            ("label.=a", "label.NAME=VALUE with a name of letters, digits and _"),
            ("label.a-b=a", "label.NAME=VALUE with a name of letters, digits and _"),
        ] {
            let error = Filter::parse(&[text]).unwrap_err().to_string();
            assert!(error.contains(&format!("filter {text:?}: expected ")), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}
