//! A small disk that a test can fill.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk of its own, for as long as this lives.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts a disk of this size, such as `1m`.
    pub fn mount(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().expect("folder"));
        let tmpfs = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(disk.path())
            .status()
            .expect("mount");
        assert!(
            tmpfs.success(),
            "tests run as root, so that they can mount a small disk"
        );
        disk
    }

    /// Returns where the disk is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes until nothing more fits; removing the file that is returned makes room again.
    pub fn fill(&self) -> PathBuf {
        let filler = self.path().join("filler");
        let mut size = 1 << 20;
        let file = std::fs::File::create(&filler).expect("filler");
        while size > 0 {
            if std::io::Write::write_all(&mut &file, &vec![1; size]).is_err() {
                size /= 2;
            }
        }
        drop(file);
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
