//! The one place that reads the wall clock, and the one that reads the monotonic clock.
//!
//! P5: time never goes back within a process, whatever is done to the wall clock. So what has
//! expired stays expired (L8).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds in a millisecond.
const NS: i64 = 1_000_000;

/// How far the wall clock was ahead of a monotonic clock at most.
struct Lead {
    /// The reading of the monotonic clock that counts as its zero.
    from: Instant,
    /// In nanoseconds.
    most: AtomicI64,
}

impl Lead {
    fn new(from: Instant) -> Self {
        Self {
            from,
            most: AtomicI64::new(i64::MIN),
        }
    }

    /// The time of which both clocks were read, the wall clock first: if the thread is put aside
    /// between the two, the lead only comes out too small. In nanoseconds since the epoch.
    fn time(&self, wall: i64, monotonic: Instant) -> i64 {
        let passed = self.passed(monotonic);
        let lead = wall.saturating_sub(passed);
        // Seldom written, since all cores read it.
        let mut most = self.most.load(Ordering::Relaxed);
        if lead > most {
            most = self.most.fetch_max(lead, Ordering::Relaxed).max(lead);
        }
        passed.saturating_add(most)
    }

    /// Nanoseconds since the zero of the monotonic clock.
    fn passed(&self, monotonic: Instant) -> i64 {
        nanoseconds(monotonic.saturating_duration_since(self.from))
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The lead of this process.
fn lead() -> &'static Lead {
    static LEAD: OnceLock<Lead> = OnceLock::new();
    LEAD.get_or_init(|| Lead::new(monotonic()))
}

/// Milliseconds since the Unix epoch. The time goes on with the monotonic clock where the wall clock
/// is set back or stands still, and follows the wall clock where that is ahead (L8).
#[must_use]
pub fn now_ms() -> i64 {
    #[cfg(test)]
    if let Some(now) = testing::stopped_time() {
        return now.div_euclid(NS);
    }
    let lead = lead();
    let wall = wall_ns();
    lead.time(wall, monotonic()).div_euclid(NS)
}

/// Milliseconds since the Unix epoch as the wall clock says it, which may go back; 0 if the wall
/// clock is before the epoch. It is compared with the store's clock, and decides nothing else.
#[must_use]
pub(crate) fn wall_ms() -> i64 {
    wall_ns().div_euclid(NS)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the broker that reads the wall clock"
)]
fn wall_ns() -> i64 {
    #[cfg(test)]
    if let Some((wall, _)) = testing::stopped_at() {
        return wall;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, nanoseconds)
}

/// Lets the time go on from `to_ms`, in milliseconds since the epoch, if it is more than `by` ahead
/// of that. For a wall clock that jumped ahead and came back to what the store says: nothing lives
/// longer by that than it was to.
pub(crate) fn take_back_jump(to_ms: i64, by: Duration) {
    let back = |lead: &Lead, monotonic| {
        let to = to_ms.saturating_mul(NS);
        let now = lead.time(to, monotonic);
        if now.saturating_sub(to) > nanoseconds(by) {
            let passed = lead.passed(monotonic);
            lead.most
                .store(to.saturating_sub(passed), Ordering::Relaxed);
        }
    };
    #[cfg(test)]
    if testing::with_stopped_lead(&back) {
        return;
    }
    back(lead(), monotonic());
}

/// The monotonic clock, for bounds (P5).
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the broker that reads the monotonic clock"
)]
pub fn monotonic() -> Instant {
    #[cfg(test)]
    if let Some((_, monotonic)) = testing::stopped_at() {
        return monotonic;
    }
    Instant::now()
}

/// The time since `earlier` on the monotonic clock.
#[must_use]
pub fn since(earlier: Instant) -> Duration {
    monotonic().saturating_duration_since(earlier)
}

/// Both clocks of one thread, stopped and moved by a test. Everything that a test on a runtime of
/// the current thread spawns sees the same clocks.
/// Both clocks of one thread, stopped and moved by a test. Everything that a test on a runtime of
/// the current thread spawns sees the same clocks.
#[cfg(test)]
pub(crate) mod testing {
    use std::cell::{Cell, RefCell};
    use std::time::{Duration, Instant};

