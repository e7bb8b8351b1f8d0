//! `tdx`: a quote of an Intel TDX trust domain, version 4 or 5 (Intel TDX DCAP Quoting Library
//! API). The report data is the 64-byte form of the binding.
//!
//! `dcap-qvl` verifies signatures, certificate chains, revocation lists, QE identity, TDX module
//! identity and TCB levels.

use std::collections::BTreeSet;

use dcap_qvl::quote::{Quote, Report, TDReport10};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, QuotePolicy};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::claims::{Assurance, Claims, Values};
use crate::json;

/// The largest quote, in bytes.
const MAX_QUOTE: usize = 16 << 10;
/// The largest collateral, in bytes.
const MAX_COLLATERAL: usize = 256 << 10;
/// The DEBUG bit in the first byte of TDATTRIBUTES (Intel TDX Module Base Architecture
/// Specification).
const DEBUG: u8 = 1;

/// The reasons to reject a quote or its collateral.
#[derive(Debug, thiserror::Error)]
pub enum TdxError {
    /// The report data is not the binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// There is no collateral for the platform's model (FMSPC).
    #[error("no collateral for FMSPC {0}")]
    Collateral(String),
    /// The trust domain can be debugged by its host.
    #[error("the trust domain runs in debug mode")]
    Debug,
    /// The quote or collateral is malformed, or is not for a trust domain.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The quote could not be verified against the collateral at this time.
    #[error("not verified: {0}")]
    Unverified(String),
}

/// Intel's collateral for one platform model (FMSPC), as a PCCS serves it: TCB levels, identities
/// and revocation lists.
#[derive(Clone)]
pub struct Collateral {
    fmspc: String,
    next_update_ms: i64,
    content: QuoteCollateralV3,
}

impl std::fmt::Debug for Collateral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collateral")
            .field("fmspc", &self.fmspc)
            .field("next_update_ms", &self.next_update_ms)
            .finish_non_exhaustive()
    }
}

impl Collateral {
    /// Reads collateral of at most 256 KiB in the JSON form of `dcap-qvl` and its tools. The
    /// signatures are verified with each quote.
    ///
    /// # Errors
    /// [`TdxError::Malformed`] if it cannot be parsed or is not for TDX.
    pub fn parse(document: &[u8]) -> Result<Self, TdxError> {
        let fail = |e: &dyn std::fmt::Display| TdxError::Malformed(e.to_string());
        let content: QuoteCollateralV3 =
            json::read(document, MAX_COLLATERAL).map_err(|e| fail(&e))?;
        let info =
            json::parse(content.tcb_info.as_bytes(), MAX_COLLATERAL).map_err(|e| fail(&e))?;
        let text = |name: &str| {
            info.get(name)
                .and_then(serde_json::Value::as_str)
                .ok_or_else(|| fail(&format!("tcb_info has no {name}")))
        };
        if text("id")? != "TDX" {
            return Err(fail(&"tcb_info is not for TDX"));
        }
        let next = OffsetDateTime::parse(text("nextUpdate")?, &Rfc3339).map_err(|e| fail(&e))?;
        let next_update_ms = next.unix_timestamp().saturating_mul(1000);
        Ok(Self {
            fmspc: text("fmspc")?.to_ascii_lowercase(),
            next_update_ms,
            content,
        })
    }

    /// Returns the FMSPC, which names the platform model, in lower-case hexadecimal.
    #[must_use]
    pub fn fmspc(&self) -> &str {
        &self.fmspc
    }

    /// Returns when the next collateral is due, in milliseconds since the epoch. No quote is
    /// verified with this one after that time.
    #[must_use]
    pub fn next_update_ms(&self) -> i64 {
        self.next_update_ms
    }

    /// Returns whether the revocation lists of this collateral take back a certificate that those of
    /// `other` do not take back.
    pub(crate) fn revokes_more_than(&self, other: &Self) -> bool {
        let revoked = |collateral: &Self| {
            let content = &collateral.content;
            [
                revoked_in(&content.root_ca_crl),
                revoked_in(&content.pck_crl),
            ]
        };
        let (ours, theirs) = (revoked(self), revoked(other));
        !ours
            .iter()
            .zip(&theirs)
            .all(|(ours, theirs)| ours.is_subset(theirs))
    }
}

/// Verifies a quote under Intel's root against the collateral for its platform model, and that its
/// report data is `binding`. `now_ms` is in milliseconds since the epoch.
///
/// # Errors
/// Each [`TdxError`] names the check that failed.
pub fn verify<'a>(
    payload: &[u8],
    collateral: impl IntoIterator<Item = &'a Collateral>,
    binding: &[u8; 64],
    now_ms: i64,
) -> Result<Claims, TdxError> {
    verify_by(
        &QuoteVerifier::new_prod(),
        payload,
        collateral,
        binding,
        now_ms,
    )
}

