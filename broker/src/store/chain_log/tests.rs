use super::format::HEADER;
use super::*;

fn contents(path: &Path) -> Result<Vec<Vec<u8>>, ChainLogError> {
    let mut out = Vec::new();
    read(path, |payload| out.push(payload.to_vec()))?;
    Ok(out)
}

async fn written(path: &Path, payloads: &[&[u8]]) {
    let log = ChainLog::open(path, [0; 32], |_| {}).unwrap();
    for payload in payloads {
        log.append(payload.to_vec()).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_and_the_chain_goes_on_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    written(&path, &[b"a", b"bb"]).await;
    written(&path, &[b"ccc"]).await;
    assert_eq!(
        contents(&path).unwrap(),
        [b"a".to_vec(), b"bb".to_vec(), b"ccc".to_vec()]
    );
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    written(&path, &[b"first", b"second"]).await;
    let whole = std::fs::read(&path).unwrap();
    let first = HEADER + 4 + 5 + 32;
    for length in first..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let mut seen = Vec::new();
        drop(ChainLog::open(&path, [0; 32], |p| seen.push(p.to_vec())).unwrap());
        assert_eq!(seen, [b"first".to_vec()], "cut at {length}");
        while std::fs::metadata(&path).unwrap().len() != u64::try_from(first).unwrap()
            || ChainLog::open(&path, [0; 32], |_| {}).is_err()
        {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn t76_every_flipped_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    written(&path, &[b"first", b"second", b"third"]).await;
    let whole = std::fs::read(&path).unwrap();
    for index in 0..whole.len() {
        let mut edited = whole.clone();
        edited[index] ^= 1;
        std::fs::write(&path, &edited).unwrap();
        // A length that grows past the end looks like a torn tail: then records are missing, which
        // the next segment's or the signed head's hash shows; a changed record is never
        // accepted.
        match contents(&path) {
            Err(ChainLogError::Altered { .. }) => {}
            Ok(records) => assert!(records.len() < 3, "byte {index}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn two_processes_cannot_write_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let _held = ChainLog::open(&path, [0; 32], |_| {}).unwrap();
    assert!(matches!(
        ChainLog::open(&path, [0; 32], |_| {}),
        Err(ChainLogError::Io { .. })
    ));
}

#[tokio::test]
async fn replacing_keeps_what_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = ChainLog::open(&path, [0; 32], |_| {}).unwrap();
    log.append(b"old".to_vec()).await.unwrap();
    log.replace(vec![b"new".to_vec()]).unwrap();
    log.append(b"after".to_vec()).await.unwrap();
    assert_eq!(
        contents(&path).unwrap(),
        [b"new".to_vec(), b"after".to_vec()]
    );
}

/// A1: the reserve is for those who may use it, and what is allocated ahead outlives a restart.
#[tokio::test]
async fn a1_a_record_that_may_not_use_the_reserve_is_refused_and_others_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // More than any disk has: nothing but the reserve is left.
    let space = Arc::new(DiskSpace::new(u64::MAX));
    let open = |space: &Arc<DiskSpace>| {
        ChainLog::open_within(&path, [0; 32], Some(Arc::clone(space)), |_| {}).unwrap()
    };
    let log = open(&space);
    assert!(space.is_low());
    assert!(space.state().problem.unwrap().contains("only its reserve"));
    let others = log.submit_to(DiskShare::Unreserved, b"issue".to_vec());
    let refused = others.unwrap().await.unwrap();
    assert!(matches!(refused, Err(ChainLogError::OnlyReserve)));
    log.append(b"end".to_vec()).await.unwrap();
    drop(log);
    assert_eq!(contents(&path).unwrap(), [b"end".to_vec()]);
    std::fs::remove_file(&path).unwrap();

    let space = Arc::new(DiskSpace::new(4 << 20));
    for _ in 0..2 {
        let log = open(&space);
        assert!(!space.is_low());
        let others = log.submit_to(DiskShare::Unreserved, b"issue".to_vec());
        others.unwrap().await.unwrap().unwrap();
        drop(log);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
        let allocated = blocks * 512;
        assert!((2 << 20..4 << 20).contains(&allocated), "{allocated}");
    }
    release_ahead(&path).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
    assert!(blocks * 512 < 1 << 20);
}

/// A name alone stands for a file in the folder of this process.
#[test]
fn c6_the_folder_of_a_file_that_is_named_without_one_is_the_current_one() {
    assert!(super::file::sync_folder_of(Path::new("store.log")).is_ok());
    assert!(super::file::sync_folder_of(Path::new("/nowhere/store.log")).is_err());
}
