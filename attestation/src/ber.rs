//! Rewriting of BER as DER (ITU-T X.690, sections 8 and 10), for platforms that stream their
//! documents.
//!
//! The structure is rewritten and no value is: a document that was DER comes out as it was.

use x509_parser::asn1_rs::{Class, FromBer as _, FromDer as _, Header, Length, Tag};

/// The deepest nesting of elements.
const MAX_DEPTH: usize = 16;

/// The reasons to reject an encoding.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BerError {
    /// The document is nested more than 16 levels deep.
    #[error("nested too deeply")]
    Depth,
    /// The document is not BER, ends too early, or goes on after its end.
    #[error("not BER")]
    Malformed,
    /// A string other than an OCTET STRING is in parts, or an OCTET STRING has parts that are none.
    #[error("a string in parts")]
    Parts,
}

/// Rewrites one document as DER, in time proportional to its length and at most 16 copies of it.
pub(crate) fn to_der(ber: &[u8]) -> Result<Vec<u8>, BerError> {
    let mut out = Vec::with_capacity(ber.len());
    let rest = element(ber, MAX_DEPTH, &mut out)?;
    if rest.is_empty() {
        Ok(out)
    } else {
        Err(BerError::Malformed)
    }
}

/// Rewrites the element at the front; returns what follows the element.
fn element<'a>(bytes: &'a [u8], depth: usize, out: &mut Vec<u8>) -> Result<&'a [u8], BerError> {
    let depth = depth.checked_sub(1).ok_or(BerError::Depth)?;
    let (content, header) = Header::from_ber(bytes).map_err(|_| BerError::Malformed)?;
    let identifier = *bytes.first().ok_or(BerError::Malformed)?;
    // CMS has no tag above 30, and the end of contents is no element.
    if identifier & 0x1f == 0x1f || identifier == 0 {
        return Err(BerError::Malformed);
    }
    if !header.constructed() {
        let Length::Definite(length) = header.length() else {
            return Err(BerError::Malformed);
        };
        let (value, rest) = split(content, length)?;
        put(identifier, value, out);
        return Ok(rest);
    }
    let universal = header.class() == Class::Universal;
    let in_parts = universal && header.tag() == Tag::OctetString;
    if universal && !in_parts && !matches!(header.tag(), Tag::Sequence | Tag::Set) {
        return Err(BerError::Parts);
    }
    let mut inner = Vec::new();
    let rest = match header.length() {
        Length::Definite(length) => {
            let (mut parts, rest) = split(content, length)?;
            while !parts.is_empty() {
                parts = part(parts, depth, in_parts, &mut inner)?;
            }
            rest
        }
        Length::Indefinite => {
            let mut parts = content;
            loop {
                if let Some(rest) = parts.strip_prefix(&[0, 0]) {
                    break rest;
                }
                parts = part(parts, depth, in_parts, &mut inner)?;
            }
        }
    };
    if in_parts {
        put(0x04, &inner, out);
    } else {
        put(identifier, &inner, out);
    }
    Ok(rest)
}

/// Rewrites an element within another one. Of the parts of a string, only the octets are kept.
fn part<'a>(
    bytes: &'a [u8],
    depth: usize,
    in_parts: bool,
    out: &mut Vec<u8>,
) -> Result<&'a [u8], BerError> {
    if !in_parts {
        return element(bytes, depth, out);
    }
    let (content, header) = Header::from_ber(bytes).map_err(|_| BerError::Malformed)?;
    match (bytes.first(), header.length()) {
        (Some(0x04), Length::Definite(length)) => {
            let (octets, rest) = split(content, length)?;
            out.extend_from_slice(octets);
            Ok(rest)
        }
        _ => Err(BerError::Parts),
    }
}

fn split(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8]), BerError> {
    bytes.split_at_checked(length).ok_or(BerError::Malformed)
}

/// Returns the elements within the only element of some bytes in DER; `None` if it is primitive or if
/// the lengths do not fit.
pub(crate) fn parts(der: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut content, header) = Header::from_der(der).ok()?;
    if !header.constructed() || header.length() != Length::Definite(content.len()) {
        return None;
    }
    let mut out = Vec::new();
    while !content.is_empty() {
        let (value, header) = Header::from_der(content).ok()?;
        let Length::Definite(length) = header.length() else {
            return None;
        };
        let (_, rest) = value.split_at_checked(length)?;
        let (element, rest) = content.split_at_checked(content.len().checked_sub(rest.len())?)?;
        out.push(element);
        content = rest;
    }
    Some(out)
}

/// Writes an element with the shortest length.
pub(crate) fn put(identifier: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(identifier);
    match u8::try_from(value.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let length = value.len().to_be_bytes();
            let digits = length.iter().skip_while(|byte| **byte == 0);
            out.push(0x80 | u8::try_from(digits.clone().count()).unwrap_or(0x7f));
            out.extend(digits);
        }
    }
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn e2_indefinite_lengths_and_strings_in_parts_become_der() {
        for (ber, der) in [
            ("3080020101 0000", "3003020101"),
            ("2480 0402abcd 0401ef 0000", "0403abcdef"),
            ("2405 0401ab 0400", "0401ab"),
            ("a080 3080 0000 0000", "a0023000"),
            ("3081030201 01", "3003020101"),
        ] {
            let bytes = hex::decode(ber.replace(' ', "")).unwrap_or_default();
            let made = to_der(&bytes).map(hex::encode);
            assert_eq!(made.as_deref(), Ok(der), "{ber}");
        }
        for bad in [
            "",
            "30",
            "3080",
            "3080 0201 01",
            "0480 0000",
            "0000",
            "3002 0000",
            "3003 020101 00",
            "2480 0201 01 0000",
            "2480 2480 0401ab 0000 0000",
            "2380 0302 00ab 0000",
            "1f01 00",
            "30ff 00",
            "3084ffffffff 00",
            "308900000000000000000000",
        ] {
            let bytes = hex::decode(bad.replace(' ', "")).unwrap_or_default();
            assert!(to_der(&bytes).is_err(), "{bad}");
        }
        let nested = |depth: usize| [[0x30, 0x80].repeat(depth), [0, 0].repeat(depth)].concat();
        assert!(to_der(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(to_der(&nested(MAX_DEPTH + 1)), Err(BerError::Depth));
    }

    proptest! {
        #[test]
        fn e2_what_comes_out_is_der_already(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(der) = to_der(&bytes) {
                prop_assert!(der.len() <= bytes.len());
                prop_assert_eq!(to_der(&der), Ok(der.clone()));
            }
        }
    }
}
