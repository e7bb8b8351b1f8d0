//! The protocol by which P4 holds over several brokers and primaries, explored exhaustively for
//! small bounds.
//!
//! The last tests take one precaution away each, and the model must find what goes wrong: a checker
//! that cannot fail proves nothing.
//!
//! Beside this model, which has several nodes of the store, stand small ones of a file or folder
//! each, with runs of their own: who is waited for (`membership`), how long rules and quarantines
//! stand (`rules`, `retention`), what they cover after a failover (`stamps`), what brokers keep in
//! memory (`caches`), endings that the store cannot take (`pending`), and tasks that nobody ends
//! (`attendance`).

mod attendance;
mod caches;
mod explore;
mod heartbeat;
mod membership;
mod pending;
mod protocol;
mod retention;
mod rules;
mod stamps;
mod state;

use protocol::Protocol;
use state::Without;
use stateright::{Checker as _, Model as _};

/// States looked at for three brokers, the same one counted each time that it is come upon.
const MOST: usize = 10_000_000;

struct Explored {
    /// A false "active" was found.
    violated: bool,
    states: usize,
    /// There are no states that were not looked at.
    whole: bool,
}

/// Explores everything, or as far as is set for three brokers.
fn explored(model: &Protocol) -> Explored {
    let Protocol {
        brokers, without, ..
    } = *model;
    let started = std::time::Instant::now();
    let model = model.clone();
    let description = format!("{model:?}");
    // Two brokers are explored to the end. Three have too many states for that: they are explored
    // breadth first, so to a depth.
    let mut builder = model.checker().threads(2);
    if brokers > 2 {
        builder = builder.target_state_count(MOST);
    }
    let checker = builder.spawn_bfs().join();
    let found = checker.discovery("nothing is active after its ending was acknowledged");
    if let Some(path) = found.as_ref().filter(|_| without == Without::Nothing) {
        println!("{:?}", path.clone().into_actions());
    }
    if without == Without::Nothing && found.is_none() && brokers == 2 {
        for progress in [
            "an ending is acknowledged and everybody answers",
            "after a failover an ending is acknowledged and everybody answers from the new primary",
        ] {
            assert!(
                checker.discovery(progress).is_some(),
                "no progress: {progress}"
            );
        }
    }
    let whole = brokers == 2 || checker.state_count() < MOST;
    println!(
        "{description}: {} states, all of them: {whole}, violated: {}, {:?}",
        checker.unique_state_count(),
        found.is_some(),
        started.elapsed()
    );
    Explored {
        violated: found.is_some(),
        states: checker.unique_state_count(),
        whole,
    }
}

const TWO: Protocol = Protocol {
    brokers: 2,
    replicas: 2,
    crashes: 1,
    failovers: 1,
    deletions: 0,
    freezes: None,
    without: Without::Nothing,
};

#[test]
fn p4_holds_with_two_brokers_over_a_failover_a_crash_and_any_freezes() {
    let Explored {
        violated, states, ..
    } = explored(&TWO);
    assert!(!violated && states > 1_000_000, "{states}");
}

#[test]
fn p4_holds_with_three_brokers_over_a_failover_as_far_as_it_is_explored() {
    assert!(
        !explored(&Protocol {
            brokers: 3,
            crashes: 0,
            ..TWO
        })
        .violated
    );
}

/// Three brokers to the end, where the bounds are small enough for that: one node that loses its
/// last write or is emptied while one broker stands still, and two nodes, with a broker that stands
/// still or with a failover.
#[test]
fn p4_holds_with_three_brokers_within_small_bounds() {
    let three = Protocol {
        brokers: 3,
        crashes: 0,
        freezes: Some(1),
        ..TWO
    };
    for model in [
        Protocol {
            replicas: 0,
            ..three.clone()
        },
        Protocol {
            replicas: 0,
            failovers: 0,
            deletions: 1,
            ..three.clone()
        },
        Protocol {
            replicas: 1,
            failovers: 0,
            ..three.clone()
        },
        Protocol {
            replicas: 1,
            freezes: Some(0),
            ..three
        },
    ] {
        let Explored {
            violated, whole, ..
        } = explored(&model);
        assert!(!violated && whole, "{model:?}");
    }
}

/// With one replica, which may be promoted without the last ending; and without any, where the only
/// node loses its last write.
#[test]
fn p4_holds_over_a_redis_that_loses_its_last_write() {
    assert!(!explored(&Protocol { replicas: 1, ..TWO }).violated);
    assert!(
        !explored(&Protocol {
            replicas: 0,
            crashes: 0,
            freezes: Some(1),
            ..TWO
        })
        .violated
    );
}

/// Whoever has not noticed is not on the list of brokers any more; whoever slept does not know what
/// was acknowledged before.
#[test]
fn p4_holds_over_a_store_that_is_emptied() {
    assert!(
        !explored(&Protocol {
            replicas: 0,
            crashes: 0,
            failovers: 0,
            deletions: 1,
            freezes: Some(1),
            ..TWO
        })
        .violated
    );
}

/// SECURITY "Limits": a Redis without replicas that loses an ending, or one that is emptied, while
/// the one broker that knows of it is down or cut off, and another stood still.
#[test]
fn the_limit_that_is_documented_is_there() {
    assert!(explored(&Protocol { replicas: 0, ..TWO }).violated);
    assert!(
        explored(&Protocol {
            crashes: 0,
            failovers: 0,
            deletions: 1,
            freezes: Some(1),
            ..TWO
        })
        .violated
    );
}

#[test]
fn the_model_finds_what_each_precaution_is_for() {
    for (without, brokers, replicas, crashes) in [
        (Without::Majority, 2, 2, 0),
        (Without::PauseAfterFailover, 2, 0, 0),
        (Without::RenewalAfterPause, 2, 0, 0),
        (Without::DoubtInPeers, 2, 2, 0),
        (Without::Everywhere, 2, 2, 1),
        (Without::Journal, 2, 2, 1),
        (Without::ForeignJournal, 2, 2, 1),
        (Without::WaitingAnew, 3, 2, 0),
        (Without::Reassertion, 2, 0, 0),
        (Without::DoubtAfterLoss, 2, 0, 0),
        (Without::PauseAfterLoss, 2, 0, 0),
    ] {
        let freezes = (replicas == 0).then_some(1);
        let deletions = u8::from(matches!(
            without,
            Without::DoubtAfterLoss | Without::PauseAfterLoss
        ));
        let model = Protocol {
            brokers,
            replicas,
            crashes,
            failovers: TWO.failovers - deletions,
            deletions,
            freezes,
            without,
        };
        assert!(
            explored(&model).violated,
            "without {without:?} nothing goes wrong: is it needed, or is the model blind?"
        );
    }
}
