//! `tpm2`: a quote of a TPM 2.0 over its PCRs (TCG "Trusted Platform Module Library", part 3,
//! `TPM2_Quote`), with the event log of the boot if there is one.
//!
//! The attestation key is one that the platform team registered, or one that was shown to be in a
//! TPM of a trusted manufacturer. The qualifying data of the quote is the binding.
//!
//! The values of all quoted PCRs are claims by the quote alone. Events are claims only of the PCRs
//! that the log mentions, and only if the log replays to each of them.

mod attestation_key;
mod endorsement;
mod error;
mod event_log;
mod hash;
mod public_area;
mod quote;
mod reader;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::chain::Roots;
use crate::claims::{Assurance, Claims, Counter, Values, sha256};
use crate::json;
pub use attestation_key::AttestationKey;
pub use endorsement::{Endorsement, EndorsementKey};
pub use error::TpmError;
pub use hash::Hash;
pub use public_area::Public;
use quote::Quote;

/// The largest evidence, in bytes: the largest event log in base64, and 16 KiB for the rest.
const MAX_EVIDENCE: usize = (event_log::MAX_LOG / 3) * 4 + (16 << 10);

/// The longest TPM name that is put into an error, in characters: one with SHA-512.
const MAX_NAME: usize = 132;

/// The largest lag of a TPM's clock behind an earlier quote's, in milliseconds: the lifetime of a
/// challenge. A reset or restart count that was set back is a far greater lag.
const CLOCK_SLACK_MS: u128 = 60_000;

/// The evidence, in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The TPM name of the attestation key in lower-case hexadecimal.
    pub key: String,
    /// The TPMS_ATTEST in base64.
    pub quote: String,
    /// The TPMT_SIGNATURE in base64.
    pub signature: String,
    /// The values, in lower-case hexadecimal, of exactly the quoted PCRs, by index.
    pub pcrs: BTreeMap<usize, String>,
    /// The crypto-agile event log in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<String>,
}

fn decode(text: &str) -> Result<Vec<u8>, TpmError> {
    STANDARD
        .decode(text)
        .map_err(|_| TpmError::Malformed("not base64"))
}

/// Replays a crypto-agile event log against the PCRs of a bank; returns every measured digest by
/// PCR, in the order of the log. PCRs that the log does not mention are absent.
///
/// # Errors
/// [`TpmError::EventLog`] if the log does not replay to those of these PCRs that it mentions; other
/// variants if it is malformed.
pub fn replay_event_log(
    log: &[u8],
    bank: Hash,
    pcrs: &BTreeMap<usize, Vec<u8>>,
) -> Result<BTreeMap<usize, Vec<Vec<u8>>>, TpmError> {
    event_log::replay(log, bank, pcrs).map(|measured| measured.digests)
}

/// Verifies a quote, and that its qualifying data is `binding`.
///
/// `key_named` finds the trusted attestation key by its TPM name. If that key rests on its TPM's
/// endorsement, one of `manufacturers` must have certified the endorsement key. `now_ms` is in
/// milliseconds since the epoch.
///
/// # Errors
/// Each [`TpmError`] names the check that failed.
pub fn verify<'a>(
    payload: &[u8],
    key_named: impl FnOnce(&str) -> Option<&'a AttestationKey>,
    manufacturers: &Roots,
    binding: &[u8],
    now_ms: i64,
) -> Result<Claims, TpmError> {
    let evidence: Evidence = json::read(payload, MAX_EVIDENCE)?;
    let key = key_named(&evidence.key)
        .ok_or_else(|| TpmError::UnknownKey(evidence.key.chars().take(MAX_NAME).collect()))?;
    let quote = decode(&evidence.quote)?;
    let hash = key.public.verify(&quote, &decode(&evidence.signature)?)?;
    let quote = Quote::parse(&quote)?;
    // The qualified name covers the key's ancestors: a key with the same public area below another
    // parent has another qualified name.
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
            pcr_value(value)
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
    let mut not_after_ms = None;
    if let Some(endorsement) = &key.endorsement {
        not_after_ms = Some(endorsement.verify(manufacturers, now_ms)?);
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
    // The counts of resets and restarts are the high bits: a reset may set the clock back to the
    // time at which it was last saved.
    let counter = (u128::from(quote.reset_count) << 96)
        | (u128::from(quote.restart_count) << 64)
        | u128::from(quote.clock_ms);
    Ok(Claims {
        not_after_ms,
        counter: Some(Counter {
            source: sha256(&key.qualified_name),
            value: counter,
            slack: CLOCK_SLACK_MS,
        }),
        ..Claims::of("tpm2", Assurance::Hardware, true, claims, payload)
    })
}

/// Returns the value of a PCR from lower-case hexadecimal. Upper case is rejected, so that a value
/// has one spelling.
fn pcr_value(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    hex::decode(text).ok()
}
