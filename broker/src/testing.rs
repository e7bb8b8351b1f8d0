//! The rooms of a broker over an embedded store in a folder of its own, without a process, for the
//! tests of use cases. Store, journal, revocation log, certificates and evidence are real; only the
//! clocks stand still until a test moves them.
//!
//! A use case takes a real `Peer` or a real [`Operator`], as in production. That neither can be
//! made up is a matter of private fields: `Peer` wraps a `VerifiedSvid`, which only the validation
//! of a chain makes, and only [`Operators::prove`] makes an [`Operator`].

mod agent;
pub(crate) mod documents;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sundew_attestation::TrustMaterial;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::store::{DocumentKind, Store};
use sundew_core::{Registration, RootKey, SharedBounds, Ttl, WorkloadRecord};
use sundew_proto::v1;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::clock;
use crate::dispatch::{Dispatch, DispatchUse};
use crate::evidence::{Evidence, TrustItems};
use crate::journal::{self, Journal, Record};
use crate::lease::Leases;
use crate::ledger::{Change, Ledger};
use crate::limits::{CallLimits, IssuingPlace};
use crate::liveness::{LogFollower, RevocationLog, agree};
use crate::material::Material;
use crate::metrics::Metrics;
use crate::peer::Trust;
use crate::peer::trust::Source;
use crate::records::{DocumentPlace, Records};
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::registry::Registry;
use crate::response::Responses;
use crate::role::{Operators, Reach, Role, RoleProof};
use crate::root_key::RootKeys;
use crate::secret::Secrets;
use crate::store::embedded::EmbeddedStore;
use crate::task::{Tasks, TasksUse};

pub(crate) use agent::{Agent, Begun};
use agent::{Manifest, TestCa};

/// Fails unless a result is a refusal of this pattern.
macro_rules! assert_refused {
    ($result:expr, $refusal:pat) => {
        match $result {
            Err($refusal) => {}
            Err(other) => panic!("it is refused, and for another reason: {other}"),
            Ok(_) => panic!("it is not refused"),
        }
    };
}
pub(crate) use assert_refused;

/// The trust domain of all tests.
pub(crate) const DOMAIN: &str = "test.example";
/// The bounds of a broker. A view is fresh for a day on the stopped clock.
pub(crate) const BOUNDS: SharedBounds = SharedBounds {
    freshness: Ttl::DAY,
    max_clock_skew: Ttl::SECOND,
    max_task_ttl: Ttl::DAY,
    replicas: 0,
};
/// How long a view is fresh on the stopped clock.
pub(crate) const FRESHNESS: Duration = Duration::from_secs(24 * 3600);
/// Longest purpose and longest instruction, in bytes.
pub(crate) const MAX_TEXT: usize = 256;

/// The rooms, each as production builds it.
pub(crate) struct Rooms {
    pub(crate) access: Arc<Access>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) responses: Arc<Responses>,
    pub(crate) root_keys: Arc<RootKeys>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) trust_items: Arc<TrustItems>,
}

/// A broker of a test.
pub(crate) struct TestBroker {
    pub(crate) ledger: Ledger,
    pub(crate) operators: Arc<Operators>,
    pub(crate) rooms: Rooms,
    pub(crate) store: Arc<EmbeddedStore>,
    ca: Arc<TestCa>,
    /// Absent in a broker beside another one, whose clocks are the same.
    _clock: Option<clock::testing::StoppedClock>,
    folder: TempDir,
    follower: JoinHandle<()>,
    manifest: Arc<Manifest>,
    pub(crate) trust: Arc<Trust>,
}

impl TestBroker {
    /// A broker with the operator `/operator`, who has every role, whose view is fresh. The clocks
    /// of the thread stand still for as long as the broker is there.
    pub(crate) async fn start() -> Self {
        let stopped = clock::testing::stop();
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.log")).unwrap();
        let parts = (Arc::new(TestCa::new()), Arc::new(Manifest::new()));
        Self::over((store, folder), parts, Self::root(), Some(stopped)).await
    }

