//! `sundew run`: a task that lasts as long as a command runs.
//!
//! ```text
//! front ─── supervisor ─── command ─── all that the command starts
//!   └── witness
//! ```
//!
//! The *front* is the process that the user starts, signals, stops and waits for. It holds no
//! credential. The *supervisor* has the task and is in a process group of its own, so that no signal
//! of the terminal reaches it, and a command that is stopped keeps its task. The *command* is in the
//! user's job if there is a terminal, so that the terminal does with it what it does with any
//! command, and in a process group of its own otherwise.
//!
//! Front and supervisor both adopt orphans (`PR_SET_CHILD_SUBREAPER`), so whatever the command
//! starts stays below both of them: if one is killed, the other one kills all that is left. The
//! command itself dies with the supervisor (`PR_SET_PDEATHSIG`).
//!
//! What the command starts asks the supervisor for fresh tokens and for secrets, by a socket that takes
//! processes of the task only (`socket/`).
//!
//! This program plays all parts. The name under which it was started says which one.

mod adopted;
mod cgroup;
mod command;
mod control;
mod descendants;
mod env_file;
mod front;
mod given;
mod launcher;
mod signals;
mod socket;
mod stopping;
mod supervisor;
mod user;
mod witness;

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::process::{Command, ExitCode};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

pub(crate) use supervisor::run;

/// The names under which the parts are started.
const SUPERVISOR: &str = "task-supervisor";
const LAUNCHER: &str = "task-launcher";
const WITNESS: &str = "task-witness";

/// The exit code if the task's time ran out, as of `timeout`.
const TIMED_OUT: u8 = 124;
/// The exit code for a failure of Sundew itself before the command ran.
const OWN_FAILURE: u8 = 125;
/// The exit code of `env` and of shells for a command that is there and cannot be started.
const NOT_EXECUTABLE: u8 = 126;
/// The exit code of `env` and of shells for a command that is not there.
const NOT_FOUND: u8 = 127;
/// The number that shells add to the number of the signal that ended a command.
const SIGNALED: u8 = 128;

/// Plays a part that has no command line of its own, if this process was started for one.
pub(crate) fn play_part() -> Option<ExitCode> {
    match std::env::args_os().next()?.to_str()? {
        LAUNCHER => Some(launcher::launch()),
        WITNESS => Some(witness::witness()),
        _ => None,
    }
}

/// Plays the front's part to its end. Returns nothing in the process that is the supervisor, which
/// is prepared for its part: that has to be before the process has threads.
pub(crate) fn enter() -> Option<ExitCode> {
    if std::env::args_os().next().as_deref() != Some(OsStr::new(SUPERVISOR)) {
        return Some(front::front());
    }
    match supervisor::prepare() {
        Ok(()) => None,
        Err(error) => {
            say(format_args!("{error}"));
            Some(ExitCode::from(OWN_FAILURE))
        }
    }
}

/// Returns this program, to play a part.
fn part(name: &str) -> Command {
    use std::os::unix::process::CommandExt as _;
    // This works for an executable that has been replaced meanwhile, too.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    command
}

/// Lets no other process of the same user look into this one (P9): at its memory, its environment, and
/// what it has open.
fn close_to_others() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Tells the user something. If nobody reads it, the task goes on all the same.
fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "sundew run: {text}");
}
