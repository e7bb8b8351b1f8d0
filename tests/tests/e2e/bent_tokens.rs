//! Every way to bend an OIDC token: T12 to T21, T34.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sundew_tests::issuer::{AUDIENCE, ISSUER, TestIssuer};
use sundew_tests::until;
use tonic::Code;

use crate::evidence::{ready, with_token};
use crate::profiles::remove;

/// Tokens of one issuer with something bent about them, each with what is bent.
struct Bent<'a> {
    issuer: &'a TestIssuer,
    cases: Vec<(String, Vec<u8>)>,
}

impl Bent<'_> {
    /// A token with other claims.
    fn claims(&mut self, what: impl Into<String>, change: impl Fn(&mut Value)) {
        let mut claims = TestIssuer::claims("/agent");
        change(&mut claims);
        let token = self.issuer.token_of(&claims);
        self.cases.push((what.into(), token));
    }

    /// A token with another header.
    fn header(&mut self, what: impl Into<String>, header: Value) {
        let token = self.issuer.sign(&header.to_string(), &payload());
        self.cases.push((what.into(), token));
    }

    /// Headers that choose another algorithm or bring a key or an instruction with them.
    fn headers(&mut self) {
        let other = |kid: &str| json!({ "alg": "ES256", "kid": kid });
        self.header("unknown kid", other("k2"));
        self.header("kid that is a path", other("../../dev/null"));
        self.header("kid absent", json!({ "alg": "ES256" }));
        self.header(
            "ID token used as another type",
            json!({ "alg": "ES256", "kid": "k1", "typ": "at+jwt" }),
        );
        for alg in [
            json!("none"),
            json!("None"),
            json!("nOnE"),
            json!(""),
            json!(["ES256"]),
            json!("RS256"),
            json!("ES384"),
            Value::Null,
        ] {
            self.header(format!("alg {alg}"), json!({ "alg": alg, "kid": "k1" }));
        }
        for name in [
            "jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "p2c",
        ] {
            self.header(
                format!("header {name}"),
                json!({ "alg": "ES256", "kid": "k1", name: "https://attacker.test" }),
            );
        }
    }

    /// Times that have passed, are to come, or are no times.
    fn times(&mut self) {
        let now = sundew_tests::now_ms() / 1000;
        self.claims("expired", |c| c["exp"] = json!(now - 1));
        self.claims("issued in the future", |c| c["iat"] = json!(now + 120));
        self.claims("not before later", |c| c["nbf"] = json!(now + 120));
        self.claims("issued long ago", |c| c["iat"] = json!(now - 7200));
        self.claims("living for years", |c| c["exp"] = json!(now + 100_000_000));
        for name in ["exp", "iat"] {
            for value in [
                json!("1"),
                json!(1.5),
                json!(-1),
                json!(1e300),
                Value::Null,
                json!([1]),
                json!(i64::MAX),
            ] {
                self.claims(format!("{name} {value}"), |c| c[name] = value.clone());
            }
            self.claims(format!("{name} absent"), |c| remove(c, name));
        }
    }

    /// Audiences, issuers and subjects that are other ones, or none.
    fn parties(&mut self) {
        self.claims("audience absent", |c| remove(c, "aud"));
        self.claims("another subject", |c| c["sub"] = json!("/agent-evil"));
        self.claims("jti that is a number", |c| c["jti"] = json!(1));
        for aud in [
            json!("other"),
            json!([AUDIENCE, "other"]),
            json!([]),
            json!(&AUDIENCE[..4]),
            json!(format!("{AUDIENCE}2")),
            json!({ "a": 1 }),
        ] {
            self.claims(format!("aud {aud}"), |c| c["aud"] = aud.clone());
        }
        for iss in [
            format!("{ISSUER}/"),
            ISSUER.to_uppercase(),
            format!("{ISSUER}/x"),
            ISSUER.replace("https://", "https://u@"),
            String::new(),
        ] {
            self.claims(format!("iss {iss}"), |c| c["iss"] = json!(iss));
        }
    }
}

