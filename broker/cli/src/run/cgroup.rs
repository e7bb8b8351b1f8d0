//! A control group (version 2) of the command's own, where this process may make one: what is in it
//! can be killed at once, however fast it multiplies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, getpid};

/// A control group below the one of this process.
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one, if the kernel and the owner of this process's own group let it.
    pub(super) fn make() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = place(&own, &mounts)?;
        let folder = own.join(format!("sundew-run-{}", getpid().as_raw_pid()));
        fs::create_dir(&folder).ok()?;
        let cgroup = Self(folder);
        if cgroup.0.join("cgroup.kill").exists() {
            return Some(cgroup);
        }
        cgroup.remove();
        None
    }

    /// Returns the control group at this path.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns its own name within the one above it.
    pub(super) fn name(&self) -> &str {
        self.0
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// Moves a process into the group; what it starts is in it too.
    pub(super) fn take(&self, pid: Pid) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.as_raw_pid().to_string())
    }

    /// Kills everything in the group and in those below it.
    pub(super) fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }

    /// Removes the group, which must be empty.
    pub(super) fn remove(&self) {
        remove(&self.0);
    }
}

/// Removes a group after those below it.
fn remove(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Returns the folder of this process's group, from `/proc/self/cgroup` and `/proc/self/mountinfo`
/// (cgroups(7), proc(5)).
fn place(own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(mount).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
24 1 0:22 / /sys rw - sysfs sysfs rw
30 24 0:26 /system.slice /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
31 24 0:27 / /tmp rw - tmpfs tmpfs rw";

    #[test]
    fn the_group_is_found_where_it_is_mounted() {
        let own = "1:name=systemd:/x\n0::/system.slice/agent.service\n";
        let place = place(own, MOUNTS).unwrap();
        assert_eq!(place, Path::new("/sys/fs/cgroup/agent.service"));
    }

    #[test]
    fn a_group_that_is_not_mounted_is_no_group() {
        assert_eq!(place("0::/user.slice\n", MOUNTS), None);
        assert_eq!(place("0::/system.slice\n", ""), None);
        assert_eq!(place("1:cpu:/\n", MOUNTS), None);
    }
}
