//! Membership: who is waited for, and for how long (L1, L6). A broker that completes a task, another
//! that may be cut off at any moment, one that only tries the store, and a change of the agreement
//! on freshness. The store has a primary, a node that always has what the primary has, and a node
//! that may be behind and be promoted.
//!
//! The first broker runs: it sends a heartbeat in every tick, and one after a failover. The second
//! one does what it likes.

mod state;

use stateright::{Model, Property};
use sundew_core::protocol::{Step, after_heartbeat};
use sundew_core::{Agreement, SharedBounds, Ttl};

use crate::explore::{breaks, holds};
use state::{Action, Broker, FORGOTTEN_AFTER, Node, Report, State, Waiting, position};

/// A tick in milliseconds: the agreement lets a former bound count for a tick longer than it holds.
const TICK_MS: i64 = 60_000;
/// The most ticks since the change that are told apart.
const LONG_AGO: u8 = 8;

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// Whoever tries the store reports like a broker and takes everybody else off the list.
    ListsForProbes,
    /// A broker waits by its own bound, and forgets others by it.
    LongestBound,
    /// A shorter bound makes the former one forgotten.
    FormerBound,
    /// A longer bound is used before every node has heard of it.
    HeardEverywhere,
}

#[derive(Clone, Debug)]
struct Membership {
    /// The freshness in ticks before the change and after it.
    freshness: [u8; 2],
    changes: u8,
    failovers: u8,
    /// How often somebody deletes the list of brokers.
    deletions: u8,
    probes: u8,
    restarts: u8,
    without: Without,
}

impl Membership {
    fn agreement(&self, version: u8) -> Agreement {
        let ttl = |ticks: u8| Ttl::from_ms(TICK_MS * i64::from(ticks)).expect("a few minutes");
        let bounds = |version: usize| SharedBounds {
            freshness: ttl(self.freshness[version]),
            max_clock_skew: Ttl::HALF_SECOND,
            max_task_ttl: Ttl::DAY,
            replicas: 2,
        };
        let first = Agreement::first(bounds(0));
        if version == 0 {
            first
        } else {
            first.changed(bounds(1), 0)
        }
    }

    fn own_bound(&self, broker: &Broker) -> u8 {
        self.freshness[usize::from(broker.version)]
    }

    /// How long a view of others may be fresh, as far as a broker knows that heard of the bound
    /// `heard` in its last heartbeat.
    fn longest(&self, broker: &Broker, since_change: u8, heard: u8) -> u8 {
        let own = self.own_bound(broker);
        if self.without == Without::LongestBound {
            return own;
        }
        let agreed = self
            .agreement(broker.version)
            .longest_freshness(TICK_MS * i64::from(since_change));
        let agreed = u8::try_from(agreed.as_ms() / TICK_MS).expect("few");
        let agreed = if self.without == Without::FormerBound {
            own
        } else {
            agreed
        };
        own.max(agreed).max(heard)
    }

