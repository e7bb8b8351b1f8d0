//! The rooms of a broker, and how they are put together.

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use super::config::Config;
use super::gate::Gate;
use super::restore_recorder::RestoreRecorder;
use super::start_error::{StartError, during};
use crate::access::Access;
use crate::ca::Ca;
use crate::dispatch::{Dispatch, DispatchUse};
use crate::enrollment::{Enrollment, EnrollmentUse, Owner, OwnerSvids};
use crate::evidence::{Evidence, TpmKeys, TrustItems};
use crate::lease::Leases;
use crate::ledger::Ledger;
use crate::limits::{Limiters, Unfinished};
use crate::liveness::LogFollower;
use crate::material::{Material, issuers};
use crate::metrics::Metrics;
use crate::peer::Trust;
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::registry::Registry;
use crate::response::Responses;
use crate::role::Operators;
use crate::root_key::RootKeys;
use crate::secret::Secrets;
use crate::task::{Tasks, TasksUse};
use crate::traces::Traces;

/// Most enrollments at a time whose evidence is verified.
const MAX_ENROLLING: usize = 4;

/// The rooms that `grpc/` dispatches to.
pub(super) struct Broker {
    pub(super) access: Arc<Access>,
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) enrollment: Arc<Enrollment>,
    pub(super) evidence: Arc<Evidence>,
    pub(super) leases: Arc<Leases>,
    pub(super) owner: Arc<Owner>,
    pub(super) registry: Arc<Registry>,
    pub(super) responses: Arc<Responses>,
    pub(super) root_keys: Arc<RootKeys>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) tpm_keys: Arc<TpmKeys>,
    pub(super) trust_items: Arc<TrustItems>,
}

/// The parts that rooms share.
pub(super) struct Ground {
    pub(super) ca: Option<Arc<Ca>>,
    pub(super) ledger: Ledger,
    pub(super) material: Arc<Material>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) trust: Arc<Trust>,
    /// Notified when a token named a key that its issuer's known keys do not have.
    pub(super) unknown_key: Arc<Notify>,
}

impl Ground {
    /// Parts that trust nothing yet but the configured issuers, whose keys are not known.
    pub(super) fn new(
        config: &Config,
        ca: Option<Ca>,
        ledger: Ledger,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            ca: ca.map(Arc::new),
            ledger,
            material: Arc::new(Material::new(issuers::without_keys(&config.issuers))),
            metrics,
            trust: Arc::default(),
            unknown_key: Arc::default(),
        }
    }

    /// The gate before the rooms.
    fn gate(&self, config: &Config, traces: Traces) -> Gate {
        let journal = Arc::clone(&self.ledger.journal);
        Gate {
            issue_permits: Arc::new(Semaphore::new(config.limits.issuing)),
            ledger: self.ledger.clone(),
            limiters: Limiters::new(&config.limits),
            operators: Arc::new(Operators::new(config.operators.clone())),
            refusals: RefusalRecorder::with_whole(
                journal,
                Arc::clone(&self.metrics),
                config.journal.refusals_whole,
            ),
            traces,
            trust: Arc::clone(&self.trust),
            unfinished: Unfinished::new(&config.limits),
        }
    }

    /// The room of callers without an SVID, and of those who renew theirs.
    fn enrollment(
        &self,
        gate: &Gate,
        evidence: &Arc<Evidence>,
        tasks: &Arc<Tasks>,
        enroll_permits: Arc<Semaphore>,
    ) -> Enrollment {
        Enrollment::new(
            self.ledger.clone(),
            self.ca.clone(),
            EnrollmentUse {
                enroll_permits,
                evidence: Arc::clone(evidence),
                issue_permits: Arc::clone(&gate.issue_permits),
                refusals: gate.refusals.clone(),
                tasks: Arc::clone(tasks),
                trust: Arc::clone(&self.trust),
            },
        )
    }
}

