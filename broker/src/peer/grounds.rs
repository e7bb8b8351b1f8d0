//! The grounds of an SVID of an embedded CA: since when its identity is its holder's without
//! anything new having been shown, and the node whose word that is.
//!
//! With them are the marks of what was shown (E9). All of that stands in the subject of the
//! certificate, which the CA signs, so that every broker knows it at each call and at each renewal
//! (I1). Of a foreign certificate that says the same of itself, it only takes something away.

use rustls_pki_types::CertificateDer;
use sundew_core::{Grounds, TaskId};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What stands before the time in the text.
const SINCE: &str = "since ";
/// What stands between the time and the task of a node in the text.
const NODE: &str = " node ";
/// What stands before the marks in the other text.
const ON: &str = "on ";

/// The text for the organizational unit of a subject, which takes 64 characters (RFC 5280, appendix
/// A.1).
pub(crate) fn text(grounds: &Grounds) -> String {
    let node = grounds.node.map(|task| format!("{NODE}{task}"));
    format!("{SINCE}{}{}", grounds.since_ms, node.unwrap_or_default())
}

/// The text for the organization of a subject, which takes 64 characters, if there are marks.
pub(crate) fn marks_text(grounds: &Grounds) -> Option<String> {
    (!grounds.marks.is_empty()).then(|| format!("{ON}{}", grounds.marks.join(" ")))
}

/// Reads the grounds in a certificate. Where it says nothing, they count from its first day on, as
/// those of certificates that older brokers issued.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Grounds> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let units = certificate.subject().iter_organizational_unit();
    let said = units.filter_map(|unit| parse(unit.as_str().ok()?)).next();
    let begins_s = certificate.validity().not_before.timestamp();
    let grounds = said.unwrap_or(Grounds {
        since_ms: begins_s.saturating_mul(1000),
        node: None,
        marks: Vec::new(),
    });
    let mut organizations = certificate.subject().iter_organization();
    let marks = organizations.find_map(|name| name.as_str().ok()?.strip_prefix(ON));
    Some(Grounds {
        marks: marks.map(marks_in).unwrap_or_default(),
        ..grounds
    })
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
            let text = text(&grounds);
            assert!(text.len() <= 64, "{text}");
            assert_eq!(parse(&text), Some(grounds));
        }
    }

    #[test]
    fn other_units_say_nothing() {
        for text in ["", "Payments", "since", "since x", "since 1 node x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
