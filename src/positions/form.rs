//! A position as a line of JSON: what `positions export` prints and `positions import` takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use io::format::Cursor;
use io::tail::Fingerprint;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The JSON. Of a position that is imported, `path` and `offset` are enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Under which it was first found: its label.
    pub path: Name,
    /// Where it is now; none where it was not found.
    #[serde(default)]
    pub file: Option<Name>,
    pub offset: u64,
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub behind_bytes: Option<u64>,
    /// The last timestamp given to its stream.
    #[serde(default)]
    pub stamp_ns: Option<i64>,
    /// The rest of a line that was cut is being skipped.
    #[serde(default)]
    pub skipping: bool,
    #[serde(default)]
    pub dev: String,
    #[serde(default)]
    pub ino: u64,
    /// 0 where the file system keeps none.
    #[serde(default)]
    pub birth_ns: i64,
    /// Of the file's first bytes.
    #[serde(default)]
    pub fingerprint: Option<Print>,
    /// Whose log says it.
    #[serde(default)]
    pub shard: Option<usize>,
}

/// How many bytes, and their CRC-32C.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    pub bytes: u16,
    pub crc32c: u32,
}

/// A path; one that is no text is `{"base64": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Name {
    Text(String),
    Bytes { base64: String },
}

impl Name {
    #[must_use]
    pub fn of(path: &Path) -> Name {
        match path.to_str() {
            Some(text) => Name::Text(text.to_owned()),
            None => Name::Bytes { base64: BASE64.encode(path.as_os_str().as_bytes()) },
        }
    }

    pub fn path(&self) -> Result<PathBuf, String> {
        match self {
            Name::Text(text) => Ok(text.into()),
            Name::Bytes { base64 } => {
                let bytes = BASE64.decode(base64).map_err(|error| format!("base64: {error}"))?;
                Ok(OsString::from_vec(bytes).into())
            }
        }
    }
}

impl From<Fingerprint> for Print {
    fn from(Fingerprint { len, crc }: Fingerprint) -> Print {
        Print { bytes: len, crc32c: crc }
    }
}

impl From<Print> for Fingerprint {
    fn from(Print { bytes, crc32c }: Print) -> Fingerprint {
        Fingerprint { len: bytes, crc: crc32c }
    }
}

/// As `ls` and `stat` show it.
#[must_use]
pub fn device(cursor: &Cursor) -> String {
    let dev = cursor.identity.dev;
    format!("{}:{}", dev >> 32, dev & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_comes_back_and_two_fields_are_enough() {
        for bytes in [&b"/var/log/\xc3\xbc.log"[..], b"/var/log/\xff.log"] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let text = serde_json::to_string(&Name::of(&path)).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&text).unwrap().path().unwrap(), path);
        }
        let form: Form = serde_json::from_str(r#"{"path": "/a", "offset": 7, "more": 1}"#).unwrap();
        assert_eq!((form.offset, form.fingerprint), (7, None));
        assert!(serde_json::from_str::<Form>(r#"{"path": "/a", "offset": -7}"#).is_err());
    }
}
