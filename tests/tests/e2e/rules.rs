//! Rules: what is refused as one, and quarantines that stand until they are lifted (AC-42, AC-48,
//! AC-49, AC-4A).

use serde_json::json;
use sundew_proto::v1::{Effect, ListRulesRequest, ListTasksRequest, RevokeRequest, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::selectors::{of_task, of_token, of_workload};
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

use crate::ending::SCOPES;
use crate::responders::{agents, alive, begin, id, selector};

/// A selector that selects nothing or contradicts itself is refused, and so is a blank reason.
async fn blank_selectors_and_reasons_are_refused(operator: &Caller, begun: &Begun) {
    let blank = |text: &str| Selector {
        audience: text.to_owned(),
        ..selector()
    };
    let wild = Selector {
        spiffe_path_prefix: "*".to_owned(),
        ..selector()
    };
    for selected in [
        selector(),
        blank(" "),
        blank("\t"),
        wild,
        Selector {
            everything: true,
            ..of_workload("/agent")
        },
    ] {
        assert_eq!(
            operator
                .revoke(selected.clone())
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
        assert_eq!(
            operator
                .preview(selected)
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
    }
    for reason in ["", "  "] {
        let request = RevokeRequest {
            selector: Some(of_task(&begun.task)),
            reason: reason.to_owned(),
            ..RevokeRequest::default()
        };
        assert_eq!(
            operator
                .response()
                .revoke(request)
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
    }
}

/// AC-42, AC-49, AC-48: no selector, no reason, no deed; what was never seen is remembered and
/// counts nothing.
#[tokio::test]
async fn ac_42_a_blank_selector_or_reason_is_refused_and_an_unknown_target_counts_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let callers = agents(&world, &broker, &["/agent"]).await;
    let begun = begin(&world, &callers[0], "/agent").await;
    blank_selectors_and_reasons_are_refused(&operator, &begun).await;
    assert!(alive(&operator, &callers[0], &begun.token).await);
    for unknown in [
        of_task(&format!("task-{}", "a".repeat(32))),
        of_workload("/nobody"),
        of_token(&format!("tok-{}", "b".repeat(32))),
    ] {
        let answer = operator.revoke(unknown).await.expect("remembered");
        let status = operator
            .cleaned_up(&answer.revocation_id)
            .await
            .expect("status");
        assert_eq!((status.tasks, status.tokens, status.done), (0, 0, true));
    }
    until(
        "each is on the record with its actor and reason",
        || async {
            let journal = broker.journal();
            journal
                .iter()
                .filter(|r| {
                    r.event == "revoked"
                        && r.field("actor") == Some(&id("/operator"))
                        && r.field("reason") == Some("test")
                })
                .count()
                == 3
        },
    )
    .await;
}

fn not_permitted(status: &tonic::Status) -> bool {
    (status.code(), status.message()) == (Code::PermissionDenied, "not permitted")
}

/// In quarantine a workload gets no new task, token or secret.
async fn nothing_new_is_given(world: &World, caller: &Caller, begun: &Begun) {
    let begins = caller.begin(&world.issuer, "/q/agent", SCOPES).await;
    assert!(not_permitted(&begins.expect_err("new task")));
    let mints = caller.mint(&begun.task).await;
    assert!(not_permitted(&mints.expect_err("new token")));
    let reads = caller.secret(&begun.task, "app/key").await;
    assert!(not_permitted(&reads.expect_err("secret")));
}

/// A quarantine stands when Redis comes back empty.
async fn stands_over_a_flush(world: &World, broker: &Broker, operator: &Caller, caller: &Caller) {
    let Some(redis) = &world.redis else { return };
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .expect("flush");
    until("the flush is noticed", || async {
        broker.output().contains("the store was emptied")
    })
    .await;
    until("registered again", || async {
        operator
            .apply(&[World::registration("/q/agent", json!({}))])
            .await
            .is_ok()
    })
    .await;
    until("still", || async {
        caller
            .begin(&world.issuer, "/q/agent", SCOPES)
            .await
            .is_err_and(|s| s.code() == Code::PermissionDenied)
    })
    .await;
}

/// With everything in quarantine responders and registrars go on, and can lift it.
async fn nobody_is_locked_out(operator: &Caller, contained: &str) {
    let all = operator
        .respond(
            Selector {
                everything: true,
                ..selector()
            },
            Effect::Contain,
        )
        .await
        .expect("everything")
        .revocation_id;
    assert!(
        operator
            .response()
            .list_tasks(ListTasksRequest::default())
            .await
            .is_ok()
    );
    for rule in [contained, &all] {
        operator
            .lift(rule)
            .await
            .expect("AC-49: nobody is locked out");
        operator.lift(rule).await.expect("again is the same");
    }
}

/// AC-4A, AC-49: a quarantine refuses new tasks, tokens and secrets until it is lifted, everywhere,
/// and nobody is locked out by it.
#[tokio::test]
async fn ac_4a_a_quarantine_stands_until_it_is_lifted_and_revives_nothing() {
    for world in World::both() {
        let mut broker = world.broker().await;
        let callers = agents(&world, &broker, &["/q/agent", "/free"]).await;
        let (caller, free) = (&callers[0], &callers[1]);
        let operator = world.operator(&broker);
        operator.put_secret("app/key", "s3cr3t").await;
        let begun = begin(&world, caller, "/q/agent").await;
        let under = Selector {
            spiffe_path_prefix: id("/q"),
            ..selector()
        };
        let quarantine = operator
            .respond(under.clone(), Effect::Quarantine)
            .await
            .expect("quarantine")
            .revocation_id;
        assert!(
            alive(&operator, caller, &begun.token).await,
            "a quarantine kills nothing"
        );
        nothing_new_is_given(&world, caller, &begun).await;
        begin(&world, free, "/free").await;
        // It stands over a restart of the broker, and, where there is one, of Redis that comes back
        // empty.
        broker.restart().await;
        let operator = world.operator(&broker);
        let caller = world.caller_with(&broker, caller.svid.clone().expect("SVID"));
        let still = caller.begin(&world.issuer, "/q/agent", SCOPES).await;
        assert!(not_permitted(&still.expect_err("still")));
        stands_over_a_flush(&world, &broker, &operator, &caller).await;
        operator.lift(&quarantine).await.expect("lifted");
        let begun = begin(&world, &caller, "/q/agent").await;
        let contained = operator
            .respond(under, Effect::Contain)
            .await
            .expect("contained")
            .revocation_id;
        assert!(!alive(&operator, &caller, &begun.token).await);
        let rules = operator
            .response()
            .list_rules(ListRulesRequest {})
            .await
            .expect("rules")
            .into_inner()
            .rules;
        assert_eq!(
            rules
                .iter()
                .filter(|rule| rule.until_ms == 0)
                .map(|rule| rule.revocation_id.as_str())
                .collect::<Vec<_>>(),
            [contained.as_str()]
        );
        nobody_is_locked_out(&operator, &contained).await;
        assert!(
            !alive(&operator, &caller, &begun.token).await,
            "lifting revives nothing"
        );
        begin(&world, &caller, "/q/agent").await;
        assert_eq!(
            operator
                .lift(&format!("rev-{}", "0".repeat(32)))
                .await
                .expect_err("unknown")
                .code(),
            Code::InvalidArgument
        );
    }
}
