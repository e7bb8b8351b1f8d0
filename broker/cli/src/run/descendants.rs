//! The processes below another one, as `/proc` shows them (proc(5)).

use std::collections::{HashMap, HashSet};
use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The most processes between one and another one above it.
const DEEPEST: usize = 1024;

/// A process, as it was at one look.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// When it started, in ticks since the machine did: ids are used again.
    started: u64,
}

/// What else a look at a process shows.
struct Seen {
    process: Process,
    parent: Option<Pid>,
    has_ended: bool,
}

/// Returns the processes below `root` that have not ended, without those that are spared and what
/// is below these.
pub(super) fn below(root: Pid, spared: &HashSet<Process>) -> Vec<Process> {
    let mut children: HashMap<Pid, Vec<Seen>> = HashMap::new();
    for seen in all() {
        if let Some(parent) = seen.parent {
            children.entry(parent).or_default().push(seen);
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for seen in children.remove(&parent).unwrap_or_default() {
            if spared.contains(&seen.process) {
                continue;
            }
            parents.push(seen.process.pid);
            if !seen.has_ended {
                found.push(seen.process);
            }
        }
    }
    found
}

/// Returns a process and those above it, up to `root` and without it, if the process is below `root`
/// and has not ended.
pub(super) fn lineage(pid: Pid, root: Pid) -> Option<Vec<Process>> {
    let first = seen(pid).filter(|first| !first.has_ended)?;
    let (mut line, mut parent) = (vec![first.process], first.parent?);
    while parent != root {
        let above = seen(parent)?;
        let is_older = line
            .last()
            .is_some_and(|below| above.process.started <= below.started);
        // An id that is used again is that of a younger process.
        if !is_older || line.len() >= DEEPEST {
            return None;
        }
        line.push(above.process);
        parent = above.parent?;
    }
    Some(line)
}

/// Returns the children of a process that have ended, and that nobody has waited for.
pub(super) fn ended_children(of: Pid) -> HashSet<Process> {
    let children = all().filter(|seen| seen.has_ended && seen.parent == Some(of));
    children.map(|seen| seen.process).collect()
}

impl Process {
    /// Tells whether it had started at this time, in ticks since the machine did.
    pub(super) fn started_by(self, ticks: i64) -> bool {
        i64::try_from(self.started).is_ok_and(|started| started <= ticks)
    }

    /// Sends a signal to this very process, if it is there still.
    pub(super) fn send(self, signal: Signal) {
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(process) => {
                let is_same = seen(self.pid).is_some_and(|now| now.process == self);
                if is_same {
                    let _ = pidfd_send_signal(process, signal);
                }
            }
            // A sandbox may know no such descriptors.
            Err(Errno::NOSYS | Errno::PERM) => drop(kill_process(self.pid, signal)),
            Err(_) => {}
        }
    }
}

fn all() -> impl Iterator<Item = Seen> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        seen(Pid::from_raw(pid)?)
    })
}

fn seen(pid: Pid) -> Option<Seen> {
    let text = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let mut seen = parse(pid, &String::from_utf8_lossy(&text))?;
    // The first thread of a process may end before the others.
    seen.has_ended &=
        fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).map_or(0, Iterator::count) <= 1;
    Some(seen)
}

/// Reads a line of `/proc/<pid>/stat`. The name of a program may have anything in it.
fn parse(pid: Pid, stat: &str) -> Option<Seen> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let started = fields.nth(17)?.parse().ok()?;
    Some(Seen {
        process: Process { pid, started },
        parent,
        has_ended,
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::getpid;

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let line = "7 (a) Z 1 (b)) S 3 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let pid = Pid::from_raw(7).unwrap();
        let seen = parse(pid, line).unwrap();
        assert_eq!(seen.parent, Pid::from_raw(3));
        assert_eq!((seen.process.started, seen.has_ended), (4711, false));
    }

    #[test]
    fn what_is_below_is_found_and_what_is_spared_is_not() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & echo up; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let pid = Pid::from_child(&child);
        let own = below(pid, &HashSet::new());
        assert_eq!(own.len(), 1, "{own:?}");
        let all = below(getpid(), &HashSet::new());
        assert!(all.iter().any(|process| process.pid == pid) && all.contains(&own[0]));
        let shell = all.iter().find(|process| process.pid == pid).unwrap();
        let spared = below(getpid(), &HashSet::from([*shell]));
        assert!(!spared.contains(shell) && !spared.contains(&own[0]));
        own[0].send(Signal::KILL);
        assert!(child.wait().is_ok());
        assert!(below(pid, &HashSet::new()).is_empty());
    }
}
