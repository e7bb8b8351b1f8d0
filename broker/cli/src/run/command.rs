//! The command, from its start to its end.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpgid, getpid, kill_process, waitid,
};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use super::cgroup::Cgroup;
use super::control;
use super::given::Given;
use super::{LAUNCHER, SIGNALED, part};

/// A command that was started.
pub(super) struct Running {
    pid: Pid,
    /// The process group that gets the signals of the user's job, if the command was put into it.
    group: Option<Pid>,
    /// Whether it is in the control group that was made for it.
    pub(super) is_in_cgroup: bool,
    children: SignalStream,
    ended: Option<WaitIdStatus>,
}

/// What has happened to a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    Ended,
    Stopped,
}

impl Running {
    /// Starts a command with what it is given, in this process group or in one of its own.
    ///
    /// # Errors
    /// As the kernel says why the command cannot be started.
    pub(super) fn start(
        words: &[String],
        given: &Given,
        group: Option<Pid>,
        cgroup: Option<&Cgroup>,
    ) -> io::Result<Self> {
        let children = signal(SignalKind::child())?;
        let (here, there) = control::pair()?;
        let mut launcher: Command = part(LAUNCHER);
        launcher
            .args(words)
            .stdin(Stdio::from(there))
            .process_group(group.map_or(0, Pid::as_raw_pid));
        given.apply(&mut launcher);
        let launched = launcher.spawn()?;
        // The launcher's end is open in it alone from here on.
        drop(launcher);
        let mut running = Self {
            pid: Pid::from_child(&launched),
            group,
            is_in_cgroup: false,
            children,
            ended: None,
        };
        if let Some(cgroup) = cgroup {
            match cgroup.take(running.pid) {
                Ok(()) => running.is_in_cgroup = true,
                Err(error) => {
                    tracing::debug!(%error, "the command is in no control group of its own");
                }
            }
        }
        let stdin = rustix::stdio::stdin();
        let mut descriptors: Vec<_> = given.descriptors().map(|file| file.as_fd()).collect();
        descriptors.push(stdin);
        let message = format!("{}\n{}", getpid().as_raw_pid(), given.lines());
        control::send(&here, message.as_bytes(), &descriptors)?;
        // The connection closes when the launcher becomes the command.
        let (answer, _) = control::receive(&here)?;
        if let Ok(number) = answer.as_slice().try_into().map(i32::from_ne_bytes) {
            let _ = waitid(WaitId::Pid(running.pid), WaitIdOptions::EXITED);
            return Err(io::Error::from_raw_os_error(number));
        }
        running.look();
        Ok(running)
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the process's id for as long as nobody has waited for it.
    pub(super) fn unreaped(&self) -> Option<Pid> {
        self.ended.is_none().then_some(self.pid)
    }

    /// Sends a signal to the command, which may have got it as part of the user's job.
    pub(super) fn send(&self, signal: Signal, has_reached_job: bool) {
        let Some(pid) = self.unreaped() else {
            return;
        };
        let is_in_job = self.group.is_some() && getpgid(Some(pid)).ok() == self.group;
        if !(has_reached_job && is_in_job) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Looks whether something has happened.
    pub(super) fn look(&mut self) -> Option<Change> {
        if self.ended.is_some() {
            return Some(Change::Ended);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(self.pid), options).ok()??;
        if status.stopped() {
            return Some(Change::Stopped);
        }
        self.ended = Some(status);
        Some(Change::Ended)
    }

    /// Waits until something happens.
    pub(super) async fn changed(&mut self) -> Change {
        loop {
            if let Some(change) = self.look() {
                return change;
            }
            self.children.recv().await;
        }
    }

    /// Returns the command's own exit code, or, as shells do, 128 and the signal's number if a
    /// signal ended the command; nothing if it runs.
    pub(super) fn exit_code(&self) -> Option<u8> {
        let status = self.ended.as_ref()?;
        let signaled = || {
            let number = u8::try_from(status.terminating_signal()?).ok()?;
            SIGNALED.checked_add(number)
        };
        let exited = status
            .exit_status()
            .and_then(|code| u8::try_from(code).ok());
        exited.or_else(signaled).or(Some(1))
    }
}
