//! What is asked at the socket and what is answered, as `task-socket.openapi.json` says.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sundew_sdk::{Ended, Error};

/// A question for a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretQuestion {
    pub(super) name: String,
}

/// A question for a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenQuestion {
    pub(super) binding: BindingQuestion,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    #[serde(default)]
    pub(super) audience: Vec<String>,
    pub(super) ttl_ms: Option<u64>,
}

/// What the token is to be bound to. There is no default: nobody gets a bearer token without a word.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum BindingQuestion {
    Bearer {},
    Certificate {
        /// In PEM.
        certificate: String,
        challenge: String,
        /// In base64.
        signature: String,
    },
}

/// An empty question. Its members are for later versions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuestion {}

#[derive(Serialize)]
pub(super) struct ChallengeAnswer {
    pub(super) challenge: String,
    /// The text to sign.
    pub(super) message: String,
}

#[derive(Serialize)]
pub(super) struct SecretAnswer<'a> {
    pub(super) name: &'a str,
    /// The value, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a str>,
    pub(super) value_base64: &'a str,
}

#[derive(Serialize)]
pub(super) struct TaskAnswer<'a> {
    pub(super) task_id: &'a str,
    pub(super) scopes: &'a [String],
    pub(super) deadline_ms: i64,
    /// `active`, `suspended` or `ended`.
    pub(super) state: &'static str,
    /// How it has ended, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<String>,
}

#[derive(Serialize)]
pub(super) struct TokenAnswer<'a> {
    pub(super) token: &'a str,
    pub(super) token_id: &'a str,
    pub(super) scopes: &'a [String],
    pub(super) expires_at_ms: i64,
    /// `bearer` or `certificate`.
    pub(super) binding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_sha256: Option<String>,
}

/// Why something is not answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    Ended(Option<Ended>),
    Invalid(String),
    MethodNotAllowed,
    NotFound,
    NotOfTask,
    NotPermitted { correlation: String },
    Suspended { correlation: String },
    TooLarge,
    TooMany,
    Unavailable(String),
}

impl Refused {
    /// Returns the status, and the code, which stays what it is in all versions.
    fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Ended(_) => (StatusCode::GONE, "task_ended"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::NotOfTask => (StatusCode::FORBIDDEN, "not_of_task"),
            Self::NotPermitted { .. } => (StatusCode::FORBIDDEN, "not_permitted"),
            Self::Suspended { .. } => (StatusCode::CONFLICT, "task_suspended"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }

    /// Returns what it is, and what to do next.
    fn text(&self) -> String {
        match self {
            Self::Ended(Some(ended)) => {
                format!("the task has ended: {ended}; begin another one by `sundew run`")
            }
            Self::Ended(None) => {
                "the task is being ended; begin another one by `sundew run`".to_owned()
            }
            Self::Invalid(text) | Self::Unavailable(text) => text.clone(),
            Self::MethodNotAllowed => "GET /v1/task; everything else is POST".to_owned(),
            Self::NotFound => {
                "there are /v1/task, /v1/challenge, /v1/token and /v1/secret".to_owned()
            }
            Self::NotOfTask => {
                "only processes of the task are answered, on connections of their own: what \
                 `sundew run` has started, and what that starts"
                    .to_owned()
            }
            Self::NotPermitted { correlation } => format!(
                "broker refused: not permitted (correlation id {correlation}); its journal has the \
                 reason"
            ),
            Self::Suspended { .. } => {
                "the task is suspended; ask again once it is resumed".to_owned()
            }
            Self::TooLarge => "a question has at most 64 KiB".to_owned(),
            Self::TooMany => "too many at once; ask again in a second".to_owned(),
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut error = serde_json::json!({ "code": self.code().1, "message": self.text() });
        let member = if let Self::Ended(Some(ended)) = self {
            Some(("outcome", ended.to_string()))
        } else if let Self::NotPermitted { correlation } | Self::Suspended { correlation } = self {
            Some(("correlation_id", correlation.clone()))
        } else {
            None
        };
        if let (Some((name, value)), Some(fields)) = (member, error.as_object_mut()) {
            fields.insert(name.to_owned(), value.into());
        }
        serde_json::json!({ "error": error })
            .to_string()
            .into_bytes()
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::Ended(ended) => Self::Ended(Some(ended)),
            Error::Invalid(text) => Self::Invalid(text),
            Error::Limit(_) => Self::TooMany,
            Error::NotPermitted { correlation } => Self::NotPermitted { correlation },
            Error::Suspended { correlation } => Self::Suspended { correlation },
            Error::Evidence { .. }
            | Error::Handshake(_)
            | Error::Identity(_)
            | Error::Unavailable(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        with_head(self.code().0, self.body())
    }
}

/// Returns an answer that says something.
pub(super) fn answer(of: &impl Serialize) -> Result<Response, Refused> {
    serde_json::to_vec(of)
        .map(|body| with_head(StatusCode::OK, body))
        .map_err(|error| Refused::Unavailable(error.to_string()))
}

fn with_head(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}
