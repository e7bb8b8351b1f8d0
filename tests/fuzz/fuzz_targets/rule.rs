#![no_main]
//! Rules of registrations: what parses is written and read as the same, has at most 16
//! alternatives, and takes nothing from nobody.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::spiffe::BundleSet;
use sundew_attestation::{AppraisalPolicy, Binding, Circumstances, Rule, TrustMaterial, appraise};

fuzz_target!(|data: &[u8]| {
    let Ok(rules) = serde_json::from_slice::<Vec<Rule>>(data) else {
        return;
    };
    let again: Vec<Rule> = serde_json::from_value(serde_json::to_value(&rules).unwrap()).unwrap();
    assert_eq!(rules, again);
    let policy = AppraisalPolicy {
        rules: &rules,
        cross_checks: &[],
    };
    assert!(
        policy
            .alternatives()
            .is_none_or(|alternatives| alternatives.len() <= 16)
    );
    let (trust, bundles) = (TrustMaterial::default(), BundleSet::default());
    let _ = policy.problems(&trust);
    let circumstances = Circumstances {
        public_key: &[],
        binding: &Binding::from_bytes([0; 32]),
        trust: &trust,
        bundles: &bundles,
        now_ms: 0,
    };
    assert!(appraise(policy, &[], circumstances, &mut Vec::new()).is_err());
});
