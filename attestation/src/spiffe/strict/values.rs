//! Values in DER (X.690, sections 8, 10 and 11).

use der::{AnyRef, Decode as _, Reader as _, SliceReader, Tagged as _};

use super::Checked;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
const VISIBLE_STRING: u8 = 0x1a;
const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// The strings that names are made of.
pub(super) const STRINGS: [u8; 6] = [
    UTF8_STRING,
    NUMERIC_STRING,
    PRINTABLE_STRING,
    T61_STRING,
    IA5_STRING,
    BMP_STRING,
];

/// The deepest values of a certificate.
const MAX_DEPTH: usize = 16;
const NOT_DER: &str = "not DER";
const STRUCTURE: &str = "another structure than that of a certificate";

/// Values that stand one after the other.
pub(super) struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    pub(super) fn of(content: &'a [u8]) -> Self {
        Self(content)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the tag and the content of the next value.
    pub(super) fn next(&mut self) -> Checked<(u8, &'a [u8])> {
        let mut reader = SliceReader::new(self.0).map_err(|_| NOT_DER)?;
        let value = AnyRef::decode(&mut reader).map_err(|_| NOT_DER)?;
        let tag = value.tag().octet();
        // Nobody writes higher numbers in a certificate, and readers differ about them.
        if tag & 0x1f == 0x1f {
            return Err(NOT_DER);
        }
        let rest = usize::try_from(reader.remaining_len()).map_err(|_| NOT_DER)?;
        let read = self.0.len().saturating_sub(rest);
        self.0 = self.0.get(read..).unwrap_or_default();
        Ok((tag, value.value()))
    }

    /// Returns the content of the next value, which must have one of these tags, and the tag.
    pub(super) fn take_one_of(&mut self, tags: &[u8]) -> Checked<(u8, &'a [u8])> {
        let (tag, content) = self.next().map_err(|_| STRUCTURE)?;
        tags.contains(&tag)
            .then_some((tag, content))
            .ok_or(STRUCTURE)
    }

    /// Returns the content of the next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Checked<&'a [u8]> {
        Ok(self.take_one_of(&[tag])?.1)
    }

    /// Returns the content of the next value, if it has this tag.
    pub(super) fn take_if(&mut self, tag: u8) -> Checked<Option<&'a [u8]>> {
        if self.0.first() == Some(&tag) {
            self.take(tag).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Returns the next value, if there is one.
    pub(super) fn take_any(&mut self) -> Checked<Option<(u8, &'a [u8])>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.next().map(Some)
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Checked {
        self.is_empty().then_some(()).ok_or(STRUCTURE)
    }
}

/// Checks that these are values, and that each one within them is.
pub(super) fn check_all(bytes: &[u8]) -> Checked {
    check_within(bytes, MAX_DEPTH)
}

fn check_within(bytes: &[u8], depth: usize) -> Checked {
    let deeper = depth.checked_sub(1).ok_or(NOT_DER)?;
    let mut values = Values::of(bytes);
    while let Some((tag, content)) = values.take_any()? {
        match tag {
            SEQUENCE | SET | 0xa0..=0xbe => check_within(content, deeper)?,
            _ => check(tag, content)?,
        }
    }
    Ok(())
}

/// Checks a value that is not made of others.
pub(super) fn check(tag: u8, content: &[u8]) -> Checked {
    let (holds, wrong) = match tag {
        BOOLEAN => (matches!(content, [0 | 0xff]), NOT_DER),
        INTEGER => (is_integer(content), NOT_DER),
        BIT_STRING => (is_bit_string(content), NOT_DER),
        NULL => (content.is_empty(), NOT_DER),
        OID => (is_oid(content), NOT_DER),
        UTF8_STRING => (std::str::from_utf8(content).is_ok(), "bad UTF8String"),
        NUMERIC_STRING => (
            content.iter().all(|c| c.is_ascii_digit() || *c == b' '),
            "bad NumericString",
        ),
        PRINTABLE_STRING => (content.iter().all(is_printable), "bad PrintableString"),
        IA5_STRING | VISIBLE_STRING => (content.is_ascii(), "bad IA5String"),
        BMP_STRING => (is_bmp_string(content), "bad BMPString"),
        UTC_TIME => (is_time(content, 12), "bad time"),
        GENERALIZED_TIME => (is_time(content, 14), "bad time"),
        OCTET_STRING | T61_STRING | 0x80..=0x9e => (true, NOT_DER),
        _ => (false, "a value of an unknown kind"),
    };
    holds.then_some(()).ok_or(wrong)
}

fn is_integer(content: &[u8]) -> bool {
    match content {
        [] | [0, 0..0x80, ..] | [0xff, 0x80..=0xff, ..] => false,
        [..] => true,
    }
}

fn is_bit_string(content: &[u8]) -> bool {
    match content {
        [0] => true,
        [unused @ 0..8, .., last] => last.trailing_zeros() >= u32::from(*unused),
        _ => false,
    }
}

fn is_oid(content: &[u8]) -> bool {
    let mut starts = std::iter::once(&0).chain(content).zip(content);
    let is_minimal = |(before, byte): (&u8, &u8)| *before >= 0x80 || *byte != 0x80;
    content.last().is_some_and(|last| *last < 0x80) && starts.all(is_minimal)
}

/// Checks that no number of an object identifier has more than 31 bits.
pub(super) fn check_small_oid(content: &[u8]) -> Checked {
    let mut number = 0_u64;
    for byte in content {
        number = (number << 7) | u64::from(byte & 0x7f);
        if number >= 1 << 31 {
            return Err("object identifier with a large number");
        }
        if *byte < 0x80 {
            number = 0;
        }
    }
    Ok(())
}

/// As X.680, section 41.4, has it, and `*` and `&`, which are common.
fn is_printable(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(byte)
}

fn is_bmp_string(content: &[u8]) -> bool {
    let (units, rest) = content.as_chunks();
    let is_character = |unit: &[u8; 2]| {
        !matches!(
            u16::from_be_bytes(*unit),
            0xd800..=0xdfff | 0xfdd0..=0xfdef | 0xfffe..
        )
    };
    rest.is_empty() && units.iter().all(is_character)
}

/// Whether a time has this many digits and is in UTC (RFC 5280, section 4.1.2.5). Its reader has
/// looked at the numbers.
fn is_time(content: &[u8], digits: usize) -> bool {
    matches!(content.split_last(), Some((b'Z', rest))
        if rest.len() == digits && rest.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_one_form() {
        let good: [(u8, &[u8]); 14] = [
            (BOOLEAN, &[0xff]),
            (INTEGER, &[0]),
            (INTEGER, &[0, 0x80]),
            (INTEGER, &[0xff, 0x7f]),
            (BIT_STRING, &[0]),
            (BIT_STRING, &[7, 0x80]),
            (NULL, &[]),
            (OID, &[0x55, 0x1d, 0x81, 0]),
            (UTF8_STRING, "é".as_bytes()),
            (PRINTABLE_STRING, b"*.a & b"),
            (BMP_STRING, &[0, b'a', 0, 0]),
            (UTC_TIME, b"260101000000Z"),
            (GENERALIZED_TIME, b"20260101000000Z"),
            (T61_STRING, &[0xe9]),
        ];
        for (tag, content) in good {
            assert_eq!(check(tag, content), Ok(()), "{tag:#x} {content:x?}");
        }
        let bad: [(u8, &[u8]); 21] = [
            (BOOLEAN, &[1]),
            (BOOLEAN, &[]),
            (INTEGER, &[]),
            (INTEGER, &[0, 0x7f]),
            (INTEGER, &[0xff, 0x80]),
            (BIT_STRING, &[]),
            (BIT_STRING, &[1]),
            (BIT_STRING, &[8, 0]),
            (BIT_STRING, &[4, 0x08]),
            (NULL, &[0]),
            (OID, &[]),
            (OID, &[0x80, 1]),
            (OID, &[0x55, 0x80, 1]),
            (OID, &[0x55, 0x81]),
            (UTF8_STRING, &[0xe9]),
            (PRINTABLE_STRING, b"a@b"),
            (BMP_STRING, &[0xd8, 0]),
            (BMP_STRING, &[0]),
            (UTC_TIME, b"2601010000Z"),
            (GENERALIZED_TIME, b"20260101000000+0000"),
            (0x1c, &[0, 0, 0, b'a']),
        ];
        for (tag, content) in bad {
            assert!(check(tag, content).is_err(), "{tag:#x} {content:x?}");
        }
        assert!(check_small_oid(&[0x87, 0xff, 0xff, 0xff, 0x7f]).is_ok());
        assert!(check_small_oid(&[0x88, 0x80, 0x80, 0x80, 0]).is_err());
    }

    #[test]
    fn lengths_and_tags_have_one_form_too() {
        assert_eq!(check_all(&[0x30, 3, INTEGER, 1, 7]), Ok(()));
        for bad in [
            &[0x30, 0x81, 3, INTEGER, 1, 7][..],
            &[0x30, 0x80, INTEGER, 1, 7, 0, 0],
            &[0x30, 4, INTEGER, 1, 7],
            &[0x9f, 0x1f, 0],
            &[0x24, 3, 4, 1, 7],
            &[0x30, 3, INTEGER, 2, 0, 7],
        ] {
            assert!(check_all(bad).is_err(), "{bad:x?}");
        }
        let deep = |depth| {
            (0..depth).fold(Vec::new(), |within: Vec<u8>, _| {
                [&[0x30, u8::try_from(within.len()).unwrap()][..], &within].concat()
            })
        };
        assert!(check_all(&deep(MAX_DEPTH - 1)).is_ok());
        assert!(check_all(&deep(MAX_DEPTH + 1)).is_err());
    }
}
