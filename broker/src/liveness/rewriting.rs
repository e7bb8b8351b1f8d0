//! What the log has under another root key than the active one, and writing it anew.

use std::collections::HashSet;

use sundew_core::store::StoreError;
use sundew_core::{EntryId, Event, FOR_EVER_MS, LogEntry, Position};

use super::agreement::{AgreementError, read_by, write};
use super::repair::each_entry;
use super::revocation_log::{AppendError, RETAIN_AFTER_END_MS, RevocationLog, entry_place};
use crate::clock;

/// The entries of the log that are not under the active root key.
#[derive(Default)]
pub(crate) struct OtherEntries {
    /// Those that stand for ever, which are the last versions of documents, quarantines and lifts, and
    /// the rules about SVIDs, which stand as long as an SVID may live.
    pub(crate) standing: Vec<(Position, LogEntry)>,
    /// The number of those that leave the log by themselves.
    pub(crate) passing: u64,
    /// When the last of these leaves it, in milliseconds since the epoch.
    pub(crate) until_ms: i64,
    /// The number of those that are under none of the keys.
    pub(crate) unreadable: u64,
    /// The names of the entries that are under the active key.
    current: HashSet<EntryId>,
}

/// Whether an entry is a rule that stands longer than a task may live.
fn outlives_tasks(entry: &LogEntry) -> bool {
    matches!(&entry.event, Event::Rule { selector, .. } if selector.is_about_svids())
}

impl RevocationLog {
    /// Reads the whole log, for entries that are not under the active root key.
    pub(crate) async fn other_entries(&self) -> Result<OtherEntries, StoreError> {
        let mut stored = Vec::new();
        each_entry(self.store.as_ref(), |entry| stored.push(entry)).await?;
        let (mut other, view) = (OtherEntries::default(), self.read());
        let now_ms = clock::now_ms();
        for stored in stored {
            let opened = self.root.untag_by(&entry_place(&stored.id), &stored.bytes);
            let opened = opened
                .ok()
                .and_then(|(bytes, key)| Some((LogEntry::decode(bytes).ok()?, key)));
            match opened {
                Some((_, key)) if key == self.root.active() => {
                    other.current.insert(stored.id);
                }
                Some((entry, _)) => {
                    let until_ms = view.matters_until_ms(&entry);
                    if until_ms >= FOR_EVER_MS || outlives_tasks(&entry) && until_ms > now_ms {
                        other.standing.push((stored.position, entry));
                    } else {
                        other.passing = other.passing.saturating_add(1);
                        let leaves_ms = until_ms.saturating_add(RETAIN_AFTER_END_MS);
                        other.until_ms = other.until_ms.max(leaves_ms);
                    }
                }
                None => other.unreadable = other.unreadable.saturating_add(1),
            }
        }
        Ok(other)
    }

    /// Appends once more, under the active root key, the entries that would stand under another one
    /// after all tasks of today are over, and then drops them from where they were. It may be
    /// repeated.
    ///
    /// The position of such an entry means nothing: what a version or a lift says is the same wherever
    /// it stands, while a quarantine stands nothing is issued that it would kill at a later position,
    /// and a rule about what SVIDs were given for names the time before which. Only a rule about a
    /// serial number is put in force once more: who goes on with such an SVID begins anew.
    pub(crate) async fn rewrite_entries(&self, other: OtherEntries) -> Result<(), AppendError> {
        if other.standing.is_empty() && other.passing == 0 {
            return Ok(());
        }
        // The last entry of a log never leaves it, so that another one must be the last.
        let until_ms = clock::now_ms().saturating_add(RETAIN_AFTER_END_MS);
        let mut entries = vec![Self::entry(Event::Floor, until_ms)?];
        let (mut positions, current) = (Vec::new(), other.current);
        for (position, entry) in other.standing {
            positions.push(position);
            if !current.contains(&entry.id) {
                entries.push(entry);
            }
        }
        self.append_all(entries).await?;
        let before_ms = self
            .forgetting_time_ms()
            .saturating_sub(RETAIN_AFTER_END_MS);
        Ok(self.store.trim_log(before_ms, &positions).await?)
    }

    /// Returns whether the agreement is under another root key than the active one; with `write`,
    /// writes it anew, unless somebody changes it meanwhile.
    pub(crate) async fn is_other_agreement(
        &self,
        write_anew: bool,
    ) -> Result<bool, AgreementError> {
        let (store, root) = (self.store.as_ref(), &self.root);
        let agreed = read_by(store, root).await?;
        let Some((agreement, _)) = agreed.filter(|(_, key)| *key != root.active()) else {
            return Ok(false);
        };
        if write_anew {
            write(store, root, agreement.version, &agreement).await?;
        }
        Ok(true)
    }
}
