//! Stopping everything that a command has started: SIGTERM, a grace, SIGKILL.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, waitpid};

use super::cgroup::Cgroup;
use super::command::Running;
use super::descendants::{Process, below, ended_children};
use super::say;

/// How often it is looked what is left.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is killed again what multiplies faster than it can be looked at.
const KILLED_AT_MOST: u32 = 500;
/// When the user is told what is waited for.
const TOLD_AFTER: u32 = 50;

/// Asks the command and everything that it has started to end, and kills what is left after the
/// grace, or as soon as `hurry` is there.
pub(super) async fn stop(
    command: &mut Running,
    cgroup: Option<&Cgroup>,
    grace: Duration,
    hurry: impl Future<Output = ()>,
) {
    let nothing = HashSet::new();
    if !grace.is_zero() {
        for process in below(getpid(), &nothing) {
            process.send(Signal::TERM);
            // Who is stopped cannot end.
            process.send(Signal::CONT);
        }
    }
    let empty = async {
        for look in 0_u32.. {
            command.look();
            reap(&nothing, command.unreaped());
            let left = below(getpid(), &nothing);
            if left.is_empty() {
                return;
            }
            if look == TOLD_AFTER {
                say(format_args!(
                    "{} processes have not ended yet; waiting for them",
                    left.len()
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        () = empty => {}
        () = hurry => {}
        () = tokio::time::sleep(grace) => {
            if !grace.is_zero() {
                say(format_args!("the command did not stop; killing it"));
            }
        }
    }
    // Also where nothing was found: a process may be hidden from this look.
    kill(getpid(), &nothing, command.unreaped(), cgroup);
    command.look();
}

/// Kills everything below a process but what is spared, and waits for what this process has to wait
/// for.
pub(super) fn kill_below(root: Pid, spared: &HashSet<Process>, cgroup: Option<&Cgroup>) {
    kill(root, spared, None, cgroup);
}

/// Kills everything below a process but what is spared. Leaves `unreaped` to be waited for.
fn kill(root: Pid, spared: &HashSet<Process>, unreaped: Option<Pid>, cgroup: Option<&Cgroup>) {
    for _ in 0..KILLED_AT_MOST {
        if let Some(cgroup) = cgroup {
            cgroup.kill();
        }
        let left = below(root, spared);
        for process in &left {
            process.send(Signal::KILL);
        }
        reap(spared, unreaped);
        if left.is_empty() {
            break;
        }
        std::thread::sleep(LOOK_EVERY / 4);
    }
    if let Some(cgroup) = cgroup {
        cgroup.remove();
    }
}

/// Waits for the children of this process that have ended.
fn reap(spared: &HashSet<Process>, unreaped: Option<Pid>) {
    for child in ended_children(getpid()) {
        if Some(child.pid) != unreaped && !spared.contains(&child) {
            let _ = waitpid(Some(child.pid), WaitOptions::NOHANG);
        }
    }
}
