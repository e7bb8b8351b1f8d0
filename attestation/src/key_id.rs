//! Key identifiers, which tell issuers of one name apart before any signature is verified.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{X509Certificate, X509Extension};

/// Returns the subject key identifier (RFC 5280, section 4.2.1.2).
pub(crate) fn own<'s>(certificate: &'s X509Certificate<'_>) -> Option<&'s [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            Some(id.0)
        } else {
            None
        }
    })
}

/// Returns the key id of the authority key identifier among extensions (RFC 5280, section 4.2.1.1).
pub(crate) fn of_issuer<'s>(extensions: &'s [X509Extension<'_>]) -> Option<&'s [u8]> {
    extensions.iter().find_map(|extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
            id.key_identifier.as_ref().map(|id| id.0)
        } else {
            None
        }
    })
}

/// Returns whether an issuer with this key id may be the one that a certificate names. An id that
/// one of them lacks is no difference.
pub(crate) fn may_be(own: Option<&[u8]>, named: Option<&[u8]>) -> bool {
    match (own, named) {
        (Some(own), Some(named)) => own == named,
        _ => true,
    }
}
