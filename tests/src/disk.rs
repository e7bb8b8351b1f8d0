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

    /// Lets nothing more fit, without writing, until the disk is resized again.
    pub fn close(&self) {
        let stat = rustix::fs::statvfs(self.path()).expect("statvfs");
        let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        self.resize(&used.to_string());
    }

    /// Gives the disk another size, such as `1g`.
    pub fn resize(&self, size: &str) {
        let resized = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(self.path())
            .status()
            .expect("mount");
        assert!(resized.success(), "the disk was not resized to {size}");
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
