//! The task within which this program runs, and which another process owns: `sundew run`.
//!
//! Programs need no identity for this. They ask a socket that `SUNDEW_TASK_SOCKET` names, by the HTTP
//! that `broker/cli/task-socket.openapi.json` describes, and are believed because they are processes
//! of the task.

mod call;

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sundew_core::client::SecretBytes;

use crate::ended::Ended;
use crate::error::Error;
use crate::presenter::Presenter;
use crate::settings::Settings;
use crate::task::{Secret, Token, TokenRequest, ttl_ms};

/// The task that this program is a part of.
#[derive(Clone, Debug)]
pub struct EnclosingTask {
    socket: PathBuf,
}

/// What is known of the task.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaskState {
    /// The task's ID.
    pub id: String,
    /// The scopes that the broker granted.
    pub scopes: Vec<String>,
    /// When the task ends at the latest, in milliseconds since the epoch.
    pub deadline_ms: i64,
    /// Whether it is suspended: its tokens are dead, and none are handed out.
    pub suspended: bool,
    /// How it has ended, if it has.
    pub ended: Option<Ended>,
}

#[derive(Deserialize)]
struct StateAnswer {
    task_id: String,
    scopes: Vec<String>,
    deadline_ms: i64,
    state: String,
    outcome: Option<String>,
}

#[derive(Deserialize)]
struct ChallengeAnswer {
    challenge: String,
    message: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
    token_id: String,
    scopes: Vec<String>,
    expires_at_ms: i64,
}

#[derive(Deserialize)]
struct SecretAnswer {
    value_base64: String,
}

impl EnclosingTask {
    /// Finds the socket in the environment.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `SUNDEW_TASK_SOCKET` is not set.
    pub fn from_env() -> Result<Self, Error> {
        let socket = Settings::from_env().task_socket.ok_or_else(|| {
            Error::Invalid(
                "this program is not within a task: SUNDEW_TASK_SOCKET is not set; start it by \
                 `sundew run`"
                    .to_owned(),
            )
        })?;
        Ok(Self::at(socket))
    }

    /// Takes the socket at this path.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks what is known of the task.
    ///
    /// # Errors
    /// [`Error::Ended`] if the socket has gone with its task.
    pub async fn state(&self) -> Result<TaskState, Error> {
        let answer: StateAnswer = call::get(&self.socket, "/v1/task").await?;
        let ended = (answer.state == "ended")
            .then(|| Ended::of_word(answer.outcome.as_deref().unwrap_or_default()));
        Ok(TaskState {
            id: answer.task_id,
            scopes: answer.scopes,
            deadline_ms: answer.deadline_ms,
            suspended: answer.state == "suspended",
            ended,
        })
    }

    /// Reads a secret that the task's scopes name.
    ///
    /// # Errors
    /// [`Error::Ended`] if the task has ended, [`Error::NotPermitted`] if the broker refuses.
    pub async fn secret(&self, name: &str) -> Result<Secret, Error> {
        let answer: SecretAnswer =
            call::post(&self.socket, "/v1/secret", &json!({ "name": name })).await?;
        let value = STANDARD
            .decode(answer.value_base64)
            .map_err(|error| Error::Unavailable(format!("the task's socket: {error}")))?;
        Ok(Secret(SecretBytes::new(value)))
    }

    /// Asks for a token that is good over connections with this presenter's certificate.
    ///
    /// # Errors
    /// As [`EnclosingTask::secret`].
    pub async fn token(&self, presenter: &Presenter, what: &TokenRequest) -> Result<Token, Error> {
        let challenge: ChallengeAnswer =
            call::post(&self.socket, "/v1/challenge", &json!({})).await?;
        let signature = presenter.sign(challenge.message.as_bytes())?;
        let binding = json!({
            "type": "certificate",
            "certificate": presenter.certificate_pem(),
            "challenge": challenge.challenge,
            "signature": STANDARD.encode(signature),
        });
        self.ask(&binding, what, presenter.certificate_sha256())
            .await
    }

    /// Asks for a token that is good in anybody's hands, where the registration allows that.
    ///
    /// # Errors
    /// As [`EnclosingTask::secret`].
    pub async fn bearer_token(&self, what: &TokenRequest) -> Result<Token, Error> {
        self.ask(&json!({ "type": "bearer" }), what, [0; 32]).await
    }

    async fn ask(
        &self,
        binding: &Value,
        what: &TokenRequest,
        certificate: [u8; 32],
    ) -> Result<Token, Error> {
        let mut question = json!({
            "binding": binding,
            "scopes": what.scopes,
            "audience": what.audience,
        });
        if let (Some(ttl), Some(fields)) = (what.ttl, question.as_object_mut()) {
            fields.insert("ttl_ms".to_owned(), ttl_ms(ttl).into());
        }
        let answer: TokenAnswer = call::post(&self.socket, "/v1/token", &question).await?;
        Ok(Token::handed_out(
            answer.token,
            answer.token_id,
            answer.scopes,
            answer.expires_at_ms,
            certificate,
        ))
    }
}
