//! I1: every method that gives authority refuses under a quarantine. The methods are those of the
//! protos, so that a new one has to be put on one side or the other.

use std::collections::BTreeSet;

use prost::Message as _;
use serde_json::{Value, json};
use sundew_proto::envoy::DiscoveryRequest;
use sundew_proto::envoy::secret_discovery_service_client::SecretDiscoveryServiceClient;
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::spiffe::{JwtsvidRequest, X509svidRequest};
use sundew_proto::v1::*;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::pki::csr;
use sundew_tests::tpm::{Maker, Tpm};
use sundew_tests::until;
use sundew_tests::world::World;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

use crate::activation::{answer, brought, challenge, open};

const AGENT: &str = "spiffe://own.example/agent";
const NODE: &str = "spiffe://own.example/node";
const AUDIENCE: &str = "https://api.example";

/// The services on the Workload API's socket.
const LOCAL: [&str; 2] = ["SecretDiscoveryService.", "SpiffeWorkloadAPI."];

/// The methods that give authority to a workload.
const GIVING: [&str; 15] = [
    "AgentService.BeginTask",
    "AgentService.Delegate",
    "AgentService.GetSecret",
    "AgentService.MintToken",
    "AgentService.ResumeTask",
    "DispatchService.CreateOrder",
    "EnrollmentService.ActivateTpmKey",
    "EnrollmentService.Enroll",
    "EnrollmentService.IssueEntry",
    "EnrollmentService.IssueEntryJwt",
    "EnrollmentService.Renew",
    "SecretDiscoveryService.FetchSecrets",
    "SecretDiscoveryService.StreamSecrets",
    "SpiffeWorkloadAPI.FetchJWTSVID",
    "SpiffeWorkloadAPI.FetchX509SVID",
];

/// The other methods, and whole services, with what they do instead.
const NOT_GIVING: [(&str, &str); 20] = [
    ("AccessService.Introspect", "says what stands"),
    ("AccessService.ShowOperator", "says what stands"),
    ("AgentService.Attend", "keeps what was given"),
    ("AgentService.Challenge", "a nonce"),
    ("AgentService.CompleteTask", "ends"),
    ("AgentService.SuspendTask", "ends"),
    ("DispatchService.CancelOrder", "ends"),
    ("DispatchService.ListOrders", "says what stands"),
    ("DispatchService.WatchOrders", "says what stands"),
    ("EnrollmentService.ChallengeTpmKey", "a nonce"),
    ("EnrollmentService.EnrollChallenge", "a nonce"),
    ("EnrollmentService.ListEntries", "says what stands"),
    (
        "LocalService.AttestUser",
        "evidence, which BeginTask looks at",
    ),
    (
        "NodeService.AttestProcess",
        "evidence, which BeginTask looks at",
    ),
    (
        "OwnerService.*",
        "for who lifts quarantines; no rule covers a role",
    ),
    (
        "RegistryService.*",
        "for operators; Enroll and BeginTask look at what they register",
    ),
    ("ResponseService.*", "for operators, who end"),
    ("SpiffeWorkloadAPI.FetchJWTBundles", "public keys"),
    ("SpiffeWorkloadAPI.FetchX509Bundles", "public keys"),
    ("SpiffeWorkloadAPI.ValidateJWTSVID", "says what stands"),
];

/// All methods of the protos, as `Service.Method`.
fn methods() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(sundew_proto::DESCRIPTOR).expect("descriptor");
    let services = set.file.into_iter().flat_map(|file| file.service);
    services
        .flat_map(|service| {
            let name = service.name().to_owned();
            let methods = service.method.into_iter();
            methods.map(move |method| format!("{name}.{}", method.name()))
        })
        .collect()
}

/// A broker with a CA of its own, and one workload that may have whatever there is.
struct Gate {
    world: World,
    broker: Broker,
    operator: Caller,
    enrollment: Caller,
    agent: Caller,
    node: Caller,
    /// A live task of each, and a suspended one of the agent.
    task: String,
    node_task: String,
    suspended: String,
    join_token: String,
    activation: (TpmKey, Vec<u8>, i64),
}

