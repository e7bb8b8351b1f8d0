//! O4: a role within bounds is over its team, and over nothing else. The methods are those of
//! the protos, so that a new one has to be put on one side or the other.

use std::collections::BTreeSet;

use prost::Message as _;
use serde_json::json;
use sundew_proto::v1::*;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::pki::DOMAIN;
use sundew_tests::selectors::{of_task, of_token, of_workload};
use sundew_tests::world::World;
use tokio_stream::StreamExt as _;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// The methods that are about the whole broker, and need a role without bounds.
const ABOUT_ALL: [&str; 13] = [
    "RegistryService.AddTrust",
    "RegistryService.DeleteEngine",
    "RegistryService.DropOldCaKeys",
    "RegistryService.ListEngines",
    "RegistryService.ListTrust",
    "RegistryService.PutEngine",
    "RegistryService.RemoveTrust",
    "RegistryService.RewriteUnderRootKey",
    "RegistryService.RotateCa",
    "RegistryService.RotateKeyring",
    "RegistryService.SetBounds",
    "RegistryService.ShowBounds",
    "RegistryService.ShowCa",
];

/// The methods that are about workloads or their secrets, in an order in which each finds what it
/// needs.
const ABOUT_WORKLOADS: [&str; 18] = [
    "AccessService.Introspect",
    "ResponseService.ListRules",
    "ResponseService.WatchRevocation",
    "ResponseService.Lift",
    "RegistryService.ApplyWorkloads",
    "RegistryService.ListWorkloads",
    "RegistryService.ShowWorkload",
    "RegistryService.ExplainEvidence",
    "RegistryService.CreateJoinToken",
    "RegistryService.PutSecret",
    "RegistryService.ListSecrets",
    "RegistryService.DeleteSecret",
    "ResponseService.Preview",
    "ResponseService.ListTasks",
    "ResponseService.ShowTask",
    "ResponseService.ListLeases",
    "ResponseService.Revoke",
    "RegistryService.DeleteWorkload",
];

/// The method by which operators ask about themselves.
const ABOUT_ONESELF: &str = "AccessService.ShowOperator";

/// Team A's lead, with each role over team A alone.
const LEAD: &str = r#"
[[operators]]
spiffe_id = "spiffe://test.example/lead"
[[operators.roles]]
role = "registrar"
path_prefixes = ["spiffe://test.example/team-a", "spiffe://own.example/team-a"]
scopes = ["exec:git", "tool:*"]
audiences = ["https://team-a.example/*"]
secrets = ["team-a/*"]
[[operators.roles]]
role = "responder"
path_prefixes = ["spiffe://test.example/team-a"]
[[operators.roles]]
role = "introspector"
path_prefixes = ["spiffe://test.example/team-a"]
audiences = ["https://team-a.example/*"]
"#;

fn methods() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(sundew_proto::DESCRIPTOR).expect("descriptor");
    let services = set.file.into_iter().flat_map(|file| file.service);
    let of_operators = services.filter(|service| {
        ["AccessService", "RegistryService", "ResponseService"].contains(&service.name())
    });
    of_operators
        .flat_map(|service| {
            let name = service.name().to_owned();
            let methods = service.method.into_iter();
            methods.map(move |method| format!("{name}.{}", method.name()))
        })
        .collect()
}

/// The registration of the agent of a team, with all that the team may hand out.
fn registration(team: &str) -> serde_json::Value {
    let changes = json!({
        "scopes": ["exec:git", format!("secret:{team}/*")],
        "audiences": [format!("https://{team}.example/*")],
    });
    World::registration(&format!("/{team}/agent"), changes)
}

/// A team, with a live task and a quarantine.
struct Team {
    name: &'static str,
    agent: Caller,
    begun: Begun,
    /// A token for a service of the team.
    token: String,
    quarantine: String,
}

struct Teams {
    world: World,
    broker: Broker,
    lead: Caller,
    operator: Caller,
    teams: [Team; 2],
}

