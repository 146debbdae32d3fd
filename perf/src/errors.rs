//! Why something was said as a warning or an error: a fixed set of names. One name is the `error_key`
//! in the log and the label `reason` of `log_capturer_errors_total`.

use prometheus::{IntCounter, IntCounterVec, Opts};
use std::sync::LazyLock;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $key:ident $name:literal,)*) => {
        /// What went wrong, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorKey {
            $($(#[doc = $doc])+ $key,)*
        }

        impl ErrorKey {
            /// Every one there is, in this order.
            pub const ALL: [ErrorKey; [$($name),*].len()] = [$(ErrorKey::$key),*];

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(ErrorKey::$key => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// A source cannot be opened or read now.
    SourceUnreadable "source_unreadable",
    /// A file that an earlier run was reading is gone.
    FileLost "file_lost",
    /// A source is the log of this process and is not followed.
    OwnLog "own_log",
    /// inotify lost events.
    DiscoveryOverflow "discovery_overflow",
    /// There are no more inotify watches.
    WatchLimit "watch_limit",
    /// There are more files than are followed.
    FilesLimit "files_limit",
    /// No more files are found: the process stops.
    DiscoveryFailed "discovery_failed",
    /// The quota or the disk is used up: sources wait.
    WalFull "wal_full",
    /// A write to the log failed.
    WalWriteFailed "wal_write_failed",
    /// The log cannot be read back now.
    WalUnreadable "wal_unreadable",
    /// Durable frames cannot be read: they are lost.
    WalGap "wal_gap",
    /// A file of the log is damaged.
    WalDamaged "wal_damaged",
    /// The disk has no room for a checkpoint.
    CheckpointNoRoom "checkpoint_no_room",
    /// A push failed and is sent again.
    PushFailed "push_failed",
    /// A push is held back: the sink refuses service.
    PushHeld "push_held",
    /// The sink refuses entries for good.
    EntriesRefused "entries_refused",
    /// A file of a password or token cannot be used.
    SecretUnreadable "secret_unreadable",
    /// A file of TLS cannot be used.
    TlsUnreadable "tls_unreadable",
    /// A dead-letter queue cannot be written to now.
    DlqWriteFailed "dlq_write_failed",
    /// Something in a dead-letter queue cannot be read or understood.
    DlqUnreadable "dlq_unreadable",
    /// Something in a dead-letter queue is damaged.
    DlqDamaged "dlq_damaged",
    /// Entries of a full dead-letter queue were dropped.
    DlqDropped "dlq_dropped",
    /// TLS did not begin on connections.
    HandshakesFailed "handshakes_failed",
    /// Requests were refused for who asked.
    RequestsRefused "requests_refused",
    /// The audit log cannot be written to.
    AuditUnwritable "audit_unwritable",
    /// A connection could not be accepted.
    AcceptFailed "accept_failed",
    /// There are fewer descriptors than connections may need.
    DescriptorsFew "descriptors_few",
    /// A thread is not on the CPU that is meant for it.
    ThreadUnpinned "thread_unpinned",
    /// The configuration has a key by the name that it had before.
    ConfigRenamed "config_renamed",
    /// A configuration that was asked for is not put in force.
    ReloadFailed "reload_failed",
    /// A configuration that was rolled back to cannot be written to its file.
    ConfigUnwritable "config_unwritable",
    /// A configuration in force cannot be kept.
    HistoryUnwritable "history_unwritable",
    /// systemd cannot be notified.
    NotifyFailed "notify_failed",
    /// LOG_CAPTURER_LOG is not understood.
    LogFilter "log_filter",
    /// `data_dir/format` cannot be written.
    FormatUnnoted "format_unnoted",
    /// GET /health says worse than before.
    HealthWorse "health_worse",
    /// The end was not waited for.
    DrainCutShort "drain_cut_short",
    /// A shard failed: the process stops.
    ShardFailed "shard_failed",
    /// The process does not start, or ends by an error.
    RunFailed "run_failed",
    /// A bug: the process aborts.
    Panic "panic",
    /// A library said so, without a name.
    Other "other",
}

struct Counters {
    family: IntCounterVec,
    of: [IntCounter; ErrorKey::ALL.len()],
}

/// Of the process: from the start on, each is there.
static COUNTERS: LazyLock<Counters> = LazyLock::new(|| {
    let help = "Warnings and errors by reason, which is the error_key in the log; those that the log leaves out count as well.";
    let family = IntCounterVec::new(Opts::new("log_capturer_errors_total", help), &["reason"])
        .expect("a valid name");
    let of = ErrorKey::ALL.map(|key| family.with_label_values(&[key.name()]));
    Counters { family, of }
});

impl ErrorKey {
    /// The one of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<ErrorKey> {
        ErrorKey::ALL.into_iter().find(|key| key.name() == name)
    }

    pub fn count(self) {
        self.counter().inc();
    }

    /// How often it was counted.
    #[must_use]
    pub fn counted(self) -> u64 {
        self.counter().get()
    }

    fn counter(self) -> &'static IntCounter {
        &COUNTERS.of[self as usize]
    }
}

/// All reasons, to be registered.
#[must_use]
pub fn family() -> IntCounterVec {
    COUNTERS.family.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ErrorKey::ALL.iter().map(|key| key.name()).collect();
        assert_eq!(names.len(), ErrorKey::ALL.len());
        for key in ErrorKey::ALL {
            let name = key.name();
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(ErrorKey::of_name(name), Some(key));
        }
        assert_eq!(ErrorKey::of_name("nothing"), None);
    }

    #[test]
    fn every_reason_is_exposed_from_the_start() {
        let times = crate::recorder::Times::new(1, 1, std::time::Duration::ZERO, false);
        let metrics = crate::metrics::Metrics::new(1, &["loki".into()], &[], times);
        ErrorKey::WalFull.count();
        let text = String::from_utf8(metrics.encode(crate::exposition::Format::Text)).unwrap();
        for key in ErrorKey::ALL {
            let line = format!(
                "log_capturer_errors_total{{reason=\"{}\"}} {}\n",
                key.name(),
                u8::from(key == ErrorKey::WalFull)
            );
            assert!(text.contains(&line), "{line} is missing in {text}");
        }
    }
}
