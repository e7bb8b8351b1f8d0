//! `sundew attest activate`: making a broker trust the attestation key of this host's TPM.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::{ActivateTpmKeyRequest, ChallengeTpmKeyRequest, TpmKey as TpmKeyMessage};
use sundew_sdk::TpmKey;
use tonic::transport::Channel;

use crate::args::{ActivateKey, Connect};
use crate::client::{connection, enrollment_connection, status_error};
use crate::input::read_bytes;
use crate::output::{Output, View, fields};

/// Lets the TPM open a credential that the broker made for both of its keys, and sends the opened
/// credential back: only the TPM that has the endorsement key can open it.
pub(super) async fn activate(
    connect: &Connect,
    output: &Output,
    command: ActivateKey,
) -> Result<ExitCode> {
    let mut client = EnrollmentServiceClient::new(channel(connect, &command).await?);
    let key = key_message(&command)?;
    let request = ChallengeTpmKeyRequest {
        key: Some(key.clone()),
    };
    let challenge = client
        .challenge_tpm_key(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let opened = TpmKey::open(
        &command.tpm,
        command.key,
        command.endorsement_key,
        &challenge.credential,
        &challenge.secret,
    )
    .map_err(|problem| anyhow!(problem))?;
    let request = ActivateTpmKeyRequest {
        key: Some(key),
        opened,
        expires_at_ms: challenge.expires_at_ms,
    };
    let answer = client
        .activate_tpm_key(request)
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&ActivatedView {
        ek: answer.ek,
        key: answer.key,
        action: answer.action,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A key that is trusted, by the claims to pin.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ActivatedView {
    ek: String,
    key: String,
    action: String,
}

impl View for ActivatedView {
    const KIND: &'static str = "tpm_key_activated";

    fn lines(&self) -> Vec<String> {
        let mut lines = fields(&[("ek", self.ek.clone()), ("key", self.key.clone())]);
        lines.push(format!("the key is trusted ({})", self.action));
        lines
    }
}

/// Opens a channel to the enrollment listener if the command names one, and otherwise, with this
/// host's SVID, to the broker.
async fn channel(connect: &Connect, command: &ActivateKey) -> Result<Channel> {
    match (&command.enrollment, &command.bundle, &command.trust_domain) {
        (Some(place), Some(bundle), Some(domain)) => {
            Ok(enrollment_connection(place, bundle, domain)?.channel())
        }
        _ => Ok(connection(connect).await?.channel()),
    }
}

/// Reads both keys out of the TPM, and the certificates from the files that the command names.
fn key_message(command: &ActivateKey) -> Result<TpmKeyMessage> {
    let keys = TpmKey::read(&command.tpm, command.key, command.endorsement_key)
        .map_err(|problem| anyhow!(problem))?;
    let certificate = match &command.certificate {
        Some(path) => certificates(path)?
            .into_iter()
            .next()
            .with_context(|| format!("{}: no certificate", path.display()))?,
        None => keys.certificate.context(
            "the TPM has no certificate of its endorsement key: \
             get it from its maker, and give it as --certificate",
        )?,
    };
    let intermediates = command
        .intermediates
        .as_deref()
        .map(certificates)
        .transpose()?
        .unwrap_or_default();
    Ok(TpmKeyMessage {
        attestation_key: keys.attestation_key,
        endorsement_key: keys.endorsement_key,
        certificate,
        intermediates,
    })
}

/// Returns the certificates of a file in DER: all that are in PEM, or the one that is in DER.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    let content = read_bytes(path)?;
    // A certificate in DER begins with the tag of a SEQUENCE.
    if content.first() == Some(&0x30) {
        return Ok(vec![content]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content)
        .map(|one| one.map(|der| der.to_vec()))
        .collect();
    all.map_err(|e| anyhow!("{}: {e}", path.display()))
}
