//! The work of a broker between calls: it follows its files and issuers, and keeps its house.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::broker::{Broker, Ground};
use super::config::{Config, Identity};
use super::gate::Gate;
use super::journal_watch::watch_journal;
use super::own_issue::OwnIssue;
use super::sources::{
    Federation, FileBundles, Partner, TrustFiles, WorkloadApiSource, watch_certificate,
};
use super::start_error::{StartError, during};
use crate::journal::{SegmentRules, Upkeep};
use crate::ledger::{FullLook, Ledger};
use crate::material;
use crate::material::issuers::{self, IssuerKeys};
use crate::peer::files::read_identity;
use crate::registry::Registry;

/// How often limiters and entries of the log are looked at that may be forgotten.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);
/// How often all documents are looked at, whether or not anything happened.
const DOCUMENTS_INTERVAL: Duration = Duration::from_secs(300);
/// How often it is looked whether the store lost something, so that its documents are looked at.
const GAP_INTERVAL: Duration = Duration::from_secs(1);

/// Follows the files, sockets and URLs of the configuration. `trust_files` says which files have
/// bundles from then on.
pub(super) fn start_sources(
    config: &Config,
    ground: &Ground,
    look_now: &Arc<Notify>,
    trust_files: watch::Receiver<TrustFiles>,
    background: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let Ground {
        material, trust, ..
    } = ground;
    // A bundle that is bad from the start is an error, not a wait (T85).
    let mut bundles = FileBundles::new(Arc::clone(trust), config.bundle_limit);
    bundles.look(&config.trust).map_err(during("trust"))?;
    background.spawn(bundles.watch(trust_files, Arc::clone(look_now)));
    let federation = Arc::new(Federation::new(Arc::clone(trust)));
    for partner in &config.federation {
        let federation = Arc::clone(&federation);
        let partner = Partner::new(partner.clone(), federation, config.bundle_limit);
        background.spawn(partner.follow());
    }
    start_identity(config, ground, look_now, background)?;
    for issuer in &config.issuers {
        let keys = IssuerKeys::new(
            &issuer.url,
            Arc::clone(material),
            Arc::clone(trust),
            config.bundle_limit,
        );
        let unknown_key = Arc::clone(&ground.unknown_key);
        background.spawn(issuers::follow(issuer.clone(), keys, unknown_key));
    }
    for item in &config.material {
        background.spawn(material::follow(
            item.clone(),
            Arc::clone(material),
            Arc::clone(trust),
        ));
    }
    Ok(())
}

/// Reads or issues the broker's own SVID, and follows its source.
fn start_identity(
    config: &Config,
    ground: &Ground,
    look_now: &Arc<Notify>,
    background: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let trust = &ground.trust;
    match &config.identity {
        Identity::Files { certificate, key } => {
            trust.set_identity(read_identity(certificate, key).map_err(during("identity"))?);
            let (own, files) = (Arc::clone(trust), (certificate.clone(), key.clone()));
            background.spawn(watch_certificate(
                Arc::clone(trust),
                "own SVID",
                files,
                Arc::clone(look_now),
                move |identity| own.set_identity(identity),
            ));
        }
        Identity::WorkloadApi { socket, choice } => {
            let (socket, choice) = (socket.clone(), choice.clone());
            let trust = Arc::clone(trust);
            let source = WorkloadApiSource::new(trust, socket, choice, config.bundle_limit);
            background.spawn(source.follow());
        }
        Identity::EmbeddedCa { dns_names, .. } => {
            if let Some(ca) = &ground.ca {
                let issued = OwnIssue::new(trust, ca, dns_names).map_err(during("embedded CA"))?;
                background.spawn(issued.follow());
            }
        }
    }
    Ok(())
}

/// Starts the housekeeping: attendance, sweeps, leases, clean-ups, the journal's segments, and what
/// is to be forgotten.
pub(super) fn start_housekeeping(
    broker: &Broker,
    gate: &Arc<Gate>,
    ledger: &Ledger,
    segments: SegmentRules,
    background: &mut JoinSet<()>,
) {
    let worker = ledger.log.broker().to_owned();
    background.spawn(Arc::clone(&broker.tasks).report_attendance());
    background.spawn(Arc::clone(&broker.tasks).sweep());
    background.spawn(Arc::clone(&broker.leases).keep_leases());
    background.spawn(Arc::clone(&broker.responses).clean_up(worker));
    background.spawn(watch_journal(Arc::clone(&ledger.journal), Arc::clone(gate)));
    let upkeep = Upkeep::new(Arc::clone(&ledger.journal), segments);
    background.spawn(upkeep.run(Arc::clone(&ledger.log)));
    background.spawn(keep_house(Arc::clone(gate), ledger.clone()));
    background.spawn(Arc::clone(&broker.secrets).keep_sealed());
    background.spawn(look_at_documents(
        ledger.clone(),
        Arc::clone(&broker.registry),
    ));
}

/// Forgets limiters and entries of the log that nobody needs any more.
async fn keep_house(gate: Arc<Gate>, ledger: Ledger) {
    loop {
        tokio::time::sleep(HOUSEKEEPING_INTERVAL).await;
        gate.limiters.forget();
        for done in [
            ledger.log.forget().await,
            ledger.log.look_at_root_keys().await,
        ] {
            if let Err(error) = done {
                tracing::debug!(%error, "housekeeping");
            }
        }
    }
}

/// L21: looks at all documents after a start, after the store lost something, and now and then, so
/// that operators hear of what somebody put back before anybody asks for it. L5: and so that
/// brokers hear of changes whose broker died before it announced them. I2: and so that operators
/// hear of registrations of a time when less was enough.
async fn look_at_documents(ledger: Ledger, registry: Arc<Registry>) {
    let look = FullLook::new(DOCUMENTS_INTERVAL);
    loop {
        if let Some(gaps) = look.is_due(&ledger) {
            let looked = match ledger.look_at_documents().await {
                Ok(()) => registry.look_for_no_longer_enough().await,
                failed => failed,
            };
            match looked {
                Ok(()) => look.taken(gaps),
                Err(error) => tracing::debug!(%error, "documents"),
            }
        }
        tokio::time::sleep(GAP_INTERVAL).await;
    }
}
