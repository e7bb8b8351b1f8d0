//! The agent: its identity, its way to the broker, and what it can show.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_core::client::{Binding, BindingPurpose, SpiffeId, public_key_of};
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::{ChallengeRequest, Evidence, EvidenceSet};
use tonic::Status;
use tonic::transport::Channel;

use crate::collect::{self, Collector, Context};
use crate::connection::Connection;
use crate::error::{Error, is_transient};
use crate::identity::{Identity, IdentitySource};
use crate::settings::Settings;
use crate::task::TaskBuilder;

/// How often what may be repeated is repeated.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// See the module. Cheap to clone.
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
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("broker", &self.inner.broker)
            .finish_non_exhaustive()
    }
}

/// Builds an [`Agent`] with collectors of its own.
pub struct AgentBuilder {
    settings: Settings,
    collectors: Vec<Arc<dyn Collector>>,
}

impl AgentBuilder {
    /// With a collector; one for the same kind from the environment is left out.
    #[must_use]
    pub fn collector(mut self, collector: impl Collector + 'static) -> Self {
        self.collectors.push(Arc::new(collector));
        self
    }

    /// Finds the identity and makes the connection ready.
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
        Ok(Agent {
            inner: Arc::new(Inner {
                broker,
                broker_id,
                identities,
                connection: ArcSwap::from_pointee(connection),
                collectors,
            }),
        })
    }
}

/// The ID that the broker must have: the one configured, or the one that the embedded CA gives in
/// our trust domain.
pub(crate) fn expected_broker(
    configured: Option<&SpiffeId>,
    identity: &Identity,
) -> Result<SpiffeId, Error> {
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

    /// Begins to describe a task; nothing happens before [`TaskBuilder::begin`].
    #[must_use]
    pub fn task(&self, purpose: &str) -> TaskBuilder {
        TaskBuilder::new(self.clone(), purpose)
    }

    /// Who the agent is.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.inner.identities.current().id().clone()
    }

    /// Its SVID of this moment.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.inner.identities.current()
    }

    /// A connection of the current identity, for generated clients.
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

    pub(crate) fn identities(&self) -> IdentitySource {
        self.inner.identities.clone()
    }

    /// Takes a challenge on this connection and collects the evidence that it asks for.
    pub(crate) async fn prove(
        &self,
        connection: &Connection,
        purpose: BindingPurpose,
    ) -> Result<(Vec<u8>, Vec<Evidence>), Error> {
        let challenge =
            repeated(|| async { client(connection).challenge(ChallengeRequest {}).await })
                .await?
                .into_inner();
        let evidence = self
            .answer(
                connection,
                purpose,
                &challenge.nonce,
                &challenge.evidence_sets,
                &challenge.audience,
            )
            .await?;
        Ok((challenge.nonce, evidence))
    }

    /// Collects what a challenge asks for: the first set that can be collected; if none can, tells
    /// what was missing for the first one.
    pub(crate) async fn answer(
        &self,
        connection: &Connection,
        purpose: BindingPurpose,
        nonce: &[u8],
        sets: &[EvidenceSet],
        audience: &str,
    ) -> Result<Vec<Evidence>, Error> {
        let identity = connection.identity();
        let leaf = identity
            .chain()
            .first()
            .map(|leaf| leaf.as_ref())
            .unwrap_or_default();
        let public_key = public_key_of(leaf).map_err(|e| Error::Identity(e.to_string()))?;
        let binding = Binding::new(purpose, nonce, &public_key, &connection.exporter());
        let context = Context::new(&binding, audience, Some(&identity.key));
        let mut missing = None;
        for set in sets {
            match self.collect(&set.kinds, &context).await {
                Ok(evidence) => return Ok(evidence),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        Err(missing.unwrap_or_else(|| Error::Evidence {
            kind: "any".to_owned(),
            problem: "the broker asks for none, and takes none".to_owned(),
        }))
    }

    async fn collect(
        &self,
        kinds: &[String],
        context: &Context<'_>,
    ) -> Result<Vec<Evidence>, Error> {
        let mut evidence = Vec::new();
        for kind in kinds {
            let fail = |problem: String| Error::Evidence {
                kind: kind.clone(),
                problem,
            };
            let collector = self.inner.collectors.iter().find(|c| c.kind() == kind);
            let collector = collector.ok_or_else(|| {
                fail(format!(
                    "the broker asks for it and nothing here collects it{}",
                    collect::hint(kind)
                ))
            })?;
            let payload = collector.collect(context).await.map_err(fail)?;
            evidence.push(Evidence {
                kind: kind.clone(),
                payload,
            });
        }
        Ok(evidence)
    }
}

pub(crate) fn client(connection: &Connection) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(connection.channel())
}

/// Repeats what may be repeated while the broker is not there, with growing pauses.
pub(crate) async fn repeated<T, F: Future<Output = Result<T, Status>>>(
    call: impl Fn() -> F,
) -> Result<T, Error> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) if attempt < ATTEMPTS && is_transient(&status) => {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
            Err(status) => return Err(Error::of(&status)),
        }
    }
    Err(Error::Unavailable("gave up".to_owned()))
}
