//! Which records may use the reserve of the journal's disk.
//!
//! A1, P7: what ends something, and what operators do, is written as long as anything can be. What
//! issues something, and what only tells, is not written into the reserve.

use crate::store::chain_log::DiskShare;

/// Events that end something, that take something back, or that operators cause.
const WITH_RESERVE: [&str; 32] = [
    "bounds_set",
    "break_glass",
    "break_glass_asked",
    "ca_keys_dropped",
    "ca_keys_put_back",
    "ca_keys_retired",
    "ca_rotated",
    "document_changed",
    "document_restored",
    "ending_heard",
    "engine_deleted",
    "engine_written",
    "keyring_rotated",
    "lease_removed",
    "lifted",
    "operator_bootstrapped",
    "operator_svid_issued",
    "order_canceled",
    "orphan_removed",
    "revocation_pending",
    "revoked",
    "root_key_rewriting",
    "secret_deleted",
    "secret_written",
    "task_ended",
    "task_suspended",
    "ticket_reused",
    "tpm_barred",
    "trust_added",
    "trust_removed",
    "workload_applied",
    "workload_deleted",
];

/// The share of the disk for an event. One that is not known may not use the reserve.
pub(super) fn share_of(event: &str) -> DiskShare {
    if WITH_RESERVE.contains(&event) {
        DiskShare::WithReserve
    } else {
        DiskShare::Unreserved
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Events that issue something, or that only tell.
    const UNRESERVED: [&str; 15] = [
        "binding_rotated",
        "delegated",
        "handshake_refused",
        "join_token_created",
        "jwt_svid_issued",
        "lease_removal_failed",
        "order_created",
        "refused",
        "refused_more",
        "secret_read",
        "svid_issued",
        "task_begun",
        "task_proven",
        "task_resumed",
        "tpm_key_activated",
    ];

    fn visit(folder: &Path, events: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let is_test = ["tests", "testing"].contains(&name.as_str()) || name.ends_with("_tests");
            if is_test {
                continue;
            }
            if path.is_dir() {
                visit(&path, events);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                for part in code.split("journal::record(\"").skip(1) {
                    events.insert(part.split('"').next().unwrap().to_owned());
                }
            }
        }
    }

    /// A1: whoever adds an event says whether it may use the reserve.
    #[test]
    fn a1_every_event_has_its_share_of_the_disk() {
        let mut events = BTreeSet::new();
        visit(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut events,
        );
        assert!(events.len() > 20, "{events:?}");
        for event in events {
            assert!(
                WITH_RESERVE.contains(&event.as_str()) != UNRESERVED.contains(&event.as_str()),
                "{event}: say whether it may use the reserve"
            );
        }
    }
}
