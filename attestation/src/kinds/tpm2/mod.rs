//! `tpm2`: a quote of a TPM 2.0 over its PCRs, signed by an attestation key that the platform team
//! registered or that was shown to be in a TPM of a known maker, with the boot's event log if there
//! is one. Its qualifying data is the binding.

mod endorsement;
mod event_log;
mod structures;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::claims::{Assurance, Claims, Counter, Values, hex, sha256};
use crate::json;
use crate::{ChainError, Roots};
pub use endorsement::{Endorsement, EndorsementKey};
use structures::Quote;
pub use structures::{Hash, Public};

/// Largest evidence, in bytes: base64 of the largest log, and the rest.
const MAX_EVIDENCE: usize = (event_log::MAX_LOG / 3) * 4 + (16 << 10);

/// How far a TPM's clock may be behind an earlier quote's, in milliseconds: as long as a challenge
/// lives. A reset or restart that was taken back is far more than that.
const CLOCK_SLACK_MS: u128 = 60_000;

/// What a collector sends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The attestation key's name in lower-case hexadecimal: which registered key it is.
    pub key: String,
    /// Base64 of the TPMS_ATTEST.
    pub quote: String,
    /// Base64 of the TPMT_SIGNATURE.
    pub signature: String,
    /// PCR index to value in lower-case hexadecimal: exactly those that are quoted.
    pub pcrs: BTreeMap<usize, String>,
    /// Base64 of the crypto-agile event log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<String>,
}

/// An attestation key that is trusted, as `sundew trust add tpm2_ak NAME` reads it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RegisteredKey {
    /// Base64 of the TPM2B_PUBLIC of the key, such as `tpm2_createak -u` writes.
    key: String,
    /// Base64 of the TPM2B_PUBLIC of its parent, such as `tpm2_createek -u` writes.
    parent: String,
    /// Where the parent is.
    #[serde(default)]
    hierarchy: Hierarchy,
    /// Which TPM it was shown to be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endorsement: Option<endorsement::Document>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Hierarchy {
    #[default]
    Endorsement,
    Owner,
}

impl Hierarchy {
    fn handle(self) -> [u8; 4] {
        match self {
            Self::Endorsement => 0x4000_000b_u32.to_be_bytes(),
            Self::Owner => 0x4000_0001_u32.to_be_bytes(),
        }
    }
}

/// An attestation key that quotes are taken of.
#[derive(Clone, Debug)]
pub struct AttestationKey {
    public: Public,
    qualified_name: Vec<u8>,
    endorsement: Option<Endorsement>,
}

impl AttestationKey {
    /// Reads `{"key": …, "parent": …, "hierarchy": "endorsement" | "owner"}`, the first two being
    /// base64 of TPM2B_PUBLIC.
    pub fn parse(document: &[u8]) -> Result<Self, TpmError> {
        let registered: RegisteredKey = json::read(document, 16 << 10)?;
        let public = Public::parse(&decode(&registered.key)?)?;
        if !public.is_attestation_key() {
            return Err(TpmError::NotAttestationKey);
        }
        let parent = Public::parse(&decode(&registered.parent)?)?;
        let qualified_name =
            public.qualified_name(&parent.qualified_name(&registered.hierarchy.handle()));
        let endorsement = registered
            .endorsement
            .map(|document| Endorsement::read(&document, parent))
            .transpose()?;
        Ok(Self {
            public,
            qualified_name,
            endorsement,
        })
    }

    /// A key below an endorsement key, of which `parent` is the TPM2B_PUBLIC; what says whose that
    /// is; and the document of both. To be trusted only when the TPM has opened a credential
    /// for it.
    pub fn endorsed(
        key: &[u8],
        parent: &[u8],
        certificate: &[u8],
        intermediates: &[Vec<u8>],
    ) -> Result<(Self, Endorsement, Vec<u8>), TpmError> {
        let endorsement = Endorsement::new(Public::parse(parent)?, certificate, intermediates)?;
        let (key, parent) = (STANDARD.encode(key), STANDARD.encode(parent));
        let registered = RegisteredKey {
            key,
            parent,
            hierarchy: Hierarchy::Endorsement,
            endorsement: Some(endorsement.document()),
        };
        let document = serde_json::to_vec(&registered).map_err(json::JsonError::from)?;
        Ok((Self::parse(&document)?, endorsement, document))
    }

    /// Its name, as credentials are made for it.
    #[must_use]
    pub fn name_bytes(&self) -> &[u8] {
        self.public.name()
    }

    /// Which TPM it was shown to be in.
    #[must_use]
    pub fn endorsement(&self) -> Option<&Endorsement> {
        self.endorsement.as_ref()
    }

    /// Its name in lower-case hexadecimal.
    #[must_use]
    pub fn name(&self) -> String {
        hex(self.public.name())
    }
}

