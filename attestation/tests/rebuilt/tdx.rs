//! Quotes of TDX trust domains and their collateral.

use serde_json::{Value, json};
use sundew_attestation::kinds::tdx::{self, TdxError};
use sundew_attestation::{Claims, Crl};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::edits::{self, fields};
use sundew_rebuilt::tdx::{Collateral, FIELDS, Form, HEADER, Platform};

use crate::said;

const BOUND: [u8; 64] = [7; 64];
const DAY_MS: i64 = 86_400_000;

fn parsed(document: &[u8]) -> tdx::Collateral {
    tdx::Collateral::parse(document).unwrap()
}

fn verify(
    platform: &Platform,
    quote: &[u8],
    collateral: &tdx::Collateral,
) -> Result<Claims, TdxError> {
    tdx::verify_under(&platform.root(), quote, [collateral], &BOUND, NOW_MS)
}

#[test]
fn ac_05_rebuilt_tdx_quotes_of_all_forms_are_taken_within_their_collaterals_window_only() {
    let platform = Platform::new();
    let genuine = Collateral::genuine();
    let collateral = parsed(&genuine.clone().signed_by(&platform));
    for form in Form::ALL {
        let claims = verify(&platform, &platform.genuine(form), &collateral).unwrap();
        assert_eq!(claims.values["tcb_status"], ["UpToDate"], "{form:?}");
        assert_eq!(claims.values["mrtd"], ["91".repeat(48)]);
        assert_eq!(claims.values["rtmr3"], ["a3".repeat(48)]);
    }
    let (quote, root) = (platform.genuine(Form::V4), platform.root());
    let refused = |root: &[u8], collateral: &[&tdx::Collateral], bound, at| {
        let collateral = collateral.iter().copied();
        tdx::verify_under(root, &quote, collateral, bound, at).unwrap_err()
    };
    let error = refused(&root, &[&collateral], &[0; 64], NOW_MS);
    assert!(matches!(error, TdxError::Binding), "{error}");
    let error = refused(&root, &[], &BOUND, NOW_MS);
    assert!(matches!(error, TdxError::Collateral(_)), "{error}");
    // T31: before the collateral was issued, and when the next one was due.
    for at in [NOW_MS - 10 * DAY_MS - 1000, NOW_MS + 20 * DAY_MS + 1000] {
        let error = refused(&root, &[&collateral], &BOUND, at);
        assert!(matches!(error, TdxError::Unverified(_)), "{at}: {error}");
    }
    let other = Platform::new();
    let error = refused(&other.root(), &[&collateral], &BOUND, NOW_MS);
    assert!(matches!(error, TdxError::Unverified(_)), "{error}");
    // Another platform's collateral under the same model, and collateral of another model.
    let theirs = parsed(&genuine.clone().signed_by(&other));
    let error = refused(&root, &[&theirs], &BOUND, NOW_MS);
    assert!(matches!(error, TdxError::Unverified(_)), "{error}");
    let mut model = genuine.clone();
    model.tcb_info["fmspc"] = json!("00806F050000");
    let model = parsed(&model.signed_by(&platform));
    let error = refused(&root, &[&model], &BOUND, NOW_MS);
    assert!(matches!(error, TdxError::Collateral(_)), "{error}");
    // Under Intel's root, no rebuilt quote is one.
    let error = tdx::verify(&quote, [&collateral], &BOUND, NOW_MS).unwrap_err();
    assert!(matches!(error, TdxError::Unverified(_)), "{error}");
    // An SGX enclave is not a trust domain; its collateral is not for one.
    let mut enclaves = genuine;
    enclaves.tcb_info["id"] = json!("SGX");
    assert!(tdx::Collateral::parse(&enclaves.signed_by(&platform)).is_err());
    let mut enclave = quote.clone();
    enclave[4] = 0;
    assert!(verify(&platform, &enclave, &collateral).is_err());
}

