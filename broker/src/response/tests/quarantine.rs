//! Quarantines and containments, and lifting them.

use super::*;

#[tokio::test]
async fn a_quarantine_stands_until_it_is_lifted() {
    let (broker, (agent, begun), _) = two_tasks().await;
    let selector = of_workload("/agent");
    let id = broker.respond(selector, v1::Effect::Quarantine).await;
    // It keeps new tokens away, and leaves those that there are.
    assert!(broker.is_active(&begun.token, &agent).await);
    let minted = broker.mint(begun.mint(), &agent).await;
    assert_refused!(minted, Refusal::Quarantined);
    let standing = rules(&broker).await;
    assert_eq!((standing.len(), standing[0].until_ms), (1, 0));
    lift(&broker, &id, "over").await.unwrap();
    lift(&broker, &id, "over").await.unwrap();
    assert_eq!(broker.journal("lifted").len(), 1);
    assert!(rules(&broker).await.is_empty());
    assert!(status(&broker, &id).await.unwrap().lifted);
    assert!(broker.mint(begun.mint(), &agent).await.is_ok());
}

#[tokio::test]
async fn c6_a_containment_that_was_lifted_is_listed_with_the_time_at_which_it_is_forgotten() {
    let (broker, ..) = two_tasks().await;
    let selector = of_workload("/agent");
    let id = broker.respond(selector, v1::Effect::Contain).await;
    assert_eq!(rules(&broker).await[0].until_ms, 0);
    lift(&broker, &id, "over").await.unwrap();
    let left = rules(&broker).await;
    assert_eq!(left[0].effect(), v1::Effect::Revoke);
    let stands_until_ms = broker.ledger.log.rule_stands_until_ms();
    assert_eq!(left[0].until_ms, stands_until_ms);
}

#[tokio::test]
async fn containing_kills_and_quarantines() {
    let (broker, (agent, begun), _) = two_tasks().await;
    let selector = of_workload("/agent");
    let id = broker.respond(selector, v1::Effect::Contain).await;
    assert!(!broker.is_active(&begun.token, &agent).await);
    let again = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(again, Refusal::Quarantined);
    lift(&broker, &id, "over").await.unwrap();
    // What it killed stays dead.
    assert!(!broker.is_active(&begun.token, &agent).await);
    let again = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn only_a_quarantine_that_stands_is_lifted() {
    let (broker, _, _) = two_tasks().await;
    let selector = of_workload("/agent");
    let revoked = broker.respond(selector, v1::Effect::Revoke).await;
    let unknown = format!("rev-{}", "0".repeat(32));
    for id in [revoked.as_str(), unknown.as_str(), "rev-1", ""] {
        assert_refused!(
            lift(&broker, id, "over").await,
            Refusal::Invalid {
                field: "revocation_id",
                ..
            }
        );
    }
    let selector = of_workload("/agent");
    let standing = broker.respond(selector, v1::Effect::Quarantine).await;
    assert_refused!(
        lift(&broker, &standing, " ").await,
        Refusal::Invalid {
            field: "reason",
            ..
        }
    );
}
