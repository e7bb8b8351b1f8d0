//! SVIDs from the embedded CA, in files; JWT-SVIDs from a Workload API.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use sundew_core::client::{Binding, BindingPurpose};
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::spiffe::{JwtsvidRequest, ValidateJwtsvidRequest};
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::{
    CreateJoinTokenRequest, EnrollChallengeRequest, EnrollRequest, Evidence, RenewRequest, Svid,
};
use sundew_sdk::{AnonymousConnection, BundleSet, SpiffeId, TrustBundle, TrustDomain};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::args::{Connect, EnrollSvid, SvidCommand};
use crate::client::{connection, registry, settings, status_error};
use crate::output::Output;
use crate::timestamp::{format_timestamp, now_ms};

pub(crate) async fn svid(connect: &Connect, output: &Output, command: SvidCommand) -> Result<()> {
    match command {
        SvidCommand::JoinToken { spiffe_id, ttl } => {
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
            let value = serde_json::json!({ "join_token": answer.join_token, "expires_at_ms": answer.expires_at_ms });
            output.result(&value, || vec![answer.join_token.clone()]);
            Ok(())
        }
        SvidCommand::Enroll(EnrollSvid {
            enrollment,
            bundle,
            trust_domain,
            spiffe_id,
            evidence,
            out,
        }) => {
            let (key, csr) = key_and_csr()?;
            let connection = enrollment_listener(&enrollment, &bundle, &trust_domain)?;
            let mut client = EnrollmentServiceClient::new(connection.channel());
            let request = match spiffe_id {
                None => EnrollRequest {
                    join_token: from_input("join token")?,
                    csr,
                    ..EnrollRequest::default()
                },
                Some(spiffe_id) => {
                    let challenge = client
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
                    let mut shown = Vec::new();
                    for kind in evidence {
                        let payload = sundew_sdk::collect(
                            &settings,
                            &kind,
                            *binding.as_bytes(),
                            &challenge.audience,
                            None,
                        )
                        .await?;
                        shown.push(Evidence { kind, payload });
                    }
                    EnrollRequest {
                        csr,
                        spiffe_id,
                        nonce: challenge.nonce,
                        evidence: shown,
                        ..EnrollRequest::default()
                    }
                }
            };
            let answer = client.enroll(request).await.map_err(status_error)?;
            written(output, &out, answer.into_inner().svid, &key)
        }
        SvidCommand::Jwt {
            audience,
            spiffe_id,
        } => {
            let request = JwtsvidRequest {
                audience,
                spiffe_id: spiffe_id.unwrap_or_default(),
            };
            let answer = workload_api(connect)
                .await?
                .fetch_jwtsvid(for_workload_api(request)?)
                .await
                .map_err(status_error)?
                .into_inner();
            let [svid] = answer.svids.as_slice() else {
                let ids: Vec<_> = answer
                    .svids
                    .iter()
                    .map(|svid| svid.spiffe_id.as_str())
                    .collect();
                bail!(
                    "this process has several identities, choose one with --spiffe-id: {}",
                    ids.join(" ")
                );
            };
            let value = serde_json::json!({ "spiffe_id": svid.spiffe_id, "svid": svid.svid });
            output.result(&value, || vec![svid.svid.clone()]);
            Ok(())
        }
        SvidCommand::VerifyJwt { audience } => {
            let request = ValidateJwtsvidRequest {
                audience,
                svid: from_input("JWT-SVID")?,
            };
            let answer = workload_api(connect)
                .await?
                .validate_jwtsvid(for_workload_api(request)?)
                .await
                .map_err(status_error)?
                .into_inner();
            output.result(
                &serde_json::json!({ "spiffe_id": answer.spiffe_id }),
                || vec![answer.spiffe_id.clone()],
            );
            Ok(())
        }
        SvidCommand::Renew { keep } => loop {
            let folder = connect
                .svid_dir
                .clone()
                .context("--svid-dir says which SVID to renew")?;
            let (key, csr) = key_and_csr()?;
            let channel = connection(connect).await?.channel();
            let answer = EnrollmentServiceClient::new(channel)
                .renew(RenewRequest { csr })
                .await
                .map_err(status_error)?
                .into_inner();
            let left_ms = answer
                .svid
                .as_ref()
                .map_or(0, |svid| svid.not_after_ms)
                .saturating_sub(now_ms());
            written(output, &folder, answer.svid, &key)?;
            if !keep {
                return Ok(());
            }
            tokio::time::sleep(
                Duration::from_millis(u64::try_from(left_ms / 2).unwrap_or(0))
                    .max(Duration::from_secs(1)),
            )
            .await;
        },
    }
}

