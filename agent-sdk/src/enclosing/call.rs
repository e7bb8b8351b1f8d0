//! One question over the task's socket, by HTTP/1.1 (RFC 9112), on a connection of its own: what is
//! forked from this process has no part in it.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::ended::Ended;
use crate::error::Error;

/// The longest answer, in bytes.
const LONGEST: usize = 16 << 20;
/// How long an answer may take. The socket's owner asks the broker, and may have to show evidence.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    #[serde(default)]
    correlation_id: String,
    #[serde(default)]
    outcome: String,
}

/// Asks without a body.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    ask(socket, Method::GET, path, Bytes::new()).await
}

/// Asks with a body.
pub(super) async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    question: &Value,
) -> Result<T, Error> {
    ask(socket, Method::POST, path, question.to_string().into()).await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    question: Bytes,
) -> Result<T, Error> {
    let exchange = tokio::time::timeout(ANSWERS_WITHIN, exchange(socket, method, path, question));
    let (status, answer) = exchange
        .await
        .map_err(|_| problem(socket, &"no answer in time"))??;
    if status.is_success() {
        return serde_json::from_slice(&answer).map_err(|error| problem(socket, &error));
    }
    match serde_json::from_slice::<ErrorAnswer>(&answer) {
        Ok(answer) => Err(answer.error.into()),
        Err(error) => Err(problem(socket, &error)),
    }
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    question: Bytes,
) -> Result<(StatusCode, Bytes), Error> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // It is removed when the task has ended.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(Error::Ended(Ended::Lost));
        }
        Err(error) => return Err(problem(socket, &error)),
    };
    let failed = |error: &dyn std::fmt::Display| problem(socket, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let driven = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "task")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(question))
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    driven.abort();
    let body = body.map_err(|error| failed(&error))?;
    Ok((status, body.to_bytes()))
}

fn problem(socket: &Path, what: &dyn std::fmt::Display) -> Error {
    Error::Invalid(format!("the task's socket {}: {what}", socket.display()))
}

impl From<ErrorBody> for Error {
    fn from(said: ErrorBody) -> Self {
        let correlation = said.correlation_id;
        match said.code.as_str() {
            "not_permitted" => Self::NotPermitted { correlation },
            "task_ended" => Self::Ended(Ended::of_word(&said.outcome)),
            "task_suspended" => Self::Suspended { correlation },
            "too_many" => Self::Limit(said.message),
            "unavailable" => Self::Unavailable(said.message),
            _ => Self::Invalid(said.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> Error {
        let text = format!(
            r#"{{"error":{{"code":"{code}","message":"m","correlation_id":"c","outcome":"revoked"}}}}"#
        );
        let answer: ErrorAnswer = serde_json::from_str(&text).unwrap();
        answer.error.into()
    }

    #[test]
    fn each_code_of_the_socket_has_its_error() {
        assert!(
            matches!(error("not_permitted"), Error::NotPermitted { correlation } if correlation == "c")
        );
        assert!(matches!(error("task_ended"), Error::Ended(Ended::Revoked)));
        assert!(matches!(error("task_suspended"), Error::Suspended { .. }));
        assert!(matches!(error("too_many"), Error::Limit(_)));
        assert!(matches!(error("unavailable"), Error::Unavailable(_)));
        for code in ["invalid", "not_of_task", "something_new"] {
            assert!(matches!(error(code), Error::Invalid(said) if said == "m"));
        }
    }

    #[tokio::test]
    async fn a_socket_that_has_gone_is_the_end_of_its_task() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("task.sock");
        let gone = get::<Value>(&socket, "/v1/task").await;
        assert!(matches!(gone, Err(Error::Ended(Ended::Lost))));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let gone = get::<Value>(&socket, "/v1/task").await;
        assert!(matches!(gone, Err(Error::Ended(Ended::Lost))));
    }
}
