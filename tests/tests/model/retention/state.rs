//! What the model of retention is made of: the log, brokers, and what may happen to them.

use sundew_core::{Effect, EntryId, Event, FOR_EVER_MS, LogEntry, Position, Selector, View};

/// How long a task lives, and a lift says that it matters after that, in ticks.
pub(super) const LONGEST: u8 = 1;
pub(super) const SLACK: u8 = 1;
/// When the model ends.
pub(super) const END: u8 = 4;
/// The quarantine, its lift, and the first of the entries that say nothing.
pub(super) const QUARANTINE: u8 = 1;
pub(super) const LIFT: u8 = 2;
pub(super) const FLOOR: u8 = 3;

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Broker {
    pub(super) fresh: bool,
    pub(super) applied: (u8, u8),
    /// What the view has: position, entry, and whether it is not from the log.
    pub(super) known: Vec<(u8, u8, bool)>,
    /// The quarantine and the lift, as far as they are in the journal.
    pub(super) journal: [bool; 2],
    /// What is still to be appended.
    pub(super) pending: Vec<u8>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct State {
    pub(super) now: u8,
    /// Position, entry, and the entry before it.
    pub(super) log: Vec<(u8, u8, u8)>,
    pub(super) floors: u8,
    /// When the quarantine was lifted.
    pub(super) lifted_at: Option<u8>,
    pub(super) brokers: [Broker; 2],
    /// The deadline and the stamp of a task that was begun after the lift.
    pub(super) task: Option<(u8, u8)>,
    pub(super) restarts: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Action {
    Append,
    Beat(usize),
    Begin(usize),
    /// A broker forgets, and the log is trimmed or not.
    Forget(usize, bool),
    Lift(usize),
    Restart(usize),
    Tick,
}

pub(super) fn ms(ticks: u8) -> i64 {
    i64::from(ticks) * 1000
}

pub(super) fn name(entry: u8) -> EntryId {
    EntryId([entry; 16])
}

pub(super) fn at(position: u8) -> Position {
    Position(position.into())
}

impl State {
    pub(super) fn entry(&self, entry: u8) -> LogEntry {
        let (event, retain_until_ms) = match entry {
            QUARANTINE => {
                let selector = Box::new(Selector {
                    everything: true,
                    ..Selector::default()
                });
                let effect = Effect::Contain;
                (Event::Rule { selector, effect }, FOR_EVER_MS)
            }
            LIFT => {
                let lifted_at = self.lifted_at.expect("it is there since then");
                let until = lifted_at + LONGEST + SLACK;
                (Event::Lifted(name(QUARANTINE)), ms(until))
            }
            _ => (Event::Floor, ms(0)),
        };
        LogEntry {
            id: name(entry),
            event,
            retain_until_ms,
            document: None,
        }
    }

    pub(super) fn tip(&self) -> (u8, u8) {
        self.log
            .last()
            .map_or((0, 0), |(at, entry, _)| (*at, *entry))
    }

    pub(super) fn append(&mut self, entry: u8, floor: u8) {
        let (position, previous) = self.tip();
        self.log.push((position.max(floor) + 1, entry, previous));
    }

    pub(super) fn append_floor(&mut self, floor: u8) {
        self.append(FLOOR + self.floors, floor);
        self.floors += 1;
    }

    /// The view of broker `b`.
    pub(super) fn view(&self, b: usize) -> View {
        let broker = &self.brokers[b];
        let mut view = View::default();
        for (position, entry, held) in &broker.known {
            if *held {
                view.hold(self.entry(*entry));
            } else {
                view.apply(at(*position), self.entry(*entry));
            }
        }
        view.rewind(at(broker.applied.0), name(broker.applied.1));
        view
    }

    pub(super) fn apply(&mut self, b: usize, position: u8, entry: u8) {
        let broker = &mut self.brokers[b];
        if let Some(journal) = broker.journal.get_mut(usize::from(entry - QUARANTINE)) {
            *journal = true;
        }
        broker.known.retain(|(_, known, _)| *known != entry);
        broker.known.push((position, entry, false));
        broker.known.sort_unstable();
        if position >= broker.applied.0 {
            broker.applied = (position, entry);
        }
    }
}
