//! Rotating the root key: writing anew what is under a former key, and saying what is left.
//!
//! What would stay for ever is written anew: documents with their versions, the keys of the broker,
//! the agreement, and the entries of the log that stand for ever. What belongs to a task ends with
//! its task, and other endings and rules leave the log by themselves. P4: nothing here changes what
//! anything says.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use sundew_core::TaskId;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use crate::journal;
use crate::lease::{Leases, OtherLeases};
use crate::ledger::Ledger;
use crate::liveness::{OtherEntries, RootKeyNames};
use crate::refusal::Refusal;
use crate::role::{Registrar, Unbounded};

/// Why something cannot be written anew.
const UNREADABLE: &str = "under none of the keys, or altered";
/// The most examples that are told of a kind.
const MAX_NAMES: usize = 8;

/// The room of root keys.
pub(crate) struct RootKeys {
    ledger: Ledger,
    leases: Arc<Leases>,
}

impl RootKeys {
    /// The room over these leases.
    pub(crate) fn new(ledger: Ledger, leases: Arc<Leases>) -> Self {
        Self { ledger, leases }
    }

    /// Writes everything anew that is under another key and would stay, and answers what is left.
    pub(crate) async fn rewrite(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        request: v1::RewriteUnderRootKeyRequest,
    ) -> Result<v1::RewriteUnderRootKeyResponse, Refusal> {
        let active = self.ledger.root().active().to_string();
        let brokers = self.brokers().await?;
        let mut rewritten = 0;
        if !request.check {
            if let Some(other) = brokers.iter().find(|keys| keys.active != active) {
                return Err(differs(other, &active));
            }
            let record = journal::record("root_key_rewriting")
                .with("actor", operator.id())
                .with("root_key", &active);
            self.ledger.journal.write(record).await?;
            rewritten = self.write_anew().await?;
        }
        Ok(v1::RewriteUnderRootKeyResponse {
            active,
            brokers,
            rewritten,
            left: self.left().await?,
        })
    }

    /// The keys of each broker on the list, and of this one.
    async fn brokers(&self) -> Result<Vec<v1::BrokerRootKeys>, Refusal> {
        let log = &self.ledger.log;
        let mut all = log.about_all().await?;
        // A broker that has its store to itself is on no list.
        if all.is_empty() {
            all.push((
                log.broker().to_owned(),
                serde_json::from_str(&log.about()).ok(),
            ));
        }
        let message = |(broker, keys): (String, Option<RootKeyNames>)| {
            let (active, others) = keys
                .map(|keys| (keys.active, keys.others))
                .unwrap_or_default();
            v1::BrokerRootKeys {
                broker,
                active,
                others,
            }
        };
        let keys = all
            .into_iter()
            .map(|(broker, about)| (broker, about.and_then(|about| about.root_keys)));
        Ok(keys.map(message).collect())
    }

    /// Writes everything anew that would stay; answers how many things. The agreement is the last:
    /// a broker without the active key then does not start any more.
    async fn write_anew(&self) -> Result<u64, Refusal> {
        let Ledger { records, log, .. } = &self.ledger;
        let mut count = 0_usize;
        for kind in DocumentKind::ALL {
            let other = records.other_documents(kind, true).await?;
            count = count.saturating_add(other.names.len());
        }
        let other = log.other_entries().await?;
        count = count.saturating_add(other.standing.len());
        log.rewrite_entries(other).await?;
        count = count.saturating_add(usize::from(log.is_other_agreement(true).await?));
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// What is under another key at this moment.
    async fn left(&self) -> Result<Vec<v1::UnderOtherRootKey>, Refusal> {
        let Ledger { records, log, .. } = &self.ledger;
        let mut left = Vec::new();
        if log.is_other_agreement(false).await? {
            left.push(of("agreement", 1));
        }
        for kind in DocumentKind::ALL {
            let name = |name: &String| format!("{} {name}", kind.as_str());
            let other = records.other_documents(kind, false).await?;
            let mut unreadable = of("document", other.unreadable.len());
            unreadable.problem = UNREADABLE.to_owned();
            let documents = of("document", other.names.len());
            for (mut row, names) in [(documents, &other.names), (unreadable, &other.unreadable)] {
                row.names = names.iter().take(MAX_NAMES).map(name).collect();
                left.push(row);
            }
        }
        left.extend(entries(&log.other_entries().await?));
        let tasks = records.other_tasks().await?;
        let examples = |tasks: &BTreeSet<TaskId>| {
            let names = tasks.iter().take(MAX_NAMES).map(TaskId::to_string);
            names.collect()
        };
        left.push(v1::UnderOtherRootKey {
            until_ms: tasks.until_ms,
            names: examples(&tasks.found),
            ..of("task", tasks.found.len())
        });
        left.push(v1::UnderOtherRootKey {
            names: examples(&tasks.unreadable),
            problem: UNREADABLE.to_owned(),
            ..of("task", tasks.unreadable.len())
        });
        left.extend(
            self.leases
                .under_other_keys()
                .await?
                .into_iter()
                .flat_map(of_engine),
        );
        left.retain(|row| row.count > 0 || !row.problem.is_empty() && row.kind == AT_TARGET);
        Ok(left)
    }
}

/// The refusal while a broker writes under another key than this one.
fn differs(other: &v1::BrokerRootKeys, active: &str) -> Refusal {
    let key = if other.active.is_empty() {
        "a key that it does not tell, since it is of an older version"
    } else {
        &other.active
    };
    let broker = &other.broker;
    Refusal::invalid(
        "root_key",
        format!(
            "broker {broker} writes under {key}, and this one under {active}: give all brokers the \
             same keys.root_key_file first"
        ),
    )
}

/// What credentials at a target are called that may be there without a lease.
const AT_TARGET: &str = "name at a target";

fn of(kind: &str, count: usize) -> v1::UnderOtherRootKey {
    v1::UnderOtherRootKey {
        kind: kind.to_owned(),
        count: u64::try_from(count).unwrap_or(u64::MAX),
        ..v1::UnderOtherRootKey::default()
    }
}

fn entries(other: &OtherEntries) -> [v1::UnderOtherRootKey; 3] {
    let passing = v1::UnderOtherRootKey {
        count: other.passing,
        until_ms: other.until_ms,
        ..of("entry", 0)
    };
    let unreadable = v1::UnderOtherRootKey {
        count: other.unreadable,
        problem: UNREADABLE.to_owned(),
        ..of("entry", 0)
    };
    [of("entry", other.standing.len()), passing, unreadable]
}

fn of_engine(other: OtherLeases) -> [v1::UnderOtherRootKey; 2] {
    let names = vec![other.engine];
    let (count, problem) = match other.at_target {
        Ok(count) => (count, String::new()),
        Err(problem) => (0, problem),
    };
    let leases = v1::UnderOtherRootKey {
        names: names.clone(),
        ..of("lease", other.leases)
    };
    let at_target = v1::UnderOtherRootKey {
        names,
        problem,
        ..of(AT_TARGET, count)
    };
    [leases, at_target]
}
