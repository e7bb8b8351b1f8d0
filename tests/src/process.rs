//! Running processes, and looking at them and signalling them by their ids.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) {
    kill_process(
        Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid"),
        signal,
    )
    .expect("signal");
}

/// Runs a command to its end with a text as its input.
pub fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    child
        .stdin
        .take()
        .expect("pipe")
        .write_all(input.as_bytes())
        .expect("input");
    child.wait_with_output().expect("run")
}

/// Kills a process that may have ended.
pub fn end(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Returns the ids of processes that a process has started and that have not ended.
pub fn children(pid: u32) -> Vec<u32> {
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// The CPU time of each thread of a process so far, from its schedstat (proc(5)), in nanoseconds.
pub struct CpuTime(HashMap<OsString, u64>);

impl CpuTime {
    /// Reads what a process has used so far.
    pub fn of(pid: u32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("process");
        let used = threads.flatten().filter_map(|thread| {
            // A thread that ends at this moment has none.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
            Some((thread.file_name(), nanoseconds))
        });
        Self(used.collect())
    }

    /// Returns what was used since then. What threads used that have ended since is not in it.
    pub fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(thread, now)| {
            let before = before.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(before)
        });
        Duration::from_nanos(used.sum())
    }
}

/// Returns the resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("number")
        * 1024
}
