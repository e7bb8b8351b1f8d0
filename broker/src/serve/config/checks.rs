//! Rules over what the file says, beyond the form of its sections. Each check adds what is wrong to
//! `errors`, one line each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sundew_attestation::dsse::VerifyingKey;
use sundew_attestation::kinds::oidc::Preset;
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_core::{SharedBounds, Ttl};

use super::super::allowed_hosts::is_host;
use super::file::{FileBreakGlass, FileJournal, FileLimits};
use super::trust::{FileBundleEndpoint, FileFederation, FileIdentity, FileProfile, FileTrust};
use super::{
    BreakGlass, BundleEndpoint, FederationConfig, Identity, IssuerConfig, Listen, MaterialConfig,
    Profile,
};
use crate::role::Roles;

/// Checks limits, and the bounds that all brokers share.
pub(super) fn limits(limits: &FileLimits, bounds: &SharedBounds, errors: &mut Vec<String>) {
    errors.extend(bounds.problems().into_iter().map(str::to_owned));
    let mut check = |holds: bool, problem: &str| {
        if !holds {
            errors.push(problem.to_owned());
        }
    };
    check(
        (4096..=16 << 20).contains(&limits.message_bytes),
        "limits.message_bytes: must be between 4096 and 16777216",
    );
    check(
        usize::try_from(limits.unfinished_bytes.0 / 4)
            .is_ok_and(|part| part >= limits.message_bytes),
        "limits.unfinished_bytes: must be at least four times limits.message_bytes",
    );
    check(
        limits.secret_bytes < limits.message_bytes,
        "limits.secret_bytes: must be less than limits.message_bytes",
    );
    check(
        limits.instruction_bytes < limits.message_bytes,
        "limits.instruction_bytes: must be less than limits.message_bytes",
    );
    check(
        (64 << 10..1 << 32).contains(&limits.journal_per_minute.0),
        "limits.journal_per_minute: must be between 64KiB and 4095MiB",
    );
    // The longest record fits: a few texts of 64 KiB each.
    check(
        (1 << 20..1 << 32).contains(&limits.journal_burst.0),
        "limits.journal_burst: must be between 1MiB and 4095MiB",
    );
    check(
        (1..=100_000).contains(&limits.issuing),
        "limits.issuing: must be between 1 and 100000",
    );
    check(
        limits.connections > 0 && limits.handshakes > 0 && limits.streams > 0,
        "limits: connections, handshakes and streams must be at least 1",
    );
    check(
        limits.connections_per_workload > 0
            && limits.connections_per_remote > 0
            && limits.pending_handshakes > 0
            && limits.local_connections > 0
            && limits.local_connections_per_uid > 0,
        "limits: connections_per_workload, connections_per_remote, pending_handshakes, \
         local_connections and local_connections_per_uid must be at least 1",
    );
    check(
        limits.operator_connections < limits.connections,
        "limits.operator_connections: must be less than limits.connections",
    );
}

/// Checks bounds of the journal's reserve, its segments, and what becomes of them.
pub(super) fn journal(journal: Option<&FileJournal>, errors: &mut Vec<String>) {
    let Some(journal) = journal else { return };
    let mut check = |holds: bool, problem: &str| {
        if !holds {
            errors.push(format!("journal.{problem}"));
        }
    };
    let sizes = 64 << 10..=1 << 40;
    check(
        sizes.contains(&journal.reserve.0),
        "reserve: must be between 64KiB and 1024GiB",
    );
    check(
        sizes.contains(&journal.segment_size.0),
        "segment_size: must be between 64KiB and 1024GiB",
    );
    check(
        journal.segment_age >= Ttl::SECOND,
        "segment_age: must be at least 1s",
    );
    check(
        journal
            .keep_size
            .is_none_or(|keep| keep.0 >= journal.segment_size.0),
        "keep_size: must be at least journal.segment_size",
    );
    check(
        journal.archive_to.is_none() || journal.archive_command.is_none(),
        "archive_to: excludes journal.archive_command",
    );
    check(
        journal
            .archive_to
            .as_ref()
            .is_none_or(|folder| *folder != journal.directory),
        "archive_to: must not be journal.directory",
    );
    check(
        journal
            .archive_command
            .as_ref()
            .is_none_or(|words| words.first().is_some_and(|program| !program.is_empty())),
        "archive_command: must be a program and its arguments",
    );
}

