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
    stands_in_file: bool,
}

impl Secret {
    pub(crate) fn new(text: String, shown: String) -> Secret {
        let stands_in_file = shown.contains(REDACTED);
        Secret { text, shown, stands_in_file }
    }

    /// `raw` is the text as it was written, with its variables.
    pub(crate) fn written(text: String, raw: &str) -> Secret {
        let shown = if is_one_variable(raw) { raw } else { REDACTED };
        // The default of a variable is a text as well.
        let stands_in_file = !raw.contains("${") || raw.contains(":-");
        Secret { text, shown: shown.to_owned(), stands_in_file }
    }

    pub(crate) fn to_lowercase(&self) -> Secret {
        Secret { text: self.text.to_ascii_lowercase(), ..self.clone() }
    }

    /// Whoever reads the file has it: no variable stands for it.
    #[must_use]
    pub fn stands_in_file(&self) -> bool {
        self.stands_in_file
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
