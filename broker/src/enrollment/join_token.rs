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
        let ca = self.own_ca()?;
        let id = spiffe_id(&request.spiffe_id)?;
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
        let expires_at_ms = clock::now_ms().saturating_add(ttl_ms);
        // P10: on the record before anybody has the token, which is stored nowhere.
        self.ledger
            .journal
            .write(
                journal::record("join_token_created")
                    .with("workload", &id)
                    .with("actor", operator.id())
                    .with("expires_at_ms", expires_at_ms),
            )
            .await?;
        Ok(v1::CreateJoinTokenResponse {
            join_token: self.join_token(&id, expires_at_ms)?,
            expires_at_ms,
        })
    }

    /// Makes a join token. It has its expiry and its SPIFFE ID in the clear, is tagged under the
    /// root key, and is unique by 128 random bits.
    fn join_token(&self, id: &SpiffeId, expires_at_ms: i64) -> Result<String, Refusal> {
        let text = format!("{expires_at_ms} {} {id}", random_name()?);
        Ok(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(self.ledger.root().tag(&[b"join"], text.into_bytes()))
        ))
    }

    /// Uses up a join token, unless something forbids to give the identity that it is for.
    pub(super) async fn redeem(&self, token: &str) -> Result<IdentityPermit, Refusal> {
        let parsed = parse_join_token(self.ledger.root(), token).ok_or(Refusal::JoinToken)?;
        let permit = self.own_ca()?.permit(&parsed.0, Shown::Fresh, &[]).await?;
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if clock::now_ms() >= parsed.1
            || !self.ledger.records.store().consume(&name, parsed.1).await?
        {
            return Err(Refusal::JoinToken);
        }
        Ok(permit)
    }
}

/// Reads a join token of this root key; answers its SPIFFE ID, and its expiry in milliseconds since
/// the epoch.
fn parse_join_token(root: &RootKey, token: &str) -> Option<(SpiffeId, i64)> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let tagged = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
    let text = std::str::from_utf8(root.untag(&[b"join"], &tagged).ok()?).ok()?;
    let mut parts = text.splitn(3, ' ');
    let expires_at_ms = parts.next()?.parse().ok()?;
    let id = SpiffeId::parse(parts.nth(1)?).ok()?;
    Some((id, expires_at_ms))
}
