//! Root keys, which come from outside, and the keys that are derived from them.

use std::fmt;

use ring::aead::LessSafeKey;
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::{SealError, aead, open, seal};
use crate::secret::SecretBytes;

/// The length of a tag in bytes: HMAC-SHA-256 cut to its first half (RFC 2104, section 5), since
/// a million tags live in the store's memory.
const TAG_LEN: usize = 16;

/// The most keys that are accepted beside the active one.
const MAX_OTHERS: usize = 3;

/// The name of a root key, which tells nothing of the key: the first 8 bytes of an HMAC under it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct KeyFingerprint(pub [u8; 8]);

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The root keys of a broker. The active one makes tags, names, credentials and seals. The others
/// open what is under them, as before or after a rotation, and go on with what they began: what
/// belongs to a task is made under the key of the task.
pub struct RootKey {
    active: Keys,
    others: Vec<Keys>,
}

/// The keys that are derived from one root key: one for the tags on records, one for identifiers
/// and credentials, one for the wrapping of other keys.
struct Keys {
    name: KeyFingerprint,
    records: hmac::Key,
    derivation: hmac::Key,
    wrapping: LessSafeKey,
}

impl Keys {
    fn tag(&self, place: &[&[u8]], mut record: Vec<u8>) -> Vec<u8> {
        let tag = mac(&self.records, place, &record);
        record.extend(tag.as_ref().iter().take(TAG_LEN));
        record
    }

