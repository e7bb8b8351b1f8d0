//! A TLS channel, and the challenges that were issued on it.
//!
//! P2: a challenge lives in the connection on which it was issued, and is consumed before anything
//! else happens.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use sundew_attestation::Nonce;
use sundew_core::SealError;

use crate::clock;
use crate::refusal::Refusal;

/// Longest time between a challenge and its answer.
const CHALLENGE_LIFE: Duration = Duration::from_secs(60);
/// Most open challenges of a connection (AC-84): as many as it has streams by default. L17: one more
/// is refused, because it would take one away from a call that is under way.
const MAX_CHALLENGES: usize = 256;

/// A TLS channel, with the challenges that were issued on it.
pub(crate) struct Channel {
    exporter: [u8; 32],
    challenges: Mutex<VecDeque<(Nonce, Instant)>>,
}

impl Channel {
    /// A channel with this channel binding, and without challenges.
    pub(crate) fn new(exporter: [u8; 32]) -> Self {
        Self {
            exporter,
            challenges: Mutex::default(),
        }
    }

    /// The channel binding of RFC 9266.
    #[must_use]
    pub(crate) fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    fn challenges(&self) -> MutexGuard<'_, VecDeque<(Nonce, Instant)>> {
        self.challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues a challenge that is good on this channel; answers it and when it ends, in
    /// milliseconds since the epoch.
    pub(crate) fn challenge(&self) -> Result<(Nonce, i64), Refusal> {
        let nonce = new_nonce()?;
        let mut open = self.challenges();
        while open
            .front()
            .is_some_and(|(_, issued)| clock::since(*issued) >= CHALLENGE_LIFE)
        {
            open.pop_front();
        }
        if open.len() >= MAX_CHALLENGES {
            return Err(Refusal::ChallengeLimit);
        }
        open.push_back((nonce, clock::monotonic()));
        Ok((
            nonce,
            clock::now_ms().saturating_add(i64::try_from(CHALLENGE_LIFE.as_millis()).unwrap_or(0)),
        ))
    }

    /// Takes a challenge out, and says whether it was issued on this channel and is in time. P2:
    /// the challenge is gone, whatever happens next.
    #[must_use]
    pub(crate) fn consume(&self, nonce: &[u8]) -> bool {
        let mut open = self.challenges();
        let found = open
            .iter()
            .position(|(own, _)| subtle::ConstantTimeEq::ct_eq(own.as_slice(), nonce).into());
        found
            .and_then(|index| open.remove(index))
            .is_some_and(|(_, issued)| clock::since(issued) < CHALLENGE_LIFE)
    }
}

/// A nonce for whoever keeps it himself until it is answered, such as a stream.
pub(crate) fn new_nonce() -> Result<Nonce, Refusal> {
    let mut nonce = [0; 32];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| Refusal::Seal {
            what: "nonce",
            cause: SealError::Random,
        })?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l17_one_challenge_too_many_is_refused_and_takes_none_away() {
        let _stopped = clock::testing::stop();
        let channel = Channel::new([0; 32]);
        let open: Vec<_> = (0..MAX_CHALLENGES)
            .map(|_| channel.challenge().unwrap().0)
            .collect();
        assert!(matches!(channel.challenge(), Err(Refusal::ChallengeLimit)));
        assert!(channel.consume(&open[0]) && !channel.consume(&open[0]));
        channel.challenge().unwrap();
        assert!(channel.challenge().is_err());
        // What nobody answers is forgotten after its time.
        clock::testing::advance(CHALLENGE_LIFE);
        channel.challenge().unwrap();
        assert_eq!(channel.challenges().len(), 1);
        assert!(!channel.consume(&open[1]));
    }
}
