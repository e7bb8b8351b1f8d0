//! Vouchers: what a broker that comes to the log hears from those that were there (P4).
//!
//! Entries leave the log when their time is over, so a hole in it is nothing strange to a broker that
//! starts, or that was away. Whoever writes the store could make such a hole, and put back what the
//! entries had ended. But an ending that was acknowledged is known to every broker that had a fresh
//! view then. So a broker that starts, that finds the log torn, or for which nobody waited any more asks
//! the others before it renews its view: it puts an arrival into the store, and each of the others writes
//! a voucher for it, which has the names of all entries that may still matter. The view is fresh once
//! the broker knows every one of them: of one voucher by a broker whose own view was fresh, or else of
//! those of all brokers on the list. A voucher says nothing of what came after it: when the log is torn
//! again, the broker asks again.
//!
//! Both are tagged under the root key, and a voucher names the arrival that it is for, which is
//! random: none can be made, moved or used again. Whoever takes them away keeps the broker from
//! answering, and nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sundew_core::store::StoreError;
use sundew_core::{DocumentVersion, EntryId, Position, View};

use super::follower::LogFollower;
use super::revocation_log::{RevocationLog, lock};
use crate::clock;

/// Why a view is not fresh that is up to date with the log.
const UNVOUCHED: &str = "no other broker has said yet that the log has everything";
/// After so many freshness bounds without enough vouchers, a broker asks again.
const ASKED_AGAIN_AFTER_BOUNDS: u32 = 10;
/// The most arrivals whose vouchers are remembered.
const MAX_VOUCHED: usize = 1024;

/// What a follower knows of arrivals.
#[derive(Default)]
pub(super) struct Vouching {
    /// This broker's arrival, as long as nobody has vouched for the log.
    arrival: Option<(Arrival, Instant)>,
    /// Whether a voucher is needed before the view is renewed again.
    is_due: bool,
    /// The arrivals of others for which this broker has vouched.
    vouched: HashSet<String>,
    /// Why the view must not be fresh.
    pub(super) reason: Option<&'static str>,
}

impl Vouching {
    /// What a broker knows that has just come to the log.
    pub(super) fn due() -> Self {
        Self {
            is_due: true,
            ..Self::default()
        }
    }

    /// Needs a voucher. What was said to an earlier arrival says nothing of what has come since.
    fn need(&mut self) {
        (self.is_due, self.arrival) = (true, None);
    }
}

/// What a broker asks the others with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Arrival {
    /// A random name.
    name: String,
    /// Whether the log lacked something that a voucher named: the others look for it.
    lacks: bool,
}

/// What a broker says to an arrival.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Voucher {
    /// The name of the arrival.
    arrival: String,
    /// Whether the giver's view was fresh.
    is_fresh: bool,
    /// How far the giver had read.
    applied: Position,
    /// The names of entries that may still matter, one after another, in base64.
    entries: String,
    /// The newest statements about documents.
    documents: Vec<DocumentVersion>,
}

impl Voucher {
    /// Vouches for everything that the view has of the log and that may matter.
    fn new(arrival: String, view: &View, is_fresh: bool, now_ms: i64) -> Self {
        let (mut entries, mut documents) = (Vec::new(), Vec::new());
        for entry in view.missing_from(&HashSet::new()) {
            if !view.is_in_log(&entry.id) || !view.matters(&entry, now_ms) {
                continue;
            }
            match entry.document {
                Some(statement) => documents.push(statement),
                None => entries.extend(entry.id.0),
            }
        }
        Self {
            arrival,
            is_fresh,
            applied: view.applied().0,
            entries: STANDARD.encode(entries),
            documents,
        }
    }

    /// Whether a view has everything that the giver knew. A later statement about a document is as good.
    fn is_known_to(&self, view: &View) -> bool {
        let Ok(entries) = STANDARD.decode(&self.entries) else {
            return false;
        };
        let (entries, rest) = entries.as_chunks();
        let is_at_least = |said: &DocumentVersion| {
            let known = view.document(said.kind, &said.name);
            known.is_some_and(|(known, _)| known.says_the_same(said) || known.supersedes(said))
        };
        rest.is_empty()
            && entries.iter().all(|id| view.knows(&EntryId(*id)))
            && self.documents.iter().all(is_at_least)
    }
}

/// The place of an arrival, for its tag.
fn arrival_place(broker: &str) -> [&[u8]; 2] {
    [b"arrival", broker.as_bytes()]
}

/// The place of a voucher, for its tag.
fn voucher_place<'a>(arriving: &'a str, giver: &'a str) -> [&'a [u8]; 3] {
    [b"voucher", arriving.as_bytes(), giver.as_bytes()]
}

impl LogFollower {
    /// Lets this broker ask the others before its view is renewed again, and anew if it has asked.
    pub(super) fn need_voucher(&self) {
        lock(&self.vouching).need();
    }

    /// Lets this broker ask the others, unless it does so already, since nobody waited for it any more.
    /// That is so at each look until the view is renewed.
    pub(super) fn was_forgotten(&self) {
        let mut vouching = lock(&self.vouching);
        if !vouching.is_due {
            vouching.need();
        }
    }