#[test]
fn ac_05_every_tcb_status_is_what_the_claims_say() {
    let platform = Platform::new();
    let quote = platform.genuine(Form::V4);
    for status in [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ] {
        let collateral = parsed(&Collateral::of_platform(status).signed_by(&platform));
        let claims = verify(&platform, &quote, &collateral).unwrap();
        assert_eq!(claims.values["tcb_status"], [status]);
        assert_eq!(claims.values["advisory"], ["INTEL-SA-00001"], "{status}");
    }
    // What is revoked is no claim: nothing of it is believed.
    for status in ["Revoked", "AnotherStatus", "TDRelaunchAdvised"] {
        let collateral = parsed(&Collateral::of_platform(status).signed_by(&platform));
        let error = verify(&platform, &quote, &collateral).unwrap_err();
        assert!(
            matches!(error, TdxError::Unverified(_)),
            "{status}: {error}"
        );
    }
    // The worst of platform, module and quoting enclave counts.
    for part in ["module", "enclave"] {
        let mut collateral = Collateral::genuine();
        let level = match part {
            "module" => &mut collateral.tcb_info["tdxModuleIdentities"][1]["tcbLevels"][0],
            _ => &mut collateral.qe_identity["tcbLevels"][0],
        };
        level["tcbStatus"] = json!("OutOfDate");
        let collateral = parsed(&collateral.signed_by(&platform));
        let claims = verify(&platform, &quote, &collateral).unwrap();
        assert_eq!(claims.values["tcb_status"], ["OutOfDate"], "{part}");
    }
}

/// A TDX 1.5 module may be replaced while the trust domain runs.
#[test]
fn ac_05_a_trust_domain_that_was_launched_on_an_older_module_is_advised_to_relaunch() {
    let platform = Platform::new();
    let collateral = parsed(&Collateral::genuine().signed_by(&platform));
    for (launch, now, status) in [
        (6, 6, "UpToDate"),
        (3, 6, "TDRelaunchAdvised"),
        (3, 3, "OutOfDate"),
    ] {
        let quote = platform.quote(Form::V5With15, |report| {
            report[0] = launch;
            report[584] = now;
        });
        let claims = verify(&platform, &quote, &collateral).unwrap();
        assert_eq!(claims.values["tcb_status"], [status], "{launch} to {now}");
    }
}

#[test]
fn t31_a_rebuilt_platform_that_is_revoked_debugged_or_below_every_level_is_refused() {
    let platform = Platform::new();
    let quote = platform.genuine(Form::V4);
    let below = parsed(&Collateral::above_the_platform().signed_by(&platform));
    let error = verify(&platform, &quote, &below).unwrap_err().to_string();
    assert!(error.contains("No matching TCB level"), "{error}");
    let mut revoked = Collateral::genuine();
    revoked.revoked = true;
    let revoked = parsed(&revoked.signed_by(&platform));
    let error = verify(&platform, &quote, &revoked).unwrap_err().to_string();
    assert!(error.contains("certificate chain"), "{error}");
    let collateral = parsed(&Collateral::genuine().signed_by(&platform));
    for form in Form::ALL {
        let debugged = platform.quote(form, |report| report[120] |= 1);
        assert!(
            verify(&platform, &debugged, &collateral).is_err(),
            "{form:?}"
        );
        let other_module = platform.quote(form, |report| report[64] = 1);
        assert!(
            verify(&platform, &other_module, &collateral).is_err(),
            "{form:?}"
        );
    }
    // A service TD has a part in what the trust domain is.
    let served = platform.quote(Form::V5With15, |report| report[600] = 1);
    assert!(verify(&platform, &served, &collateral).is_err());
}

#[test]
fn e12_rebuilt_evidence_ends_with_whatever_its_verdict_rests_on_ends_first() {
    let platform = Platform::new();
    let quote = platform.genuine(Form::V4);
    for (documents, lists) in [(20, 21), (20, 5)] {
        let mut collateral = Collateral::genuine();
        collateral.valid_s.1 = NOW_MS / 1000 + documents * DAY_MS / 1000;
        collateral.lists_until_s = NOW_MS / 1000 + lists * DAY_MS / 1000;
        let document = collateral.signed_by(&platform);
        let claims = verify(&platform, &quote, &parsed(&document)).unwrap();
        let earliest = NOW_MS + documents.min(lists) * DAY_MS;
        assert_eq!(claims.not_after_ms, Some(earliest));
        let document: Value = serde_json::from_slice(&document).unwrap();
        let list = hex::decode(document["pck_crl"].as_str().unwrap()).unwrap();
        assert_eq!(
            Crl::parse(&list).unwrap().next_update_ms(),
            NOW_MS + lists * DAY_MS
        );
    }
}

