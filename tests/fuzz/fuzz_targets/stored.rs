#![no_main]
//! What comes back from a store or a caller: a tag of another place or content opens nothing, and
//! records that do not read are errors.
use libfuzzer_sys::fuzz_target;
use sundew_core::{
    Grant, Keyring, LeaseRecord, LogEntry, RootKey, SecretRecord, Selector, TaskId, TaskRecord,
    TokenRecord, WorkloadRecord,
};

fuzz_target!(|bytes: &[u8]| {
    let root = RootKey::new(&[7; 32]).unwrap();
    assert!(root.untag(&[b"token", b"x"], bytes).is_err());
    assert!(root.unwrap("x", bytes).is_err());
    assert!(Keyring::unwrap(&root, bytes).is_err());
    let _ = LogEntry::decode(bytes)
        .map(|entry| assert_eq!(LogEntry::decode(&entry.encode()).ok(), Some(entry)));
    let _ = (
        SecretRecord::decode(bytes),
        WorkloadRecord::decode(bytes),
        LeaseRecord::decode(bytes),
    );
    let id = TaskId::from_bytes([1; 16]);
    if let Ok(task) = TaskRecord::decode(id, bytes) {
        assert_eq!(
            TaskRecord::decode(id, &task.encode()).ok().as_ref(),
            Some(&task)
        );
        let _ = TokenRecord::decode(&task, bytes).map(|token| {
            assert_eq!(
                TokenRecord::decode(&task, &token.encode(&task)).ok(),
                Some(token)
            )
        });
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(Grant::parse(&root, text).is_err());
        // What selects nothing is refused, whatever it is made of.
        if let Ok(selector) = serde_json::from_str::<Selector>(text) {
            assert!(selector.check().is_err() || selector != Selector::default());
        }
    }
});