    /// Returns why the view must not be fresh though it has everything that the log has; nothing if it
    /// may. `others` are the brokers that may have a view.
    pub(super) async fn is_unvouched(
        &self,
        others: &HashSet<String>,
    ) -> Result<Option<&'static str>, StoreError> {
        let (arrival, is_due) = {
            let vouching = lock(&self.vouching);
            (vouching.arrival.clone(), vouching.is_due)
        };
        if !is_due || self.log.beside_older_brokers() {
            return Ok(None);
        }
        if others.is_empty() {
            self.vouched_for().await?;
            return Ok(None);
        }
        let Some((arrival, since)) = arrival else {
            self.arrive(false).await?;
            return Ok(Some(UNVOUCHED));
        };
        let waited = clock::since(since);
        // The arrival or its vouchers may be lost: neither is on a majority.
        if waited > self.longest_freshness() * ASKED_AGAIN_AFTER_BOUNDS {
            self.arrive(arrival.lacks).await?;
            return Ok(Some(UNVOUCHED));
        }
        let vouchers = self.vouchers_for(&arrival.name).await?;
        let (applied, _) = self.log.read().applied();
        let by_a_fresh_one = vouchers.values().any(|voucher| voucher.is_fresh);
        let by_all = others.iter().all(|other| vouchers.contains_key(other));
        if !by_a_fresh_one && !by_all || vouchers.values().any(|voucher| voucher.applied > applied)
        {
            return Ok(Some(UNVOUCHED));
        }
        let is_known = {
            let view = self.log.read();
            vouchers.values().all(|voucher| voucher.is_known_to(&view))
        };
        if is_known {
            self.vouched_for().await?;
            return Ok(None);
        }
        // Not more often, since each of the others reads the whole log then.
        if !arrival.lacks || waited > self.log.freshness() {
            tracing::error!(
                "the revocation log lacks what other brokers know; waiting until they have put it back"
            );
            self.arrive(true).await?;
        }
        Ok(Some(UNVOUCHED))
    }

    /// Asks the other brokers, with a new arrival.
    async fn arrive(&self, lacks: bool) -> Result<(), StoreError> {
        let log = &self.log;
        let mut name = [0; 16];
        let random = SystemRandom::new().fill(&mut name);
        random.map_err(|_| StoreError::Unavailable("no randomness".to_owned()))?;
        let name = STANDARD.encode(name);
        let arrival = Arrival { name, lacks };
        let bytes = serde_json::to_vec(&arrival).unwrap_or_default();
        let tagged = log.root.tag(&arrival_place(&log.broker), bytes);
        log.store.announce(&log.broker, Some(&tagged)).await?;
        lock(&self.vouching).arrival = Some((arrival, clock::monotonic()));
        Ok(())
    }

    async fn vouched_for(&self) -> Result<(), StoreError> {
        let had_asked = {
            let mut vouching = lock(&self.vouching);
            vouching.is_due = false;
            vouching.arrival.take().is_some()
        };
        if had_asked {
            self.log.store.announce(&self.log.broker, None).await?;
        }
        Ok(())
    }

    /// The vouchers for an arrival of this broker, by the names of their givers.
    async fn vouchers_for(&self, arrival: &str) -> Result<HashMap<String, Voucher>, StoreError> {
        let log = &self.log;
        let written = log.store.vouchers(&log.broker).await?;
        let opened = written.into_iter().filter_map(|(giver, bytes)| {
            let place = voucher_place(&log.broker, &giver);
            let bytes = log.root.untag(&place, &bytes).ok()?;
            let voucher: Voucher = serde_json::from_slice(bytes).ok()?;
            (voucher.arrival == arrival).then_some((giver, voucher))
        });
        Ok(opened.collect())
    }

    /// Vouches for the log to brokers that have arrived, once to each arrival. Where one lacks
    /// something, the log is read from its beginning, and what it has lost is put back.
    pub(super) async fn vouch(
        &self,
        arrivals: &[(String, Vec<u8>)],
        is_fresh: bool,
    ) -> Result<(), StoreError> {
        let log = &self.log;
        for (broker, bytes) in arrivals.iter().filter(|(broker, _)| *broker != log.broker) {
            let arrival = log.root.untag(&arrival_place(broker), bytes).ok();
            let arrival = arrival.and_then(|bytes| serde_json::from_slice::<Arrival>(bytes).ok());
            let Some(arrival) = arrival.filter(|arrival| self.is_new(&arrival.name)) else {
                continue;
            };
            if arrival.lacks {
                self.unverified.store(true, Ordering::Relaxed);
            }
            let now_ms = log.forgetting_time_ms();
            let voucher = Voucher::new(arrival.name, &log.read(), is_fresh, now_ms);
            let bytes = serde_json::to_vec(&voucher).unwrap_or_default();
            let tagged = log.root.tag(&voucher_place(broker, &log.broker), bytes);
            log.store.vouch(broker, &log.broker, &tagged).await?;
        }
        Ok(())
    }

    /// Notes an arrival; answers whether it was not known.
    fn is_new(&self, arrival: &str) -> bool {
        let vouched = &mut lock(&self.vouching).vouched;
        if vouched.len() >= MAX_VOUCHED {
            vouched.clear();
        }
        vouched.insert(arrival.to_owned())
    }
}

impl RevocationLog {
    /// Whether brokers may be on the list that vouch for nothing, since they are older.
    fn beside_older_brokers(&self) -> bool {
        self.beside_older_brokers.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P4: the log was torn while vouchers were waited for. What others knew before that is not what
    /// they know now.
    #[test]
    fn p4_no_voucher_from_before_the_log_was_torn_again_counts() {
        let mut vouching = Vouching::due();
        let name = "first".to_owned();
        vouching.arrival = Some((Arrival { name, lacks: false }, clock::monotonic()));
        vouching.need();
        assert!(vouching.is_due && vouching.arrival.is_none());
    }
}
