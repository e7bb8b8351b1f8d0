//! Requirements: one kind of evidence each, with constraints on its claims.

use serde::{Deserialize, Serialize};

use crate::constraint::{Constraint, Constraints};
use crate::dsse::VerifyingKey;
use crate::kinds::process::NOBODY;
use crate::kinds::process::control_group::{can_pin, is_container_id};
use crate::kinds::sev_snp::Endorsement;
use crate::spiffe::SpiffeId;
use crate::trust::{TrustKind, TrustMaterial};

/// A registration's requirement of one piece of evidence.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Requirement {
    /// The identity document of an EC2 instance.
    AwsIid {
        /// The constraints; `accountId` must be among them.
        claims: Constraints,
    },
    /// A signature over a digest. `cross_checks` must compare the digest with a claim of another
    /// kind.
    Cosign {
        /// The public keys in PEM, one of which must have signed.
        keys: Vec<String>,
        /// Further constraints. The signature of an image needs none. A signed statement is
        /// accepted only if `predicate_type` is among them, and so is the verdict of its predicate,
        /// such as `predicate.verificationResult`, if the predicate has one.
        #[serde(default)]
        claims: Constraints,
    },
    /// A broker's statement about the user that asked at the broker's own socket.
    LocalUser {
        /// The brokers whose statements are accepted, by their SPIFFE IDs.
        brokers: Vec<SpiffeId>,
        /// The constraints; `uid` must be among them.
        claims: Constraints,
    },
    /// A signed manifest of the agent.
    Manifest {
        /// The public keys in PEM that may sign the manifest.
        keys: Vec<String>,
        /// The number of distinct keys that must have signed.
        #[serde(default = "one")]
        threshold: usize,
        /// Further constraints, such as on `digest` or `model`.
        #[serde(default)]
        claims: Constraints,
    },
    /// The attestation document of a Nitro enclave.
    Nitro {
        /// The constraints; `pcr0` (the image) or `pcr8` (its signer) must be among them.
        claims: Constraints,
    },
    /// A JWT of an issuer that the broker is configured with.
    Oidc {
        /// The issuer's URL, exactly the `iss` of its tokens.
        issuer: String,
        /// The constraints; the claim that the issuer's preset pins must be among them.
        claims: Constraints,
    },
    /// A node's statement about a process on its host.
    Process {
        /// The nodes whose statements are accepted.
        nodes: Vec<SpiffeId>,
        /// The constraints; `uid` (of a user that runs nothing else), `container_id` or
        /// `systemd_unit` must be among them. Executables only narrow.
        claims: Constraints,
    },
    /// The attestation report of an AMD SEV-SNP guest.
    SevSnp {
        /// The kind of key that must have signed the report.
        #[serde(default)]
        endorsement: Endorsement,
        /// The constraints; `measurement` must be among them.
        claims: Constraints,
    },
    /// The quote of an Intel TDX trust domain.
    Tdx {
        /// The constraints; `mrtd` must be among them. Without a constraint on `tcb_status`, only
        /// `UpToDate` is accepted.
        claims: Constraints,
    },
    /// The quote of a TPM. Its attestation key is registered, or was shown to be in a TPM of a
    /// trusted manufacturer.
    Tpm2 {
        /// The constraints; at least one PCR, such as `pcr.sha256.7`, must be among them. A key
        /// that rests on its TPM's endorsement is accepted only if `ek` or `key` is among them too.
        claims: Constraints,
    },
}

fn one() -> usize {
    1
}

