//! A handle of a task: what asks for tokens and secrets of it, and does not own it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sundew_core::client::{BindingPurpose, SecretBytes, thumbprint};
use sundew_proto::v1::{Binding, GetSecretRequest, GetSecretResponse, MintTokenRequest};

use super::token::{mint, ttl_ms};
use super::{Secret, Shared, Task, Token};
use crate::agent::Agent;
use crate::call::{client, repeated};
use crate::connection::Connection;
use crate::ended::Ended;
use crate::error::Error;

/// Asks for tokens and secrets of a task that somebody else owns, and that may end at any time. A
/// clone is of the same task.
#[derive(Clone)]
pub struct TaskHandle {
    agent: Agent,
    shared: Arc<Shared>,
    evidence_at_secrets: bool,
}

/// What a token is to be good for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenRequest {
    /// Its scopes, within those of the task; all of them if none are named.
    pub scopes: Vec<String>,
    /// What it is meant for, such as `https://api.example`; all audiences that the registration
    /// names if none are.
    pub audience: Vec<String>,
    /// How long it is to be good; the registration may allow less.
    pub ttl: Option<Duration>,
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle")
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}

impl TaskHandle {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            agent: task.agent.clone(),
            shared: Arc::clone(&task.shared),
            evidence_at_secrets: task.evidence_at_secrets,
        }
    }

    /// Reads a secret, as [`Task::secret`].
    ///
    /// # Errors
    /// As [`Task::secret`].
    pub async fn secret(&self, name: &str) -> Result<Secret, Error> {
        Ok(Secret(SecretBytes::new(self.read(name).await?.value)))
    }

    /// Mints a token that is bound to a certificate in DER that somebody else shows. Whether he has
    /// its key is for the caller to find out.
    ///
    /// # Errors
    /// As [`Task::mint`], and [`Error::Invalid`] for a certificate that the broker does not take.
    pub async fn mint_for(&self, certificate: &[u8], what: &TokenRequest) -> Result<Token, Error> {
        let request = MintTokenRequest {
            binding: Binding::Certificate.into(),
            certificate: certificate.to_vec(),
            ..message(what)
        };
        let token = self.mint(request).await?;
        // P8: a broker that does not know the field binds the token to this process's own SVID.
        if *token.certificate_sha256() == thumbprint(certificate) {
            Ok(token)
        } else {
            Err(Error::Unavailable(
                "the broker is of a version that binds no token to another certificate; it has to \
                 be updated"
                    .to_owned(),
            ))
        }
    }

    /// Mints a token that is good in anybody's hands, where the registration allows that.
    ///
    /// # Errors
    /// As [`Task::mint`].
    pub async fn mint_bearer(&self, what: &TokenRequest) -> Result<Token, Error> {
        let request = MintTokenRequest {
            binding: Binding::Bearer.into(),
            ..message(what)
        };
        self.mint(request).await
    }

    /// Returns how the task ended, as far as the SDK has heard.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        *self.shared.ended.borrow()
    }

    /// Tells whether the task is suspended, as [`Task::is_suspended`].
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.shared.suspended.borrow()
    }

    async fn mint(&self, request: MintTokenRequest) -> Result<Token, Error> {
        self.known(mint(&self.connection(), &self.shared.id, request).await)
    }

    pub(super) async fn read(&self, name: &str) -> Result<GetSecretResponse, Error> {
        let plain = GetSecretRequest {
            task_id: self.shared.id.clone(),
            name: name.to_owned(),
            ..GetSecretRequest::default()
        };
        if !self.evidence_at_secrets {
            let answer =
                repeated(|| async { client(&self.connection()).get_secret(plain.clone()).await });
            return Ok(self.known(answer.await)?.into_inner());
        }
        let call = |connection: Arc<Connection>, nonce, evidence| {
            let request = GetSecretRequest {
                nonce,
                evidence,
                ..plain.clone()
            };
            async move { client(&connection).get_secret(request).await }
        };
        let answer = self
            .agent
            .call_with_evidence(BindingPurpose::GetSecret, || Ok(self.connection()), call)
            .await;
        Ok(self.known(answer)?.into_inner())
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        self.shared.connection.load_full()
    }

    /// Turns a refusal into [`Error::Ended`] or [`Error::Suspended`] if the task is known to have
    /// ended or to be suspended.
    pub(super) fn known<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let Err(Error::NotPermitted { correlation }) = answer else {
            return answer;
        };
        match self.ended() {
            Some(ended) => Err(Error::Ended(ended)),
            None if self.is_suspended() => Err(Error::Suspended { correlation }),
            None => Err(Error::NotPermitted { correlation }),
        }
    }
}

/// Returns what a token is to be good for, as the wire has it.
fn message(what: &TokenRequest) -> MintTokenRequest {
    MintTokenRequest {
        scopes: what.scopes.clone(),
        audience: what.audience.clone(),
        ttl_ms: what.ttl.map_or(0, ttl_ms),
        ..MintTokenRequest::default()
    }
}