/// Why a quote was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The qualifying data is not the binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The certificate of the TPM's maker is of something else.
    #[error("endorsement: {0}")]
    Endorsement(&'static str),
    /// The event log is malformed, or says something else than the PCRs.
    #[error("event log {0}")]
    EventLog(&'static str),
    /// Not JSON of the expected form.
    #[error("malformed: {0}")]
    Json(#[from] json::JsonError),
    /// No maker that is trusted has certified the endorsement key.
    #[error("endorsement key: {0}")]
    Maker(ChainError),
    /// A structure that is not what it must be.
    #[error("malformed structure: {0}")]
    Malformed(&'static str),
    /// A key that could be used for something else than quotes, or that was not made in its TPM.
    #[error("not a restricted signing key that was made in its TPM and stays there")]
    NotAttestationKey,
    /// A key that is not of the templates that makers of TPMs certify.
    #[error("not an endorsement key of a default template, RSA with 2048 bits or more or P-256")]
    NotEndorsementKey,
    /// The PCRs that were sent are not those that were quoted.
    #[error("PCR values are not those quoted")]
    Pcrs,
    /// Not a quote over PCRs of one bank of SHA-256 or better.
    #[error("quoted PCRs: must be some, of one bank of SHA-256 or better")]
    Selection,
    /// The signature is not the key's.
    #[error("signature")]
    Signature,
    /// Signed by a key at another place of the TPM's hierarchies.
    #[error("qualified signer is another key")]
    Signer,
    /// The key is not registered.
    #[error("attestation key `{0}` is not registered")]
    UnknownKey(String),
}

fn decode(text: &str) -> Result<Vec<u8>, TpmError> {
    STANDARD
        .decode(text)
        .map_err(|_| TpmError::Malformed("not base64"))
}

/// What a crypto-agile event log says was measured, if it replays to these PCRs of a bank: every
/// digest by PCR, in order.
pub fn replay_event_log(
    log: &[u8],
    bank: Hash,
    pcrs: &BTreeMap<usize, Vec<u8>>,
) -> Result<BTreeMap<usize, Vec<Vec<u8>>>, TpmError> {
    event_log::replay(log, bank, pcrs).map(|measured| measured.digests)
}

/// Verifies a quote under the trusted key that it names, and that its qualifying data is `binding`;
/// a key that rests on its TPM's maker, that this is one of `makers`. `now_ms` is milliseconds
/// since the epoch.
pub fn verify<'a>(
    payload: &[u8],
    key_named: impl FnOnce(&str) -> Option<&'a AttestationKey>,
    makers: &Roots,
    binding: &[u8],
    now_ms: i64,
) -> Result<Claims, TpmError> {
    let evidence: Evidence = json::read(payload, MAX_EVIDENCE)?;
    let key = key_named(&evidence.key)
        .ok_or_else(|| TpmError::UnknownKey(evidence.key.chars().take(72).collect()))?;
    let quote = decode(&evidence.quote)?;
    let hash = key.public.verify(&quote, &decode(&evidence.signature)?)?;
    let quote = Quote::parse(&quote)?;
    if quote.signer != key.qualified_name {
        return Err(TpmError::Signer);
    }
    if quote.extra_data != binding {
        return Err(TpmError::Binding);
    }
    let mut pcrs = BTreeMap::new();
    for (index, value) in &evidence.pcrs {
        pcrs.insert(
            *index,
            unhex(value)
                .filter(|v| v.len() == quote.bank.algorithm().output_len())
                .ok_or(TpmError::Pcrs)?,
        );
    }
    let values: Vec<&[u8]> = pcrs.values().map(Vec::as_slice).collect();
    if !pcrs.keys().eq(quote.selection.iter()) || hash.digest(&values) != quote.pcr_digest {
        return Err(TpmError::Pcrs);
    }
    let mut claims = Values::default();
    for (index, value) in &pcrs {
        claims.bytes(&format!("pcr.{}.{index}", quote.bank.name()), value);
    }
    claims.text("key", &evidence.key);
    if let Some(endorsement) = &key.endorsement {
        endorsement.verify(makers, now_ms)?;
        claims.text("ek", endorsement.id());
    }
    claims.text(
        "firmware_version",
        format!("{:016x}", quote.firmware_version),
    );
    claims.text("reset_count", quote.reset_count);
    claims.text("restart_count", quote.restart_count);
    claims.text("clock_safe", quote.safe);
    if let Some(log) = &evidence.event_log {
        let measured = event_log::replay(&decode(log)?, quote.bank, &pcrs)?;
        for (index, digests) in &measured.digests {
            for digest in digests {
                claims.bytes(&format!("event.{}.{index}", quote.bank.name()), digest);
            }
        }
        if let Some(state) = measured.secure_boot {
            claims.text("secure_boot", state);
        }
    }
    // A reset or restart counts before the clock, which a reset may set back to the last time that
    // it was saved.
    let counter = (u128::from(quote.reset_count) << 96)
        | (u128::from(quote.restart_count) << 64)
        | u128::from(quote.clock_ms);
    Ok(Claims {
        counter: Some(Counter {
            source: sha256(&key.qualified_name),
            value: counter,
            slack: CLOCK_SLACK_MS,
        }),
        ..Claims::of("tpm2", Assurance::Hardware, true, claims, payload)
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2)
        || text
            .bytes()
            .any(|b| !b.is_ascii_digit() && !(b'a'..=b'f').contains(&b))
    {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
