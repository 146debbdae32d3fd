//! The log of the process itself: one line for each event, to standard error.
//!
//! Two layers see an event. One counts it by its `error_key`, whatever becomes of its line; the other
//! writes it, where the level allows it, as `line` has it. What one place says again and again is
//! left out and said as a sum (`repeats`).

mod line;
mod repeats;

use config::Log;
use io::tail::{Identity, identity_of};
use line::{Fields, Form, Style};
use perf::errors::ErrorKey;
use repeats::{Repeats, Sum, Verdict};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Debug;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Overrides the level of the configuration.
const FILTER_VARIABLE: &str = "LOG_CAPTURER_LOG";

/// Each is a loss of its own, of which every one is to be known; there are no more than segments, frames or
/// files.
const ALWAYS_SAID: [ErrorKey; 5] = [
    ErrorKey::WalGap,
    ErrorKey::WalDamaged,
    ErrorKey::FileLost,
    ErrorKey::DlqDamaged,
    ErrorKey::DlqUnreadable,
];

type SetLevel = Box<dyn Fn(config::Level) + Send + Sync>;

/// None where the level of the configuration does not count.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();
static OWN_LOG: OnceLock<Arc<OwnLog>> = OnceLock::new();

/// From here on events are written and counted. Once in a process.
pub fn start(options: Log) {
    let own = Arc::new(OwnLog { style: style(options.format), repeats: Repeats::default() });
    if OWN_LOG.set(own.clone()).is_err() {
        return;
    }
    let asked = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let (filter, wrong) = match asked.as_deref().map(str::parse::<EnvFilter>) {
        None => (EnvFilter::new(options.level.name()), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(options.level.name()), Some(error)),
    };
    let by_level = asked.is_none() || wrong.is_some();
    let (filter, handle) = reload::Layer::new(filter);
    if by_level {
        // It cannot fail while the log is there.
        let set = move |level: config::Level| drop(handle.reload(EnvFilter::new(level.name())));
        let _ = SET_LEVEL.set(Box::new(set));
    }
    let written = Writing(own.clone()).with_filter(filter);
    // One that is there already stays: a test's.
    let _ =
        Registry::default().with(Counting.with_filter(LevelFilter::WARN)).with(written).try_init();
    if let Some(error) = wrong {
        tracing::warn!(
            error_key = ErrorKey::LogFilter.name(),
            %error,
            "{FILTER_VARIABLE} is not understood; log.level counts"
        );
    }
    // Rests until something is left out.
    let sums = std::thread::Builder::new().name("own-log".into());
    let spawned = sums.spawn(move || own.repeats.wait_for_sums(|sum| own.say(&sum)));
    spawned.expect("a thread can be made at the start");
}

/// Another level counts from now on.
pub fn set_level(level: config::Level) {
    if let Some(set) = SET_LEVEL.get() {
        set(level);
    }
}

/// Says what was left out so far. To be called before the process ends.
pub fn finish() {
    if let Some(own) = OWN_LOG.get() {
        own.repeats.say_all(|sum| own.say(&sum));
    }
}

/// The last thing that the process says: whatever the level, and what was left out before it.
pub fn last(reason: ErrorKey, message: &str, more: &[(&str, &str)]) {
    let Some(own) = OWN_LOG.get() else { return };
    reason.count();
    finish();
    let mut fields = Fields::new(own.style);
    fields.add_message(message);
    fields.add_text("error_key", reason.name());
    more.iter().for_each(|(name, text)| fields.add_text(name, text));
    write(&line::whole(own.style, Level::ERROR, &fields));
}

/// A bug, before the process aborts.
pub fn panicked(panic: &PanicHookInfo<'_>) {
    let why = panic.payload_as_str().unwrap_or("for no reason that is a text");
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let trace = Backtrace::capture();
    let trace =
        if trace.status() == BacktraceStatus::Captured { trace.to_string() } else { String::new() };
    let mut more = vec![("thread", thread.name().unwrap_or_default()), ("place", &place)];
    more.extend((!trace.is_empty()).then_some(("backtrace", trace.as_str())));
    last(ErrorKey::Panic, &format!("panicked: {why}"), &more);
}

