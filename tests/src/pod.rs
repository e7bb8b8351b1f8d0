//! A container as a kubelet starts one: a root that cannot be written, a user without rights, and
//! volumes with the owners and modes that Kubernetes gives them.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// User and group of the broker's container, and the `fsGroup` of its pod.
pub const USER: u32 = 65532;

/// Mounts what the container has, and goes into it: the root is `$1`, user and group are `$2`, and
/// each volume is a line of `$3`: `ro` or `rw`, where it comes from, and where it is mounted. The
/// rest is the command. Nothing of this is seen outside, and all of it ends with the command.
const ENTER: &str = r#"
root=$1 user=$2 volumes=$3
shift 3
mount --bind "$root" "$root"
for system in usr bin lib lib64; do
  if [ -L "/$system" ]; then continue; fi
  if [ -d "/$system" ]; then mount --rbind -o ro "/$system" "$root/$system"; fi
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
printf '%s\n' "$volumes" | while read -r way from to; do
  [ -n "$to" ] || continue
  mount --bind "$from" "$root$to"
  mount -o "remount,bind,nosuid,nodev,$way" "$root$to"
done
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user:$user" --groups="$user" "$root" "$@"
"#;

/// A container that can be started.
pub struct Pod {
    folder: TempDir,
    user: u32,
    volumes: Vec<(&'static str, PathBuf, String)>,
}

impl Default for Pod {
    fn default() -> Self {
        Self::new(USER)
    }
}

impl Pod {
    /// A container of this user and group, which is the pod's `fsGroup` too, with the programs of
    /// this machine and the binary under test as `/sundew`.
    pub fn new(user: u32) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().join("root");
        for name in ["usr", "proc", "dev", "bin", "lib", "lib64", "etc"] {
            let machine = Path::new("/").join(name);
            match std::fs::read_link(&machine) {
                Ok(target) => {
                    std::fs::create_dir_all(&root).expect("root");
                    symlink(target, root.join(name)).expect("link");
                }
                Err(_) => std::fs::create_dir_all(root.join(name)).expect("folder"),
            }
        }
        std::fs::write(root.join("sundew"), "").expect("file");
        // The folders above are those of a container runtime, which others do not see.
        for folder in [folder.path(), &root] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("mode");
        }
        let mut pod = Self {
            folder,
            user,
            volumes: Vec::new(),
        };
        pod.mount("ro", &crate::sundew(), "/sundew");
        pod
    }

    /// Mounts a folder or file, which has the modes that it has.
    pub fn mount(&mut self, way: &'static str, from: &Path, to: &str) {
        let place = self.folder.path().join("root").join(&to[1..]);
        if from.is_dir() {
            std::fs::create_dir_all(&place).expect("place");
        } else if !place.exists() {
            std::fs::create_dir_all(place.parent().expect("parent")).expect("place");
            std::fs::write(&place, "").expect("place");
        }
        self.volumes.push((way, from.to_owned(), to.to_owned()));
    }

    /// Mounts a ConfigMap, a Secret, or a projection of several, as a kubelet does: files of this
    /// mode behind a link that is replaced as a whole, owned by root, with `fsGroup` as their group.
    /// It adds what `fsGroup` adds to the modes of volumes that are read only.
    pub fn project(&mut self, at: &str, mode: u32, files: &[(&str, &[u8])]) {
        let volume = self
            .folder
            .path()
            .join(format!("volume-{}", self.volumes.len()));
        let data = volume.join("..2026_11_27");
        std::fs::create_dir_all(&data).expect("volume");
        for (name, content) in files {
            let path = data.join(name);
            std::fs::write(&path, content).expect("file");
            let mode = std::fs::Permissions::from_mode(mode | 0o440);
            std::fs::set_permissions(&path, mode).expect("mode");
            chown(&path, Some(0), Some(self.user)).expect("tests run as root");
            symlink(Path::new("..data").join(name), volume.join(name)).expect("link");
        }
        symlink("..2026_11_27", volume.join("..data")).expect("link");
        for folder in [&volume, &data] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o2770))
                .expect("mode");
            chown(folder, Some(0), Some(self.user)).expect("tests run as root");
        }
        self.mount("ro", &volume, at);
    }

    /// Mounts an empty volume that the container may write: an `emptyDir`, or a claim of a
    /// StatefulSet, of which `fsGroup` is the group. Returns where it is outside.
    pub fn volume(&mut self, at: &str) -> PathBuf {
        let volume = self
            .folder
            .path()
            .join(format!("volume-{}", self.volumes.len()));
        std::fs::create_dir_all(&volume).expect("volume");
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2775)).expect("mode");
        chown(&volume, Some(0), Some(self.user)).expect("tests run as root");
        self.mount("rw", &volume, at);
        volume
    }

    /// A command that enters the container and becomes the program that follows.
    pub fn command(&self) -> Command {
        let volumes: String = self
            .volumes
            .iter()
            .map(|(way, from, to)| format!("{way} {} {to}\n", from.display()))
            .collect();
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                ENTER,
                "sh",
            ])
            .arg(self.folder.path().join("root"))
            .arg(self.user.to_string())
            .arg(volumes);
        command
    }
}
