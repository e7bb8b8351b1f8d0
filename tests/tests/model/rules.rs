//! The retention of rules (L3): one task, one rule that may cover it, and a change of the agreement
//! on the longest task. The first broker is asked for the rule, perhaps while it is cut off; the
//! second one begins the task. Both may start anew, and forget what is over.
//!
//! A tick is longer than any freshness bound, so a view that was renewed in one tick is not fresh in
//! the next.

use stateright::{Model, Property};
use sundew_core::{
    Agreement, Effect, EntryId, Event, LogEntry, Position, Selector, SharedBounds, Ttl, View,
    still_matter,
};

use crate::explore::{breaks, holds};

/// A tick in milliseconds: rules stand for a tick longer than tasks live, and are kept for another.
const TICK_MS: i64 = 60_000;
const SLACK: u8 = 1;
/// When the model ends.
const END: u8 = 9;
/// The time until which something is begun, changed or asked for.
const EARLY: u8 = 4;

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// A shorter agreement makes the former one forgotten.
    FormerLongest,
    /// An append under another agreement is taken.
    Versions,
    /// A rule that has waited is appended as it was made.
    StandingAnew,
    /// A rule that has waited is dropped when it says that it is over, whatever was agreed on.
    Outliving,
    /// A rule stands as long as the longest task of its broker's agreement, whatever may be agreed.
    FileLimit,
}

#[derive(Clone, Debug)]
struct Rules {
    /// The longest task in ticks before the change and after it.
    longest: [u8; 2],
    /// The longest task that the file of the first broker allows.
    allowed: u8,
    restarts: u8,
    without: Without,
}

