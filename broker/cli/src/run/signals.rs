//! The signals that `sundew run` passes on to its command.

use std::io;

use nix::sys::signal::{SigSet, Signal as Named};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::Signal;

/// What is passed on: each signal that can be blocked and that one process sends to another.
const PASSED_ON: [Named; 12] = [
    Named::SIGALRM,
    Named::SIGCONT,
    Named::SIGHUP,
    Named::SIGINT,
    Named::SIGQUIT,
    Named::SIGTERM,
    Named::SIGTSTP,
    Named::SIGTTIN,
    Named::SIGTTOU,
    Named::SIGUSR1,
    Named::SIGUSR2,
    Named::SIGWINCH,
];

/// The code of a signal that the kernel sent (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// A signal that a process got, and who sent it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Received {
    pub(super) signal: Signal,
    /// The process that sent it; 0 for the kernel, and for processes that are not to be seen here.
    pub(super) sender: u32,
    /// Whether the kernel sent it, as it sends those of the terminal.
    pub(super) is_of_kernel: bool,
}

/// Blocks the signals that are passed on, and no others that the front has blocked, in this thread
/// and in those that it starts.
pub(super) fn block() -> io::Result<()> {
    unblock()?;
    Ok(passed_on().thread_block()?)
}

/// Lets every signal act again: a new process has the mask of the one that has started it.
pub(super) fn unblock() -> io::Result<()> {
    Ok(received().thread_unblock()?)
}

/// Receives the signals that are passed on, and SIGCHLD, instead of letting them act.
pub(super) fn receive() -> io::Result<SignalFd> {
    let set = received();
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Returns the signals that have come since the last call.
pub(super) fn pending(signals: &SignalFd) -> Vec<Received> {
    let mut all = Vec::new();
    while let Ok(Some(info)) = signals.read_signal() {
        let number = i32::try_from(info.ssi_signo).unwrap_or_default();
        if let Some(signal) = Signal::from_named_raw(number) {
            all.push(Received {
                signal,
                sender: info.ssi_pid,
                is_of_kernel: info.ssi_code == SI_KERNEL,
            });
        }
    }
    all
}

/// Tells whether a signal asks a program to end.
pub(super) fn asks_to_end(signal: Signal) -> bool {
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal)
}

/// Tells whether a signal stops a program that does nothing about it.
pub(super) fn stops(signal: Signal) -> bool {
    [Signal::TSTP, Signal::TTIN, Signal::TTOU].contains(&signal)
}

fn passed_on() -> SigSet {
    PASSED_ON.into_iter().collect()
}

fn received() -> SigSet {
    passed_on() | Named::SIGCHLD
}
