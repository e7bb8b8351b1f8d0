//! Secret bytes, and the credential that Sundew issues.
//!
//! P8: only [`TokenHash`] is stored. P9: neither type prints, and both are wiped when dropped.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::id::{TaskId, TokenId};

/// Bytes that must not be shown. No `Debug`, `Display`, `Serialize` or `PartialEq`.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The one way to the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether both hold the same bytes, in time that does not depend on them.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

/// SHA-256 of a credential: what the store has instead of it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The name of the token that has this hash.
    #[must_use]
    pub fn token_id(&self) -> TokenId {
        TokenId::from_bytes(self.0.first_chunk().copied().unwrap_or_default())
    }
}

const PREFIX: &str = "sdw_";

/// A token as its holder has it: `sdw_` and base64url of the task id (16 bytes) and 256 secret
/// bits.
///
/// The task id is there so that a record is found in the hash slot of its task.
pub struct Credential {
    task: TaskId,
    secret: Zeroizing<[u8; 32]>,
}

impl Credential {
    /// Of a task and 256 secret bits.
    #[must_use]
    pub fn new(task: TaskId, secret: [u8; 32]) -> Self {
        Self {
            task,
            secret: Zeroizing::new(secret),
        }
    }

    /// Parses what a caller presents. Tells nothing about whether such a token exists.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX).filter(|e| e.len() == 64)?;
        let mut bytes = Zeroizing::new([0; 48]);
        if URL_SAFE_NO_PAD
            .decode_slice(encoded, bytes.as_mut_slice())
            .ok()?
            != 48
        {
            return None;
        }
        let (task, secret) = bytes.split_at_checked(16)?;
        Some(Self {
            task: TaskId::from_bytes(task.try_into().ok()?),
            secret: Zeroizing::new(secret.try_into().ok()?),
        })
    }

    /// The task that it belongs to.
    #[must_use]
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// What the store knows it by.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.task.as_bytes());
        context.update(self.secret.as_slice());
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        TokenHash(out)
    }

    /// The text that the holder gets; the one way to it.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(48));
        bytes.extend_from_slice(self.task.as_bytes());
        bytes.extend_from_slice(self.secret.as_slice());
        let mut text = Zeroizing::new(String::with_capacity(68));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        bytes.zeroize();
        text
    }
}
