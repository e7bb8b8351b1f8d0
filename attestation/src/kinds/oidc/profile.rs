//! The claims that each preset takes from a token.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{OidcError, Preset};
use crate::claims::plain_values;

type Values = BTreeMap<String, Vec<String>>;

/// Returns the claims of a verified token under the names that registrations use; fails if a claim
/// is missing that the preset demands.
pub(super) fn claim_values(
    claims: &Map<String, Value>,
    preset: Preset,
) -> Result<Values, OidcError> {
    let mut values = Values::new();
    for (name, value) in claims {
        // These prefixes belong to the presets. A top-level claim of such a name is the issuer's
        // own and must not pass for what a preset found.
        if !name.starts_with("gce.") && !name.starts_with("kubernetes.") {
            add(&mut values, name, value);
        }
    }
    match preset {
        Preset::Azure => check_azure(claims)?,
        Preset::Gcp => add_compute_engine(&mut values, claims)?,
        Preset::Buildkite
        | Preset::CircleCi
        | Preset::Generic
        | Preset::Gitlab
        | Preset::SpiffeJwt => {}
        Preset::Terraform => {
            // As with pull requests of GitHub: each token must name its phase.
            if !values.contains_key("terraform_run_phase") {
                return Err(OidcError::Claim("terraform_run_phase"));
            }
        }
        Preset::Github => {
            // T22: a pull request runs somebody else's code. Only a registration that constrains
            // the event accepts it, so each token must name its event.
            if !values.contains_key("event_name") {
                return Err(OidcError::Claim("event_name"));
            }
        }
        Preset::Kubernetes => add_kubernetes(&mut values, claims)?,
    }
    if values.contains_key(preset.pinned_claim()) {
        Ok(values)
    } else {
        Err(OidcError::Claim(preset.pinned_claim()))
    }
}

/// Rejects tokens of users. An application's own access token names the application that it was
/// issued to and has that application's object as its subject. A user's ID token has neither, a
/// token that a user delegated has scopes, and `idtyp`, if there is one, is `app`.
fn check_azure(claims: &Map<String, Value>) -> Result<(), OidcError> {
    if claims.contains_key("scp") || claims.get("idtyp").is_some_and(|kind| kind != "app") {
        return Err(OidcError::Claim("idtyp"));
    }
    let names_application = ["appid", "azp"]
        .iter()
        .any(|name| claims.get(*name).is_some_and(Value::is_string));
    if !names_application {
        return Err(OidcError::Claim("appid"));
    }
    if claims
        .get("sub")
        .is_none_or(|sub| claims.get("oid") != Some(sub))
    {
        return Err(OidcError::Claim("sub"));
    }
    Ok(())
}

/// Adds what the token says of the instance; a token without an instance is rejected.
fn add_compute_engine(values: &mut Values, claims: &Map<String, Value>) -> Result<(), OidcError> {
    let engine = claims
        .get("google")
        .and_then(|google| google.get("compute_engine"))
        .and_then(Value::as_object)
        .ok_or(OidcError::Claim("google.compute_engine"))?;
    for name in [
        "instance_confidentiality",
        "instance_id",
        "instance_name",
        "project_id",
        "project_number",
        "zone",
    ] {
        if let Some(value) = engine.get(name) {
            add(values, &format!("gce.{name}"), value);
        }
    }
    if values.contains_key("gce.instance_id") {
        Ok(())
    } else {
        Err(OidcError::Claim("google.compute_engine"))
    }
}

/// Adds what the token says of pod and service account; a legacy token, which has no such claims,
/// is rejected.
fn add_kubernetes(values: &mut Values, claims: &Map<String, Value>) -> Result<(), OidcError> {
    let io = claims
        .get("kubernetes.io")
        .and_then(Value::as_object)
        .ok_or(OidcError::Claim("kubernetes.io"))?;
    let pick = |outer: &str, inner: &str| io.get(outer).and_then(|o| o.get(inner));
    let found = [
        ("kubernetes.namespace", io.get("namespace")),
        (
            "kubernetes.serviceaccount.name",
            pick("serviceaccount", "name"),
        ),
        (
            "kubernetes.serviceaccount.uid",
            pick("serviceaccount", "uid"),
        ),
        ("kubernetes.pod.name", pick("pod", "name")),
        ("kubernetes.pod.uid", pick("pod", "uid")),
    ];
    for (name, value) in found {
        if let Some(value) = value {
            add(values, name, value);
        }
    }
    Ok(())
}

/// Adds a claim whose value is plain; other values are left out.
fn add(values: &mut Values, name: &str, value: &Value) {
    if let Some(list) = plain_values(value).filter(|list| !list.is_empty()) {
        values.insert(name.to_owned(), list);
    }
}
