//! The digest of a local process's executable.
//!
//! A8: whoever may connect to the socket chooses the file that is read for him. So one file is read
//! at a time for each user, none that is larger than [`MOST`], no further than the connection is
//! open, and the same file once for each connection.
//!
//! I3: a file that a process may write is what the process likes when it is read. So the first
//! digest of a connection is of the content that was there at the first look, and a later one counts
//! only if it is the same.

use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ring::digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::program::Version;

/// The largest executable that is read, in bytes.
const MOST: u64 = 2 << 30;

/// The digest that was read last for a connection, and what bounds the reading.
#[derive(Default)]
pub(super) struct Executable {
    known: Mutex<Option<(Version, String)>>,
    is_closed: AtomicBool,
    /// The place of the user for whom files are read.
    place: OnceLock<Arc<Semaphore>>,
}

impl Executable {
    /// Reads files at this place, which other connections of the same user share.
    pub(super) fn reads_at(&self, place: Arc<Semaphore>) {
        drop(self.place.set(place));
    }

    /// Waits for the place.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.place.get()?).acquire_owned().await.ok()
    }

    /// Ends what is being read, since nobody waits for it any more.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// The lower-case hexadecimal SHA-256 of a file whose version at the first look is given;
    /// nothing if it was changed into something else since, is too large or cannot be read, or if
    /// the connection is closed meanwhile. Blocking.
    pub(super) fn digest(&self, file: &File, at_first: Version) -> Option<String> {
        let version = Version::of(file)?;
        if version.size > MOST {
            return None;
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().clone();
        match &before {
            Some((known, digest)) if *known == version => return Some(digest.clone()),
            None if version != at_first => return None,
            _ => {}
        }
        let digest = self.read(file)?;
        // A file that changed while it was read has no digest.
        if Version::of(file)? != version || before.is_some_and(|(_, before)| before != digest) {
            return None;
        }
        *known() = Some((version, digest.clone()));
        Some(digest)
    }

    fn read(&self, file: &File) -> Option<String> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 1 << 16];
        let mut rest = file.take(MOST);
        while !self.is_closed.load(Ordering::Relaxed) {
            let count = rest.read(&mut buffer).ok()?;
            if count == 0 {
                return Some(sundew_attestation::hex(context.finish().as_ref()));
            }
            context.update(buffer.get(..count)?);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn sparse(folder: &tempfile::TempDir, name: &str, length: u64) -> File {
        let file = File::create_new(folder.path().join(name)).unwrap();
        file.set_len(length).unwrap();
        File::open(folder.path().join(name)).unwrap()
    }

    #[test]
    fn a8_a_file_is_read_once_for_each_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exe");
        std::fs::write(&path, "one").unwrap();
        let executable = Executable::default();
        let file = File::open(&path).unwrap();
        let first = Version::of(&file).unwrap();
        assert_eq!(executable.digest(&file, first).unwrap().len(), 64);
        // What is remembered is given, and not read again.
        *executable.known.lock().unwrap() = Some((first, "remembered".to_owned()));
        let again = executable.digest(&File::open(&path).unwrap(), first);
        assert_eq!(again.as_deref(), Some("remembered"));
    }

    /// I3: the same inode, as the process runs it that has written the file anew and executed it.
    #[test]
    fn i3_a_file_that_was_written_since_the_first_look_has_no_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exe");
        std::fs::write(&path, "own").unwrap();
        let open = || File::open(&path).unwrap();
        let first = Version::of(&open()).unwrap();
        let (asked, not_asked) = (Executable::default(), Executable::default());
        let own = asked.digest(&open(), first).unwrap();
        std::fs::write(&path, "trusted").unwrap();
        assert!(Version::of(&open()).unwrap().is_of_same_file(first));
        assert_eq!(not_asked.digest(&open(), first), None);
        assert_eq!(asked.digest(&open(), first), None);
        // Another name for the same content, as an update makes it go, takes nothing away.
        std::fs::write(&path, "own").unwrap();
        std::fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert_ne!(Version::of(&open()), Some(first));
        assert_eq!(asked.digest(&open(), first), Some(own));
    }

    #[test]
    fn a8_reading_is_bounded_and_ends_with_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let executable = Arc::new(Executable::default());
        let began = clock::monotonic();
        let huge = sparse(&folder, "huge", MOST + 1);
        let version = Version::of(&huge).unwrap();
        assert_eq!(executable.digest(&huge, version), None);
        assert!(clock::since(began) < Duration::from_secs(1));

        let reading = Arc::clone(&executable);
        let file = sparse(&folder, "large", MOST);
        let version = Version::of(&file).unwrap();
        let reader = std::thread::spawn(move || reading.digest(&file, version));
        std::thread::sleep(Duration::from_millis(50));
        let closed = clock::monotonic();
        executable.close();
        assert_eq!(reader.join().unwrap(), None);
        assert!(clock::since(closed) < Duration::from_secs(1));
    }
}
