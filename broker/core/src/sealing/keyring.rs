//! The keyring, which seals stored secrets.

use std::collections::BTreeMap;

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{RootKey, SealError, aead, open, seal};
use crate::secret::SecretBytes;

/// The keys that seal stored secrets. The newest key is active; the older ones only open what they
/// sealed.
pub struct Keyring {
    keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
    request: String,
}

/// The plain form of the keyring, which exists only while it is sealed or opened.
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
    /// The name under which the root key seals the keyring.
    const NAME: &'static str = "keyring";

    /// Makes a keyring with one new key.
    ///
    /// # Errors
    ///
    /// [`SealError::Random`] if the system's random generator fails.
    pub fn generate() -> Result<Self, SealError> {
        Self {
            keys: BTreeMap::new(),
            request: String::new(),
        }
        .rotated("")
    }

    /// Returns the request that made the active key, so that a retry does not make another key.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.request
    }

    /// Returns this keyring with a new active key, made for this request.
    ///
    /// # Errors
    ///
    /// [`SealError::Random`] if the system's random generator fails.
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

    /// Returns the number of the active key; 0 if the keyring is empty.
    #[must_use]
    pub fn active_key_id(&self) -> u32 {
        self.keys.last_key_value().map_or(0, |(id, _)| *id)
    }

    /// Returns the keyring as the store keeps it, sealed under the root key.
    ///
    /// # Errors
    ///
    /// [`SealError::Random`] if the system's random generator fails.
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
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if the value was altered or sealed under another root key.
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

    /// Seals a value under its name with the active key, and returns the key's number (4 bytes,
    /// big-endian), the nonce (12 bytes), the ciphertext and the tag (16 bytes).
    ///
    /// # Errors
    ///
    /// [`SealError::Random`] if the system's random generator fails.
    pub fn seal(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let id = self.active_key_id();
        let key = self.keys.get(&id).ok_or(SealError::UnknownKey(id))?;
        let mut out = id.to_be_bytes().to_vec();
        out.extend(seal(&aead(key)?, &format!("{id}/{name}"), value)?);
        Ok(out)
    }

    /// Returns the number of the key that opens a sealed value.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if the value is too short to be sealed.
    pub fn key_id(sealed: &[u8]) -> Result<u32, SealError> {
        sealed
            .first_chunk()
            .map(|id| u32::from_be_bytes(*id))
            .ok_or(SealError::Opening)
    }

    /// Opens what [`Keyring::seal`] sealed under this name.
    ///
    /// # Errors
    ///
    /// [`SealError::UnknownKey`] if the keyring lacks the key, [`SealError::Opening`] if the value
    /// was altered or sealed under another name.
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
