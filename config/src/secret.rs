//! Texts that nothing shows: passwords, tokens, values of headers.

use crate::expand::is_one_variable;
use serde::{Serialize, Serializer};
use std::fmt;

/// Stands for a secret wherever a configuration is printed. Read, it is refused: else a printed
/// configuration would be taken, and its secrets would be this word.
pub const REDACTED: &str = "<redacted>";

/// Printed, it is the variable that it came from, which reads as the same again, or [`REDACTED`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    shown: String,
}

impl Secret {
    pub(crate) fn new(text: String, shown: String) -> Secret {
        Secret { text, shown }
    }

    /// `raw` is the text as it was written, with its variables.
    pub(crate) fn written(text: String, raw: &str) -> Secret {
        let shown = if is_one_variable(raw) { raw } else { REDACTED };
        Secret { text, shown: shown.to_owned() }
    }

    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.shown)
    }
}
