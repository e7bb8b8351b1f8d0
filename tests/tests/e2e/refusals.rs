//! Refusal coverage: every RPC of the descriptor × every wrong caller (AC-18, T40, T41, T42, T44).

use std::time::Duration;

use prost::Message as _;
use serde_json::json;
use sundew_proto::v1::ShowTaskRequest;
use sundew_tests::calls::Caller;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Methods of `sundew.v1` as the descriptor has them: service, method, whether the client streams.
fn methods() -> Vec<(String, String, bool)> {
    let set = prost_types::FileDescriptorSet::decode(sundew_proto::DESCRIPTOR).expect("descriptor");
    let mut methods = Vec::new();
    for file in set.file.iter().filter(|f| f.package() == "sundew.v1") {
        for service in &file.service {
            for method in &service.method {
                methods.push((
                    service.name().to_owned(),
                    method.name().to_owned(),
                    method.client_streaming(),
                ));
            }
        }
    }
    methods
}

/// Calls a method with an empty message.
async fn call(caller: &Caller, path: &str, streaming: bool) -> Result<(), Status> {
    let mut grpc = Grpc::new(caller.channel.clone());
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(format!("transport: {e}")))?;
    let path: PathAndQuery = path.parse().expect("path");
    let codec = ProstCodec::<(), ()>::default();
    if streaming {
        let stream = tokio_stream::iter([()]);
        grpc.streaming(Request::new(stream), path, codec)
            .await
            .map(drop)
    } else {
        grpc.unary(Request::new(()), path, codec).await.map(drop)
    }
}

/// Which role each service needs; agents' own services need a registration.
fn allowed(service: &str, method: &str, who: &str) -> bool {
    match service {
        // About oneself.
        "AccessService" if method == "ShowOperator" => {
            matches!(who, "introspector" | "registrar" | "responder")
        }
        "AgentService" => who == "agent",
        "AccessService" => matches!(who, "agent" | "introspector"),
        // Agents order from within their tasks.
        "DispatchService" => who == "agent",
        "RegistryService" => who == "registrar",
        "ResponseService" => who == "responder",
        "EnrollmentService" => false,
        // Of nodes and of brokers, on sockets of their own.
        "LocalService" | "NodeService" | "OwnerService" => false,
        other => panic!("{other} has no row here: say who may call it"),
    }
}

#[tokio::test]
async fn c6_an_operator_hears_what_there_is_not_and_which_role_is_missing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let show = |who: &'static str| {
        let caller = world.caller(&broker, who);
        async move {
            let request = ShowTaskRequest {
                task_id: "task-00000000000000000000000000000000".to_owned(),
            };
            let status = caller
                .response()
                .show_task(request)
                .await
                .expect_err("no task");
            (status.code(), status.message().to_owned())
        }
    };
    let said = |code, text: &str| (code, text.to_owned());
    assert_eq!(
        show("/responder").await,
        said(Code::NotFound, "there is no such task")
    );
    assert_eq!(
        show("/registrar").await,
        said(
            Code::PermissionDenied,
            "not permitted: this needs the role `responder`"
        )
    );
    // P11: who has no role learns nothing.
    assert_eq!(
        show("/stranger").await,
        said(Code::PermissionDenied, "not permitted")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_refuses_every_wrong_caller() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let callers: Vec<(&str, Caller)> = vec![
        ("agent", world.caller(&broker, "/agent")),
        ("stranger", world.caller(&broker, "/stranger")),
        ("introspector", world.caller(&broker, "/introspector")),
        ("registrar", world.caller(&broker, "/registrar")),
        ("responder", world.caller(&broker, "/responder")),
        ("look-alike", world.caller(&broker, "/registrar-evil")),
    ];
    let nobody = Caller::new(broker.address(), None);
    let methods = methods();
    assert!(
        methods.len() >= 23,
        "the descriptor has {} methods",
        methods.len()
    );
    for (service, method, streaming) in &methods {
        let path = format!("/sundew.v1.{service}/{method}");
        for (who, caller) in &callers {
            if allowed(service, method, who) {
                continue;
            }
            let before = broker.refusals(method).len();
            let status = call(caller, &path, *streaming)
                .await
                .expect_err(&format!("{who} called {path}"));
            // Malformed input may be told first where the form is looked at before the task; never
            // anything but these.
            if matches!(
                service.as_str(),
                "LocalService" | "NodeService" | "OwnerService"
            ) {
                assert_eq!(status.code(), Code::Unimplemented, "{path}");
                continue;
            }
            let expected = matches!(
                status.code(),
                Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented
            );
            assert!(expected, "{who} at {path}: {status}");
            if status.code() == Code::PermissionDenied {
                // C6: an operator hears which role is missing.
                let role = match service.as_str() {
                    "DispatchService" => "dispatcher",
                    "RegistryService" => "registrar",
                    "ResponseService" => "responder",
                    _ => "introspector",
                };
                let missing = format!("not permitted: this needs the role `{role}`");
                let is_operator = ["introspector", "registrar", "responder"].contains(who);
                let is_said = is_operator && status.message() == missing;
                assert!(
                    is_said || status.message() == "not permitted",
                    "{who} at {path}"
                );
            }
            until("exactly one record", || async {
                broker.refusals(method).len() == before + 1
            })
            .await;
        }
        let status = call(&nobody, &path, *streaming)
            .await
            .expect_err("no certificate");
        assert!(
            matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled
            ),
            "{path}: {status}"
        );
    }
}

