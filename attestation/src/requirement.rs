//! What a registration requires of one piece of evidence.

use serde::{Deserialize, Serialize};

use crate::constraint::Constraints;
use crate::dsse::VerifyingKey;
use crate::kinds::sev_snp::Endorsement;
use crate::spiffe::SpiffeId;
use crate::trust::{TrustKind, TrustMaterial};

/// What a registration requires of one piece of evidence.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Requirement {
    /// An EC2 instance's identity document.
    AwsIid {
        /// `accountId` must be among them.
        claims: Constraints,
    },
    /// A signature over a digest; `cross_checks` must compare it with one of another kind.
    Cosign {
        /// Public keys in PEM, one of which must have signed.
        keys: Vec<String>,
        /// More about it.
        #[serde(default)]
        claims: Constraints,
    },
    /// A signed manifest of the agent.
    Manifest {
        /// Public keys in PEM that may sign it.
        keys: Vec<String>,
        /// How many distinct keys must have signed.
        #[serde(default = "one")]
        threshold: usize,
        /// Such as `digest` or `model`.
        #[serde(default)]
        claims: Constraints,
    },
    /// A Nitro enclave's attestation document.
    Nitro {
        /// `pcr0` (the image) or `pcr8` (its signer) must be among them.
        claims: Constraints,
    },
    /// A JWT of an issuer that the broker is configured with.
    Oidc {
        /// The issuer's URL, exactly its tokens' `iss`.
        issuer: String,
        /// The issuer's pinned claim must be among them.
        claims: Constraints,
    },
    /// What a node says of a process on its host.
    Process {
        /// The nodes whose word counts.
        nodes: Vec<SpiffeId>,
        /// `exe_sha256`, `container_id` or `systemd_unit` must be among them.
        claims: Constraints,
    },
    /// An AMD SEV-SNP guest's report.
    SevSnp {
        /// Which kind of key must have signed it.
        #[serde(default)]
        endorsement: Endorsement,
        /// `measurement` must be among them.
        claims: Constraints,
    },
    /// An Intel TDX trust domain's quote.
    Tdx {
        /// `mrtd` must be among them. Unless `tcb_status` is, it must be `UpToDate`.
        claims: Constraints,
    },
    /// A TPM's quote under an attestation key that is registered, or that a TPM of a known maker
    /// was shown to have.
    Tpm2 {
        /// At least one PCR, such as `pcr.sha256.7`, must be among them. A key that only its TPM's
        /// maker vouches for is taken where `ek` or `key` is, too.
        claims: Constraints,
    },
}

fn one() -> usize {
    1
}

