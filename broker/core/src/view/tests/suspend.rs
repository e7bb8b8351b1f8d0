//! Rules that suspend.

use super::*;

fn suspend() -> LogEntry {
    let mut entry = entry(1, rule(workload(), Effect::Suspend));
    entry.retain_until_ms = FOR_EVER_MS;
    entry
}

fn resumed(n: u8) -> LogEntry {
    entry(n, Event::Resumed(task(0).id))
}

const SUSPENDED: Liveness = Liveness::Dead(Cause::Suspended);

#[test]
fn a_rule_suspends_what_was_decided_before_it_and_forbids_new_things_until_it_is_lifted() {
    let mut view = View::default();
    view.apply(Position(5), suspend());
    for lifted in [false, true] {
        if lifted {
            view.apply(Position(6), entry(2, Event::Lifted(EntryId([1; 16]))));
        }
        assert_eq!(view.task_liveness(&task(4), 0), Liveness::Alive);
        assert!(view.is_suspended(&task(4)), "until its agent resumes it");
        assert_eq!(view.token_liveness(&token(4, 4), 0), SUSPENDED);
        assert_eq!(view.is_quarantined(&task(4)), !lifted);
        assert!(!view.is_suspended(&task(5)), "decided above the rule");
        assert_eq!(view.token_liveness(&token(5, 5), 0), Liveness::Alive);
    }
    assert_eq!(view.ended_by(&task(4)), Some(EntryId([1; 16])));
}

#[test]
fn a_task_that_was_resumed_after_the_lift_has_new_tokens_and_no_old_ones() {
    let mut view = View::default();
    view.apply(Position(5), suspend());
    view.apply(Position(6), entry(2, Event::Lifted(EntryId([1; 16]))));
    view.apply(Position(7), resumed(3));
    assert!(!view.is_suspended(&task(4)));
    assert_eq!(view.token_liveness(&token(4, 4), 0), SUSPENDED);
    assert_eq!(view.token_liveness(&token(7, 4), 0), Liveness::Alive);
    // Another one suspends it again.
    let mut again = suspend();
    again.id = EntryId([4; 16]);
    view.apply(Position(8), again);
    assert!(view.is_suspended(&task(4)));
    assert_eq!(view.token_liveness(&token(7, 4), 0), SUSPENDED);
}

/// L2: a lift that is read before its rule lets new things live, and nothing that was suspended.
#[test]
fn a_lifted_suspension_does_not_forbid_again_in_whatever_order_the_entries_come() {
    let mut view = View::default();
    view.apply(Position(6), entry(2, Event::Lifted(EntryId([1; 16]))));
    view.apply(Position(7), suspend());
    assert!(!view.is_quarantined(&task(4)));
    assert!(view.is_suspended(&task(4)));
    // Forgotten together, once the lift says that nothing rests on them.
    view.forget(1000);
    assert!(!view.is_suspended(&task(4)));
    assert!(!view.rules.any_suspension());
}

#[test]
fn what_was_delegated_from_a_suspended_task_is_suspended_with_it() {
    let mut view = View::default();
    let parent = KnownTask::new(
        crate::record::TaskRecord {
            id: TaskId::from_bytes([8; 16]),
            ..samples::task(4)
        },
        vec![],
        KEY,
    );
    view.apply(Position(5), entry(1, Event::Suspended(parent.id)));
    let child = child_of(parent, 4);
    assert!(view.is_suspended(&child));
    let mut of_parent = suspend();
    of_parent.event = rule(workload(), Effect::Suspend);
    let mut view = View::default();
    view.apply(Position(5), of_parent);
    assert!(view.is_suspended(&child));
}
