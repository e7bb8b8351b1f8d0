//! Keys of OpenID issuers: from watched files, or fetched in the background over https with limits.
//!
//! Verifiers never do I/O: they get immutable snapshots. T14, T15, T18: nothing in a token names a
//! place to fetch from; a key that is unknown causes at most one fetch in 30 seconds; redirects are
//! not followed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sundew_attestation::TrustMaterial;
use sundew_attestation::json::JsonError;
use sundew_attestation::jws::{JwsError, KeySet};
use sundew_attestation::kinds::oidc::{Issuer, Preset};
use sundew_core::Ttl;
use tokio::sync::Notify;

use super::fetch::FetchError;
use super::pace::Pace;
use super::{FILE_CHECK_INTERVAL, Material, fetch};
use crate::clock;
use crate::peer::Trust;
use crate::peer::files::{FileError, read_private, read_public};

/// Shortest time between two fetches of one issuer's keys (T14).
const SHORTEST_FETCH_INTERVAL: Duration = Duration::from_secs(30);

/// An OpenID issuer.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer's URL, exactly as in the `iss` of its tokens.
    pub url: String,
    /// The `aud` of tokens for this broker.
    pub audience: String,
    /// The kind of the issuer, whose tokens have claims of their own.
    #[serde(default)]
    pub preset: Preset,
    /// The file that has the issuer's keys; it is watched.
    pub jwks_file: Option<PathBuf>,
    /// The https URL that has the issuer's keys; it is fetched in the background. Without a file
    /// and a URL, `<url>/.well-known/openid-configuration` names the place.
    pub jwks_url: Option<String>,
    /// PEM of the CA of the URL, if it is not a public one.
    pub ca_file: Option<PathBuf>,
    /// A file with a bearer token for `jwks_url`, which is read anew each time: the API server of
    /// Kubernetes gives its keys to accounts of the cluster.
    pub token_file: Option<PathBuf>,
    /// Longest time since the `iat` of a token.
    #[serde(default = "default_max_age")]
    pub max_age: Ttl,
}

fn default_max_age() -> Ttl {
    Ttl::HOUR
}

/// The issuers as configured, without keys: registrations can be checked against them before the
/// first fetch.
#[must_use]
pub(crate) fn without_keys(issuers: &[IssuerConfig]) -> TrustMaterial {
    let bare = |issuer: &IssuerConfig| Issuer {
        url: issuer.url.clone(),
        audience: issuer.audience.clone(),
        preset: issuer.preset,
        max_age_s: issuer.max_age.as_ms().div_euclid(1000),
        keys: KeySet::default(),
    };
    TrustMaterial::of_issuers(issuers.iter().map(bare))
}

/// Replaces the keys of an issuer.
pub(crate) fn put_keys(material: &mut TrustMaterial, url: &str, keys: &KeySet) {
    if let Some(known) = material.issuers.get_mut(url) {
        *known = Arc::new(Issuer {
            keys: keys.clone(),
            ..Issuer::clone(known)
        });
    }
}

/// Why the keys of an issuer were not taken.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    /// The discovery document is not JSON.
    #[error("{0}")]
    Discovery(JsonError),
    /// A document could not be fetched.
    #[error("{0}")]
    Fetch(FetchError),
    /// The file cannot be read.
    #[error("{0}")]
    File(FileError),
    /// The discovery document names no place for keys, or one at another host.
    #[error("the discovery document names no keys at the issuer's own host; set jwks_url")]
    NoKeys,
    /// The set has no key that can be used, so nothing that the issuer has signed is believed.
    #[error("no usable key")]
    NoUsableKey,
    /// The discovery document names another issuer.
    #[error("the discovery document is of another issuer")]
    OtherIssuer,
    /// The document is not a set of keys.
    #[error("{0}")]
    Set(JwsError),
}

/// The keys of one issuer, as they were taken last.
pub(crate) struct IssuerKeys {
    source: String,
    url: String,
    material: Arc<Material>,
    trust: Arc<Trust>,
    limit: Duration,
    document: Option<Vec<u8>>,
    keys: KeySet,
    /// The moment when the keys could be had last.
    good_at: Instant,
}