impl Teams {
    async fn gather() -> Self {
        let world = World::embedded();
        let (mut broker, _) = world.prepare_with_own_ca("");
        let config = std::fs::read_to_string(broker.config_file()).expect("config");
        std::fs::write(broker.config_file(), config + LEAD).expect("config");
        broker.up();
        broker.ready().await;
        let operator = world.operator(&broker);
        let mut teams = Vec::new();
        for name in ["team-a", "team-b"] {
            let mut joins = registration(name);
            joins["spiffe_id"] = json!(format!("spiffe://own.example/{name}/joins"));
            operator
                .apply(&[registration(name), joins])
                .await
                .expect("registered");
            operator.put_secret(&format!("{name}/there"), "value").await;
            let path = format!("/{name}/agent");
            let agent = world.caller(&broker, &path);
            let begun = agent.begin(&world.issuer, &path, &["exec:git"]).await;
            let begun = begun.expect("task");
            let request = MintTokenRequest {
                task_id: begun.task.clone(),
                audience: vec![format!("https://{name}.example/api")],
                ..MintTokenRequest::default()
            };
            let minted = agent.agent().mint_token(request).await.expect("token");
            let elsewhere = of_workload(&format!("/{name}/elsewhere"));
            let quarantine = operator.respond(elsewhere, Effect::Quarantine).await;
            teams.push(Team {
                name,
                token: minted.into_inner().token.expect("token").token,
                quarantine: quarantine.expect("quarantine").revocation_id,
                agent,
                begun,
            });
        }
        Self {
            lead: world.caller(&broker, "/lead"),
            teams: teams.try_into().ok().expect("two teams"),
            world,
            broker,
            operator,
        }
    }

    /// Calls a method as the lead about what is of a team. Returns how much of the team's it heard
    /// of or changed.
    async fn ask(&self, method: &str, team: &Team) -> Result<usize, Status> {
        let (lead, name) = (&self.lead, team.name);
        let spiffe_id = format!("spiffe://{DOMAIN}/{name}/agent");
        match method {
            "AccessService.Introspect" => {
                let presenter = team.agent.thumbprint();
                let active = lead.active(&team.token, &presenter).await?;
                Ok(usize::from(active))
            }
            "RegistryService.ApplyWorkloads" => {
                let mut narrower = registration(name);
                narrower["max_tasks"] = json!(7);
                Ok(lead.apply(&[narrower]).await?.changes.len())
            }
            "RegistryService.CreateJoinToken" => {
                let request = CreateJoinTokenRequest {
                    spiffe_id: format!("spiffe://own.example/{name}/joins"),
                    ttl_ms: 0,
                };
                lead.registry().create_join_token(request).await.map(|_| 1)
            }
            "RegistryService.DeleteSecret" => {
                let name = format!("{name}/there");
                let request = DeleteSecretRequest { name };
                lead.registry().delete_secret(request).await.map(|_| 1)
            }
            "RegistryService.DeleteWorkload" => {
                let request = DeleteWorkloadRequest { spiffe_id };
                lead.registry().delete_workload(request).await.map(|_| 1)
            }
            "RegistryService.ExplainEvidence" => {
                let request = ExplainEvidenceRequest {
                    spiffe_id,
                    limit: 0,
                };
                let told = lead.registry().explain_evidence(request).await?;
                Ok(told.into_inner().attempts.len())
            }
            "RegistryService.ListSecrets" => {
                let listed = lead.registry().list_secrets(ListSecretsRequest {}).await?;
                let secrets = listed.into_inner().secrets;
                let of_team = |secret: &&SecretInfo| secret.name.starts_with(name);
                Ok(secrets.iter().filter(of_team).count())
            }
            "RegistryService.ListWorkloads" => {
                let listed = lead
                    .registry()
                    .list_workloads(ListWorkloadsRequest {})
                    .await?;
                let workloads = listed.into_inner().workloads;
                let of_team = |workload: &&Workload| workload.spiffe_id.contains(name);
                Ok(workloads.iter().filter(of_team).count())
            }
            "RegistryService.PutSecret" => {
                let request = PutSecretRequest {
                    name: format!("{name}/there"),
                    value: b"another".to_vec(),
                    idempotency_key: String::new(),
                };
                lead.registry().put_secret(request).await.map(|_| 1)
            }
            "RegistryService.ShowWorkload" => {
                let request = ShowWorkloadRequest { spiffe_id };
                lead.registry().show_workload(request).await.map(|_| 1)
            }
            other => self.respond(other, team).await,
        }
    }

