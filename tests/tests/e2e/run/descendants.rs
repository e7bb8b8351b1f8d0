//! C1: everything that a command has started ends with it, however it was started and however it
//! ends.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use sundew_tests::process::{children, signal};
use sundew_tests::until;

use super::{Place, code, gone, ids, lives, start};

/// Starts six processes that live on, each in another way, and writes their ids.
const FAMILY: &str = r#"
member() { echo 'echo $$ >> "$FOLDER/ids"; exec sleep 600'; }
deaf() { echo 'trap "" TERM HUP INT; echo $$ >> "$FOLDER/ids"; while :; do sleep 600; done'; }
sh -c "$(member)" &
sh -c "$(deaf)" &
setsid sh -c "$(member)" &
(sh -c "$(member)" &)
(setsid sh -c "$(deaf)" > /dev/null &)
nohup setsid sh -c "(sh -c '$(member)' &)" > /dev/null 2>&1
while [ "$(cat "$FOLDER/ids" | wc -l)" -lt 6 ]; do sleep 0.01; done
echo up
"#;

/// How a run ends, and what its exit code is then.
type End = (&'static str, fn(&Place, &Child), &'static str, Option<i32>);

const ENDS: [End; 6] = [
    ("the command ends", |_, _| {}, "exit 7", Some(7)),
    (
        "the task is revoked",
        |place, _| place.revoke(),
        "wait",
        Some(143),
    ),
    (
        "the supervisor is killed",
        |_, child| signal(supervisor(child), Signal::KILL),
        "wait",
        Some(137),
    ),
    // A stopped one would end nothing any more, and the command may stop it.
    (
        "the supervisor is stopped",
        |_, child| signal(supervisor(child), Signal::STOP),
        "wait",
        Some(137),
    ),
    (
        "the front is killed",
        |_, child| signal(child.id(), Signal::KILL),
        "wait",
        None,
    ),
    (
        "the group of the front is killed",
        |_, child| {
            let group = Pid::from_child(child);
            kill_process_group(group, Signal::KILL).expect("kill");
        },
        "wait",
        None,
    ),
];

/// Returns the process that has the task: the only child of the front that has a child.
fn supervisor(front: &Child) -> u32 {
    let mut all = children(front.id()).into_iter();
    all.find(|child| !children(*child).is_empty())
        .expect("a supervisor")
}

#[tokio::test]
async fn c1_everything_that_a_command_has_started_ends_with_it() {
    let place = Place::new().await;
    for (how, end, last, expected) in ENDS {
        let _ = std::fs::remove_file(place.path("ids"));
        let mut run = place.script(&[], &format!("{FAMILY}{last}"));
        let (mut child, _output) = start(&mut run);
        let family = ids(&place.path("ids"));
        assert_eq!(family.len(), 6);
        end(&place, &child);
        assert_eq!(code(&mut child).await, expected, "{how}");
        gone(&family, how).await;
    }
}

/// The same where the command is in a terminal's job: nothing in the job outlives it either.
#[tokio::test]
async fn c1_a_killed_job_of_a_terminal_leaves_nothing_behind() {
    let place = Place::new().await;
    let terminal = sundew_tests::terminal::Terminal::open();
    let run = place.run(&[], &["sh", "-c", &format!("{FAMILY}wait")]);
    let child = terminal.start(&run);
    terminal.shows("up", 1).await;
    let family = ids(&place.path("ids"));
    assert_eq!(family.len(), 6);
    kill_process_group(Pid::from_child(&child), Signal::KILL).expect("kill");
    gone(&family, "the job is killed").await;
    let mut child = child;
    assert_eq!(child.wait().expect("wait").signal(), Some(9));
}

