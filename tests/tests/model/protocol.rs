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
use sundew_core::protocol::{
    CommitState, Step, after_heartbeat, is_committed, is_gap, replicas_for_majority,
};
use sundew_core::{EntryId, Position};

/// How long a view is fresh, in ticks.
const FRESH: u8 = 2;
/// The one ending; other entries are floors.
const ENDING: u8 = 1;

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Without {
    #[default]
    Nothing,
    /// Heartbeats count though no replica acknowledged them.
    Majority,
    /// After a failover nobody waits.
    PauseAfterFailover,
    /// A view is renewed in the pause, and asked as soon as the pause is over.
    RenewalAfterPause,
    /// After a failover the list of brokers is taken as it is.
    DoubtInPeers,
    /// The bound alone is enough, though a node does not have the ending.
    Everywhere,
    /// A broker that restarts does not put back what is in its journal.
    Journal,
    /// A broker keeps in its journal only what it was asked for itself.
    ForeignJournal,
    /// An ending that waits when a failover comes goes on waiting for what it waited for.
    WaitingAnew,
    /// A broker that lost entries in the store does not append them again.
    Reassertion,
    /// After the list of brokers was lost, the new one is taken as it is.
    DoubtAfterLoss,
    /// A broker that mends the log answers at once.
    PauseAfterLoss,
}

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

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Node {
    /// Whom it follows; itself if it is a primary.
    follows: u8,
    log: Vec<(u8, u8)>,
    /// What each broker last reported here, if it did.
    reports: Vec<Option<u8>>,
    /// How often it was made a primary: what it calls itself changes with it.
    name: u8,
    /// What is kept with the list of brokers: another one for another list.
    epoch: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Append {
    position: u8,
    /// Ticks until the bound has passed; not counting yet if `None`.
    bound: Option<u8>,
    /// The log is another one since: where the ending is now has to be looked up.
    turned: bool,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Broker {
    up: bool,
    node: u8,
    knows: bool,
    position: u8,
    last: u8,
    fresh: u8,
    closed: u8,
    doubt: u8,
    primary: Option<(u8, u8)>,
    epoch: Option<u8>,
    waiting: Option<Append>,
    journal: bool,
    /// An ending that is still to be appended.
    pending: bool,
    /// Ticks since its last turn; a broker that runs has one before its view is stale.
    idle: u8,
    frozen: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    nodes: Vec<Node>,
    brokers: Vec<Broker>,
    acknowledged: bool,
    crashes: u8,
    failovers: u8,
    deletions: u8,
    freezes: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Action {
    Append(usize),
    /// A heartbeat, acknowledged by these replicas.
    Beat(usize, Vec<usize>),
    Connect(usize, usize),
    Promote(usize),
    /// Everything in a primary goes: FLUSHALL.
    Empty(usize),
    /// The list of brokers in a primary goes.
    Unlist(usize),
    /// The only node is started again without its last entry.
    Lose,
    Follow(usize, usize),
    Crash(usize),
    Freeze(usize),
    Restart(usize),
    Tick,
}

fn id(entry: u8) -> EntryId {
    EntryId([entry; 16])
}

fn at(position: u8) -> Position {
    Position(position.into())
}

impl Node {
    fn tip(&self) -> (u8, u8) {
        self.log.last().copied().unwrap_or((0, 0))
    }

    fn append(&mut self, entry: u8, floor: u8) -> u8 {
        let position = self.tip().0.max(floor) + 1;
        self.log.push((position, entry));
        position
    }
}

impl Broker {
    /// What was waited for counts for nothing.
    fn turn(&mut self, without: Without) {
        if let Some(append) = self
            .waiting
            .as_mut()
            .filter(|_| without != Without::WaitingAnew)
        {
            (append.bound, append.turned) = (None, true);
        }
    }
}

impl State {
    fn is_primary(&self, node: usize) -> bool {
        usize::from(self.nodes[node].follows) == node
    }

    /// One cycle of the keeper: read on, beat, compare, mend; then what waits may be settled.
    fn beat(&mut self, b: usize, acknowledge: &[usize], without: Without) {
        let node = usize::from(self.brokers[b].node);
        for _ in 0..4 {
            // Read on.
            let broker = &mut self.brokers[b];
            let unread: Vec<(u8, u8)> = self.nodes[node]
                .log
                .iter()
                .filter(|(position, _)| *position > broker.position)
                .copied()
                .collect();
            let mut lost = false;
            if let Some((position, _)) = unread.first() {
                let before = self.nodes[node]
                    .log
                    .iter()
                    .rfind(|(p, _)| p < position)
                    .map_or(0, |(_, entry)| *entry);
                lost = is_gap(at(broker.position), id(broker.last), id(before));
            }
            if !lost {
                for (position, entry) in unread {
                    (broker.position, broker.last) = (position, entry);
                    // What it applies, it puts into its own journal before it says so.
                    broker.knows |= entry == ENDING;
                    broker.journal |= entry == ENDING && without != Without::ForeignJournal;
                }
            }
            // Beat.
            let (position, last) = (self.brokers[b].position, self.brokers[b].last);
            let is_here = self.nodes[node].log.contains(&(position, last));
            self.nodes[node].reports[b] = Some(if is_here { position } else { 0 });
            let primary = self.nodes[node].clone();
            for replica in acknowledge {
                let follows = self.nodes[*replica].follows;
                self.nodes[*replica] = Node {
                    follows,
                    name: self.nodes[*replica].name,
                    ..primary.clone()
                };
            }
            let needed = if without == Without::Majority {
                0
            } else {
                replicas_for_majority(u32::try_from(self.nodes.len() - 1).expect("few"))
            };
            if u32::try_from(acknowledge.len()).expect("few") < needed {
                return;
            }
            let broker = &mut self.brokers[b];
            let name = (u8::try_from(node).expect("few"), primary.name);
            if broker.primary.replace(name) != Some(name) {
                if without != Without::PauseAfterFailover {
                    broker.closed = broker.closed.max(FRESH);
                }
                if without != Without::DoubtInPeers {
                    broker.doubt = 2 * FRESH;
                }
                broker.turn(without);
            }
            let emptied = broker
                .epoch
                .replace(primary.epoch)
                .is_some_and(|epoch| epoch != primary.epoch);
            if emptied && without != Without::DoubtAfterLoss {
                broker.doubt = broker.doubt.max(FRESH);
            }
            let tip = self.nodes[node].tip();
            let step = if lost {
                Step::Reappend
            } else {
                after_heartbeat(at(position), id(last), (at(tip.0), id(tip.1)), emptied)
            };
            let broker = &mut self.brokers[b];
            match step {
                Step::ReadOn => continue,
                Step::Reappend => {
                    let has = self.nodes[node]
                        .log
                        .iter()
                        .any(|(_, entry)| *entry == ENDING);
                    if broker.knows && !has && without != Without::Reassertion {
                        self.nodes[node].append(ENDING, position);
                    }
                    broker.knows |= has;
                    broker.turn(without);
                    if without != Without::PauseAfterLoss {
                        broker.closed = broker.closed.max(FRESH);
                    }
                    let floor = 10 + tip.0;
                    self.nodes[node].append(floor, position);
                    (broker.position, broker.last) = tip;
                    continue;
                }
                Step::Renew => {}
            }
            if broker.pending {
                broker.pending = false;
                if !self.nodes[node]
                    .log
                    .iter()
                    .any(|(_, entry)| *entry == ENDING)
                {
                    self.nodes[node].append(ENDING, position);
                    continue;
                }
            }
            // What was read before a pause was over may miss what others append again in it.
            if broker.closed == 0 || without == Without::RenewalAfterPause {
                broker.fresh = FRESH;
            }
            self.settle(b, acknowledge, without);
            return;
        }
    }

    fn settle(&mut self, b: usize, acknowledged_by: &[usize], without: Without) {
        let node = usize::from(self.brokers[b].node);
        let reports = &self.nodes[node].reports;
        let peers: Vec<Position> = (0..reports.len())
            .filter(|peer| *peer != b)
            .filter_map(|peer| Some(at(reports[peer]?)))
            .collect();
        let broker = &mut self.brokers[b];
        let own = at(broker.position);
        if broker.waiting.as_ref().is_some_and(|append| append.turned) {
            // Nowhere: it holds at this broker, and is appended with the next beat; whoever asked
            // for it hears an error.
            let place = self.nodes[node]
                .log
                .iter()
                .find(|(_, entry)| *entry == ENDING);
            broker.waiting = place.map(|(position, _)| Append {
                position: *position,
                bound: None,
                turned: false,
            });
            if broker.waiting.is_none() {
                (broker.knows, broker.pending) = (true, true);
            }
        }
        let Some(append) = &mut broker.waiting else {
            return;
        };
        if own >= at(append.position) && append.bound.is_none() {
            append.bound = Some(FRESH);
        }
        let waiting = CommitState {
            position: at(append.position),
            majority_position: own,
            all_replicas_acked: without == Without::Everywhere
                || acknowledged_by.len() == self.nodes.len() - 1,
            peers: &peers,
            bound_passed: append.bound == Some(0),
            peers_in_doubt: broker.doubt > 0,
        };
        if is_committed(waiting) {
            broker.waiting = None;
            self.acknowledged = true;
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
        for (b, broker) in state.brokers.iter().enumerate() {
            if !broker.up {
                actions.push(Action::Restart(b));
                continue;
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
            for other in &primaries {
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
            Action::Crash(b) => {
                state.crashes += 1;
                let Broker { node, journal, .. } = state.brokers[b];
                state.brokers[b] = Broker {
                    node,
                    journal,
                    ..Broker::default()
                };
            }
            Action::Restart(b) => {
                let Broker { node, journal, .. } = state.brokers[b];
                let back = journal && self.without != Without::Journal;
                state.brokers[b] = Broker {
                    up: true,
                    node,
                    journal,
                    knows: back,
                    pending: back,
                    closed: FRESH,
                    ..Broker::default()
                };
            }
            Action::Tick => {
                for broker in &mut state.brokers {
                    broker.fresh = broker.fresh.saturating_sub(1);
                    broker.idle = if self.freezes.is_some() {
                        (broker.idle + 1).min(FRESH)
                    } else {
                        0
                    };
                    broker.closed = broker.closed.saturating_sub(1);
                    broker.doubt = broker.doubt.saturating_sub(1);
                    if let Some(append) = &mut broker.waiting {
                        append.bound = append.bound.map(|left| left.saturating_sub(1));
                    }
                }
            }
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
