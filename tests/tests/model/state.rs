//! What the model's world is made of: nodes of the store, brokers, and what may happen to them.

use sundew_core::{EntryId, Position};

/// How long a view is fresh, in ticks.
pub(crate) const FRESH: u8 = 2;
/// The one ending; other entries are floors.
pub(crate) const ENDING: u8 = 1;

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

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Node {
    /// Whom it follows; itself if it is a primary.
    pub(crate) follows: u8,
    pub(crate) log: Vec<(u8, u8)>,
    /// What each broker last reported here, if it did.
    pub(crate) reports: Vec<Option<u8>>,
    /// How often it was made a primary: what it calls itself changes with it.
    pub(crate) name: u8,
    /// What is kept with the list of brokers: another one for another list.
    pub(crate) epoch: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Append {
    pub(crate) position: u8,
    /// Ticks until the bound has passed; not counting yet if `None`.
    pub(crate) bound: Option<u8>,
    /// The log is another one since: where the ending is now has to be looked up.
    pub(crate) turned: bool,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Broker {
    pub(crate) up: bool,
    pub(crate) node: u8,
    pub(crate) knows: bool,
    pub(crate) position: u8,
    pub(crate) last: u8,
    pub(crate) fresh: u8,
    pub(crate) closed: u8,
    pub(crate) doubt: u8,
    pub(crate) primary: Option<(u8, u8)>,
    pub(crate) epoch: Option<u8>,
    pub(crate) waiting: Option<Append>,
    pub(crate) journal: bool,
    /// An ending that is still to be appended.
    pub(crate) pending: bool,
    /// Ticks since its last turn; a broker that runs has one before its view is stale.
    pub(crate) idle: u8,
    pub(crate) frozen: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Node>,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) acknowledged: bool,
    pub(crate) crashes: u8,
    pub(crate) failovers: u8,
    pub(crate) deletions: u8,
    pub(crate) freezes: u8,
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

pub(crate) fn id(entry: u8) -> EntryId {
    EntryId([entry; 16])
}

pub(crate) fn at(position: u8) -> Position {
    Position(position.into())
}

impl Node {
    pub(crate) fn tip(&self) -> (u8, u8) {
        self.log.last().copied().unwrap_or((0, 0))
    }

    pub(crate) fn append(&mut self, entry: u8, floor: u8) -> u8 {
        let position = self.tip().0.max(floor) + 1;
        self.log.push((position, entry));
        position
    }
}

impl Broker {
    /// What was waited for counts for nothing.
    pub(crate) fn turn(&mut self, without: Without) {
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
    pub(crate) fn is_primary(&self, node: usize) -> bool {
        usize::from(self.nodes[node].follows) == node
    }

    /// Broker `b` dies; what is in its journal stays.
    pub(crate) fn crash(&mut self, b: usize) {
        self.crashes += 1;
        let Broker { node, journal, .. } = self.brokers[b];
        self.brokers[b] = Broker {
            node,
            journal,
            ..Broker::default()
        };
    }

    /// Broker `b` starts again with what is in its journal.
    pub(crate) fn restart(&mut self, b: usize, without: Without) {
        let Broker { node, journal, .. } = self.brokers[b];
        let back = journal && without != Without::Journal;
        self.brokers[b] = Broker {
            up: true,
            node,
            journal,
            knows: back,
            pending: back,
            closed: FRESH,
            ..Broker::default()
        };
    }

    /// Time passes for everybody.
    pub(crate) fn tick(&mut self, count_idle: bool) {
        for broker in &mut self.brokers {
            broker.fresh = broker.fresh.saturating_sub(1);
            broker.idle = if count_idle {
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
