use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;

struct Authority(EcdsaKeyPair);

impl Authority {
    fn new() -> Self {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self(
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
                .unwrap(),
        )
    }

    fn bundle(&self) -> JwtBundle {
        let point = self.0.public_key().as_ref();
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "use": "jwt-svid", "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]) });
        JwtBundle::new(vec![jwk]).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> Vec<u8> {
        let input = format!(
            "{}.{}",
            B64.encode(header.to_string()),
            B64.encode(claims.to_string())
        );
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", B64.encode(signature)).into_bytes()
    }
}

/// Returns the claims of a good JWT-SVID with the given members changed, or removed by a null.
fn claims(changes: Value) -> Value {
    let mut claims = json!({ "sub": "spiffe://a.test/x", "aud": ["us"], "exp": 1100, "iat": 1000 });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            drop(claims.as_object_mut().unwrap().remove(name))
        } else {
            claims[name] = value.clone()
        }
    }
    claims
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "k", "typ": "JWT" })
}

/// Two trust domains, `a.test` and `b.test`, each with its own key.
struct Domains {
    own: Authority,
    other: Authority,
    bundle: JwtBundle,
    foreign: JwtBundle,
}

impl Domains {
    fn new() -> Self {
        let (own, other) = (Authority::new(), Authority::new());
        let (bundle, foreign) = (own.bundle(), other.bundle());
        Self {
            own,
            other,
            bundle,
            foreign,
        }
    }

    fn verify(&self, token: &[u8]) -> Result<String, JwtSvidError> {
        let by_name = |domain: &TrustDomain| match domain.as_str() {
            "a.test" => Some(&self.bundle),
            "b.test" => Some(&self.foreign),
            _ => None,
        };
        JwtSvid::verify(token, "us", by_name, 1_000_000).map(|svid| svid.id().to_string())
    }
}

#[test]
fn a_jwt_svid_is_taken_for_its_audience_while_it_lasts_and_under_its_own_domains_keys() {
    let domains = Domains::new();
    let own = &domains.own;
    for good in [
        json!({}),
        json!({ "aud": "us" }),
        json!({ "aud": ["them", "us"] }),
        json!({ "iat": null }),
        json!({ "exp": 1001 }),
    ] {
        assert_eq!(
            domains
                .verify(&own.sign(&header(), &claims(good.clone())))
                .as_deref(),
            Ok("spiffe://a.test/x"),
            "{good}"
        );
    }
    for (bad, why) in [
        (json!({ "aud": "them" }), JwtSvidError::Audience),
        (json!({ "aud": [] }), JwtSvidError::Audience),
        (json!({ "aud": "" }), JwtSvidError::Audience),
        (json!({ "aud": null }), JwtSvidError::Audience),
        (json!({ "aud": "us2" }), JwtSvidError::Audience),
        (json!({ "exp": 1000 }), JwtSvidError::Expired),
        (json!({ "exp": null }), JwtSvidError::Claim("exp")),
        (json!({ "exp": "1100" }), JwtSvidError::Claim("exp")),
        (json!({ "exp": 1100.5 }), JwtSvidError::Claim("exp")),
        (json!({ "nbf": 1031 }), JwtSvidError::Expired),
        (json!({ "iat": 1031 }), JwtSvidError::Expired),
        (
            json!({ "sub": "spiffe://b.test/x" }),
            JwtSvidError::Jws(JwsError::Signature),
        ),
        (
            json!({ "sub": "spiffe://c.test/x" }),
            JwtSvidError::Jws(JwsError::UnknownKey),
        ),
        (
            json!({ "sub": "x" }),
            JwtSvidError::Jws(JwsError::UnknownKey),
        ),
        (
            json!({ "sub": null }),
            JwtSvidError::Jws(JwsError::UnknownKey),
        ),
    ] {
        assert_eq!(
            domains.verify(&own.sign(&header(), &claims(bad.clone()))),
            Err(why),
            "{bad}"
        );
    }
}

#[test]
fn a_jwt_svid_under_another_key_type_or_algorithm_is_refused() {
    let domains = Domains::new();
    let good = claims(json!({}));
    assert_eq!(
        domains.verify(&domains.other.sign(&header(), &good)),
        Err(JwtSvidError::Jws(JwsError::Signature))
    );
    assert_eq!(
        domains.verify(&domains.own.sign(
            &json!({ "alg": "ES256", "kid": "k", "typ": "at+jwt" }),
            &good
        )),
        Err(JwtSvidError::Type)
    );
    assert_eq!(
        domains.verify(
            &domains
                .own
                .sign(&json!({ "alg": "none", "kid": "k" }), &good)
        ),
        Err(JwtSvidError::Jws(JwsError::Algorithm))
    );
    assert_eq!(
        domains.verify(
            &domains
                .own
                .sign(&json!({ "alg": "ES256", "kid": "k", "jku": "x" }), &good)
        ),
        Err(JwtSvidError::Jws(JwsError::Header("jku".to_owned())))
    );
}

/// Others read the document that comes from a bundle, and some refuse all of it for one key.
#[test]
fn i5_a_key_that_cannot_be_used_costs_no_other_and_is_not_passed_on() {
    let authority = Authority::new();
    let good = authority.bundle();
    let mut document: Value = serde_json::from_slice(good.document()).unwrap();
    let keys = document["keys"].as_array_mut().unwrap();
    let usable = keys[0].clone();
    keys.push(
        json!({ "kty": "AKP", "kid": "pq", "use": "jwt-svid", "alg": "ML-DSA-44", "pub": "AA" }),
    );
    keys.push(usable);
    let bundle = JwtBundle::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(bundle.document(), good.document());
    assert_eq!(bundle.left_out().count(), 1);
    assert!(!bundle.is_empty());
    let token = authority.sign(&header(), &claims(json!({})));
    assert!(JwtSvid::verify(&token, "us", |_| Some(&bundle), 1_050_000).is_ok());
}