/// Checks that every issuer is named once, and that its keys can be had safely.
pub(super) fn issuers(issuers: &[IssuerConfig], errors: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for issuer in issuers {
        let name = &issuer.url;
        if !seen.insert(name) {
            errors.push(format!("issuers: {name} is named twice"));
        }
        if issuer.audience.is_empty() {
            errors.push(format!("issuers: {name}: audience must not be empty"));
        }
        if issuer.preset == Preset::SpiffeJwt
            && TrustDomain::parse(name.strip_prefix("spiffe://").unwrap_or_default()).is_err()
        {
            errors.push(format!("issuers: {name}: with preset spiffe_jwt the URL is a trust domain, such as spiffe://example.org"));
        }
        if issuer.jwks_file.is_none()
            && !issuer
                .jwks_url
                .as_deref()
                .unwrap_or(name)
                .starts_with("https://")
        {
            errors.push(format!(
                "issuers: {name}: keys are fetched over https only; use jwks_url, or jwks_file"
            ));
        }
        if issuer.jwks_file.is_some() && issuer.jwks_url.is_some() {
            errors.push(format!(
                "issuers: {name}: jwks_file and jwks_url exclude each other"
            ));
        }
        if issuer.token_file.is_some() && issuer.jwks_url.is_none() {
            errors.push(format!(
                "issuers: {name}: token_file is for jwks_url, and for no other place"
            ));
        }
    }
}

/// Checks that every item is named once, and has one place that it comes from.
pub(super) fn material(items: &[MaterialConfig], errors: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for item in items {
        let name = format!("{} `{}`", item.kind.as_str(), item.name);
        if !seen.insert((item.kind, &item.name)) {
            errors.push(format!("trust_material: {name} is named twice"));
        }
        match (&item.file, &item.url) {
            (Some(_), None) => {}
            (None, Some(url)) if url.starts_with("https://") => {}
            (None, Some(_)) => errors.push(format!(
                "trust_material: {name}: url: only https is fetched"
            )),
            (Some(_), Some(_)) | (None, None) => {
                errors.push(format!("trust_material: {name}: needs one of file and url"))
            }
        }
    }
}

/// Checks the names for which the operations listener answers.
pub(super) fn operations_hosts(listen: Option<&Listen>, errors: &mut Vec<String>) {
    let names = listen.map_or(&[][..], |listen| &listen.operations_hosts);
    if !names.iter().all(|name| is_host(name)) {
        errors.push(
            "listen.operations_hosts: must be names of hosts, without port and wildcard".to_owned(),
        );
    }
}

/// Checks what listeners and the own SVID need of each other, and of the bundles.
pub(super) fn identity(
    listen: &Listen,
    identity: &Identity,
    has_bundles: bool,
    errors: &mut Vec<String>,
) {
    let embedded = matches!(identity, Identity::EmbeddedCa { .. });
    for (name, set) in [
        ("enrollment", listen.enrollment.is_some()),
        ("workload_api", listen.workload_api.is_some()),
    ] {
        if set && !embedded {
            errors.push(format!(
                "listen.{name}: needs identity.source = \"embedded_ca\""
            ));
        }
    }
    if matches!(identity, Identity::Files { .. }) && !has_bundles {
        errors.push("trust: at least one bundle is needed when identity.source is \"files\": without one nobody can connect".to_owned());
    }
}

/// Checks that at most one thing says which SVID of a Workload API is the broker's.
pub(super) fn svid_choice(identity: Option<&FileIdentity>, errors: &mut Vec<String>) {
    let Some(FileIdentity::WorkloadApi {
        spiffe_id, hint, ..
    }) = identity
    else {
        return;
    };
    if spiffe_id.is_some() && hint.is_some() {
        errors.push("identity.hint: excludes identity.spiffe_id".to_owned());
    }
    if hint.as_ref().is_some_and(String::is_empty) {
        errors.push("identity.hint: must not be empty".to_owned());
    }
}

/// The bundle file of each trust domain; each trust domain may be named once.
pub(super) fn bundles(
    trust: Vec<FileTrust>,
    errors: &mut Vec<String>,
) -> BTreeMap<TrustDomain, PathBuf> {
    let mut bundles = BTreeMap::new();
    for FileTrust {
        trust_domain,
        bundle,
    } in trust
    {
        if bundles.insert(trust_domain.clone(), bundle).is_some() {
            errors.push(format!("trust: {trust_domain} is named twice"));
        }
    }
    bundles
}

