//! MintToken: another token within a live task. One round trip to the store once task and
//! registration are known.

use std::sync::Arc;

use sundew_attestation::{ShownCertificate, hex};
use sundew_core::{KnownToken, Position, TokenBinding, TokenRequest, Ttl, permit_token};
use sundew_proto::v1;

use super::Tasks;
use crate::clock;
use crate::journal::{self, Record};
use crate::peer::Peer;
use crate::records::Task;
use crate::refusal::Refusal;
use crate::wire::{self, idempotency_key};

/// The longest record of a token, in bytes (A2). Scopes that are those of the task take none.
const MAX_TOKEN_RECORD: usize = 4096;

/// The properties of a token that is to be minted.
pub(super) struct TokenSpec {
    pub(super) request: TokenRequest,
    /// The name of the token within its task; a retry with the same name gets the same token.
    pub(super) key: String,
    /// The digest of what is asked: a name is good for one request.
    pub(super) digest: [u8; 32],
    /// The certificate that the token is bound to instead of the caller's SVID.
    pub(super) certificate: Option<[u8; 32]>,
}

impl Tasks {
    /// Mints another token.
    pub(crate) async fn mint(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::MintTokenRequest,
    ) -> Result<v1::MintTokenResponse, Refusal> {
        let scopes = if request.scopes.is_empty() {
            None
        } else {
            Some(wire::scopes(&request.scopes)?)
        };
        let audience = wire::audience(request.audience)?;
        let shown = shown_certificate(&request.certificate)?;
        let mut texts = vec![request.scopes.join("\n"), audience.join("\n")];
        // Without one, the digest is that of brokers that know no such field.
        texts.extend(shown.as_ref().map(|shown| hex(shown.thumbprint())));
        let digest = super::request_digest(
            &texts.iter().collect::<Vec<_>>(),
            &[request.ttl_ms, request.binding.into()],
        );
        let mut wanted = TokenSpec {
            request: TokenRequest {
                scopes,
                ttl: wire::ttl(request.ttl_ms)?,
                binding: wire::binding(request.binding)?,
                audience,
            },
            key: format!("mint:{}", idempotency_key(request.idempotency_key)?),
            digest,
            certificate: None,
        };
        // Before the decision: what is decided on an older view is dead under a later rule.
        let position = self.ledger.log.view()?.applied().0;
        let task = self.own_task(&peer, &request.task_id).await?;
        self.ledger.require_usable(&task)?;
        if let Some(shown) = shown {
            bind(&mut wanted, &shown, &peer, &task)?;
        }
        Ok(v1::MintTokenResponse {
            token: Some(
                self.mint_within(&peer, &task, wanted, position, "token_minted")
                    .await?,
            ),
        })
    }