    async fn respond(&self, method: &str, team: &Team) -> Result<usize, Status> {
        let lead = &self.lead;
        let workload = format!("/{}/agent", team.name);
        let of_team = |selector: &Selector| selector.spiffe_id.contains(team.name);
        match method {
            "ResponseService.Lift" => lead.lift(&team.quarantine).await.map(|_| 1),
            // There is no engine, so there are no leases.
            "ResponseService.ListLeases" => {
                let request = ListLeasesRequest::default();
                let listed = lead.response().list_leases(request).await?;
                Ok(listed.into_inner().leases.len())
            }
            "ResponseService.ListRules" => {
                let listed = lead.response().list_rules(ListRulesRequest {}).await?;
                let rules = listed.into_inner().rules.into_iter();
                let rules = rules.filter_map(|rule| rule.selector);
                Ok(rules.filter(|selector| of_team(selector)).count())
            }
            "ResponseService.ListTasks" => {
                let request = ListTasksRequest {
                    state: TaskState::Any.into(),
                    ..ListTasksRequest::default()
                };
                let listed = lead.response().list_tasks(request).await?.into_inner();
                let of_team = |task: &&Task| task.task_id == team.begun.task;
                Ok(listed.tasks.iter().filter(of_team).count())
            }
            "ResponseService.Preview" => {
                let previewed = lead.preview(of_workload(&workload)).await?;
                Ok(usize::try_from(previewed.tasks).expect("few"))
            }
            "ResponseService.Revoke" => lead.revoke(of_task(&team.begun.task)).await.map(|_| 1),
            "ResponseService.ShowTask" => {
                let task_id = team.begun.task.clone();
                let request = ShowTaskRequest { task_id };
                lead.response().show_task(request).await.map(|_| 1)
            }
            "ResponseService.WatchRevocation" => {
                let request = WatchRevocationRequest {
                    revocation_id: team.quarantine.clone(),
                    follow: false,
                };
                let watched = lead.response().watch_revocation(request).await?;
                let first = watched.into_inner().next().await.expect("an answer");
                first.map(|_| 1)
            }
            other => panic!("{other}: say how a role within bounds calls it"),
        }
    }
}

/// Calls a method with an empty message.
async fn call(caller: &Caller, method: &str) -> Result<(), Status> {
    let mut grpc = Grpc::new(caller.channel.clone());
    grpc.ready().await.expect("connected");
    let path = format!("/sundew.v1.{}", method.replace('.', "/"));
    let path: PathAndQuery = path.parse().expect("path");
    let codec = ProstCodec::<(), ()>::default();
    grpc.unary(Request::new(()), path, codec).await.map(drop)
}

