//! The front: the process that the user starts, signals, stops and waits for.
//!
//! The front passes on what the command has not got itself, stops when the command was stopped, so
//! that a shell sees the job as stopped, and ends with the supervisor's exit code. If the supervisor
//! was killed, the front kills everything that the supervisor had started. A supervisor that was
//! stopped would end nothing any more, and no terminal stops it, so that the front kills it.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgrp, getpid, kill_process, set_child_subreaper, wait,
};

use super::cgroup::Cgroup;
use super::descendants::{self, Process};
use super::signals::{self, Received};
use super::stopping;
use super::witness::Witness;
use super::{OWN_FAILURE, SIGNALED, SUPERVISOR, control, part, say};

/// Plays the front's part to its end.
pub(super) fn front() -> ExitCode {
    match Front::start() {
        Ok(front) => front.watch(),
        Err(error) => {
            say(format_args!("{error}"));
            ExitCode::from(OWN_FAILURE)
        }
    }
}

struct Front {
    signals: SignalFd,
    /// Signals that have come and were not passed on yet.
    queue: VecDeque<Received>,
    supervisor: Pid,
    connection: OwnedFd,
    /// Present if the command is in the process group of this process.
    witness: Option<Witness>,
    /// Processes below this one that were there before, for instance because a shell became this
    /// process.
    before: HashSet<Process>,
    left: Left,
}

/// What is to be removed if the supervisor cannot.
#[derive(Default)]
struct Left {
    folders: Vec<PathBuf>,
    cgroup: Option<Cgroup>,
}

impl Front {
    fn start() -> io::Result<Self> {
        super::close_to_others()?;
        let signals = signals::receive()?;
        set_child_subreaper(Some(getpid()))?;
        let before = descendants::below(getpid(), &HashSet::new());
        let has_terminal = File::open("/dev/tty").is_ok();
        let witness = has_terminal.then(Witness::start).transpose()?;
        let (connection, theirs) = control::pair()?;
        let supervisor = {
            use std::os::unix::process::CommandExt as _;
            part(SUPERVISOR)
                .args(std::env::args_os().skip(1))
                .stdin(Stdio::from(theirs))
                .process_group(0)
                .spawn()?
        };
        let supervisor = i32::try_from(supervisor.id()).ok().and_then(Pid::from_raw);
        let supervisor = supervisor.ok_or_else(|| io::Error::other("no process id"))?;
        let group = has_terminal.then(getpgrp).map_or(0, Pid::as_raw_pid);
        let stdin = rustix::stdio::stdin();
        control::send(&connection, group.to_string().as_bytes(), &[stdin])?;
        Ok(Self {
            signals,
            queue: VecDeque::new(),
            supervisor,
            connection,
            witness,
            before: before.into_iter().collect(),
            left: Left::default(),
        })
    }

    fn watch(mut self) -> ExitCode {
        let mut is_connected = true;
        loop {
            self.queue.extend(signals::pending(&self.signals));
            while let Some(received) = self.queue.pop_front() {
                if received.signal != Signal::CHILD {
                    self.pass_on(received);
                }
            }
            if let Some(status) = self.reap() {
                // What the supervisor has said before its end counts.
                while is_connected && self.listen() {}
                return self.end(status);
            }
            let mut sources = vec![PollFd::new(&self.signals, PollFlags::IN)];
            if is_connected {
                sources.push(PollFd::new(&self.connection, PollFlags::IN));
            }
            let heard = match poll(&mut sources, None) {
                Ok(_) => sources
                    .get(1)
                    .is_some_and(|source| !source.revents().is_empty()),
                Err(_) => false,
            };
            drop(sources);
            if heard {
                is_connected = self.listen();
            }
        }
    }

    /// Tells the supervisor of a signal, and whether the command has got it already.
    fn pass_on(&mut self, received: Received) {
        let reached = match &mut self.witness {
            Some(witness) => witness.saw(received, now()),
            None => false,
        };
        // A job that was stopped again meanwhile is not to go on.
        self.queue.extend(signals::pending(&self.signals));
        let is_over = received.signal == Signal::CONT
            && self.queue.iter().any(|later| signals::stops(later.signal));
        let reached = reached || is_over;
        let number = u8::try_from(received.signal.as_raw()).unwrap_or_default();
        let _ = control::send(&self.connection, &[number, u8::from(reached)], &[]);
    }

    /// Takes one message of the supervisor's. Returns whether there may be another one.
    fn listen(&mut self) -> bool {
        let Ok(Some(message)) = control::receive_now(&self.connection) else {
            return false;
        };
        let text = String::from_utf8_lossy(&message);
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("stopped", _) => {
                // A shell goes on when all of its job is stopped. Process 1 cannot stop.
                let _ = kill_process(getpid(), Signal::STOP);
            }
            ("folder", path) => self.left.folders.push(path.into()),
            ("cgroup", path) => self.left.cgroup = Some(Cgroup::at(path.into())),
            _ => {}
        }
        !message.is_empty()
    }

    /// Waits for every child that has ended, also for those that were adopted. Returns how the
    /// supervisor ended.
    fn reap(&self) -> Option<WaitStatus> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            if pid == self.supervisor && status.stopped() {
                let _ = kill_process(self.supervisor, Signal::KILL);
            } else if pid == self.supervisor {
                ended = Some(status);
            }
        }
        ended
    }

    /// Ends after the supervisor. A supervisor that ended by itself has left nothing.
    fn end(self, status: WaitStatus) -> ExitCode {
        drop((self.witness, self.connection));
        if let Some(code) = status.exit_status() {
            stopping::kill_below(getpid(), &self.before, None);
            return ExitCode::from(u8::try_from(code).unwrap_or(OWN_FAILURE));
        }
        say(format_args!(
            "the supervisor of the task was killed or stopped; killing the command. The task ends \
             when its grace is over"
        ));
        stopping::kill_below(getpid(), &self.before, self.left.cgroup.as_ref());
        for folder in &self.left.folders {
            let _ = std::fs::remove_dir_all(folder);
        }
        // The command may have run.
        let signal = u8::try_from(Signal::KILL.as_raw()).unwrap_or_default();
        ExitCode::from(SIGNALED + signal)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "signals are matched by when they came, and no decision of a broker depends on it"
)]
fn now() -> Instant {
    Instant::now()
}
