//! Stamps over a failover (P4): one task, decided on by the log of a primary that is deposed before
//! the task is stored, and one rule that covers it. The first broker decides and stores the task. The
//! second one is asked for the rule, and appends it to the successor.
//!
//! A broker that answers and knows the rule must take the task for dead. Which brokers know a rule
//! when it is acknowledged is the other model's.

use stateright::{Model, Property};
use sundew_core::protocol::{Step, after_heartbeat, is_gap};
use sundew_core::{EntryId, Position};

use crate::explore::{breaks, holds};

/// The entry that is the rule, and the one that repeats it. Others are numbered from 1.
const RULE: u8 = 100;
const REPEATED: u8 = 101;
/// How far the first entry on another primary stands above what it finds.
const FAR: u8 = 50;
/// How many entries others append to each of the two primaries.
const OTHERS: u8 = 2;

#[derive(Clone, Debug)]
struct Stamps {
    /// How often the first broker may die.
    crashes: u8,
    /// How often an append of a repair may fail.
    cuts: u8,
    /// Whether the precaution is there: the first entry on another primary stands far above what it
    /// finds.
    far_above: bool,
}

/// An entry of a log: its place, its name, and the one before it.
type Entry = (u8, u8, u8);

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Broker {
    /// Whether the broker has reached the successor.
    moved: bool,
    fresh: bool,
    applied: u8,
    last: u8,
    /// Where the rule stands in the broker's view.
    rule: Option<u8>,
    /// A repair that was begun: what the broker may have stamped, and whether the rule is to be
    /// repeated.
    repair: Option<(u8, bool)>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Task {
    Undecided,
    Decided(u8),
    Stored(u8),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    /// The logs of the primary and of its successor, which is empty before the failover.
    logs: [Vec<Entry>; 2],
    promoted: bool,
    brokers: [Broker; 2],
    task: Task,
    asked: bool,
    crashes: u8,
    cuts: u8,
    others: [u8; 2],
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Action {
    /// The second broker is asked for the rule.
    Ask,
    /// One cycle of a broker. If the flag is set, its appends fail.
    Beat(usize, bool),
    Crash,
    Decide,
    Move(usize),
    /// Somebody appends something else to the first primary, or to the second.
    Other(usize),
    /// The replica with so many entries becomes the primary.
    Promote(usize),
    Store,
}

fn at(position: u8) -> Position {
    Position(position.into())
}

fn id(entry: u8) -> EntryId {
    EntryId([entry; 16])
}

impl State {
    fn tip(&self, log: usize) -> (u8, u8) {
        self.logs[log]
            .last()
            .map_or((0, 0), |(at, entry, _)| (*at, *entry))
    }

    /// Appends an entry above `floor`, as `append.lua` does.
    fn append(&mut self, log: usize, entry: u8, floor: u8, far_above: bool) {
        let (tip, previous) = self.tip(log);
        let is_first = !self.logs[1].iter().any(|(_, entry, _)| *entry > 10);
        let far = log == 1 && is_first && far_above;
        let position = tip.max(floor) + 1 + if far { FAR } else { 0 };
        self.logs[log].push((position, entry, previous));
    }

    fn log_of(&self, b: usize) -> usize {
        usize::from(self.brokers[b].moved)
    }

    /// One cycle of broker `b`; a deposed primary has no majority, and renews no view.
    fn beat(&mut self, b: usize, cut: bool, far_above: bool) {
        let log = self.log_of(b);
        for _ in 0..4 {
            if self.brokers[b].repair.is_none() && self.read_on(b) {
                self.brokers[b].repair = Some((self.brokers[b].applied, false));
            }
            let (broker, tip) = (&self.brokers[b], self.tip(log));
            let step = match broker.repair {
                Some(_) => Step::Reappend,
                None => after_heartbeat(
                    at(broker.applied),
                    id(broker.last),
                    (at(tip.0), id(tip.1)),
                    false,
                ),
            };
            match step {
                Step::ReadOn => {}
                Step::Reappend => {
                    if !self.reappend(b, cut, far_above) {
                        return;
                    }
                }
                Step::Renew => {
                    self.brokers[b].fresh = log == 1 || !self.promoted;
                    return;
                }
            }
        }
    }

    /// Applies what is new; answers whether something is missing before it.
    fn read_on(&mut self, b: usize) -> bool {
        let log = self.logs[self.log_of(b)].clone();
        let broker = &mut self.brokers[b];
        let unread = log
            .iter()
            .filter(|(position, ..)| *position > broker.applied);
        let unread: Vec<Entry> = unread.copied().collect();
        if let Some((_, _, previous)) = unread.first()
            && is_gap(at(broker.applied), id(broker.last), id(*previous))
        {
            return true;
        }
        unread.into_iter().for_each(|entry| broker.apply(entry));
        false
    }

    /// Repairs the log; answers whether the repair is over.
    fn reappend(&mut self, b: usize, cut: bool, far_above: bool) -> bool {
        let log = self.log_of(b);
        let (entries, end) = (self.logs[log].clone(), self.tip(log));
        let broker = &mut self.brokers[b];
        broker.fresh = false;
        let (stamped, mut repeats) = broker.repair.unwrap_or((broker.applied, false));
        for entry in &entries {
            let is_new = broker.rule.is_none();
            repeats |= is_new && entry.0 <= stamped && entry.1 >= RULE;
            broker.apply(*entry);
        }
        if cut {
            self.cuts += 1;
            self.brokers[b].repair = Some((stamped, repeats));
            return false;
        }
        if repeats {
            self.append(log, REPEATED, stamped, far_above);
        }
        let floor = 20 + u8::try_from(self.logs[log].len()).expect("few");
        self.append(log, floor, stamped, far_above);
        let broker = &mut self.brokers[b];
        (broker.applied, broker.last, broker.repair) = (end.0, end.1, None);
        true
    }

    /// Whether a broker answers that the task is alive, though it knows the rule.
    fn is_revived(&self, broker: &Broker) -> bool {
        let Task::Stored(stamp) = self.task else {
            return false;
        };
        let counted = if stamp > broker.applied { 0 } else { stamp };
        broker.fresh && broker.rule.is_some_and(|rule| rule <= counted)
    }
}

impl Broker {
    fn apply(&mut self, (position, entry, _): Entry) {
        (self.applied, self.last) = (self.applied.max(position), entry);
        if entry >= RULE {
            self.rule = self.rule.max(Some(position));
        }
    }
}

impl Model for Stamps {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            logs: [vec![(1, 1, 0)], Vec::new()],
            promoted: false,
            brokers: Default::default(),
            task: Task::Undecided,
            asked: false,
            crashes: 0,
            cuts: 0,
            others: [0, 0],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let log = usize::from(state.promoted);
        if state.others[log] < OTHERS {
            actions.push(Action::Other(log));
        }
        for b in 0..2 {
            actions.push(Action::Beat(b, false));
            if state.cuts < self.cuts {
                actions.push(Action::Beat(b, true));
            }
            if state.promoted && !state.brokers[b].moved {
                actions.push(Action::Move(b));
            }
        }
        if !state.promoted {
            actions.extend((1..=state.logs[0].len()).map(Action::Promote));
        }
        match state.task {
            Task::Undecided if state.brokers[0].fresh => actions.push(Action::Decide),
            Task::Decided(_) if state.promoted => actions.push(Action::Store),
            _ => {}
        }
        // The rule covers what was decided before.
        if !state.asked && state.brokers[1].moved && state.task != Task::Undecided {
            actions.push(Action::Ask);
        }
        if state.crashes < self.crashes && matches!(state.task, Task::Stored(_)) {
            actions.push(Action::Crash);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Ask => {
                state.asked = true;
                state.append(1, RULE, state.brokers[1].applied, self.far_above);
            }
            Action::Beat(b, cut) => state.beat(b, cut, self.far_above),
            Action::Crash => {
                state.crashes += 1;
                // The log has what its journal has of the rule.
                state.brokers[0] = Broker {
                    moved: state.brokers[0].moved,
                    ..Broker::default()
                };
            }
            Action::Decide => state.task = Task::Decided(state.brokers[0].applied),
            Action::Move(b) => state.brokers[b].moved = true,
            Action::Other(log) => {
                let name = 2 + u8::try_from(log).expect("two") * 10 + state.others[log];
                state.append(log, name, 0, self.far_above);
                state.others[log] += 1;
            }
            Action::Promote(entries) => {
                state.promoted = true;
                state.logs[1] = state.logs[0][..entries].to_vec();
            }
            Action::Store => {
                if let Task::Decided(stamp) = state.task {
                    state.task = Task::Stored(stamp);
                }
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "who knows the rule takes the task for dead",
                |_, state: &State| !state.brokers.iter().any(|broker| state.is_revived(broker)),
            ),
            Property::sometimes(
                "both brokers answer from the successor and know the rule",
                |_, state: &State| {
                    let knows = |broker: &Broker| broker.fresh && broker.rule.is_some();
                    matches!(state.task, Task::Stored(_)) && state.brokers.iter().all(knows)
                },
            ),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.logs[1].len() <= 9
    }
}

const ALL: Stamps = Stamps {
    crashes: 1,
    cuts: 1,
    far_above: true,
};

#[test]
fn p4_what_a_deposed_primary_stamped_is_below_every_ending_of_its_successor() {
    holds(ALL);
}

/// The first broker repeats the rule above what it has stamped. That is too late for the second
/// one, and never if the first one dies.
#[test]
fn the_model_finds_a_stamp_of_a_deposed_primary_above_an_ending_of_its_successor() {
    breaks(Stamps {
        far_above: false,
        ..ALL
    });
}
