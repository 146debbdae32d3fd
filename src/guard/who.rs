//! Who asks, and what they may.

use std::fmt;
use std::sync::Arc;

/// What a request may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Ingest,
    Read,
    Operate,
}

impl Role {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Read => "read",
            Role::Operate => "operate",
        }
    }
}

/// Several of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// Who may change something may ask.
    #[must_use]
    pub fn with(self, role: Role) -> Roles {
        let read = if role == Role::Operate { 1 << Role::Read as u8 } else { 0 };
        Roles(self.0 | read | 1 << role as u8)
    }

    #[must_use]
    pub fn have(self, role: Role) -> bool {
        self.0 & 1 << role as u8 != 0
    }

    pub(super) fn and(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Whoever it is, from this host.
    Loopback,
    /// Whoever it is, from elsewhere.
    Anyone,
    Token(Arc<str>),
    /// By the name of the certificate.
    Certificate(Arc<str>),
    Both {
        token: Arc<str>,
        certificate: Arc<str>,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Loopback => f.write_str("loopback"),
            Who::Anyone => f.write_str("anyone"),
            Who::Token(name) => write!(f, "token {name}"),
            Who::Certificate(name) => write!(f, "certificate {name}"),
            // The token first: a subject may be long, and is cut.
            Who::Both { token, certificate } => {
                write!(f, "token {token}, certificate {certificate}")
            }
        }
    }
}

/// Who asks, and for what they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    pub who: Who,
    pub(super) roles: Roles,
}

impl Pass {
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        self.roles.have(role)
    }

    /// A token adds to what a certificate is enough for.
    pub(super) fn by_token(known: Option<Pass>, token: Arc<str>, roles: Roles) -> Pass {
        match known {
            Some(Pass { who: Who::Certificate(certificate), roles: more }) => {
                Pass { who: Who::Both { token, certificate }, roles: more.and(roles) }
            }
            _ => Pass { who: Who::Token(token), roles },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_operate_may_read_and_nothing_else() {
        let operate = Roles::default().with(Role::Operate);
        assert!(operate.have(Role::Operate) && operate.have(Role::Read));
        assert!(!operate.have(Role::Ingest));
        let ingest = Roles::default().with(Role::Ingest);
        assert!(!ingest.have(Role::Read) && ingest.and(operate).have(Role::Ingest));
    }
}