    /// One cycle of broker `b`.
    fn beat(&self, state: &mut State, b: usize, everywhere: bool) {
        for _ in 0..5 {
            let since_change = state.since_change;
            let broker = &mut state.brokers[b];
            broker.applied |= state.primary.ended;
            broker.knows |= broker.applied;
            let (applied, own) = (broker.applied, self.own_bound(broker));
            let report = Report {
                age: 0,
                bound: own,
                applied: applied && state.primary.ended,
            };
            let by_own = (self.without == Without::LongestBound).then_some(own);
            let longest = state.primary.report(b, report, by_own);
            if everywhere {
                state.behind = state.primary.clone();
            }
            if state.primary.version > broker.version {
                (broker.version, broker.fresh) = (state.primary.version, 0);
                continue;
            } else if state.primary.version < broker.version {
                state.primary.version = broker.version;
                continue;
            }
            let longest = self.longest(broker, since_change, longest);
            let mut turned = false;
            if broker.primary.replace(state.failovers) != Some(state.failovers) {
                broker.closed = broker.closed.max(longest);
                broker.doubt = broker.doubt.max(2 * longest);
                turned = true;
            }
            let before = broker.epoch.replace(state.primary.epoch);
            let emptied = before.is_some_and(|epoch| epoch != state.primary.epoch);
            if emptied {
                broker.doubt = broker.doubt.max(longest);
            }
            let (own_tip, tip) = (position(applied), position(state.primary.ended));
            let step = after_heartbeat(own_tip.0, own_tip.1, tip, emptied);
            if step == Step::Reappend {
                broker.closed = broker.closed.max(longest);
                broker.applied = false;
                state.primary.ended |= broker.knows;
                turned = true;
            }
            let pending = broker.knows && !state.primary.ended;
            state.primary.ended |= pending;
            if turned
                && b == 0
                && let Some(waiting) = &mut state.waiting
            {
                *waiting = Waiting {
                    bound: None,
                    ack: None,
                };
            }
            if step != Step::Renew || pending {
                continue;
            }
            if everywhere || self.without == Without::HeardEverywhere {
                broker.heard_everywhere = own;
            }
            if broker.closed == 0 {
                broker.fresh = own.min(broker.heard_everywhere);
            }
            if b == 0 {
                state.beaten = true;
                let other = state.primary.list[1].as_ref().map(|entry| entry.applied);
                if let Some(waiting) = &mut state.waiting {
                    waiting.ack = Some((everywhere, other));
                    if applied && waiting.bound.is_none() {
                        waiting.bound = Some(longest);
                    }
                }
                state.commit();
            }
            return;
        }
    }

    fn restart(&self, state: &mut State, b: usize) {
        let version = state.primary.version;
        let knows = state.brokers[b].knows;
        let mut broker = Broker {
            version,
            knows,
            heard_everywhere: self.freshness[usize::from(version)],
            ..Broker::default()
        };
        broker.closed = self.longest(&broker, state.since_change, 0);
        state.brokers[b] = broker;
    }

    fn tick(&self, state: &mut State) {
        state.beaten = false;
        state.since_change = (state.since_change + state.changes).min(LONG_AGO);
        for entry in [&mut state.primary, &mut state.behind]
            .into_iter()
            .flat_map(|node| node.list.iter_mut().flatten())
        {
            entry.age = (entry.age + 1).min(FORGOTTEN_AFTER * entry.bound + 1);
        }
        for broker in &mut state.brokers {
            broker.fresh = broker.fresh.saturating_sub(1);
            broker.closed = broker.closed.saturating_sub(1);
            broker.doubt = broker.doubt.saturating_sub(1);
        }
        if let Some(waiting) = &mut state.waiting {
            waiting.bound = waiting.bound.map(|left| left.saturating_sub(1));
        }
        // Whoever waits wakes at the bound, and goes by the heartbeat before it.
        state.commit();
    }
}

