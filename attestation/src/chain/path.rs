//! The search for paths from a certificate to the anchors, by names and key ids.
//!
//! P12: paths of trusted certificates are tried without a bound, since only the operator adds to
//! them. A claimant's certificates may cause a bounded number of steps and signatures.

use super::ChainError;
use super::attempt::Attempts;
use super::candidate::Candidate;

/// The largest number of intermediates in a path; it is webpki's own.
const MAX_PATH: usize = 6;
/// The largest number of times that the search goes on over a presented certificate.
const MAX_STEPS: usize = 64;

/// A search in progress.
pub(super) struct Search<'s> {
    intermediates: &'s [Candidate<'s>],
    anchors: &'s [Candidate<'s>],
    attempts: Attempts<'s>,
    steps: usize,
    /// The reason why the most telling path failed.
    problem: ChainError,
}

impl<'s> Search<'s> {
    pub(super) fn new(
        intermediates: &'s [Candidate<'s>],
        anchors: &'s [Candidate<'s>],
        attempts: Attempts<'s>,
    ) -> Self {
        Self {
            intermediates,
            anchors,
            attempts,
            steps: MAX_STEPS,
            problem: ChainError::Path(webpki::Error::UnknownIssuer),
        }
    }

    /// Returns the end of the first valid path, in milliseconds since the epoch.
    pub(super) fn from(mut self, leaf: &'s Candidate<'s>) -> Result<i64, ChainError> {
        match self.climb(&mut vec![leaf]) {
            Some(end_ms) => Ok(end_ms),
            None => Err(self.problem),
        }
    }

    /// Tries every path that begins with this one; returns the end of the first valid path.
    fn climb(&mut self, path: &mut Vec<&'s Candidate<'s>>) -> Option<i64> {
        let last = *path.last()?;
        let (anchors, intermediates) = (self.anchors, self.intermediates);
        for anchor in anchors.iter().filter(|anchor| anchor.may_have_issued(last)) {
            match self.attempts.verify(path, anchor) {
                Ok(end_ms) => return Some(end_ms),
                Err(error) => self.note(error),
            }
        }
        if path.len() > MAX_PATH {
            return None;
        }
        for next in intermediates {
            let looped = || path.iter().any(|before| before.is_same_issuer(next));
            if !next.may_have_issued(last) || looped() {
                continue;
            }
            if next.presented {
                match self.steps.checked_sub(1) {
                    Some(left) => self.steps = left,
                    None => self.problem = ChainError::Budget,
                }
            }
            if matches!(self.problem, ChainError::Budget) {
                return None;
            }
            path.push(next);
            let found = self.climb(path);
            path.pop();
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Keeps the most telling reason: a signature by another key of the same name says the least.
    fn note(&mut self, error: ChainError) {
        let says_little = matches!(
            self.problem,
            ChainError::Path(
                webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey
            )
        );
        if says_little || matches!(error, ChainError::Budget) {
            self.problem = error;
        }
    }
}
