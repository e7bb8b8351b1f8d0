//! Statements of a broker about users of its own machine.

use serde_json::Value;
use sundew_attestation::Binding;
use sundew_attestation::kinds::local_user::{self, Statement, signed_bytes};
use sundew_rebuilt::{NOW_MS, edits};

use crate::process::Signed;
use crate::said;

#[test]
fn t34_no_structural_edit_of_a_brokers_statement_changes_what_it_says() {
    let statement = Statement {
        binding: "09".repeat(32),
        uid: 1000,
    };
    let all = Signed::new(serde_json::to_string(&statement).unwrap(), signed_bytes);
    let binding = Binding::from_bytes([9; 32]);
    let verify = |evidence: &Value| {
        let payload = evidence.to_string();
        let (brokers, bundles) = (&all.signers, &all.bundles);
        local_user::verify(payload.as_bytes(), brokers, bundles, &binding, NOW_MS)
    };
    let outcome = edits::structural(
        &all.genuine(),
        0x5eed_0000_0000_0018,
        |dice| all.variant(dice),
        |evidence| said(verify(evidence)),
    );
    assert!(outcome.taken < outcome.different / 5, "{outcome:?}");
}
