//! Tells systemd how it goes: READY, RELOADING, STOPPING, WATCHDOG. Without systemd all of it does nothing.

use perf::errors::ErrorKey;
use sd_notify::NotifyState;
use std::time::Duration;

pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Another configuration is being put in force; ends with [`ready`].
pub fn reloading() {
    let monotonic = NotifyState::monotonic_usec_now();
    let state = [NotifyState::Reloading].into_iter().chain(monotonic.ok());
    notify(&state.collect::<Vec<_>>());
}

pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often [`alive`] has to be said: half of what the unit's WatchdogSec allows.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(
            error_key = ErrorKey::NotifyFailed.name(),
            %error,
            "systemd cannot be notified"
        );
    }
}
