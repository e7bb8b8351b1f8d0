//! Root certificates as the strictest of their readers take them.
//!
//! What we take of a partner's bundle we hand on, by the Workload API and to Envoy. go-spiffe and
//! Envoy refuse all that they are handed for one certificate that Go's or BoringSSL's reader does not
//! take. So such a certificate is left out here, and costs only the partner that has it (I5). The
//! check takes less than either reader does, and never more: `attestation/tests/platforms` compares.

mod extensions;
mod key;
mod values;

use values::{BIT_STRING, GENERALIZED_TIME, INTEGER, OID, SEQUENCE, SET, UTC_TIME, Values};

/// What is wrong with a certificate.
type Checked<T = ()> = Result<T, &'static str>;

/// The version of certificates that have extensions, as every root that is taken has.
const VERSION_3: [u8; 3] = [INTEGER, 1, 2];
/// The explicit tags of the version and of the extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// The tags of the unique identifiers of issuer and subject.
const UNIQUE_IDS: [u8; 2] = [0x81, 0x82];

/// Checks that strict readers take a root certificate in DER (RFC 5280, section 4.1).
///
/// # Errors
/// What they would refuse it for.
pub(super) fn check(der: &[u8]) -> Checked {
    values::check_all(der)?;
    let mut outer = Values::of(der);
    let mut certificate = Values::of(outer.take(SEQUENCE)?);
    outer.end()?;
    let mut content = Values::of(certificate.take(SEQUENCE)?);
    let algorithm = certificate.take(SEQUENCE)?;
    certificate.take(BIT_STRING)?;
    certificate.end()?;

    if content.take(VERSION)? != VERSION_3 {
        return Err("version is not 3");
    }
    if content
        .take(INTEGER)?
        .first()
        .is_some_and(|first| *first >= 0x80)
    {
        return Err("serial number is negative");
    }
    if content.take(SEQUENCE)? != algorithm {
        return Err("two signature algorithms");
    }
    let mut algorithm = Values::of(algorithm);
    values::check_small_oid(algorithm.take(OID)?)?;
    algorithm.take_any()?;
    algorithm.end()?;
    check_name(content.take(SEQUENCE)?)?;
    let mut validity = Values::of(content.take(SEQUENCE)?);
    for _ in 0..2 {
        validity.take_one_of(&[UTC_TIME, GENERALIZED_TIME])?;
    }
    validity.end()?;
    check_name(content.take(SEQUENCE)?)?;
    key::check(content.take(SEQUENCE)?)?;
    for tag in UNIQUE_IDS {
        if let Some(id) = content.take_if(tag)? {
            values::check(BIT_STRING, id)?;
        }
    }
    extensions::check(content.take(EXTENSIONS)?)?;
    content.end()
}

/// Checks a distinguished name, whose elements are well-formed.
fn check_name(content: &[u8]) -> Checked {
    let mut sets = Values::of(content);
    while let Some(set) = sets.take_if(SET)? {
        let mut set = Values::of(set);
        if set.is_empty() {
            return Err("empty part of a name");
        }
        while let Some(attribute) = set.take_if(SEQUENCE)? {
            let mut attribute = Values::of(attribute);
            values::check_small_oid(attribute.take(OID)?)?;
            attribute.take_one_of(&values::STRINGS)?;
            attribute.end()?;
        }
        set.end()?;
    }
    sets.end()
}
