//! Tells the service manager how the process does (`sd_notify`).
//!
//! Silent without systemd: `NOTIFY_SOCKET` is then unset and every call does nothing. Failing to tell is
//! never a reason to stop serving.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells that the node serves (`Type=notify` units wait for it), and what it serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that a reload has begun; [`ready`] ends it. `Type=notify-reload` units want the time with it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Tells that the node drains and stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Feeds the watchdog at half its interval for as long as the runtime turns; returns at once where the
/// unit sets no `WatchdogSec`.
pub async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) else { return };
    let mut ticks = tokio::time::interval((interval / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