impl Gate {
    async fn open() -> Self {
        let world = World::embedded();
        let (broker, port) = crate::enrollment::own_ca_in(&world, "").await;
        let operator = world.operator(&broker);
        operator.apply(&registrations()).await.expect("registered");
        operator.put_secret("app/key", "value").await;
        let maker = Maker::new();
        let tpm = Tpm::made_by(&maker);
        operator
            .trust("tpm2_ek_root", "swtpm", &maker.certificates())
            .await;
        let enrollment = Caller::new(format!("127.0.0.1:{port}"), None);
        let mut callers = Vec::new();
        for id in [AGENT, NODE] {
            let redeemed = enrollment.redeem(&operator.join_token(id).await).await;
            let (svid, _) = redeemed.expect("enrolled");
            callers.push(world.caller_with(&broker, svid));
        }
        let (node, agent) = (callers.remove(1), callers.remove(0));
        let begun = |caller: Caller, sub: &'static str, scope: &'static str| {
            let issuer = &world.issuer;
            async move {
                let begun = caller.begin(issuer, sub, &[scope]).await;
                begun.expect("task").task
            }
        };
        let key = brought(&tpm);
        let made = challenge(&agent, &key).await.expect("credential");
        let opened = open(&tpm, &made).expect("opened");
        Self {
            task: begun(agent.clone(), "/agent", "secret:app/*").await,
            suspended: begun(agent.clone(), "/agent", "secret:app/*").await,
            node_task: begun(node.clone(), "/node", "node:serve").await,
            join_token: operator.join_token(AGENT).await,
            activation: (key, opened, made.expires_at_ms),
            world,
            broker,
            operator,
            enrollment,
            agent,
            node,
        }
    }

    /// Suspends the task that is to be resumed.
    async fn suspend(&self) {
        let task_id = self.suspended.clone();
        let mut agent = self.agent.agent();
        let suspended = agent.suspend_task(SuspendTaskRequest { task_id }).await;
        suspended.expect("suspended");
    }

    async fn quarantine(&self, id: &str) -> String {
        let selector = Selector {
            spiffe_id: id.to_owned(),
            ..Selector::default()
        };
        let rule = self.operator.respond(selector, Effect::Quarantine).await;
        rule.expect("quarantined").revocation_id
    }

    /// Asks for what a method gives.
    async fn ask(&self, method: &str) -> Result<(), Status> {
        match method {
            "AgentService.BeginTask" => {
                let begun = self
                    .agent
                    .begin(&self.world.issuer, "/agent", &["exec:git"]);
                begun.await.map(drop)
            }
            "AgentService.Delegate" => {
                let delegated = self
                    .agent
                    .delegate(&self.task, NODE, &["secret:app/key"], 0);
                delegated.await.map(drop)
            }
            "AgentService.GetSecret" => self.agent.secret(&self.task, "app/key").await.map(drop),
            "AgentService.MintToken" => self.agent.mint(&self.task).await.map(drop),
            "AgentService.ResumeTask" => {
                let request = ResumeTaskRequest {
                    task_id: self.suspended.clone(),
                    nonce: self.agent.nonce().await?,
                    evidence: vec![oidc(self.world.issuer.token("/agent"))],
                    ..ResumeTaskRequest::default()
                };
                self.agent.agent().resume_task(request).await.map(drop)
            }
            "DispatchService.CreateOrder" => {
                let request = CreateOrderRequest {
                    spiffe_id: NODE.to_owned(),
                    scopes: vec!["secret:app/key".to_owned()],
                    purpose: "test".to_owned(),
                    task_id: self.task.clone(),
                    ..CreateOrderRequest::default()
                };
                self.agent.dispatch().create_order(request).await.map(drop)
            }
            "EnrollmentService.ActivateTpmKey" => {
                let (key, opened, expires_at_ms) = self.activation.clone();
                let activated = answer(&self.agent, &key, opened, expires_at_ms);
                activated.await.map(drop)
            }
            "EnrollmentService.Enroll" => self.enrollment.redeem(&self.join_token).await.map(drop),
            "EnrollmentService.Renew" => {
                let request = RenewRequest { csr: csr().1 };
                self.agent.enrollment().renew(request).await.map(drop)
            }
            other => self.ask_for_local(other).await,
        }
    }

