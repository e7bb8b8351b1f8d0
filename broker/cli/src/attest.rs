//! Evidence and trust material from the command line.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sundew_broker::evidence::offline::{Inspection, Trusted, inspect, public_key_in};
use sundew_broker::serve::config::Config;
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::{
    ActivateTpmKeyRequest, AddTrustRequest, ChallengeTpmKeyRequest, EvidenceAttempt,
    EvidenceFinding, ExplainEvidenceRequest, ListTrustRequest, RemoveTrustRequest, TrustItem,
};
use sundew_sdk::{IdentitySource, TpmKey};

use crate::args::{
    ActivateKey, AttestCommand, CollectEvidence, Connect, TrustCommand, VerifyEvidence,
};
use crate::client::{connection, registry, settings, status_error};
use crate::input::{parse_hex_32, read_bytes};
use crate::output::{Output, escape, table};
use crate::svid::enrollment_listener;
use crate::timestamp::{format_timestamp, now_ms, parse_timestamp};

pub(crate) async fn trust(
    connect: &Connect,
    output: &Output,
    command: TrustCommand,
) -> Result<ExitCode> {
    match command {
        TrustCommand::Add {
            kind,
            name,
            file,
            remark,
        } => {
            let content = match file {
                Some(path) => read_bytes(&path)?,
                None => remark.unwrap_or_default().into_bytes(),
            };
            let request = AddTrustRequest {
                kind: kind.clone(),
                name: name.clone(),
                content,
            };
            let answer = registry(connect)
                .await?
                .add_trust(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let value = serde_json::json!({ "kind": kind, "name": name, "action": answer.action });
            output.result(&value, || {
                vec![format!("{kind} {} {}", escape(&name, 256), answer.action)]
            });
        }
        TrustCommand::List => {
            let items = listed(connect).await?;
            output.result(&items.iter().map(item_value).collect::<Vec<_>>(), || {
                item_table(&items)
            });
        }
        TrustCommand::Remove { kind, name, reason } => {
            let request = RemoveTrustRequest {
                kind: kind.clone(),
                name: name.clone(),
                reason,
            };
            let answer = registry(connect)
                .await?
                .remove_trust(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let revocations: Vec<_> =
                answer.revocations.iter().map(|r| serde_json::json!({ "spiffe_id": r.spiffe_id, "revocation_id": r.revocation_id })).collect();
            output.result(
                &serde_json::json!({ "kind": kind, "name": name, "revocations": revocations }),
                || {
                    let mut lines = vec![format!(
                        "{kind} {} is trusted no more; no new task rests on it",
                        escape(&name, 256)
                    )];
                    lines.extend(answer.revocations.iter().map(|r| {
                        format!(
                            "  tasks of {} that rested on it are dead ({})",
                            r.spiffe_id, r.revocation_id
                        )
                    }));
                    lines
                },
            );
        }
        TrustCommand::Status { within } => {
            let soon_ms = now_ms().saturating_add(within.as_ms());
            let mut items = listed(connect).await?;
            let total = items.len();
            items.retain(|item| {
                !item.problem.is_empty() || (item.not_after_ms != 0 && item.not_after_ms <= soon_ms)
            });
            let value = serde_json::json!({ "items": total, "need_attention": items.iter().map(item_value).collect::<Vec<_>>() });
            output.result(&value, || {
                let mut lines = vec![format!(
                    "{total} items are trusted, {} need attention",
                    items.len()
                )];
                if !items.is_empty() {
                    lines.extend(item_table(&items));
                }
                lines
            });
            return Ok(if items.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn listed(connect: &Connect) -> Result<Vec<TrustItem>> {
    Ok(registry(connect)
        .await?
        .list_trust(ListTrustRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .items)
}

fn item_value(item: &TrustItem) -> serde_json::Value {
    let not_after_ms = (item.not_after_ms != 0).then_some(item.not_after_ms);
    serde_json::json!({
        "kind": item.kind, "name": item.name, "digest": item.digest, "not_after_ms": not_after_ms, "source": item.source, "problem": item.problem,
    })
}

fn item_table(items: &[TrustItem]) -> Vec<String> {
    let row = |item: &TrustItem| {
        let end = if item.not_after_ms == 0 {
            "-".to_owned()
        } else {
            format_timestamp(item.not_after_ms)
        };
        vec![
            item.kind.clone(),
            escape(&item.name, 100),
            end,
            escape(&item.source, 60),
            escape(&item.problem, 100),
        ]
    };
    table(
        &["KIND", "NAME", "ENDS", "SOURCE", "PROBLEM"],
        &items.iter().map(row).collect::<Vec<_>>(),
    )
}

pub(crate) async fn attest(
    connect: &Connect,
    output: &Output,
    command: AttestCommand,
) -> Result<ExitCode> {
    match command {
        AttestCommand::Explain { spiffe_id, limit } => {
            let request = ExplainEvidenceRequest {
                spiffe_id: spiffe_id.unwrap_or_default(),
                limit,
            };
            let attempts = registry(connect)
                .await?
                .explain_evidence(request)
                .await
                .map_err(status_error)?
                .into_inner()
                .attempts;
            output.result(&attempts.iter().map(attempt_value).collect::<Vec<_>>(), || {
                if attempts.is_empty() {
                    return vec!["no attempt is remembered at this broker: it remembers the last 256 since it started".to_owned()];
                }
                attempts.iter().flat_map(attempt_lines).collect()
            });
            Ok(ExitCode::SUCCESS)
        }
        AttestCommand::Collect(CollectEvidence {
            kind,
            binding,
            audience,
            out,
        }) => {
            let settings = settings(connect);
            let identity = if settings.svid_dir.is_some() || settings.endpoint_socket.is_some() {
                Some(IdentitySource::open(&settings).await?.current())
            } else {
                None
            };
            let evidence = sundew_sdk::collect(
                &settings,
                &kind,
                parse_binding(&binding)?,
                &audience,
                identity.as_deref(),
            )
            .await?;
            if out == Path::new("-") {
                std::io::stdout().write_all(&evidence)?;
            } else {
                std::fs::write(&out, &evidence).with_context(|| out.display().to_string())?;
                let value =
                    serde_json::json!({ "kind": kind, "bytes": evidence.len(), "file": out });
                output.result(&value, || {
                    vec![format!(
                        "{} bytes of `{kind}` evidence are in {}",
                        evidence.len(),
                        out.display()
                    )]
                });
            }
            Ok(ExitCode::SUCCESS)
        }
        AttestCommand::Activate(ActivateKey {
            tpm,
            key,
            endorsement_key,
            certificate,
            intermediates,
            enrollment,
            bundle,
            trust_domain,
        }) => {
            let channel = match (enrollment, bundle, trust_domain) {
                (Some(place), Some(bundle), Some(domain)) => {
                    enrollment_listener(&place, &bundle, &domain)?.channel()
                }
                _ => connection(connect).await?.channel(),
            };
            let keys =
                TpmKey::read(&tpm, key, endorsement_key).map_err(|problem| anyhow!(problem))?;
            let certificate = match certificate {
                Some(path) => certificates(&path)?.into_iter().next().with_context(|| format!("{}: no certificate", path.display()))?,
                None => keys.certificate.context("the TPM has no certificate of its endorsement key: get it from its maker, and give it as --certificate")?,
            };
            let intermediates = intermediates
                .map(|path| certificates(&path))
                .transpose()?
                .unwrap_or_default();
            let of_broker = sundew_proto::v1::TpmKey {
                attestation_key: keys.attestation_key,
                endorsement_key: keys.endorsement_key,
                certificate,
                intermediates,
            };
            let mut client = EnrollmentServiceClient::new(channel);
            let request = ChallengeTpmKeyRequest {
                key: Some(of_broker.clone()),
            };
            let made = client
                .challenge_tpm_key(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let opened = TpmKey::open(&tpm, key, endorsement_key, &made.credential, &made.secret)
                .map_err(|problem| anyhow!(problem))?;
            let request = ActivateTpmKeyRequest {
                key: Some(of_broker),
                opened,
                expires_at_ms: made.expires_at_ms,
            };
            let answer = client
                .activate_tpm_key(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let value =
                serde_json::json!({ "ek": answer.ek, "key": answer.key, "action": answer.action });
            output.result(&value, || {
                vec![
                    format!("ek   {}", answer.ek),
                    format!("key  {}", answer.key),
                    format!("the key is trusted ({})", answer.action),
                ]
            });
            Ok(ExitCode::SUCCESS)
        }
        AttestCommand::Verify(VerifyEvidence {
            kind,
            file,
            requirement,
            binding,
            trust,
            config,
            certificate,
            at,
        }) => {
            let config = config
                .map(|path| Config::load(&path).with_context(|| path.display().to_string()))
                .transpose()?;
            let trusted = Trusted::read(
                &config
                    .as_ref()
                    .map(Config::trust_sources)
                    .unwrap_or_default(),
                &trust,
            )
            .map_err(|e| anyhow!(e))?;
            let public_key = certificate
                .map(|path| public_key_in(&path))
                .transpose()
                .map_err(|e| anyhow!(e))?
                .unwrap_or_default();
            let now_ms = match at {
                Some(at) => parse_timestamp(&at)
                    .context("--at: must be a time in UTC, such as 2026-01-31T12:00:00Z")?,
                None => now_ms(),
            };
            let (payload, requirement) = (
                read_bytes(&file)?,
                String::from_utf8(read_bytes(&requirement)?).context("requirement")?,
            );
            let inspection = Inspection {
                kind: &kind,
                payload: &payload,
                requirement: &requirement,
                binding: parse_binding(&binding)?,
                public_key: &public_key,
                now_ms,
            };
            let (findings, refusal) = inspect(&inspection, &trusted).map_err(|e| anyhow!(e))?;
            let value = serde_json::json!({ "taken": refusal.is_none(), "refusal": refusal, "findings": findings.iter().map(finding_value).collect::<Vec<_>>() });
            output.result(&value, || {
                let mut lines: Vec<_> = findings.iter().flat_map(finding_lines).collect();
                lines.push(refusal.as_ref().map_or_else(
                    || "taken".to_owned(),
                    |refusal| format!("refused: {}", escape(refusal, 400)),
                ));
                lines
            });
            Ok(if refusal.is_none() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

fn attempt_value(attempt: &EvidenceAttempt) -> serde_json::Value {
    let wanted: serde_json::Value = serde_json::from_str(&attempt.wanted).unwrap_or_default();
    serde_json::json!({
        "at_ms": attempt.at_ms, "spiffe_id": attempt.spiffe_id, "purpose": attempt.purpose, "shown": attempt.shown, "wanted": wanted,
        "findings": attempt.findings.iter().map(finding_value).collect::<Vec<_>>(), "refusal": attempt.refusal, "assurance": attempt.assurance,
    })
}

fn attempt_lines(attempt: &EvidenceAttempt) -> Vec<String> {
    let verdict = if attempt.refusal.is_empty() {
        format!("taken, worth `{}`", attempt.assurance)
    } else {
        format!("REFUSED: {}", escape(&attempt.refusal, 400))
    };
    let mut lines = vec![format!(
        "{} {} {}: {verdict}",
        format_timestamp(attempt.at_ms),
        attempt.spiffe_id,
        attempt.purpose
    )];
    let shown = if attempt.shown.is_empty() {
        "nothing".to_owned()
    } else {
        escape(&attempt.shown.join(", "), 300)
    };
    lines.push(format!("  shown:  {shown}"));
    // JSON, which has its own escapes.
    let wanted: String = attempt
        .wanted
        .chars()
        .take(2000)
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect();
    lines.push(format!("  wanted: {wanted}"));
    lines.extend(
        attempt
            .findings
            .iter()
            .flat_map(finding_lines)
            .map(|line| format!("  {line}")),
    );
    lines
}

fn finding_value(finding: &EvidenceFinding) -> serde_json::Value {
    let claims: serde_json::Map<_, _> = finding
        .claims
        .iter()
        .map(|claim| (claim.name.clone(), claim.values.clone().into()))
        .collect();
    serde_json::json!({ "kind": finding.kind, "problem": finding.problem, "fresh": finding.fresh, "claims": claims })
}

fn finding_lines(finding: &EvidenceFinding) -> Vec<String> {
    let mut lines = vec![match finding.problem.as_str() {
        "" => format!(
            "{}: good{}",
            finding.kind,
            if finding.fresh {
                ", fresh"
            } else {
                ", without the nonce"
            }
        ),
        problem => format!("{}: {}", finding.kind, escape(problem, 400)),
    }];
    lines.extend(finding.claims.iter().map(|claim| {
        format!(
            "  {} = {}",
            escape(&claim.name, 128),
            escape(&claim.values.join(" "), 400)
        )
    }));
    lines
}

fn parse_binding(digits: &str) -> Result<[u8; 32]> {
    parse_hex_32(digits).context("--binding: must be 64 hexadecimal digits")
}

/// Certificates in PEM, or one in DER.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    let content = read_bytes(path)?;
    if content.first() == Some(&0x30) {
        return Ok(vec![content]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content)
        .map(|one| one.map(|der| der.to_vec()))
        .collect();
    all.map_err(|e| anyhow!("{}: {e:?}", path.display()))
}
