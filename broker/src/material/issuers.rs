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
use sundew_attestation::jws::KeySet;
use sundew_attestation::kinds::oidc::{Issuer, Preset};
use sundew_core::Ttl;
use tokio::sync::Notify;

use super::{Material, fetch};
use crate::clock;
use crate::peer::Trust;

const FETCH_EVERY: Duration = Duration::from_secs(300);
const FETCH_AT_MOST_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An OpenID issuer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Exactly the `iss` of its tokens.
    pub url: String,
    /// The `aud` of tokens for this broker.
    pub audience: String,
    /// Whose tokens they are.
    #[serde(default)]
    pub preset: Preset,
    /// Where its keys are: a file, watched.
    pub jwks_file: Option<PathBuf>,
    /// Where its keys are: an https URL, fetched in the background. Without either,
    /// `<url>/.well-known/openid-configuration` tells.
    pub jwks_url: Option<String>,
    /// PEM of the CA of the URL, if it is not a public one.
    pub ca_file: Option<PathBuf>,
    /// Oldest `iat` taken.
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

/// Takes these keys as an issuer's.
pub(crate) fn put_keys(material: &mut TrustMaterial, url: &str, keys: &KeySet) {
    if let Some(known) = material.issuers.get_mut(url) {
        *known = Arc::new(Issuer {
            keys: keys.clone(),
            ..Issuer::clone(known)
        });
    }
}

/// Keeps one issuer's keys up to date, for as long as it is polled. `wanted` rings when a token
/// named a key that is not known.
pub(crate) async fn follow(
    issuer: IssuerConfig,
    material: Arc<Material>,
    trust: Arc<Trust>,
    wanted: Arc<Notify>,
) {
    let source = format!("keys of {}", issuer.url);
    let mut last = None;
    let mut fetched: Option<Instant> = None;
    loop {
        let document = match &issuer.jwks_file {
            Some(path) => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display())),
            None => {
                fetched = Some(clock::monotonic());
                fetch(&issuer).await
            }
        };
        match document.and_then(|document| {
            if last.as_ref() == Some(&document) {
                Ok(None)
            } else {
                KeySet::parse(&document)
                    .map(|keys| Some((document, keys)))
                    .map_err(|e| e.to_string())
            }
        }) {
            Ok(None) => trust.report(&source, Ok(())),
            Ok(Some((document, keys))) => {
                material.update_issuers(|next| put_keys(next, &issuer.url, &keys));
                last = Some(document);
                trust.report(&source, Ok(()));
            }
            Err(problem) => trust.report(&source, Err(problem)),
        }
        match fetched {
            None => tokio::time::sleep(LOOK_EVERY).await,
            Some(at) => {
                let _ = tokio::time::timeout(FETCH_EVERY, wanted.notified()).await;
                tokio::time::sleep(FETCH_AT_MOST_EVERY.saturating_sub(clock::since(at))).await;
            }
        }
    }
}

async fn fetch(issuer: &IssuerConfig) -> Result<Vec<u8>, String> {
    let client = fetch::client(issuer.ca_file.as_deref())?;
    if let Some(url) = &issuer.jwks_url {
        return fetch::get(&client, url).await;
    }
    let discovery = fetch::get(
        &client,
        &format!(
            "{}/.well-known/openid-configuration",
            issuer.url.trim_end_matches('/')
        ),
    )
    .await?;
    let document = sundew_attestation::json::parse(&discovery, fetch::MAX_DOCUMENT)
        .map_err(|e| e.to_string())?;
    let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
    if text("issuer") != Some(&issuer.url) {
        return Err("the discovery document is of another issuer".to_owned());
    }
    let keys = text("jwks_uri")
        .filter(|uri| same_host(uri, &issuer.url))
        .ok_or("the discovery document names no keys at the issuer's own host; set jwks_url")?;
    fetch::get(&client, keys).await
}

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
