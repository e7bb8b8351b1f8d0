//! `sundew svid`: SVIDs from the embedded CA, in files, and JWT-SVIDs from a Workload API.

mod jwt;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use sundew_core::client::{Binding, BindingPurpose};
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::{
    CreateJoinTokenRequest, EnrollChallengeRequest, EnrollRequest, Evidence, RenewRequest, Svid,
};
use sundew_sdk::{AnonymousConnection, Ttl};
use tonic::{Code, Status};

use crate::args::{Connect, EnrollSvid, SvidCommand};
use crate::client::{connection, enrollment_connection, registry, settings, status_error};
use crate::csr::generate_key_and_csr;
use crate::input::read_credential;
use crate::output::{Output, View, escape};
use crate::svid_files::write_svid;
use crate::timestamp::{format_timestamp, now_ms};

pub(crate) async fn svid(
    connect: &Connect,
    output: &Output,
    command: SvidCommand,
) -> Result<ExitCode> {
    match command {
        SvidCommand::JoinToken { spiffe_id, ttl } => {
            create_join_token(connect, output, spiffe_id, ttl).await
        }
        SvidCommand::Enroll(command) => enroll(connect, output, command).await,
        SvidCommand::Jwt {
            audience,
            spiffe_id,
        } => jwt::fetch(connect, output, audience, spiffe_id).await,
        SvidCommand::VerifyJwt { audience } => jwt::verify(connect, output, audience).await,
        SvidCommand::Renew { keep } => renew(connect, output, keep).await,
    }
}

async fn create_join_token(
    connect: &Connect,
    output: &Output,
    spiffe_id: String,
    ttl: Ttl,
) -> Result<ExitCode> {
    let request = CreateJoinTokenRequest {
        spiffe_id,
        ttl_ms: ttl.as_ms(),
    };
    let answer = registry(connect)
        .await?
        .create_join_token(request)
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&JoinTokenView {
        join_token: answer.join_token,
        expires_at_ms: answer.expires_at_ms,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Gets a first SVID, for evidence if the command names a SPIFFE ID, and otherwise for a join token
/// on standard input.
async fn enroll(connect: &Connect, output: &Output, command: EnrollSvid) -> Result<ExitCode> {
    let (key, csr) = generate_key_and_csr()?;
    let connection =
        enrollment_connection(&command.enrollment, &command.bundle, &command.trust_domain)?;
    let request = match command.spiffe_id.clone() {
        None => EnrollRequest {
            join_token: read_credential("join token")?.trim().to_owned(),
            csr,
            ..EnrollRequest::default()
        },
        Some(spiffe_id) => EnrollRequest {
            csr,
            spiffe_id,
            ..prove(connect, &connection, &key, &command).await?
        },
    };
    let answer = EnrollmentServiceClient::new(connection.channel())
        .enroll(request)
        .await
        .map_err(status_error)?;
    store_svid(output, &command.out, answer.into_inner().svid, &key)?;
    Ok(ExitCode::SUCCESS)
}

/// Collects evidence of each of the command's kinds for an enrollment, and returns a request that has the
/// evidence and the nonce. The evidence is bound to the nonce, to the new key and to the connection
/// (P2), so that nobody else can show it.
async fn prove(
    connect: &Connect,
    connection: &AnonymousConnection,
    key: &KeyPair,
    command: &EnrollSvid,
) -> Result<EnrollRequest> {
    let challenge = EnrollmentServiceClient::new(connection.channel())
        .enroll_challenge(EnrollChallengeRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    let binding = Binding::new(
        BindingPurpose::Enroll,
        &challenge.nonce,
        &key.subject_public_key_info(),
        &connection.exporter(),
    );
    let settings = settings(connect);
    let mut evidence = Vec::new();
    let broker = (command.enrollment.as_str(), command.trust_domain.as_str());
    for kind in &command.evidence {
        let (binding, audience) = (*binding.as_bytes(), &challenge.audience);
        let payload = sundew_sdk::collect_for(&settings, kind, binding, audience, broker).await?;
        evidence.push(Evidence {
            kind: kind.clone(),
            payload,
        });
    }
    Ok(EnrollRequest {
        nonce: challenge.nonce,
        evidence,
        ..EnrollRequest::default()
    })
}

/// Replaces the SVID in the folder of the command line, once, or with `keep` again and again at
/// half of each SVID's life.
async fn renew(connect: &Connect, output: &Output, keep: bool) -> Result<ExitCode> {
    loop {
        let folder = connect
            .svid_dir
            .clone()
            .context("--svid-dir says which SVID to renew")?;
        let (key, csr) = generate_key_and_csr()?;
        let channel = connection(connect).await?.channel();
        let svid = EnrollmentServiceClient::new(channel)
            .renew(RenewRequest { csr })
            .await
            .map_err(not_renewed)?
            .into_inner()
            .svid;
        let not_after_ms = svid.as_ref().map_or(0, |svid| svid.not_after_ms);
        let left_ms = not_after_ms.saturating_sub(now_ms());
        store_svid(output, &folder, svid, &key)?;
        if !keep {
            return Ok(ExitCode::SUCCESS);
        }
        let half_life = Duration::from_millis(u64::try_from(left_ms / 2).unwrap_or(0));
        tokio::time::sleep(half_life.max(Duration::from_secs(1))).await;
    }
}

/// Says what is wanted of whoever renews, where that may be the reason.
fn not_renewed(status: Status) -> anyhow::Error {
    let is_refused = status.code() == Code::PermissionDenied;
    let error = status_error(status);
    match is_refused {
        true => error.context(
            "only an SVID of a registered workload is renewed: register it first (`sundew workload \
             apply`), also for an operator, then get one for it (`sundew svid join-token`, `sundew \
             svid enroll`)",
        ),
        false => error,
    }
}

/// Writes an SVID that the broker issued into a folder, and says so.
fn store_svid(output: &Output, folder: &Path, svid: Option<Svid>, key: &KeyPair) -> Result<()> {
    let svid = svid.context("the broker sent no SVID")?;
    let certificates = |list: &[Vec<u8>]| {
        list.iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect::<Vec<_>>()
    };
    write_svid(
        folder,
        &certificates(&svid.certificates),
        key.serialized_der(),
        &certificates(&svid.bundle),
    )?;
    output.show(&SvidView {
        spiffe_id: svid.spiffe_id,
        folder: folder.to_owned(),
        not_after_ms: svid.not_after_ms,
    })
}

/// A credential for a first SVID.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JoinTokenView {
    join_token: String,
    expires_at_ms: i64,
}

impl View for JoinTokenView {
    const KIND: &'static str = "join_token";

    fn lines(&self) -> Vec<String> {
        vec![self.join_token.clone()]
    }
}

/// An SVID that is in a folder now.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SvidView {
    spiffe_id: String,
    folder: PathBuf,
    not_after_ms: i64,
}

impl View for SvidView {
    const KIND: &'static str = "svid";

    fn lines(&self) -> Vec<String> {
        vec![format!(
            "{} until {} in {}",
            escape(&self.spiffe_id, 2048),
            format_timestamp(self.not_after_ms),
            self.folder.display()
        )]
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<JoinTokenView>(),
        crate::shapes::of::<SvidView>(),
        crate::shapes::of::<jwt::JwtSvidView>(),
        crate::shapes::of::<jwt::VerifiedJwtSvidView>(),
    ]
}
