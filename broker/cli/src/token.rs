//! `sundew token`: asking about a token, and revoking one.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sundew_proto::v1::{Actor, Binding, Effect, IntrospectRequest, IntrospectResponse, Selector};

use crate::args::{Connect, IntrospectToken, TokenCommand};
use crate::client::{access, status_error};
use crate::input::{parse_hex_32, read_credential};
use crate::output::{Output, success_if};
use crate::respond::put_in_force;
use crate::timestamp::format_timestamp;

pub(crate) async fn token(
    connect: &Connect,
    output: &Output,
    command: TokenCommand,
) -> Result<ExitCode> {
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
    output.result(&answer_json(&answer), || answer_lines(&answer));
    Ok(success_if(answer.active))
}

fn answer_json(answer: &IntrospectResponse) -> Value {
    if !answer.active {
        return json!({ "active": false });
    }
    json!({
        "active": true, "spiffe_id": answer.spiffe_id, "task_id": answer.task_id,
        "token_id": answer.token_id, "scopes": answer.scopes, "audience": answer.audience,
        "expires_at_ms": answer.expires_at_ms,
        "registration_version": answer.registration_version,
        "bearer": answer.binding() == Binding::Bearer, "on_behalf_of": answer.on_behalf_of,
        "act": answer.act.as_ref().map(actor_json),
    })
}

/// Returns a chain of actors in the form of the claim `act` of RFC 8693, section 4.1.
fn actor_json(actor: &Actor) -> Value {
    let mut value = json!({
        "sub": actor.spiffe_id, "task_id": actor.task_id, "purpose": actor.purpose,
    });
    if let (Some(members), Some(next)) = (value.as_object_mut(), &actor.act) {
        members.insert("act".to_owned(), actor_json(next));
    }
    value
}

fn answer_lines(answer: &IntrospectResponse) -> Vec<String> {
    if !answer.active {
        return vec!["not active".to_owned()];
    }
    let binding = if answer.binding() == Binding::Bearer {
        "BEARER: whoever holds it"
    } else {
        "certificate"
    };
    let principal = if answer.on_behalf_of.is_empty() {
        "itself"
    } else {
        &answer.on_behalf_of
    };
    vec![
        "active".to_owned(),
        format!("workload  {}", answer.spiffe_id),
        format!("task      {}", answer.task_id),
        format!("token id  {}", answer.token_id),
        format!("scopes    {}", answer.scopes.join(" ")),
        format!("until     {}", format_timestamp(answer.expires_at_ms)),
        format!("binding   {binding}"),
        format!("for       {principal}"),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sundew_proto::v1::{Actor, Binding, IntrospectResponse};

    use super::{actor_json, answer_json, answer_lines};

    #[test]
    fn nothing_is_told_of_a_token_that_is_not_active() {
        let answer = IntrospectResponse {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            ..IntrospectResponse::default()
        };
        assert_eq!(answer_json(&answer), json!({ "active": false }));
        assert_eq!(answer_lines(&answer), ["not active"]);
    }

    #[test]
    fn a_bearer_token_is_called_one() {
        let mut answer = IntrospectResponse {
            active: true,
            binding: Binding::Bearer.into(),
            ..IntrospectResponse::default()
        };
        assert_eq!(answer_json(&answer)["bearer"], true);
        assert!(answer_lines(&answer).contains(&"binding   BEARER: whoever holds it".to_owned()));
        answer.binding = Binding::Unspecified.into();
        answer.on_behalf_of = "spiffe://a.test/c".to_owned();
        assert!(answer_lines(&answer).contains(&"binding   certificate".to_owned()));
        assert!(answer_lines(&answer).contains(&"for       spiffe://a.test/c".to_owned()));
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
            actor_json(&chain),
            json!({
                "sub": "last", "task_id": "t", "purpose": "p",
                "act": { "sub": "first", "task_id": "t", "purpose": "p" },
            })
        );
    }
}
