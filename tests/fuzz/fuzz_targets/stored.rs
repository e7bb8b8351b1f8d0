#![no_main]
//! What comes back from a store: a tag of another place or content opens nothing, and records that do not read are errors.
use libfuzzer_sys::fuzz_target;
use sundew_core::{Keyring, LogEntry, RootKey, SecretRecord, TaskRecord, TokenRecord, WorkloadRecord};

fuzz_target!(|bytes: &[u8]| {
    let root = RootKey::new(&[7; 32]).unwrap();
    assert!(root.untag(&[b"token", b"x"], bytes).is_err());
    assert!(root.unwrap("x", bytes).is_err());
    assert!(Keyring::unwrap(&root, bytes).is_err());
    let _ = LogEntry::decode(bytes).map(|entry| assert_eq!(LogEntry::decode(&entry.encode()).ok(), Some(entry)));
    let _ = (TaskRecord::decode(bytes), TokenRecord::decode(bytes), SecretRecord::decode(bytes), WorkloadRecord::decode(bytes));
});
