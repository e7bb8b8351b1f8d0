//! Keys of a TPM that an operator takes back, or that a quarantine is about.

use sundew_proto::v1::{ActivateTpmKeyResponse, Effect, RemoveTrustRequest, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::tpm::{Maker, Tpm};
use sundew_tests::world::World;
use tonic::{Code, Status};

use crate::activation::{KEY, answer, begin, brought_key, challenge, ek, open_with, register};

/// Another attestation key of the same TPM.
const OTHER_KEY: u32 = 0x8101_0003;

/// A host whose TPM has its first key activated.
struct Host {
    _world: World,
    _broker: Broker,
    operator: Caller,
    tpm: Tpm,
    caller: Caller,
    first: ActivateTpmKeyResponse,
}

impl Host {
    async fn new() -> Self {
        let world = World::embedded();
        let broker = world.broker().await;
        let operator = world.operator(&broker);
        let maker = Maker::new();
        let tpm = Tpm::made_by(&maker);
        operator
            .trust("tpm2_ek_root", "swtpm", &maker.certificates())
            .await;
        register(&world, &broker, &tpm).await;
        let caller = world.caller(&broker, "/agent");
        let first = activate(&caller, &tpm, KEY).await.expect("activated");
        Self {
            _world: world,
            _broker: broker,
            operator,
            tpm,
            caller,
            first,
        }
    }
}

/// Activates one of the TPM's keys.
async fn activate(caller: &Caller, tpm: &Tpm, key: u32) -> Result<ActivateTpmKeyResponse, Status> {
    let own = brought_key(tpm, key);
    let made = challenge(caller, &own).await?;
    let opened = open_with(tpm, key, &made).expect("opened");
    answer(caller, &own, opened, made.expires_at_ms).await
}

async fn begin_by_other_key(caller: &Caller, tpm: &Tpm) -> Result<Begun, Status> {
    let nonce = caller.nonce().await?;
    let binding = *caller.bound(&nonce).as_bytes();
    let payload = tpm.other_evidence("4+7", binding).await.expect("evidence");
    caller.begin_on(nonce, vec![("tpm2", payload)]).await
}

/// E10: a TPM may have several keys. One that an operator took back takes the others with it, and the
/// host cannot bring them back, neither with a key of before nor with a new one, until the operator
/// lets it.
#[tokio::test]
async fn e10_a_key_that_was_taken_back_takes_its_tpm_with_it_until_the_operator_lets_it_again() {
    let host = Host::new().await;
    let (operator, tpm) = (&host.operator, &host.tpm);
    let (caller, first) = (&host.caller, &host.first);
    let by_first = begin(caller, tpm).await.expect("a task");
    let second = activate(caller, tpm, OTHER_KEY).await.expect("another");
    assert_eq!(second.action, "created");
    let by_second = begin_by_other_key(caller, tpm).await.expect("a task");
    let again = begin(caller, tpm)
        .await
        .expect("the first key counts still");

    let remove = |kind: &str, name: String| {
        let request = RemoveTrustRequest {
            kind: kind.to_owned(),
            name,
            reason: "the host is lost".to_owned(),
        };
        let registry = operator.registry();
        async move {
            let mut registry = registry;
            registry.remove_trust(request).await.expect("removed")
        }
    };
    let ek = ek(tpm);
    remove("tpm2_ak", format!("ek-{ek}/{}", first.key)).await;
    let presenter = caller.thumbprint();
    for task in [&by_first, &again, &by_second] {
        let active = caller.active(&task.token, &presenter).await;
        assert!(!active.expect("answer"));
    }
    let refused = activate(caller, tpm, KEY).await.expect_err("taken back");
    assert_eq!(refused.code(), Code::PermissionDenied);
    begin(caller, tpm).await.expect_err("a key that is gone");
    let refused = begin_by_other_key(caller, tpm).await.expect_err("barred");
    assert_eq!(refused.code(), Code::PermissionDenied);

    for name in [ek.clone(), first.key.clone()] {
        remove("tpm2_barred", name).await;
    }
    begin_by_other_key(caller, tpm).await.expect("let again");
    activate(caller, tpm, KEY).await.expect("let again");
    begin(caller, tpm).await.expect("a task");
}

/// I1: a key that a quarantine is about does not become trusted, whoever brings it.
#[tokio::test]
async fn i1_a_quarantine_by_claim_lets_no_key_of_the_tpm_be_activated() {
    let host = Host::new().await;
    let (operator, tpm) = (&host.operator, &host.tpm);
    let (caller, first) = (&host.caller, &host.first);
    for (claim, other_key_too) in [
        (format!("tpm2.ek={}", ek(tpm)), true),
        (format!("tpm2.key={}", first.key), false),
    ] {
        let selector = Selector {
            claims: vec![claim],
            ..Selector::default()
        };
        let rule = operator.respond(selector, Effect::Quarantine).await;
        let refused = activate(caller, tpm, KEY).await.expect_err("quarantined");
        assert_eq!(refused.code(), Code::PermissionDenied);
        let other = activate(caller, tpm, OTHER_KEY).await;
        assert_eq!(other.is_err(), other_key_too);
        let rule = rule.expect("in force").revocation_id;
        operator.lift(&rule).await.expect("lifted");
    }
    let again = activate(caller, tpm, KEY).await.expect("activated");
    assert_eq!(again.action, "unchanged");
}
