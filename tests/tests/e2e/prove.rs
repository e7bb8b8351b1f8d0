//! Continuous attestation: evidence every so often, and at each secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{
    AttendRequest, AttendResponse, AttendStart, GetSecretRequest, ProofWanted, Prove,
};
use sundew_sdk::{Agent, Collected, Collector, Context, Ended, Settings, minutes};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::issuer::TestIssuer;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Collects until it is told to stop.
struct Tokens {
    issuer: Arc<TestIssuer>,
    works: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Collector for Tokens {
    fn kind(&self) -> &str {
        "oidc"
    }
    fn collect<'a>(&'a self, _: &'a Context<'a>) -> Collected<'a> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let token = if self.works.load(Ordering::Relaxed) {
            Ok(self.issuer.token("/agent"))
        } else {
            Err("nothing to show".into())
        };
        Box::pin(async move { token })
    }
}

/// An agent, whether its collector works, how often that was asked, and the agent's certificate.
async fn agent(
    world: &World,
    broker: &Broker,
) -> (Agent, Arc<AtomicBool>, Arc<AtomicUsize>, [u8; 32]) {
    let folder = world.folder().join("agent");
    let svid = world.ca.svid("/agent");
    svid.write(&folder, std::slice::from_ref(&world.ca.certificate));
    let (works, count) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let tokens = Tokens {
        issuer: Arc::clone(&world.issuer),
        works: Arc::clone(&works),
        count: Arc::clone(&count),
    };
    let settings = Settings {
        broker: Some(broker.address()),
        svid_dir: Some(folder),
        ..Settings::default()
    };
    (
        Agent::builder(settings)
            .collector(tokens)
            .build()
            .await
            .expect("agent"),
        works,
        count,
        svid.thumbprint(),
    )
}

fn events(broker: &Broker, event: &str) -> usize {
    broker
        .journal()
        .iter()
        .filter(|record| record.event == event)
        .count()
}

#[tokio::test]
async fn a_task_proves_itself_every_so_often_and_one_that_cannot_is_suspended_and_then_ended() {
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(
            &broker,
            "/agent",
            json!({ "prove_every": "2s", "attendance_grace": "1s" }),
        )
        .await;
    world.operator(&broker).put_secret("app/key", "value").await;
    let (agent, works, _, thumbprint) = agent(&world, &broker).await;
    let task = agent
        .task("long")
        .scope("secret:app/*")
        .ttl(minutes(5))
        .begin()
        .await
        .expect("task");
    until("proven twice", || async {
        events(&broker, "task_proven") >= 2
    })
    .await;
    task.secret("app/key").await.expect("it lives");
    assert_eq!(events(&broker, "task_suspended"), 0);
    works.store(false, Ordering::Relaxed);
    until("suspended", || async {
        events(&broker, "task_suspended") == 1
    })
    .await;
    let resource = world.caller(&broker, "/introspector");
    assert!(
        !resource
            .active(task.token().expose(), &thumbprint)
            .await
            .expect("answer")
    );
    task.secret("app/key").await.expect_err("suspended");
    // It can still show something in time, and goes on.
    works.store(true, Ordering::Relaxed);
    task.resume().await.expect("resumed");
    task.secret("app/key").await.expect("resumed");
    works.store(false, Ordering::Relaxed);
    let ended = tokio::time::timeout(Duration::from_secs(10), task.ended())
        .await
        .expect("ended in time");
    assert_eq!(ended, Ended::Revoked);
}

struct Stream {
    asked: mpsc::Sender<AttendRequest>,
    told: Streaming<AttendResponse>,
}

impl Stream {
    async fn open(caller: &Caller, task: &str, proof: Vec<u8>) -> Result<Self, Status> {
        let (asked, requests) = mpsc::channel(8);
        let start = AttendStart {
            task_id: task.to_owned(),
            proof,
        };
        asked
            .send(AttendRequest {
                request: Some(Request::Start(start)),
            })
            .await
            .expect("start");
        let told = caller
            .agent()
            .attend(ReceiverStream::new(requests))
            .await?
            .into_inner();
        Ok(Self { asked, told })
    }

    /// The next thing that is told, but for what every stream begins with.
    async fn next(&mut self) -> Event {
        loop {
            let told = tokio::time::timeout(Duration::from_secs(8), self.told.message())
                .await
                .expect("told in time")
                .expect("stream")
                .expect("told");
            match told.event.expect("event") {
                Event::Accepted(_) => {}
                event => return event,
            }
        }
    }

    async fn wanted(&mut self) -> ProofWanted {
        match self.next().await {
            Event::ProofWanted(wanted) => wanted,
            other => panic!("{other:?} instead of a demand"),
        }
    }

    async fn prove(&self, nonce: Vec<u8>, token: Vec<u8>) {
        let prove = Prove {
            nonce,
            evidence: vec![oidc(token)],
        };
        self.asked
            .send(AttendRequest {
                request: Some(Request::Prove(prove)),
            })
            .await
            .expect("prove");
    }
}

async fn begun(world: &World, broker: &Broker, changes: Value) -> (Caller, String) {
    world.register(broker, "/agent", changes).await;
    let caller = world.caller(broker, "/agent");
    let task = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task")
        .task;
    (caller, task)
}

