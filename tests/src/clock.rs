//! A wall clock that a test can set, for one process: libfaketime of Debian's package.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The clock of a process.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Makes a clock that is right, and keeps its offset in a file in this folder.
    pub fn in_folder(folder: &Path) -> Self {
        let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(|d| PathBuf::from(format!("{d}/faketime/libfaketime.so.1")))
            .into_iter()
            .find(|path| path.exists())
            .expect("libfaketime is not installed: run ./tests/run");
        let clock = Self {
            library,
            offset: folder.join("faketime"),
        };
        clock.set(0);
        clock
    }

    /// Sets the clock to so many seconds after the true time, or before it.
    pub fn set(&self, seconds: i64) {
        // Whoever reads meanwhile must not find an empty file.
        let fresh = self.offset.with_extension("fresh");
        std::fs::write(&fresh, format!("{seconds:+}")).expect("offset");
        std::fs::rename(fresh, &self.offset).expect("offset");
    }

    /// Returns a command that runs the binary under test with this clock. Its monotonic clock is
    /// true.
    pub fn command(&self) -> Command {
        let mut command = Command::new(crate::sundew());
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}
