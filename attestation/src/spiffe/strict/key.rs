//! The public key of a certificate (RFC 5280, section 4.1.2.7).

use super::Checked;
use super::values::{BIT_STRING, INTEGER, NULL, OID, SEQUENCE, Values};
use crate::curve;

/// The content of object identifiers: RSA, keys on a curve, Ed25519, and the curves.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ON_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];

/// Checks the content of a SubjectPublicKeyInfo, whose elements are well-formed. How strong the key
/// is, is no question here.
pub(super) fn check(content: &[u8]) -> Checked {
    let mut info = Values::of(content);
    let mut algorithm = Values::of(info.take(SEQUENCE)?);
    let kind = algorithm.take(OID)?;
    let parameters = algorithm.take_any()?;
    algorithm.end()?;
    let bits = info.take(BIT_STRING)?;
    info.end()?;
    let Some((0, key)) = bits.split_first() else {
        return Err("key is no whole number of bytes");
    };
    let holds = match (kind, parameters) {
        (RSA, Some((NULL, _))) => is_rsa(key)?,
        (ON_CURVE, Some((OID, P256))) => key.len() == 65 && curve::has(key),
        (ON_CURVE, Some((OID, P384))) => key.len() == 97 && curve::has(key),
        (ED25519, None) => key.len() == 32,
        _ => return Err("key is of an unknown kind"),
    };
    holds.then_some(()).ok_or("key is no key of its kind")
}

/// Returns whether this is a modulus and an exponent, which are positive.
fn is_rsa(key: &[u8]) -> Checked<bool> {
    super::values::check_all(key)?;
    let mut outer = Values::of(key);
    let mut numbers = Values::of(outer.take(SEQUENCE)?);
    outer.end()?;
    let is_positive = |number: &[u8]| matches!(number, [1..0x80, ..] | [0, _, ..]);
    let (modulus, exponent) = (numbers.take(INTEGER)?, numbers.take(INTEGER)?);
    numbers.end()?;
    Ok(is_positive(modulus) && is_positive(exponent))
}
