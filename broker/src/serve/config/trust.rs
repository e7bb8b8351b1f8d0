//! The sections about who the broker is and whom it trusts, as they are written.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;
use serde::Deserialize;
use sundew_attestation::spiffe::{SpiffeId, SvidChoice, TrustDomain};
use sundew_core::Ttl;

use super::Identity;

#[derive(Deserialize)]
#[serde(
    rename = "Identity",
    tag = "source",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub(super) enum FileIdentity {
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    WorkloadApi {
        socket: PathBuf,
        spiffe_id: Option<SpiffeId>,
        hint: Option<String>,
    },
    EmbeddedCa {
        trust_domain: TrustDomain,
        #[serde(default = "default_svid_ttl")]
        svid_ttl: Ttl,
        #[serde(default = "default_renew_within")]
        renew_within: Ttl,
        #[serde(default)]
        dns_names: Vec<FileDnsName>,
    },
}

/// A DNS name without a wildcard.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct FileDnsName(DnsName<'static>);

impl TryFrom<String> for FileDnsName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = DnsName::try_from(text);
        name.map(Self).map_err(|_| "must be a DNS name")
    }
}

fn default_svid_ttl() -> Ttl {
    Ttl::HOUR
}

fn default_renew_within() -> Ttl {
    Ttl::MONTH
}

impl From<FileIdentity> for Identity {
    fn from(file: FileIdentity) -> Self {
        match file {
            FileIdentity::Files { certificate, key } => Self::Files { certificate, key },
            FileIdentity::WorkloadApi {
                socket,
                spiffe_id,
                hint,
            } => Self::WorkloadApi {
                socket,
                choice: match (spiffe_id, hint) {
                    (Some(id), _) => SvidChoice::Id(id),
                    (None, Some(hint)) => SvidChoice::Hint(hint),
                    (None, None) => SvidChoice::First,
                },
            },
            FileIdentity::EmbeddedCa {
                trust_domain,
                svid_ttl,
                renew_within,
                dns_names,
            } => Self::EmbeddedCa {
                trust_domain,
                svid_ttl,
                renew_within,
                dns_names: dns_names.into_iter().map(|name| name.0).collect(),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTrust {
    pub(super) trust_domain: TrustDomain,
    pub(super) bundle: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBundleEndpoint {
    pub(super) listen: SocketAddr,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileFederation {
    pub(super) trust_domain: TrustDomain,
    pub(super) url: String,
    pub(super) profile: FileProfile,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) spiffe_id: Option<SpiffeId>,
    pub(super) bundle: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileProfile {
    HttpsSpiffe,
    HttpsWeb,
}
