//! A token: a credential that says what its holder may do under a task.

use std::fmt;
use std::time::Duration;

use sundew_core::client::SecretBytes;
use sundew_proto::v1::{self, MintTokenRequest};

use super::random_key;
use crate::call::{client, repeated};
use crate::connection::Connection;
use crate::error::Error;

/// A credential that the broker made for a task. `Debug` shows its ID only (P9).
pub struct Token {
    credential: SecretBytes,
    id: String,
    scopes: Vec<String>,
    expires_at_ms: i64,
    certificate: [u8; 32],
    is_bearer: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Takes the broker's answer. The token is bound to the certificate that the broker names; brokers of
    /// before name none, and bind it to that of the connection on which it was asked for.
    pub(super) fn of(token: Option<v1::Token>, connection: &Connection) -> Result<Self, Error> {
        let token =
            token.ok_or_else(|| Error::Unavailable("the broker sent no token".to_owned()))?;
        let named = token.certificate_sha256.as_slice().try_into();
        let certificate = named.unwrap_or_else(|_| connection.identity().thumbprint());
        let is_bearer = token.binding() == v1::Binding::Bearer;
        Ok(Self {
            credential: SecretBytes::new(token.token.into_bytes()),
            id: token.token_id,
            scopes: token.scopes,
            expires_at_ms: token.expires_at_ms,
            certificate,
            is_bearer,
        })
    }

    /// Takes a token that an enclosing task has handed out.
    pub(crate) fn handed_out(
        credential: String,
        id: String,
        scopes: Vec<String>,
        expires_at_ms: i64,
        certificate: [u8; 32],
    ) -> Self {
        Self {
            credential: SecretBytes::new(credential.into_bytes()),
            id,
            scopes,
            expires_at_ms,
            certificate,
            is_bearer: certificate == [0; 32],
        }
    }

    /// Tells whether the token is good in anybody's hands.
    #[must_use]
    pub fn is_bearer(&self) -> bool {
        self.is_bearer
    }

    /// Returns the SHA-256 of the certificate that the token is bound to. The token is good only
    /// over a connection with that certificate.
    #[must_use]
    pub fn certificate_sha256(&self) -> &[u8; 32] {
        &self.certificate
    }

    /// Returns the credential itself, as it is sent to a resource server.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.credential.expose()).unwrap_or_default()
    }

    /// Returns the token's name in lists and records. The name is not a credential.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the scopes that the token is good for.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Returns when the token expires, in milliseconds since the epoch.
    #[must_use]
    pub fn expires_at_ms(&self) -> i64 {
        self.expires_at_ms
    }
}

/// Asks for a token of this task on this connection, as `request` describes it.
pub(super) async fn mint(
    connection: &Connection,
    task: &str,
    request: MintTokenRequest,
) -> Result<Token, Error> {
    let request = MintTokenRequest {
        task_id: task.to_owned(),
        idempotency_key: random_key()?,
        ..request
    };
    let answer =
        repeated(|| async { client(connection).mint_token(request.clone()).await }).await?;
    Token::of(answer.into_inner().token, connection)
}

/// Returns a time to live as the wire has it, in milliseconds. Zero is the wire's word for "not
/// asked", so a time below a millisecond asks for one millisecond.
pub(crate) fn ttl_ms(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
}
