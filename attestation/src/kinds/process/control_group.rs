//! The control group of a process (cgroups(7)), as far as root has written its path.
//!
//! I3: whoever was handed a part of the tree names what lies in it: a user below `user@UID.service`,
//! a container below its own group, a service below a unit with `Delegate=`. So a path is read from
//! the root, and no further than to the first name that is a unit's or a container's.

/// The types of units that processes are in (systemd.unit(5)).
const UNIT_TYPES: [&str; 5] = ["mount", "scope", "service", "socket", "swap"];

/// The longest name of a unit, in bytes.
const MAX_UNIT: usize = 255;

/// The names that runtimes put before the id of a container, where systemd makes its group: `docker`
/// for `docker-<id>.scope`. Monitors of containers, such as `crio-conmon-<id>.scope`, are none.
const RUNTIMES: [&str; 5] = ["cri-containerd", "crio", "docker", "libpod", "nerdctl"];

/// What root has written about a process in the path of its control group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ControlGroup<'a> {
    /// The id of the outermost container that a container runtime of the host has made: 64
    /// lower-case hexadecimal digits.
    pub container_id: Option<&'a str>,
    /// The unit of the host's systemd.
    pub systemd_unit: Option<&'a str>,
}

impl<'a> ControlGroup<'a> {
    /// Reads a path, such as `/system.slice/agent.service`.
    ///
    /// A path that does not begin at the root says nothing: one with `..` comes from a reader in a
    /// control group namespace of its own (cgroup_namespaces(7)).
    #[must_use]
    pub fn of(path: &'a str) -> Self {
        let segments: Vec<&str> = match path.strip_prefix('/') {
            Some(path) => path.split('/').collect(),
            None => return Self::default(),
        };
        if segments.iter().any(|name| matches!(*name, "" | "." | "..")) {
            return Self::default();
        }
        let slices = segments.iter().take_while(|name| is_slice(name)).count();
        let (slices, rest) = segments.split_at(slices);
        let systemd_unit = rest.first().and_then(|name| unit(name));
        let container_id = match (slices, rest) {
            ([], _) => of_cgroupfs(rest),
            // containerd without `SystemdCgroup` under a kubelet that has systemd make the groups.
            (["system.slice"], ["containerd.service", name, ..]) => of_colons(name),
            _ => None,
        };
        Self {
            container_id: container_id.or_else(|| of_scope(rest.first()?)),
            systemd_unit,
        }
    }
}

/// Returns the path that says most about a process, of the text of `/proc/<pid>/cgroup`
/// (cgroups(7)): systemd's own hierarchy, or the unified one, or else what all others agree on.
#[must_use]
pub fn path_of(text: &str) -> Option<&str> {
    let lines = || {
        text.lines().filter_map(|line| {
            let (_, line) = line.split_once(':')?;
            line.split_once(':')
        })
    };
    let below_root = |name: &str| lines().find(|(of, path)| *of == name && *path != "/");
    if let Some((_, path)) = below_root("name=systemd").or_else(|| below_root("")) {
        return Some(path);
    }
    let mut others = lines().map(|(_, path)| path).filter(|path| *path != "/");
    match others.next() {
        None => lines().next().map(|(_, path)| path),
        Some(first) => others.all(|path| path == first).then_some(first),
    }
}

/// Returns whether a registration can pin a unit of this name. The number of a session is only the
/// order in which users have logged in.
#[must_use]
pub fn can_pin(name: &str) -> bool {
    unit(name) == Some(name) && !name.starts_with("session-")
}

/// Returns whether a text is the id of a container.
#[must_use]
pub fn is_container_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_slice(segment: &str) -> bool {
    let name = segment.strip_prefix('_').unwrap_or(segment);
    matches!(split_unit(name), Some((stem, "slice")) if !stem.contains('@'))
}

/// The unit that a group is named for. A name that the kernel could take for one of its own files
/// has an underscore before it.
fn unit(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('_').unwrap_or(segment);
    let (stem, kind) = split_unit(name)?;
    // `user@.service` is the template of units, and no unit.
    let is_template = stem.split_once('@').is_some_and(|(_, of)| of.is_empty());
    (UNIT_TYPES.contains(&kind) && !is_template).then_some(name)
}

/// Splits the name of a unit before its type, if the name is a valid one.
fn split_unit(name: &str) -> Option<(&str, &str)> {
    let (stem, kind) = name.rsplit_once('.')?;
    let is_valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let stands = !stem.is_empty() && !stem.starts_with('@') && stem.chars().all(is_valid);
    (stands && name.len() <= MAX_UNIT).then_some((stem, kind))
}

/// `docker-<id>.scope`.
fn of_scope(segment: &str) -> Option<&str> {
    let (runtime, id) = segment.strip_suffix(".scope")?.rsplit_once('-')?;
    (RUNTIMES.contains(&runtime) && is_container_id(id)).then_some(id)
}

/// `kubepods-pod<uid>.slice:cri-containerd:<id>`, as a runtime names a group by itself that it was
/// to ask systemd for.
fn of_colons(segment: &str) -> Option<&str> {
    let (slice, container) = segment.split_once(':')?;
    let (runtime, id) = container.split_once(':')?;
    let stands = is_slice(slice) && RUNTIMES.contains(&runtime) && is_container_id(id);
    stands.then_some(id)
}

/// The places that runtimes have of their own at the root, where they make groups by themselves.
fn of_cgroupfs<'a>(path: &[&'a str]) -> Option<&'a str> {
    let id = match path {
        // Below the group of Amazon ECS are its tasks, and below a task is what Docker runs for it.
        ["docker", id, ..] | ["ecs", _, id, ..] => id,
        // With a pod between them, or without.
        ["libpod_parent", group, ..] if group.starts_with("libpod-") => {
            group.strip_prefix("libpod-")?
        }
        ["libpod_parent", pod, group, ..] if is_container_id(pod) => {
            group.strip_prefix("libpod-")?
        }
        // A kubelet in a container of its own has a group more.
        ["kubelet", rest @ ..] | rest if rest.first() == Some(&"kubepods") => return of_pod(rest),
        [name, ..] => return of_colons(name),
        [] => return None,
    };
    is_container_id(id).then_some(id)
}

/// `kubepods/burstable/pod<uid>/<id>`; pods of the class `Guaranteed` stand without a class.
fn of_pod<'a>(path: &[&'a str]) -> Option<&'a str> {
    let (pod, group) = match path {
        [_, "burstable" | "besteffort", pod, group, ..] | [_, pod, group, ..] => (pod, group),
        _ => return None,
    };
    let is_uid = |uid: &str| {
        (32..=36).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    };
    let id = group.strip_prefix("crio-").unwrap_or(group);
    (is_uid(pod.strip_prefix("pod")?) && is_container_id(id)).then_some(id)
}
