//! What the stub does wrong when it is told to.

use std::str::FromStr;
use std::time::Duration;

/// What happens to a push instead of, or before, an answer as Loki gives it.
///
/// Of several in force at once, all that only change the answer apply, in whatever order, and of
/// those that are an answer the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored and this is said.
    Answer { status: u16, text: String, retry_after: Option<String> },
    /// Stored as always, whatever Loki would say of it, and this is said: an overload of which the
    /// client cannot know what it came to. With [`Fault::Masked`] only the last stream is stored.
    StoredAnswer { status: u16, text: String },
    /// Stored and answered as always, but only after this long.
    Delay(Duration),
    /// Nothing is stored and the connection is reset.
    Reset,
    /// All is stored, and then the connection is reset.
    LostAnswer,
    /// Nothing is stored; a 500 whose text comes byte by byte for so long.
    SlowBody(Duration),
    /// Only the last stream is stored, and the answer is 204: an ingester's error of one stream
    /// hides behind the next stream's success.
    Masked,
    /// One entry of so many is refused as too old, with a 400; the others are stored.
    Partial { one_of: u64 },
    /// Nothing of one tenant's is stored and this is its answer; others' pushes are as always.
    Tenant { tenant: String, status: u16 },
    /// A push with an entry whose line contains the needle is answered so; `{labels}` in the text
    /// is the stream of the first such entry. The other entries are stored, or nothing is.
    Refuse { needle: String, status: u16, text: String, rest_stored: bool },
    /// Nothing is stored, and the client is sent elsewhere.
    Redirect { status: u16, location: String },
    /// Nothing is stored; an error whose text is said to have 10 GB, and has, while it is read.
    Endless { status: u16 },
    /// Nothing is stored, and what comes back is not HTTP; the connection is closed after it.
    Garbage,
    /// Stored and answered as always, but a 204 has this body, which it must not have.
    BodyOn204(String),
    /// The answer's text is compressed with gzip, whether that was asked for or not.
    Gzip,
    /// The answer has this as its Date.
    Date(String),
    /// After each answer the connection is closed, and nothing in the answer says so.
    CloseIdle,
    /// Of so many requests on connections that had one before, one finds its connection closed:
    /// nothing of it is stored or answered.
    CloseOnRequest { one_of: u64 },
    /// What happens to one tenant's pushes; others' are as always.
    OfTenant { tenant: String, fault: Box<Fault> },
    /// All of them at once.
    Many(Vec<Fault>),
}

impl Fault {
    #[must_use]
    pub fn answer(status: u16, text: &str) -> Fault {
        Fault::Answer { status, text: text.into(), retry_after: None }
    }

    /// An answer whose text is compressed.
    #[must_use]
    pub fn gzipped(status: u16, text: &str) -> Fault {
        Fault::Many(vec![Fault::answer(status, text), Fault::Gzip])
    }

    /// Those of it that concern this tenant, none of them [`Fault::Many`] or [`Fault::OfTenant`].
    pub(super) fn of(self, tenant: &str) -> Vec<Fault> {
        match self {
            Fault::Many(faults) => faults.into_iter().flat_map(|f| f.of(tenant)).collect(),
            Fault::OfTenant { tenant: of, fault } if of == tenant => fault.of(tenant),
            Fault::OfTenant { .. } => Vec::new(),
            Fault::Tenant { tenant: of, .. } if of != tenant => Vec::new(),
            fault => vec![fault],
        }
    }

    /// One of how many requests finds its connection closed.
    pub(super) fn closes_one_of(&self, tenant: &str) -> Option<u64> {
        match self {
            Fault::CloseOnRequest { one_of } => Some((*one_of).max(1)),
            Fault::OfTenant { tenant: of, fault } if of == tenant => fault.closes_one_of(tenant),
            Fault::Many(faults) => faults.iter().find_map(|fault| fault.closes_one_of(tenant)),
            _ => None,
        }
    }
}

/// A fault and for how many pushes; None: for all from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub fault: Fault,
    pub pushes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected FAULT[+FAULT...][:PUSHES], where FAULT is answer=STATUS, stored-answer=STATUS, \
     delay=TIME, reset, lost-answer, slow-body=TIME, masked, partial=ONE_OF, \
     tenant=STATUS/NAME, refuse=STATUS/NEEDLE, refuse-whole=STATUS/NEEDLE, redirect=STATUS, \
     endless=STATUS, garbage, body-on-204, gzip, close-idle or close-on-request=ONE_OF; found {0:?}"
)]
pub struct NotAScript(String);

impl FromStr for Script {
    type Err = NotAScript;

    fn from_str(text: &str) -> Result<Script, NotAScript> {
        let wrong = || NotAScript(text.to_owned());
        let (what, pushes) = match text.split_once(':') {
            None => (text, None),
            Some((what, pushes)) => {
                let pushes = pushes.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
                (what, Some(pushes))
            }
        };
        let mut faults: Vec<Fault> =
            what.split('+').map(read).collect::<Option<_>>().ok_or_else(wrong)?;
        let fault = if faults.len() == 1 { faults.remove(0) } else { Fault::Many(faults) };
        Ok(Script { fault, pushes })
    }
}