/// Whether the panics of this process go to its log.
#[must_use]
pub fn is_started() -> bool {
    OWN_LOG.get().is_some()
}

/// Where this log goes, as far as that is files. They are no sources: a line about each line of them
/// would be one without end.
#[must_use]
pub fn files() -> Vec<Identity> {
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    [identity_of(&stdout), identity_of(&stderr)].into_iter().flatten().collect()
}

fn style(format: config::Format) -> Style {
    let stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    let form = match format {
        config::Format::Auto if terminal => Form::Text,
        config::Format::Auto | config::Format::Logfmt => Form::Logfmt,
        config::Format::Json => Form::Json,
        config::Format::Text => Form::Text,
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style {
        form,
        colored: terminal && !no_color && form == Form::Text,
        journal: is_journal(&stderr),
    }
}

/// systemd says in JOURNAL_STREAM which device and inode its journal is, for it may have been replaced
/// since.
fn is_journal(stderr: &impl AsFd) -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(fd) = stderr.as_fd().try_clone_to_owned() else { return false };
    let found = std::fs::File::from(fd).metadata();
    found.is_ok_and(|found| journal == format!("{}:{}", found.dev(), found.ino()))
}

struct OwnLog {
    style: Style,
    repeats: Repeats,
}

impl OwnLog {
    fn take(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let key = Key::of(event);
        let verdict = if key.is_some_and(|key| ALWAYS_SAID.contains(&key)) {
            Verdict::Say(None)
        } else {
            self.repeats.judge(metadata, Instant::now())
        };
        if let Verdict::LeaveOut { first: false } = verdict {
            return;
        }
        let mut fields = Fields::new(self.style);
        event.record(&mut fields);
        match verdict {
            Verdict::Say(None) => {}
            Verdict::Say(Some(sum)) => self.say(&sum),
            Verdict::LeaveOut { .. } => {
                return self.repeats.name(metadata, fields.message(), key);
            }
        }
        write(&line::whole(self.style, *metadata.level(), &fields));
    }

    /// Stands for so many more of the same.
    fn say(&self, sum: &Sum) {
        let mut fields = Fields::new(self.style);
        fields.add_message(&sum.message);
        if let Some(key) = sum.error_key {
            fields.add_text("error_key", key.name());
        }
        fields.add_number("suppressed", sum.suppressed);
        write(&line::whole(self.style, *sum.metadata.level(), &fields));
    }
}

/// In one piece. There is nobody to tell that it fails.
fn write(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

struct Writing(Arc<OwnLog>);

impl<S: Subscriber> Layer<S> for Writing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.take(event);
    }
}

/// So that log and metric cannot disagree.
struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        Key::of(event).unwrap_or(ErrorKey::Other).count();
    }
}

/// The `error_key` of an event.
#[derive(Default)]
struct Key(Option<ErrorKey>);

impl Key {
    fn of(event: &Event<'_>) -> Option<ErrorKey> {
        let mut key = Key::default();
        event.record(&mut key);
        key.0
    }
}

impl Visit for Key {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "error_key" {
            self.0 = ErrorKey::of_name(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_counted_by_its_key_and_what_has_none_as_other() {
        let before = (ErrorKey::NotifyFailed.counted(), ErrorKey::Other.counted());
        let subscriber = Registry::default().with(Counting.with_filter(LevelFilter::WARN));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(error_key = ErrorKey::NotifyFailed.name(), "one");
            tracing::error!(error_key = ErrorKey::NotifyFailed.name(), "two");
            tracing::info!(error_key = ErrorKey::NotifyFailed.name(), "no error");
            tracing::warn!("without");
        });
        let after = (ErrorKey::NotifyFailed.counted(), ErrorKey::Other.counted());
        assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1));
    }
}
