//! The I/O of attending, against a broker in memory and with the runtime's clock paused.

use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_core::client::{Binding, public_key_of};
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{
    self, AttendAccepted, BindingRotated, EvidenceSet, Outcome, Proven, TaskEnded, TaskSuspended,
};
use tokio::sync::watch;

use super::*;
use crate::collect::{Collected, Collector, Context};
use crate::ended::Ended;
use crate::identity::Identity;
use crate::task::Token;
use crate::testing::{self, Opened};

const GRACE: Duration = Duration::from_secs(30);

/// A task that is attended, and both ends of what it is attended over.
struct Attended {
    shared: Arc<Shared>,
    streams: mpsc::Receiver<Opened>,
    identities: watch::Sender<Arc<Identity>>,
    next: Arc<Identity>,
}

impl Attended {
    /// Begins to attend a task. The agent's connection is that of its next SVID already, since a
    /// connection that the agent opens by itself would leave the memory.
    fn begin() -> Self {
        Self::begin_where_minting_takes(Duration::ZERO)
    }

    fn begin_where_minting_takes(time: Duration) -> Self {
        let (now, next) = (testing::identity(), testing::identity());
        let testing::Memory {
            channel, streams, ..
        } = testing::broker(time);
        let connection =
            |identity: &Arc<Identity>| Connection::over(channel.clone(), Arc::clone(identity));
        let (identities, source) = watch::channel(Arc::clone(&now));
        let agent = Agent::over(
            connection(&next),
            IdentitySource::following(source),
            vec![Arc::new(Motto), Arc::new(Bound)],
        );
        let token = v1::Token {
            token_id: "first".to_owned(),
            ..v1::Token::default()
        };
        let token = Token::of(Some(token), &connection(&now)).expect("token");
        let shared = Arc::new(Shared {
            id: "task-1".to_owned(),
            connection: ArcSwap::from_pointee(connection(&now)),
            token: ArcSwap::from_pointee(token),
            ended: watch::Sender::default(),
            suspended: watch::Sender::default(),
            grace: GRACE,
            deadline: crate::clock::now() + 1000 * GRACE,
            proof: ArcSwap::default(),
        });
        tokio::spawn(attend(agent, Arc::clone(&shared)));
        Self {
            shared,
            streams,
            identities,
            next,
        }
    }

    /// Waits for the next stream, and returns it with the proof that it was opened with.
    async fn opened(&mut self) -> (Opened, Vec<u8>) {
        let mut stream = self.streams.recv().await.expect("stream");
        let Request::Start(start) = stream.request().await else {
            panic!("a stream begins with its start");
        };
        assert_eq!(start.task_id, "task-1");
        (stream, start.proof)
    }

    async fn ended(&self) -> Option<Ended> {
        let mut news = self.shared.ended.subscribe();
        let ended = news.wait_for(Option::is_some).await;
        *ended.expect("told")
    }
}

/// A collector that takes two rounds of pings.
struct Motto;

impl Collector for Motto {
    fn kind(&self) -> &str {
        "motto"
    }
    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async {
            tokio::time::sleep(GRACE * 2 / 3).await;
            Ok(context.audience.as_bytes().to_vec())
        })
    }
}

/// A collector whose evidence is what it is bound to.
struct Bound;

impl Collector for Bound {
    fn kind(&self) -> &str {
        "bound"
    }
    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async { Ok(context.binding.as_bytes().to_vec()) })
    }
}

