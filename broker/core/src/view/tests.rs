mod delegation;
mod quarantine;
mod suspend;

use std::sync::Arc;

use super::*;
use crate::id::TokenId;
use crate::log::FOR_EVER_MS;
use crate::record::{TokenRecord, samples};
use crate::sealing::KeyFingerprint;
use crate::selector::Selector;
use crate::subject::{KnownTask, KnownToken};
use crate::view::still_matter;

const KEY: KeyFingerprint = KeyFingerprint([0; 8]);

fn task(position: u64) -> KnownTask {
    KnownTask::new(samples::task(position), vec![], KEY)
}

fn token_of(id: TokenId, position: u64, task_position: u64) -> KnownToken {
    KnownToken::new(samples::token(position), id, Arc::new(task(task_position)))
}

fn token(position: u64, task_position: u64) -> KnownToken {
    token_of(TOKEN, position, task_position)
}

fn rule(selector: Selector, effect: Effect) -> Event {
    Event::Rule {
        selector: Box::new(selector),
        effect,
    }
}

fn workload() -> Selector {
    Selector::workload(samples::task(0).workload)
}

fn entry(n: u8, event: Event) -> LogEntry {
    LogEntry {
        id: EntryId([n; 16]),
        event,
        retain_until_ms: 1000,
        document: None,
    }
}

fn child_of(parent: KnownTask, position: u64) -> KnownTask {
    let mut record = samples::task(position);
    (record.id, record.ancestors) = (
        TaskId::from_bytes([2; 16]),
        parent
            .record()
            .ancestors
            .iter()
            .copied()
            .chain([parent.id])
            .collect(),
    );
    record.workload =
        sundew_attestation::spiffe::SpiffeId::parse("spiffe://example.org/b").unwrap();
    let ancestors = parent
        .ancestors()
        .iter()
        .map(Arc::clone)
        .collect::<Vec<_>>();
    KnownTask::new(
        record,
        ancestors.into_iter().chain([Arc::new(parent)]).collect(),
        KEY,
    )
}

const TOKEN: TokenId = TokenId::from_bytes([9; 16]);

#[test]
fn ac_23_a_token_is_good_until_the_instant_of_its_expiry() {
    let view = View::default();
    assert_eq!(view.token_liveness(&token(0, 0), 899), Liveness::Alive);
    assert_eq!(
        view.token_liveness(&token(0, 0), 900),
        Liveness::Dead(Cause::Expired)
    );
    assert_eq!(
        view.task_liveness(&task(0), 1000),
        Liveness::Dead(Cause::Expired)
    );
}

#[test]
fn ac_33_the_first_ending_is_the_one_reason_and_kills_tokens_minted_later() {
    let mut view = View::default();
    view.apply(
        Position(1),
        entry(
            1,
            Event::Ended {
                task: TaskId::from_bytes([1; 16]),
                outcome: Outcome::Completed,
            },
        ),
    );
    view.apply(
        Position(2),
        entry(
            2,
            Event::Ended {
                task: TaskId::from_bytes([1; 16]),
                outcome: Outcome::Expired,
            },
        ),
    );
    assert_eq!(
        view.outcome(TaskId::from_bytes([1; 16])),
        Some(Outcome::Completed)
    );
    assert_eq!(
        view.token_liveness(&token(7, 0), 1),
        Liveness::Dead(Cause::TaskEnded(Outcome::Completed))
    );
}

#[test]
fn a_workload_rule_kills_tasks_decided_before_it_and_tokens_minted_in_them_after_it() {
    let mut view = View::default();
    view.apply(Position(5), entry(1, rule(workload(), Effect::Revoke)));
    assert_eq!(
        view.task_liveness(&task(4), 1),
        Liveness::Dead(Cause::Revoked)
    );
    assert_eq!(view.task_liveness(&task(5), 1), Liveness::Alive);
    assert_eq!(
        view.task_liveness(&task(6), 1),
        Liveness::Dead(Cause::Revoked),
        "a stamp from a log that was lost counts for nothing"
    );
    view.apply(Position(9), entry(7, Event::Floor));
    assert_eq!(view.task_liveness(&task(6), 1), Liveness::Alive);
    assert_eq!(
        view.token_liveness(&token(9, 4), 1),
        Liveness::Dead(Cause::Revoked)
    );
    assert_eq!(view.token_liveness(&token(5, 5), 1), Liveness::Alive);
}

