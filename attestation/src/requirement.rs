//! What a registration requires of evidence: the appraisal policy (RFC 9334, section 8.5).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::dsse::VerifyingKey;
use crate::kinds::sev_snp::Endorsement;
use crate::spiffe::SpiffeId;
use crate::trust::{TrustItem, TrustKind, TrustMaterial};

/// Most sets of evidence that may do for one registration: each may be tried.
const MAX_ALTERNATIVES: usize = 16;
/// Most pieces of evidence in one set.
pub(crate) const MAX_EVIDENCE: usize = 8;
/// Deepest nesting of rules.
const MAX_DEPTH: usize = 4;

/// What the values of a claim must be. Of a claim with several, all must: what no rule mentions never grants.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Constraint {
    /// One of these.
    OneOf(BTreeSet<String>),
    /// A dotted number, such as a version or a TCB component, not below this one.
    AtLeast(AtLeast),
    /// A value that the platform team has approved.
    Reference(Reference),
}

/// See [`Constraint::AtLeast`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AtLeast {
    /// The lowest that is taken: numbers with dots between them, compared from the left; what is not there counts as 0.
    pub at_least: String,
}

/// See [`Constraint::Reference`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The set of reference values; `sundew trust add reference SET/VALUE` puts one in.
    pub reference: String,
}

impl Constraint {
    /// Whether all these values are taken, and there is one.
    #[must_use]
    pub fn takes(&self, values: &[String], trust: &TrustMaterial) -> bool {
        let takes = |value: &String| match self {
            Self::OneOf(allowed) => allowed.contains(value),
            Self::AtLeast(AtLeast { at_least }) => match (dotted(value), dotted(at_least)) {
                (Some(value), Some(least)) => value >= least,
                _ => false,
            },
            Self::Reference(Reference { reference }) => trust.is_reference(reference, value),
        };
        !values.is_empty() && values.iter().all(takes)
    }

    fn problem(&self) -> Option<&'static str> {
        match self {
            Self::OneOf(allowed) => allowed.is_empty().then_some("takes no value at all"),
            Self::AtLeast(AtLeast { at_least }) => dotted(at_least).is_none().then_some("at_least must be numbers with dots between them"),
            Self::Reference(Reference { reference }) => (reference.is_empty() || reference.contains('/')).then_some("reference must name a set, without `/`"),
        }
    }
}

/// `1.2.3` as numbers, without zeros at the end: `1.0` is `1`.
fn dotted(text: &str) -> Option<Vec<u64>> {
    let number = |part: &str| if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None };
    let mut numbers: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some(numbers)
}

