//! Which configuration is in force, and how it is changed while the process runs.
//!
//! What is asked for ([`Asked`]) is read and checked here ([`Settings::check`]), and put in force by
//! [`crate::appliance`]. What was in force is kept ([`history`]), so that it can be again.

pub mod command;
pub mod difference;
pub mod history;

use crate::lock;
use config::Config;
use difference::Change;
use history::{History, HistoryError};
use perf::errors::ErrorKey;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What a running process does not change: the key and all below it.
const FIXED: [&str; 14] = [
    "data_dir",
    "cores",
    "server.listen",
    "server.limits.connections_max",
    "server.limits.address_connections_max",
    "server.limits.head_bytes_max",
    "server.limits.headers_max",
    "server.limits.head_timeout",
    "server.limits.idle_timeout",
    "server.limits.body_timeout",
    "server.limits.body_rate_min",
    "metrics.listen",
    "log.format",
    "sources.open_files_max",
];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// What stands in the file.
    Reload,
    /// A version that was in force before; none: the last one before this.
    Rollback(Option<u64>),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Changed {
        changes: Vec<Change>,
        /// What went wrong all the same.
        warning: Option<String>,
    },
    /// It is in force already.
    Unchanged,
    /// It is wrong, or cannot be put in force; what is in force goes on.
    Refused(String),
    /// There is no such version.
    Unknown(String),
    /// Not now.
    Busy(String),
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Changed { changes, .. } => write!(f, "changed: {} keys", changes.len()),
            Outcome::Unchanged => f.write_str("unchanged"),
            Outcome::Refused(why)
            | Outcome::Unknown(why)
            | Outcome::Busy(why)
            | Outcome::Failed(why) => f.write_str(why),
        }
    }
}

/// Where an outcome is waited for.
pub type Answer = Arc<Mutex<Option<Outcome>>>;

type Told = dyn Fn(&Outcome) + Send;

/// A change that somebody asks for. Whoever waits for its outcome gets one.
pub struct Asked {
    pub what: What,
    answer: Answer,
    /// Told of it as well.
    told: Option<Box<Told>>,
}

impl Asked {
    #[must_use]
    pub fn new(what: What) -> (Asked, Answer) {
        let answer = Answer::default();
        (Asked { what, answer: answer.clone(), told: None }, answer)
    }

    /// By nobody who waits for the outcome, of which `told` hears.
    pub fn unheard(told: impl Fn(&Outcome) + Send + 'static) -> Asked {
        Asked { what: What::Reload, answer: Answer::default(), told: Some(Box::new(told)) }
    }

    pub fn answer(&self, outcome: Outcome) {
        let mut answer = lock(&self.answer);
        if answer.is_none() {
            self.told.iter().for_each(|told| told(&outcome));
            *answer = Some(outcome);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.answer(Outcome::Failed("the process stops".into()));
    }
}

/// What a file is told apart by, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    ino: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Stamp> {
        let meta = fs::metadata(file).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Some(Stamp { ino: meta.ino(), size: meta.size(), modified })
    }
}

pub struct Settings {
    /// None where the command line said it all.
    file: Option<PathBuf>,
    in_force: Arc<Config>,
    /// As the file stood when it was read last.
    stamp: Option<Stamp>,
    /// As it stood when it was looked at last.
    seen: Option<Stamp>,
    /// What was checked last.
    text: String,
}

impl Settings {
    pub fn of_file(file: &Path) -> Result<Settings, config::Errors> {
        let stamp = Stamp::of(file);
        let text = config::read(file)?;
        let config = config::of_text(&text, file)?;
        Ok(Settings {
            file: Some(file.to_owned()),
            in_force: Arc::new(config),
            stamp,
            seen: stamp,
            text,
        })
    }

    /// Without a file: it stays as it is.
    #[must_use]
    pub fn fixed(config: Config) -> Settings {
        let text = config.to_yaml();
        Settings { file: None, in_force: Arc::new(config), stamp: None, seen: None, text }
    }

    #[must_use]
    pub fn in_force(&self) -> Arc<Config> {
        self.in_force.clone()
    }

    fn history(&self) -> History {
        History::of(&self.in_force.data_dir)
    }

    /// Once data_dir is this process's own.
    pub fn started(&self) {
        self.keep();
    }

    /// Whether the file is to be watched, and is another one now.
    pub fn has_changed(&mut self) -> bool {
        let Some(file) = self.file.as_deref().filter(|_| self.in_force.reload.watch) else {
            return false;
        };
        let stamp = Stamp::of(file);
        // One that is gone is being replaced, one that is another one at each look is being written.
        let rests = std::mem::replace(&mut self.seen, stamp) == stamp;
        stamp.is_some() && stamp != self.stamp && rests
    }

