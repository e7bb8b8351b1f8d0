//! Keys: one root key from outside, what is derived from it, and the keyring that seals secrets.
//!
//! P8: sealed values carry their name as associated data, so that swapped records do not open;
//! records carry a tag over their place and content, so that an edited record is no record (T71).

use std::collections::BTreeMap;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{hkdf, hmac};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::credential::SecretBytes;

/// Why something does not open. Tells nothing more on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// Another place, another content, another key.
    #[error("does not open: altered, moved, or sealed under another key")]
    Opening,
    /// The system's random generator failed.
    #[error("no randomness")]
    Random,
    /// A root key must be 32 bytes.
    #[error("root key must be 32 bytes, as hexadecimal or raw")]
    RootKey,
    /// A key that the keyring does not have.
    #[error("key {0} is not in the keyring")]
    UnknownKey(u32),
}

/// HMAC-SHA-256 cut to its first half (RFC 2104, section 5): a million tags live in the store's
/// memory.
const TAG: usize = 16;

/// Derived from the root key: the tag on records, the derivation of identifiers and credentials,
/// and the wrapping of keys.
pub struct RootKey {
    records: hmac::Key,
    derivation: hmac::Key,
    wrapping: LessSafeKey,
}

impl RootKey {
    /// Reads a key file: 64 hexadecimal digits (and white space around), or 32 raw bytes.
    pub fn parse(file: &[u8]) -> Result<Self, SealError> {
        if let Ok(raw) = <[u8; 32]>::try_from(file) {
            return Self::new(&Zeroizing::new(raw));
        }
        let digits = file.trim_ascii();
        let mut key = Zeroizing::new([0; 32]);
        if digits.len() != 64 {
            return Err(SealError::RootKey);
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| SealError::RootKey)?;
            *byte = u8::from_str_radix(text, 16).map_err(|_| SealError::RootKey)?;
        }
        Self::new(&key)
    }

    /// From 32 bytes.
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

    /// Appends a tag over the record and its place.
    #[must_use]
    pub fn tag(&self, place: &[&[u8]], mut record: Vec<u8>) -> Vec<u8> {
        let tag = self.mac(&self.records, place, &record);
        record.extend(tag.as_ref().iter().take(TAG));
        record
    }

    /// The record, if its tag is this place's.
    pub fn untag<'a>(&self, place: &[&[u8]], tagged: &'a [u8]) -> Result<&'a [u8], SealError> {
        let split = tagged.len().checked_sub(TAG).ok_or(SealError::Opening)?;
        let (record, tag) = tagged.split_at_checked(split).ok_or(SealError::Opening)?;
        let mut context = hmac::Context::with_key(&self.records);
        absorb(&mut context, place);
        context.update(record);
        let expected = context.sign();
        let expected = expected.as_ref().get(..TAG).ok_or(SealError::Opening)?;
        if subtle::ConstantTimeEq::ct_eq(expected, tag).into() {
            Ok(record)
        } else {
            Err(SealError::Opening)
        }
    }

    /// 32 bytes that only this key can derive from these parts. Injective: each part counts with
    /// its length.
    #[must_use]
    pub fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.mac(&self.derivation, parts, &[]).as_ref());
        out
    }

    /// The first 16 bytes of [`RootKey::derive`]: a name that nobody else can foresee.
    #[must_use]
    pub fn derive_name(&self, parts: &[&[u8]]) -> [u8; 16] {
        self.derive(parts)
            .first_chunk()
            .copied()
            .unwrap_or_default()
    }

    fn mac(&self, key: &hmac::Key, parts: &[&[u8]], tail: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        absorb(&mut context, parts);
        context.update(tail);
        context.sign()
    }

    /// Seals a key of ours for keeping outside.
    pub fn wrap(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        seal(&self.wrapping, name, value)
    }

    /// Opens what [`RootKey::wrap`] sealed under the same name.
    pub fn unwrap(&self, name: &str, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        open(&self.wrapping, name, sealed)
    }
}

/// The keys that seal stored secrets: one active, the older ones still opening.
pub struct Keyring {
    keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
    request: String,
}

#[derive(Deserialize, Serialize)]
struct StoredKeyring {
    keys: Vec<(u32, Vec<u8>)>,
    #[serde(default)]
    request: String,
}

impl Drop for StoredKeyring {
    fn drop(&mut self) {
        self.keys.iter_mut().for_each(|(_, key)| key.zeroize());
    }
}

impl Keyring {
    const NAME: &'static str = "keyring";

    /// A keyring with one new key.
    pub fn generate() -> Result<Self, SealError> {
        Self {
            keys: BTreeMap::new(),
            request: String::new(),
        }
        .rotated("")
    }

