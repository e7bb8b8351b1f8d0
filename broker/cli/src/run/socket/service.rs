//! What the socket answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use sundew_core::client::ShownCertificate;
use sundew_sdk::{Ended, Error, Task, TaskHandle, Token, TokenRequest};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::State as Over;
use super::challenges::{self, Challenges};
use super::connection::{Incoming, Speakers};
use super::message::{
    BindingQuestion, ChallengeAnswer, NoQuestion, Refused, SecretAnswer, SecretQuestion,
    TaskAnswer, TokenAnswer, TokenQuestion, answer,
};
use super::pace::Pace;
use crate::timestamp::now_ms;

/// The longest question, in bytes.
const LONGEST: usize = 64 << 10;
/// The most questions that wait for the broker at once.
const AT_ONCE: usize = 16;
/// How long a new challenge counts as new, in seconds.
const CHALLENGE_AGES: u32 = 30;

/// What is asked at one socket.
pub(super) struct Service {
    task: TaskHandle,
    id: String,
    scopes: Vec<String>,
    deadline_ms: i64,
    over: watch::Receiver<Over>,
    challenges: Mutex<Challenges>,
    pace: Mutex<Pace>,
    calls: Semaphore,
}

impl Service {
    pub(super) fn new(task: &Task, over: watch::Receiver<Over>) -> Self {
        Self {
            task: task.handle(),
            id: task.id().to_owned(),
            scopes: task.scopes().to_vec(),
            deadline_ms: task.deadline_ms(),
            over,
            challenges: Mutex::default(),
            pace: Mutex::default(),
            calls: Semaphore::new(AT_ONCE),
        }
    }

    /// Returns how the task is over, if it is.
    fn over(&self) -> Option<Option<Ended>> {
        match (*self.over.borrow(), self.task.ended()) {
            (_, Some(ended)) => Some(Some(ended)),
            (Over::Over(ended), None) => Some(ended),
            (Over::Open, None) => None,
        }
    }

    /// Asks the broker, for as long as the task lasts.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Refused> {
        if let Some(ended) = self.over() {
            return Err(Refused::Ended(ended));
        }
        let _place = self.calls.try_acquire().map_err(|_| Refused::TooMany)?;
        let mut news = self.over.clone();
        tokio::select! {
            answer = call => Ok(answer?),
            _ = news.wait_for(|over| *over != Over::Open) => {
                Err(Refused::Ended(self.over().flatten()))
            }
        }
    }

    /// Checks that whoever asks has the key of a certificate; returns that certificate in DER.
    fn shown(
        &self,
        certificate: &str,
        challenge: &str,
        signature: &str,
    ) -> Result<CertificateDer<'static>, Refused> {
        // P8: consumed before anything is looked at.
        if !lock(&self.challenges).consume(challenge) {
            let text = "challenge: is not known any more; ask /v1/challenge for another one";
            return Err(Refused::Invalid(text.to_owned()));
        }
        let invalid = |text: String| Refused::Invalid(format!("certificate: {text}"));
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| invalid("is no certificate in PEM".to_owned()))?;
        let shown =
            ShownCertificate::parse(&der, now_ms()).map_err(|error| invalid(error.to_string()))?;
        let message = challenges::message(&self.id, challenge);
        let is_signed = STANDARD
            .decode(signature)
            .is_ok_and(|signature| shown.has_signed(message.as_bytes(), &signature));
        if !is_signed {
            let text = "signature: is not that of the certificate's key over `message`";
            return Err(Refused::Invalid(text.to_owned()));
        }
        Ok(der)
    }
}

/// Answers what comes in, for ever.
pub(super) async fn serve(service: Arc<Service>, incoming: Incoming) {
    let router = Router::new()
        .route("/v1/task", get(state))
        .route("/v1/challenge", post(challenge))
        .route("/v1/token", post(token))
        .route("/v1/secret", post(secret))
        .fallback(async || Refused::NotFound)
        .method_not_allowed_fallback(async || Refused::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&service), admit))
        .with_state(Arc::clone(&service));
    let served = axum::serve(
        incoming,
        router.into_make_service_with_connect_info::<Caller>(),
    );
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::debug!(%error, "task's socket");
        },
        () = keep_time(&service) => {}
    }
}