impl Broker {
    /// Builds the rooms, in the order in which they use each other, and the gate before them.
    pub(super) fn build(
        config: &Config,
        ground: &Ground,
        traces: Traces,
    ) -> Result<(Self, Gate), StartError> {
        let Ground {
            ca,
            ledger,
            material,
            metrics,
            trust,
            unknown_key,
        } = ground;
        let limits = config.limits;
        let gate = ground.gate(config, traces);
        let refusals = &gate.refusals;
        // P12: TPM keys and enrollment come from callers without an SVID, and share one bound.
        let enroll_permits = Arc::new(Semaphore::new(MAX_ENROLLING));

        let secrets = Secrets::new(ledger.clone(), limits.secret_bytes);
        let secrets = Arc::new(secrets.map_err(during("keyring"))?);
        let leases = Arc::new(Leases::new(ledger.clone(), Arc::clone(&secrets)));
        let responses = Arc::new(Responses::new(
            ledger.clone(),
            Arc::clone(&leases),
            refusals.clone(),
        ));
        let audience = config.issuers.first().map(|i| i.audience.clone());
        let evidence = Arc::new(Evidence::new(
            ledger.clone(),
            audience.unwrap_or_default(),
            Arc::clone(material),
            Arc::clone(trust),
            Arc::clone(unknown_key),
        ));
        let trust_items = Arc::new(TrustItems::new(
            ledger.clone(),
            config.material.clone(),
            Arc::clone(&evidence),
            Arc::clone(&responses),
        ));
        let tpm_keys = TpmKeys::new(
            ledger.clone(),
            ca.is_some(),
            Arc::clone(&enroll_permits),
            Arc::clone(&evidence),
            Arc::clone(&trust_items),
        );
        let tasks = Arc::new(Tasks::new(
            ledger.clone(),
            limits,
            TasksUse {
                evidence: Arc::clone(&evidence),
                leases: Arc::clone(&leases),
                orders: metrics.orders(),
                refusals: refusals.clone(),
                secrets: Arc::clone(&secrets),
                trust: Arc::clone(trust),
            },
        ));
        let enrollment = Arc::new(ground.enrollment(&gate, &evidence, &tasks, enroll_permits));
        let owner = Owner::new(
            Arc::clone(&enrollment),
            Arc::clone(&gate.operators),
            config.journal.directory.clone(),
            config.break_glass.clone(),
            OwnerSvids {
                bootstrap: metrics.owner_svids("bootstrap"),
                break_glass: metrics.owner_svids("break_glass"),
            },
        );
        let registry = Registry::new(
            ledger.clone(),
            ca.as_ref().map(|ca| ca.trust_domain().clone()),
            Arc::clone(&evidence),
            Arc::clone(&responses),
        );
        let dispatch = Dispatch::new(
            ledger.clone(),
            limits,
            metrics.orders(),
            DispatchUse {
                operators: Arc::clone(&gate.operators),
                refusals: refusals.clone(),
                tasks: Arc::clone(&tasks),
            },
        );
        let root_keys = Arc::new(RootKeys::new(ledger.clone(), Arc::clone(&leases)));
        let broker = Self {
            access: Arc::new(Access::new(ledger.clone(), Arc::clone(trust))),
            dispatch: Arc::new(dispatch),
            enrollment,
            evidence,
            leases,
            owner: Arc::new(owner),
            registry: Arc::new(registry),
            responses,
            root_keys,
            secrets,
            tasks,
            tpm_keys: Arc::new(tpm_keys),
            trust_items,
        };
        Ok((broker, gate))
    }

    /// Reads the parts of the store that rooms keep in memory.
    pub(super) async fn load(&self) -> Result<(), StartError> {
        match self.secrets.reload_keyring().await {
            // L22: no secret is opened or sealed, and health says why.
            Err(error @ Refusal::Outdated { .. }) => tracing::error!(%error, "keyring"),
            read => read.map_err(during("keyring"))?,
        }
        self.leases
            .reload_engines()
            .await
            .map_err(during("engines"))?;
        self.evidence
            .trusted()
            .await
            .map_err(during("trust material"))?;
        Ok(())
    }

    /// Subscribes the rooms to the log, in the order in which they hear of an entry.
    pub(super) fn subscribe_to(&self, follower: &mut LogFollower, ground: &Ground) {
        follower.subscribe(Arc::clone(&ground.ledger.records));
        follower.subscribe(Arc::clone(&ground.material));
        follower.subscribe(Arc::clone(&self.secrets));
        follower.subscribe(Arc::clone(&self.leases));
        follower.subscribe(Arc::clone(&self.responses));
        follower.subscribe(Arc::clone(self.tasks.attendance()));
        let journal = Arc::clone(&ground.ledger.journal);
        follower.subscribe(Arc::new(RestoreRecorder(journal)));
    }
}