    use super::{Lead, NS, nanoseconds};

    thread_local! {
        /// The wall clock, in nanoseconds since the epoch, and the monotonic clock.
        static STOPPED_AT: Cell<Option<(i64, Instant)>> = const { Cell::new(None) };
        /// The lead of this thread, which other tests do not change.
        static LEAD: RefCell<Option<Lead>> = const { RefCell::new(None) };
    }

    /// Where this thread's clocks stand, if they are stopped.
    pub(super) fn stopped_at() -> Option<(i64, Instant)> {
        STOPPED_AT.get()
    }

    /// The time of this thread, in nanoseconds since the epoch, if its clocks are stopped.
    pub(super) fn stopped_time() -> Option<i64> {
        let (wall, monotonic) = stopped_at()?;
        LEAD.with_borrow(|lead| lead.as_ref().map(|lead| lead.time(wall, monotonic)))
    }

    /// Calls a function with the lead of this thread; returns whether there is one.
    pub(super) fn with_stopped_lead(call: &dyn Fn(&Lead, Instant)) -> bool {
        let Some((_, monotonic)) = stopped_at() else {
            return false;
        };
        LEAD.with_borrow(|lead| lead.iter().for_each(|lead| call(lead, monotonic)));
        true
    }

    /// Keeps the clocks of this thread stopped until it is dropped.
    #[must_use]
    pub(crate) struct StoppedClock(());

    /// Stops both clocks of this thread where they are.
    pub(crate) fn stop() -> StoppedClock {
        let (wall, monotonic) = (super::wall_ms() * NS, super::monotonic());
        STOPPED_AT.set(Some((wall, monotonic)));
        LEAD.set(Some(Lead::new(monotonic)));
        StoppedClock(())
    }

    /// Moves both clocks of this thread ahead.
    pub(crate) fn advance(by: Duration) {
        let (wall, monotonic) = stopped_at().expect("the clocks are stopped");
        STOPPED_AT.set(Some((wall + nanoseconds(by), monotonic + by)));
    }

    /// Moves both clocks of this thread ahead to a moment, in milliseconds since the epoch.
    pub(crate) fn advance_to(at_ms: i64) {
        let ahead_ms = at_ms - super::now_ms();
        advance(Duration::from_millis(
            u64::try_from(ahead_ms).expect("a moment that is ahead"),
        ));
    }

    /// Sets the wall clock of this thread, by a number of milliseconds.
    pub(crate) fn set_wall(by_ms: i64) {
        let (wall, monotonic) = stopped_at().expect("the clocks are stopped");
        // What a broker does all the time: it asks before the clock is set.
        let _ = super::now_ms();
        STOPPED_AT.set(Some((wall + by_ms * NS, monotonic)));
    }

    impl Drop for StoppedClock {
        fn drop(&mut self) {
            STOPPED_AT.set(None);
            LEAD.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l8_time_goes_on_where_the_wall_clock_is_set_back() {
        let _stopped = testing::stop();
        let began_ms = now_ms();
        testing::advance(Duration::from_secs(10));
        testing::set_wall(-60_000);
        assert_eq!(now_ms(), began_ms + 10_000);
        testing::advance(Duration::from_secs(5));
        assert_eq!(
            (now_ms(), wall_ms()),
            (began_ms + 15_000, began_ms - 45_000)
        );
        testing::set_wall(61_000);
        assert_eq!(now_ms(), began_ms + 16_000);
    }

    #[test]
    fn a_jump_ahead_is_taken_back_and_a_small_one_is_not() {
        let _stopped = testing::stop();
        let began_ms = now_ms();
        let by = Duration::from_secs(1);
        testing::set_wall(1_000);
        take_back_jump(began_ms, by);
        assert_eq!(now_ms(), began_ms + 1_000);
        testing::set_wall(3_599_000);
        assert_eq!(now_ms(), began_ms + 3_600_000);
        testing::set_wall(-3_600_000);
        take_back_jump(began_ms, by);
        assert_eq!(now_ms(), began_ms);
        testing::advance(by);
        assert_eq!(now_ms(), began_ms + 1_000);
    }
}
