//! Attendance (L12): one task, its agent, and two brokers, each of which may hold the agent's stream
//! and sweeps the store's list of due tasks. The store may be away, and each broker may start anew
//! or be cut off.
//!
//! A tick is a third of the task's grace. Whatever can be done within a tick, a broker does in it:
//! it sends a heartbeat, reports what is attended, and sweeps; and an agent without a stream opens
//! one, or moves to the other broker if its own could not report.

use std::time::Duration;

use stateright::{Model, Property};
use sundew_core::protocol::{is_abandoned, is_report_due, is_unreported};

use crate::explore::{breaks, holds};

const TICK: Duration = Duration::from_secs(10);
/// The grace of the task, in ticks.
const GRACE: u8 = 3;
/// Quiet ticks after which a task whose agent died has ended.
const ENOUGH: u8 = 2 * GRACE + 1;

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// A sweep knows nothing but the store's list.
    Steadiness,
    /// A sweep asks only how long the view has been fresh.
    SteadySweeps,
    /// A task is never abandoned just after an outage, however long ago the outage was.
    Abandonment,
    /// An agent stays at a broker that cannot report.
    Moves,
}

#[derive(Clone, Debug)]
struct Attendance {
    /// How long a view is fresh, in ticks.
    freshness: u8,
    /// How often something breaks: the store, a broker, or the link of a broker.
    breaks: u8,
    without: Without,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Broker {
    cut_off: bool,
    fresh: u8,
    /// For how long the view has been fresh, and for how long sweeps have succeeded, to the grace.
    steady: u8,
    sweeping: u8,
    /// Ticks since the store had a report, if there is a stream. A stream that is new counts as one
    /// whose report is due.
    stream: Option<u8>,
    /// What the broker has done in this tick.
    beaten: bool,
    swept: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    store_away: bool,
    /// Ticks until the store has the task as due.
    due: u8,
    brokers: [Broker; 2],
    agent_died: bool,
    ended: bool,
    breaks: u8,
    /// Ticks since something last broke or was mended, or since the agent died.
    quiet: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Action {
    Beat(usize),
    Break(Option<usize>),
    Die,
    Mend(Option<usize>),
    /// The agent moves from this broker to the other one.
    Move(usize),
    Open(usize),
    Report(usize),
    Restart(usize),
    Sweep(usize),
    Tick,
}

impl State {
    fn reaches(&self, b: usize) -> bool {
        !self.store_away && !self.brokers[b].cut_off
    }

    /// Whether a broker takes a stream: it must read the task, and know that it lives.
    fn takes_streams(&self, b: usize) -> bool {
        self.reaches(b) && self.brokers[b].fresh > 0
    }

    fn may_report(&self, b: usize) -> bool {
        let broker = &self.brokers[b];
        let since = broker.stream.map(|since| TICK * since.into());
        self.reaches(b)
            && since.is_some_and(|since| is_report_due(Some(since), TICK * GRACE.into()))
    }

    fn is_whole(&self) -> bool {
        (0..2).all(|b| self.reaches(b))
    }

    fn is_attended(&self) -> bool {
        self.brokers.iter().any(|broker| broker.stream.is_some())
    }

    fn may_move(&self, b: usize) -> bool {
        let since = self.brokers[b].stream.map(|since| TICK * since.into());
        self.takes_streams(1 - b)
            && since.is_some_and(|since| is_unreported(since, TICK * GRACE.into()))
    }

    /// Whether nobody has left undone in this tick what he could do.
    fn all_done(&self, agents_move: bool) -> bool {
        let busy = |b: usize| {
            let broker = &self.brokers[b];
            self.reaches(b) && (!broker.beaten || !broker.swept || self.may_report(b))
                || agents_move && self.may_move(b)
        };
        let homeless =
            !self.agent_died && !self.is_attended() && (0..2).any(|b| self.takes_streams(b));
        self.ended || !(busy(0) || busy(1) || homeless)
    }
}

impl Attendance {
    /// Broker `b` looks at what is due.
    fn sweep(&self, state: &mut State, b: usize) {
        state.brokers[b].swept = true;
        let broker = &state.brokers[b];
        if state.due > 0 || broker.fresh == 0 {
            return;
        }
        let steady = match self.without {
            Without::Steadiness => GRACE,
            Without::SteadySweeps => broker.steady,
            Without::Abandonment => 0,
            Without::Nothing | Without::Moves => broker.steady.min(broker.sweeping),
        };
        if is_abandoned(
            broker.stream.is_some(),
            TICK * steady.into(),
            TICK * GRACE.into(),
        ) {
            state.ended = true;
        } else {
            state.due = GRACE;
        }
    }

    fn tick(&self, state: &mut State) {
        state.due = state.due.saturating_sub(1);
        state.quiet = (state.quiet + 1).min(ENOUGH);
        let away = state.store_away;
        for broker in &mut state.brokers {
            let reaches = !away && !broker.cut_off;
            broker.fresh = broker.fresh.saturating_sub(1);
            let longer = |ticks: u8, is_steady: bool| {
                if is_steady { (ticks + 1).min(GRACE) } else { 0 }
            };
            broker.steady = longer(broker.steady, broker.fresh > 0);
            broker.sweeping = longer(broker.sweeping, reaches && broker.swept);
            (broker.beaten, broker.swept) = (false, false);
            broker.stream = broker.stream.map(|since| (since + 1).min(GRACE));
        }
    }
}

impl Model for Attendance {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let broker = Broker {
            fresh: self.freshness,
            steady: GRACE,
            sweeping: GRACE,
            ..Broker::default()
        };
        let attending = Broker {
            stream: Some(0),
            ..broker.clone()
        };
        vec![State {
            store_away: false,
            due: GRACE,
            brokers: [attending, broker],
            agent_died: false,
            ended: false,
            breaks: 0,
            quiet: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ended {
            return;
        }
        let agents_move = self.without != Without::Moves;
        for b in 0..2 {
            let broker = &state.brokers[b];
            if state.reaches(b) && !broker.beaten {
                actions.push(Action::Beat(b));
            }
            if state.reaches(b) && !broker.swept {
                actions.push(Action::Sweep(b));
            }
            if state.may_report(b) {
                actions.push(Action::Report(b));
            }
            if !state.agent_died && !state.is_attended() && state.takes_streams(b) {
                actions.push(Action::Open(b));
            }
            if agents_move && state.may_move(b) {
                actions.push(Action::Move(b));
            }
            if broker.cut_off {
                actions.push(Action::Mend(Some(b)));
            } else if state.breaks < self.breaks {
                actions.push(Action::Restart(b));
                actions.push(Action::Break(Some(b)));
            }
        }
        if state.store_away {
            actions.push(Action::Mend(None));
        } else if state.breaks < self.breaks {
            actions.push(Action::Break(None));
        }
        if !state.agent_died {
            actions.push(Action::Die);
        }
        if state.all_done(agents_move) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Beat(b) => {
                let broker = &mut state.brokers[b];
                (broker.beaten, broker.fresh) = (true, self.freshness);
            }
            Action::Break(which) => {
                (state.breaks, state.quiet) = (state.breaks + 1, 0);
                match which {
                    Some(b) => state.brokers[b].cut_off = true,
                    None => state.store_away = true,
                }
            }
            Action::Die => {
                (state.agent_died, state.quiet) = (true, 0);
                for broker in &mut state.brokers {
                    broker.stream = None;
                }
            }
            Action::Mend(which) => {
                state.quiet = 0;
                match which {
                    Some(b) => state.brokers[b].cut_off = false,
                    None => state.store_away = false,
                }
            }
            Action::Move(b) => {
                state.brokers[b].stream = None;
                state.brokers[1 - b].stream = Some(1);
            }
            Action::Open(b) => state.brokers[b].stream = Some(1),
            Action::Report(b) => {
                state.brokers[b].stream = Some(0);
                state.due = GRACE;
            }
            Action::Restart(b) => {
                (state.breaks, state.quiet) = (state.breaks + 1, 0);
                state.brokers[b] = Broker::default();
            }
            Action::Sweep(b) => self.sweep(&mut state, b),
            Action::Tick => self.tick(&mut state),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "a task whose agent lives does not end by itself",
                |_, state: &State| state.agent_died || !state.ended,
            ),
            Property::always(
                "a task whose agent died ends as soon as everything has been whole for two graces",
                |_, state: &State| {
                    state.ended || !state.agent_died || !state.is_whole() || state.quiet < ENOUGH
                },
            ),
            Property::sometimes("a task ends", |_, state: &State| state.ended),
            Property::sometimes(
                "a task goes on after an outage that was longer than its grace",
                |_, state: &State| {
                    state.is_whole()
                        && state.breaks > 0
                        && !state.agent_died
                        && state.quiet >= ENOUGH
                },
            ),
            Property::sometimes("a stream moves to the other broker", |_, state: &State| {
                state.brokers[1].stream.is_some()
            }),
        ]
    }
}

const ALL: Attendance = Attendance {
    freshness: 2,
    breaks: 2,
    without: Without::Nothing,
};

#[test]
fn l12_no_attended_task_ends_over_outages_and_no_task_outlives_its_agent() {
    holds(ALL);
}

/// The shortest grace is a second, and a view may be fresh for a minute.
#[test]
fn l12_no_attended_task_ends_where_views_stay_fresh_over_the_outage() {
    holds(Attendance {
        freshness: GRACE + 1,
        ..ALL
    });
}

#[test]
fn the_model_finds_l12_tasks_that_a_sweep_abandons_because_the_store_was_away() {
    breaks(Attendance {
        without: Without::Steadiness,
        ..ALL
    });
}

#[test]
fn the_model_finds_l12_tasks_that_are_abandoned_though_the_view_stayed_fresh() {
    breaks(Attendance {
        freshness: GRACE + 1,
        without: Without::SteadySweeps,
        ..ALL
    });
}

#[test]
fn the_model_finds_l12_tasks_whose_agents_stay_at_a_broker_that_is_cut_off_alone() {
    breaks(Attendance {
        breaks: 1,
        without: Without::Moves,
        ..ALL
    });
}

#[test]
fn the_model_finds_tasks_that_nobody_would_ever_abandon() {
    breaks(Attendance {
        without: Without::Abandonment,
        ..ALL
    });
}
