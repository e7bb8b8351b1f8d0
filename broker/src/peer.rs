//! The peer of a connection: its verified SVID, its TLS channel, and the challenges issued on it.
//!
//! P1: made only by the acceptor. P2: a challenge lives in the connection it was issued on and is
//! consumed before anything else happens. P7: expiry and trust are looked at on every call, not
//! only at the handshake (T07).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use governor::DefaultDirectRateLimiter;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::CertificateDer;
use sundew_attestation::Nonce;
use sundew_attestation::spiffe::{SpiffeId, SvidError, VerifiedSvid, validate_chain};
use sundew_core::SealError;

use crate::clock;
use crate::refusal::Refusal;
use crate::trust::Trust;

/// How long a challenge may be answered.
const CHALLENGE_LIFE: Duration = Duration::from_secs(60);
/// Most open challenges of one connection; the oldest gives way (AC-84).
const MAX_CHALLENGES: usize = 32;

/// Who is at the other end of a connection.
#[derive(Clone)]
pub enum Caller {
    /// Nobody who is known: the enrollment listener.
    Anonymous(Arc<Channel>),
    /// A workload.
    Workload(Arc<Peer>),
}

/// See the module.
pub struct Peer {
    svid: VerifiedSvid,
    chain: Vec<CertificateDer<'static>>,
    channel: Channel,
    remote: SocketAddr,
    trusted_in: AtomicU64,
    limiter: OnceLock<Arc<DefaultDirectRateLimiter>>,
}

impl Peer {
    /// Made by the acceptor out of what the handshake proved.
    pub(crate) fn new(
        svid: VerifiedSvid,
        generation: u64,
        chain: Vec<CertificateDer<'static>>,
        exporter: [u8; 32],
        remote: SocketAddr,
    ) -> Self {
        Self {
            svid,
            chain,
            channel: Channel::new(exporter),
            remote,
            trusted_in: AtomicU64::new(generation),
            limiter: OnceLock::new(),
        }
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// What the handshake proved.
    pub fn svid(&self) -> &VerifiedSvid {
        &self.svid
    }

    /// Where it is.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Its TLS channel, and the challenges issued on it.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether its SVID is good at this moment under the trust of this moment.
    pub fn check(&self, trust: &Trust, now_ms: i64) -> Result<(), SvidError> {
        if now_ms >= self.svid.not_after_ms() {
            return Err(SvidError::Expired);
        }
        let current = trust.current();
        if self.trusted_in.load(Ordering::Acquire) != current.generation {
            drop(validate_chain(
                &self.chain,
                &current.bundles,
                now_ms.div_euclid(1000),
            )?);
            self.trusted_in.store(current.generation, Ordering::Release);
        }
        Ok(())
    }

    /// Its workload's limiter, looked up once.
    pub(crate) fn limiter(
        &self,
        find: impl FnOnce() -> Arc<DefaultDirectRateLimiter>,
    ) -> &DefaultDirectRateLimiter {
        self.limiter.get_or_init(find)
    }
}

/// A TLS channel, with the challenges that were issued on it.
pub struct Channel {
    exporter: [u8; 32],
    challenges: Mutex<VecDeque<(Nonce, Instant)>>,
}

impl Channel {
    pub(crate) fn new(exporter: [u8; 32]) -> Self {
        Self {
            exporter,
            challenges: Mutex::default(),
        }
    }

    /// The channel binding of RFC 9266.
    #[must_use]
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    fn challenges(&self) -> MutexGuard<'_, VecDeque<(Nonce, Instant)>> {
        self.challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A new challenge, good on this channel, and when it ends, in milliseconds since the epoch.
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

    /// P2: takes a challenge out. It is gone whatever happens next; says whether it was one in
    /// time.
    #[must_use]
    pub fn consume(&self, nonce: &[u8]) -> bool {
        let mut open = self.challenges();
        let found = open
            .iter()
            .position(|(own, _)| subtle::ConstantTimeEq::ct_eq(own.as_slice(), nonce).into());
        found
            .and_then(|index| open.remove(index))
            .is_some_and(|(_, issued)| clock::since(issued) < CHALLENGE_LIFE)
    }
}
