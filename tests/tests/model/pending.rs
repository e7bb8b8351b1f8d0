//! Endings that the store cannot take (L7): a broker is asked for one while the store is away, or
//! dies at any step of it. What was answered holds at once, survives a restart, and is in the log
//! before the broker says anything again.

use stateright::{Model, Property};
use sundew_core::Position;
use sundew_core::protocol::{CommitState, is_committed};

use crate::explore::{breaks, holds};

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// A broker without a fresh view refuses endings.
    StaleViews,
    /// An ending is not put into the journal before it holds.
    Journal,
    /// What comes back from the journal holds, and is not appended.
    Restoring,
    /// The view is renewed before what waits is appended.
    AppendFirst,
    /// An ending is answered as in force though it waits.
    HonestAnswers,
}

#[derive(Clone, Debug)]
struct Pending {
    crashes: u8,
    outages: u8,
    without: Without,
}

/// How far the broker is with the ending that it was asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Asked {
    No,
    /// It has just been asked.
    Heard,
    /// The ending is in the journal, and holds here.
    Recorded,
    /// The store was tried.
    Tried,
    Answered,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Answer {
    InForce,
    Pending,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    store_away: bool,
    in_log: bool,
    up: bool,
    fresh: bool,
    knows: bool,
    journal: bool,
    pending: bool,
    /// The other broker.
    other_fresh: bool,
    other_knows: bool,
    asked: Asked,
    answer: Option<Answer>,
    /// The broker has renewed its view since it answered.
    renewed: bool,
    crashes: u8,
    outages: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Action {
    Ask,
    Beat,
    BeatOther,
    Crash,
    Restart,
    Step,
    StoreBack,
    StoreGone,
    /// The freshness bound passes for whoever has not renewed the view.
    Tick,
}

impl Pending {
    /// The next step of the ending at the broker.
    fn step(&self, state: &mut State) {
        match state.asked {
            Asked::No | Asked::Answered => {}
            Asked::Heard if self.without == Without::StaleViews && !state.fresh => {
                (state.asked, state.answer) = (Asked::Answered, Some(Answer::Pending));
            }
            Asked::Heard => {
                state.journal |= self.without != Without::Journal;
                (state.knows, state.asked) = (true, Asked::Recorded);
            }
            Asked::Recorded => {
                if state.store_away {
                    state.pending = true;
                } else {
                    state.in_log = true;
                }
                state.asked = Asked::Tried;
            }
            Asked::Tried => {
                let says_so = state.is_committed() || self.without == Without::HonestAnswers;
                let answer = if says_so {
                    Answer::InForce
                } else {
                    Answer::Pending
                };
                (state.asked, state.answer) = (Asked::Answered, Some(answer));
            }
        }
    }

    /// One cycle of the broker.
    fn beat(&self, state: &mut State) {
        if state.pending && self.without != Without::AppendFirst {
            state.in_log = true;
            state.pending = false;
        }
        state.knows |= state.in_log;
        state.journal |= state.in_log;
        state.fresh = true;
        state.renewed = state.answer.is_some();
    }
}

impl State {
    /// Whether the ending is in force everywhere, by the broker's last heartbeat.
    fn is_committed(&self) -> bool {
        let at = |is_there: bool| Position(is_there.into());
        is_committed(CommitState {
            position: at(true),
            majority_position: at(self.in_log),
            all_replicas_acked: true,
            peers: &[at(self.other_knows)],
            bound_passed: !self.other_fresh,
            peers_in_doubt: false,
        })
    }
}

impl Model for Pending {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            store_away: false,
            in_log: false,
            up: true,
            fresh: true,
            knows: false,
            journal: false,
            pending: false,
            other_fresh: true,
            other_knows: false,
            asked: Asked::No,
            answer: None,
            renewed: false,
            crashes: 0,
            outages: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.up {
            actions.push(match state.asked {
                Asked::No => Action::Ask,
                _ => Action::Step,
            });
            if !state.store_away {
                actions.push(Action::Beat);
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash);
            }
        } else {
            actions.push(Action::Restart);
        }
        if state.store_away {
            actions.push(Action::StoreBack);
        } else {
            actions.push(Action::BeatOther);
            if state.outages < self.outages {
                actions.push(Action::StoreGone);
            }
        }
        actions.push(Action::Tick);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Ask => state.asked = Asked::Heard,
            Action::Beat => self.beat(&mut state),
            Action::BeatOther => {
                state.other_knows |= state.in_log;
                state.other_fresh = true;
            }
            Action::Crash => {
                state.crashes += 1;
                state.up = false;
                (state.fresh, state.knows, state.pending) = (false, false, false);
                // Nobody hears the answer of a broker that died.
                if state.asked != Asked::No {
                    state.asked = Asked::Answered;
                }
            }
            Action::Restart => {
                state.up = true;
                state.knows = state.journal;
                state.pending = state.journal && self.without != Without::Restoring;
            }
            Action::Step => self.step(&mut state),
            Action::StoreBack => state.store_away = false,
            Action::StoreGone => {
                state.outages += 1;
                state.store_away = true;
            }
            Action::Tick => (state.fresh, state.other_fresh) = (false, false),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "a broker says nothing is alive that it has answered an ending for",
                |_, state: &State| state.answer.is_none() || !state.fresh || state.knows,
            ),
            Property::always(
                "whatever was answered is in the log before the broker's view is renewed",
                |_, state: &State| !state.renewed || state.in_log,
            ),
            Property::always(
                "nobody says that something is alive whose ending is in force",
                |_, state: &State| {
                    state.answer != Some(Answer::InForce) || !state.other_fresh || state.other_knows
                },
            ),
            Property::sometimes(
                "an ending is pending, and everybody hears of it",
                |_, state: &State| {
                    state.answer == Some(Answer::Pending) && state.other_fresh && state.other_knows
                },
            ),
            Property::sometimes(
                "an ending is pending over an outage and a restart, and everybody hears of it",
                |_, state: &State| {
                    let all = state.fresh && state.other_fresh && state.other_knows;
                    state.answer == Some(Answer::Pending) && state.crashes > 0 && all
                },
            ),
        ]
    }
}

const ALL: Pending = Pending {
    crashes: 2,
    outages: 2,
    without: Without::Nothing,
};

#[test]
fn l7_whatever_was_answered_holds_at_once_and_comes_into_the_log() {
    holds(ALL);
}

#[test]
fn the_model_finds_l7_endings_that_a_stale_view_refuses() {
    breaks(Pending {
        without: Without::StaleViews,
        ..ALL
    });
}

#[test]
fn the_model_finds_l7_what_each_precaution_is_for() {
    for without in [
        Without::Journal,
        Without::Restoring,
        Without::AppendFirst,
        Without::HonestAnswers,
    ] {
        breaks(Pending { without, ..ALL });
    }
}
