//! The agent: its identity, its way to the broker, and the evidence that it can show.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_core::client::{Binding, BindingPurpose, SpiffeId, public_key_of};
use sundew_proto::v1::{ChallengeRequest, Evidence, EvidenceSet};
use tonic::Status;

use crate::call::{client, is_declined, is_transient, repeated};
use crate::collect::{self, AudiencePin, Collector, Context};
use crate::connection::Connection;
use crate::error::Error;
use crate::identity::{Identity, IdentitySource};
use crate::settings::Settings;

/// How often a call with evidence is repeated with a new challenge after it failed for a passing
/// reason.
const REPETITIONS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// A program's way to the broker: its identity, one connection and its evidence collectors. A clone
/// shares all three.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    broker: String,
    broker_id: Option<SpiffeId>,
    identities: IdentitySource,
    connection: ArcSwap<Connection>,
    collectors: Vec<Arc<dyn Collector>>,
    audience: AudiencePin,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("broker", &self.inner.broker)
            .finish_non_exhaustive()
    }
}

/// Builds an [`Agent`] from settings and from the program's own collectors.
pub struct AgentBuilder {
    settings: Settings,
    collectors: Vec<Arc<dyn Collector>>,
}

impl AgentBuilder {
    /// Adds a collector. A collector of this kind from the environment is left out.
    #[must_use]
    pub fn collector(mut self, collector: impl Collector + 'static) -> Self {
        self.collectors.push(Arc::new(collector));
        self
    }

    /// Waits for the identity and makes the connection ready; the broker is reached at the first
    /// call.
    pub async fn build(self) -> Result<Agent, Error> {
        let mut collectors = self.collectors;
        for found in collect::from_settings(&self.settings)? {
            if collectors.iter().all(|own| own.kind() != found.kind()) {
                collectors.push(found);
            }
        }
        let broker =
            self.settings.broker.clone().ok_or_else(|| {
                Error::Unavailable("SUNDEW_BROKER is not set (host:port)".to_owned())
            })?;
        let broker_id = self
            .settings
            .broker_id
            .as_deref()
            .map(SpiffeId::parse)
            .transpose()
            .map_err(|e| Error::Invalid(format!("SUNDEW_BROKER_ID: {e}")))?;
        let identities = IdentitySource::open(&self.settings).await?;
        let connection = open(&broker, broker_id.as_ref(), identities.current())?;
        let expected = expected_broker(broker_id.as_ref(), &identities.current())?;
        let domain = expected.trust_domain().as_str();
        let audience = AudiencePin::new(&self.settings, &broker, domain);
        Ok(Agent {
            inner: Arc::new(Inner {
                broker,
                broker_id,
                identities,
                connection: ArcSwap::from_pointee(connection),
                collectors,
                audience,
            }),
        })
    }
}

/// Returns the ID that the broker must have: the configured ID, or else the ID that the embedded CA
/// gives to brokers of the agent's own trust domain.
fn expected_broker(configured: Option<&SpiffeId>, identity: &Identity) -> Result<SpiffeId, Error> {
    match configured {
        Some(id) => Ok(id.clone()),
        None => SpiffeId::parse(&format!(
            "{}/sundew/broker",
            identity.id().trust_domain().id()
        ))
        .map_err(|e| Error::Invalid(e.to_string())),
    }
}

fn open(
    broker: &str,
    configured: Option<&SpiffeId>,
    identity: Arc<Identity>,
) -> Result<Connection, Error> {
    Connection::open(broker, expected_broker(configured, &identity)?, identity)
}

