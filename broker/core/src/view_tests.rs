use sundew_attestation::spiffe::SpiffeId;

use super::*;
use crate::id::TokenId;
use crate::record::TokenBinding;
use crate::scope::ScopeSet;

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/a").unwrap()
}

fn task(position: u64) -> TaskRecord {
    TaskRecord {
        id: TaskId::from_bytes([1; 16]),
        workload: id(),
        purpose: String::new(),
        instruction: String::new(),
        scopes: ScopeSet::parse(&["exec:git"]).unwrap(),
        created_at_ms: 0,
        deadline_ms: 1000,
        certificate: [0; 32],
        position: Position(position),
        grace_ms: 1000,
        registration: String::new(),
        request: [0; 32],
        evidence: vec![],
    }
}

fn token(position: u64, task_position: u64) -> TokenRecord {
    TokenRecord {
        task: TaskId::from_bytes([1; 16]),
        workload: id(),
        scopes: ScopeSet::parse(&["exec:git"]).unwrap(),
        audience: vec![],
        issued_at_ms: 0,
        expires_at_ms: 900,
        binding: TokenBinding::Certificate,
        certificate: [0; 32],
        position: Position(position),
        task_position: Position(task_position),
        registration: String::new(),
        request: [0; 32],
    }
}

fn entry(n: u8, event: Event) -> LogEntry {
    LogEntry { id: EntryId([n; 16]), event, until_ms: 1000 }
}

const TOKEN: TokenId = TokenId::from_bytes([9; 16]);

#[test]
fn ac_23_a_token_is_good_until_the_instant_of_its_expiry() {
    let view = View::default();
    assert_eq!(view.judge_token(&token(0, 0), TOKEN, 899), Liveness::Alive);
    assert_eq!(view.judge_token(&token(0, 0), TOKEN, 900), Liveness::Dead(Cause::Expired));
    assert_eq!(view.judge_task(&task(0), 1000), Liveness::Dead(Cause::Expired));
}

#[test]
fn ac_33_the_first_ending_is_the_one_reason_and_kills_tokens_minted_later() {
    let mut view = View::default();
    view.apply(Position(1), entry(1, Event::Ended { task: TaskId::from_bytes([1; 16]), outcome: Outcome::Completed }));
    view.apply(Position(2), entry(2, Event::Ended { task: TaskId::from_bytes([1; 16]), outcome: Outcome::Expired }));
    assert_eq!(view.outcome(TaskId::from_bytes([1; 16])), Some(Outcome::Completed));
    assert_eq!(view.judge_token(&token(7, 0), TOKEN, 1), Liveness::Dead(Cause::TaskEnded(Outcome::Completed)));
}

#[test]
fn a_workload_rule_kills_tasks_decided_before_it_and_tokens_minted_in_them_after_it() {
    let mut view = View::default();
    view.apply(Position(5), entry(1, Event::Rule(Selector::Workload(id()))));
    assert_eq!(view.judge_task(&task(4), 1), Liveness::Dead(Cause::Revoked));
    assert_eq!(view.judge_task(&task(5), 1), Liveness::Alive);
    assert_eq!(view.judge_token(&token(9, 4), TOKEN, 1), Liveness::Dead(Cause::Revoked));
    assert_eq!(view.judge_token(&token(5, 5), TOKEN, 1), Liveness::Alive);
}

#[test]
fn ac_37_resuming_revives_no_token_not_even_one_from_a_broker_that_lagged() {
    let mut view = View::default();
    let suspended = TaskId::from_bytes([1; 16]);
    view.apply(Position(3), entry(1, Event::Suspended(suspended)));
    assert!(view.is_suspended(suspended));
    assert_eq!(view.judge_token(&token(2, 0), TOKEN, 1), Liveness::Dead(Cause::Suspended));
    view.apply(Position(4), entry(2, Event::Resumed(suspended)));
    assert!(!view.is_suspended(suspended));
    for lagged in [2, 3] {
        assert_eq!(view.judge_token(&token(lagged, 0), TOKEN, 1), Liveness::Dead(Cause::Suspended));
    }
    assert_eq!(view.judge_token(&token(4, 0), TOKEN, 1), Liveness::Alive);
}

#[test]
fn a_revoked_token_is_dead_wherever_it_was_stamped_and_others_live() {
    let mut view = View::default();
    view.apply(Position(1), entry(1, Event::Rule(Selector::Token(TOKEN))));
    assert_eq!(view.judge_token(&token(8, 8), TOKEN, 1), Liveness::Dead(Cause::Revoked));
    assert_eq!(view.judge_token(&token(0, 0), TokenId::from_bytes([8; 16]), 1), Liveness::Alive);
}

#[test]
fn what_a_store_lost_is_known_until_it_cannot_matter() {
    let mut view = View::default();
    view.apply(Position(1), entry(1, Event::Rule(Selector::Workload(id()))));
    view.hold(entry(2, Event::Rule(Selector::Token(TOKEN))));
    assert_eq!(view.applied(), (Position(1), EntryId([1; 16])));
    let known = std::iter::once(EntryId([1; 16])).collect();
    assert_eq!(view.missing_from(&known).iter().map(|e| e.id).collect::<Vec<_>>(), [EntryId([2; 16])]);
    view.forget(1000);
    assert!(view.is_empty() && view.missing_from(&Default::default()).is_empty());
}
