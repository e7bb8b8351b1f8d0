//! What brokers, primaries and replicas do, and what may happen to them.
//!
//! One token, covered by one ending. A primary with two replicas (a majority is one of them);
//! brokers that append, beat, freeze (by not taking a turn while time passes), crash and restart; a
//! failover to either replica, with what it has; the deposed primary, which goes on answering reads
//! and taking writes from whoever still reaches it; replicas that follow the new primary one by
//! one; somebody who empties a store, or takes the list of brokers out of it.
//! The decisions are `sundew_core::protocol`, the same functions that the broker calls. Time is
//! ticks; a view is fresh for `FRESH`.

use stateright::{Model, Property};

use crate::state::{Action, Append, Broker, ENDING, FRESH, Node, State, Without};

#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) brokers: usize,
    /// None: one node, and a failover is a restart of it that loses the end of the log.
    pub(crate) replicas: usize,
    pub(crate) crashes: u8,
    pub(crate) failovers: u8,
    /// How often somebody deletes something.
    pub(crate) deletions: u8,
    /// How often a broker may stand still; any of them, for ever, if not said.
    pub(crate) freezes: Option<u8>,
    pub(crate) without: Without,
}

impl Protocol {
    /// What broker `b` may do next.
    fn actions_of(&self, b: usize, state: &State, primaries: &[usize], actions: &mut Vec<Action>) {
        let broker = &state.brokers[b];
        if !broker.up {
            actions.push(Action::Restart(b));
            return;
        }
        let node = usize::from(broker.node);
        if state.is_primary(node) {
            if b == 0 && broker.waiting.is_none() && !broker.knows && !broker.journal {
                actions.push(Action::Append(b));
            }
            let followers: Vec<usize> = (0..state.nodes.len())
                .filter(|n| *n != node && usize::from(state.nodes[*n].follows) == node)
                .collect();
            for some in 0..1_u32 << followers.len() {
                actions.push(Action::Beat(
                    b,
                    followers
                        .iter()
                        .enumerate()
                        .filter(|(i, _)| some & (1 << i) != 0)
                        .map(|(_, n)| *n)
                        .collect(),
                ));
            }
        }
        for other in primaries {
            if *other != node {
                actions.push(Action::Connect(b, *other));
            }
        }
        if state.crashes < self.crashes {
            actions.push(Action::Crash(b));
        }
        if self.freezes.is_some_and(|most| state.freezes < most) && !broker.frozen {
            actions.push(Action::Freeze(b));
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // The second replica has not heard of the brokers yet: a majority has.
        let node = |n| Node {
            follows: 0,
            log: vec![],
            reports: vec![(n < 2).then_some(0); self.brokers],
            name: u8::from(n == 0),
            epoch: 0,
        };
        let broker = Broker {
            up: true,
            fresh: FRESH,
            primary: Some((0, 1)),
            epoch: Some(0),
            ..Broker::default()
        };
        vec![State {
            nodes: (0..=self.replicas).map(node).collect(),
            brokers: vec![broker; self.brokers],
            acknowledged: false,
            crashes: 0,
            failovers: 0,
            deletions: 0,
            freezes: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let primaries: Vec<usize> = (0..state.nodes.len())
            .filter(|n| state.is_primary(*n))
            .collect();
        for b in 0..state.brokers.len() {
            self.actions_of(b, state, &primaries, actions);
        }
        if self.replicas == 0 && state.failovers < self.failovers && !state.nodes[0].log.is_empty()
        {
            actions.push(Action::Lose);
        }
        if state.deletions < self.deletions {
            actions.extend(
                primaries
                    .iter()
                    .flat_map(|node| [Action::Empty(*node), Action::Unlist(*node)]),
            );
        }
        for node in 0..state.nodes.len() {
            if !state.is_primary(node) && state.failovers < self.failovers {
                actions.push(Action::Promote(node));
            }
            for primary in &primaries {
                // Only away from the first primary: that is what a failover does.
                if *primary != node
                    && *primary != 0
                    && usize::from(state.nodes[node].follows) != *primary
                    && (node == 0 || !state.is_primary(node))
                {
                    actions.push(Action::Follow(node, *primary));
                }
            }
        }
        // A broker that runs takes its turns well within the time that its view is fresh.
        if self.freezes.is_none()
            || state
                .brokers
                .iter()
                .all(|broker| !broker.up || broker.frozen || broker.idle + 1 < FRESH)
        {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Append(b) => {
                let node = usize::from(state.brokers[b].node);
                let floor = state.brokers[b].position;
                let position = state.nodes[node].append(ENDING, floor);
                let broker = &mut state.brokers[b];
                (broker.journal, broker.waiting) = (
                    true,
                    Some(Append {
                        position,
                        bound: None,
                        turned: false,
                    }),
                );
            }
            Action::Beat(b, acknowledge) => {
                (state.brokers[b].idle, state.brokers[b].frozen) = (0, false);
                state.beat(b, &acknowledge, self.without);
            }
            Action::Freeze(b) => {
                state.freezes += 1;
                state.brokers[b].frozen = true;
            }
            Action::Connect(b, node) => {
                (state.brokers[b].idle, state.brokers[b].frozen) = (0, false);
                state.brokers[b].node = u8::try_from(node).expect("few");
            }
            Action::Promote(node) => {
                state.failovers += 1;
                state.nodes[node].follows = u8::try_from(node).expect("few");
                state.nodes[node].name = state.failovers + 1;
            }
            Action::Empty(node) | Action::Unlist(node) => {
                state.deletions += 1;
                let (emptied, brokers) = (&mut state.nodes[node], state.brokers.len());
                (emptied.reports, emptied.epoch) = (vec![None; brokers], state.deletions);
                if matches!(action, Action::Empty(_)) {
                    emptied.log = Vec::new();
                }
            }
            Action::Lose => {
                state.failovers += 1;
                state.nodes[0].log.pop();
                state.nodes[0].name += 1;
            }
            Action::Follow(node, primary) => {
                // A replica that follows another primary gets all that this one has.
                let name = state.nodes[node].name;
                let fresh = state.nodes[primary].clone();
                state.nodes[node] = Node {
                    follows: u8::try_from(primary).expect("few"),
                    name,
                    ..fresh
                };
            }
            Action::Crash(b) => state.crash(b),
            Action::Restart(b) => state.restart(b, self.without),
            Action::Tick => state.tick(self.freezes.is_some()),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "nothing is active after its ending was acknowledged",
                |_, state: &State| {
                    let wrong = |broker: &Broker| {
                        broker.up && broker.fresh > 0 && broker.closed == 0 && !broker.knows
                    };
                    !(state.acknowledged && state.brokers.iter().any(wrong))
                },
            ),
            Property::sometimes(
                "an ending is acknowledged and everybody answers",
                |_, state: &State| {
                    state.acknowledged
                        && state
                            .brokers
                            .iter()
                            .all(|broker| broker.fresh > 0 && broker.closed == 0)
                },
            ),
            Property::sometimes(
                "after a failover an ending is acknowledged and everybody answers from the new primary",
                |model, state: &State| {
                    let anew = |broker: &Broker| {
                        broker.fresh > 0
                            && broker.closed == 0
                            && broker.primary.is_some_and(|(_, name)| name > 1)
                    };
                    model.failovers == 0 || (state.acknowledged && state.brokers.iter().all(anew))
                },
            ),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.nodes.iter().all(|node| node.log.len() <= 4)
    }
}