    /// Another broker over the store of this one, with a journal and a view of its own.
    pub(crate) async fn beside(&self) -> Self {
        self.over_store(Arc::clone(&self.store)).await
    }

    /// Another broker over the store of this one, with other root keys.
    pub(crate) async fn beside_under(&self, root: RootKey) -> Self {
        let parts = (Arc::clone(&self.ca), Arc::clone(&self.manifest));
        let place = (Arc::clone(&self.store), tempfile::tempdir().unwrap());
        Self::over(place, parts, Arc::new(root), None).await
    }

    /// A broker over another store, for the same agents.
    pub(crate) async fn over_store(&self, store: Arc<EmbeddedStore>) -> Self {
        let parts = (Arc::clone(&self.ca), Arc::clone(&self.manifest));
        let folder = tempfile::tempdir().unwrap();
        Self::over((store, folder), parts, Self::root(), None).await
    }

    /// Stops this broker where it stands, as a crash does: nothing that it holds is appended.
    pub(crate) fn die(&self) {
        self.follower.abort();
    }

    /// The root key of brokers that are not given another one.
    fn root() -> Arc<RootKey> {
        Arc::new(RootKey::new(&[0x7a; 32]).unwrap())
    }

    async fn over(
        (store, folder): (Arc<EmbeddedStore>, TempDir),
        (ca, manifest): (Arc<TestCa>, Arc<Manifest>),
        root: Arc<RootKey>,
        stopped: Option<clock::testing::StoppedClock>,
    ) -> Self {
        let journal = Journal::open(&folder.path().join("journal"), |_| {}).unwrap();
        let journal = Arc::new(journal);
        let agreement = agree(store.as_ref(), &root, &BOUNDS, true).await.unwrap();
        let shared: Arc<dyn Store> = store.clone();
        let log = Arc::new(RevocationLog::new(
            Arc::clone(&shared),
            Arc::clone(&root),
            "broker-1".to_owned(),
            agreement,
            BOUNDS,
        ));
        let metrics = Arc::new(Metrics::default());
        let ledger = Ledger::new(
            Records::new(shared, root),
            Arc::clone(&log),
            Arc::clone(&journal),
            metrics.endings(),
        );
        let mut follower = LogFollower::new(Arc::clone(&log), journal);
        let trust = Arc::new(Trust::default());
        trust.publish(Source::Files, ca.bundle());
        let operator = SpiffeId::parse(&format!("spiffe://{DOMAIN}/operator")).unwrap();
        let every_role = [Role::Introspector, Role::Registrar, Role::Responder];
        let every_role = every_role.map(|role| (role, Reach::Unbounded)).into();
        let operators = Arc::new(Operators::new(BTreeMap::from([(operator, every_role)])));
        let rooms = build_rooms(&ledger, &metrics, &trust, &operators, &mut follower);
        rooms.secrets.reload_keyring().await.unwrap();
        log.open_after(Duration::ZERO);
        let broker = Self {
            ledger,
            operators,
            rooms,
            store,
            ca,
            _clock: stopped,
            folder,
            follower: tokio::spawn(follower.run()),
            manifest,
            trust,
        };
        broker.fresh().await;
        broker
    }

