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
    folder: PathBuf,
    /// The folder, if it goes with this value.
    _own: Option<TempDir>,
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
        let own = tempfile::tempdir().expect("folder");
        let mut pod = Self::within(own.path().to_owned(), user);
        pod._own = Some(own);
        pod
    }

    /// A container as [`Self::new`] makes one, in a folder that outlives this value.
    pub fn within(folder: PathBuf, user: u32) -> Self {
        let root = folder.join("root");
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
        // The folders of a container runtime are not seen by others; what is in an image is.
        for folder in [&folder, &root] {
            set_mode(folder, 0o755);
        }
        let mut pod = Self {
            folder,
            _own: None,
            user,
            volumes: Vec::new(),
        };
        pod.mount("ro", &crate::sundew(), "/sundew");
        pod
    }

    /// Mounts a folder or file, which has the modes that it has.
    pub fn mount(&mut self, way: &'static str, from: &Path, to: &str) {
        let place = self.folder.join("root").join(&to[1..]);
        if from.is_dir() {
            std::fs::create_dir_all(&place).expect("place");
        } else if !place.exists() {
            std::fs::create_dir_all(place.parent().expect("parent")).expect("place");
            std::fs::write(&place, "").expect("place");
        }
        self.volumes.push((way, from.to_owned(), to.to_owned()));
    }

    /// Mounts a projection of these files.
    pub fn project(&mut self, at: &str, mode: u32, files: &[(&str, &[u8])]) {
        let volume = self.fresh();
        project(&volume, self.user, mode, files);
        self.mount("ro", &volume, at);
    }

    /// Mounts an empty volume that the container may write. Returns where it is outside.
    pub fn volume(&mut self, at: &str) -> PathBuf {
        let volume = self.fresh();
        empty_volume(&volume, self.user);
        self.mount("rw", &volume, at);
        volume
    }

    fn fresh(&self) -> PathBuf {
        let number = self.volumes.len();
        self.folder.join(format!("volume-{number}"))
    }

    /// A command that enters the container and becomes the program that follows, with an environment
    /// of its own.
    pub fn command(&self) -> Command {
        let volumes: String = self
            .volumes
            .iter()
            .map(|(way, from, to)| format!("{way} {} {to}\n", from.display()))
            .collect();
        let mut command = Command::new("unshare");
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                ENTER,
                "sh",
            ])
            .arg(self.folder.join("root"))
            .arg(self.user.to_string())
            .arg(volumes);
        command
    }
}

/// Makes a ConfigMap, a Secret, or a projection of several, as a kubelet does: files of this mode
/// behind a link that is replaced as a whole, owned by root, with `fsGroup` as their group. A kubelet
/// lets that group read each file, whatever the mode is.
pub fn project(volume: &Path, group: u32, mode: u32, files: &[(&str, &[u8])]) {
    let data = volume.join("..2026_11_27");
    std::fs::create_dir_all(&data).expect("volume");
    for (name, content) in files {
        let path = data.join(name);
        std::fs::write(&path, content).expect("file");
        set_mode(&path, mode | 0o440);
        chown(&path, Some(0), Some(group)).expect("tests run as root");
        symlink(Path::new("..data").join(name), volume.join(name)).expect("link");
    }
    symlink("..2026_11_27", volume.join("..data")).expect("link");
    for folder in [volume, &data] {
        set_mode(folder, 0o2750);
        chown(folder, Some(0), Some(group)).expect("tests run as root");
    }
}

/// Makes an empty volume: an `emptyDir`, or a claim of a StatefulSet, of which `fsGroup` is the
/// group.
pub fn empty_volume(volume: &Path, group: u32) {
    std::fs::create_dir_all(volume).expect("volume");
    set_mode(volume, 0o2775);
    chown(volume, Some(0), Some(group)).expect("tests run as root");
}

/// Makes a volume that Docker fills from an image: it belongs to the user to whom the folder in the
/// image belongs.
pub fn owned_volume(volume: &Path, user: u32) {
    std::fs::create_dir_all(volume).expect("volume");
    set_mode(volume, 0o755);
    chown(volume, Some(user), Some(user)).expect("tests run as root");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}
