//! Serial numbers of SVIDs, as rules see them.
//!
//! The holder of an SVID renews it, and each renewal has another serial number. So that no rule is
//! shaken off by a renewal (I1), the numbers of all renewals of one SVID have a part in common, and
//! a rule that names one of them is about all of them.

use super::Attribute;

/// The length of a serial number, in bytes: the most that a certificate may have (RFC 5280, section
/// 4.1.2.2).
const LENGTH: usize = 20;
/// What a serial number of an embedded CA begins with. The number is positive by that.
const MARK: [u8; 2] = [0x53, 0x44];
/// The length of the part that all renewals have in common, in bytes.
const COMMON: usize = 9;

/// What the serial numbers of all renewals of one SVID have in common.
pub type Renewals = [u8; COMMON];

/// Makes the serial number of an SVID from random bytes. `before` is the big-endian number of the
/// SVID that it renews, if it renews one.
#[must_use]
pub fn svid_serial(before: Option<&[u8]>, random: [u8; 2 * COMMON]) -> [u8; LENGTH] {
    let common = before.map(renewals_of);
    let parts = MARK.into_iter().chain(random);
    let mut serial = [0; LENGTH];
    for (byte, part) in serial.iter_mut().zip(parts) {
        *byte = part;
    }
    let place = serial.iter_mut().skip(MARK.len());
    for (byte, part) in place.zip(common.into_iter().flatten()) {
        *byte = part;
    }
    serial
}

/// Returns what a big-endian serial number has in common with those of all renewals. One that is in
/// no form of ours, as those of other issuers and of older brokers, stands for itself.
fn renewals_of(serial: &[u8]) -> Renewals {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    let serial = serial.get(zeros..).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, serial);
    let common = match serial.strip_prefix(&MARK) {
        Some(rest) if serial.len() == LENGTH => rest,
        Some(_) | None => digest.as_ref(),
    };
    common.first_chunk().copied().unwrap_or_default()
}

/// Returns the attribute of a big-endian serial number.
pub(crate) fn serial_attribute(serial: &[u8]) -> Attribute {
    Attribute::Renewals(renewals_of(serial))
}

/// Returns the attribute of a serial number in hexadecimal, as a selector has it.
pub(super) fn attribute_of_text(serial: &str) -> Attribute {
    let even = serial.len().is_multiple_of(2);
    let text = if even {
        serial.to_owned()
    } else {
        format!("0{serial}")
    };
    // The check of the selector has let nothing else in.
    serial_attribute(&hex::decode(text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_have_a_part_in_common_and_others_have_not() {
        let first = svid_serial(None, [1; 18]);
        let next = svid_serial(Some(&first), [2; 18]);
        let last = svid_serial(Some(&next), [3; 18]);
        assert!(first != next && next != last);
        assert_eq!(next[11..], [2; 9]);
        for renewed in [next, last] {
            assert_eq!(serial_attribute(&renewed), serial_attribute(&first));
            assert_eq!(
                attribute_of_text(&hex::encode(renewed)),
                serial_attribute(&first)
            );
        }
        let other = svid_serial(None, [4; 18]);
        assert_ne!(serial_attribute(&other), serial_attribute(&first));
    }

    #[test]
    fn a_serial_of_another_form_stands_for_itself_and_for_its_renewals() {
        let mut foreign = svid_serial(None, [1; 18]);
        foreign[0] = 0x52;
        for before in [&[0x40, 7][..], &[7], &[0], &foreign, &foreign[1..]] {
            let own = serial_attribute(before);
            let next = svid_serial(Some(before), [9; 18]);
            assert_eq!(serial_attribute(&next), own);
            let padded = [&[0], before].concat();
            assert_eq!(
                serial_attribute(&padded),
                own,
                "a zero only keeps it positive"
            );
            assert_eq!(attribute_of_text(&hex::encode(before)), own);
            let other = [before, &[1]].concat();
            assert_ne!(serial_attribute(&other), own);
        }
        assert_eq!(attribute_of_text("7"), serial_attribute(&[7]));
    }
}
