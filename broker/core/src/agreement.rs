//! The agreement of all brokers of a store on the bounds that only mean something together (L3,
//! L6).
//!
//! A bound on which one broker relies and which another enforces is no setting of one broker: how
//! long a view is fresh, how far clocks may be apart, how long a task may live, and so how long a
//! rule must stand, and of how many nodes a majority is made. All brokers take these from one
//! document of the store. A broker's own file says how far the broker may go: the most of what
//! weakens with a larger value, and the fewest replicas. A broker takes an agreement within that
//! and answers nothing under one beyond it.
//!
//! An agreement is changed at any moment, by these rules:
//!
//! - A broker whose agreement is not that of the store renews no view and appends nothing. So a
//!   bound holds for every view, and for every rule, that is younger than the change.
//! - A broker stops answering when it takes another agreement, until a heartbeat has reported the
//!   new bound and everything in the log before that heartbeat was applied.
//! - Where the longest task gets shorter, rules are retained for the former one until nothing that
//!   was begun under the former one can be alive.
//! - Where freshness gets shorter, views of others are waited for by the former bound until no such
//!   view can be fresh. Where it gets longer, a view is renewed by the former bound until every node
//!   of the store has heard of the new one from that broker.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::RecordError;
use crate::ttl::Ttl;

/// The form of the stored agreement. A broker that meets a later form says so.
const FORMAT: u32 = 1;
/// How much longer a former bound counts than it holds, in milliseconds: for clocks that differ, and
/// for brokers that have not heard of the change.
const FORMER_SLACK_MS: i64 = 60_000;
/// How long a rule stands after everything that it may kill is over, in milliseconds: for brokers
/// whose clocks differ.
const RULE_SLACK_MS: i64 = 60_000;

/// The bounds, as a configuration names them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct SharedBounds {
    /// How long a view may be asked after it was renewed: `revocation.freshness`.
    pub freshness: Ttl,
    /// How far the clock of a broker may be from that of the store: `revocation.max_clock_skew`.
    pub max_clock_skew: Ttl,
    /// The longest task: `limits.max_task_ttl`.
    pub max_task_ttl: Ttl,
    /// How many replicas each primary has: `store.replicas`.
    pub replicas: u32,
}

impl SharedBounds {
    /// Returns what is wrong with the bounds, one line for each, by the key in the configuration.
    #[must_use]
    pub fn problems(&self) -> Vec<&'static str> {
        let problem = |holds: bool, problem| (!holds).then_some(problem);
        [
            problem(
                (100..=60_000).contains(&self.freshness.as_ms()),
                "revocation.freshness: must be between 100ms and 60s",
            ),
            problem(
                self.max_clock_skew.as_ms() <= 10_000,
                "revocation.max_clock_skew: must be at most 10s",
            ),
            problem(self.replicas <= 10, "store.replicas: must be at most 10"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The longest task of a time before, which counts until `until_ms`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
struct Former {
    max_task_ttl: Ttl,
    until_ms: i64,
}

/// The freshness of a time before, which counts until `until_ms`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
struct FormerFreshness {
    freshness: Ttl,
    until_ms: i64,
}

/// The agreement of all brokers of a store. A version replaces all lower ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Agreement {
    format: u32,
    /// The number of the version. The first one is 1; 0 stands for a store without an agreement.
    pub version: u64,
    /// The bounds that hold now.
    pub bounds: SharedBounds,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former_freshness: Option<FormerFreshness>,
}

/// A bound of the agreement that goes further than the file of a broker allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Beyond {
    /// The key in the configuration.
    pub key: &'static str,
    /// The value that the agreement has.
    pub agreed: String,
    /// The value that the file has.
    pub allowed: String,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            agreed,
            allowed,
        } = self;
        write!(
            f,
            "the brokers of this store have agreed on {key} = {agreed}, and the file of this broker allows {allowed}"
        )
    }
}

impl Agreement {
    /// Makes the first agreement of a store.
    #[must_use]
    pub fn first(bounds: SharedBounds) -> Self {
        Self {
            format: FORMAT,
            version: 1,
            bounds,
            former: None,
            former_freshness: None,
        }
    }

