//! Who asks: the Authorization header, from a secret that may change in its file.

use crate::lock;
use base64::prelude::{BASE64_STANDARD, Engine};
use perf::errors::ErrorKey;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use ureq::http::HeaderValue;

/// Not printed, not even for debugging: what it holds is secret.
#[derive(Clone)]
pub enum Options {
    Basic { username: String, password: Source },
    Bearer { token: Source },
}

#[derive(Clone)]
pub enum Source {
    Text(String),
    File(PathBuf),
}

/// How often a file is looked at, whether it changed.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A file that is larger is another file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The header as it is now. A file is read again when it changed; while it cannot be read, or makes no
/// sense, what it held last stays: it may be half written.
pub struct Authorization {
    options: Options,
    /// Such as `sinks.loki.auth.basic.password_file`.
    key: String,
    held: Mutex<Held>,
}

struct Held {
    header: HeaderValue,
    file: Option<State>,
    looked: Instant,
    /// It was said that the file cannot be used.
    failing: bool,
}

/// What of a file changes when its content does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_ns: (i64, i64, i64, i64),
}

impl State {
    pub fn of(file: &Path) -> Option<State> {
        let meta = fs::metadata(file).ok()?;
        Some(State {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.size(),
            changed_ns: (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()),
        })
    }
}

impl Authorization {
    /// `sink` is where the sink's keys are, for errors; none repeats a secret.
    pub fn new(options: Options, sink: &str) -> Result<Authorization, String> {
        let key = match options {
            Options::Basic { .. } => format!("{sink}.auth.basic.password_file"),
            Options::Bearer { .. } => format!("{sink}.auth.bearer.token_file"),
        };
        let file = options.file().and_then(State::of);
        let header = options.header().map_err(|error| match options.file() {
            Some(file) => format!("{key}: {}: {error}", file.display()),
            None => format!("{}: {error}", key.trim_end_matches("_file")),
        })?;
        let held = Mutex::new(Held { header, file, looked: Instant::now(), failing: false });
        Ok(Authorization { options, key, held })
    }

    pub fn header(&self) -> HeaderValue {
        let mut held = self.held();
        if held.looked.elapsed() >= LOOK_INTERVAL {
            self.look(&mut held);
        }
        held.header.clone()
    }

    /// The header, where it is another than the one that was refused: the file is looked at in any
    /// case.
    pub fn instead_of(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let mut held = self.held();
        // Another sender may have read it already.
        if held.header == *refused {
            held.file = None;
            self.look(&mut held);
        }
        (held.header != *refused).then(|| held.header.clone())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    fn look(&self, held: &mut Held) {
        let Some(file) = self.options.file() else { return };
        held.looked = Instant::now();
        // Before it is read: what changes meanwhile is seen the next time.
        let state = State::of(file);
        if state.is_some() && state == held.file {
            return;
        }
        match self.options.header() {
            Ok(header) => {
                if header != held.header {
                    tracing::info!(file = %file.display(), "{} was read again", self.key);
                }
                *held = Held { header, file: state, looked: held.looked, failing: false };
            }
            Err(error) => {
                held.file = None;
                if !std::mem::replace(&mut held.failing, true) {
                    let file = file.display();
                    tracing::warn!(
                        error_key = ErrorKey::SecretUnreadable.name(),
                        %file, error,
                        "{}: what it held last is used", self.key
                    );
                }
            }
        }
    }
}

impl Options {
    fn source(&self) -> &Source {
        match self {
            Options::Basic { password: source, .. } | Options::Bearer { token: source } => source,
        }
    }

    fn file(&self) -> Option<&Path> {
        match self.source() {
            Source::Text(_) => None,
            Source::File(file) => Some(file),
        }
    }

    fn header(&self) -> Result<HeaderValue, String> {
        let secret = match self.source() {
            Source::Text(text) => text.clone(),
            Source::File(file) => read(file)?,
        };
        let text = match self {
            Options::Basic { username, .. } if !secret.contains(char::is_control) => {
                basic(username, &secret)
            }
            Options::Bearer { .. } if secret.chars().all(|c| c.is_ascii_graphic()) => {
                format!("Bearer {secret}")
            }
            _ => {
                return Err("expected one line of visible signs, found another sign in it; it is \
                            not shown"
                    .into());
            }
        };
        let mut header = HeaderValue::try_from(text).map_err(|error| error.to_string())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

pub fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

/// A secret without the line end behind it.
fn read(file: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| {
        format!("it cannot be read: {error}; check the path, and that this user may read it")
    };
    let mut text = String::new();
    let file = fs::File::open(file).map_err(unreadable)?;
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("expected at most {SECRET_BYTES_MAX} bytes, found more"));
    }
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err("expected a secret, found an empty file; write the secret to it".into());
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changes_and_when_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "one\n").unwrap();
        let token = Source::File(file.clone());
        let auth = Authorization::new(Options::Bearer { token }, "sinks.loki").unwrap();
        assert_eq!(auth.header(), "Bearer one");
        assert_eq!(auth.instead_of(&auth.header()), None, "it is the same");

        fs::write(&file, "two").unwrap();
        assert_eq!(auth.header(), "Bearer one", "it was looked at just now");
        let later = || auth.held().looked = Instant::now().checked_sub(LOOK_INTERVAL).unwrap();
        later();
        assert_eq!(auth.header(), "Bearer two");

        fs::write(&file, "").unwrap();
        later();
        assert_eq!(auth.header(), "Bearer two", "half written");
        fs::remove_file(&file).unwrap();
        later();
        assert_eq!(auth.header(), "Bearer two");
        assert!(auth.held().failing);
        fs::write(&file, "three\r\n").unwrap();
        let refused = HeaderValue::from_static("Bearer two");
        assert_eq!(auth.instead_of(&refused).unwrap(), "Bearer three", "at once");
        assert_eq!(auth.instead_of(&refused).unwrap(), "Bearer three", "another sender's");
        assert!(!auth.held().failing);
    }

    #[test]
    fn what_is_wrong_at_the_start_is_said_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let error = |content: &[u8]| {
            let file = dir.path().join("secret");
            fs::write(&file, content).unwrap();
            let options = Options::Basic { username: "me".into(), password: Source::File(file) };
            Authorization::new(options, "sinks.loki").err().unwrap_or_default()
        };
        assert_eq!(error(b"fine"), "");
        let found = error(b"\n");
        assert!(found.starts_with("sinks.loki.auth.basic.password_file: /"), "{found}");
        assert!(found.contains("expected a secret, found an empty file"), "{found}");
        let found = error(b"s3cret\ns3cret\n");
        assert!(
            found.contains("one line of visible signs") && !found.contains("s3cret"),
            "{found}"
        );
        assert!(error(&[0xff]).contains("cannot be read"), "{}", error(&[0xff]));
        assert!(error(&[b'x'; 1 << 17]).contains("at most 65536 bytes"));
        let token = Source::File(dir.path().join("none"));
        let missing = Authorization::new(Options::Bearer { token }, "sinks.loki").err().unwrap();
        assert!(
            missing.contains("bearer.token_file") && missing.contains("none: it cannot be read")
        );
    }

    #[test]
    fn basic_is_as_in_its_standard() {
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
