//! The digest of a local process's executable.
//!
//! A8: whoever may connect to the socket chooses the file that is read for him. So one file is read
//! at a time for each user, none that is larger than [`MOST`], no further than the connection is
//! open, and the same file once for each connection.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ring::digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest executable that is read, in bytes.
const MOST: u64 = 2 << 30;

/// What tells one content of a file from another: device, inode, change time and size.
type Version = (u64, u64, i64, i64, u64);

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

    /// The lower-case hexadecimal SHA-256 of a file; nothing if it is too large or cannot be read,
    /// or if the connection is closed meanwhile. Blocking.
    pub(super) fn digest(&self, file: &File) -> Option<String> {
        let version = version(file).ok()?;
        if version.4 > MOST {
            return None;
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, digest)) = known().as_ref().filter(|(known, _)| *known == version) {
            return Some(digest.clone());
        }
        let digest = self.read(file)?;
        // A file that changed while it was read has no digest.
        if self::version(file).ok()? != version {
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

fn version(file: &File) -> io::Result<Version> {
    let metadata = file.metadata()?;
    Ok((
        metadata.dev(),
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec(),
        metadata.len(),
    ))
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
    fn a8_a_file_is_read_once_for_each_connection_and_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exe");
        std::fs::write(&path, "one").unwrap();
        let executable = Executable::default();
        let digest = || executable.digest(&File::open(&path).unwrap());
        let one = digest().unwrap();
        assert_eq!(one.len(), 64);
        let cached = executable.known.lock().unwrap().clone().unwrap();
        // What is remembered is given, and not read again.
        *executable.known.lock().unwrap() = Some((cached.0, "remembered".to_owned()));
        assert_eq!(digest().as_deref(), Some("remembered"));
        std::fs::write(&path, "another").unwrap();
        let another = digest().unwrap();
        assert!(another != one && another != "remembered");
    }

    #[test]
    fn a8_reading_is_bounded_and_ends_with_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let executable = Arc::new(Executable::default());
        let began = clock::monotonic();
        assert_eq!(executable.digest(&sparse(&folder, "huge", MOST + 1)), None);
        assert!(clock::since(began) < Duration::from_secs(1));

        let reading = Arc::clone(&executable);
        let file = sparse(&folder, "large", MOST);
        let reader = std::thread::spawn(move || reading.digest(&file));
        std::thread::sleep(Duration::from_millis(50));
        let closed = clock::monotonic();
        executable.close();
        assert_eq!(reader.join().unwrap(), None);
        assert!(clock::since(closed) < Duration::from_secs(1));
    }
}