impl Model for Membership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let bound = self.freshness[0];
        let report = Some(Report {
            age: 0,
            bound,
            applied: false,
        });
        let node = Node {
            ended: false,
            list: [report.clone(), report],
            version: 0,
            epoch: 0,
        };
        let broker = Broker {
            fresh: bound,
            primary: Some(0),
            epoch: Some(0),
            heard_everywhere: bound,
            ..Broker::default()
        };
        vec![State {
            primary: node.clone(),
            behind: node,
            brokers: [broker.clone(), broker],
            waiting: None,
            acknowledged: false,
            since_change: 0,
            beaten: false,
            changes: 0,
            failovers: 0,
            deletions: 0,
            probes: 0,
            restarts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.acknowledged && state.brokers[1].knows {
            return;
        }
        for b in 0..2 {
            actions.push(Action::Beat(b, true));
            if self.failovers > 0 {
                actions.push(Action::Beat(b, false));
            }
        }
        if !state.brokers[0].knows && state.brokers[0].version == state.primary.version {
            actions.push(Action::End);
        }
        if state.changes < self.changes {
            actions.push(Action::Change);
        }
        if state.failovers < self.failovers {
            actions.push(Action::Failover);
        }
        if state.deletions < self.deletions {
            actions.push(Action::Delete);
        }
        if state.probes < self.probes {
            actions.push(Action::Probe);
        }
        if state.restarts < self.restarts {
            actions.push(Action::Restart(1));
            if !state.brokers[0].knows {
                actions.push(Action::Restart(0));
            }
        }
        if state.beaten {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Beat(b, everywhere) => self.beat(&mut state, b, everywhere),
            Action::Change => {
                state.changes += 1;
                state.primary.version = 1;
            }
            Action::Delete => {
                state.deletions += 1;
                (state.primary.list, state.primary.epoch) = ([None, None], state.deletions);
                state.behind = state.primary.clone();
            }
            Action::End => {
                state.brokers[0].knows = true;
                state.primary.ended = true;
                state.waiting = Some(Waiting {
                    bound: None,
                    ack: None,
                });
            }
            Action::Failover => {
                (state.failovers, state.beaten) = (state.failovers + 1, false);
                state.primary = state.behind.clone();
            }
            Action::Probe => {
                state.probes += 1;
                if self.without == Without::ListsForProbes {
                    state.primary.list = [None, None];
                }
            }
            Action::Restart(b) => {
                state.restarts += 1;
                self.restart(&mut state, b);
            }
            Action::Tick => self.tick(&mut state),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "nothing is active after its ending was acknowledged",
                |_, state: &State| {
                    let wrong =
                        |broker: &Broker| broker.fresh > 0 && broker.closed == 0 && !broker.knows;
                    !(state.acknowledged && state.brokers.iter().any(wrong))
                },
            ),
            Property::sometimes(
                "an ending is acknowledged though a broker that is cut off has not applied it",
                |_, state: &State| state.acknowledged && !state.brokers[1].knows,
            ),
            Property::sometimes(
                "after everything that may happen an ending is acknowledged",
                |model, state: &State| {
                    state.acknowledged
                        && state.changes == model.changes
                        && state.failovers == model.failovers
                        && state.deletions == model.deletions
                        && state.restarts == model.restarts
                },
            ),
            Property::sometimes(
                "after the change both brokers answer by the new bound",
                |model, state: &State| {
                    let anew = |broker: &Broker| {
                        broker.closed == 0
                            && broker.version == model.changes
                            && broker.fresh == model.freshness[usize::from(model.changes)]
                    };
                    state.brokers.iter().all(anew)
                },
            ),
        ]
    }
}

const PLAIN: Membership = Membership {
    freshness: [2, 2],
    changes: 0,
    failovers: 0,
    deletions: 0,
    probes: 0,
    restarts: 0,
    without: Without::Nothing,
};
/// A shorter bound, while the list may be lost and brokers start.
const SHORTER: Membership = Membership {
    freshness: [3, 1],
    changes: 1,
    deletions: 1,
    restarts: 1,
    ..PLAIN
};
/// A longer bound, of which a node has not heard that becomes the primary.
const LONGER: Membership = Membership {
    freshness: [1, 2],
    changes: 1,
    failovers: 1,
    ..PLAIN
};

#[test]
fn l1_p4_holds_while_brokers_start_and_try_the_store() {
    holds(Membership {
        probes: 1,
        restarts: 1,
        ..PLAIN
    });
}

#[test]
fn l6_p4_holds_over_a_shorter_bound_a_lost_list_and_a_start() {
    holds(SHORTER);
}

#[test]
fn l6_p4_holds_over_a_longer_bound_and_a_failover() {
    holds(LONGER);
}

#[test]
fn the_model_finds_l1_a_broker_that_starts_and_empties_the_list() {
    breaks(Membership {
        probes: 1,
        without: Without::ListsForProbes,
        ..PLAIN
    });
}

#[test]
fn the_model_finds_l6_a_broker_that_waits_by_its_own_bound() {
    breaks(Membership {
        deletions: 0,
        restarts: 0,
        without: Without::LongestBound,
        ..SHORTER
    });
}

#[test]
fn the_model_finds_l6_a_view_of_the_former_bound_that_is_forgotten() {
    breaks(Membership {
        without: Without::FormerBound,
        ..SHORTER
    });
}

#[test]
fn the_model_finds_l6_a_longer_bound_of_which_the_new_primary_has_not_heard() {
    breaks(Membership {
        without: Without::HeardEverywhere,
        ..LONGER
    });
}
