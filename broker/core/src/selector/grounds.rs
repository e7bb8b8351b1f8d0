//! What an SVID of the embedded CA rests on, as rules find it.
//!
//! A certificate has room for a few short marks. One is on every SVID, and another says by which way it
//! was given. Each of the rest stands for a claim of the evidence that it was given for: two claims
//! with one mark are taken back together.

use sundew_attestation::spiffe::SpiffeId;

use super::Selector;
use crate::id::TaskId;

/// The most marks of the evidence of one SVID.
const MAX_MARKS: usize = 6;
/// What stands before a mark in a claim.
const CLAIM: &str = "svid.on=";
/// The mark of every SVID that a CA gives to a workload.
const GIVEN: &str = "given";
/// The mark of an SVID for a process on a broker's own machine.
const LOCAL: &str = "local";
/// The mark of an SVID for a process on a node.
const NODE: &str = "node";
/// The mark of evidence whatever it was.
const EVIDENCE: &str = "evidence";
/// The mark of an SVID that rests on more than it has room for.
const MANY: &str = "many";

/// Why an identity is its holder's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grounds {
    /// When something was shown for the identity last, in milliseconds since the epoch.
    pub since_ms: i64,
    /// The task of the node whose word it was, if it was a node's.
    pub node: Option<TaskId>,
    /// The marks of what was shown.
    pub marks: Vec<String>,
}

impl Grounds {
    /// Returns the claims by which rules find what the identity rests on.
    #[must_use]
    pub fn claims(&self) -> Vec<String> {
        self.marks.iter().map(|mark| svid_claim(mark)).collect()
    }
}

/// What an SVID was given for, as far as rules tell it apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GivenFor<'a> {
    /// Whatever it was: a join token is told apart from nothing.
    Anything,
    /// The kernel's word about a process on a broker's own machine.
    LocalProcess,
    /// A node's word about a process on it.
    NodeProcess,
    /// Evidence, whatever it was.
    Evidence,
    /// Evidence with this claim, written as `<kind>.<claim>=<value>`.
    Claim(&'a str),
}

impl GivenFor<'_> {
    /// Returns the marks of an SVID that is given for this.
    #[must_use]
    pub fn marks(self) -> Vec<String> {
        match self {
            Self::Anything => vec![GIVEN.to_owned()],
            Self::LocalProcess => vec![GIVEN.to_owned(), LOCAL.to_owned()],
            Self::NodeProcess => vec![GIVEN.to_owned(), NODE.to_owned()],
            Self::Evidence => svid_marks([]),
            Self::Claim(claim) => svid_marks([claim]),
        }
    }

    /// Returns the marks of which every SVID that was given for this has one.
    fn found_by(self) -> Vec<String> {
        match self {
            Self::Anything => vec![GIVEN.to_owned()],
            Self::LocalProcess => vec![LOCAL.to_owned()],
            Self::NodeProcess => vec![NODE.to_owned()],
            Self::Evidence => vec![mark(EVIDENCE)],
            Self::Claim(claim) => vec![mark(claim), mark(MANY)],
        }
    }
}

/// Returns the marks of an SVID that is given for evidence with these claims, each written as
/// `<kind>.<claim>=<value>`: those that a withdrawal can name.
#[must_use]
pub fn svid_marks<'a>(claims: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut marks = vec![mark(EVIDENCE)];
    for claim in claims {
        let mark = mark(claim);
        if !marks.contains(&mark) {
            marks.push(mark);
        }
    }
    if marks.len() > MAX_MARKS {
        marks.truncate(MAX_MARKS - 1);
        marks.push(mark(MANY));
    }
    marks.insert(0, GIVEN.to_owned());
    marks
}

/// Returns the claim by which rules find an SVID with this mark, and what was begun with it.
#[must_use]
pub fn svid_claim(mark: &str) -> String {
    format!("{CLAIM}{mark}")
}

/// Returns the claims, as [`svid_claim`] writes them, of which an SVID has one that may rest on evidence
/// with this claim: the mark of the claim, or that there was no room for all marks. What is written
/// like these itself stands for nothing else.
pub(super) fn marks_of_claim(claim: &str) -> Vec<String> {
    if claim.starts_with(CLAIM) {
        return Vec::new();
    }
    [mark(claim), mark(MANY)]
        .map(|mark| svid_claim(&mark))
        .to_vec()
}

/// Returns the first four bytes of the digest of a claim in hexadecimal.
fn mark(claim: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, claim.as_bytes());
    hex::encode(digest.as_ref().get(..4).unwrap_or_default())
}

impl Selector {
    /// Returns whether the selector is about SVIDs, and what was begun with them, by their marks or
    /// by a serial number.
    #[must_use]
    pub fn is_about_svids(&self) -> bool {
        self.svid_serial.is_some() || self.claims.iter().any(|claim| claim.starts_with(CLAIM))
    }

    /// Returns the selectors of the SVIDs of a workload that were given for this before a time, in
    /// milliseconds since the epoch.
    #[must_use]
    pub fn svids_given_for(workload: &SpiffeId, what: GivenFor<'_>, before_ms: i64) -> Vec<Self> {
        let selector = |mark: String| Self {
            claims: vec![svid_claim(&mark)],
            issued_before_ms: Some(before_ms),
            ..Self::workload(workload.clone())
        };
        what.found_by().into_iter().map(selector).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a rule about the SVIDs that were given for `what` finds one with these marks.
    fn finds(marks: &[String], what: GivenFor<'_>) -> bool {
        // With what stands before them, they have the 64 characters of an organization.
        assert!(marks.join(" ").len() <= 61, "{marks:?}");
        let own: Vec<_> = marks.iter().map(|mark| svid_claim(mark)).collect();
        let workload = SpiffeId::parse("spiffe://a.test/b").unwrap();
        let selectors = Selector::svids_given_for(&workload, what, 0);
        let mut claims = selectors.iter().flat_map(|selector| &selector.claims);
        claims.any(|claim| own.contains(claim))
    }

    #[test]
    fn an_svid_has_a_mark_of_each_claim_or_one_that_stands_for_many() {
        let finds = |claims: &[String], what: GivenFor<'_>| {
            finds(&svid_marks(claims.iter().map(String::as_str)), what)
        };
        let claims: Vec<_> = (0..20).map(|at| format!("nitro.pcr0={at}")).collect();
        for few in 0..=5 {
            for (at, claim) in claims.iter().enumerate() {
                assert_eq!(finds(&claims[..few], GivenFor::Claim(claim)), at < few);
            }
        }
        let mut each = claims.iter();
        assert!(each.all(|claim| finds(&claims, GivenFor::Claim(claim))));
        for what in [GivenFor::Evidence, GivenFor::Anything] {
            assert!(finds(&[], what) && finds(&claims, what));
        }
    }

    #[test]
    fn e9_every_svid_has_the_common_mark_and_that_of_its_own_way() {
        let ways = [
            GivenFor::LocalProcess,
            GivenFor::NodeProcess,
            GivenFor::Evidence,
        ];
        for way in ways {
            assert!(finds(&way.marks(), GivenFor::Anything));
            for what in ways {
                assert_eq!(finds(&way.marks(), what), way == what);
            }
        }
        assert!(finds(&GivenFor::Anything.marks(), GivenFor::Anything));
    }
}
