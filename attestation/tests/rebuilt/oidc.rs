//! Tokens of clouds and of CI systems.

use serde_json::{Value, json};
use sundew_attestation::jws::KeySet;
use sundew_attestation::kinds::oidc::{self, Issuer, OidcError, Preset};
use sundew_attestation::spiffe::BundleSet;
use sundew_attestation::{
    AppraisalPolicy, Binding, Circumstances, Claims, Presented, Rule, TrustMaterial, appraise,
};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::edits::{self, json};
use sundew_rebuilt::key::Key;
use sundew_rebuilt::oidc::{self as tokens, AUDIENCE, Token};

use crate::said;

fn issuer(token: &Token, preset: Preset, key: &Key) -> Issuer {
    Issuer {
        url: token.claims["iss"].as_str().unwrap().to_owned(),
        audience: AUDIENCE.to_owned(),
        preset,
        max_age_s: 600,
        keys: KeySet::parse(&tokens::key_set(key)).unwrap(),
    }
}

fn verify(token: &[u8], issuer: &Issuer) -> Result<Claims, OidcError> {
    oidc::verify(token, issuer, NOW_MS + 1000)
}

/// Returns every token with its preset and a claim that identifies its workload.
fn all() -> Vec<(Token, Preset, &'static str)> {
    let mut out = vec![(tokens::compute_engine(), Preset::Gcp, "gce.instance_id")];
    let of =
        |list: Vec<Token>, preset, claim| list.into_iter().map(move |token| (token, preset, claim));
    out.extend(of(tokens::github(), Preset::Github, "job_workflow_ref"));
    out.extend(of(tokens::gitlab(), Preset::Gitlab, "ref_path"));
    out.extend(of(
        tokens::kubernetes(),
        Preset::Kubernetes,
        "kubernetes.pod.uid",
    ));
    out.extend(of(tokens::azure(), Preset::Azure, "xms_mirid"));
    let vcs = "oidc.circleci.com/vcs-origin";
    out.extend(of(tokens::buildkite(), Preset::Buildkite, "build_commit"));
    out.extend(of(tokens::circleci(), Preset::CircleCi, vcs));
    let run = "terraform_run_id";
    out.extend(of(tokens::terraform(), Preset::Terraform, run));
    out
}

#[test]
fn e3_tokens_of_every_platform_are_taken_with_the_header_claims_and_life_that_it_gives() {
    let (key, other) = (tokens::issuer_key(), tokens::issuer_key());
    for (token, preset, claim) in all() {
        let name = token.name;
        let issuer = issuer(&token, preset, &key);
        let signed = token.signed_by(&key);
        let claims = verify(signed.as_bytes(), &issuer).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(claims.values.contains_key(claim), "{name}");
        let pinned = preset.pinned_claim();
        assert_eq!(
            claims.values[pinned],
            [token.claims[pinned].as_str().unwrap()],
            "{name}"
        );
        let end_ms = token.claims["exp"].as_i64().unwrap() * 1000;
        assert_eq!(claims.not_after_ms, Some(end_ms), "{name}");
        let forged = token.signed_by(&other);
        assert!(
            verify(forged.as_bytes(), &issuer).is_err(),
            "{name}: another key"
        );
        let mut elsewhere = token.clone();
        elsewhere.claims["aud"] = json!("https://another.example");
        let refused = verify(elsewhere.signed_by(&key).as_bytes(), &issuer);
        assert_eq!(refused.unwrap_err(), OidcError::Audience, "{name}");
    }
}

/// Returns why a token is not enough for a registration with these constraints.
fn refused(token: &Token, preset: Preset, key: &Key, claims: Value) -> Option<String> {
    let issuer = issuer(token, preset, key);
    let rule = json!({ "kind": "oidc", "issuer": issuer.url, "claims": claims });
    let trust = TrustMaterial::of_issuers([issuer]);
    let rules: Vec<Rule> = serde_json::from_value(json!([rule])).unwrap();
    let signed = token.signed_by(key);
    let presented = [Presented {
        kind: "oidc",
        payload: signed.as_bytes(),
    }];
    let circumstances = Circumstances {
        public_key: &[],
        binding: &Binding::from_bytes([9; 32]),
        trust: &trust,
        bundles: &BundleSet::default(),
        now_ms: NOW_MS + 1000,
    };
    let policy = AppraisalPolicy {
        rules: &rules,
        cross_checks: &[],
    };
    let taken = appraise(policy, &presented, circumstances, &mut Vec::new());
    taken.err().map(|error| error.to_string())
}