    /// Which request made the active key, so that a retry does not make another.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.request
    }

    /// The same keyring with a new active key, made for this request.
    pub fn rotated(&self, request: &str) -> Result<Self, SealError> {
        let mut keys = self.keys.clone();
        let mut key = Zeroizing::new([0; 32]);
        SystemRandom::new()
            .fill(key.as_mut_slice())
            .map_err(|_| SealError::Random)?;
        keys.insert(self.active_key_id().saturating_add(1), key);
        Ok(Self {
            keys,
            request: request.to_owned(),
        })
    }

    /// Which key seals; 0 if there is none.
    #[must_use]
    pub fn active_key_id(&self) -> u32 {
        self.keys.last_key_value().map_or(0, |(id, _)| *id)
    }

    /// For keeping in the store, sealed under the root key.
    pub fn wrap(&self, root: &RootKey) -> Result<Vec<u8>, SealError> {
        let stored = StoredKeyring {
            keys: self
                .keys
                .iter()
                .map(|(id, key)| (*id, key.to_vec()))
                .collect(),
            request: self.request.clone(),
        };
        let text = Zeroizing::new(serde_json::to_vec(&stored).map_err(|_| SealError::Opening)?);
        root.wrap(Self::NAME, &text)
    }

    /// Opens what [`Keyring::wrap`] sealed.
    pub fn unwrap(root: &RootKey, sealed: &[u8]) -> Result<Self, SealError> {
        let text = root.unwrap(Self::NAME, sealed)?;
        let stored: StoredKeyring =
            serde_json::from_slice(text.expose()).map_err(|_| SealError::Opening)?;
        let mut keys = BTreeMap::new();
        for (id, key) in &stored.keys {
            keys.insert(
                *id,
                Zeroizing::new(
                    <[u8; 32]>::try_from(key.as_slice()).map_err(|_| SealError::Opening)?,
                ),
            );
        }
        Ok(Self {
            keys,
            request: stored.request.clone(),
        })
    }

    /// Seals under the active key: key id (4 bytes, big-endian), nonce (12), ciphertext and tag.
    pub fn seal(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let id = self.active_key_id();
        let key = self.keys.get(&id).ok_or(SealError::UnknownKey(id))?;
        let mut out = id.to_be_bytes().to_vec();
        out.extend(seal(&aead(key)?, &format!("{id}/{name}"), value)?);
        Ok(out)
    }

    /// Which key a sealed value needs.
    pub fn key_id(sealed: &[u8]) -> Result<u32, SealError> {
        sealed
            .first_chunk()
            .map(|id| u32::from_be_bytes(*id))
            .ok_or(SealError::Opening)
    }

    /// Opens what [`Keyring::seal`] sealed under the same name.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        let id = Self::key_id(sealed)?;
        let key = self.keys.get(&id).ok_or(SealError::UnknownKey(id))?;
        open(
            &aead(key)?,
            &format!("{id}/{name}"),
            sealed.get(4..).ok_or(SealError::Opening)?,
        )
    }
}

fn absorb(context: &mut hmac::Context, parts: &[&[u8]]) {
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.update(&u64::MAX.to_be_bytes());
}

fn aead(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    Ok(LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError::RootKey)?,
    ))
}

fn seal(key: &LessSafeKey, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| SealError::Random)?;
    let mut out = nonce.to_vec();
    let mut body = Zeroizing::new(value.to_vec());
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(name.as_bytes()),
            body.as_mut_slice(),
        )
        .map_err(|_| SealError::Opening)?;
    out.extend_from_slice(&body);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open(key: &LessSafeKey, name: &str, sealed: &[u8]) -> Result<SecretBytes, SealError> {
    let (nonce, body) = sealed
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(SealError::Opening)?;
    let mut body = Zeroizing::new(body.to_vec());
    let plain = key
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(name.as_bytes()),
            body.as_mut_slice(),
        )
        .map_err(|_| SealError::Opening)?;
    Ok(SecretBytes::new(plain.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ac_63_a_sealed_value_opens_only_under_its_own_name() {
        let ring = Keyring::generate().unwrap();
        let sealed = ring.seal("a", b"value").unwrap();
        assert_eq!(ring.open("a", &sealed).unwrap().expose(), b"value");
        assert_eq!(ring.open("b", &sealed).err(), Some(SealError::Opening));
    }

    #[test]
    fn rotation_keeps_old_values_readable_and_old_keyrings_do_not_read_new_ones() {
        let root = RootKey::new(&[7; 32]).unwrap();
        let old = Keyring::generate().unwrap();
        let sealed = old.seal("a", b"value").unwrap();
        let new = Keyring::unwrap(&root, &old.rotated("r").unwrap().wrap(&root).unwrap()).unwrap();
        assert_eq!((old.active_key_id(), new.active_key_id()), (1, 2));
        assert_eq!(new.open("a", &sealed).unwrap().expose(), b"value");
        assert_eq!(
            old.open("a", &new.seal("a", b"x").unwrap()).err(),
            Some(SealError::UnknownKey(2))
        );
        let other = RootKey::new(&[8; 32]).unwrap();
        assert!(Keyring::unwrap(&other, &new.wrap(&root).unwrap()).is_err());
    }

    #[test]
    fn t71_every_flipped_bit_of_a_record_and_every_other_place_is_noticed() {
        let root = RootKey::new(&[7; 32]).unwrap();
        let tagged = root.tag(&[b"token", b"a:b", b"c"], b"{\"scope\":1}".to_vec());
        assert_eq!(
            root.untag(&[b"token", b"a:b", b"c"], &tagged),
            Ok(&b"{\"scope\":1}"[..])
        );
        assert!(
            root.untag(&[b"token", b"a", b"b:c"], &tagged).is_err()
                && root.untag(&[b"token", b"a:b"], &tagged).is_err()
        );
        for bit in 0..tagged.len() * 8 {
            let mut edited = tagged.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            assert!(root.untag(&[b"token", b"a:b", b"c"], &edited).is_err());
        }
        for length in 0..tagged.len() {
            assert!(
                root.untag(&[b"token", b"a:b", b"c"], &tagged[..length])
                    .is_err()
            );
        }
    }
}
