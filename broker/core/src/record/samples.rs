//! Sample records for the tests of this crate.

use sundew_attestation::spiffe::SpiffeId;

use crate::id::TaskId;
use crate::position::Position;
use crate::record::{TaskRecord, TokenRecord};
use crate::scope::ScopeSet;
use crate::token_binding::TokenBinding;

/// Returns a task of `spiffe://example.org/a` that was decided at this log position.
pub(crate) fn task(position: u64) -> TaskRecord {
    TaskRecord {
        id: TaskId::from_bytes([1; 16]),
        workload: SpiffeId::parse("spiffe://example.org/a").unwrap(),
        purpose: String::new(),
        instruction: String::new(),
        scopes: ScopeSet::parse(&["exec:git"]).unwrap(),
        audience: vec![],
        created_at_ms: 0,
        deadline_ms: 1000,
        certificate: [0; 32],
        svid_serial: vec![0xab],
        position: Position(position),
        grace_ms: 1000,
        registration: "v1".to_owned(),
        request: [0; 32],
        evidence: vec![],
        claims: vec![],
        ancestors: vec![],
        depth_left: 0,
        order: None,
    }
}

/// Returns a token of that task that was decided at this log position.
pub(crate) fn token(position: u64) -> TokenRecord {
    TokenRecord {
        task: TaskId::from_bytes([1; 16]),
        scopes: ScopeSet::parse(&["exec:git"]).unwrap(),
        audience: vec![],
        issued_at_ms: 0,
        expires_at_ms: 900,
        binding: TokenBinding::Certificate,
        certificate: [0; 32],
        svid_serial: vec![0xab],
        position: Position(position),
        registration: "v1".to_owned(),
        request: [0; 16],
    }
}
