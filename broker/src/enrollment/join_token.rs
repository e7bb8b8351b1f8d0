//! Join tokens: good once, for a short time, for the first SVID of one SPIFFE ID.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{RootKey, Ttl};
use sundew_proto::v1;

use super::Enrollment;
use crate::ca::{IdentityPermit, Shown};
use crate::clock;
use crate::journal;
use crate::random::random_name;
use crate::refusal::Refusal;
use crate::role::{Operator, Registrar};
use crate::wire::spiffe_id;

/// The beginning of every join token.
const PREFIX: &str = "sdj_";
/// Life of a join token whose creator names none, in milliseconds.
const DEFAULT_LIFE_MS: i64 = 600_000;
/// Longest life of a join token, in milliseconds.
const MAX_LIFE_MS: i64 = 24 * 3_600_000;
/// Longest text that is read as a join token, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;

impl Enrollment {
    /// Creates a join token for a registered workload's first SVID.
    pub(crate) async fn create_join_token(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, Refusal> {
        let id = spiffe_id(&request.spiffe_id)?;
        let within = operator.over(&id)?;
        let ca = self.own_ca()?;
        if id.trust_domain() != ca.trust_domain() {
            return Err(Refusal::invalid(
                "spiffe_id",
                format!("the embedded CA is that of {}", ca.trust_domain()),
            ));
        }
        self.ledger
            .records
            .workload(&id)
            .await?
            .ok_or(Refusal::NotFound("workload"))?;
        let ttl_ms = if request.ttl_ms == 0 {
            DEFAULT_LIFE_MS
        } else {
            Ttl::from_ms(request.ttl_ms)
                .map_err(|e| Refusal::invalid("ttl_ms", e))?
                .as_ms()
        };
        if ttl_ms > MAX_LIFE_MS {
            return Err(Refusal::invalid(
                "ttl_ms",
                "a join token lives at most 24 hours",
            ));
        }
        let now_ms = clock::now_ms();
        // E9: so shortly after a deletion, nobody can tell later that the token was made after it.
        match ca.require_made_since(&id, now_ms) {
            Err(Refusal::GroundsWithdrawn) => return Err(Refusal::Conflict("registration")),
            looked => looked?,
        }
        let expires_at_ms = now_ms.saturating_add(ttl_ms);
        // P10: on the record before anybody has the token, which is stored nowhere.
        self.ledger
            .journal
            .write(
                journal::record("join_token_created")
                    .with("workload", &id)
                    .with("actor", within.actor())
                    .with("expires_at_ms", expires_at_ms),
            )
            .await?;
        Ok(v1::CreateJoinTokenResponse {
            join_token: self.join_token(&id, now_ms, expires_at_ms)?,
            expires_at_ms,
        })
    }

    /// Makes a join token. It has its expiry, the time at which it was made, and its SPIFFE ID in the
    /// clear, is tagged under the root key, and is unique by 128 random bits.
    fn join_token(
        &self,
        id: &SpiffeId,
        made_ms: i64,
        expires_at_ms: i64,
    ) -> Result<String, Refusal> {
        // Older brokers take the second word as it is.
        let text = format!("{expires_at_ms} {made_ms}.{} {id}", random_name()?);
        Ok(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(self.ledger.root().tag(&[b"join"], text.into_bytes()))
        ))
    }

    /// Uses up a join token, unless something forbids to give the identity that it is for.
    pub(super) async fn redeem(&self, token: &str) -> Result<IdentityPermit, Refusal> {
        let parsed = parse_join_token(self.ledger.root(), token).ok_or(Refusal::JoinToken)?;
        let (id, expires_at_ms) = (&parsed.id, parsed.expires_at_ms);
        let shown = Shown::JoinToken(parsed.made_ms);
        let permit = self.own_ca()?.permit(id, shown, &[]).await?;
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if clock::now_ms() >= expires_at_ms
            || !self
                .ledger
                .records
                .store()
                .consume(&name, expires_at_ms)
                .await?
        {
            return Err(Refusal::JoinToken);
        }
        Ok(permit)
    }
}

/// What a join token says. Times are in milliseconds since the epoch.
struct JoinToken {
    id: SpiffeId,
    made_ms: i64,
    expires_at_ms: i64,
}

/// Reads a join token of this root key.
fn parse_join_token(root: &RootKey, token: &str) -> Option<JoinToken> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let tagged = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
    let text = std::str::from_utf8(root.untag(&[b"join"], &tagged).ok()?).ok()?;
    let mut parts = text.splitn(3, ' ');
    let expires_at_ms: i64 = parts.next()?.parse().ok()?;
    let made_ms = match parts.next()?.split_once('.') {
        Some((made_ms, _)) => made_ms.parse().ok()?,
        // Older brokers did not say it.
        None => expires_at_ms.saturating_sub(MAX_LIFE_MS),
    };
    let id = SpiffeId::parse(parts.next()?).ok()?;
    Some(JoinToken {
        id,
        made_ms,
        expires_at_ms,
    })
}
