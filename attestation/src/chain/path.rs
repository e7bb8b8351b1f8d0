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

    /// Tries every path that begins with this one, those over the named keys first; returns the end of
    /// the first valid path.
    fn climb(&mut self, path: &mut Vec<&'s Candidate<'s>>) -> Option<i64> {
        let last = *path.last()?;
        let issuers = |all: &'s [Candidate<'s>], named: bool| {
            all.iter()
                .filter(move |one| one.may_have_issued(last) && one.has_named_key(last) == named)
        };
        for named in [true, false] {
            for anchor in issuers(self.anchors, named) {
                match self.attempts.verify(path, anchor) {
                    Ok(end_ms) => return Some(end_ms),
                    Err(error) => self.note(error),
                }
            }
            for next in issuers(self.intermediates, named) {
                if let Some(end_ms) = self.go_on(path, next) {
                    return Some(end_ms);
                }
            }
        }
        None
    }

    /// Tries every path that goes on over this intermediate.
    fn go_on(&mut self, path: &mut Vec<&'s Candidate<'s>>, next: &'s Candidate<'s>) -> Option<i64> {
        if path.len() > MAX_PATH || path.iter().any(|before| before.is_same_issuer(next)) {
            return None;
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
        found
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