#[test]
fn t34_no_bit_of_a_rebuilt_tdx_quote_or_its_collateral_changes_what_it_says() {
    let platform = Platform::new();
    let quote = platform.genuine(Form::V4);
    let document = Collateral::genuine().signed_by(&platform);
    let collateral = parsed(&document);
    let free = edits::bits(&quote, |quote| said(verify(&platform, quote, &collateral)));
    // Free are: lengths and types of containers (632, 764 to 769, and just before the PEM), the PEM
    // of the chain where a blank may be another blank, and its last certificate, which is not
    // looked at because the root is given. Header, body, both signatures, the attestation key and
    // the report of the quoting enclave are not: nothing that a claim rests on.
    let chain = quote
        .windows(10)
        .position(|window| window == b"-----BEGIN")
        .unwrap();
    let is_covered =
        |at: usize| at < 632 || (636..764).contains(&at) || (770..chain - 4).contains(&at);
    assert_eq!(free.iter().find(|at| is_covered(**at)), None);
    let genuine = said(verify(&platform, &quote, &collateral));
    let mut variant = document.clone();
    for at in (0..document.len()).step_by(3) {
        variant[at] ^= 1 << (at % 8);
        if let Ok(bent) = tdx::Collateral::parse(&variant) {
            let said = said(verify(&platform, &quote, &bent));
            assert!(said.is_none() || said == genuine, "byte {at}");
        }
        variant[at] = document[at];
    }
}

/// The edits know the fields of a report and the members of collateral. The attacker has a platform
/// under another root, whose keys may sign.
#[test]
fn t34_no_structural_edit_of_a_tdx_quote_or_its_collateral_changes_what_it_says() {
    let (platform, evil) = (Platform::new(), Platform::new());
    let genuine = Collateral::genuine();
    let document = genuine.clone().signed_by(&platform);
    let quote = platform.genuine(Form::V5With15);
    let start = Form::V5With15.report_at();
    let mut places: Vec<_> = FIELDS
        .iter()
        .map(|(at, length)| (start + at, *length))
        .collect();
    places.extend([
        (0, 2),
        (2, 2),
        (4, 4),
        (12, 16),
        (28, 20),
        (HEADER, 2),
        (HEADER + 2, 4),
    ]);
    let outcome = edits::structural(
        &(quote.clone(), document.clone()),
        0x5eed_0000_0000_0003,
        |dice| {
            let bent = match dice.roll(5) {
                0 => quote.clone(),
                1 => evil.quote(Form::V5With15, |report| {
                    report.copy_from_slice(&fields::edited(report, &FIELDS, dice));
                }),
                _ => fields::edited(&quote, &places, dice),
            };
            let used = match dice.roll(6) {
                0 => evil_collateral(&genuine, &evil, &document, dice),
                1 | 2 => {
                    let mut content: Value = serde_json::from_slice(&document).unwrap();
                    for name in ["tcb_info", "qe_identity"] {
                        let mut part: Value =
                            serde_json::from_str(content[name].as_str().unwrap()).unwrap();
                        edits::json::edit(&mut part, dice);
                        content[name] = part.to_string().into();
                    }
                    content.to_string().into_bytes()
                }
                3 => {
                    let mut content: Value = serde_json::from_slice(&document).unwrap();
                    edits::json::edit(&mut content, dice);
                    content.to_string().into_bytes()
                }
                _ => document.clone(),
            };
            (bent, used)
        },
        |(quote, document)| {
            let collateral = tdx::Collateral::parse(document).ok()?;
            said(verify(&platform, quote, &collateral))
        },
    );
    assert!(outcome.taken < outcome.different / 5, "{outcome:?}");
}

/// Returns collateral of which some members are the attacker's and others genuine.
fn evil_collateral(
    genuine: &Collateral,
    evil: &Platform,
    document: &[u8],
    dice: &mut sundew_rebuilt::dice::Dice,
) -> Vec<u8> {
    let mut theirs = genuine.clone();
    theirs.tcb_info["tcbLevels"][0]["tcbStatus"] = json!("SWHardeningNeeded");
    let theirs: Value = serde_json::from_slice(&theirs.signed_by(evil)).unwrap();
    let mut content: Value = serde_json::from_slice(document).unwrap();
    for (name, value) in content.as_object_mut().unwrap() {
        if dice.one_in(3) {
            *value = theirs[name].clone();
        }
    }
    content.to_string().into_bytes()
}