impl Agent {
    /// Makes an agent with a connection that a unit test has opened.
    #[cfg(test)]
    pub(crate) fn over(
        connection: Connection,
        identities: IdentitySource,
        collectors: Vec<Arc<dyn Collector>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                broker: "memory".to_owned(),
                broker_id: None,
                identities,
                connection: ArcSwap::from_pointee(connection),
                collectors,
                audience: AudiencePin::new(
                    &Settings {
                        oidc_audience: Some("broker".to_owned()),
                        ..Settings::default()
                    },
                    "",
                    "",
                ),
            }),
        }
    }

    /// Finds everything in the environment; see [`Settings`].
    pub async fn from_env() -> Result<Self, Error> {
        Self::builder(Settings::from_env()).build().await
    }

    /// Builds an agent from settings.
    #[must_use]
    pub fn builder(settings: Settings) -> AgentBuilder {
        AgentBuilder {
            settings,
            collectors: Vec::new(),
        }
    }

    /// Returns the agent's SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.inner.identities.current().id().clone()
    }

    /// Returns the SVID that the agent has at this moment.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.inner.identities.current()
    }

    /// Returns a connection that was opened with the agent's current SVID, for generated clients.
    pub fn connection(&self) -> Result<Arc<Connection>, Error> {
        let current = self.inner.connection.load_full();
        let identity = self.inner.identities.current();
        if current.identity().chain() == identity.chain() {
            return Ok(current);
        }
        let fresh = Arc::new(open(
            &self.inner.broker,
            self.inner.broker_id.as_ref(),
            identity,
        )?);
        self.inner.connection.store(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Returns another connection than this one, with the same SVID: a broker may be able to serve
    /// nobody for a while, and only a new connection leads to another one. The agent itself leaves
    /// this connection too.
    pub(crate) fn elsewhere(&self, from: &Arc<Connection>) -> Result<Arc<Connection>, Error> {
        let current = self.inner.connection.load_full();
        let is_from = Arc::ptr_eq(&current, from);
        if !is_from && current.identity().chain() == from.identity().chain() {
            return Ok(current);
        }
        let fresh = Arc::new(self.separate_connection(Arc::clone(from.identity()))?);
        if is_from {
            self.inner.connection.store(Arc::clone(&fresh));
        }
        Ok(fresh)
    }

    /// Returns a source of its own, which tells of each SVID that comes after this call.
    pub(crate) fn identities(&self) -> IdentitySource {
        self.inner.identities.clone()
    }

    /// Tells whether this is a clone of `other`, or the other way round.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns a connection of its own with this SVID. It belongs to the runtime that uses it
    /// first, so that it works when the runtime of the agent's own connection is gone.
    pub(crate) fn separate_connection(&self, identity: Arc<Identity>) -> Result<Connection, Error> {
        open(&self.inner.broker, self.inner.broker_id.as_ref(), identity)
    }

    /// Makes a call with evidence for a challenge. A challenge is good once and on its own
    /// connection, so each attempt takes a new one; an attempt is repeated up to three times if it
    /// failed for a passing reason or if the connection was opened again meanwhile.
    pub(crate) async fn call_with_evidence<T, F: Future<Output = Result<T, Status>>>(
        &self,
        purpose: BindingPurpose,
        connection: impl Fn() -> Result<Arc<Connection>, Error>,
        call: impl Fn(Arc<Connection>, Vec<u8>, Vec<Evidence>) -> F,
    ) -> Result<T, Error> {
        let mut left = REPETITIONS;
        loop {
            let connection = connection()?;
            let before = connection.session();
            let challenge =
                repeated(|| async { client(&connection).challenge(ChallengeRequest {}).await })
                    .await?
                    .into_inner();
            let challenged = connection.session();
            let Some(exporter) = before.of_call_until(challenged) else {
                if left == 0 {
                    let problem = "the connection broke again and again";
                    return Err(Error::Unavailable(problem.to_owned()));
                }
                left -= 1;
                continue;
            };
            let evidence = self
                .answer(
                    connection.identity(),
                    exporter,
                    purpose,
                    &challenge.nonce,
                    &challenge.evidence_sets,
                    &challenge.audience,
                )
                .await?;
            match call(Arc::clone(&connection), challenge.nonce, evidence).await {
                Ok(answer) => return Ok(answer),
                Err(status)
                    if left > 0
                        && (is_transient(&status) || challenged != connection.session()) =>
                {
                    left -= 1;
                    if is_declined(&status) {
                        self.elsewhere(&connection)?;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => return Err(Error::of(&status)),
            }
        }
    }

    /// Collects the evidence of the first of these sets that can be collected whole, bound to the
    /// session with this channel binding. If none can, the error says what the first set lacked.
    pub(crate) async fn answer(
        &self,
        identity: &Identity,
        exporter: [u8; 32],
        purpose: BindingPurpose,
        nonce: &[u8],
        sets: &[EvidenceSet],
        audience: &str,
    ) -> Result<Vec<Evidence>, Error> {
        let leaf = identity
            .chain()
            .first()
            .map(|leaf| leaf.as_ref())
            .unwrap_or_default();
        let public_key = public_key_of(leaf).map_err(|e| Error::Identity(e.to_string()))?;
        let binding = Binding::new(purpose, nonce, &public_key, &exporter);
        let context = Context::new(&binding, audience, Some(&identity.key));
        let context = context.pinned(&self.inner.audience);
        collect::first_whole_set(&self.inner.collectors, sets, &context).await
    }
}
