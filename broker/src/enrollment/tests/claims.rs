//! Rules about what an identity rests on: the claims of evidence, or the marks of an SVID.

use super::*;
use crate::ca::IdentityPermit;

const CLAIM: &str = "tpm2.ek=aa";

fn about(claim: &str, spiffe_id: &str) -> v1::Selector {
    v1::Selector {
        claims: vec![claim.to_owned()],
        spiffe_id: spiffe_id.to_owned(),
        ..v1::Selector::default()
    }
}

/// Leave for `/agent` on evidence with this claim, which a withdrawal can name, and another one.
async fn leave(enrollment: &Enrollment, claim: &str) -> Result<IdentityPermit, Refusal> {
    let (ca, agent) = (
        enrollment.own_ca()?,
        SpiffeId::parse(&id("/agent")).unwrap(),
    );
    let permit = ca.permit(&agent, Shown::Fresh, &[]).await?;
    let claims = vec![claim.to_owned(), "tpm2.pcr.sha256.7=00".to_owned()];
    ca.rest_on(permit, claims, [claim])
}

async fn given_for(enrollment: &Enrollment, claim: &str) -> Arc<Peer> {
    let permit = leave(enrollment, claim).await.unwrap();
    let svid = enrollment.issue(&permit, &csr(), "evidence").await;
    holder(enrollment, svid.unwrap())
}

/// I1: neither a first SVID on evidence with the claim, nor the next one of an SVID that rests on it.
#[tokio::test]
async fn i1_a_quarantine_by_claim_gives_no_svid() {
    let (broker, enrollment) = enrolling().await;
    let (peer, other) = (
        given_for(&enrollment, CLAIM).await,
        given_for(&enrollment, "tpm2.ek=bb").await,
    );
    let by_token = enrolled(&broker, &enrollment).await;
    for (effect, spiffe_id) in [
        (v1::Effect::Quarantine, String::new()),
        (v1::Effect::Contain, id("/agent")),
    ] {
        let asked = leave(&enrollment, CLAIM).await.unwrap();
        let rule = broker.respond(about(CLAIM, &spiffe_id), effect).await;
        assert_refused!(leave(&enrollment, CLAIM).await, Refusal::Quarantined);
        assert_refused!(renew(&enrollment, &peer).await, Refusal::Quarantined);
        // AC-4A: a rule that came while the evidence was looked at.
        let issued = enrollment.issue(&asked, &csr(), "evidence").await;
        assert_refused!(issued, Refusal::Quarantined);
        for unlike in [&other, &by_token] {
            assert!(renew(&enrollment, unlike).await.is_ok());
        }
        lift(&broker, rule).await;
    }
    for (effect, claim, spiffe_id) in [
        (v1::Effect::Quarantine, CLAIM, id("/other")),
        (v1::Effect::Revoke, CLAIM, String::new()),
        (v1::Effect::Suspend, CLAIM, String::new()),
    ] {
        broker.respond(about(claim, &spiffe_id), effect).await;
        assert!(leave(&enrollment, CLAIM).await.is_ok());
        assert!(renew(&enrollment, &peer).await.is_ok());
    }
    // A claim that no withdrawal can name is not in the SVID, but in the evidence.
    let rule = about("tpm2.pcr.sha256.7=00", "");
    broker.respond(rule, v1::Effect::Quarantine).await;
    assert_refused!(leave(&enrollment, CLAIM).await, Refusal::Quarantined);
}

/// I1: an SVID that rests on more than it has room for may rest on anything.
#[tokio::test]
async fn i1_a_quarantine_by_claim_stops_an_svid_that_does_not_say_all() {
    let (broker, enrollment) = enrolling().await;
    let ca = enrollment.own_ca().unwrap();
    let agent = SpiffeId::parse(&id("/agent")).unwrap();
    let permit = ca.permit(&agent, Shown::Fresh, &[]).await.unwrap();
    let many: Vec<_> = (0..9).map(|at| format!("nitro.pcr{at}=aa")).collect();
    let permit = ca.rest_on(permit, many.clone(), many.iter().map(String::as_str));
    let svid = enrollment.issue(&permit.unwrap(), &csr(), "evidence").await;
    let peer = holder(&enrollment, svid.unwrap());
    let rule = about("nitro.pcr8=aa", "");
    broker.respond(rule, v1::Effect::Quarantine).await;
    assert_refused!(renew(&enrollment, &peer).await, Refusal::Quarantined);
}
