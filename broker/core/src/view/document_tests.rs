//! Versions of documents in the view (L22).

use super::*;
use crate::log::Changed;

/// An entry that says that one document has this version, retained until `until_ms` where it is
/// not the last.
fn version(n: u8, version: u64, deleted: bool, until_ms: i64) -> LogEntry {
    LogEntry {
        id: EntryId([n; 16]),
        event: Event::Changed(Changed::Trust),
        retain_until_ms: until_ms,
        document: Some(DocumentVersion {
            kind: DocumentKind::Trust,
            name: "reference/a".to_owned(),
            version,
            deleted,
            content_of: None,
        }),
    }
}

fn known(view: &View) -> Option<(u64, bool)> {
    view.document(DocumentKind::Trust, "reference/a")
        .map(|(statement, _)| (statement.version, statement.deleted))
}

#[test]
fn l22_the_last_version_of_a_document_is_kept_for_ever_and_the_earlier_ones_are_not() {
    let mut view = View::default();
    view.apply(Position(1), version(1, 1, false, 100));
    view.apply(Position(2), version(2, 2, false, 200));
    assert_eq!(known(&view), Some((2, false)));
    assert_eq!(view.forget(199), [], "others may not have read it yet");
    assert_eq!(view.forget(200), [Position(1)]);
    assert_eq!(view.forget(i64::MAX >> 12), []);
    view.apply(Position(3), version(3, 3, true, 300));
    assert_eq!(view.forget(300), [Position(2)]);
    assert_eq!(view.forget(i64::MAX >> 12), []);
    assert_eq!(known(&view), Some((3, true)), "a deletion too");
    let missing = view.missing_from(&HashSet::new());
    assert_eq!(missing, [version(3, 3, true, 300)], "a store that lost it");
    assert!(view.matters(&missing[0], i64::MAX >> 12));
}

#[test]
fn l22_no_order_of_entries_brings_an_older_version_back() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]] {
        let mut view = View::default();
        for (position, n) in (1..).zip(order) {
            let entry = version(n, u64::from(n), n == 2, 100);
            view.apply(Position(position), entry);
        }
        assert_eq!(known(&view), Some((3, false)));
    }
    // A deletion and a writing that did not know of each other: nothing is taken until it is
    // written again.
    for deleted_first in [false, true] {
        let mut view = View::default();
        view.apply(Position(1), version(1, 4, deleted_first, 100));
        view.apply(Position(2), version(2, 4, !deleted_first, 100));
        assert_eq!(known(&view), Some((4, true)));
    }
}

#[test]
fn l22_of_a_journal_only_the_last_version_of_a_document_matters() {
    let entries = vec![
        version(2, 2, false, 100),
        version(1, 1, false, 100),
        version(3, 3, true, 100),
    ];
    assert_eq!(still_matter(entries, 100), [version(3, 3, true, 100)]);
}
