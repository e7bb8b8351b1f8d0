//! What an SVID of the embedded CA rests on, as rules find it.
//!
//! A certificate has room for a few short marks: each stands for a claim of the evidence that it was
//! given for. Two claims with one mark are taken back together.

use sundew_attestation::spiffe::SpiffeId;

use super::Selector;

/// The most marks of one SVID.
const MAX_MARKS: usize = 6;
/// What stands before a mark in a claim.
const CLAIM: &str = "svid.on=";
/// The mark of evidence whatever it was.
const EVIDENCE: &str = "evidence";
/// The mark of an SVID that rests on more than it has room for.
const MANY: &str = "many";

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
    marks
}

/// Returns the claim by which rules find an SVID with this mark, and what was begun with it.
#[must_use]
pub fn svid_claim(mark: &str) -> String {
    format!("{CLAIM}{mark}")
}

/// Returns the first four bytes of the digest of a claim in hexadecimal.
fn mark(claim: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, claim.as_bytes());
    hex::encode(digest.as_ref().get(..4).unwrap_or_default())
}

impl Selector {
    /// Returns whether the selector is about SVIDs, and what was begun with them, by their marks.
    #[must_use]
    pub fn is_about_svids(&self) -> bool {
        self.claims.iter().any(|claim| claim.starts_with(CLAIM))
    }

    /// Returns the selectors of the SVIDs of a workload that were given before a time, in milliseconds
    /// since the epoch, for evidence with this claim, or for any evidence.
    #[must_use]
    pub fn svids_given_for(workload: &SpiffeId, claim: Option<&str>, before_ms: i64) -> Vec<Self> {
        let marks = match claim {
            None => vec![mark(EVIDENCE)],
            Some(claim) => vec![mark(claim), mark(MANY)],
        };
        let selector = |mark: String| Self {
            claims: vec![svid_claim(&mark)],
            issued_before_ms: Some(before_ms),
            ..Self::workload(workload.clone())
        };
        marks.into_iter().map(selector).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_svid_has_a_mark_of_each_claim_or_one_that_stands_for_many() {
        let workload = SpiffeId::parse("spiffe://a.test/b").unwrap();
        let finds = |claims: &[String], claim: Option<&str>| {
            let marks = svid_marks(claims.iter().map(String::as_str));
            assert!(marks.len() <= MAX_MARKS && marks.iter().all(|mark| mark.len() == 8));
            let own: Vec<_> = marks.iter().map(|mark| svid_claim(mark)).collect();
            let selectors = Selector::svids_given_for(&workload, claim, 0);
            selectors
                .iter()
                .any(|selector| own.contains(&selector.claims[0]))
        };
        let claims: Vec<_> = (0..20).map(|at| format!("nitro.pcr0={at}")).collect();
        for few in 0..=5 {
            for (at, claim) in claims.iter().enumerate() {
                assert_eq!(finds(&claims[..few], Some(claim)), at < few);
            }
        }
        assert!(claims.iter().all(|claim| finds(&claims, Some(claim))));
        assert!(finds(&[], None) && finds(&claims, None));
    }
}