    /// Waits until the view is fresh.
    pub(crate) async fn fresh(&self) {
        while self.ledger.log.view().is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Somebody with a new key and an SVID of `/path`, and a connection of their own.
    pub(crate) fn agent(&self, path: &str) -> Agent {
        Agent::connect(&self.ca, &self.trust, &self.manifest, path)
    }

    /// The operator, as one who has a role over everything.
    pub(crate) fn operator<P: RoleProof>(&self) -> P {
        let operator = self.operators.prove(&self.agent("/operator").peer);
        P::of(operator.unwrap()).unwrap()
    }

    /// A registration of `/path` that wants a fresh manifest, with changes.
    pub(crate) fn registration(&self, path: &str, changes: Value) -> Value {
        let mut document = json!({
            "spiffe_id": format!("spiffe://{DOMAIN}{path}"),
            "evidence": [{ "kind": "manifest", "keys": [self.manifest.public_key_pem()] }],
            "scopes": ["secret:app/*", "tool:github.create_pr", "exec:git"],
            "begin": "self",
            "owner": "tests",
        });
        if let (Some(document), Value::Object(changes)) = (document.as_object_mut(), changes) {
            document.extend(changes);
        }
        document
    }

    /// Applies a registration of `/path`.
    pub(crate) async fn register(&self, path: &str, changes: Value) {
        let request = v1::ApplyWorkloadsRequest {
            documents: vec![self.registration(path, changes).to_string()],
            dry_run: false,
        };
        let registry = Arc::clone(&self.rooms.registry);
        let applied = registry.apply_workloads(self.operator(), request).await;
        assert_eq!(applied.unwrap().changes.len(), 1);
    }

    /// Writes a registration of `/path` as a broker of an earlier version has taken it, that looked
    /// for less.
    pub(crate) async fn register_unchecked(&self, path: &str, changes: Value) {
        let document = self.registration(path, changes);
        let registration: Registration = serde_json::from_value(document).unwrap();
        let name = registration.spiffe_id.to_string();
        let place = DocumentPlace::new(DocumentKind::Workload, &name);
        let record = WorkloadRecord {
            registration,
            version: "former".to_owned(),
            applied_at_ms: clock::now_ms(),
            applied_by: name.clone(),
        };
        let before = self.ledger.before_change(place).await.unwrap();
        let change = Change::Write(record.encode(), journal::record("workload_applied"));
        let put = self.ledger.put_document(place, &before, change, ());
        put.await.unwrap().unwrap();
    }

    /// Writes a secret.
    pub(crate) async fn put_secret(&self, name: &str, value: &str) {
        let request = v1::PutSecretRequest {
            name: name.to_owned(),
            value: value.as_bytes().to_vec(),
            idempotency_key: String::new(),
        };
        let secrets = Arc::clone(&self.rooms.secrets);
        secrets.put_secret(self.operator(), request).await.unwrap();
    }

    /// Registers `/agent` and begins a task of it for one scope.
    pub(crate) async fn agent_with_task(&self) -> (Agent, Begun) {
        self.register("/agent", json!({})).await;
        let agent = self.agent("/agent");
        let task = self.begin(agent.request(&["exec:git"]), &agent).await;
        (agent, task.unwrap())
    }

    /// Begins a task.
    pub(crate) async fn begin(
        &self,
        request: v1::BeginTaskRequest,
        agent: &Agent,
    ) -> Result<Begun, Refusal> {
        let tasks = Arc::clone(&self.rooms.tasks);
        let answer = tasks.begin(Arc::clone(&agent.peer), request).await?;
        let (task, token) = (answer.task.unwrap(), answer.token.unwrap());
        Ok(Begun {
            id: task.task_id.clone(),
            token,
            task,
        })
    }

    /// Mints a token.
    pub(crate) async fn mint(
        &self,
        request: v1::MintTokenRequest,
        agent: &Agent,
    ) -> Result<v1::Token, Refusal> {
        let tasks = Arc::clone(&self.rooms.tasks);
        let answer = tasks.mint(Arc::clone(&agent.peer), request).await?;
        Ok(answer.token.unwrap())
    }

    /// Whether a token is active in the hands of this agent, as an introspector hears it.
    pub(crate) async fn is_active(&self, token: &v1::Token, presenter: &Agent) -> bool {
        self.is_active_with(token, presenter.peer.svid().thumbprint())
            .await
    }

    /// Whether a token is active when it is shown with this certificate, as an introspector hears it.
    pub(crate) async fn is_active_with(&self, token: &v1::Token, thumbprint: &[u8; 32]) -> bool {
        let request = v1::IntrospectRequest {
            token: token.token.clone(),
            presenter_certificate_sha256: thumbprint.to_vec(),
            ..v1::IntrospectRequest::default()
        };
        let operator = self.agent("/operator");
        let introspector = self.operators.prove(&operator.peer).and_then(RoleProof::of);
        let access = Arc::clone(&self.rooms.access);
        let answer = access.introspect(operator.peer, introspector, request);
        answer.await.unwrap().active
    }

    /// A place for a call that issues something.
    pub(crate) fn place(&self) -> IssuingPlace {
        IssuingPlace::take(&Arc::new(Semaphore::new(1))).unwrap()
    }

    /// Puts a rule in force; answers its name.
    pub(crate) async fn respond(&self, selector: v1::Selector, effect: v1::Effect) -> String {
        let request = v1::RevokeRequest {
            selector: Some(selector),
            effect: effect.into(),
            reason: "test".to_owned(),
            ..v1::RevokeRequest::default()
        };
        let responses = Arc::clone(&self.rooms.responses);
        let answer = responses.revoke(self.operator(), request).await;
        answer.unwrap().revocation_id
    }

    /// What is on the record of one kind, oldest first.
    pub(crate) fn journal(&self, event: &str) -> Vec<Record> {
        let mut records = Vec::new();
        journal::read(&self.folder.path().join("journal"), |record| {
            records.extend((record.event == event).then_some(record));
        })
        .unwrap();
        records
    }
}

fn build_rooms(
    ledger: &Ledger,
    metrics: &Arc<Metrics>,
    trust: &Arc<Trust>,
    operators: &Arc<Operators>,
    follower: &mut LogFollower,
) -> Rooms {
    // In the order in which they use each other, as `serve` builds them.
    let limits = CallLimits {
        calls_per_second: NonZeroU32::MIN,
        instruction_bytes: MAX_TEXT,
        issuing: 1,
        open_calls: 16,
        unfinished_bytes: 1 << 20,
        purpose_bytes: MAX_TEXT,
        secret_bytes: 1024,
        tokens_per_task: 8,
    };
    let refusals = RefusalRecorder::new(Arc::clone(&ledger.journal), Arc::clone(metrics));
    let secrets = Arc::new(Secrets::new(ledger.clone(), limits.secret_bytes).unwrap());
    let leases = Arc::new(Leases::new(ledger.clone(), Arc::clone(&secrets)));
    let responses = Arc::new(Responses::new(
        ledger.clone(),
        Arc::clone(&leases),
        refusals.clone(),
    ));
    let material = Arc::new(Material::new(TrustMaterial::default()));
    let evidence = Arc::new(Evidence::new(
        ledger.clone(),
        "sundew-test".to_owned(),
        Arc::clone(&material),
        Arc::clone(trust),
        Arc::default(),
    ));
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
    let dispatch = Dispatch::new(
        ledger.clone(),
        limits,
        metrics.orders(),
        DispatchUse {
            operators: Arc::clone(operators),
            refusals,
            tasks: Arc::clone(&tasks),
        },
    );
    let registry = Registry::new(
        ledger.clone(),
        None,
        Arc::clone(&evidence),
        Arc::clone(&responses),
    );
    let trust_items = TrustItems::new(
        ledger.clone(),
        Vec::new(),
        Arc::clone(&evidence),
        Arc::clone(&responses),
    );
    follower.subscribe(Arc::clone(&ledger.records));
    follower.subscribe(material);
    follower.subscribe(Arc::clone(&secrets));
    follower.subscribe(Arc::clone(&leases));
    follower.subscribe(Arc::clone(&responses));
    follower.subscribe(Arc::clone(tasks.attendance()));
    let root_keys = Arc::new(RootKeys::new(ledger.clone(), Arc::clone(&leases)));
    Rooms {
        access: Arc::new(Access::new(ledger.clone(), Arc::clone(trust))),
        dispatch: Arc::new(dispatch),
        evidence,
        leases,
        registry: Arc::new(registry),
        responses,
        root_keys,
        secrets,
        tasks,
        trust_items: Arc::new(trust_items),
    }
}