    fn untag<'a>(&self, place: &[&[u8]], tagged: &'a [u8]) -> Option<&'a [u8]> {
        let split = tagged.len().checked_sub(TAG_LEN)?;
        let (record, tag) = tagged.split_at_checked(split)?;
        let expected = mac(&self.records, place, record);
        let expected = expected.as_ref().get(..TAG_LEN)?;
        bool::from(subtle::ConstantTimeEq::ct_eq(expected, tag)).then_some(record)
    }

    fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(mac(&self.derivation, parts, &[]).as_ref());
        out
    }
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
        let name = hmac::Key::new(hmac::HMAC_SHA256, derive(b"fingerprint")?.as_slice());
        let name = mac(&name, &[], &[]);
        let name = name.as_ref().first_chunk().ok_or(SealError::RootKey)?;
        let active = Keys {
            name: KeyFingerprint(*name),
            records: hmac::Key::new(hmac::HMAC_SHA256, derive(b"records")?.as_slice()),
            derivation: hmac::Key::new(hmac::HMAC_SHA256, derive(b"derivation")?.as_slice()),
            wrapping: aead(&*derive(b"wrapping")?)?,
        };
        Ok(Self {
            active,
            others: Vec::new(),
        })
    }

    /// Returns this key as the active one, with the active keys of these as others that are accepted.
    ///
    /// # Errors
    ///
    /// [`SealError::RootKeys`] if a key comes twice, or if they are more than four.
    pub fn accepting(self, others: impl IntoIterator<Item = Self>) -> Result<Self, SealError> {
        let mut all = self;
        for other in others {
            let is_known = all.names().any(|name| name == other.active.name);
            if is_known || all.others.len() == MAX_OTHERS {
                return Err(SealError::RootKeys);
            }
            all.others.push(other.active);
        }
        Ok(all)
    }

    /// Returns the name of the active key.
    #[must_use]
    pub fn active(&self) -> KeyFingerprint {
        self.active.name
    }

    /// Returns the names of all keys, that of the active one first.
    pub fn names(&self) -> impl Iterator<Item = KeyFingerprint> {
        self.all().map(|keys| keys.name)
    }

    fn all(&self) -> impl Iterator<Item = &Keys> {
        std::iter::once(&self.active).chain(&self.others)
    }

    /// Returns the key of this name. Of the broker's own keys none goes while it runs, so the name
    /// of a key that is none of them comes from nowhere, and stands for the active one.
    fn key(&self, name: KeyFingerprint) -> &Keys {
        let found = self.others.iter().find(|keys| keys.name == name);
        found.unwrap_or(&self.active)
    }

    /// Appends a tag over the record and its place to the record, under the active key. The place is
    /// a list of parts, such as the kind of the record and its name.
    #[must_use]
    pub fn tag(&self, place: &[&[u8]], record: Vec<u8>) -> Vec<u8> {
        self.active.tag(place, record)
    }

    /// Appends a tag like [`RootKey::tag`], under the key of this name.
    #[must_use]
    pub fn tag_under(&self, name: KeyFingerprint, place: &[&[u8]], record: Vec<u8>) -> Vec<u8> {
        self.key(name).tag(place, record)
    }

    /// Returns the record without its tag.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if [`RootKey::tag`] did not make the tag for this record in this
    /// place, under any of the keys.
    pub fn untag<'a>(&self, place: &[&[u8]], tagged: &'a [u8]) -> Result<&'a [u8], SealError> {
        self.untag_by(place, tagged).map(|(record, _)| record)
    }

    /// Returns the record without its tag, and the name of the key that made the tag.
    ///
    /// # Errors
    ///
    /// As [`RootKey::untag`].
    pub fn untag_by<'a>(
        &self,
        place: &[&[u8]],
        tagged: &'a [u8],
    ) -> Result<(&'a [u8], KeyFingerprint), SealError> {
        let mut opened = self
            .all()
            .filter_map(|keys| Some((keys.untag(place, tagged)?, keys.name)));
        opened.next().ok_or(SealError::Opening)
    }

    /// Returns 32 bytes that only the holder of the active key can derive from these parts. Two
    /// different lists of parts are two different inputs, since each part counts with its length.
    #[must_use]
    pub fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.active.derive(parts)
    }

    /// Derives like [`RootKey::derive`], under the key of this name.
    #[must_use]
    pub fn derive_under(&self, name: KeyFingerprint, parts: &[&[u8]]) -> [u8; 32] {
        self.key(name).derive(parts)
    }

    /// Derives like [`RootKey::derive`] under each key, the active one first: whoever looks for what
    /// was derived before looks for each of them.
    #[must_use]
    pub fn derive_each(&self, parts: &[&[u8]]) -> Vec<[u8; 32]> {
        self.all().map(|keys| keys.derive(parts)).collect()
    }

    /// Returns the first 16 bytes of [`RootKey::derive`]: an identifier that nobody else can
    /// foresee.
    #[must_use]
    pub fn derive_name(&self, parts: &[&[u8]]) -> [u8; 16] {
        name_of(self.derive(parts))
    }

    /// Returns the first 16 bytes of [`RootKey::derive_under`].
    #[must_use]
    pub fn derive_name_under(&self, name: KeyFingerprint, parts: &[&[u8]]) -> [u8; 16] {
        name_of(self.derive_under(name, parts))
    }

    /// Returns the first 16 bytes of each of [`RootKey::derive_each`].
    #[must_use]
    pub fn derive_name_each(&self, parts: &[&[u8]]) -> Vec<[u8; 16]> {
        self.derive_each(parts).into_iter().map(name_of).collect()
    }

    /// Seals a key of the broker under a name and the active key, so that it can be kept outside.
    ///
    /// # Errors
    ///
    /// [`SealError::Random`] if the system's random generator fails.
    pub fn wrap(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        seal(&self.active.wrapping, name, value)
    }

    /// Opens what [`RootKey::wrap`] sealed under this name.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if the value was altered, or sealed under another name or none of the
    /// keys.
    pub fn unwrap(&self, name: &str, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        self.unwrap_by(name, sealed).map(|(value, _)| value)
    }

    /// Opens like [`RootKey::unwrap`], and returns the name of the key that sealed the value.
    ///
    /// # Errors
    ///
    /// As [`RootKey::unwrap`].
    pub fn unwrap_by(
        &self,
        name: &str,
        sealed: &[u8],
    ) -> Result<(SecretBytes, KeyFingerprint), SealError> {
        let mut opened = self
            .all()
            .filter_map(|keys| Some((open(&keys.wrapping, name, sealed).ok()?, keys.name)));
        opened.next().ok_or(SealError::Opening)
    }
}

fn name_of(derived: [u8; 32]) -> [u8; 16] {
    derived.first_chunk().copied().unwrap_or_default()
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