/// Claim name to what its values must be.
pub type Constraints = BTreeMap<String, Constraint>;

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
    /// A TPM's quote under a registered attestation key.
    Tpm2 {
        /// At least one PCR, such as `pcr.sha256.7`, must be among them.
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
            Self::Manifest { .. } | Self::Nitro { .. } | Self::Process { .. } | Self::SevSnp { .. } | Self::Tdx { .. } | Self::Tpm2 { .. } => true,
            Self::AwsIid { .. } | Self::Cosign { .. } | Self::Oidc { .. } => false,
        }
    }

    /// Whether evidence of this kind says something that not everybody could show who has seen another's: enough to be given an identity.
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

    /// The trust material without which nothing can meet it.
    #[must_use]
    pub fn needs(&self) -> Option<TrustKind> {
        match self {
            Self::AwsIid { .. } => Some(TrustKind::AwsIid),
            Self::Nitro { .. } => Some(TrustKind::Nitro),
            Self::SevSnp { .. } => Some(TrustKind::SevSnp),
            Self::Tdx { .. } => Some(TrustKind::Tdx),
            Self::Tpm2 { .. } => Some(TrustKind::Tpm2Ak),
            Self::Cosign { .. } | Self::Manifest { .. } | Self::Oidc { .. } | Self::Process { .. } => None,
        }
    }

    /// What is wrong with it as a registration, if anything: a sentence for the registrar.
    #[must_use]
    pub fn problem(&self, trust: &TrustMaterial) -> Option<String> {
        let claims = self.claims();
        if let Some((claim, problem)) = claims.iter().find_map(|(claim, constraint)| Some((claim, constraint.problem()?))) {
            return Some(format!("{}: claim `{claim}`: {problem}", self.kind()));
        }
        if let Some(kind) = self.needs().filter(|kind| !trust.has(*kind)) {
            return Some(format!("{}: nothing is trusted for it at this broker; see `sundew trust add {} --help`", self.kind(), kind.as_str()));
        }
        let pins = |names: &[&str]| {
            (!names.iter().any(|name| claims.contains_key(*name))).then(|| format!("{}: claims must pin `{}`", self.kind(), names.join("` or `")))
        };
        match self {
            Self::AwsIid { .. } => pins(&["accountId"]),
            Self::Cosign { keys, .. } => bad_key(keys),
            Self::Manifest { keys, threshold, .. } => bad_key(keys).or_else(|| {
                (*threshold == 0 || *threshold > keys.len()).then(|| format!("threshold must be between 1 and the number of keys, {}", keys.len()))
            }),
            // T30: without an expected measurement, any enclave would do.
            Self::Nitro { .. } => pins(&["pcr0", "pcr8"]),
            Self::Oidc { issuer, .. } => match trust.issuers.get(issuer) {
                Some(known) => pins(&[known.preset.pinned_claim()]),
                None => Some(format!("issuer `{issuer}` is not configured at this broker")),
            },
            Self::Process { nodes, .. } if nodes.is_empty() => Some("process: nodes must name whose word counts".to_owned()),
            Self::Process { .. } => pins(&["exe_sha256", "container_id", "systemd_unit"]),
            Self::SevSnp { .. } => pins(&["measurement"]),
            Self::Tdx { .. } => pins(&["mrtd"]),
            Self::Tpm2 { .. } => {
                (!claims.keys().any(|claim| claim.starts_with("pcr."))).then(|| "tpm2: claims must pin a PCR, such as `pcr.sha256.7`".to_owned())
            }
        }
    }
}

fn bad_key(keys: &[String]) -> Option<String> {
    if keys.is_empty() {
        return Some("at least one key is needed".to_owned());
    }
    let index = keys.iter().position(|key| VerifyingKey::from_pem(key).is_err())?;
    Some(format!("key {index} is not a P-256, P-384 or Ed25519 public key in PEM"))
}

/// A piece of evidence, or several, or one of several.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rule {
    /// All of these.
    All {
        /// The rules.
        all_of: Vec<Rule>,
    },
    /// One of these.
    Any {
        /// The rules.
        any_of: Vec<Rule>,
    },
    /// This piece.
    One(Requirement),
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand, so that an error names what is wrong with the requirement, and not that no variant matches.
        let mut value = serde_json::Value::deserialize(deserializer)?;
        let wrap = |e: serde_json::Error| de::Error::custom(e);
        let members = value.as_object_mut().ok_or_else(|| de::Error::custom("must be an object"))?;
        for (name, all) in [("all_of", true), ("any_of", false)] {
            if let Some(rules) = members.remove(name) {
                if let Some(other) = members.keys().next() {
                    return Err(de::Error::custom(format!("`{name}` stands alone, without `{other}`")));
                }
                let rules = serde_json::from_value(rules).map_err(wrap)?;
                return Ok(if all { Self::All { all_of: rules } } else { Self::Any { any_of: rules } });
            }
        }
        serde_json::from_value(value).map(Self::One).map_err(wrap)
    }
}

/// Values of one claim that must be among those of another, such as the digest that runs among the digests that were signed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCheck {
    /// `<kind>.<claim>`: each value of it…
    pub claim: String,
    /// …must be one of this one's, `<kind>.<claim>`.
    pub among: String,
}

/// Everything that a registration says of evidence.
#[derive(Clone, Copy, Debug)]
pub struct AppraisalPolicy<'a> {
    /// All of these.
    pub rules: &'a [Rule],
    /// What must hold between pieces.
    pub cross_checks: &'a [CrossCheck],
}

/// One set of requirements that does.
pub type Alternative<'a> = Vec<&'a Requirement>;