impl IssuerKeys {
    /// No keys yet. Those of an issuer that does not answer are used for `limit`.
    pub(crate) fn new(
        url: &str,
        material: Arc<Material>,
        trust: Arc<Trust>,
        limit: Duration,
    ) -> Self {
        Self {
            source: format!("keys of {url}"),
            url: url.to_owned(),
            material,
            trust,
            limit,
            document: None,
            keys: KeySet::default(),
            good_at: clock::monotonic(),
        }
    }

    /// Takes the document in place of what there was: a key that is not in it any more counts no
    /// more, whatever else is in it. The answer says whether the document was usable.
    fn take(&mut self, document: Result<Vec<u8>, KeysError>) -> bool {
        let taken = document.and_then(|document| {
            if self.document.as_ref() != Some(&document) {
                let keys = KeySet::parse(&document).map_err(KeysError::Set)?;
                self.put(keys);
                self.document = Some(document);
            }
            self.good_at = clock::monotonic();
            if self.keys.is_empty() {
                return Err(KeysError::NoUsableKey);
            }
            Ok(())
        });
        // I6: whoever keeps the issuer's answers from this broker must not keep a removed key alive.
        if taken.is_err() && clock::since(self.good_at) > self.limit {
            self.put(KeySet::default());
            self.document = None;
        }
        let is_good = taken.is_ok();
        self.trust.report(&self.source, taken);
        is_good
    }

    fn put(&mut self, keys: KeySet) {
        self.trust.note_left_out(&self.source, keys.left_out());
        self.material
            .update_issuers(|next| put_keys(next, &self.url, &keys));
        self.keys = keys;
    }
}

/// Keeps one issuer's keys up to date, for as long as it is polled. `unknown_key` is notified when
/// a token named a key that is not known.
pub(crate) async fn follow(issuer: IssuerConfig, mut keys: IssuerKeys, unknown_key: Arc<Notify>) {
    let mut pace = Pace::default();
    loop {
        if let Some(path) = &issuer.jwks_file {
            keys.take(read_public(path).map_err(KeysError::File));
            tokio::time::sleep(FILE_CHECK_INTERVAL).await;
            continue;
        }
        let asked_at = clock::monotonic();
        let wait = pace.after(keys.take(fetch(&issuer).await));
        if pace.is_retrying() {
            tokio::time::sleep(wait).await;
            continue;
        }
        let _ = tokio::time::timeout(wait, unknown_key.notified()).await;
        // T14: however many tokens name unknown keys, the issuer is asked once in a while.
        tokio::time::sleep(SHORTEST_FETCH_INTERVAL.saturating_sub(clock::since(asked_at))).await;
    }
}

/// Fetches the keys of an issuer, from where the configuration or the issuer's discovery document
/// says.
async fn fetch(issuer: &IssuerConfig) -> Result<Vec<u8>, KeysError> {
    let client = fetch::client(issuer.ca_file.as_deref()).map_err(KeysError::Fetch)?;
    if let Some(url) = &issuer.jwks_url {
        let token = issuer.token_file.as_deref().map(read_private).transpose();
        let token = token.map_err(KeysError::File)?;
        let fetched = fetch::get_as(&client, url, token.as_deref().map(Vec::as_slice));
        return fetched.await.map_err(KeysError::Fetch);
    }
    let url = issuer.url.trim_end_matches('/');
    let discovery = fetch::get(&client, &format!("{url}/.well-known/openid-configuration"))
        .await
        .map_err(KeysError::Fetch)?;
    let document = sundew_attestation::json::parse(&discovery, fetch::MAX_DOCUMENT)
        .map_err(KeysError::Discovery)?;
    let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
    if text("issuer") != Some(&issuer.url) {
        return Err(KeysError::OtherIssuer);
    }
    let keys = text("jwks_uri")
        .filter(|uri| same_host(uri, &issuer.url))
        .ok_or(KeysError::NoKeys)?;
    fetch::get(&client, keys).await.map_err(KeysError::Fetch)
}

/// Says whether both are https URLs of one host, its port included.
fn same_host(a: &str, b: &str) -> bool {
    let host = |url: &str| {
        url.strip_prefix("https://").map(|rest| {
            rest.split(['/', '?', '#'])
                .next()
                .unwrap_or_default()
                .to_owned()
        })
    };
    host(a).is_some() && host(a) == host(b)
}

#[cfg(test)]
mod tests;