/// The rule as a broker has it: until when it stands, and whether it is from the log.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Known {
    until: u8,
    held: bool,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Broker {
    version: u8,
    fresh: bool,
    rule: Option<Known>,
    journal: Option<u8>,
    /// The rule is still to be appended.
    pending: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    now: u8,
    version: u8,
    changed_at: u8,
    /// The rule in the log, with the time until which it stands.
    log: Option<u8>,
    brokers: [Broker; 2],
    /// The task's deadline, and whether the rule covers the task.
    task: Option<(u8, bool)>,
    asked: bool,
    restarts: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Action {
    Ask(bool),
    Beat(usize),
    Begin,
    Change,
    Forget(usize),
    Restart(usize),
    Tick,
}

fn ms(ticks: u8) -> i64 {
    TICK_MS * i64::from(ticks)
}

fn ticks(ms: i64) -> u8 {
    u8::try_from(ms / TICK_MS).expect("few")
}

/// The rule, which stands until this tick.
fn rule(until: u8) -> LogEntry {
    LogEntry {
        id: EntryId([1; 16]),
        event: Event::Rule {
            selector: Box::new(Selector {
                everything: true,
                ..Selector::default()
            }),
            effect: Effect::Revoke,
        },
        retain_until_ms: ms(until),
        document: None,
    }
}

impl Known {
    fn view(self) -> View {
        let mut view = View::default();
        if self.held {
            view.hold(rule(self.until));
        } else {
            view.apply(Position(1), rule(self.until));
        }
        view
    }
}

impl Rules {
    fn bounds(longest: u8) -> SharedBounds {
        SharedBounds {
            freshness: Ttl::SECOND,
            max_clock_skew: Ttl::HALF_SECOND,
            max_task_ttl: Ttl::from_ms(ms(longest)).expect("a few minutes"),
            replicas: 0,
        }
    }

    /// The agreement that a broker has taken.
    fn agreement(&self, state: &State, b: usize) -> Agreement {
        let [before, after] = self.longest.map(Self::bounds);
        if state.brokers[b].version == 0 {
            Agreement::first(before)
        } else if self.without == Without::FormerLongest {
            Agreement::first(after)
        } else {
            Agreement::first(before).changed(after, ms(state.changed_at))
        }
    }

    /// Until when a rule of this moment stands at broker `b`.
    fn stands_until(&self, state: &State, b: usize) -> u8 {
        let agreement = self.agreement(state, b);
        let allowed = if self.without == Without::FileLimit {
            agreement.bounds
        } else {
            self.allowed(b)
        };
        ticks(agreement.rule_stands_until_ms(&allowed, ms(state.now)))
    }

    fn allowed(&self, b: usize) -> SharedBounds {
        let most = self.longest[0].max(self.longest[1]);
        Self::bounds(if b == 0 { self.allowed } else { most })
    }

    /// One cycle of broker `b`.
    fn beat(&self, state: &mut State, b: usize) {
        state.brokers[b].version = state.version;
        let (agreement, until) = (self.agreement(state, b), self.stands_until(state, b));
        let now_ms = ms(state.now);
        let broker = &mut state.brokers[b];
        if broker.pending && state.log.is_none() {
            let entry = rule(broker.journal.expect("it is there before it is held"));
            let matters = still_matter(vec![entry.clone()], now_ms).len() == 1
                || (agreement.outlives(&self.allowed(b), now_ms)
                    && self.without != Without::Outliving);
            let entry = match self.without {
                Without::StandingAnew => entry,
                _ => entry.standing_until(ms(until)),
            };
            state.log = matters.then(|| ticks(entry.retain_until_ms));
        }
        broker.pending = false;
        if let Some(until) = state.log {
            broker.rule = Some(Known { until, held: false });
            broker.journal = broker.journal.or(Some(until));
        }
        broker.fresh = agreement.beyond(&self.allowed(b)).is_empty();
    }

    fn ask(&self, state: &mut State, reaches: bool) {
        let until = self.stands_until(state, 0);
        let takes = self.without == Without::Versions || state.brokers[0].version == state.version;
        let appended = reaches && takes;
        let broker = &mut state.brokers[0];
        broker.journal = Some(until);
        broker.rule = Some(Known {
            until,
            held: !appended,
        });
        broker.pending = !appended;
        state.asked = true;
        state.log = appended.then_some(until);
        // Whether it covers the task is the order in time, since the task was begun before.
    }

    fn begin(&self, state: &mut State) {
        let longest = self.longest[usize::from(state.brokers[1].version)];
        let knows = state.brokers[1].rule.is_some();
        let covered = !knows && (!state.asked || state.log.is_some());
        state.task = Some((state.now + longest, covered));
    }

    /// Broker `b` forgets what is over, and trims the log.
    fn forget(&self, state: &mut State, b: usize) {
        let Some(before) = state.now.checked_sub(SLACK) else {
            return;
        };
        let broker = &mut state.brokers[b];
        if let Some(known) = broker.rule {
            let mut view = known.view();
            let _ = view.forget(ms(before));
            broker.rule = view.knows(&EntryId([1; 16])).then_some(known);
        }
        state.log = state.log.filter(|until| *until > before);
    }

    fn restart(&self, state: &mut State, b: usize) {
        let version = state.version;
        let journal = state.brokers[b].journal;
        let back =
            journal.filter(|until| !still_matter(vec![rule(*until)], ms(state.now)).is_empty());
        state.brokers[b] = Broker {
            version,
            fresh: false,
            rule: back.map(|until| Known { until, held: true }),
            journal,
            pending: back.is_some(),
        };
    }
}

impl State {
    /// Whether the task is alive but for the rule, which covers it and was asked for.
    fn is_covered(&self) -> bool {
        let alive = |(deadline, covered)| covered && self.now < deadline;
        self.asked && self.task.is_some_and(alive)
    }
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let broker = Broker {
            fresh: true,
            ..Broker::default()
        };
        vec![State {
            now: 0,
            version: 0,
            changed_at: 0,
            log: None,
            brokers: [broker.clone(), broker],
            task: None,
            asked: false,
            restarts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < EARLY {
            if state.version == 0 {
                actions.push(Action::Change);
            }
            if !state.asked {
                actions.extend([Action::Ask(true), Action::Ask(false)]);
            }
            if state.task.is_none() && state.brokers[1].fresh {
                actions.push(Action::Begin);
            }
        }
        for b in 0..2 {
            actions.extend([Action::Beat(b), Action::Forget(b)]);
            // A broker whose file does not allow the agreement does not start.
            if state.restarts < self.restarts && (b == 1 || state.version == 0 || self.allows()) {
                actions.push(Action::Restart(b));
            }
        }
        if state.now < END {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Ask(reaches) => self.ask(&mut state, reaches),
            Action::Beat(b) => self.beat(&mut state, b),
            Action::Begin => self.begin(&mut state),
            Action::Change => (state.version, state.changed_at) = (1, state.now),
            Action::Forget(b) => self.forget(&mut state, b),
            Action::Restart(b) => {
                state.restarts += 1;
                self.restart(&mut state, b);
            }
            Action::Tick => {
                state.now += 1;
                for broker in &mut state.brokers {
                    broker.fresh = false;
                }
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "a rule is pending or in the log for as long as a task lives that it covers",
                |_, state: &State| {
                    !state.is_covered() || state.brokers[0].pending || state.log.is_some()
                },
            ),
            Property::always(
                "no broker answers that has forgotten a rule before a task that it covers is over",
                |_, state: &State| {
                    let asked = &state.brokers[0];
                    !state.is_covered() || !asked.fresh || asked.rule.is_some()
                },
            ),
            Property::sometimes("a rule is forgotten everywhere", |_, state: &State| {
                let nobody = |broker: &Broker| broker.rule.is_none() && !broker.pending;
                state.asked && state.log.is_none() && state.brokers.iter().all(nobody)
            }),
            Property::sometimes(
                "a rule of another agreement covers a long task",
                |model, state: &State| {
                    let longest = model.longest[0].max(model.longest[1]);
                    state.is_covered()
                        && state.version == 1
                        && state.log.is_some()
                        && state.task.is_some_and(|(deadline, _)| deadline >= longest)
                },
            ),
        ]
    }
}

impl Rules {
    fn allows(&self) -> bool {
        self.longest.iter().all(|longest| *longest <= self.allowed)
    }
}

const SHORTER: Rules = Rules {
    longest: [4, 1],
    allowed: 4,
    restarts: 1,
    without: Without::Nothing,
};
const LONGER: Rules = Rules {
    longest: [1, 4],
    ..SHORTER
};
/// The file of the first broker does not allow the longer tasks. The broker was cut off when they
/// were agreed on.
const BEYOND: Rules = Rules {
    allowed: 1,
    ..LONGER
};

#[test]
fn l3_rules_stand_as_long_as_tasks_live_whatever_is_agreed_on_meanwhile() {
    holds(SHORTER);
    holds(LONGER);
    holds(BEYOND);
}

#[test]
fn the_model_finds_l3_a_rule_that_is_over_before_a_task_of_the_former_limit() {
    breaks(Rules {
        without: Without::FormerLongest,
        allowed: 1,
        ..SHORTER
    });
}

#[test]
fn the_model_finds_l3_a_rule_of_a_broker_that_has_not_heard_of_longer_tasks() {
    for without in [Without::Versions, Without::StandingAnew, Without::Outliving] {
        breaks(Rules { without, ..BEYOND });
    }
}

#[test]
fn the_model_finds_l3_a_pending_rule_that_a_restart_forgets_too_early() {
    breaks(Rules {
        without: Without::FileLimit,
        ..LONGER
    });
}