fn wanted(kind: &str) -> Event {
    let kinds = vec![kind.to_owned()];
    Event::ProofWanted(ProofWanted {
        nonce: vec![7; 32],
        evidence_sets: vec![EvidenceSet { kinds }],
        audience: "broker".to_owned(),
        due_ms: 0,
    })
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_pinged_each_third_of_the_grace() {
    let mut attended = Attended::begin();
    let (mut stream, _) = attended.opened().await;
    for _ in 0..20 {
        let before = now();
        assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
        assert_eq!((now() - before).as_secs(), GRACE.as_secs() / 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ending_that_the_broker_pushes_is_told() {
    let mut attended = Attended::begin();
    let (stream, _) = attended.opened().await;
    let outcome = Outcome::Revoked.into();
    stream.tell(Event::Ended(TaskEnded { outcome })).await;
    assert_eq!(attended.ended().await, Some(Ended::Revoked));
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_opened_again_with_the_last_proof() {
    let mut attended = Attended::begin();
    let (stream, proof) = attended.opened().await;
    assert!(proof.is_empty());
    let proof = b"receipt".to_vec();
    stream.tell(Event::Proven(Proven { proof })).await;
    drop(stream);
    let (mut stream, proof) = attended.opened().await;
    assert_eq!(proof, b"receipt");
    assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
}

/// AC-26, without a broker: the move is announced on the old stream, and the next stream is that of
/// the new SVID, with a token of its own.
#[tokio::test(start_paused = true)]
async fn a_task_moves_to_a_rotated_svid() {
    let mut attended = Attended::begin();
    let (mut stream, _) = attended.opened().await;
    let next = Arc::clone(&attended.next);
    attended.identities.send_replace(Arc::clone(&next));
    let certificate_sha256 = next.thumbprint().to_vec();
    assert_eq!(
        stream.request().await,
        Request::Rotate(RotateBinding {
            certificate_sha256: certificate_sha256.clone()
        })
    );
    assert_eq!(attended.shared.token.load().id(), "first");
    stream
        .tell(Event::Rotated(BindingRotated { certificate_sha256 }))
        .await;
    let (mut stream, _) = attended.opened().await;
    let token = attended.shared.token.load_full();
    assert_eq!(token.id(), "minted for task-1");
    assert_eq!(token.certificate_sha256(), &next.thumbprint());
    assert_eq!(
        attended.shared.connection.load().identity().chain(),
        next.chain()
    );
    assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
}

#[tokio::test(start_paused = true)]
async fn evidence_is_collected_beside_the_pings() {
    let mut attended = Attended::begin();
    let (mut stream, _) = attended.opened().await;
    stream.tell(wanted("motto")).await;
    assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
    let prove = loop {
        if let Request::Prove(prove) = stream.request().await {
            break prove;
        }
    };
    assert_eq!(prove.nonce, [7; 32]);
    assert_eq!(prove.evidence[0].kind, "motto");
    assert_eq!(prove.evidence[0].payload, b"broker");
}

/// The connection was opened again under a stream that goes on: the broker knows the challenge on
/// the old one only.
#[tokio::test(start_paused = true)]
async fn l13a_evidence_is_bound_to_the_session_on_which_it_was_asked_for() {
    let mut attended = Attended::begin();
    let (mut stream, _) = attended.opened().await;
    stream
        .tell(Event::Accepted(AttendAccepted { grace_ms: 1 }))
        .await;
    assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
    let connection = attended.shared.connection.load_full();
    let before = connection.exporter();
    connection.replace_session([9; 32]);
    stream.tell(wanted("bound")).await;
    let Request::Prove(prove) = stream.request().await else {
        panic!("no evidence");
    };
    let key = public_key_of(&connection.identity().chain()[0]).expect("key");
    let bound = Binding::new(BindingPurpose::Prove, &[7; 32], &key, &before);
    assert_eq!(prove.evidence[0].payload, bound.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn l13_a_task_that_was_attended_for_long_survives_a_broken_stream() {
    let mut attended = Attended::begin();
    let (mut stream, _) = attended.opened().await;
    stream
        .tell(Event::Accepted(AttendAccepted { grace_ms: 1 }))
        .await;
    for _ in 0..30 {
        assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
    }
    drop(stream);
    let (mut stream, _) = attended.opened().await;
    assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
    assert_eq!(*attended.shared.ended.borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn pings_go_on_while_a_task_moves() {
    let mut attended = Attended::begin_where_minting_takes(GRACE * 5 / 6);
    let (mut stream, _) = attended.opened().await;
    let next = Arc::clone(&attended.next);
    attended.identities.send_replace(Arc::clone(&next));
    assert!(matches!(stream.request().await, Request::Rotate(_)));
    stream.tell(Event::Rotated(BindingRotated::default())).await;
    for _ in 0..2 {
        assert_eq!(stream.request().await, Request::Ping(AttendPing {}));
    }
    let (_stream, _) = attended.opened().await;
    let connection = attended.shared.connection.load_full();
    assert_eq!(connection.identity().chain(), next.chain());
}

#[tokio::test(start_paused = true)]
async fn a_suspension_is_told() {
    let mut attended = Attended::begin();
    let (stream, _) = attended.opened().await;
    stream.tell(Event::Suspended(TaskSuspended {})).await;
    let mut news = attended.shared.suspended.subscribe();
    news.wait_for(|suspended| *suspended).await.expect("told");
}

#[tokio::test(start_paused = true)]
async fn a_task_is_lost_when_no_stream_holds_for_three_graces() {
    let mut attended = Attended::begin();
    let begun = now();
    let mut opened = 0;
    let lost = loop {
        let mut news = attended.shared.ended.subscribe();
        tokio::select! {
            stream = attended.streams.recv() => { drop(stream); opened += 1; }
            ended = news.wait_for(Option::is_some) => break *ended.expect("told"),
        }
    };
    assert_eq!(lost, Some(Ended::Lost));
    let lasted = now() - begun;
    // The pauses are at most a quarter of the grace.
    assert!(
        lasted > 3 * GRACE && lasted < 4 * GRACE && opened > 12,
        "{lasted:?}, {opened} streams"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_the_broker_does_not_permit_is_lost_at_once() {
    let mut attended = Attended::begin();
    let begun = now();
    attended.streams.close();
    assert_eq!(attended.ended().await, Some(Ended::Lost));
    assert!(now() - begun < GRACE / 3);
}
