//! The peer of a connection, with its verified SVID and its TLS channel.
//!
//! P1: only the acceptor makes a peer. P7: expiry and trust are looked at on every call, not only
//! at the handshake (T07).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustls_pki_types::CertificateDer;
use sundew_attestation::spiffe::{SpiffeId, SvidError, VerifiedSvid, validate_chain};
use sundew_core::Grounds;

use super::channel::Channel;
use super::grounds;
use super::trust::Trust;
use crate::limits::WorkloadLimiter;
use crate::refusal::Refusal;

/// The caller at the other end of a connection.
#[derive(Clone)]
pub(crate) enum Caller {
    /// Nobody who is known, and where he is: the enrollment listener.
    Anonymous(Arc<Channel>, IpAddr),
    /// A workload.
    Workload(Arc<Peer>),
}

/// A workload whose SVID the handshake verified.
pub(crate) struct Peer {
    svid: VerifiedSvid,
    chain: Vec<CertificateDer<'static>>,
    grounds: Option<Grounds>,
    channel: Channel,
    remote: SocketAddr,
    /// The generation of the bundles under which the chain was verified last.
    trusted_in: AtomicU64,
    limiter: OnceLock<Arc<WorkloadLimiter>>,
}

impl Peer {
    /// Makes a peer out of what the handshake proved; only the acceptor may call this.
    pub(crate) fn new(
        svid: VerifiedSvid,
        generation: u64,
        chain: Vec<CertificateDer<'static>>,
        exporter: [u8; 32],
        remote: SocketAddr,
    ) -> Self {
        Self {
            svid,
            grounds: chain.first().and_then(grounds::of),
            chain,
            channel: Channel::new(exporter),
            remote,
            trusted_in: AtomicU64::new(generation),
            limiter: OnceLock::new(),
        }
    }

    /// The SPIFFE ID of the peer.
    #[must_use]
    pub(crate) fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// The SVID that the handshake verified.
    pub(crate) fn svid(&self) -> &VerifiedSvid {
        &self.svid
    }

    /// What the SVID rests on, as its CA says.
    pub(crate) fn grounds(&self) -> Option<&Grounds> {
        self.grounds.as_ref()
    }

    /// The address of the peer.
    #[must_use]
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The TLS channel of the connection, with the challenges issued on it.
    #[must_use]
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Checks that the SVID is good at this moment, under the bundles of this moment. The chain is
    /// verified anew only if the bundles have changed.
    pub(crate) fn check(&self, trust: &Trust, now_ms: i64) -> Result<(), SvidError> {
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

    /// The limiter of the peer's workload; `find` is called once for a connection.
    pub(crate) fn limiter(&self, find: impl FnOnce() -> Arc<WorkloadLimiter>) -> &WorkloadLimiter {
        self.limiter.get_or_init(find)
    }

    /// Counts another call of the peer's, in a stream that was let in as one. Refuses a peer above
    /// its rate.
    pub(crate) fn require_rate(&self) -> Result<(), Refusal> {
        match self.limiter.get() {
            Some(limiter) if !limiter.is_within_rate() => Err(Refusal::RateLimit),
            Some(_) | None => Ok(()),
        }
    }
}
