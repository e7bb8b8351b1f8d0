//! Control groups as container runtimes, kubelets, systemd and users make them. `<id>` and `<inner>`
//! are ids of containers, `<uid>` and `<u_id>` are the UID of a pod.

use super::control_group::{ControlGroup, can_pin, path_of};

/// The text of `/proc/<pid>/cgroup`, with the container and the unit that it says.
type Case = (&'static str, Option<&'static str>, Option<&'static str>);

const CONTAINER: Option<&str> = Some("<id>");

/// Groups that container runtimes and kubelets have made as root.
const OF_RUNTIMES: [Case; 26] = [
    // Docker: both drivers, both versions, the hybrid of both, a parent of one's own, Amazon ECS.
    ("0::/docker/<id>", CONTAINER, None),
    (
        "0::/system.slice/docker-<id>.scope",
        CONTAINER,
        Some("docker-<id>.scope"),
    ),
    (
        "12:pids:/docker/<id>\n11:cpu,cpuacct:/docker/<id>\n1:name=systemd:/docker/<id>\n0::/",
        CONTAINER,
        None,
    ),
    (
        "12:rdma:/\n11:pids:/system.slice/docker-<id>.scope\n\
         1:name=systemd:/system.slice/docker-<id>.scope\n0::/",
        CONTAINER,
        Some("docker-<id>.scope"),
    ),
    (
        "4:memory:/docker/<id>\n1:name=systemd:/docker/<id>\n0::/system.slice/containerd.service",
        CONTAINER,
        None,
    ),
    // Without systemd.
    (
        "3:cpu:/docker/<id>\n2:pids:/docker/<id>\n1:cpuset:/\n0::/",
        CONTAINER,
        None,
    ),
    (
        "0::/agents.slice/docker-<id>.scope/init",
        CONTAINER,
        Some("docker-<id>.scope"),
    ),
    ("0::/ecs/2f01a3b4c5d6/<id>", CONTAINER, None),
    (
        "0::/ecstasks.slice/ecstasks-e95a40efbde84cbc8600660a109ec194.slice/docker-<id>.scope",
        CONTAINER,
        Some("docker-<id>.scope"),
    ),
    // Podman as root.
    (
        "0::/machine.slice/libpod-<id>.scope/container",
        CONTAINER,
        Some("libpod-<id>.scope"),
    ),
    (
        "0::/machine.slice/machine-libpod_pod_<inner>.slice/libpod-<id>.scope",
        CONTAINER,
        Some("libpod-<id>.scope"),
    ),
    ("0::/libpod_parent/libpod-<id>", CONTAINER, None),
    ("0::/libpod_parent/<inner>/libpod-<id>", CONTAINER, None),
    // nerdctl.
    (
        "0::/system.slice/nerdctl-<id>.scope",
        CONTAINER,
        Some("nerdctl-<id>.scope"),
    ),
    // Kubernetes where systemd makes the groups: guaranteed, burstable, best effort.
    (
        "0::/kubepods.slice/kubepods-pod<u_id>.slice/cri-containerd-<id>.scope",
        CONTAINER,
        Some("cri-containerd-<id>.scope"),
    ),
    (
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<u_id>.slice/\
         crio-<id>.scope/container",
        CONTAINER,
        Some("crio-<id>.scope"),
    ),
    (
        "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<u_id>.slice/\
         docker-<id>.scope",
        CONTAINER,
        Some("docker-<id>.scope"),
    ),
    // The same where the kubelet makes them.
    ("0::/kubepods/pod<uid>/<id>", CONTAINER, None),
    (
        "9:memory:/kubepods/burstable/pod<uid>/<id>\n\
         1:name=systemd:/kubepods/burstable/pod<uid>/<id>",
        CONTAINER,
        None,
    ),
    (
        "0::/kubepods/besteffort/pod<uid>/crio-<id>",
        CONTAINER,
        None,
    ),
    // containerd and the kubelet disagree about who makes them.
    (
        "0::/kubepods-besteffort-pod<u_id>.slice:cri-containerd:<id>",
        CONTAINER,
        None,
    ),
    (
        "12:pids:/kubepods-besteffort-pod<u_id>.slice:cri-containerd:<id>\n1:name=systemd:\
         /system.slice/containerd.service/kubepods-besteffort-pod<u_id>.slice:cri-containerd:<id>",
        CONTAINER,
        Some("containerd.service"),
    ),
    // A node of `kind`, seen from the host and from within.
    (
        "0::/docker/<id>/kubelet/kubepods/besteffort/pod<uid>/<inner>",
        CONTAINER,
        None,
    ),
    (
        "0::/kubelet/kubepods/besteffort/pod<uid>/<id>",
        CONTAINER,
        None,
    ),
    (
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<u_id>.slice/\
         cri-containerd-<id>.scope",
        CONTAINER,
        Some("cri-containerd-<id>.scope"),
    ),
    // Docker in Docker.
    (
        "0::/system.slice/docker-<id>.scope/docker/<inner>",
        CONTAINER,
        Some("docker-<id>.scope"),
    ),
];

/// Groups that systemd has made, and what is below them.
const OF_SYSTEMD: [Case; 15] = [
    ("0::/init.scope", None, Some("init.scope")),
    (
        "0::/system.slice/agent.service",
        None,
        Some("agent.service"),
    ),
    (
        "1:name=systemd:/system.slice/agent.service\n0::/system.slice/agent.service",
        None,
        Some("agent.service"),
    ),
    (
        "0::/system.slice/system-agent.slice/agent@blue.service/worker/3",
        None,
        Some("agent@blue.service"),
    ),
    ("0::/system.slice/_cpu.service", None, Some("cpu.service")),
    (
        "0::/agents.slice/run-r0123456789abcdef.scope",
        None,
        Some("run-r0123456789abcdef.scope"),
    ),
    // A unit with a container of Podman's (`--cgroups=split`) in it.
    (
        "0::/system.slice/web.service/libpod-payload-<id>",
        None,
        Some("web.service"),
    ),
    // Monitors of containers are not in the container.
    (
        "0::/machine.slice/libpod-conmon-<id>.scope",
        None,
        Some("libpod-conmon-<id>.scope"),
    ),
    (
        "0::/kubepods.slice/kubepods-pod<u_id>.slice/crio-conmon-<id>.scope",
        None,
        Some("crio-conmon-<id>.scope"),
    ),
    // Containers and virtual machines of systemd.
    (
        "0::/machine.slice/systemd-nspawn@box.service/payload/system.slice/agent.service",
        None,
        Some("systemd-nspawn@box.service"),
    ),
    (
        "0::/machine.slice/machine-qemu\\x2d1\\x2dbox.scope/libvirt/emulator",
        None,
        Some("machine-qemu\\x2d1\\x2dbox.scope"),
    ),
    // Sessions and services of users.
    (
        "0::/user.slice/user-1000.slice/session-3.scope",
        None,
        Some("session-3.scope"),
    ),
    (
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service",
        None,
        Some("user@1000.service"),
    ),
    // Podman and Docker without root.
    (
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope/container",
        None,
        Some("user@1000.service"),
    ),
    (
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-<id>.scope",
        None,
        Some("user@1000.service"),
    ),
];

/// Groups that mean nobody: of nobody's making, or named by users to look like others.
const OF_NOBODY: [&str; 22] = [
    "",
    "0::/",
    "1:name=systemd:/\n0::/",
    // LXC, whose containers have systemd themselves.
    "0::/lxc.payload.box/system.slice/agent.service",
    "0::/lxc.payload.box/system.slice/docker-<id>.scope",
    "5:pids:/lxc/box/docker/<id>\n1:name=systemd:/lxc/box/init.scope",
    // Other places, and other shapes.
    "0::/somewhere/agent.service",
    "0::/somewhere/docker/<id>",
    "0::/kubepods/burstable/<id>",
    "0::/kubepods/pod../<id>",
    "0::/docker/buildkit/<id>",
    "0::/docker/<id>0",
    "0::/docker/agent",
    "0::/<id>",
    // Templates and slices are no units.
    "0::/system.slice/agent@.service",
    "0::/system.slice/agent.slice",
    "0::/system.slice/agent .service",
    // Not from the root.
    "0::/../docker-<id>.scope",
    "0::/../../system.slice/agent.service",
    "0::/system.slice/../agent.service",
    "0::system.slice/agent.service",
    // Hierarchies that do not agree.
    "3:cpu:/docker/<id>\n2:pids:/docker/<inner>\n0::/",
];

/// What a user of the system can name, at the place that he can write to.
const HOSTILE: [&str; 10] = [
    "agent.service",
    "app.slice/agent.service",
    "system.slice/agent.service",
    "docker/<inner>",
    "docker-<inner>.scope",
    "kubepods.slice/kubepods-pod<u_id>.slice/cri-containerd-<inner>.scope",
    "kubepods/pod<uid>/<inner>",
    "kubepods-pod<u_id>.slice:cri-containerd:<inner>",
    "_agent.service",
    "x:0::/system.slice/agent.service",
];

fn filled(text: &str) -> String {
    text.replace("<id>", &"4f".repeat(32))
        .replace("<inner>", &"b1".repeat(32))
        .replace("<uid>", "2c48913c-b29f-11e7-9350-020968147796")
        .replace("<u_id>", "2c48913c_b29f_11e7_9350_020968147796")
}

fn assert_says(text: &str, container: Option<&str>, unit: Option<&str>) {
    let text = filled(text);
    let (container, unit) = (container.map(filled), unit.map(filled));
    let said = path_of(&text).map(ControlGroup::of).unwrap_or_default();
    assert_eq!(said.container_id, container.as_deref(), "{text}");
    assert_eq!(said.systemd_unit, unit.as_deref(), "{text}");
}

#[test]
fn i3_real_groups_say_what_root_has_written() {
    for (text, container, unit) in OF_RUNTIMES.into_iter().chain(OF_SYSTEMD) {
        assert_says(text, container, unit);
    }
    for text in OF_NOBODY {
        assert_says(text, None, None);
    }
}

/// I3: `systemd-run --user --unit=agent` and everything else that a user makes in his own part.
#[test]
fn i3_what_users_name_changes_nothing_of_what_is_said() {
    for name in HOSTILE {
        for (own, container, unit) in OF_RUNTIMES.into_iter().chain(OF_SYSTEMD) {
            let below = |line: &str| match line.ends_with(":/") {
                true => line.to_owned(),
                false => format!("{line}/{name}"),
            };
            let lines: Vec<_> = own.lines().map(below).collect();
            assert_says(&lines.join("\n"), container, unit);
        }
    }
}

#[test]
fn a_registration_pins_units_by_their_whole_names_and_no_sessions() {
    for name in [
        "agent.service",
        "agent@blue.service",
        "run-r1.scope",
        "user@1000.service",
    ] {
        assert!(can_pin(name), "{name}");
    }
    let bad = [
        "",
        "agent",
        "agent@.service",
        "_agent.service",
        "a/agent.service",
        "agents.slice",
    ];
    for name in bad
        .into_iter()
        .chain(["session-3.scope", " agent.service", "agent.service\n"])
    {
        assert!(!can_pin(name), "{name}");
    }
}