    /// Asks for what is given to processes of this machine.
    async fn ask_for_local(&self, method: &str) -> Result<(), Status> {
        let (task_id, spiffe_id) = (self.node_task.clone(), AGENT.to_owned());
        match method {
            "EnrollmentService.IssueEntry" => {
                let request = IssueEntryRequest {
                    task_id,
                    spiffe_id,
                    csr: csr().1,
                };
                self.node.enrollment().issue_entry(request).await.map(drop)
            }
            "EnrollmentService.IssueEntryJwt" => {
                let request = IssueEntryJwtRequest {
                    task_id,
                    spiffe_id,
                    audience: vec![AUDIENCE.to_owned()],
                };
                let mut node = self.node.enrollment();
                node.issue_entry_jwt(request).await.map(drop)
            }
            "SecretDiscoveryService.FetchSecrets" => {
                let mut secrets = SecretDiscoveryServiceClient::new(self.workload_api().await);
                secrets.fetch_secrets(default_svid()).await.map(drop)
            }
            "SecretDiscoveryService.StreamSecrets" => {
                let mut secrets = SecretDiscoveryServiceClient::new(self.workload_api().await);
                let asked = tokio_stream::once(default_svid()).chain(tokio_stream::pending());
                let mut answers = secrets.stream_secrets(asked).await?;
                answers.get_mut().message().await.map(drop)
            }
            "SpiffeWorkloadAPI.FetchX509SVID" => {
                let call = with_header(X509svidRequest {});
                let mut api = SpiffeWorkloadApiClient::new(self.workload_api().await);
                let mut svids = api.fetch_x509svid(call).await?;
                svids.get_mut().message().await.map(drop)
            }
            "SpiffeWorkloadAPI.FetchJWTSVID" => {
                let call = with_header(JwtsvidRequest {
                    audience: vec![AUDIENCE.to_owned()],
                    ..JwtsvidRequest::default()
                });
                let mut api = SpiffeWorkloadApiClient::new(self.workload_api().await);
                api.fetch_jwtsvid(call).await.map(drop)
            }
            other => panic!("{other} gives authority, and nobody asks for it here"),
        }
    }

    async fn workload_api(&self) -> tonic::transport::Channel {
        workload_api(&self.world).await
    }
}

/// Connects to the Workload API of the broker with a CA of its own.
pub(crate) async fn workload_api(world: &World) -> tonic::transport::Channel {
    let socket = world.folder().join("api.sock");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", socket.display()));
    let channel = endpoint.expect("uri").connect().await;
    channel.expect("connected")
}

fn registrations() -> [Value; 2] {
    let uid = rustix::process::geteuid().as_raw();
    let local = json!([{ "uid": uid }, { "node": NODE, "uid": uid }]);
    let agent = json!({
        "spiffe_id": AGENT, "local": local, "jwt_svid_audiences": [AUDIENCE], "max_delegation_depth": 1, "max_delegated_tasks": 9,
    });
    let node = json!({ "spiffe_id": NODE, "scopes": ["node:serve", "secret:app/*"] });
    [
        World::registration("/agent", agent),
        World::registration("/node", node),
    ]
}

fn default_svid() -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: vec!["default".to_owned()],
        ..DiscoveryRequest::default()
    }
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = "true".parse().expect("value");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

#[test]
fn i1_every_method_is_known_to_give_authority_or_not_to() {
    let (all, giving) = (methods(), BTreeSet::from(GIVING));
    let not_giving = NOT_GIVING.map(|(method, _)| method);
    for method in &all {
        let (service, _) = method.split_once('.').expect("a method");
        let listed = not_giving.contains(&method.as_str())
            || not_giving.contains(&format!("{service}.*").as_str());
        assert_ne!(
            listed,
            giving.contains(method.as_str()),
            "{method} is on both lists, or on none"
        );
    }
    for method in GIVING.into_iter().chain(not_giving) {
        let known = method.ends_with(".*") || all.contains(method);
        assert!(known, "there is no {method}");
    }
}

/// P4: each of them gives, gives nothing under a quarantine, and gives again when it is lifted.
#[tokio::test]
async fn i1_every_method_that_gives_authority_refuses_under_a_quarantine() {
    let mut gate = Gate::open().await;
    gate.suspend().await;
    let rule = gate.quarantine(AGENT).await;
    for method in GIVING {
        let refused = gate.ask(method).await.expect_err(method);
        assert_eq!(
            refused.code(),
            Code::PermissionDenied,
            "{method}: {refused}"
        );
        let (_, rpc) = method.split_once('.').expect("a method");
        let reason = match LOCAL.iter().any(|service| method.starts_with(service)) {
            true => "a quarantine or a rule covers each registration that matches the process",
            false => "quarantined",
        };
        until("the record", || async {
            gate.broker.refusals(rpc).contains(&reason.to_owned())
        })
        .await;
    }
    gate.operator.lift(&rule).await.expect("lifted");
    for method in GIVING {
        let given = gate.ask(method).await;
        given.unwrap_or_else(|refused| panic!("{method}: {refused}"));
    }

    gate.suspend().await;
    gate.join_token = gate.operator.join_token(AGENT).await;
    gate.quarantine(NODE).await;
    for method in GIVING {
        let through_the_node = method.starts_with("EnrollmentService.IssueEntry")
            || method == "DispatchService.CreateOrder";
        let asked = gate.ask(method).await;
        assert_eq!(asked.is_err(), through_the_node, "{method}: {asked:?}");
    }
}
