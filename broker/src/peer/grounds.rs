//! The grounds of an SVID of an embedded CA: since when its identity is its holder's without
//! anything new having been shown, and the node whose word that is.
//!
//! With them are the marks of what was shown (E9). All of that stands in the subject of
//! the certificate, which the CA signs, so that every broker knows them
//! at each call and at each renewal (I1). Of a foreign certificate that says the same of itself, they
//! only take something away.

use rustls_pki_types::CertificateDer;
use sundew_core::{TaskId, svid_claim};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What stands before the time in the text.
const SINCE: &str = "since ";
/// What stands between the time and the task of a node in the text.
const NODE: &str = " node ";
/// What stands before the marks in the other text.
const ON: &str = "on ";

/// Why an identity is its holder's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grounds {
    /// When something was shown for the identity last, in milliseconds since the epoch.
    pub(crate) since_ms: i64,
    /// The task of the node whose word it was, if it was a node's.
    pub(crate) node: Option<TaskId>,
    /// The marks of what was shown.
    pub(crate) marks: Vec<String>,
}

impl Grounds {
    /// The text for the organizational unit of a subject, which takes 64 characters (RFC 5280,
    /// appendix A.1).
    pub(crate) fn text(&self) -> String {
        let node = self.node.map(|task| format!("{NODE}{task}"));
        format!("{SINCE}{}{}", self.since_ms, node.unwrap_or_default())
    }

    /// The text for the organization of a subject, which takes 64 characters, if there are marks.
    pub(crate) fn marks_text(&self) -> Option<String> {
        (!self.marks.is_empty()).then(|| format!("{ON}{}", self.marks.join(" ")))
    }

    /// The claims by which rules find what the identity rests on.
    pub(crate) fn claims(&self) -> Vec<String> {
        self.marks.iter().map(|mark| svid_claim(mark)).collect()
    }

    /// Reads the grounds in a certificate. Where it says nothing, they count from its first day on,
    /// as those of certificates that older brokers issued.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let units = certificate.subject().iter_organizational_unit();
        let said = units.filter_map(|unit| parse(unit.as_str().ok()?)).next();
        let begins_s = certificate.validity().not_before.timestamp();
        let grounds = said.unwrap_or(Self {
            since_ms: begins_s.saturating_mul(1000),
            node: None,
            marks: Vec::new(),
        });
        let mut organizations = certificate.subject().iter_organization();
        let marks = organizations.find_map(|name| name.as_str().ok()?.strip_prefix(ON));
        Some(Self {
            marks: marks.map(marks_in).unwrap_or_default(),
            ..grounds
        })
    }
}

fn parse(text: &str) -> Option<Grounds> {
    let text = text.strip_prefix(SINCE)?;
    let (since, node) = match text.split_once(NODE) {
        Some((since, node)) => (since, Some(TaskId::parse(node).ok()?)),
        None => (text, None),
    };
    Some(Grounds {
        since_ms: since.parse().ok()?,
        node,
        marks: Vec::new(),
    })
}

fn marks_in(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let node = TaskId::from_bytes([7; 16]);
        for node in [None, Some(node)] {
            let grounds = Grounds {
                since_ms: 1_764_201_600_000,
                node,
                marks: Vec::new(),
            };
            assert!(grounds.text().len() <= 64, "{}", grounds.text());
            assert_eq!(parse(&grounds.text()), Some(grounds));
        }
    }

    #[test]
    fn other_units_say_nothing() {
        for text in ["", "Payments", "since", "since x", "since 1 node x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