/// One fault of a command line.
fn read(text: &str) -> Option<Fault> {
    let status = |text: &str| text.parse().ok().filter(|status| (200..=599).contains(status));
    let Some((name, argument)) = text.split_once('=') else {
        return Some(match text {
            "reset" => Fault::Reset,
            "lost-answer" => Fault::LostAnswer,
            "masked" => Fault::Masked,
            "garbage" => Fault::Garbage,
            "body-on-204" => Fault::BodyOn204(WORDS.into()),
            "gzip" => Fault::Gzip,
            "close-idle" => Fault::CloseIdle,
            _ => return None,
        });
    };
    let time = || humantime::parse_duration(argument).ok();
    let one_of = || argument.parse().ok().filter(|n| *n > 0);
    let status_and = || {
        let (number, rest) = argument.split_once('/')?;
        Some((status(number)?, Some(rest.to_owned()).filter(|rest| !rest.is_empty())?))
    };
    Some(match name {
        "answer" => Fault::answer(status(argument)?, WORDS),
        "stored-answer" => Fault::StoredAnswer { status: status(argument)?, text: WORDS.into() },
        "delay" => Fault::Delay(time()?),
        "slow-body" => Fault::SlowBody(time()?),
        "partial" => Fault::Partial { one_of: one_of()? },
        "close-on-request" => Fault::CloseOnRequest { one_of: one_of()? },
        "endless" => Fault::Endless { status: status(argument)? },
        "redirect" => Fault::Redirect { status: status(argument)?, location: "/elsewhere".into() },
        "tenant" => {
            let (status, tenant) = status_and()?;
            Fault::Tenant { tenant, status }
        }
        "refuse" | "refuse-whole" => {
            let (status, needle) = status_and()?;
            let text = format!("entry for stream '{{labels}}' has {needle}, {WORDS}");
            Fault::Refuse { needle, status, text, rest_stored: name == "refuse" }
        }
        _ => return None,
    })
}

/// What the faults of a command line say.
const WORDS: &str = "as it was told to\n";

/// How the whole receiver is not there. Open connections are reset at the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// Connections are refused; the port stays reserved.
    Refusing,
    /// Connections are accepted, requests are read, and nothing is ever answered.
    Silent,
}

/// Proof that faults happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub answered: u64,
    /// Answers to pushes that were stored first.
    pub answered_stored: u64,
    pub delayed: u64,
    pub reset: u64,
    pub answers_lost: u64,
    pub slow_bodies: u64,
    pub masked: u64,
    pub partial: u64,
    /// Pushes of a tenant that was refused as a whole.
    pub tenant: u64,
    /// Pushes that held a needle.
    pub refused: u64,
    pub redirected: u64,
    /// Endless answers, and what of them was taken.
    pub endless: u64,
    pub endless_bytes: u64,
    pub garbage: u64,
    /// Answers 204 with a body.
    pub bodies_on_204: u64,
    pub gzipped: u64,
    /// Answers with a Date that was told.
    pub dated: u64,
    /// Connections that were closed after an answer.
    pub closed_idle: u64,
    /// Connections that were closed when a request came.
    pub closed_on_request: u64,
    /// Times that the port was closed.
    pub refusals: u64,
    /// Requests that were read while silent.
    pub swallowed: u64,
    /// Connections that were cut because the receiver went away.
    pub cut: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_its_own_faults() {
        let of = |tenant: &str, fault| Fault::OfTenant { tenant: tenant.into(), fault };
        let many = Fault::Many(vec![
            Fault::Tenant { tenant: "a".into(), status: 403 },
            of("b", Box::new(Fault::Reset)),
            of("b", Box::new(Fault::CloseOnRequest { one_of: 3 })),
            Fault::Gzip,
        ]);
        assert_eq!(many.clone().of("c"), [Fault::Gzip]);
        assert_eq!(many.clone().of("a").len(), 2);
        assert_eq!(many.clone().of("b")[0], Fault::Reset);
        assert_eq!((many.closes_one_of("b"), many.closes_one_of("a")), (Some(3), None));
    }

    #[test]
    fn faults_are_read_from_a_command_line() {
        let script = |text: &str| text.parse::<Script>();
        let fault = |text: &str| script(text).unwrap().fault;
        assert_eq!(fault("delay=200ms"), Fault::Delay(Duration::from_millis(200)));
        assert_eq!(fault("partial=10"), Fault::Partial { one_of: 10 });
        assert!(matches!(fault("answer=429"), Fault::Answer { status: 429, .. }));
        assert_eq!(script("reset:3").unwrap().pushes, Some(3));
        assert_eq!(fault("tenant=403/a"), Fault::Tenant { tenant: "a".into(), status: 403 });
        let both = Fault::Many(vec![Fault::CloseIdle, Fault::CloseOnRequest { one_of: 2 }]);
        assert_eq!(fault("close-idle+close-on-request=2:9"), both);
        let refuse = |text| matches!(fault(text), Fault::Refuse { rest_stored: true, .. });
        assert!(refuse("refuse=400/bad") && !refuse("refuse-whole=400/bad"));
        assert!(matches!(fault("stored-answer=504"), Fault::StoredAnswer { status: 504, .. }));
        assert_eq!(fault("endless=500"), Fault::Endless { status: 500 });
        assert!(matches!(fault("redirect=302"), Fault::Redirect { status: 302, .. }));
        let wrong = ["refuse=400", "tenant=x/a", "gzip=1", "masked+", "close-on-request=0"];
        for wrong in wrong {
            assert!(script(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "answer", "answer=99", "delay=soon", "reset:0", "reset=1", "partial=0"] {
            let error = script(wrong).unwrap_err().to_string();
            assert!(error.contains("expected FAULT"), "{wrong:?}: {error}");
        }
    }
}