#[test]
fn ac_37_resuming_revives_no_token_not_even_one_from_a_broker_that_lagged() {
    let mut view = View::default();
    let suspended = TaskId::from_bytes([1; 16]);
    view.apply(Position(3), entry(1, Event::Suspended(suspended)));
    assert!(view.is_suspended(&task(0)));
    assert_eq!(
        view.token_liveness(&token(2, 0), 1),
        Liveness::Dead(Cause::Suspended)
    );
    view.apply(Position(4), entry(2, Event::Resumed(suspended)));
    assert!(!view.is_suspended(&task(0)));
    for lagged in [2, 3] {
        assert_eq!(
            view.token_liveness(&token(lagged, 0), 1),
            Liveness::Dead(Cause::Suspended)
        );
    }
    assert_eq!(view.token_liveness(&token(4, 0), 1), Liveness::Alive);
}

#[test]
fn a_revoked_token_is_dead_wherever_it_was_stamped_and_others_live() {
    let mut view = View::default();
    view.apply(
        Position(1),
        entry(1, rule(Selector::token(TOKEN), Effect::Revoke)),
    );
    assert_eq!(
        view.token_liveness(&token(8, 8), 1),
        Liveness::Dead(Cause::Revoked)
    );
    assert_eq!(
        view.token_liveness(&token_of(TokenId::from_bytes([8; 16]), 0, 0), 1),
        Liveness::Alive
    );
}

#[test]
fn what_a_store_lost_is_known_until_it_cannot_matter() {
    let mut view = View::default();
    view.apply(Position(1), entry(1, rule(workload(), Effect::Revoke)));
    view.hold(entry(2, rule(Selector::token(TOKEN), Effect::Revoke)));
    assert_eq!(view.applied(), (Position(1), EntryId([1; 16])));
    let known = std::iter::once(EntryId([1; 16])).collect();
    assert_eq!(
        view.missing_from(&known)
            .iter()
            .map(|e| e.id)
            .collect::<Vec<_>>(),
        [EntryId([2; 16])]
    );
    view.forget(1000);
    assert!(view.is_empty() && view.missing_from(&Default::default()).is_empty());
}

#[test]
fn a_token_that_was_spared_is_looked_at_again_when_a_rule_comes() {
    let mut view = View::default();
    view.apply(
        Position(5),
        entry(
            1,
            rule(
                Selector {
                    audience: Some("other".to_owned()),
                    ..Selector::default()
                },
                Effect::Revoke,
            ),
        ),
    );
    let token = token(4, 4);
    for _ in 0..2 {
        assert_eq!(view.token_liveness(&token, 1), Liveness::Alive);
    }
    view.apply(Position(6), entry(2, rule(workload(), Effect::Revoke)));
    assert_eq!(
        view.token_liveness(&token, 1),
        Liveness::Dead(Cause::Revoked)
    );
    let mut again = View::default();
    again.hold(entry(2, rule(workload(), Effect::Revoke)));
    assert_eq!(
        again.token_liveness(&token, 1),
        Liveness::Dead(Cause::Revoked)
    );
}

#[test]
fn of_ten_thousand_rules_each_kills_its_own_and_nothing_else() {
    let mut view = View::default();
    for n in 0..10_000_u64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let event = rule(
            Selector {
                claims: vec![format!("oidc.sub={n}")],
                ..Selector::default()
            },
            Effect::Revoke,
        );
        view.apply(
            Position(n + 1),
            LogEntry {
                id: EntryId(id),
                event,
                retain_until_ms: 1000,
                document: None,
            },
        );
    }
    for (claim, dead) in [
        ("oidc.sub=77", true),
        ("oidc.sub=10000", false),
        ("oidc.sub=7 7", false),
    ] {
        let mut record = samples::task(0);
        record.claims = vec![claim.to_owned()];
        assert_eq!(
            view.task_liveness(&KnownTask::new(record, vec![], KEY), 1)
                == Liveness::Dead(Cause::Revoked),
            dead,
            "{claim}"
        );
    }
}

#[test]
fn a_cause_reads_as_a_sentence_after_task_is_dead() {
    for (cause, text) in [
        (
            Cause::AncestorEnded(Outcome::Completed),
            "a task above it ended (completed)",
        ),
        (Cause::Expired, "its time ran out"),
        (Cause::Revoked, "a rule revoked it"),
        (Cause::Suspended, "it is or was suspended"),
        (Cause::TaskEnded(Outcome::Failed), "it ended (failed)"),
    ] {
        assert_eq!(cause.to_string(), text);
    }
}
