//! The credential that Sundew issues, and the hash that the store keeps instead.
//!
//! P8: only [`TokenHash`] is stored. P9: [`Credential`] cannot be printed, and its secret is wiped
//! when it is dropped.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use zeroize::{Zeroize as _, Zeroizing};

use crate::id::{OrderId, TaskId, TokenId};

/// The SHA-256 digest of a credential. The store keeps it instead of the credential.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Returns the 32 bytes of the hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Makes a hash from its 32 bytes, as a store reads them back.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the identifier of the token with this hash: the first half of it.
    #[must_use]
    pub fn token_id(&self) -> TokenId {
        TokenId::from_bytes(self.0.first_chunk().copied().unwrap_or_default())
    }
}

/// The text before the encoded part of every credential.
const CREDENTIAL_PREFIX: &str = "sdw_";

/// A token as its holder has it: `sdw_`, then base64url of the task identifier (16 bytes) and of
/// 256 secret bits.
///
/// The task identifier is part of it so that a store finds the token beside its task, in the hash
/// slot of the task. A credential cannot be printed:
///
/// ```compile_fail,E0277
/// fn print(credential: &sundew_core::Credential) {
///     println!("{credential:?}");
/// }
/// ```
///
/// The text of a credential comes from [`Credential::expose`] only:
///
/// ```
/// fn print(credential: &sundew_core::Credential) {
///     println!("{}", *credential.expose());
/// }
/// ```
pub struct Credential {
    task: TaskId,
    secret: Zeroizing<[u8; 32]>,
}

impl Credential {
    /// Makes the credential of a task from 256 secret bits.
    #[must_use]
    pub fn new(task: TaskId, secret: [u8; 32]) -> Self {
        Self {
            task,
            secret: Zeroizing::new(secret),
        }
    }

    /// Parses the text that a caller presents, and returns `None` if the text cannot be a
    /// credential. A result says nothing about whether such a token exists.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_after(CREDENTIAL_PREFIX, text)
    }

    /// Parses a credential that begins with this prefix.
    fn parse_after(prefix: &str, text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(prefix).filter(|e| e.len() == 64)?;
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

    /// Returns the task that the token belongs to.
    #[must_use]
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// Returns the hash under which the store keeps the token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.task.as_bytes());
        context.update(self.secret.as_slice());
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        TokenHash(out)
    }

    /// Returns the text that the holder gets. There is no other way to the secret.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        self.expose_after(CREDENTIAL_PREFIX)
    }

    fn expose_after(&self, prefix: &str) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(48));
        bytes.extend_from_slice(self.task.as_bytes());
        bytes.extend_from_slice(self.secret.as_slice());
        let mut text = Zeroizing::new(String::with_capacity(68));
        text.push_str(prefix);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        bytes.zeroize();
        text
    }
}

/// The text before the encoded part of every ticket.
const TICKET_PREFIX: &str = "sdo_";

/// A ticket as its holder has it: what claims the one task of an order. It has the form of a
/// [`Credential`], with `sdo_` before it, and like one it cannot be printed.
pub struct Ticket(Credential);

impl Ticket {
    /// Makes the ticket of an order from 256 secret bits.
    #[must_use]
    pub fn new(order: OrderId, secret: [u8; 32]) -> Self {
        Self(Credential::new(order.task(), secret))
    }

    /// Parses the text that a caller presents, and returns `None` if the text cannot be a ticket. A
    /// result says nothing about whether there is such an order.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Credential::parse_after(TICKET_PREFIX, text).map(Self)
    }

    /// Returns the order that the ticket is for.
    #[must_use]
    pub fn order(&self) -> OrderId {
        OrderId::of_task(self.0.task())
    }

    /// Returns the SHA-256 digest of the ticket, which the store keeps instead (P8).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.0.hash().0
    }

    /// Returns the text that the holder gets. There is no other way to the secret.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        self.0.expose_after(TICKET_PREFIX)
    }
}