    /// Makes the next version, with other bounds, at `now_ms`, in milliseconds since the epoch.
    #[must_use]
    pub fn changed(&self, bounds: SharedBounds, now_ms: i64) -> Self {
        let longest = self.longest_alive(now_ms);
        let freshness = self.longest_freshness(now_ms);
        let until_ms = |bound: Ttl| {
            now_ms
                .saturating_add(bound.as_ms())
                .saturating_add(FORMER_SLACK_MS)
        };
        Self {
            format: FORMAT,
            version: self.version.saturating_add(1),
            bounds,
            former: (longest > bounds.max_task_ttl).then_some(Former {
                max_task_ttl: longest,
                until_ms: until_ms(longest),
            }),
            former_freshness: (freshness > bounds.freshness).then_some(FormerFreshness {
                freshness,
                until_ms: until_ms(freshness),
            }),
        }
    }

    /// Returns how long a task that is alive at `now_ms` may live after it was begun. A rule of
    /// that moment stands for so long.
    #[must_use]
    pub fn longest_alive(&self, now_ms: i64) -> Ttl {
        let former = self.former.filter(|former| now_ms < former.until_ms);
        former.map_or(self.bounds.max_task_ttl, |former| {
            former.max_task_ttl.max(self.bounds.max_task_ttl)
        })
    }

    /// L3: returns the time until which a rule must stand that is made at `now_ms`, if its targets may
    /// not be known, in milliseconds since the epoch. No task that the rule could cover lives
    /// longer, also if brokers have agreed on longer tasks meanwhile that the file of the rule's
    /// broker, which has `allowed`, allows.
    #[must_use]
    pub fn rule_stands_until_ms(&self, allowed: &SharedBounds, now_ms: i64) -> i64 {
        let longest = self.longest_alive(now_ms).max(allowed.max_task_ttl);
        now_ms
            .saturating_add(longest.as_ms())
            .saturating_add(RULE_SLACK_MS)
    }

    /// Returns whether a task may be alive at `now_ms` that lives longer than `allowed`, which the
    /// file of a broker has. A rule of that broker may then stand too briefly.
    #[must_use]
    pub fn outlives(&self, allowed: &SharedBounds, now_ms: i64) -> bool {
        self.longest_alive(now_ms) > allowed.max_task_ttl
    }

    /// Returns how long a view may still be fresh at `now_ms` that was renewed at that moment at the
    /// latest: after a shorter bound, a broker that has not heard of the change may have a view that
    /// was renewed under the former one.
    #[must_use]
    pub fn longest_freshness(&self, now_ms: i64) -> Ttl {
        let former = self.former_freshness;
        former
            .filter(|former| now_ms < former.until_ms)
            .map_or(self.bounds.freshness, |former| {
                former.freshness.max(self.bounds.freshness)
            })
    }

