//! Tokens in the shapes in which clouds and CI systems issue them (E3, E12).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use sundew_attestation::Claims;
use sundew_attestation::jws::KeySet;
use sundew_attestation::kinds::oidc::{self, Issuer, OidcError, Preset};

const NOW_S: i64 = 1_800_000_000;
const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const AUDIENCE: &str = "api://broker";

struct Provider {
    key: KeyPair,
    issuer: Issuer,
}

impl Provider {
    fn new(preset: Preset, url: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let point = key.public_key_raw();
        let jwk = json!({
            "kid": "k",
            "kty": "EC",
            "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        });
        let keys = json!({ "keys": [jwk] }).to_string();
        let issuer = Issuer {
            url: url.to_owned(),
            audience: AUDIENCE.to_owned(),
            preset,
            max_age_s: 600,
            keys: KeySet::parse(keys.as_bytes()).unwrap(),
        };
        Self { key, issuer }
    }

    /// Verifies a token with these claims besides issuer, audience and times.
    fn verify(&self, claims: &Value, at_s: i64) -> Result<Claims, OidcError> {
        let mut all = json!({
            "iss": self.issuer.url,
            "aud": AUDIENCE,
            "iat": NOW_S,
            "nbf": NOW_S,
            "exp": NOW_S + 3600,
        });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "ES256", "kid": "k", "typ": "JWT" });
        let input = format!("{}.{}", part(&header), part(&all));
        let random = SystemRandom::new();
        let der = self.key.serialize_der();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).unwrap();
        let signature = key.sign(&random, input.as_bytes()).unwrap();
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        oidc::verify(token.as_bytes(), &self.issuer, at_s * 1000)
    }
}

fn azure() -> Provider {
    Provider::new(Preset::Azure, &format!("https://sts.windows.net/{TENANT}/"))
}

/// Returns the claims of a managed identity's access token, version 1.0, as IMDS answers it: it is
/// antedated by five minutes and lives for a day from now.
fn managed_identity() -> Value {
    json!({
        "iat": NOW_S - 300,
        "nbf": NOW_S - 300,
        "exp": NOW_S + 24 * 3600,
        "aio": "E2ZgYNg",
        "appid": "5f6c2ac5-5a1f-4bcc-9d6a-1d4a6e0b7a11",
        "appidacr": "2",
        "idp": format!("https://sts.windows.net/{TENANT}/"),
        "oid": "b0f31bfd-1a79-4a2c-ba43-fd65c3666fdb",
        "rh": "1.AL4A",
        "sub": "b0f31bfd-1a79-4a2c-ba43-fd65c3666fdb",
        "tid": TENANT,
        "uti": "sdmF4KgzXUu6N0IKMbQBAA",
        "ver": "1.0",
        "xms_mirid": "/subscriptions/s/resourcegroups/r/providers/Microsoft.Compute/virtualMachines/v",
    })
}

#[test]
fn e3_a_managed_identitys_token_is_taken_with_the_lifetime_that_azure_gives() {
    let azure = azure();
    let claims = azure.verify(&managed_identity(), NOW_S).unwrap();
    assert_eq!(
        claims.values["oid"],
        ["b0f31bfd-1a79-4a2c-ba43-fd65c3666fdb"]
    );
    assert_eq!(claims.not_after_ms, Some((NOW_S + 24 * 3600) * 1000));
    let mut longer = managed_identity();
    longer["exp"] = json!(NOW_S + 24 * 3600 + 1);
    assert_eq!(
        azure.verify(&longer, NOW_S).unwrap_err(),
        OidcError::Expired
    );
}

#[test]
fn e3_a_token_out_of_a_cache_is_refused_with_a_reason_of_its_own() {
    let refused = azure()
        .verify(&managed_identity(), NOW_S + 301)
        .unwrap_err();
    let expected = OidcError::TooOld {
        age_s: 601,
        max_age_s: 600,
    };
    assert_eq!(refused, expected);
    assert!(
        refused.to_string().contains("ask for a new one"),
        "{refused}"
    );
    assert_eq!(
        azure()
            .verify(&managed_identity(), NOW_S + 24 * 3600)
            .unwrap_err(),
        OidcError::Expired
    );
}

#[test]
fn e3_tokens_of_users_are_not_those_of_managed_identities() {
    let azure = azure();
    // An ID token of version 1.0, and one that differs as little as it can.
    let id_token = json!({
        "oid": "b0f31bfd-1a79-4a2c-ba43-fd65c3666fdb",
        "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
        "tid": TENANT,
        "ver": "1.0",
        "amr": ["pwd"],
        "unique_name": "user@example.com",
        "upn": "user@example.com",
        "nonce": "n",
    });
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut claims = managed_identity();
        change(&mut claims);
        claims
    };
    for (what, claims) in [
        ("an ID token", id_token),
        (
            "another subject than the object",
            changed(&|c| c["sub"] = json!("pairwise")),
        ),
        (
            "no subject",
            changed(&|c| {
                c.as_object_mut().unwrap().remove("sub");
            }),
        ),
        (
            "no application",
            changed(&|c| {
                c.as_object_mut().unwrap().remove("appid");
            }),
        ),
        (
            "delegated",
            changed(&|c| c["scp"] = json!("user_impersonation")),
        ),
        (
            "a user's by its type",
            changed(&|c| c["idtyp"] = json!("user")),
        ),
    ] {
        assert!(azure.verify(&claims, NOW_S).is_err(), "{what}: taken");
    }
    azure
        .verify(&changed(&|c| c["idtyp"] = json!("app")), NOW_S)
        .unwrap();
    let version_2 = changed(&|c| {
        let members = c.as_object_mut().unwrap();
        let application = members.remove("appid").unwrap();
        members.insert("azp".to_owned(), application);
    });
    azure.verify(&version_2, NOW_S).unwrap();
}

#[test]
fn e12_a_list_is_a_claim_as_a_whole_or_not_at_all() {
    let provider = Provider::new(Preset::Generic, "https://issuer.example");
    for (list, expected) in [
        (json!(["a", "b"]), Some(vec!["a", "b"])),
        (json!(["a", 1, true]), Some(vec!["a", "1", "true"])),
        (json!(["a", { "name": "b" }]), None),
        (json!(["a", ["b"]]), None),
        (json!(["a", null]), None),
        (json!(["a", 1.5]), None),
        (json!(vec!["a"; 65]), None),
        (json!([]), None),
    ] {
        let claims = json!({ "sub": "s", "groups": list });
        let values = provider.verify(&claims, NOW_S).unwrap().values;
        let expected = expected.map(|values| values.into_iter().map(str::to_owned).collect());
        assert_eq!(values.get("groups").cloned(), expected, "{list}");
    }
}