/// T81 for proofs: what an agent that has nothing to show could try.
#[tokio::test]
async fn opening_another_stream_or_showing_something_else_gains_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let registration = json!({ "prove_every": "2s", "attendance_grace": "8s" });
    // A stream that is closed before evidence is due, and another one after: suspended at once.
    let (caller, task) = begun(&world, &broker, registration.clone()).await;
    let mut first = Stream::open(&caller, &task, Vec::new())
        .await
        .expect("stream");
    let wanted = first.wanted().await;
    assert_eq!(wanted.evidence_sets.len(), 1);
    drop(first);
    tokio::time::sleep(Duration::from_millis(
        u64::try_from(wanted.due_ms - sundew_tests::now_ms()).unwrap_or(0),
    ))
    .await;
    let mut second = Stream::open(&caller, &task, Vec::new())
        .await
        .expect("stream");
    assert!(matches!(second.next().await, Event::Suspended(_)));
    assert!(
        matches!(second.next().await, Event::Ended(_)),
        "ended after as long again"
    );

    // With the ticket of good evidence, another stream goes on.
    let (caller, task) = begun(&world, &broker, registration.clone()).await;
    let mut stream = Stream::open(&caller, &task, Vec::new())
        .await
        .expect("stream");
    let wanted = stream.wanted().await;
    stream
        .prove(wanted.nonce, world.issuer.token("/agent"))
        .await;
    let Event::Proven(proven) = stream.next().await else {
        panic!("not proven")
    };
    drop(stream);
    let mut stream = Stream::open(&caller, &task, proven.proof.clone())
        .await
        .expect("stream");
    let wanted = stream.wanted().await;
    // The nonce of the stream is good once; evidence that was used is used.
    let token = world.issuer.token("/agent");
    stream.prove(wanted.nonce.clone(), token.clone()).await;
    assert!(matches!(stream.next().await, Event::Proven(_)));
    stream.prove(wanted.nonce, token).await;
    assert!(matches!(stream.next().await, Event::Suspended(_)));

    // A ticket of another task, and one that was made up.
    let (caller, other) = begun(&world, &broker, registration.clone()).await;
    let mut bent = proven.proof.clone();
    bent[0] ^= 1;
    for ticket in [proven.proof, bent, vec![0; 40]] {
        let refused = match Stream::open(&caller, &other, ticket).await {
            Err(status) => status,
            Ok(mut stream) => stream.told.message().await.expect_err("a foreign ticket"),
        };
        assert_eq!(refused.code(), Code::InvalidArgument);
    }

    // Evidence that is good, and of something else than the task was begun on.
    let (caller, task) = begun(&world, &broker, registration).await;
    let mut stream = Stream::open(&caller, &task, Vec::new())
        .await
        .expect("stream");
    let wanted = stream.wanted().await;
    let mut claims = TestIssuer::claims("/agent");
    claims["pod"] = json!("another");
    stream
        .prove(wanted.nonce, world.issuer.token_of(&claims))
        .await;
    assert!(
        matches!(stream.next().await, Event::Suspended(_)),
        "suspended at once"
    );
}

/// The SDK shows evidence by itself where a secret wants it.
async fn the_sdk_shows_evidence(world: &World, broker: &Broker) {
    let (agent, works, count, _) = agent(world, broker).await;
    let task = agent
        .task("x")
        .scope("secret:app/key")
        .ttl(minutes(1))
        .begin()
        .await
        .expect("task");
    task.secret("app/key").await.expect("secret");
    assert_eq!(
        count.load(Ordering::Relaxed),
        2,
        "one to begin, one to read"
    );
    works.store(false, Ordering::Relaxed);
    task.secret("app/key").await.expect_err("nothing to show");
}

#[tokio::test]
async fn a_secret_that_wants_evidence_is_given_for_evidence_only() {
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(&broker, "/agent", json!({ "evidence_at_secrets": true }))
        .await;
    world.operator(&broker).put_secret("app/key", "value").await;
    let caller = world.caller(&broker, "/agent");
    let task = caller
        .begin(&world.issuer, "/agent", &["secret:app/key"])
        .await
        .expect("task")
        .task;
    let read = |nonce: Vec<u8>, token: Vec<u8>| {
        let request = GetSecretRequest {
            task_id: task.clone(),
            name: "app/key".to_owned(),
            nonce,
            evidence: vec![oidc(token)],
        };
        let mut client = caller.agent();
        async move { client.get_secret(request).await }
    };
    assert_eq!(
        caller
            .secret(&task, "app/key")
            .await
            .expect_err("no evidence")
            .code(),
        Code::PermissionDenied
    );
    let (nonce, token) = (
        caller.nonce().await.expect("nonce"),
        world.issuer.token("/agent"),
    );
    assert_eq!(
        read(nonce.clone(), token.clone())
            .await
            .expect("evidence")
            .into_inner()
            .value,
        b"value"
    );
    assert_eq!(
        read(nonce, world.issuer.token("/agent"))
            .await
            .expect_err("the nonce again")
            .code(),
        Code::PermissionDenied
    );
    let nonce = caller.nonce().await.expect("nonce");
    assert_eq!(
        read(nonce, token)
            .await
            .expect_err("the token again")
            .code(),
        Code::PermissionDenied
    );
    let nonce = caller.nonce().await.expect("nonce");
    assert_eq!(
        read(nonce, world.issuer.token("/other"))
            .await
            .expect_err("somebody else's")
            .code(),
        Code::PermissionDenied
    );
    the_sdk_shows_evidence(&world, &broker).await;
}