impl Requirement {
    /// Returns the kind of evidence that can meet the requirement.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AwsIid { .. } => "aws_iid",
            Self::Cosign { .. } => "cosign",
            Self::LocalUser { .. } => "local_user",
            Self::Manifest { .. } => "manifest",
            Self::Nitro { .. } => "nitro",
            Self::Oidc { .. } => "oidc",
            Self::Process { .. } => "process",
            Self::SevSnp { .. } => "sev_snp",
            Self::Tdx { .. } => "tdx",
            Self::Tpm2 { .. } => "tpm2",
        }
    }

    /// Returns whether evidence of this kind can be bound to the nonce (P2).
    #[must_use]
    pub fn can_be_fresh(&self) -> bool {
        match self {
            Self::LocalUser { .. }
            | Self::Manifest { .. }
            | Self::Nitro { .. }
            | Self::Process { .. }
            | Self::SevSnp { .. }
            | Self::Tdx { .. }
            | Self::Tpm2 { .. } => true,
            Self::AwsIid { .. } | Self::Cosign { .. } | Self::Oidc { .. } => false,
        }
    }

    /// Returns whether evidence of this kind identifies the claimant, so that an SVID can be issued
    /// on it. A signature, a manifest or an instance's document does not: everybody who has seen it
    /// can present it, and it says nothing of when it was made. A user does not either: everything
    /// that runs as the user is the same claimant, and `local` gives such processes their SVIDs.
    #[must_use]
    pub fn identifies(&self) -> bool {
        match self {
            Self::Nitro { .. }
            | Self::Oidc { .. }
            | Self::Process { .. }
            | Self::SevSnp { .. }
            | Self::Tdx { .. }
            | Self::Tpm2 { .. } => true,
            Self::AwsIid { .. }
            | Self::Cosign { .. }
            | Self::LocalUser { .. }
            | Self::Manifest { .. } => false,
        }
    }

    /// Returns the constraints on claims.
    #[must_use]
    pub fn claims(&self) -> &Constraints {
        match self {
            Self::AwsIid { claims }
            | Self::Cosign { claims, .. }
            | Self::LocalUser { claims, .. }
            | Self::Manifest { claims, .. }
            | Self::Nitro { claims }
            | Self::Oidc { claims, .. }
            | Self::Process { claims, .. }
            | Self::SevSnp { claims, .. }
            | Self::Tdx { claims }
            | Self::Tpm2 { claims } => claims,
        }
    }

    /// Returns the kinds of trust items that evidence of this kind rests on. If there are any, no
    /// evidence can meet the requirement without an item of one of them.
    #[must_use]
    pub fn needs(&self) -> &'static [TrustKind] {
        match self {
            Self::AwsIid { .. } => &[TrustKind::AwsIid],
            Self::Nitro { .. } => &[TrustKind::Nitro],
            Self::SevSnp { .. } => &[TrustKind::SevSnp],
            Self::Tdx { .. } => &[TrustKind::Tdx],
            Self::Tpm2 { .. } => &[TrustKind::Tpm2Ak, TrustKind::Tpm2EkRoot],
            Self::Cosign { .. }
            | Self::LocalUser { .. }
            | Self::Manifest { .. }
            | Self::Oidc { .. }
            | Self::Process { .. } => &[],
        }
    }

    /// Returns why the requirement is invalid in a registration, if it is, as a sentence for the
    /// registrar.
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
        let unpinned = || self.unpinned(trust);
        match self {
            Self::Cosign { keys, .. } => bad_key(keys),
            Self::LocalUser { brokers, .. } if brokers.is_empty() => Some(
                "local_user: brokers must name whose word counts, such as \
                 spiffe://example.org/sundew/broker"
                    .to_owned(),
            ),
            Self::LocalUser { claims, .. } => unpinned().or_else(|| bad_user(self.kind(), claims)),
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
            Self::Oidc { issuer, .. } if !trust.issuers.contains_key(issuer) => Some(format!(
                "issuer `{issuer}` is not configured at this broker"
            )),
            Self::Process { nodes, .. } if nodes.is_empty() => {
                Some("process: nodes must name whose word counts".to_owned())
            }
            Self::Process { claims, .. } => unpinned().or_else(|| bad_pin(claims)),
            Self::AwsIid { .. }
            | Self::Nitro { .. }
            | Self::Oidc { .. }
            | Self::SevSnp { .. }
            | Self::Tdx { .. }
            | Self::Tpm2 { .. } => unpinned(),
        }
    }

    /// Returns the claims of which the requirement has to name values, if it does not, as a
    /// sentence for the registrar. P1: evidence of anybody's machine, account or process would meet
    /// it; a lowest value pins nothing.
    #[must_use]
    pub fn unpinned(&self, trust: &TrustMaterial) -> Option<String> {
        let kind = self.kind();
        let is_pinned = |name: &str| {
            self.claims()
                .get(name)
                .is_some_and(Constraint::names_values)
        };
        let pins = |names: &[&str]| {
            (!names.iter().any(|name| is_pinned(name))).then(|| {
                let names = names.join("` or `");
                format!("{kind}: claims must pin `{names}` to values or a reference")
            })
        };
        match self {
            Self::AwsIid { .. } => pins(&["accountId"]),
            Self::Cosign { .. } | Self::Manifest { .. } => None,
            Self::LocalUser { .. } => pins(&["uid"]),
            // T30: without an expected measurement, any enclave would be accepted.
            Self::Nitro { .. } => pins(&["pcr0", "pcr8"]),
            Self::Oidc { issuer, .. } => {
                let issuer = trust.issuers.get(issuer)?;
                pins(&[issuer.preset.pinned_claim()])
            }
            // I2: a process becomes another program, and brings any file to any path.
            Self::Process { .. } => pins(&["uid", "container_id", "systemd_unit"]).map(|problem| {
                format!("{problem} (a user that runs nothing else); an executable only narrows")
            }),
            Self::SevSnp { .. } => pins(&["measurement"]),
            Self::Tdx { .. } => pins(&["mrtd"]),
            Self::Tpm2 { claims } => {
                let mut pcrs = claims.keys().filter(|claim| claim.starts_with("pcr."));
                (!pcrs.any(|claim| is_pinned(claim)))
                    .then(|| "tpm2: claims must pin a PCR, such as `pcr.sha256.7`".to_owned())
            }
        }
    }
}

