//! Tasks that were delegated.

use super::*;

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
