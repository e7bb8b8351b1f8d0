//! Caches (L4): a broker keeps what it has read of a document, and forgets it when the log says that
//! the document changed. Such entries leave the log after a while, also while the broker is away.

use stateright::{Model, Property};
use sundew_core::protocol::{Step, after_heartbeat, is_beginning_missing, is_gap};
use sundew_core::{EntryId, Position};

use crate::explore::{breaks, holds};

/// How long a view is fresh, and how long the log keeps a change at least, in ticks.
const FRESH: u8 = 1;
const RETAINED: u8 = 2;
/// The entry that says that the document changed. Other entries have higher numbers.
const CHANGED: u8 = 1;

/// A precaution that a run leaves out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    Nothing,
    /// After a gap in the log, what was cached stays.
    Gaps,
    /// What is missing before the first entry that a broker ever reads is no gap to its caches.
    Beginning,
    /// What was read is cached though the document changed while it was read.
    Generations,
}

#[derive(Clone, Debug)]
struct Caches {
    /// The log has an entry already when the broker starts.
    begun: bool,
    without: Without,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Entry {
    position: u8,
    id: u8,
    previous: u8,
    /// Ticks after which the log may drop the entry.
    left: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    /// The version of the document: 0, and then 1.
    document: u8,
    log: Vec<Entry>,
    appended: u8,
    /// Ticks until the change is acknowledged at the latest; `None` before it is in the log.
    wait: Option<u8>,
    acknowledged: bool,
    applied: (u8, u8),
    fresh: u8,
    cached: Option<u8>,
    /// A read that is under way: what it found, and whether that may be cached.
    reading: Option<(u8, bool)>,
    gaps: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Action {
    Announce,
    Append,
    Beat,
    Cache,
    Read,
    Tick,
    Trim,
    Write,
}

fn name(entry: u8) -> EntryId {
    EntryId([entry; 16])
}

fn at(position: u8) -> Position {
    Position(position.into())
}

impl State {
    fn append(&mut self, id: u8, left: u8) {
        let before = self.log.last();
        let (position, previous) = before.map_or((1, 0), |last| (last.position + 1, last.id));
        self.log.push(Entry {
            position,
            id,
            previous,
            left,
        });
    }

    fn forget(&mut self, without: Without) {
        self.cached = None;
        if without != Without::Generations {
            self.reading = self.reading.map(|(found, _)| (found, false));
        }
    }

    /// One cycle of the broker.
    fn beat(&mut self, without: Without) {
        loop {
            let (applied, last) = self.applied;
            let unread = self.log.iter().find(|entry| entry.position > applied);
            if let Some(first) = unread {
                let previous = name(first.previous);
                let gap = is_gap(at(applied), name(last), previous);
                if (gap && without != Without::Gaps)
                    || (is_beginning_missing(at(applied), previous)
                        && without != Without::Beginning)
                {
                    self.gaps = 1;
                    self.forget(without);
                }
                let is_change = |entry: &Entry| entry.position > applied && entry.id == CHANGED;
                if self.log.iter().any(is_change) {
                    self.forget(without);
                }
                self.applied = self.tip();
            }
            let (applied, tip) = (self.applied, self.tip());
            let tip = (at(tip.0), name(tip.1));
            match after_heartbeat(at(applied.0), name(applied.1), tip, false) {
                Step::Renew => break,
                Step::ReadOn | Step::Reappend => {}
            }
        }
        self.fresh = FRESH;
        self.acknowledged |= self.wait.is_some();
    }

    fn tip(&self) -> (u8, u8) {
        self.log
            .last()
            .map_or((0, 0), |last| (last.position, last.id))
    }
}

impl Model for Caches {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            document: 0,
            log: Vec::new(),
            appended: 0,
            wait: None,
            acknowledged: false,
            applied: (0, 0),
            fresh: 0,
            cached: None,
            reading: None,
            gaps: 0,
        };
        if self.begun {
            state.append(CHANGED + 1, 0);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Beat, Action::Tick, Action::Trim]);
        if state.document == 0 {
            actions.push(Action::Write);
        } else if state.wait.is_none() {
            actions.push(Action::Announce);
        }
        if state.appended < 2 {
            actions.push(Action::Append);
        }
        if state.reading.is_some() {
            actions.push(Action::Cache);
        } else if state.fresh > 0 && state.cached.is_none() {
            actions.push(Action::Read);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Announce => {
                state.append(CHANGED, RETAINED);
                state.wait = Some(FRESH);
            }
            Action::Append => {
                state.appended += 1;
                state.append(CHANGED + 1 + state.appended, RETAINED);
            }
            Action::Beat => state.beat(self.without),
            Action::Cache => {
                if let Some((found, true)) = state.reading.take() {
                    state.cached = Some(found);
                }
            }
            Action::Read => state.reading = Some((state.document, true)),
            Action::Tick => {
                state.fresh = state.fresh.saturating_sub(1);
                state.acknowledged |= state.wait == Some(0);
                state.wait = state.wait.map(|left| left.saturating_sub(1));
                for entry in &mut state.log {
                    entry.left = entry.left.saturating_sub(1);
                }
            }
            Action::Trim => {
                let tip = state.tip().0;
                state.log.retain(|e| e.left > 0 || e.position == tip);
            }
            Action::Write => state.document = 1,
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "what changed is not answered from a cache after the change was acknowledged",
                |_, state: &State| {
                    !(state.acknowledged && state.fresh > 0 && state.cached == Some(0))
                },
            ),
            Property::sometimes(
                "the entry is gone before the broker has read it",
                |_, state: &State| {
                    let is_there = state.log.iter().any(|entry| entry.id == CHANGED);
                    state.wait.is_some() && !is_there && state.gaps > 0 && state.fresh > 0
                },
            ),
            Property::sometimes("the new document is cached", |_, state: &State| {
                state.acknowledged && state.cached == Some(1)
            }),
        ]
    }
}

const BEGUN: Caches = Caches {
    begun: true,
    without: Without::Nothing,
};
const EMPTY: Caches = Caches {
    begun: false,
    ..BEGUN
};

#[test]
fn l4_nothing_that_changed_is_answered_from_a_cache() {
    holds(BEGUN);
    holds(EMPTY);
}

#[test]
fn the_model_finds_l4_a_broker_that_was_away_and_keeps_its_caches() {
    breaks(Caches {
        without: Without::Gaps,
        ..BEGUN
    });
}

#[test]
fn the_model_finds_l4_a_broker_whose_log_was_empty_before_it_was_away() {
    breaks(Caches {
        without: Without::Beginning,
        ..EMPTY
    });
}

#[test]
fn the_model_finds_a_read_that_was_overtaken_by_a_change() {
    breaks(Caches {
        without: Without::Generations,
        ..BEGUN
    });
}
