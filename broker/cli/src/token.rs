//! `sundew token`: getting a token of a task, asking about one, and revoking one.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use sundew_proto::v1::{Actor, Binding, Effect, IntrospectRequest, IntrospectResponse, Selector};

use crate::args::{Connect, IntrospectToken, TokenArguments, TokenCommand};
use crate::client::{access, status_error};
use crate::enclosing;
use crate::input::{parse_hex_32, read_credential};
use crate::output::{Output, View, fields, success_if};
use crate::respond::put_in_force;
use crate::timestamp::format_timestamp;

pub(crate) async fn token(
    connect: &Connect,
    output: &Output,
    arguments: TokenArguments,
) -> Result<ExitCode> {
    let Some(command) = arguments.command else {
        return enclosing::token(output, arguments.ask).await;
    };
    match command {
        TokenCommand::Introspect(question) => introspect(connect, output, question).await,
        TokenCommand::Revoke { token_id, reason } => {
            let selector = Selector {
                token: token_id,
                ..Selector::default()
            };
            put_in_force(connect, output, selector, Effect::Revoke, reason, true).await
        }
    }
}

async fn introspect(
    connect: &Connect,
    output: &Output,
    question: IntrospectToken,
) -> Result<ExitCode> {
    let token = read_credential("token")?;
    let presenter = question
        .presenter
        .map(|digits| parse_hex_32(&digits).context("--presenter must be 64 hexadecimal digits"))
        .transpose()?;
    let request = IntrospectRequest {
        token: token.trim().to_owned(),
        presenter_certificate_sha256: presenter.map(Vec::from).unwrap_or_default(),
        audience: question.audience.unwrap_or_default(),
        required_scopes: question.scopes,
    };
    let answer = access(connect)
        .await?
        .introspect(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let view = TokenView::from(answer);
    output.show(&view)?;
    Ok(success_if(view.active))
}

/// Whether a token is good, and what it is good for.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TokenView {
    active: bool,
    /// Absent if the token is not active.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    of: Option<ActiveToken>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ActiveToken {
    spiffe_id: String,
    task_id: String,
    token_id: String,
    scopes: Vec<String>,
    audience: Vec<String>,
    expires_at_ms: i64,
    registration_version: String,
    /// Whether anybody who holds it may use it.
    bearer: bool,
    /// For whom the task acts; empty for itself.
    on_behalf_of: String,
    act: Option<ActorView>,
}

/// A chain of actors in the form of the claim `act` of RFC 8693, section 4.1.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ActorView {
    sub: String,
    task_id: String,
    purpose: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Box<ActorView>>,
}

impl From<Actor> for ActorView {
    fn from(actor: Actor) -> Self {
        Self {
            sub: actor.spiffe_id,
            task_id: actor.task_id,
            purpose: actor.purpose,
            act: actor.act.map(|act| Box::new((*act).into())),
        }
    }
}

impl From<IntrospectResponse> for TokenView {
    fn from(answer: IntrospectResponse) -> Self {
        let bearer = answer.binding() == Binding::Bearer;
        let of = answer.active.then(|| ActiveToken {
            spiffe_id: answer.spiffe_id,
            task_id: answer.task_id,
            token_id: answer.token_id,
            scopes: answer.scopes,
            audience: answer.audience,
            expires_at_ms: answer.expires_at_ms,
            registration_version: answer.registration_version,
            bearer,
            on_behalf_of: answer.on_behalf_of,
            act: answer.act.map(ActorView::from),
        });
        Self {
            active: of.is_some(),
            of,
        }
    }
}

impl View for TokenView {
    const KIND: &'static str = "token";

    fn lines(&self) -> Vec<String> {
        let Some(of) = &self.of else {
            return vec!["not active".to_owned()];
        };
        let binding = if of.bearer {
            "BEARER: whoever holds it"
        } else {
            "certificate"
        };
        let principal = match of.on_behalf_of.as_str() {
            "" => "itself",
            principal => principal,
        };
        let mut lines = vec!["active".to_owned()];
        lines.extend(fields(&[
            ("workload", of.spiffe_id.clone()),
            ("task", of.task_id.clone()),
            ("token id", of.token_id.clone()),
            ("scopes", of.scopes.join(" ")),
            ("until", format_timestamp(of.expires_at_ms)),
            ("binding", binding.to_owned()),
            ("for", principal.to_owned()),
        ]));
        lines
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<TokenView>()]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn json(answer: IntrospectResponse) -> Value {
        serde_json::to_value(TokenView::from(answer)).unwrap()
    }

    #[test]
    fn nothing_is_told_of_a_token_that_is_not_active() {
        let answer = IntrospectResponse {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            ..IntrospectResponse::default()
        };
        assert_eq!(json(answer.clone()), json!({ "active": false }));
        assert_eq!(TokenView::from(answer).lines(), ["not active"]);
    }

    #[test]
    fn a_bearer_token_is_called_one() {
        let mut answer = IntrospectResponse {
            active: true,
            binding: Binding::Bearer.into(),
            ..IntrospectResponse::default()
        };
        assert_eq!(json(answer.clone())["bearer"], true);
        let lines = |answer: &IntrospectResponse| TokenView::from(answer.clone()).lines();
        assert!(lines(&answer).contains(&"binding   BEARER: whoever holds it".to_owned()));
        answer.binding = Binding::Unspecified.into();
        answer.on_behalf_of = "spiffe://a.test/c".to_owned();
        assert!(lines(&answer).contains(&"binding   certificate".to_owned()));
        assert!(lines(&answer).contains(&"for       spiffe://a.test/c".to_owned()));
    }

    #[test]
    fn actors_are_nested_from_the_last_to_the_first() {
        let actor = |id: &str, act| Actor {
            spiffe_id: id.to_owned(),
            task_id: "t".to_owned(),
            purpose: "p".to_owned(),
            act,
            ..Actor::default()
        };
        let chain = actor("last", Some(Box::new(actor("first", None))));
        assert_eq!(
            serde_json::to_value(ActorView::from(chain)).unwrap(),
            json!({
                "sub": "last", "task_id": "t", "purpose": "p",
                "act": { "sub": "first", "task_id": "t", "purpose": "p" },
            })
        );
    }
}