/// T22: what stays the same of a job is pinned, and where others than the platform team may have
/// written what runs, the registration has to say that it takes it.
#[test]
fn e3_ci_platforms_are_pinned_by_ids_and_code_of_others_is_not_taken_unless_it_is_named() {
    let key = tokens::issuer_key();
    let of = |list: Vec<Token>| list.into_iter().next().unwrap();
    let mut without = of(tokens::buildkite());
    without
        .claims
        .as_object_mut()
        .unwrap()
        .remove("pipeline_id");
    let verdict = |token: &Token, preset| {
        verify(
            token.signed_by(&key).as_bytes(),
            &issuer(token, preset, &key),
        )
        .map(drop)
    };
    let missing = Err(OidcError::Claim("pipeline_id"));
    assert_eq!(verdict(&without, Preset::Buildkite), missing);
    let mut without = of(tokens::terraform());
    without
        .claims
        .as_object_mut()
        .unwrap()
        .remove("terraform_run_phase");
    let missing = Err(OidcError::Claim("terraform_run_phase"));
    assert_eq!(verdict(&without, Preset::Terraform), missing);

    let [plan, apply] = <[Token; 2]>::try_from(tokens::terraform()).unwrap();
    let refused = |token: &Token, preset, claims| refused(token, preset, &key, claims);
    let workspace = json!({ "terraform_workspace_id": ["ws-1"] });
    let phase = json!({ "terraform_workspace_id": ["ws-1"], "terraform_run_phase": ["plan"] });
    let subject = json!({ "terraform_workspace_id": ["ws-1"], "sub": [plan.claims["sub"]] });
    assert_eq!(refused(&apply, Preset::Terraform, workspace.clone()), None);
    let why = refused(&plan, Preset::Terraform, workspace.clone()).unwrap();
    assert!(why.contains("terraform_run_phase"), "{why}");
    for claims in [phase, subject] {
        assert_eq!(refused(&plan, Preset::Terraform, claims.clone()), None);
        assert!(refused(&apply, Preset::Terraform, claims).is_some());
    }

    let project = "oidc.circleci.com/project-id";
    let job = of(tokens::circleci());
    let (mut again, own) = (job.clone(), json!({ project: [job.claims[project]] }));
    again.claims["oidc.circleci.com/ssh-rerun"] = json!(true);
    assert_eq!(refused(&job, Preset::CircleCi, own.clone()), None);
    let why = refused(&again, Preset::CircleCi, own.clone()).unwrap();
    assert!(why.contains("ssh-rerun"), "{why}");
    let mut named = own;
    named["oidc.circleci.com/ssh-rerun"] = json!(["true"]);
    assert_eq!(refused(&again, Preset::CircleCi, named), None);
}

/// The edits know the header and the claims. The attacker has a key of his own, signs by the public
/// key as a secret, or leaves the signature of another token.
#[test]
fn t34_no_structural_edit_of_a_token_changes_what_it_says() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let (key, evil) = (tokens::issuer_key(), tokens::issuer_key());
    let (token, preset, _) = all().swap_remove(3);
    let issuer = issuer(&token, preset, &key);
    let genuine = token.signed_by(&key);
    let signature = genuine.rsplit('.').next().unwrap().to_owned();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key.spki());
    let headers = [
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("alg", json!("PS256")),
        ("kid", json!("other")),
        ("jwk", json!({ "kty": "RSA" })),
        ("jku", json!("https://evil.example")),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
    ];
    let outcome = edits::structural(
        &genuine,
        0x5eed_0000_0000_0006,
        |dice| {
            let mut bent = token.clone();
            for _ in 0..dice.roll(3) {
                json::edit(&mut bent.claims, dice);
            }
            if dice.one_in(2) {
                let (name, value) = &headers[dice.roll(headers.len())];
                bent.header[name] = value.clone();
            } else if dice.one_in(2) {
                json::edit(&mut bent.header, dice);
            }
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let input = format!("{}.{}", part(&bent.header), part(&bent.claims));
            match dice.roll(5) {
                0 => bent.signed_by(&evil),
                1 => format!("{input}."),
                2 => {
                    let tag = ring::hmac::sign(&secret, input.as_bytes());
                    format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))
                }
                3 => {
                    let mut bytes = genuine.clone().into_bytes();
                    edits::bend(&mut bytes, dice);
                    String::from_utf8_lossy(&bytes).into_owned()
                }
                _ => format!("{input}.{signature}"),
            }
        },
        |token| said(verify(token.as_bytes(), &issuer)),
    );
    assert_eq!(outcome.taken, 0, "{outcome:?}");
}
