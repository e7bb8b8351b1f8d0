//! What a service manager is told: when the broker is ready, reloads, stops, and that it lives
//! (`sd_notify(3)`, `sd_watchdog_enabled(3)`). systemd listens, and so does whoever speaks its
//! protocol.

#![expect(
    clippy::disallowed_methods,
    reason = "sd_notify(3): socket and watchdog are in the environment"
)]

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

/// How long a watchdog that is off sleeps: nobody waits for it.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// The service manager of this process, if there is one.
pub(crate) struct ServiceManager {
    socket: Option<OsString>,
    watchdog: tokio::time::Interval,
    is_watched: bool,
}

impl ServiceManager {
    /// The one that the environment names.
    pub(crate) fn from_env() -> Self {
        let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
        // The variable may be meant for another process (sd_watchdog_enabled(3)).
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let limit = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0);
        // Half of the limit, as sd_watchdog_enabled(3) advises.
        let period = limit.map(|usec| Duration::from_micros(usec.div_ceil(2)));
        let mut watchdog = tokio::time::interval(period.unwrap_or(NEVER));
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog,
            is_watched: period.is_some(),
        }
    }

    /// The process has started, or has reloaded.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The process reloads its configuration; [`Self::ready`] follows. The time is that of the kernel's
    /// monotonic clock, by which systemd knows which of its own requests the reload answers.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now
            .tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(now.tv_nsec.div_euclid(1000));
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// The process stops.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Waits until it is time to say that the process lives, and says so. Whoever polls this beside
    /// its work is alive.
    pub(crate) async fn live(&mut self) {
        self.watchdog.tick().await;
        if self.is_watched {
            self.tell("WATCHDOG=1");
        }
    }

    /// Sends a state in one datagram.
    fn tell(&self, state: &str) {
        let Some(path) = &self.socket else {
            return;
        };
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        };
        let sent = address
            .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
        if let Err(error) = sent {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }
}
