//! Fields of messages that several use cases read, and domain values as messages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{
    KnownTask, Liveness, OrderId, Outcome, RootKey, ScopeSet, TokenBinding, Ttl, View,
};
use sundew_proto::v1;

use crate::clock;
use crate::random::random_name;
use crate::refusal::Refusal;

/// Most audiences of a token.
const MAX_AUDIENCES: usize = 8;

/// The word for a deletion: of something that was there, or of something that was not, so that only
/// what rested on it was ended.
pub(crate) fn deletion(existed: bool) -> &'static str {
    if existed { "deleted" } else { "absent" }
}

/// Reads an idempotency key: 1 to 128 printable ASCII characters. For an empty one, answers a key
/// that nobody else has.
pub(crate) fn idempotency_key(given: String) -> Result<String, Refusal> {
    if given.is_empty() {
        return random_name();
    }
    if given.len() > 128 || !given.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::invalid(
            "idempotency_key",
            "must be 1 to 128 printable ASCII characters",
        ));
    }
    Ok(given)
}

/// The name of a request of an operator, derived from who asked and the idempotency key, by which a
/// retry is known: under the active root key, and under the others, under which an earlier attempt
/// may have been made.
pub(crate) struct RequestNames {
    name: String,
    all: Vec<String>,
}

impl RequestNames {
    /// The names of the request that these parts tell.
    pub(crate) fn new(root: &RootKey, parts: &[&[u8]]) -> Self {
        let encode = |name: &[u8; 32]| URL_SAFE_NO_PAD.encode(name);
        Self {
            name: encode(&root.derive(parts)),
            all: root.derive_each(parts).iter().map(encode).collect(),
        }
    }

    /// The name that the request is given.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether an earlier attempt has this name.
    pub(crate) fn have(&self, name: &str) -> bool {
        self.all.iter().any(|known| known == name)
    }
}

/// Reads the field `spiffe_id`.
pub(crate) fn spiffe_id(text: &str) -> Result<SpiffeId, Refusal> {
    SpiffeId::parse(text).map_err(|e| Refusal::invalid("spiffe_id", e))
}

/// Reads the field `ttl_ms`, in milliseconds; 0 asks for nothing in particular.
pub(crate) fn ttl(ms: i64) -> Result<Option<Ttl>, Refusal> {
    if ms == 0 {
        Ok(None)
    } else {
        Ttl::from_ms(ms)
            .map(Some)
            .map_err(|e| Refusal::invalid("ttl_ms", e))
    }
}

/// Reads the field `scopes`.
pub(crate) fn scopes(texts: &[String]) -> Result<ScopeSet, Refusal> {
    ScopeSet::parse(texts).map_err(|e| Refusal::invalid("scopes", e))
}

/// Reads the field `binding`; unspecified asks for nothing in particular.
pub(crate) fn binding(value: i32) -> Result<Option<TokenBinding>, Refusal> {
    match v1::Binding::try_from(value) {
        Ok(v1::Binding::Unspecified) => Ok(None),
        Ok(v1::Binding::Certificate) => Ok(Some(TokenBinding::Certificate)),
        Ok(v1::Binding::Bearer) => Ok(Some(TokenBinding::Bearer)),
        Err(_) => Err(Refusal::invalid("binding", "unknown binding")),
    }
}

/// Reads the field `audience`, sorted and without repetitions.
pub(crate) fn audience(mut list: Vec<String>) -> Result<Vec<String>, Refusal> {
    list.sort();
    list.dedup();
    if list.len() > MAX_AUDIENCES
        || !list
            .iter()
            .all(|audience| sundew_core::is_audience(audience))
    {
        return Err(Refusal::invalid(
            "audience",
            "must be at most 8 names of at most 256 printable ASCII characters without `*`, `#` and `\\`, \
             and without `.` and `..` in a path",
        ));
    }
    Ok(list)
}

/// A token's binding as a message.
pub(crate) fn binding_message(binding: TokenBinding) -> v1::Binding {
    match binding {
        TokenBinding::Bearer => v1::Binding::Bearer,
        TokenBinding::Certificate => v1::Binding::Certificate,
    }
}

/// A task's outcome as a message.
pub(crate) fn outcome_message(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Abandoned => v1::Outcome::Abandoned,
        Outcome::Canceled => v1::Outcome::Canceled,
        Outcome::Completed => v1::Outcome::Completed,
        Outcome::Expired => v1::Outcome::Expired,
        Outcome::Failed => v1::Outcome::Failed,
        Outcome::Revoked => v1::Outcome::Revoked,
    }
}

/// A task as a message, alive or dead as the view says at this moment.
pub(crate) fn task_message(view: &View, task: &KnownTask) -> v1::Task {
    let outcome = match view.task_liveness(task, clock::now_ms()) {
        Liveness::Alive => v1::Outcome::Unspecified,
        Liveness::Dead(cause) => outcome_message(cause.outcome()),
    };
    v1::Task {
        task_id: task.id.to_string(),
        spiffe_id: task.workload.to_string(),
        purpose: task.purpose.clone(),
        instruction: task.instruction.clone(),
        scopes: task.scopes.to_strings(),
        created_at_ms: task.created_at_ms,
        deadline_ms: task.deadline_ms,
        outcome: outcome.into(),
        suspended: view.is_suspended(task),
        registration_version: task.registration.clone(),
        ancestors: task
            .record()
            .ancestors
            .iter()
            .map(ToString::to_string)
            .collect(),
        audience: task.audience.clone(),
        order_id: task
            .order
            .as_ref()
            .map(|_| OrderId::of_task(task.id).to_string())
            .unwrap_or_default(),
        dispatcher: task
            .order
            .as_ref()
            .map(|order| order.dispatcher.to_string())
            .unwrap_or_default(),
        labels: task
            .order
            .as_ref()
            .map(|order| order.labels.clone())
            .unwrap_or_default(),
    }
}