/// The claims of a good token.
fn payload() -> String {
    TestIssuer::claims("/agent").to_string()
}

/// A token that is signed with a shared key instead of the issuer's own.
fn hmac(key: &[u8]) -> Vec<u8> {
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k1"}"#),
        URL_SAFE_NO_PAD.encode(payload())
    );
    let tag = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key),
        input.as_bytes(),
    );
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag)).into_bytes()
}

/// Tokens whose form or signature is wrong, whatever they say.
fn malformed(issuer: &TestIssuer) -> Vec<(String, Vec<u8>)> {
    let good = String::from_utf8(issuer.token("/agent")).expect("text");
    let other_key = TestIssuer::default();
    vec![
        (
            "signed by another key of the same id".into(),
            other_key.token("/agent"),
        ),
        (
            "no signature".into(),
            format!("{}.", good.rsplit_once('.').expect("parts").0).into_bytes(),
        ),
        ("padded".into(), format!("{good}=").into_bytes()),
        ("four parts".into(), format!("{good}.x").into_bytes()),
        ("empty".into(), vec![]),
        ("binary".into(), vec![0xff; 100]),
        ("a million dots".into(), vec![b'.'; 1_000_000 / 2]),
        (
            "HS256 with the public key".into(),
            hmac(issuer.public_key()),
        ),
        ("HS256 with the JWK".into(), hmac(issuer.jwks().as_bytes())),
        (
            "duplicate claim".into(),
            issuer.sign(
                r#"{"alg":"ES256","kid":"k1"}"#,
                &payload().replacen('{', r#"{"sub":"/agent","#, 1),
            ),
        ),
        (
            "duplicate header".into(),
            issuer.sign(r#"{"alg":"ES256","alg":"ES256","kid":"k1"}"#, &payload()),
        ),
        (
            "payload that is no object".into(),
            issuer.sign(r#"{"alg":"ES256","kid":"k1"}"#, "[]"),
        ),
    ]
}

/// T12 to T21: every way to bend a token, one case each; all answered alike.
#[tokio::test]
async fn t12_to_t21_every_bent_token_is_refused() {
    let (world, broker, caller) = ready().await;
    let mut bent = Bent {
        issuer: &world.issuer,
        cases: malformed(&world.issuer),
    };
    bent.headers();
    bent.times();
    bent.parties();
    let count = bent.cases.len();
    for (what, token) in bent.cases {
        let status = with_token(&caller, token).await.expect_err(&what);
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "not permitted"),
            "{what}"
        );
    }
    until("each is on the record once", || async {
        broker.refusals("BeginTask").len() == count
    })
    .await;
    assert!(
        broker
            .refusals("BeginTask")
            .iter()
            .all(|reason| reason.starts_with("evidence: ")),
        "{:#?}",
        broker.refusals("BeginTask")
    );
    with_token(&caller, world.issuer.token("/agent"))
        .await
        .expect("a good one is taken");
}

/// T34: the evidence cut at each length and with one flipped byte per position.
#[test]
fn t34_every_cut_and_every_flipped_byte_of_a_token_is_refused_without_panic() {
    use sundew_attestation::jws::{KeySet, verify};
    let issuer = TestIssuer::default();
    let keys = KeySet::parse(issuer.jwks().as_bytes()).expect("keys");
    let token = issuer.token("/agent");
    assert!(verify(&token, &keys).is_ok());
    for length in 0..token.len() {
        assert!(verify(&token[..length], &keys).is_err(), "cut at {length}");
    }
    for index in 0..token.len() {
        for flip in [1, 0x20, 0x80] {
            let mut bent = token.clone();
            bent[index] ^= flip;
            assert!(
                verify(&bent, &keys).is_err(),
                "byte {index} flipped by {flip}"
            );
        }
    }
}
