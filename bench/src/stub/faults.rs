//! What the stub does wrong when it is told to.

use std::str::FromStr;
use std::time::Duration;

/// What happens to a push instead of, or before, an answer as Loki gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored and this is said.
    Answer { status: u16, text: String, retry_after: Option<String> },
    /// Stored and answered as always, but only after this long.
    Delay(Duration),
    /// Nothing is stored and the connection is reset.
    Reset,
    /// All is stored, and then the connection is reset.
    LostAnswer,
    /// Nothing is stored; a 500 whose text comes byte by byte for so long.
    SlowBody(Duration),
    /// Only the last stream is stored, and the answer is 204: an ingester's error of one stream hides
    /// behind the next stream's success.
    Masked,
    /// One entry of so many is refused as too old, with a 400; the others are stored.
    Partial { one_of: u64 },
    /// Nothing of one tenant's is stored and this is its answer; others' pushes are as always.
    Tenant { tenant: String, status: u16 },
}

impl Fault {
    #[must_use]
    pub fn answer(status: u16, text: &str) -> Fault {
        Fault::Answer { status, text: text.into(), retry_after: None }
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
    "expected FAULT or FAULT:PUSHES, where FAULT is answer=STATUS, delay=TIME, reset, lost-answer, \
     slow-body=TIME, masked or partial=ONE_OF; found {0:?}"
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
        let (name, argument) = what.split_once('=').unwrap_or((what, ""));
        let time = || humantime::parse_duration(argument).map_err(|_| wrong());
        let fault = match name {
            "answer" => {
                let status = argument.parse().ok().filter(|status| (200..=599).contains(status));
                Fault::answer(status.ok_or_else(wrong)?, "as it was told to\n")
            }
            "delay" => Fault::Delay(time()?),
            "slow-body" => Fault::SlowBody(time()?),
            "partial" => {
                let one_of = argument.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
                Fault::Partial { one_of }
            }
            "reset" if argument.is_empty() => Fault::Reset,
            "lost-answer" if argument.is_empty() => Fault::LostAnswer,
            "masked" if argument.is_empty() => Fault::Masked,
            _ => return Err(wrong()),
        };
        Ok(Script { fault, pushes })
    }
}

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
    pub delayed: u64,
    pub reset: u64,
    pub answers_lost: u64,
    pub slow_bodies: u64,
    pub masked: u64,
    pub partial: u64,
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
    fn faults_are_read_from_a_command_line() {
        let script = |text: &str| text.parse::<Script>();
        let fault = |text: &str| script(text).unwrap().fault;
        assert_eq!(fault("delay=200ms"), Fault::Delay(Duration::from_millis(200)));
        assert_eq!(fault("partial=10"), Fault::Partial { one_of: 10 });
        assert!(matches!(fault("answer=429"), Fault::Answer { status: 429, .. }));
        assert_eq!(script("reset:3").unwrap().pushes, Some(3));
        for wrong in ["", "answer", "answer=99", "delay=soon", "reset:0", "reset=1", "partial=0"] {
            let error = script(wrong).unwrap_err().to_string();
            assert!(error.contains("expected FAULT"), "{wrong:?}: {error}");
        }
    }
}