/// T41, T44: paths that are not methods reach no handler, and nothing of operations is here.
#[tokio::test]
async fn t41_only_the_methods_answer() {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let list = "/sundew.v1.RegistryService/ListWorkloads";
    call(&operator, list, false).await.expect("the real one");
    for path in [
        "/sundew.v1.registryservice/listworkloads",
        "//sundew.v1.RegistryService/ListWorkloads",
        "/sundew.v1.RegistryService/",
        "/metrics",
        "/",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        assert_eq!(
            call(&operator, path, false).await.expect_err(path).code(),
            Code::Unimplemented,
            "{path}"
        );
    }
    let stranger = world.caller(&broker, "/stranger");
    for path in [format!("{list}?x=1"), format!("{list}?role=registrar")] {
        let status = call(&stranger, &path, false).await.expect_err(&path);
        assert!(
            matches!(status.code(), Code::PermissionDenied | Code::Unimplemented),
            "{path}: {status}"
        );
    }
}

/// T42: metadata is no identity.
#[tokio::test]
async fn t42_spoofed_metadata_changes_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let stranger = world.caller(&broker, "/stranger");
    let mut request = Request::new(sundew_proto::v1::ListWorkloadsRequest {});
    for (name, value) in [
        ("x-spiffe-id", "spiffe://test.example/operator"),
        (
            "x-forwarded-client-cert",
            "URI=spiffe://test.example/operator",
        ),
        ("authorization", "Bearer a"),
        ("authorization", "Bearer b"),
    ] {
        request
            .metadata_mut()
            .append(name, value.parse().expect("value"));
    }
    assert_eq!(
        stranger
            .registry()
            .list_workloads(request)
            .await
            .expect_err("refused")
            .code(),
        Code::PermissionDenied
    );
}

/// P12: one workload that calls without end is told to wait, and does not starve another.
#[tokio::test]
async fn a_workload_that_floods_is_limited_and_others_are_served() {
    let world = World::embedded();
    let broker = world.broker_with("[limits]\ncalls_per_second = 20\n").await;
    world.register(&broker, "/flood", json!({})).await;
    world.register(&broker, "/calm", json!({})).await;
    let (flood, calm) = (
        world.caller(&broker, "/flood"),
        world.caller(&broker, "/calm"),
    );
    let mut limited = 0;
    for _ in 0..200 {
        limited += usize::from(
            flood
                .nonce()
                .await
                .is_err_and(|s| s.code() == Code::ResourceExhausted),
        );
    }
    assert!(limited > 100, "{limited}");
    calm.nonce().await.expect("served");
    until("the flood is served again later", || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        flood.nonce().await.is_ok()
    })
    .await;
}
