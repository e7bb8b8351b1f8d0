//! The retention of a quarantine and its lift (L2): two brokers, each of which may stand still,
//! forget, fail to trim the log, and start anew from its journal. Nothing that was begun after the
//! lift may be killed or forbidden.
//!
//! The views are the real ones: a state lists what a broker knows, and the view is made of that.

mod state;

use stateright::{Model, Property};
use sundew_core::protocol::{Step, after_heartbeat, is_gap};
use sundew_core::{Event, LogEntry, View, still_matter};

use crate::explore::{breaks, holds};
use state::{Action, Broker, END, LIFT, LONGEST, QUARANTINE, SLACK, State, at, ms, name};

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// The log and the journal let a lift go like any other entry.
    Lifts,
    /// What the log has lost is appended again also if nothing rests on it.
    Mattering,
}

#[derive(Clone, Debug)]
struct Retention {
    restarts: u8,
    /// The most entries that say nothing.
    floors: u8,
    without: Without,
}

impl Retention {
    /// Whether an entry that the log does not have is appended again.
    fn matters(&self, view: &View, entry: &LogEntry, now: u8) -> bool {
        self.without == Without::Mattering && !matches!(entry.event, Event::Floor)
            || view.matters(entry, ms(now))
    }

    /// One cycle of broker `b`.
    fn beat(&self, state: &mut State, b: usize) {
        for _ in 0..6 {
            let applied = state.brokers[b].applied;
            let unread = state.log.iter().copied();
            let unread: Vec<_> = unread.filter(|(at, ..)| *at > applied.0).collect();
            if let Some((_, _, previous)) = unread.first()
                && is_gap(at(applied.0), name(applied.1), name(*previous))
            {
                self.reappend(state, b);
                continue;
            }
            for (position, entry, _) in unread {
                state.apply(b, position, entry);
            }
            let (applied, tip) = (state.brokers[b].applied, state.tip());
            let tip = (at(tip.0), name(tip.1));
            match after_heartbeat(at(applied.0), name(applied.1), tip, false) {
                Step::Reappend => {
                    self.reappend(state, b);
                    continue;
                }
                Step::ReadOn => continue,
                Step::Renew => {}
            }
            let pending = std::mem::take(&mut state.brokers[b].pending);
            let view = state.view(b);
            let missing = pending.into_iter().filter(|entry| {
                let in_log = view.is_in_log(&name(*entry));
                !in_log && self.matters(&view, &state.entry(*entry), state.now)
            });
            let missing: Vec<_> = missing.collect();
            for entry in &missing {
                state.append(*entry, applied.0);
            }
            if missing.is_empty() {
                state.brokers[b].fresh = true;
                return;
            }
        }
    }

    /// The repair of a log that has a gap.
    fn reappend(&self, state: &mut State, b: usize) {
        let stamped = state.brokers[b].applied.0;
        let log = state.log.clone();
        for (position, entry, _) in &log {
            state.apply(b, *position, *entry);
        }
        let known = log.iter().map(|(_, entry, _)| name(*entry)).collect();
        let view = state.view(b);
        let mut again = view.missing_from(&known);
        again.retain(|entry| self.matters(&view, entry, state.now));
        for entry in again {
            state.append(entry.id.0[0], stamped);
        }
        if state.floors < self.floors {
            state.append_floor(stamped);
        }
        let last = log.last().map_or((0, 0), |(at, entry, _)| (*at, *entry));
        state.brokers[b].applied = last;
    }

    fn forget(&self, state: &mut State, b: usize, trims: bool) {
        let Some(before) = state.now.checked_sub(SLACK) else {
            return;
        };
        let mut view = state.view(b);
        let places = view.forget(ms(before));
        let known = std::mem::take(&mut state.brokers[b].known);
        let stays = |(_, entry, _): &(u8, u8, bool)| view.knows(&name(*entry));
        state.brokers[b].known = known.into_iter().filter(stays).collect();
        if self.without == Without::Lifts && !view.knows(&name(QUARANTINE)) {
            let over = state
                .lifted_at
                .is_some_and(|lifted| before >= lifted + LONGEST + SLACK);
            let known = &mut state.brokers[b].known;
            known.retain(|(_, entry, _)| *entry != LIFT || !over);
        }
        if trims {
            let tip = state.tip().0;
            let entry = |entry| state.entry(entry);
            let until = |entry: LogEntry| match self.without {
                Without::Lifts => entry.retain_until_ms,
                _ => entry.log_retains_until_ms(),
            };
            let kept: Vec<_> = state
                .log
                .iter()
                .filter(|(position, id, _)| {
                    let named = places.contains(&at(*position));
                    *position == tip || !named && until(entry(*id)) > ms(before)
                })
                .copied()
                .collect();
            state.log = kept;
        }
    }

