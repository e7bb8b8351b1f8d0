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
/// Most open challenges of a connection; the oldest gives way (AC-84).
const MAX_CHALLENGES: usize = 32;

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
        let mut nonce = [0; 32];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| Refusal::Seal {
                what: "nonce",
                cause: SealError::Random,
            })?;
        self.issue(nonce);
        Ok((
            nonce,
            clock::now_ms().saturating_add(i64::try_from(CHALLENGE_LIFE.as_millis()).unwrap_or(0)),
        ))
    }

    fn issue(&self, nonce: Nonce) {
        let mut open = self.challenges();
        if open.len() >= MAX_CHALLENGES {
            open.pop_front();
        }
        open.push_back((nonce, clock::monotonic()));
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