    /// Returns the bounds that go further than `allowed`, which the file of a broker has.
    #[must_use]
    pub fn beyond(&self, allowed: &SharedBounds) -> Vec<Beyond> {
        let agreed = &self.bounds;
        let ttl = |key, agreed: Ttl, allowed: Ttl| {
            (agreed > allowed).then(|| Beyond {
                key,
                agreed: format!("\"{agreed}\""),
                allowed: format!("at most \"{allowed}\""),
            })
        };
        [
            ttl("revocation.freshness", agreed.freshness, allowed.freshness),
            ttl(
                "revocation.max_clock_skew",
                agreed.max_clock_skew,
                allowed.max_clock_skew,
            ),
            ttl(
                "limits.max_task_ttl",
                agreed.max_task_ttl,
                allowed.max_task_ttl,
            ),
            // A majority that is counted too small is none.
            (agreed.replicas > allowed.replicas).then(|| Beyond {
                key: "store.replicas",
                agreed: agreed.replicas.to_string(),
                allowed: allowed.replicas.to_string(),
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Returns the bytes that the store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`Agreement::encode`] returned.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if the bytes are anything else, or have a form that this version does not
    /// know.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let agreement: Self = serde_json::from_slice(bytes)?;
        if agreement.format > FORMAT {
            return Err(RecordError::Version);
        }
        Ok(agreement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(freshness: &str, max_task_ttl: &str, replicas: u32) -> SharedBounds {
        SharedBounds {
            freshness: Ttl::parse(freshness).unwrap(),
            max_clock_skew: Ttl::HALF_SECOND,
            max_task_ttl: Ttl::parse(max_task_ttl).unwrap(),
            replicas,
        }
    }

    /// L3: the token of a task of half an hour was active again 135 s after its revocation, since
    /// the limit had been lowered to two seconds.
    #[test]
    fn a_rule_stands_for_the_former_longest_task_until_no_such_task_can_be_alive() {
        let before = Agreement::first(bounds("1s", "30m", 0));
        let after = before.changed(bounds("1s", "2s", 0), 1_000_000);
        let half_an_hour = Ttl::parse("30m").unwrap();
        assert_eq!(after.version, 2);
        assert_eq!(after.longest_alive(1_000_000), half_an_hour);
        assert_eq!(after.longest_alive(1_000_000 + 1_800_000), half_an_hour);
        assert_eq!(
            after.longest_alive(1_000_000 + 1_860_000),
            Ttl::parse("2s").unwrap()
        );
    }

    /// L6: a broker that starts has never heard of the view that was renewed under the former bound.
    #[test]
    fn views_of_the_former_freshness_are_waited_for_until_none_can_be_fresh() {
        let before = Agreement::first(bounds("20s", "8h", 0));
        let after = before.changed(bounds("1s", "8h", 0), 1_000_000);
        let (short, long) = (Ttl::SECOND, Ttl::parse("20s").unwrap());
        assert_eq!(after.longest_freshness(1_000_000 + 79_999), long);
        assert_eq!(after.longest_freshness(1_000_000 + 80_000), short);
        let again = after.changed(bounds("2s", "8h", 0), 1_010_000);
        assert_eq!(again.longest_freshness(1_020_000), long);
        let longer = after.changed(bounds("30s", "8h", 0), 1_010_000);
        assert_eq!(longer.longest_freshness(1_020_000), Ttl::HALF_MINUTE);
    }

    #[test]
    fn a_second_change_forgets_no_task_of_the_time_before_the_first() {
        let first = Agreement::first(bounds("1s", "8h", 0));
        let third = first
            .changed(bounds("1s", "1h", 0), 0)
            .changed(bounds("1s", "2h", 0), 1000);
        assert_eq!(third.longest_alive(2000), Ttl::parse("8h").unwrap());
        let longer = third.changed(bounds("1s", "1d", 0), 3000);
        assert_eq!(longer.longest_alive(3000), Ttl::DAY);
    }

    #[test]
    fn a_file_allows_less_of_what_weakens_and_no_smaller_majority() {
        let agreement = Agreement::first(bounds("1s", "8h", 2));
        let keys = |allowed: SharedBounds| -> Vec<_> {
            agreement.beyond(&allowed).iter().map(|b| b.key).collect()
        };
        assert!(keys(bounds("1s", "8h", 2)).is_empty());
        assert!(keys(bounds("2s", "1d", 4)).is_empty());
        assert_eq!(keys(bounds("999ms", "8h", 2)), ["revocation.freshness"]);
        assert_eq!(
            keys(bounds("1s", "7h", 1)),
            ["limits.max_task_ttl", "store.replicas"]
        );
    }

    #[test]
    fn the_stored_form_stays_as_it_is_and_a_later_one_is_refused() {
        let stored = concat!(
            r#"{"format":1,"version":2,"bounds":{"freshness":"1s","max_clock_skew":"500ms","#,
            r#""max_task_ttl":"2s","replicas":1},"former":{"max_task_ttl":"30m","#,
            r#""until_ms":1861000}}"#
        );
        let before = Agreement::first(bounds("1s", "30m", 1));
        let after = before.changed(bounds("1s", "2s", 1), 1000);
        assert_eq!(String::from_utf8(after.encode()).unwrap(), stored);
        assert_eq!(Agreement::decode(stored.as_bytes()).unwrap(), after);
        let later = stored.replace(r#""format":1"#, r#""format":2"#);
        assert!(matches!(
            Agreement::decode(later.as_bytes()),
            Err(RecordError::Version)
        ));
    }
}