    /// Mints a token of a task. `position` is that of the view on which the task was found usable,
    /// and `event` the name of the record.
    pub(super) async fn mint_within(
        &self,
        peer: &Peer,
        task: &Task,
        wanted: TokenSpec,
        position: Position,
        event: &str,
    ) -> Result<v1::Token, Refusal> {
        let now_ms = clock::now_ms();
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        let longest = workload.registration.max_token_ttl;
        let asked = wanted.request.ttl.map_or(longest, |ttl| ttl.min(longest));
        let passed_ms = now_ms.saturating_sub(task.created_at_ms);
        let part = passed_ms.div_euclid(asked.as_ms().max(1));
        let certificate = wanted
            .certificate
            .unwrap_or_else(|| *peer.svid().thumbprint());
        let permit = permit_token(
            &workload.registration,
            peer.svid(),
            task.record(),
            wanted.request,
            now_ms,
        )?;
        // L11: a bearer token is derived from the part of the task's time in which it was minted, and
        // lives past the end of that part. So a key that is used again after its token gives another
        // one, and a copy of the old one stays dead in whoever's hands.
        let name = match permit.binding() {
            TokenBinding::Bearer => format!("{}@{part}", wanted.key),
            TokenBinding::Certificate => wanted.key,
        };
        let credential = self.credential((task.record(), task.root_key()), &name, &certificate);
        let hash = credential.hash();
        let mut token = super::new_token(
            peer,
            &permit,
            task.id,
            &workload.version,
            position,
            now_ms,
            &wanted.digest,
        );
        // The serial number stays that of the SVID: a rule against the SVID kills the token.
        token.certificate = certificate;
        if token.encode(task.record()).len() > MAX_TOKEN_RECORD {
            return Err(Refusal::invalid(
                "scopes",
                "are too long for one token; ask for fewer, or for all scopes of the task",
            ));
        }
        let token = KnownToken::new(token, hash.token_id(), Arc::clone(&task.known));
        // AC-4A: looked at before anything is written, and again before anything is answered.
        self.ledger.require_token_issuable(&token)?;
        if let Some(before) = self.ledger.records.minted_before(&token, &hash)? {
            // It is on the record already.
            self.ledger.require_usable(task)?;
            self.ledger.require_token_issuable(&before)?;
            return Ok(super::token_message(&before, &credential));
        }
        let record = minted_record(event, peer, &token, wanted.certificate);
        self.ledger.journal.write(record).await?;
        let limit = self.limits.tokens_per_task;
        let records = &self.ledger.records;
        let token = records.create_token(token, &hash, limit).await?;
        self.ledger.require_usable(task)?;
        self.ledger.require_token_issuable(&token)?;
        Ok(super::token_message(&token, &credential))
    }
}

/// What is on the record of a new token; `shown` is the certificate that it is bound to instead of the
/// SVID.
fn minted_record(event: &str, peer: &Peer, token: &KnownToken, shown: Option<[u8; 32]>) -> Record {
    let record = journal::record(event)
        .with("task", token.task().id)
        .with("workload", peer.id())
        .with("token_id", token.id())
        .with("scopes", token.scopes.to_strings().join(" "))
        .with("audience", token.audience.join(" "))
        .with("token_binding", token.binding.as_str())
        .with("token_expires_ms", token.expires_at_ms)
        .with("registration", &token.registration);
    match shown {
        Some(certificate) => record.with("shown_certificate", hex(&certificate)),
        None => record,
    }
}

/// Reads the field `certificate`; an empty one asks for the caller's own.
fn shown_certificate(der: &[u8]) -> Result<Option<ShownCertificate>, Refusal> {
    if der.is_empty() {
        return Ok(None);
    }
    ShownCertificate::parse(der, clock::now_ms())
        .map(Some)
        .map_err(|error| Refusal::invalid("certificate", error))
}

/// Binds a wanted token to a certificate that is shown instead of the caller's SVID. P3: the token's
/// time is within that of the certificate, as it is within that of the SVID.
fn bind(
    wanted: &mut TokenSpec,
    shown: &ShownCertificate,
    peer: &Peer,
    task: &Task,
) -> Result<(), Refusal> {
    let thumbprint = shown.thumbprint();
    // P8: what acts for the task must not be what its tokens are shown with by somebody else.
    if shown.public_key() == peer.svid().public_key()
        || task.certificate == *thumbprint
        || task.rotated_to.contains(thumbprint)
    {
        return Err(Refusal::invalid(
            "certificate",
            "has the key of an SVID of the task; a token without `certificate` is bound to the SVID",
        ));
    }
    if wanted.request.binding == Some(TokenBinding::Bearer) {
        return Err(Refusal::invalid(
            "certificate",
            "goes with a token that is bound to it, and this one is to be a bearer token",
        ));
    }
    let left = shown.not_after_ms().saturating_sub(clock::now_ms());
    // One that is good for longer than any time that can be asked for bounds nothing.
    if let Ok(left) = Ttl::from_ms(left.max(1)) {
        wanted.request.ttl = Some(wanted.request.ttl.map_or(left, |ttl| ttl.min(left)));
    }
    wanted.request.binding = Some(TokenBinding::Certificate);
    wanted.certificate = Some(*thumbprint);
    Ok(())
}
