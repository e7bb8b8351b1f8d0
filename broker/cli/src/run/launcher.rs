//! The launcher: the process that becomes the command.
//!
//! A new process has few descriptors, so what the command is given has low numbers there, which a
//! shell can name. The kernel kills the process when the supervisor dies.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::given::Form;
use super::{control, signals};

/// Plays the launcher's part: becomes the command, or says why not.
pub(super) fn launch() -> ExitCode {
    // Whoever cannot be told has gone.
    let Ok(supervisor) = control::given() else {
        return ExitCode::FAILURE;
    };
    let error = match become_command() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let number = error.raw_os_error().unwrap_or_default();
    let _ = control::send(supervisor, &number.to_ne_bytes(), &[]);
    ExitCode::FAILURE
}

fn become_command() -> io::Result<std::convert::Infallible> {
    let (message, mut descriptors) = control::receive(rustix::stdio::stdin())?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let message = String::from_utf8_lossy(&message);
    let mut lines = message.lines();
    let supervisor = lines.next().and_then(|line| line.parse().ok());
    // The supervisor may have died before the kernel was asked to watch it.
    if supervisor != getppid().map(|pid| pid.as_raw_pid()) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    signals::unblock()?;
    let stdin = descriptors.pop().ok_or(io::ErrorKind::BrokenPipe)?;
    rustix::stdio::dup2_stdin(&stdin)?;
    drop(stdin);
    let mut words = std::env::args_os().skip(1);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    for (line, descriptor) in lines.zip(&descriptors) {
        if let Some((form, variable)) = Form::of_line(line) {
            command.env(variable, form.name(descriptor));
        }
        fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    Err(command.exec())
}