/// The endpoint where partners fetch the bundle of the embedded CA.
pub(super) fn bundle_endpoint(
    file: Option<FileBundleEndpoint>,
    identity: Option<&Identity>,
    errors: &mut Vec<String>,
) -> Option<BundleEndpoint> {
    let file = file?;
    if identity.is_some_and(|identity| !matches!(identity, Identity::EmbeddedCa { .. })) {
        errors.push("bundle_endpoint: needs identity.source = \"embedded_ca\"".to_owned());
    }
    if file.certificate.is_some() != file.key.is_some() {
        errors.push("bundle_endpoint: certificate and key need each other".to_owned());
    }
    Some(BundleEndpoint {
        listen: file.listen,
        certificate: file.certificate.zip(file.key),
    })
}

/// The partners whose bundles are fetched. Nobody but the files and the own CA speaks for a trust
/// domain that is theirs.
pub(super) fn federation(
    partners: Vec<FileFederation>,
    trust: &BTreeMap<TrustDomain, PathBuf>,
    identity: Option<&Identity>,
    errors: &mut Vec<String>,
) -> Vec<FederationConfig> {
    let mut seen: BTreeSet<TrustDomain> = trust.keys().cloned().collect();
    if let Some(Identity::EmbeddedCa { trust_domain, .. }) = identity {
        seen.insert(trust_domain.clone());
    }
    let mut taken = Vec::new();
    for partner in partners {
        let name = partner.trust_domain.clone();
        let mut fail = |problem: &str| errors.push(format!("federation: {name}: {problem}"));
        if !seen.insert(name.clone()) {
            fail("has a bundle already");
        }
        let authority = partner.url.strip_prefix("https://");
        let authority =
            authority.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        if authority.is_none_or(|authority| authority.is_empty() || authority.contains('@')) {
            fail("url: must be https, without user or password");
        }
        let profile = match (partner.profile, partner.spiffe_id) {
            (FileProfile::HttpsWeb, None) if partner.bundle.is_none() => Profile::HttpsWeb {
                ca_file: partner.ca_file,
            },
            (FileProfile::HttpsSpiffe, Some(endpoint)) if partner.ca_file.is_none() => {
                if (*endpoint.trust_domain() == name) != partner.bundle.is_some() {
                    fail(
                        "bundle: is for an endpoint in the partner's own trust domain, which needs it",
                    );
                }
                let bundle = partner.bundle;
                Profile::HttpsSpiffe { endpoint, bundle }
            }
            (FileProfile::HttpsWeb, _) => {
                fail("spiffe_id and bundle are for profile https_spiffe");
                continue;
            }
            (FileProfile::HttpsSpiffe, _) => {
                fail("profile https_spiffe needs spiffe_id, and takes no ca_file");
                continue;
            }
        };
        taken.push(FederationConfig {
            trust_domain: name.clone(),
            url: partner.url,
            profile,
        });
    }
    taken
}

/// Checks who may give an SVID in an emergency: two persons at least, and no person twice.
pub(super) fn break_glass(
    file: Option<FileBreakGlass>,
    operators: &BTreeMap<SpiffeId, Roles>,
    identity: Option<&Identity>,
    errors: &mut Vec<String>,
) -> Option<BreakGlass> {
    let FileBreakGlass { spiffe_id, persons } = file?;
    let mut check = |holds: bool, problem: &str| {
        if !holds {
            errors.push(format!("break_glass: {problem}"));
        }
    };
    check(
        matches!(identity, Some(Identity::EmbeddedCa { trust_domain, .. })
            if trust_domain == spiffe_id.trust_domain()),
        "spiffe_id must be in the trust domain of the embedded CA",
    );
    check(
        operators
            .get(&spiffe_id)
            .is_some_and(|roles| !roles.is_empty()),
        "spiffe_id must be one of the operators",
    );
    check(persons.len() >= 2, "two persons at least");
    let keys: Vec<_> = persons
        .iter()
        .map(|person| VerifyingKey::from_pem(&person.key))
        .collect();
    check(
        keys.iter().all(Result::is_ok),
        "a key is no P-256, P-384, Ed25519 or RSA public key in PEM",
    );
    let names: BTreeSet<_> = persons.iter().map(|person| &person.name).collect();
    let keys: BTreeSet<_> = keys.iter().flatten().map(VerifyingKey::bytes).collect();
    check(
        names.len() == persons.len() && keys.len() == persons.len(),
        "each person has a name and a key that no other has",
    );
    Some(BreakGlass { spiffe_id, persons })
}