async fn keep_time(service: &Service) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for second in 0_u32.. {
        seconds.tick().await;
        lock(&service.pace).begin_anew();
        if second.is_multiple_of(CHALLENGE_AGES) {
            lock(&service.challenges).age();
        }
    }
}

/// Who speaks on the connection of a question.
#[derive(Clone)]
struct Caller(Arc<Speakers>);

impl Connected<IncomingStream<'_, Incoming>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        Self(Arc::clone(stream.remote_addr()))
    }
}

/// Reads a question to its end, and only then looks at who has asked it: each piece counts.
async fn admit(
    State(service): State<Arc<Service>>,
    ConnectInfo(Caller(speakers)): ConnectInfo<Caller>,
    question: Request,
    next: Next,
) -> Response {
    let (head, body) = question.into_parts();
    let read = to_bytes(body, LONGEST).await;
    let process = match speakers.last() {
        Ok(process) => process,
        Err(refused) => return refused.into_response(),
    };
    if lock(&service.pace).is_too_fast(process) {
        return Refused::TooMany.into_response();
    }
    match read {
        Ok(body) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(_) => Refused::TooLarge.into_response(),
    }
}

async fn state(State(service): State<Arc<Service>>) -> Result<Response, Refused> {
    let over = service.over();
    answer(&TaskAnswer {
        task_id: &service.id,
        scopes: &service.scopes,
        deadline_ms: service.deadline_ms,
        state: match over {
            Some(_) => "ended",
            None if service.task.is_suspended() => "suspended",
            None => "active",
        },
        outcome: over.flatten().map(|ended| ended.to_string()),
    })
}

async fn challenge(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refused> {
    // Nothing at all asks for the same.
    if !body.is_empty() {
        read::<NoQuestion>(&body)?;
    }
    if let Some(ended) = service.over() {
        return Err(Refused::Ended(ended));
    }
    let challenge = lock(&service.challenges).issue();
    let challenge = challenge.ok_or(Refused::TooMany)?;
    let message = challenges::message(&service.id, &challenge);
    answer(&ChallengeAnswer { challenge, message })
}

async fn token(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refused> {
    let question: TokenQuestion = read(&body)?;
    let what = TokenRequest {
        scopes: question.scopes,
        audience: question.audience,
        ttl: question.ttl_ms.map(Duration::from_millis),
    };
    match question.binding {
        BindingQuestion::Bearer {} => {
            let token = service.ask(service.task.mint_bearer(&what)).await?;
            token_answer(&token)
        }
        BindingQuestion::Certificate {
            certificate,
            challenge,
            signature,
        } => {
            let shown = service.shown(&certificate, &challenge, &signature)?;
            let token = service.ask(service.task.mint_for(&shown, &what)).await?;
            token_answer(&token)
        }
    }
}

fn token_answer(token: &Token) -> Result<Response, Refused> {
    answer(&TokenAnswer {
        token: token.expose(),
        token_id: token.id(),
        scopes: token.scopes(),
        expires_at_ms: token.expires_at_ms(),
        binding: if token.is_bearer() {
            "bearer"
        } else {
            "certificate"
        },
        certificate_sha256: (!token.is_bearer()).then(|| hex::encode(token.certificate_sha256())),
    })
}

async fn secret(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refused> {
    let question: SecretQuestion = read(&body)?;
    let secret = service.ask(service.task.secret(&question.name)).await?;
    let encoded = Zeroizing::new(STANDARD.encode(secret.expose()));
    answer(&SecretAnswer {
        name: &question.name,
        value: secret.expose_str(),
        value_base64: &encoded,
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::Invalid(format!("question: {error}")))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