impl Requirement {
    /// The kind of evidence that can meet it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AwsIid { .. } => "aws_iid",
            Self::Cosign { .. } => "cosign",
            Self::Manifest { .. } => "manifest",
            Self::Nitro { .. } => "nitro",
            Self::Oidc { .. } => "oidc",
            Self::Process { .. } => "process",
            Self::SevSnp { .. } => "sev_snp",
            Self::Tdx { .. } => "tdx",
            Self::Tpm2 { .. } => "tpm2",
        }
    }

    /// Whether evidence of this kind can carry the nonce (P2).
    #[must_use]
    pub fn can_be_fresh(&self) -> bool {
        match self {
            Self::Manifest { .. }
            | Self::Nitro { .. }
            | Self::Process { .. }
            | Self::SevSnp { .. }
            | Self::Tdx { .. }
            | Self::Tpm2 { .. } => true,
            Self::AwsIid { .. } | Self::Cosign { .. } | Self::Oidc { .. } => false,
        }
    }

    /// Whether evidence of this kind says something that not everybody could show who has seen
    /// another's: enough to be given an identity.
    #[must_use]
    pub fn identifies(&self) -> bool {
        match self {
            Self::AwsIid { .. }
            | Self::Nitro { .. }
            | Self::Oidc { .. }
            | Self::Process { .. }
            | Self::SevSnp { .. }
            | Self::Tdx { .. }
            | Self::Tpm2 { .. } => true,
            Self::Cosign { .. } | Self::Manifest { .. } => false,
        }
    }

    /// What it says of claims.
    #[must_use]
    pub fn claims(&self) -> &Constraints {
        match self {
            Self::AwsIid { claims }
            | Self::Cosign { claims, .. }
            | Self::Manifest { claims, .. }
            | Self::Nitro { claims }
            | Self::Oidc { claims, .. }
            | Self::Process { claims, .. }
            | Self::SevSnp { claims, .. }
            | Self::Tdx { claims }
            | Self::Tpm2 { claims } => claims,
        }
    }

    /// The trust material that evidence for it rests on: nothing can meet it without one of these,
    /// if there are any.
    #[must_use]
    pub fn needs(&self) -> &'static [TrustKind] {
        match self {
            Self::AwsIid { .. } => &[TrustKind::AwsIid],
            Self::Nitro { .. } => &[TrustKind::Nitro],
            Self::SevSnp { .. } => &[TrustKind::SevSnp],
            Self::Tdx { .. } => &[TrustKind::Tdx],
            Self::Tpm2 { .. } => &[TrustKind::Tpm2Ak, TrustKind::Tpm2EkRoot],
            Self::Cosign { .. }
            | Self::Manifest { .. }
            | Self::Oidc { .. }
            | Self::Process { .. } => &[],
        }
    }

    /// What is wrong with it as a registration, if anything: a sentence for the registrar.
    #[must_use]
    pub fn problem(&self, trust: &TrustMaterial) -> Option<String> {
        let claims = self.claims();
        if let Some((claim, problem)) = claims
            .iter()
            .find_map(|(claim, constraint)| Some((claim, constraint.problem()?)))
        {
            return Some(format!("{}: claim `{claim}`: {problem}", self.kind()));
        }
        let needs = self.needs();
        if let Some(kind) = needs
            .first()
            .filter(|_| !needs.iter().any(|kind| trust.has(*kind)))
        {
            return Some(format!(
                "{}: nothing is trusted for it at this broker; see `sundew trust add {} --help`",
                self.kind(),
                kind.as_str()
            ));
        }
        let pins = |names: &[&str]| {
            (!names.iter().any(|name| claims.contains_key(*name))).then(|| {
                format!(
                    "{}: claims must pin `{}`",
                    self.kind(),
                    names.join("` or `")
                )
            })
        };
        match self {
            Self::AwsIid { .. } => pins(&["accountId"]),
            Self::Cosign { keys, .. } => bad_key(keys),
            Self::Manifest {
                keys, threshold, ..
            } => bad_key(keys).or_else(|| {
                (*threshold == 0 || *threshold > keys.len()).then(|| {
                    format!(
                        "threshold must be between 1 and the number of keys, {}",
                        keys.len()
                    )
                })
            }),
            // T30: without an expected measurement, any enclave would do.
            Self::Nitro { .. } => pins(&["pcr0", "pcr8"]),
            Self::Oidc { issuer, .. } => match trust.issuers.get(issuer) {
                Some(known) => pins(&[known.preset.pinned_claim()]),
                None => Some(format!(
                    "issuer `{issuer}` is not configured at this broker"
                )),
            },
            Self::Process { nodes, .. } if nodes.is_empty() => {
                Some("process: nodes must name whose word counts".to_owned())
            }
            Self::Process { .. } => pins(&["exe_sha256", "container_id", "systemd_unit"]),
            Self::SevSnp { .. } => pins(&["measurement"]),
            Self::Tdx { .. } => pins(&["mrtd"]),
            Self::Tpm2 { .. } => (!claims.keys().any(|claim| claim.starts_with("pcr.")))
                .then(|| "tpm2: claims must pin a PCR, such as `pcr.sha256.7`".to_owned()),
        }
    }
}

fn bad_key(keys: &[String]) -> Option<String> {
    if keys.is_empty() {
        return Some("at least one key is needed".to_owned());
    }
    let index = keys
        .iter()
        .position(|key| VerifyingKey::from_pem(key).is_err())?;
    Some(format!(
        "key {index} is not a P-256, P-384 or Ed25519 public key in PEM"
    ))
}