/// Verifies a quote like [`verify`] under another root than Intel's, a self-signed certificate in
/// DER. No configuration names one: rebuilt evidence has no other way to be verified.
///
/// # Errors
/// Each [`TdxError`] names the check that failed.
pub fn verify_under<'a>(
    root: &[u8],
    payload: &[u8],
    collateral: impl IntoIterator<Item = &'a Collateral>,
    binding: &[u8; 64],
    now_ms: i64,
) -> Result<Claims, TdxError> {
    verify_by(
        &QuoteVerifier::new(root.to_vec()),
        payload,
        collateral,
        binding,
        now_ms,
    )
}

fn verify_by<'a>(
    verifier: &QuoteVerifier,
    payload: &[u8],
    collateral: impl IntoIterator<Item = &'a Collateral>,
    binding: &[u8; 64],
    now_ms: i64,
) -> Result<Claims, TdxError> {
    if payload.len() > MAX_QUOTE {
        return Err(TdxError::Malformed("longer than 16 KiB".to_owned()));
    }
    let fail = |e: &dyn std::fmt::Display| TdxError::Malformed(e.to_string());
    let quote = Quote::parse(payload).map_err(|e| fail(&e))?;
    // P12: a replayed quote is rejected before any signature is verified.
    if &report_of(&quote.report)?.report_data != binding {
        return Err(TdxError::Binding);
    }
    let pck = dcap_qvl::intel::quote_fmspc(&quote).map_err(|e| fail(&e))?;
    let fmspc = hex::encode(pck);
    let collateral = collateral
        .into_iter()
        .find(|known| known.fmspc == fmspc)
        .ok_or(TdxError::Collateral(fmspc.clone()))?;
    let seconds = u64::try_from(now_ms.div_euclid(1000)).map_err(|e| fail(&e))?;
    // Whether the TCB is good enough is appraised by the registration.
    let policy = QuotePolicy::claims_only(seconds);
    let verified = verifier
        .verify_with_policy(payload, collateral.content.clone(), seconds, &policy)
        .map_err(|e| TdxError::Unverified(format!("{e:#}")))?;
    // From here on, the report is the one that `dcap-qvl` verified.
    let report = report_of(&verified.report)?;
    if report
        .td_attributes
        .first()
        .is_none_or(|first| first & DEBUG != 0)
    {
        return Err(TdxError::Debug);
    }
    let mut values = Values::default();
    values.text("tcb_status", verified.tcb.status);
    for advisory in &verified.tcb.advisory_ids {
        values.text("advisory", advisory);
    }
    values.text("fmspc", fmspc);
    values.bytes("mrtd", &report.mr_td);
    values.bytes("mrconfigid", &report.mr_config_id);
    values.bytes("mrowner", &report.mr_owner);
    values.bytes("mrownerconfig", &report.mr_owner_config);
    values.bytes("mrseam", &report.mr_seam);
    values.bytes("td_attributes", &report.td_attributes);
    values.bytes("xfam", &report.xfam);
    for (index, register) in [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3]
        .iter()
        .enumerate()
    {
        values.bytes(&format!("rtmr{index}"), register);
    }
    values.bytes("ppid", &verified.platform.pck.ppid);
    // The earliest end of all certificates, lists and documents that the verdict rests on.
    let end_ms = i64::try_from(verified.earliest_expiration_date).map_err(|e| fail(&e))?;
    let end_ms = end_ms.saturating_mul(1000);
    Ok(Claims {
        not_after_ms: Some(end_ms.min(collateral.next_update_ms)),
        ..Claims::of("tdx", Assurance::Hardware, true, values, payload)
    })
}

/// Returns the serial numbers of the certificates that a revocation list in DER takes back.
fn revoked_in(list: &[u8]) -> BTreeSet<Vec<u8>> {
    let list = CertificateRevocationList::from_der(list).ok();
    let serials = list.iter().flat_map(|(_, list)| {
        let revoked = list.iter_revoked_certificates();
        revoked.map(|revoked| revoked.raw_serial().to_vec())
    });
    serials.collect()
}

/// Returns the fields that reports of all TDX versions have in common.
fn report_of(report: &Report) -> Result<&TDReport10, TdxError> {
    match report {
        Report::TD10(report) => Ok(report),
        Report::TD15(report) => Ok(&report.base),
        Report::TD15Ex(report) => Ok(&report.base.base),
        Report::SgxEnclave(_) => Err(TdxError::Malformed("an SGX enclave's quote".to_owned())),
    }
}
