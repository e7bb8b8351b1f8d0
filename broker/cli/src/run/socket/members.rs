//! The processes of the task.

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, getpid};

use crate::run::descendants::{Process, lineage};

/// Who is of the task: what is below the supervisor, and in the command's control group where it has
/// one. The supervisor adopts every orphan (`PR_SET_CHILD_SUBREAPER`), so nobody leaves but by
/// ending; and nobody comes to be below it but by being started there, whereas any process of the
/// same user may move itself into a group of that user.
#[derive(Default)]
pub(in crate::run) struct Members {
    group: OnceLock<String>,
    connections: Mutex<HashMap<Process, usize>>,
}

impl Members {
    /// Takes only those from now on that are in the command's control group, or below it.
    pub(in crate::run) fn stay_in_group_of(&self, command: Pid, name: &str) {
        let group = group_of(command).and_then(|group| group_named(&group, name));
        if let Some(group) = group {
            let _ = self.group.set(group);
        }
    }

    /// Returns the process with this id, if it is of the task now.
    pub(super) fn find(&self, pid: i32) -> Option<Process> {
        let pid = Pid::from_raw(pid.max(0))?;
        let line = lineage(pid, getpid())?;
        let is_in_group = self.group.get().is_none_or(|group| {
            group_of(pid).is_some_and(|own| {
                own.strip_prefix(group.as_str())
                    .is_some_and(|below| below.is_empty() || below.starts_with('/'))
            })
        });
        // What was read one after the other was all true at once: ids are used again.
        let is_same = lineage(pid, getpid())? == line;
        line.first().copied().filter(|_| is_in_group && is_same)
    }

    /// Counts a connection of a process; tells whether it has a place.
    pub(super) fn take_place(&self, process: Process, most: usize) -> bool {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = connections.entry(process).or_default();
        if *count >= most {
            return false;
        }
        *count = count.saturating_add(1);
        true
    }

    /// Gives a place back.
    pub(super) fn give_place(&self, process: Process) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&process) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                connections.remove(&process);
            }
        }
    }
}

/// Returns the path of a process's control group, as this process sees it.
fn group_of(pid: Pid) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_pid())).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.to_owned())
}

/// Returns the path as far as the group with this name.
fn group_named(path: &str, name: &str) -> Option<String> {
    let mut found = String::new();
    for part in path.split('/').skip(1) {
        found.push('/');
        found.push_str(part);
        if part == name {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn c5_a_process_below_is_of_the_task_and_no_other_one_is() {
        let members = Members::default();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        assert_eq!(members.find(id).map(|found| found.pid), Pid::from_raw(id));
        let parent = rustix::process::getppid().unwrap().as_raw_pid();
        for other in [0, -1, 1, parent, getpid().as_raw_pid()] {
            assert_eq!(members.find(other), None, "{other}");
        }
        child.kill().unwrap();
        // It has ended, and nobody has waited for it.
        let ended = std::iter::repeat_with(|| members.find(id)).take(100_000);
        assert!(ended.into_iter().any(|found| found.is_none()));
        child.wait().unwrap();
    }

    #[test]
    fn c5_the_group_of_the_command_ends_with_its_own_name() {
        let own = "/user.slice/sundew-run-7";
        for path in [own.to_owned(), format!("{own}/below/sundew-run-7")] {
            assert_eq!(group_named(&path, "sundew-run-7").as_deref(), Some(own));
        }
        assert_eq!(group_named("/sundew-run-71", "sundew-run-7"), None);
    }

    #[test]
    fn p12_a_process_has_so_many_connections() {
        let members = Members::default();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = members.find(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(members.take_place(process, 2) && members.take_place(process, 2));
        assert!(!members.take_place(process, 2));
        members.give_place(process);
        assert!(members.take_place(process, 2));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
