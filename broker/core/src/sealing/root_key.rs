//! The root key, which comes from outside, and the keys that are derived from it.

use ring::aead::LessSafeKey;
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::{SealError, aead, open, seal};
use crate::secret::SecretBytes;

/// The length of a tag in bytes: HMAC-SHA-256 cut to its first half (RFC 2104, section 5), since
/// a million tags live in the store's memory.
const TAG_LEN: usize = 16;

/// The keys that are derived from the root key: one for the tags on records, one for identifiers
/// and credentials, one for the wrapping of other keys.
pub struct RootKey {
    records: hmac::Key,
    derivation: hmac::Key,
    wrapping: LessSafeKey,
}

impl RootKey {
    /// Reads the content of a key file: 64 hexadecimal digits with any white space around them, or
    /// 32 raw bytes.
    ///
    /// # Errors
    ///
    /// [`SealError::RootKey`] for any other content.
    pub fn parse(file: &[u8]) -> Result<Self, SealError> {
        if let Ok(raw) = <[u8; 32]>::try_from(file) {
            return Self::new(&Zeroizing::new(raw));
        }
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(file.trim_ascii(), key.as_mut_slice())
            .map_err(|_| SealError::RootKey)?;
        Self::new(&key)
    }

    /// Derives the keys from the 32 bytes of a root key.
    ///
    /// # Errors
    ///
    /// [`SealError::RootKey`] if the derivation fails, which 32 bytes do not cause.
    pub fn new(key: &[u8; 32]) -> Result<Self, SealError> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sundew/v1/root").extract(key);
        let derive = |label: &'static [u8]| -> Result<Zeroizing<[u8; 32]>, SealError> {
            let mut out = Zeroizing::new([0; 32]);
            prk.expand(&[label], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(out.as_mut_slice()))
                .map_err(|_| SealError::RootKey)?;
            Ok(out)
        };
        Ok(Self {
            records: hmac::Key::new(hmac::HMAC_SHA256, derive(b"records")?.as_slice()),
            derivation: hmac::Key::new(hmac::HMAC_SHA256, derive(b"derivation")?.as_slice()),
            wrapping: aead(&*derive(b"wrapping")?)?,
        })
    }

    /// Appends a tag over the record and its place to the record. The place is a list of parts,
    /// such as the kind of the record and its name.
    #[must_use]
    pub fn tag(&self, place: &[&[u8]], mut record: Vec<u8>) -> Vec<u8> {
        let tag = mac(&self.records, place, &record);
        record.extend(tag.as_ref().iter().take(TAG_LEN));
        record
    }

    /// Returns the record without its tag.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if [`RootKey::tag`] did not make the tag for this record in this
    /// place.
    pub fn untag<'a>(&self, place: &[&[u8]], tagged: &'a [u8]) -> Result<&'a [u8], SealError> {
        let split = tagged
            .len()
            .checked_sub(TAG_LEN)
            .ok_or(SealError::Opening)?;
        let (record, tag) = tagged.split_at_checked(split).ok_or(SealError::Opening)?;
        let expected = mac(&self.records, place, record);
        let expected = expected.as_ref().get(..TAG_LEN).ok_or(SealError::Opening)?;
        if subtle::ConstantTimeEq::ct_eq(expected, tag).into() {
            Ok(record)
        } else {
            Err(SealError::Opening)
        }
    }

    /// Returns 32 bytes that only the holder of this key can derive from these parts. Two different
    /// lists of parts are two different inputs, since each part counts with its length.
    #[must_use]
    pub fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(mac(&self.derivation, parts, &[]).as_ref());
        out
    }

    /// Returns the first 16 bytes of [`RootKey::derive`]: an identifier that nobody else can
    /// foresee.
    #[must_use]
    pub fn derive_name(&self, parts: &[&[u8]]) -> [u8; 16] {
        self.derive(parts)
            .first_chunk()
            .copied()
            .unwrap_or_default()
    }

    /// Seals a key of the broker under a name, so that it can be kept outside.
    ///
    /// # Errors
    ///
    /// [`SealError::Random`] if the system's random generator fails.
    pub fn wrap(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        seal(&self.wrapping, name, value)
    }

    /// Opens what [`RootKey::wrap`] sealed under this name.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if the value was altered, or sealed under another name or root key.
    pub fn unwrap(&self, name: &str, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        open(&self.wrapping, name, sealed)
    }
}

/// Returns the HMAC of a list of parts and a tail.
///
/// Each part is preceded by its length, and the list is closed by a length that no part can have,
/// so that bytes cannot move between neighbouring parts or into the tail.
fn mac(key: &hmac::Key, parts: &[&[u8]], tail: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.update(&u64::MAX.to_be_bytes());
    context.update(tail);
    context.sign()
}
