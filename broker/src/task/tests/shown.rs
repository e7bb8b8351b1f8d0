//! Tokens that are bound to a certificate that was shown, instead of the SVID.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use sundew_attestation::hex;
use sundew_attestation::spiffe::thumbprint;
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{TestBroker, assert_refused};

/// A certificate of somebody's own key, good for this long.
fn certificate(lasts: Duration) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let now = Duration::from_millis(u64::try_from(clock::now_ms()).unwrap());
    params.not_after = (std::time::UNIX_EPOCH + now + lasts).into();
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn p8_a_token_for_a_certificate_is_good_with_that_certificate_and_on_the_record() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let certificate = certificate(DAY);
    let request = v1::MintTokenRequest {
        certificate: certificate.clone(),
        ..begun.mint()
    };
    let token = broker.mint(request, &agent).await.unwrap();
    assert_eq!(token.binding(), v1::Binding::Certificate);
    let shown = thumbprint(&certificate);
    assert_eq!(token.certificate_sha256, shown);
    assert!(broker.is_active_with(&token, &shown).await);
    assert!(!broker.is_active(&token, &agent).await);
    assert!(!broker.is_active_with(&token, &[0; 32]).await);
    let records = broker.journal("token_minted");
    let named = records[0].field("shown_certificate").map(str::to_owned);
    assert_eq!(named, Some(hex(&shown)));
}

#[tokio::test]
async fn p4_a_token_for_a_certificate_dies_with_its_task_and_with_the_svid_that_asked() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let certificate = certificate(DAY);
    let shown = thumbprint(&certificate);
    let request = |begun: &crate::testing::Begun| v1::MintTokenRequest {
        certificate: certificate.clone(),
        ..begun.mint()
    };
    let token = broker.mint(request(&begun), &agent).await.unwrap();
    let selector = v1::Selector {
        svid_serial: hex(agent.peer.svid().serial()),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Revoke).await;
    assert!(!broker.is_active_with(&token, &shown).await);

    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    let token = broker.mint(request(&begun), &agent).await.unwrap();
    assert!(broker.is_active_with(&token, &shown).await);
    let selector = v1::Selector {
        task_id: begun.id.clone(),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Revoke).await;
    assert!(!broker.is_active_with(&token, &shown).await);
}

#[tokio::test]
async fn p3_a_token_does_not_outlive_the_certificate_that_it_is_bound_to() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    for (lasts, ttl_ms) in [(20, 0), (20, 60_000), (3600, 20_000)] {
        let request = v1::MintTokenRequest {
            certificate: certificate(Duration::from_secs(lasts)),
            ttl_ms,
            ..begun.mint()
        };
        let token = broker.mint(request, &agent).await.unwrap();
        let left = token.expires_at_ms - clock::now_ms();
        assert!((1..=20_000).contains(&left), "{lasts} {ttl_ms}: {left}");
    }
}

#[tokio::test]
async fn a_key_of_a_call_is_good_for_one_certificate() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let named = certificate(DAY);
    let request = |certificate: &[u8]| v1::MintTokenRequest {
        certificate: certificate.to_vec(),
        idempotency_key: "k".to_owned(),
        ..begun.mint()
    };
    let one = broker.mint(request(&named), &agent).await.unwrap();
    let again = broker.mint(request(&named), &agent).await.unwrap();
    assert_eq!(one.token, again.token);
    // Another certificate is another token, which is derived from it, whatever the key says.
    for other in [certificate(DAY), Vec::new()] {
        let other = broker.mint(request(&other), &agent).await.unwrap();
        assert_ne!(one.token_id, other.token_id);
    }
}

#[tokio::test]
async fn p8_no_certificate_of_the_tasks_own_key_and_none_that_is_malformed_is_taken() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let good = certificate(DAY);
    let bearer = v1::Binding::Bearer;
    for (certificate, binding) in [
        (agent.self_signed(), v1::Binding::Unspecified),
        (b"certificate".to_vec(), v1::Binding::Unspecified),
        ([good.as_slice(), b"\0"].concat(), v1::Binding::Certificate),
        (good, bearer),
    ] {
        let request = v1::MintTokenRequest {
            certificate,
            binding: binding.into(),
            ..begun.mint()
        };
        let refused = broker.mint(request, &agent).await;
        assert_refused!(
            refused,
            Refusal::Invalid {
                field: "certificate",
                ..
            }
        );
    }
    assert!(broker.journal("token_minted").is_empty());
}
