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

#[test]
fn ac_44_the_end_of_a_task_ends_what_was_delegated_from_it() {
    let mut view = View::default();
    let child = Arc::new(child_of(task(1), 9));
    let minted = KnownToken::new(
        TokenRecord {
            position: Position(9),
            ..samples::token(9)
        },
        TOKEN,
        Arc::clone(&child),
    );
    assert_eq!(view.token_liveness(&minted, 1), Liveness::Alive);
    view.apply(
        Position(3),
        entry(1, Event::Suspended(TaskId::from_bytes([1; 16]))),
    );
    assert!(view.is_suspended(&child));
    view.apply(Position(4), entry(2, rule(workload(), Effect::Revoke)));
    assert_eq!(
        view.task_liveness(&child, 1),
        Liveness::Dead(Cause::Revoked),
        "a rule for the parent's owner"
    );
    view.apply(
        Position(5),
        entry(
            3,
            Event::Ended {
                task: TaskId::from_bytes([1; 16]),
                outcome: Outcome::Completed,
            },
        ),
    );
    assert_eq!(
        view.token_liveness(&minted, 1),
        Liveness::Dead(Cause::AncestorEnded(Outcome::Completed))
    );
    assert_eq!(
        Cause::AncestorEnded(Outcome::Completed).outcome(),
        Outcome::Canceled
    );
    let mut ended = View::default();
    ended.apply(
        Position(1),
        entry(
            1,
            Event::Ended {
                task: child.id,
                outcome: Outcome::Completed,
            },
        ),
    );
    assert_eq!(
        ended.task_liveness(&task(0), 1),
        Liveness::Alive,
        "the child's end is not the parent's"
    );
}

#[test]
fn ac_4a_lifting_a_containment_lets_new_things_live_and_revives_nothing() {
    for lift_first in [false, true] {
        let mut view = View::default();
        let contain = LogEntry {
            retain_until_ms: FOR_EVER_MS,
            ..entry(1, rule(workload(), Effect::Contain))
        };
        let lift = entry(2, Event::Lifted(EntryId([1; 16])));
        if !lift_first {
            view.apply(Position(5), contain.clone());
            assert!(view.is_quarantined(&task(9)) && view.active_rules().len() == 1);
            view.apply(Position(6), lift);
        } else {
            view.apply(Position(4), lift);
            view.apply(Position(5), contain);
        }
        view.apply(Position(9), entry(7, Event::Floor));
        assert!(!view.is_quarantined(&task(9)));
        assert_eq!(
            view.task_liveness(&task(4), 1),
            Liveness::Dead(Cause::Revoked)
        );
        assert_eq!(view.task_liveness(&task(9), 1), Liveness::Alive);
        assert_eq!(
            view.forget(999),
            [],
            "until nothing that it killed can live"
        );
        assert_eq!(
            view.task_liveness(&task(4), 1),
            Liveness::Dead(Cause::Revoked)
        );
        assert_eq!(
            view.forget(1000),
            [Position(5)],
            "the log does not drop a quarantine by itself"
        );
        assert_eq!(view.len(), 1, "L2: the lift stays");
    }
}

/// A containment that was lifted: the rule, and the lift that says that nothing rests on it from
/// 1000 on.
fn lifted_containment() -> [LogEntry; 2] {
    let contain = LogEntry {
        retain_until_ms: FOR_EVER_MS,
        ..entry(1, rule(workload(), Effect::Contain))
    };
    [contain, entry(2, Event::Lifted(EntryId([1; 16])))]
}

#[test]
fn l2_a_lifted_containment_does_not_come_back_out_of_a_journal() {
    let [contain, lift] = lifted_containment();
    for entries in [
        vec![contain.clone(), lift.clone()],
        vec![lift.clone(), contain.clone()],
    ] {
        assert_eq!(still_matter(entries.clone(), 999).len(), 2);
        assert_eq!(still_matter(entries, 1000), vec![lift.clone()]);
    }
    assert_eq!(
        still_matter(vec![contain.clone()], i64::MAX >> 12),
        vec![contain],
        "one that was not lifted stands"
    );
}

#[test]
fn l2_a_view_that_slept_while_a_lifted_containment_was_forgotten_does_not_bring_it_back() {
    let [contain, lift] = lifted_containment();
    let mut slept = View::default();
    slept.apply(Position(5), contain.clone());
    // The log dropped the rule at 1000; the lift is still there for it to read.
    slept.apply(Position(6), lift.clone());
    let missing = slept.missing_from(&[lift.id].into());
    assert_eq!(missing, std::slice::from_ref(&contain));
    assert!(slept.matters(&contain, 999) && !slept.matters(&contain, 1000));
    assert_eq!(lift.log_retains_until_ms(), FOR_EVER_MS);
    // And once it has forgotten the rule itself, a rule that somebody appends anew quarantines
    // nothing.
    slept.forget(2000);
    slept.apply(Position(8), contain);
    assert!(!slept.is_quarantined(&task(9)));
}

#[test]
fn a_quarantine_alone_kills_nothing_and_stands_until_it_is_lifted() {
    let mut view = View::default();
    view.apply(
        Position(5),
        LogEntry {
            retain_until_ms: FOR_EVER_MS,
            ..entry(1, rule(workload(), Effect::Quarantine))
        },
    );
    assert_eq!(view.token_liveness(&token(1, 1), 1), Liveness::Alive);
    view.forget(i64::MAX >> 12);
    assert!(view.is_token_quarantined(&token(1, 1)));
    view.apply(Position(6), entry(2, Event::Lifted(EntryId([1; 16]))));
    assert!(!view.is_token_quarantined(&token(1, 1)) && view.active_rules().is_empty());
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
