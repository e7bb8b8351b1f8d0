//! Quarantines, and containments that are lifted.

use super::*;
use crate::{svid_claim, svid_marks};

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

/// I1: what begins with an SVID rests on the evidence that the SVID was given for.
#[test]
fn i1_a_quarantine_by_claim_forbids_what_begins_with_an_svid_that_rests_on_it() {
    let of = |claims: &[&str]| {
        let mut record = samples::task(9);
        let marks = svid_marks(claims.iter().copied());
        record.claims = marks.iter().map(|mark| svid_claim(mark)).collect();
        KnownTask::new(record, vec![], KEY)
    };
    let ek = Selector {
        claims: vec!["tpm2.ek=aa".to_owned()],
        ..Selector::default()
    };
    for effect in [Effect::Quarantine, Effect::Contain, Effect::Suspend] {
        let mut view = View::default();
        let set = LogEntry {
            retain_until_ms: FOR_EVER_MS,
            ..entry(1, rule(ek.clone(), effect))
        };
        view.apply(Position(12), set);
        let many: Vec<_> = (0..9).map(|at| format!("nitro.pcr0={at}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (claims, is_forbidden) in [
            (&["tpm2.ek=aa"][..], true),
            (&["nitro.pcr0=1", "tpm2.ek=aa"], true),
            (&many, true),
            (&["tpm2.ek=bb"], false),
            (&[], false),
        ] {
            let task = of(claims);
            assert_eq!(view.is_quarantined(&task), is_forbidden, "{claims:?}");
            // What has begun lives: the claim is none of its own.
            assert_eq!(view.task_liveness(&task, 1), Liveness::Alive);
            assert!(!view.is_suspended(&task));
        }
        view.apply(Position(13), entry(2, Event::Lifted(EntryId([1; 16]))));
        assert!(!view.is_quarantined(&of(&["tpm2.ek=aa"])));
    }
}
