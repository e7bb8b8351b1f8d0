use serde_json::json;

use super::*;
use crate::testing::{DOMAIN, TestBroker, assert_refused};

/// P8, T71: a record is good in the place that it was written for, and nowhere else.
#[tokio::test]
async fn a_record_that_was_moved_or_edited_does_not_open() {
    let broker = TestBroker::start().await;
    let records = &broker.ledger.records;
    let open = |parts: &[&[u8]], bytes: &[u8]| {
        records.open("note", parts, bytes, |record| {
            Ok::<_, SealError>(record.to_vec())
        })
    };
    let (place, elsewhere): ([&[u8]; 2], [&[u8]; 2]) = ([b"note", b"1"], [b"note", b"2"]);
    let written = records.root().tag(&place, b"text".to_vec());
    assert_eq!(open(&place, &written).unwrap(), b"text");
    assert_refused!(open(&elsewhere, &written), Refusal::Seal { .. });
    for index in 0..written.len() {
        let mut edited = written.clone();
        edited[index] ^= 1;
        assert_refused!(open(&place, &edited), Refusal::Seal { .. });
    }
    let unreadable = records.open("note", &place, &written, |_| Err::<(), _>(()));
    assert_refused!(unreadable, Refusal::Seal { .. });
}

/// P4: what is in memory of a registration, even that there is none, is as old as the view is.
#[tokio::test]
async fn a_registration_is_read_again_after_it_changed() {
    let broker = TestBroker::start().await;
    let records = &broker.ledger.records;
    let id = SpiffeId::parse(&format!("spiffe://{DOMAIN}/agent")).unwrap();
    assert!(records.workload(&id).await.unwrap().is_none());
    let mut versions = HashMap::new();
    for owner in ["first", "second"] {
        broker.register("/agent", json!({ "owner": owner })).await;
        let known = records.workload(&id).await.unwrap().unwrap();
        assert!(versions.insert(known.version.clone(), owner).is_none());
        let again = records.workload(&id).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&known, &again), "it stays in memory");
    }
    Arc::clone(records).on_gap();
    let known = records.workload(&id).await.unwrap().unwrap();
    assert_eq!(versions.get(&known.version), Some(&"second"));
}