    /// The configuration that is asked for, where it is another one and can be put in force.
    pub fn check(&mut self, asked: &Asked) -> Result<Option<Config>, Outcome> {
        let Some(file) = &self.file else {
            let why =
                "there is no configuration file; start with --config FILE to be able to change it";
            return Err(Outcome::Refused(why.into()));
        };
        let refused = |error: &dyn fmt::Display| Outcome::Refused(error.to_string());
        let (text, name) = match asked.what {
            What::Reload => {
                self.stamp = Stamp::of(file);
                (config::read(file).map_err(|error| refused(&error))?, file.clone())
            }
            What::Rollback(version) => {
                let history = self.history();
                let version = history.version(version).map_err(|error| match error {
                    HistoryError::Failed { .. } => Outcome::Failed(error.to_string()),
                    HistoryError::Unknown { .. } | HistoryError::First => {
                        Outcome::Unknown(error.to_string())
                    }
                })?;
                (version.read().map_err(|error| refused(&error))?, version.path)
            }
        };
        let config = config::of_text(&text, &name).map_err(|error| refused(&error))?;
        if config == *self.in_force {
            // What stands in the file may be another one all the same.
            self.text = text;
            return match self.write_back(asked) {
                None => Ok(None),
                Some(why) => Err(Outcome::Failed(why)),
            };
        }
        let changes = difference::between(&self.in_force, &config);
        let is_fixed = |key: &str| {
            let below = |fixed: &&str| {
                key.strip_prefix(*fixed)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            FIXED.iter().any(below)
        };
        let fixed: Vec<&str> =
            changes.iter().map(|change| change.key.as_str()).filter(|key| is_fixed(key)).collect();
        if !fixed.is_empty() {
            return Err(Outcome::Refused(format!(
                "{}: cannot be changed while the process runs; restart it for that, or take the change \
                 back and reload",
                fixed.join(", ")
            )));
        }
        self.text = text;
        Ok(Some(config))
    }

    /// What was checked last is in force. Gives what is different now, and what went wrong all the same.
    pub fn put_in_force(
        &mut self,
        config: Arc<Config>,
        asked: &Asked,
    ) -> (Vec<Change>, Option<String>) {
        let changes = difference::between(&self.in_force, &config);
        self.in_force = config;
        let warning = self.write_back(asked);
        self.keep();
        (changes, warning)
    }

    /// What was rolled back to stands in the file: else the next start would undo it. Gives what went wrong.
    fn write_back(&mut self, asked: &Asked) -> Option<String> {
        let file = self.file.as_deref().filter(|_| matches!(asked.what, What::Rollback(_)))?;
        let written = history::replace_keeping(file, &self.text);
        self.stamp = Stamp::of(file);
        let error = written.err()?;
        tracing::error!(
            error_key = ErrorKey::ConfigUnwritable.name(),
            file = %file.display(), %error,
            "the version that was rolled back to is in force, but it could not be written to the file: write \
             it there, or the next start undoes this"
        );
        Some(format!(
            "{}: {error}: it is in force, but not in the file; write it there, or the next start undoes this",
            file.display()
        ))
    }

    fn keep(&self) {
        let hash = crate::options::hash(&self.in_force);
        let kept: Result<(), HistoryError> = self.history().add(&self.text, &hash);
        if let Err(error) = kept {
            tracing::warn!(
                error_key = ErrorKey::HistoryUnwritable.name(),
                %error,
                "this configuration is not kept: it cannot be rolled back to"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, more: &str) -> PathBuf {
        let file = dir.join("config.yaml");
        let text = format!(
            "version: 1\ndata_dir: {}/data\nsources: {{ files: [{{ include: [/x/*.log] }}] }}\n\
             sinks: {{ loki: {{ url: \"http://127.0.0.1:3100\" }} }}\n{more}",
            dir.display()
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn check(settings: &mut Settings) -> Result<Option<Config>, Outcome> {
        settings.check(&Asked::new(What::Reload).0)
    }

    #[test]
    fn what_is_asked_for_is_checked_and_what_is_fixed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::of_file(&file(dir.path(), "")).unwrap();
        assert_eq!(check(&mut settings), Ok(None), "it is in force");
        file(dir.path(), "# a remark\n");
        assert_eq!(check(&mut settings), Ok(None), "a remark changes nothing");
        file(dir.path(), "drain_timeout: 3s\n");
        assert!(check(&mut settings).unwrap().is_some());
        file(dir.path(), "drain_timeout: 3s\ncores: { shards: 2 }\n");
        let Err(Outcome::Refused(why)) = check(&mut settings) else { panic!("it is fixed") };
        assert!(why.starts_with("cores.shards: cannot be changed while"), "{why}");
        file(dir.path(), "drain_timeout: 3 parsecs\n");
        let Err(Outcome::Refused(why)) = check(&mut settings) else { panic!("it is wrong") };
        assert!(why.contains("config.yaml:5: drain_timeout"), "{why}");
    }

    #[test]
    fn whoever_asks_gets_an_answer() {
        let (asked, answer) = Asked::new(What::Reload);
        drop(asked);
        assert!(matches!(*lock(&answer), Some(Outcome::Failed(_))));
        let (asked, answer) = Asked::new(What::Reload);
        asked.answer(Outcome::Unchanged);
        drop(asked);
        assert_eq!(*lock(&answer), Some(Outcome::Unchanged));
    }
}
