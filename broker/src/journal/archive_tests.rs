use super::segment_tests::{open, rules};
use super::*;

const NOW_MS: i64 = 1_760_000_000_000;

/// A journal of so many segments before the current one.
async fn journal_of(folder: &Path, closed: i64) -> Arc<Journal> {
    let (journal, _) = open(folder);
    for n in 0..closed {
        let text = "x".repeat(1000);
        journal.write(record("x").with("text", text)).await.unwrap();
        journal.roll(NOW_MS + n * 1000).await.unwrap();
        let upkeep = Upkeep::new(Arc::clone(&journal), rules());
        upkeep.look(NOW_MS).await.unwrap();
    }
    journal
}

async fn keep(
    journal: &Arc<Journal>,
    now_ms: i64,
    change: impl FnOnce(&mut SegmentRules),
) -> Result<(), JournalError> {
    let mut rules = rules();
    change(&mut rules);
    Upkeep::new(Arc::clone(journal), rules).look(now_ms).await
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
    names.sort();
    names
}

#[tokio::test]
async fn o1_without_a_rule_every_segment_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal_of(folder.path(), 3).await;
    keep(&journal, i64::MAX, |_| {}).await.unwrap();
    assert_eq!(names(folder.path()).len(), 4);
}

#[tokio::test]
async fn o1_what_is_too_old_or_too_much_goes_oldest_first_and_the_rest_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal_of(folder.path(), 5).await;
    let by_age = |rules: &mut SegmentRules| rules.keep_for = Some(Duration::from_secs(60));
    keep(&journal, NOW_MS + 61_000, by_age).await.unwrap();
    assert_eq!(names(folder.path())[0], "00000003.journal");
    keep(&journal, NOW_MS, |rules| rules.keep_bytes = Some(2000))
        .await
        .unwrap();
    assert_eq!(names(folder.path())[0], "00000005.journal");
    keep(&journal, NOW_MS, |rules| rules.keep_bytes = Some(0))
        .await
        .unwrap();
    assert_eq!(names(folder.path()), ["00000006.journal"]);
    assert_eq!(journal.state().segments, 1);
    drop(journal);
    let extent = read_all(&[folder.path().to_owned()], |_| {}).unwrap();
    assert_eq!((extent.first, extent.last), (6, 6));
}

/// P4: a segment whose endings are not carried over yet stays, whatever is to be kept.
#[tokio::test]
async fn o1_a_segment_that_is_needed_stays() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal_of(folder.path(), 2).await;
    journal.segments().sources = 1;
    let rules = SegmentRules {
        keep_bytes: Some(0),
        ..rules()
    };
    let upkeep = Upkeep::new(Arc::clone(&journal), rules);
    let next = || upkeep.next_to_go(NOW_MS).map(|segment| segment.number);
    assert_eq!(next(), Some(1));
    journal.segments().closed.pop_front();
    assert_eq!(next(), None);
}

/// The archive and what is kept verify together, also over two file systems, and after a crash
/// between the two steps of a move.
#[tokio::test]
async fn o1_archived_segments_verify_together_with_those_that_are_kept() {
    for other in ["/tmp", "/dev/shm"] {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let archive = tempfile::tempdir_in(other).unwrap();
        let journal = journal_of(folder.path(), 3).await;
        let first = Segment::of(folder.path(), 1).path;
        std::fs::copy(first, Segment::of(archive.path(), 1).path).unwrap();
        std::fs::write(archive.path().join("00000002.new"), "torn").unwrap();
        let to = |rules: &mut SegmentRules| {
            rules.archive = Some(Archive::Folder(archive.path().to_owned()));
        };
        keep(&journal, NOW_MS, to).await.unwrap();
        assert_eq!(names(folder.path()), ["00000004.journal"]);
        journal.write(record("last")).await.unwrap();
        drop(journal);
        let both = [archive.path().to_owned(), folder.path().to_owned()];
        let mut events = Vec::new();
        let extent = read_all(&both, |record| events.push(record.event)).unwrap();
        assert_eq!((extent.first, extent.last), (1, 4));
        assert_eq!(
            events
                .iter()
                .filter(|event| *event == "segment_gone")
                .count(),
            3
        );
        // A copy that is in both folders counts once, and must be the same.
        let copy = Segment::of(folder.path(), 2).path;
        std::fs::copy(Segment::of(archive.path(), 2).path, &copy).unwrap();
        assert_eq!(read_all(&both, |_| {}).unwrap(), extent);
        std::fs::copy(Segment::of(archive.path(), 1).path, &copy).unwrap();
        read_all(&both, |_| {}).unwrap_err();
    }
}

/// Nothing that is in the archive is replaced, and what was not archived stays and is named.
#[tokio::test]
async fn o1_a_segment_that_cannot_be_archived_stays_and_is_named() {
    for other in ["/tmp", "/dev/shm"] {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let archive = tempfile::tempdir_in(other).unwrap();
        let journal = journal_of(folder.path(), 1).await;
        let others = Segment::of(archive.path(), 1).path;
        std::fs::write(&others, "of another broker").unwrap();
        let to = |folder: &Path| {
            let archive = Some(Archive::Folder(folder.to_owned()));
            move |rules: &mut SegmentRules| rules.archive = archive
        };
        for place in [archive.path(), Path::new("/nowhere")] {
            let error = keep(&journal, NOW_MS, to(place)).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("00000001.journal: segment could not be archived"));
        }
        assert_eq!(std::fs::read(&others).unwrap(), b"of another broker");
        assert_eq!(names(folder.path()).len(), 2);
    }
}

#[tokio::test]
async fn o1_a_command_gets_each_segment_and_only_its_success_removes_one() {
    let folder = tempfile::tempdir().unwrap();
    let archive = tempfile::tempdir().unwrap();
    let journal = journal_of(folder.path(), 2).await;
    let run = |script: &str| {
        let script = script.to_owned();
        let words = ["sh", "-c", &script, "archive"].map(str::to_owned);
        move |rules: &mut SegmentRules| rules.archive = Some(Archive::Command(words.to_vec()))
    };
    let error = keep(&journal, NOW_MS, run("exit 3")).await.unwrap_err();
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    assert_eq!(names(folder.path()).len(), 3);
    let script = format!("cp \"$1\" {}/", archive.path().display());
    keep(&journal, NOW_MS, run(&script)).await.unwrap();
    assert_eq!(names(folder.path()), ["00000003.journal"]);
    assert_eq!(
        names(archive.path()),
        ["00000001.journal", "00000002.journal"]
    );
}
