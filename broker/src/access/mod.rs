//! Introspection: whether a token is good now, in these hands, and for which uses (after RFC 7662).
//!
//! This is the hot path: parse, hash, record from memory, view. P7: a view that is not fresh
//! answers nothing. P8: a bound token in other hands is not active.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use sundew_core::{
    Credential, KnownTask, KnownToken, Liveness, Scope, TokenBinding, TokenRecord, allows_audiences,
};
use sundew_proto::v1;

use crate::clock;
use crate::ledger::Ledger;
use crate::peer::{Peer, Trust};
use crate::refusal::Refusal;
use crate::role::{Introspector, Operator};
use crate::wire::binding_message;

/// The room of introspection.
pub(crate) struct Access {
    ledger: Ledger,
    trust: Arc<Trust>,
}

impl Access {
    /// A room that answers from this ledger, about tokens of trust domains that `trust` knows.
    pub(crate) fn new(ledger: Ledger, trust: Arc<Trust>) -> Self {
        Self { ledger, trust }
    }

    /// Answers a resource server, or an agent about its own token.
    pub(crate) async fn introspect(
        self: Arc<Self>,
        peer: Arc<Peer>,
        introspector: Result<Operator<Introspector>, Refusal>,
        request: v1::IntrospectRequest,
    ) -> Result<v1::IntrospectResponse, Refusal> {
        let introspector = match introspector {
            Ok(introspector) => Some(introspector),
            // An agent may ask about its own tokens only, as their presenter.
            Err(lacking) => {
                let workload = self.ledger.records.workload(peer.id()).await?;
                if workload.is_none() {
                    return Err(lacking);
                }
                None
            }
        };
        let inactive = v1::IntrospectResponse::default();
        // P7: the view must be fresh before anything is said about a token, "not active" included.
        drop(self.ledger.log.view()?);
        let Some(credential) = Credential::parse(&request.token) else {
            return Ok(inactive);
        };
        let hash = credential.hash();
        let Some(token) = self.ledger.records.token(credential.task(), &hash).await? else {
            return Ok(inactive);
        };
        // O4: beyond its bounds, a resource server is as anybody else.
        let introspector = introspector.is_some_and(|introspector| {
            introspector.reaches(&token.task().workload)
                && introspector.reaches_audience(&token.audience)
        });
        let named = request.presenter_certificate_sha256.as_slice();
        let own = peer.svid().thumbprint().as_slice();
        // An agent presents its tokens itself, and hears nothing of other hands.
        let of_others = !introspector && !named.is_empty() && named != own;
        let presenter = if introspector { named } else { own };
        if of_others
            || (!introspector && token.task().workload != *peer.id())
            || !is_bound_to(&token, presenter)
            || !is_meant_for(&token, &request)?
        {
            return Ok(inactive);
        }
        // P3: what was granted must still be granted, and is asked before the view is.
        if !self.is_still_granted(&token).await? {
            return Ok(inactive);
        }
        match self
            .ledger
            .log
            .view()?
            .token_liveness(&token, clock::now_ms())
        {
            Liveness::Dead(_) => Ok(inactive),
            Liveness::Alive => Ok(v1::IntrospectResponse {
                active: true,
                spiffe_id: token.task().workload.to_string(),
                task_id: token.task().id.to_string(),
                token_id: token.id().to_string(),
                scopes: token.scopes.to_strings(),
                audience: token.audience.clone(),
                issued_at_ms: token.issued_at_ms,
                expires_at_ms: token.expires_at_ms,
                binding: binding_message(token.binding).into(),
                certificate_sha256: if token.binding == TokenBinding::Certificate {
                    token.certificate.to_vec()
                } else {
                    Vec::new()
                },
                registration_version: token.registration.clone(),
                on_behalf_of: token
                    .task()
                    .ancestors()
                    .first()
                    .map(|root| root.workload.to_string())
                    .unwrap_or_default(),
                act: actors(token.task()),
            }),
        }
    }
}

impl Access {
    /// Whether everybody in the token's chain is still registered for its scopes (L24) and for its
    /// audiences (L26), and whether the trust domain of each of them is still trusted (L23). A token
    /// of which a part was withdrawn is dead as a whole: nobody knows which part its holder is about
    /// to use.
    async fn is_still_granted(&self, token: &KnownToken) -> Result<bool, Refusal> {
        let trusted = self.trust.current();
        for task in token.task().chain() {
            let domain = trusted.bundles.of(task.workload.trust_domain());
            if domain.is_none_or(|bundle| bundle.certificates().next().is_none()) {
                return Ok(false);
            }
            let Some(workload) = self.ledger.records.workload(&task.workload).await? else {
                return Ok(false);
            };
            // The version under which the token was decided has granted it.
            let as_decided = task.id == token.task().id && workload.version == token.registration;
            let registration = &workload.registration;
            let granted = registration.scopes.covers_all(&token.scopes)
                && allows_audiences(registration.audience_ceiling(), &token.audience);
            if !as_decided && !granted {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The chain of workloads that act for one another, the owner of this task outermost (RFC 8693,
/// section 4.1). `None` for a task that was not delegated.
fn actors(task: &KnownTask) -> Option<v1::Actor> {
    if task.ancestors().is_empty() {
        return None;
    }
    // From the first task to this one: each actor wraps the actor for whom it acts.
    let mut act: Option<Box<v1::Actor>> = None;
    for each in task.ancestors().iter().map(AsRef::as_ref).chain([task]) {
        act = Some(Box::new(v1::Actor {
            spiffe_id: each.workload.to_string(),
            task_id: each.id.to_string(),
            purpose: each.purpose.clone(),
            instruction_sha256: ring::digest::digest(
                &ring::digest::SHA256,
                each.instruction.as_bytes(),
            )
            .as_ref()
            .to_vec(),
            act: act.take(),
        }));
    }
    act.map(|outermost| *outermost)
}

/// Says whether the presenter's certificate, by its SHA-256 digest, is the one of a bound token.
fn is_bound_to(token: &TokenRecord, presenter: &[u8]) -> bool {
    match token.binding {
        TokenBinding::Bearer => true,
        TokenBinding::Certificate => {
            subtle::ConstantTimeEq::ct_eq(token.certificate.as_slice(), presenter).into()
        }
    }
}

/// Says whether a token is for the audience and all scopes that the request names.
fn is_meant_for(token: &TokenRecord, request: &v1::IntrospectRequest) -> Result<bool, Refusal> {
    if !request.audience.is_empty() && !token.audience.contains(&request.audience) {
        return Ok(false);
    }
    if request.required_scopes.len() > sundew_core::ScopeSet::MAX {
        return Err(Refusal::invalid("required_scopes", "at most 64 scopes"));
    }
    for text in &request.required_scopes {
        // AC-12: a scope that does not parse is an error, never "anything".
        let scope = Scope::parse(text).map_err(|e| Refusal::invalid("required_scopes", e))?;
        if !token.scopes.covers(&scope) {
            return Ok(false);
        }
    }
    Ok(true)
}
