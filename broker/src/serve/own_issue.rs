//! The embedded CA as the source of the broker's own SVID and of the bundle of its trust domain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::{DnsName, PrivateKeyDer};
use sundew_attestation::spiffe::{IdError, SpiffeId};

use crate::ca::{Ca, CaError, Moment};
use crate::clock;
use crate::peer::Trust;
use crate::peer::files::certified;
use crate::peer::trust::Source;

/// How often it is looked which keys sign and are trusted.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is tried to take keys out of the store that nobody trusts any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(30);
/// The name of the CA as a source, in health.
const SOURCE: &str = "embedded CA";

/// Why the embedded CA did not issue the broker's own SVID.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// The CA cannot issue.
    #[error("{0}")]
    Ca(CaError),
    /// The trust domain gives no valid ID.
    #[error("{0}")]
    Id(IdError),
    /// The private key is none that is known.
    #[error("{0}")]
    Key(&'static str),
    /// The certificate and its key do not fit.
    #[error("{0}")]
    Pair(rustls::Error),
}

/// What was issued last, and for which keys.
pub(super) struct OwnIssue {
    trust: Arc<Trust>,
    ca: Arc<Ca>,
    dns_names: Vec<DnsName<'static>>,
    moment: Moment,
    issued_at: Instant,
}

impl OwnIssue {
    /// Issues the broker's own SVID, and publishes the CA's bundle.
    pub(super) fn new(
        trust: &Arc<Trust>,
        ca: &Arc<Ca>,
        dns_names: &[DnsName<'static>],
    ) -> Result<Self, IssueError> {
        let moment = ca.moment();
        issue(trust, ca, dns_names)?;
        Ok(Self {
            trust: Arc::clone(trust),
            ca: Arc::clone(ca),
            dns_names: dns_names.to_vec(),
            moment,
            issued_at: clock::monotonic(),
        })
    }

    /// Keeps both up to date while keys come, sign and go, for as long as it is polled.
    pub(super) async fn follow(mut self) {
        let mut forgotten_at = clock::monotonic();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let looked = self.look().await;
            self.trust.report(SOURCE, looked);
            if clock::since(forgotten_at) >= FORGET_INTERVAL {
                forgotten_at = clock::monotonic();
                if let Err(error) = self.ca.forget_retired().await {
                    tracing::debug!(%error, "keys of the embedded CA that retired");
                }
            }
        }
    }

    /// Reads keys that were changed. Issues anew if other keys sign or are trusted now, and at half
    /// of the SVID's life, when there is time to try again if that fails.
    async fn look(&mut self) -> Result<(), IssueError> {
        // What this broker has goes on by the clock, also while the store is away.
        let read = self.ca.refresh().await;
        let moment = self.ca.moment();
        let half = self.ca.ttl().to_std() / 2;
        if moment != self.moment || clock::since(self.issued_at) >= half {
            issue(&self.trust, &self.ca, &self.dns_names)?;
            (self.moment, self.issued_at) = (moment, clock::monotonic());
        }
        read.map_err(|refusal| IssueError::Ca(refusal.into()))
    }
}

/// Publishes the CA's bundle, and issues the broker's own SVID.
fn issue(trust: &Trust, ca: &Ca, dns_names: &[DnsName<'static>]) -> Result<(), IssueError> {
    let id = SpiffeId::parse(&format!("{}/sundew/broker", ca.trust_domain().id()))
        .map_err(IssueError::Id)?;
    let (svid, key) = ca.issue_own(&id, dns_names).map_err(IssueError::Ca)?;
    let key = PrivateKeyDer::try_from(key.expose().to_vec()).map_err(IssueError::Key)?;
    trust.publish(Source::EmbeddedCa, ca.bundle().map_err(IssueError::Ca)?);
    trust.set_identity(certified(svid.chain, key).map_err(IssueError::Pair)?);
    Ok(())
}