    fn restart(&self, state: &mut State, b: usize) {
        let journal = state.brokers[b].journal;
        let has = |entry: &u8| journal[usize::from(entry - QUARANTINE)];
        let entries = [QUARANTINE, LIFT].into_iter().filter(has);
        let entries: Vec<_> = entries.map(|entry| state.entry(entry)).collect();
        let now_ms = ms(state.now);
        let back = match self.without {
            Without::Lifts => {
                let over = |entry: &LogEntry| entry.retain_until_ms > now_ms;
                entries.into_iter().filter(over).collect()
            }
            _ => still_matter(entries, now_ms),
        };
        let back: Vec<u8> = back.iter().map(|entry| entry.id.0[0]).collect();
        state.brokers[b] = Broker {
            journal,
            known: back.iter().map(|entry| (1, *entry, true)).collect(),
            pending: back,
            ..Broker::default()
        };
    }
}

impl Model for Retention {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let broker = Broker {
            fresh: true,
            applied: (1, QUARANTINE),
            known: vec![(1, QUARANTINE, false)],
            journal: [true, false],
            pending: Vec::new(),
        };
        vec![State {
            now: 0,
            log: vec![(1, QUARANTINE, 0)],
            floors: 0,
            lifted_at: None,
            brokers: [broker.clone(), broker],
            task: None,
            restarts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for b in 0..2 {
            let broker = &state.brokers[b];
            actions.extend([Action::Beat(b), Action::Forget(b, true)]);
            actions.push(Action::Forget(b, false));
            if state.restarts < self.restarts {
                actions.push(Action::Restart(b));
            }
            if !broker.fresh {
                continue;
            }
            if state.lifted_at.is_none() && b == 0 && state.now == 0 {
                actions.push(Action::Lift(b));
            }
            let stands = state
                .view(b)
                .active_rules()
                .iter()
                .any(|r| r.2.quarantines());
            let is_over = state.task.is_none_or(|(deadline, _)| state.now >= deadline);
            if !stands && is_over {
                actions.push(Action::Begin(b));
            }
        }
        if state.floors < self.floors {
            actions.push(Action::Append);
        }
        if state.now < END && (state.lifted_at.is_some() || state.now > 0) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Append => state.append_floor(0),
            Action::Beat(b) => self.beat(&mut state, b),
            Action::Begin(b) => {
                let stamp = state.brokers[b].applied.0;
                state.task = Some((state.now + LONGEST, stamp));
            }
            Action::Forget(b, trims) => self.forget(&mut state, b, trims),
            Action::Lift(b) => {
                state.lifted_at = Some(state.now);
                let floor = state.brokers[b].applied.0;
                state.append(LIFT, floor);
                self.beat(&mut state, b);
            }
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
                "nothing that was begun after the lift is killed or forbidden",
                |_, state: &State| {
                    let Some((_, stamp)) = state.task.filter(|(end, _)| state.now < *end) else {
                        return true;
                    };
                    (0..2).all(|b| {
                        let broker = &state.brokers[b];
                        // A broker that has not read so far says that it does not know.
                        !broker.fresh
                            || broker.applied.0 < stamp
                            || state
                                .view(b)
                                .active_rules()
                                .iter()
                                .all(|(position, _, effect)| {
                                    let kills = effect.revokes() && *position > at(stamp);
                                    !kills && !effect.quarantines()
                                })
                    })
                },
            ),
            Property::always(
                "a quarantine stands until it is lifted",
                |_, state: &State| {
                    let stands = |b: usize| {
                        let rules = state.view(b);
                        let rules = rules.active_rules();
                        !state.brokers[b].fresh || rules.iter().any(|r| r.2.quarantines())
                    };
                    state.lifted_at.is_some() || (stands(0) && stands(1))
                },
            ),
            Property::sometimes(
                "the quarantine is forgotten by one broker and by the log, and the other wakes",
                |_, state: &State| {
                    let knows = |b: usize| state.view(b).knows(&name(QUARANTINE));
                    let in_log = state.log.iter().any(|(_, entry, _)| *entry == QUARANTINE);
                    !in_log && !knows(0) && knows(1) && state.brokers[0].fresh
                },
            ),
            Property::sometimes(
                "a task lives after everything of the quarantine but its lift is gone",
                |_, state: &State| {
                    let knows = |b: usize| state.view(b).knows(&name(QUARANTINE));
                    let in_log = state.log.iter().any(|(_, entry, _)| *entry == QUARANTINE);
                    let fresh = state.brokers.iter().all(|broker| broker.fresh);
                    let lives = state.task.is_some_and(|(end, _)| state.now < end);
                    lives && fresh && !in_log && !knows(0) && !knows(1)
                },
            ),
        ]
    }
}

const ALL: Retention = Retention {
    restarts: 1,
    floors: 2,
    without: Without::Nothing,
};

#[test]
fn l2_what_was_lifted_never_comes_back() {
    holds(ALL);
}

#[test]
fn the_model_finds_l2_a_lift_that_is_forgotten_before_its_quarantine() {
    breaks(Retention {
        floors: 1,
        without: Without::Lifts,
        ..ALL
    });
}

#[test]
fn the_model_finds_l2_a_quarantine_that_a_broker_that_slept_brings_back() {
    breaks(Retention {
        restarts: 0,
        without: Without::Mattering,
        ..ALL
    });
}
