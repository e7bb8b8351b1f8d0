//! The pace at which the messages of one stream are read (A5).

use std::time::{Duration, Instant};

/// The time that each message costs.
const EACH: Duration = Duration::from_millis(100);
/// The messages that may come at once after a pause.
const BURST: u32 = 30;

/// Lets 30 messages come at once, and ten a second in the long run. A message that comes earlier is
/// not refused: it waits in the connection, whose flow control holds back the ones after it. An agent
/// with the shortest grace sends three a second.
pub(super) struct Pace {
    /// When the messages that were read have been paid for.
    paid_at: Instant,
}

impl Pace {
    /// A pace at which nothing was read yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { paid_at: now }
    }

    /// Counts a message that was read.
    pub(super) fn count(&mut self, now: Instant) {
        self.paid_at = self.paid_at.max(now) + EACH;
    }

    /// How long the next message is to wait.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let owed = self.paid_at.saturating_duration_since(now);
        owed.saturating_sub(EACH * (BURST - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a5_a_stream_reads_a_burst_and_then_ten_messages_a_second() {
        let _stopped = clock::testing::stop();
        let mut pace = Pace::new(clock::monotonic());
        let mut read = 0;
        for _ in 0..10_000 {
            if pace.wait(clock::monotonic()).is_zero() {
                pace.count(clock::monotonic());
                read += 1;
            } else {
                clock::testing::advance(Duration::from_millis(1));
            }
        }
        // Ten seconds, less one millisecond for each message.
        assert!((125..=130).contains(&read), "{read} messages");
        clock::testing::advance(Duration::from_secs(3600));
        assert!(pace.wait(clock::monotonic()).is_zero());
    }
}
