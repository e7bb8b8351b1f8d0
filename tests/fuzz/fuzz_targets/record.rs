#![no_main]
//! The journal's records: one encoding each.
use libfuzzer_sys::fuzz_target;
use sundew_core::Record;

fuzz_target!(|bytes: &[u8]| {
    if let Some(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
});