/// A connection without an SVID.
pub(crate) fn enrollment_listener(
    place: &str,
    bundle: &Path,
    trust_domain: &str,
) -> Result<AnonymousConnection> {
    let domain = TrustDomain::parse(trust_domain).map_err(|e| anyhow!("--trust-domain: {e}"))?;
    let roots = fs::read(bundle).with_context(|| bundle.display().to_string())?;
    let roots =
        TrustBundle::parse(domain, &roots).map_err(|e| anyhow!("{}: {e}", bundle.display()))?;
    let expected = SpiffeId::parse(&format!("{}/sundew/broker", roots.trust_domain().id()))
        .map_err(|e| anyhow!("{e}"))?;
    let mut bundles = BundleSet::default();
    bundles.insert(roots);
    Ok(AnonymousConnection::open(place, expected, bundles)?)
}

fn from_input(what: &'static str) -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .with_context(|| format!("{what} from standard input"))?;
    Ok(text.trim().to_owned())
}

async fn workload_api(connect: &Connect) -> Result<SpiffeWorkloadApiClient<Channel>> {
    let socket = connect
        .endpoint_socket
        .clone()
        .context("no Workload API: set SPIFFE_ENDPOINT_SOCKET to its unix:///path")?;
    let endpoint = Endpoint::from_shared(socket.replacen("unix:///", "unix:/", 1))
        .with_context(|| socket.clone())?;
    Ok(SpiffeWorkloadApiClient::new(
        endpoint.connect().await.with_context(|| socket)?,
    ))
}

/// SPIFFE Workload Endpoint, section 4.1.
fn for_workload_api<T>(message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse()?);
    Ok(request)
}

/// A new key, and a request with nothing in it but the key.
pub(crate) fn key_and_csr() -> Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    Ok((key, csr.der().to_vec()))
}

fn written(output: &Output, folder: &Path, svid: Option<Svid>, key: &KeyPair) -> Result<()> {
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
    let value = serde_json::json!({ "spiffe_id": svid.spiffe_id, "folder": folder, "not_after_ms": svid.not_after_ms });
    output.result(&value, || {
        vec![format!(
            "{} until {} in {}",
            svid.spiffe_id,
            format_timestamp(svid.not_after_ms),
            folder.display()
        )]
    });
    Ok(())
}

/// Writes svid.pem, key.pem and bundle.pem. The key goes first and the certificate last: a reader
/// that looks in between sees a pair that does not fit, and keeps its old one.
pub(crate) fn write_svid(
    folder: &Path,
    chain: &[CertificateDer<'_>],
    key: &[u8],
    bundle: &[CertificateDer<'_>],
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let pem = |certificates: &[CertificateDer<'_>]| {
        certificates
            .iter()
            .map(|c| pem_of("CERTIFICATE", c))
            .collect::<String>()
    };
    write(&folder.join("key.pem"), &pem_of("PRIVATE KEY", key), 0o600)?;
    write(&folder.join("bundle.pem"), &pem(bundle), 0o644)?;
    write(&folder.join("svid.pem"), &pem(chain), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .with_context(|| fresh.display().to_string())?;
    file.write_all(text.as_bytes())?;
    fs::rename(&fresh, path).with_context(|| path.display().to_string())
}

/// PEM (RFC 7468).
pub(crate) fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .filter_map(|at| text.get(at..text.len().min(at + 64)))
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