fn is_beyond(status: &Status) -> bool {
    status.code() == Code::PermissionDenied
        && status
            .message()
            .starts_with("not permitted: beyond the bounds of the role `")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o4_a_role_within_bounds_is_over_its_team_and_nothing_else_by_any_method() {
    let known = ABOUT_ALL.into_iter().chain(ABOUT_WORKLOADS);
    let known: BTreeSet<_> = known.chain([ABOUT_ONESELF]).map(str::to_owned).collect();
    assert_eq!(known, methods());
    let all = Teams::gather().await;
    for method in ABOUT_ALL {
        let refused = call(&all.lead, method).await.expect_err(method);
        assert!(is_beyond(&refused), "{method}: {refused}");
    }
    let [own, other] = &all.teams;
    for method in ABOUT_WORKLOADS {
        // Another team's first: what would get through is still there.
        match all.ask(method, other).await {
            Ok(heard_of) => assert_eq!(heard_of, 0, "{method}"),
            Err(refused) => {
                let is_hidden = refused.code() == Code::NotFound;
                assert!(is_hidden || is_beyond(&refused), "{method}: {refused}");
            }
        }
        let heard_of = all.ask(method, own).await.expect(method);
        assert_eq!(
            heard_of == 0,
            method == "ResponseService.ListLeases",
            "{method}"
        );
    }
    // Nothing of the other team's was touched, and the own team's has ended.
    for (team, is_left) in [(own, false), (other, true)] {
        let presenter = team.agent.thumbprint();
        let active = all.operator.active(&team.token, &presenter).await;
        assert_eq!(active.expect("answer"), is_left, "{}", team.name);
    }
    let secrets = all
        .operator
        .registry()
        .list_secrets(ListSecretsRequest {})
        .await;
    let secrets = secrets.expect("secrets").into_inner().secrets;
    let left: Vec<_> = secrets
        .iter()
        .map(|s| (s.name.as_str(), s.version))
        .collect();
    assert_eq!(left, [("team-b/there", 1)]);
}

#[tokio::test]
async fn o4_a_rule_that_can_reach_further_is_refused_with_the_prefix_to_add() {
    let all = Teams::gather().await;
    let [own, other] = &all.teams;
    let selector = Selector::default;
    let prefix = |path: &str| Selector {
        spiffe_path_prefix: format!("spiffe://{DOMAIN}{path}"),
        ..selector()
    };
    let audience = Selector {
        audience: "https://team-a.example/api".to_owned(),
        ..selector()
    };
    let reaching = [
        audience.clone(),
        Selector {
            scope: "exec:git".to_owned(),
            ..selector()
        },
        Selector {
            secret: "team-a/there".to_owned(),
            ..selector()
        },
        Selector {
            claims: vec!["oidc.sub=/team-a/agent".to_owned()],
            ..selector()
        },
        Selector {
            svid_serial: "0a".to_owned(),
            ..selector()
        },
        Selector {
            trust_domain: DOMAIN.to_owned(),
            ..selector()
        },
        Selector {
            registration_version: "v".to_owned(),
            ..selector()
        },
        Selector {
            issued_before_ms: 1,
            ..selector()
        },
        Selector {
            everything: true,
            ..selector()
        },
        prefix("/team"),
        prefix("/team-b"),
    ];
    for selector in reaching {
        for refused in [
            all.lead.preview(selector.clone()).await.map(drop),
            all.lead.revoke(selector.clone()).await.map(drop),
        ] {
            let refused = refused.expect_err("refused");
            assert!(is_beyond(&refused), "{selector:?}: {refused}");
            let names = format!("spiffe://{DOMAIN}/team-a");
            let hint = selector.everything || refused.message().contains(&names);
            assert!(hint, "{refused}");
        }
    }
    // Of another team's task nobody hears that there is one.
    for selector in [of_task(&other.begun.task), of_token(&other.token)] {
        let refused = all.lead.revoke(selector).await.expect_err("refused");
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    let within = Selector {
        audience: audience.audience,
        ..prefix("/team-a")
    };
    assert_eq!(
        all.lead
            .preview(within.clone())
            .await
            .expect("counts")
            .tokens,
        1
    );
    all.lead.revoke(within).await.expect("in force");
    let presenter = own.agent.thumbprint();
    assert!(
        !all.operator
            .active(&own.token, &presenter)
            .await
            .expect("answer")
    );
    assert!(
        all.operator
            .active(&own.begun.token, &presenter)
            .await
            .expect("answer")
    );
}

#[tokio::test]
async fn o4_a_registrar_hands_out_what_it_may_and_hears_what_is_beyond() {
    let all = Teams::gather().await;
    let apply = |changes: serde_json::Value| {
        let mut document = registration("team-a");
        let changes = changes.as_object().expect("members").clone();
        document.as_object_mut().expect("document").extend(changes);
        let lead = &all.lead;
        async move { lead.apply(&[document]).await }
    };
    for (changes, beyond) in [
        (json!({ "scopes": ["secret:*"] }), "scopes: secret:*"),
        (
            json!({ "scopes": ["secret:team-b/there"] }),
            "scopes: secret:team-b/there",
        ),
        (json!({ "scopes": ["exec:*"] }), "scopes: exec:*"),
        (
            json!({ "audiences": ["https://team-b.example/api"] }),
            "audiences: https://team-b",
        ),
        (json!({ "audiences": null }), "audiences: without this list"),
        (
            json!({ "jwt_svid_audiences": ["x"] }),
            "jwt_svid_audiences: x",
        ),
    ] {
        let refused = apply(changes).await.expect_err(beyond);
        assert!(
            is_beyond(&refused) && refused.message().contains(beyond),
            "{refused}"
        );
    }
    // What somebody else has allowed goes when the lead applies what it may.
    let wide = json!({ "scopes": ["exec:git", "net:example.org:443"] });
    all.world.register(&all.broker, "/team-a/agent", wide).await;
    apply(json!({})).await.expect("narrower");
    // The lead hears what it may.
    let told = all
        .lead
        .access()
        .show_operator(ShowOperatorRequest {})
        .await;
    let told = told.expect("told").into_inner();
    let registrar = told.roles.iter().find(|role| role.role == "registrar");
    let bounds = registrar.expect("role").bounds.as_ref().expect("bounds");
    assert_eq!(bounds.secrets, ["team-a/*"]);
    let all_of_it = all
        .operator
        .access()
        .show_operator(ShowOperatorRequest {})
        .await;
    let roles = all_of_it.expect("told").into_inner().roles;
    assert!(roles.len() == 3 && roles.iter().all(|role| role.bounds.is_none()));
    let nobody = all.teams[0]
        .agent
        .access()
        .show_operator(ShowOperatorRequest {})
        .await;
    assert_eq!(nobody.expect_err("no operator").message(), "not permitted");
}
