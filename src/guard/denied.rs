//! Why somebody may not come in, and what they are answered.

use super::{Role, Who};
use hyper::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use io::http::Full;
use std::time::Duration;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("expected Authorization: Bearer and a token that is known here, found {found}")]
    Unknown { found: &'static str },
    #[error(
        "expected {0} on this connection, which began before that was in force or is not valid any more; connect anew"
    )]
    Connection(&'static str),
    #[error("expected the role {}: {who} has not got it", role.name())]
    Role { role: Role, who: Who },
    #[error(
        "expected a request from this host: what changes anything is not for others, unless they have a token with the \
         role operate (server.auth.tokens)"
    )]
    Elsewhere,
    #[error("too many requests with this token; try again after {0:.1?}")]
    Rate(Duration),
    #[error("too many requests without a token that is known here; try again after {0:.1?}")]
    Failures(Duration),
}

pub(super) const REASONS: [&str; 4] = ["credentials", "role", "rate", "failures"];
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"log-capturer\"");

impl Denied {
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Denied::Unknown { .. } | Denied::Connection(_) => StatusCode::UNAUTHORIZED,
            Denied::Role { .. } | Denied::Elsewhere => StatusCode::FORBIDDEN,
            Denied::Rate(_) | Denied::Failures(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(super) fn reason(&self) -> usize {
        match self {
            Denied::Unknown { .. } | Denied::Connection(_) => 0,
            Denied::Role { .. } | Denied::Elsewhere => 1,
            Denied::Rate(_) => 2,
            Denied::Failures(_) => 3,
        }
    }

    /// The headers of an answer that says so.
    pub fn mark(&self, response: &mut Response<Full>) {
        let headers = response.headers_mut();
        match self {
            Denied::Unknown { .. } | Denied::Connection(_) => {
                headers.insert(WWW_AUTHENTICATE, BEARER);
            }
            Denied::Rate(wait) | Denied::Failures(wait) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            }
            Denied::Role { .. } | Denied::Elsewhere => {}
        }
    }

    /// Of those who fail too often nothing more is read, and nothing is kept.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(self, Denied::Failures(_))
    }

    /// Who it was, as far as that is known.
    #[must_use]
    pub fn who(&self) -> Option<&Who> {
        match self {
            Denied::Role { who, .. } => Some(who),
            _ => None,
        }
    }
}