/// A front that is killed takes its task along, and not only after the grace.
#[tokio::test]
async fn c1_the_task_of_a_killed_front_ends_within_a_second() {
    let place = Place::new().await;
    let (mut child, _output) = start(&mut place.script(&[], "echo up; sleep 600"));
    child.kill().expect("kill");
    child.wait().expect("wait");
    let begun = Instant::now();
    until("the task has ended", || async {
        !place.outcomes().is_empty()
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{begun:?}");
    assert_eq!(place.outcomes(), ["canceled"]);
}

/// What follows itself faster than anybody can look is gone when the run has ended.
#[tokio::test]
async fn c1_a_process_that_starts_its_own_successor_is_stopped() {
    let place = Place::new().await;
    let chain = place.path("chain");
    std::fs::write(&chain, "touch \"$FOLDER/alive\"\nsh \"$0\" &\n").expect("script");
    let script = "sh \"$FOLDER/chain\"; echo up";
    let (mut child, _output) = start(&mut place.script(&[], script));
    assert_eq!(code(&mut child).await, Some(0));
    let alive = place.path("alive");
    // A process that was killed may have had its file open.
    let _ = std::fs::remove_file(&alive);
    let looked = Instant::now();
    while looked.elapsed() < Duration::from_millis(300) {
        assert!(!alive.exists(), "the chain goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a shell had started before it became `sundew run` is none of its business.
#[tokio::test]
async fn c1_what_was_there_before_is_left_alone() {
    let place = Place::new().await;
    let run = place.run(&[], &["true"]);
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "sleep 600 & echo $! > \"$FOLDER/ids\"; exec \"$@\"",
        "sh",
    ]);
    shell.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        shell.env(name, value.expect("value"));
    }
    assert!(shell.status().expect("run").success());
    let [other] = ids(&place.path("ids"))[..] else {
        panic!("no id")
    };
    assert!(lives(other));
    sundew_tests::process::end(other);
}

/// In a container `sundew run` is the process that has to wait for all orphans.
#[tokio::test]
async fn c1_as_the_first_process_of_a_container_it_waits_for_orphans() {
    let place = Place::new().await;
    let script = r#"
echo $PPID
for orphan in 1 2 3 4 5; do (setsid true > /dev/null &); done
zombies() { cat /proc/[0-9]*/stat 2> /dev/null | grep -c ') Z '; }
while [ "$(zombies)" -gt 0 ]; do sleep 0.05; done
kill -0 1
"#;
    let run = place.run(&[], &["sh", "-c", script]);
    let mut container = Command::new("unshare");
    container.args(["--map-root-user", "--pid", "--fork", "--mount-proc", "--"]);
    container.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        container.env(name, value.expect("value"));
    }
    let mut child = container.spawn().expect("unshare");
    assert_eq!(code(&mut child).await, Some(0));
}

/// The command is in a control group of its own exactly if one may be made here.
#[tokio::test]
async fn c1_the_command_has_a_control_group_where_one_may_be_made() {
    let place = Place::new().await;
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    let script = "cat /proc/self/cgroup > \"$FOLDER/cgroup\"";
    let mut run = place.script(&[], script);
    assert!(run.status().expect("run").success());
    let found = std::fs::read_to_string(place.path("cgroup")).expect("cgroup");
    let name = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("0::"));
        line.unwrap_or_default().to_owned()
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mount = mounts
        .lines()
        .find(|line| line.starts_with("cgroup2 "))
        .and_then(|line| line.split(' ').nth(1));
    let probe = mount.map(|mount| format!("{mount}{}/sundew-test", name(&own)));
    let may = probe.is_some_and(|probe| {
        let made = std::fs::create_dir(&probe).is_ok();
        made && std::fs::remove_dir(&probe).is_ok()
    });
    assert_eq!(found != own, may, "{found}");
    if may {
        assert!(name(&found).contains("/sundew-run-"), "{found}");
        let folder = format!("{}{}", mount.expect("mount"), name(&found));
        assert!(!std::path::Path::new(&folder).exists(), "{folder} is left");
    }
}

/// A process group of its own keeps `kill 0` of a command within the command.
#[tokio::test]
async fn c1_without_a_terminal_the_command_is_in_a_group_of_its_own() {
    let place = Place::new().await;
    let run = place.run(&[], &["sh", "-c", "trap 'exit 9' TERM; kill 0; sleep 600"]);
    let mut caller = Command::new("setsid");
    caller.args(["sh", "-c", "trap 'exit 8' TERM; \"$@\"; exit $?", "sh"]);
    caller.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        caller.env(name, value.expect("value"));
    }
    let mut child = caller.spawn().expect("setsid");
    assert_eq!(code(&mut child).await, Some(9));
}
