//! One cycle of a broker that follows the log: read on, send a heartbeat, compare, repair; then what
//! waits may be committed.

use sundew_core::Position;
use sundew_core::protocol::{
    CommitState, Step, after_heartbeat, is_committed, is_gap, replicas_for_majority,
};

use crate::state::{Append, ENDING, FRESH, State, Without, at, id};

impl State {
    /// One cycle of broker `b`, whose heartbeat the replicas in `acknowledge` acknowledge.
    pub(crate) fn beat(&mut self, b: usize, acknowledge: &[usize], without: Without) {
        let node = usize::from(self.brokers[b].node);
        for _ in 0..4 {
            let lost = self.read_on(b, without);
            let (position, last) = (self.brokers[b].position, self.brokers[b].last);
            if !self.report(b, acknowledge, without) {
                return;
            }
            let emptied = self.notice_changes(b, without);
            let tip = self.nodes[node].tip();
            let step = if lost {
                Step::Reappend
            } else {
                after_heartbeat(at(position), id(last), (at(tip.0), id(tip.1)), emptied)
            };
            match step {
                Step::ReadOn => continue,
                Step::Reappend => {
                    self.reappend(b, position, tip, without);
                    continue;
                }
                Step::Renew => {}
            }
            if self.append_pending(b, position) {
                continue;
            }
            let broker = &mut self.brokers[b];
            // What was read before a pause was over may miss what others append again in it.
            if broker.closed == 0 || without == Without::RenewalAfterPause {
                broker.fresh = FRESH;
            }
            self.commit(b, acknowledge, without);
            return;
        }
    }

    /// Applies what the broker's primary has; answers whether entries are missing before it.
    fn read_on(&mut self, b: usize, without: Without) -> bool {
        let broker = &mut self.brokers[b];
        let log = &self.nodes[usize::from(broker.node)].log;
        let unread = log.iter().filter(|(at, _)| *at > broker.position);
        let unread: Vec<(u8, u8)> = unread.copied().collect();
        if let Some((position, _)) = unread.first() {
            let before = log.iter().rfind(|(p, _)| p < position);
            let before = before.map_or(0, |(_, entry)| *entry);
            if is_gap(at(broker.position), id(broker.last), id(before)) {
                return true;
            }
        }
        for (position, entry) in unread {
            (broker.position, broker.last) = (position, entry);
            // What it applies, it puts into its own journal before it says so.
            broker.knows |= entry == ENDING;
            broker.journal |= entry == ENDING && without != Without::ForeignJournal;
        }
        false
    }

    /// Writes the heartbeat; answers whether enough replicas acknowledged it.
    fn report(&mut self, b: usize, acknowledge: &[usize], without: Without) -> bool {
        let broker = &self.brokers[b];
        let node = usize::from(broker.node);
        let is_here = self.nodes[node]
            .log
            .contains(&(broker.position, broker.last));
        self.nodes[node].reports[b] = Some(if is_here { broker.position } else { 0 });
        let primary = self.nodes[node].clone();
        for replica in acknowledge {
            let replica = &mut self.nodes[*replica];
            let (follows, name) = (replica.follows, replica.name);
            *replica = primary.clone();
            (replica.follows, replica.name) = (follows, name);
        }
        let needed = if without == Without::Majority {
            0
        } else {
            replicas_for_majority(u32::try_from(self.nodes.len() - 1).expect("few"))
        };
        u32::try_from(acknowledge.len()).expect("few") >= needed
    }

    /// Notices another primary, and another list of brokers; answers whether there is another list.
    fn notice_changes(&mut self, b: usize, without: Without) -> bool {
        let broker = &mut self.brokers[b];
        let primary = &self.nodes[usize::from(broker.node)];
        let name = (broker.node, primary.name);
        if broker.primary.replace(name) != Some(name) {
            if without != Without::PauseAfterFailover {
                broker.closed = broker.closed.max(FRESH);
            }
            if without != Without::DoubtInPeers {
                broker.doubt = 2 * FRESH;
            }
            broker.turn(without);
        }
        let before = broker.epoch.replace(primary.epoch);
        let emptied = before.is_some_and(|epoch| epoch != primary.epoch);
        if emptied && without != Without::DoubtAfterLoss {
            broker.doubt = broker.doubt.max(FRESH);
        }
        emptied
    }

    /// Appends again what the store has lost, above every position that tokens may be stamped with.
    fn reappend(&mut self, b: usize, position: u8, tip: (u8, u8), without: Without) {
        let broker = &mut self.brokers[b];
        let node = &mut self.nodes[usize::from(broker.node)];
        let has = node.log.iter().any(|(_, entry)| *entry == ENDING);
        if broker.knows && !has && without != Without::Reassertion {
            node.append(ENDING, position);
        }
        broker.knows |= has;
        broker.turn(without);
        if without != Without::PauseAfterLoss {
            broker.closed = broker.closed.max(FRESH);
        }
        node.append(10 + tip.0, position);
        (broker.position, broker.last) = tip;
    }

    /// Appends what is still to be appended; answers whether there was anything.
    fn append_pending(&mut self, b: usize, position: u8) -> bool {
        let broker = &mut self.brokers[b];
        let node = &mut self.nodes[usize::from(broker.node)];
        let missing = !node.log.iter().any(|(_, entry)| *entry == ENDING);
        if std::mem::take(&mut broker.pending) && missing {
            node.append(ENDING, position);
            return true;
        }
        false
    }

    /// Acknowledges the ending that waits, if it is committed now.
    fn commit(&mut self, b: usize, acknowledged_by: &[usize], without: Without) {
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
