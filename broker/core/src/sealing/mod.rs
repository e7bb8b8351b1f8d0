//! Sealing: the root key, the keys that are derived from it, and the keyring that seals secrets.
//!
//! P8: sealed values carry their name as associated data, so that swapped values do not open.
//! Records carry a tag over their place and content, so that an edited or moved record is refused
//! (T71).

mod keyring;
mod root_key;
#[cfg(test)]
mod tests;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::secret::SecretBytes;

pub use keyring::Keyring;
pub use root_key::{KeyFingerprint, RootKey};

/// The reason why a value cannot be sealed or opened. It tells nothing more on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// The value was altered, was moved, or was sealed under another key.
    #[error("does not open: altered, moved, or sealed under another key")]
    Opening,
    /// The system's random generator failed.
    #[error("no randomness")]
    Random,
    /// The bytes are not a root key, which has 32 bytes.
    #[error("root key must be 32 bytes, as hexadecimal or raw")]
    RootKey,
    /// A root key is there twice, or there are too many.
    #[error("each root key may be there once, and three beside the active one")]
    RootKeys,
    /// The keyring has no key with this number.
    #[error("key {0} is not in the keyring")]
    UnknownKey(u32),
}

/// Makes an AES-256-GCM key from its 32 bytes.
fn aead(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    Ok(LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError::RootKey)?,
    ))
}

/// Seals a value under its name, and returns the nonce (12 bytes), the ciphertext and the tag (16
/// bytes).
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

/// Opens what [`seal`] returned for this key and this name.
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