impl<'a> AppraisalPolicy<'a> {
    /// Every set of requirements that does, in the order of preference; `None` if there are more than 16.
    #[must_use]
    pub fn alternatives(&self) -> Option<Vec<Alternative<'a>>> {
        all_of(self.rules, MAX_DEPTH)
    }

    /// What rests on an item of trust: the claims by which to find it, or `None` for everything. Empty if nothing does.
    #[must_use]
    pub fn rests_on(&self, item: &TrustItem) -> Vec<Option<String>> {
        let alternatives = self.alternatives().unwrap_or_default();
        let mut found = BTreeSet::new();
        for requirement in alternatives.into_iter().flatten() {
            if requirement.needs() == Some(item.kind()) {
                found.insert(item.claim().map(|(name, value)| format!("{name}={value}")));
            }
            for (claim, constraint) in requirement.claims() {
                let set = if let Constraint::Reference(Reference { reference }) = constraint { Some(reference) } else { None };
                if let Some(value) = set.and_then(|set| item.value_in(set)) {
                    found.insert(Some(format!("{}.{claim}={value}", requirement.kind())));
                }
            }
        }
        found.into_iter().collect()
    }

    /// What is wrong with it as a registration: sentences for the registrar.
    #[must_use]
    pub fn problems(&self, trust: &TrustMaterial) -> Vec<String> {
        let Some(alternatives) = self.alternatives() else {
            return vec![format!("at most {MAX_ALTERNATIVES} combinations, nested at most {MAX_DEPTH} levels deep")];
        };
        let mut problems = BTreeSet::new();
        if alternatives.is_empty() || alternatives.iter().any(Vec::is_empty) {
            // P1: what proves nothing gets nothing.
            problems.insert("at least one kind of evidence must be required".to_owned());
        }
        for alternative in &alternatives {
            let kinds: BTreeSet<_> = alternative.iter().map(|requirement| requirement.kind()).collect();
            if kinds.len() != alternative.len() {
                problems.insert("each kind may be required once in a set".to_owned());
            }
            if alternative.len() > MAX_EVIDENCE {
                problems.insert(format!("at most {MAX_EVIDENCE} pieces in a set"));
            }
            problems.extend(alternative.iter().filter_map(|requirement| requirement.problem(trust)));
            let compares =
                |check: &CrossCheck| check.among == "cosign.digest" && kind_of(&check.claim).is_some_and(|kind| kind != "cosign" && kinds.contains(kind));
            if kinds.contains("cosign") && !self.cross_checks.iter().any(compares) {
                problems.insert("cosign: cross_checks must have a claim of another kind in the same set `among` cosign.digest".to_owned());
            }
        }
        for check in self.cross_checks {
            for name in [&check.claim, &check.among] {
                if !kind_of(name).is_some_and(|kind| alternatives.iter().flatten().any(|requirement| requirement.kind() == kind)) {
                    problems.insert(format!("cross_checks: `{name}` must be `<kind>.<claim>` of a kind that is required"));
                }
            }
        }
        problems.into_iter().collect()
    }
}

fn kind_of(claim: &str) -> Option<&str> {
    claim.split_once('.').map(|(kind, _)| kind)
}

fn all_of(rules: &[Rule], depth: usize) -> Option<Vec<Alternative<'_>>> {
    let mut sets: Vec<Alternative<'_>> = vec![Vec::new()];
    for rule in rules {
        let more = one_of(rule, depth)?;
        if sets.len().saturating_mul(more.len()) > MAX_ALTERNATIVES {
            return None;
        }
        sets = sets.iter().flat_map(|set| more.iter().map(|more| set.iter().chain(more).copied().collect())).collect();
    }
    Some(sets)
}

fn one_of(rule: &Rule, depth: usize) -> Option<Vec<Alternative<'_>>> {
    let deeper = depth.checked_sub(1)?;
    match rule {
        Rule::All { all_of: rules } => all_of(rules, deeper),
        Rule::Any { any_of } => {
            let mut sets = Vec::new();
            for rule in any_of {
                sets.extend(one_of(rule, deeper)?);
                if sets.len() > MAX_ALTERNATIVES {
                    return None;
                }
            }
            Some(sets)
        }
        Rule::One(requirement) => Some(vec![vec![requirement]]),
    }
}