/// Returns a value that the constraint names for a claim and that is not a good one.
fn bad(claims: &Constraints, claim: &str, is_good: impl Fn(&str) -> bool) -> Option<String> {
    match claims.get(claim) {
        Some(Constraint::OneOf(values)) => values.iter().find(|value| !is_good(value)).cloned(),
        _ => None,
    }
}

/// Returns why a value that pins a user is met by none.
fn bad_user(kind: &str, claims: &Constraints) -> Option<String> {
    let is_user = |value: &str| value.parse::<u32>().is_ok_and(|uid| uid != NOBODY);
    let uid = bad(claims, "uid", is_user)?;
    Some(format!("{kind}: `{uid}` is not the number of a user"))
}

/// Returns why a value that pins a process is met by none, or by whoever logs in in time.
fn bad_pin(claims: &Constraints) -> Option<String> {
    if let Some(problem) = bad_user("process", claims) {
        return Some(problem);
    }
    if let Some(id) = bad(claims, "container_id", is_container_id) {
        return Some(format!(
            "process: `{id}` is not 64 lower-case hexadecimal digits"
        ));
    }
    let unit = bad(claims, "systemd_unit", can_pin)?;
    Some(format!(
        "process: `{unit}` is not the whole name of a unit, such as `agent.service`, or is a \
         session's: sessions are numbered in the order in which users log in"
    ))
}

/// Returns why the keys are invalid, if they are.
fn bad_key(keys: &[String]) -> Option<String> {
    if keys.is_empty() {
        return Some("at least one key is needed".to_owned());
    }
    let index = keys
        .iter()
        .position(|key| VerifyingKey::from_pem(key).is_err())?;
    Some(format!(
        "key {index} is not a P-256, P-384, Ed25519 or RSA public key (2048 to 4096 bits) in PEM"
    ))
}
