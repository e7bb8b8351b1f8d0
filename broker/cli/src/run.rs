//! `sundew run`: a task that lasts as long as a command runs.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use sundew_sdk::{Agent, Task, Ttl};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use crate::args::{Connect, Run, TokenWay};
use crate::client::settings;
use crate::manifest::with_manifest;

/// The exit code of `env` and of shells for a command that is not there.
const NOT_FOUND: u8 = 127;
/// The exit code of `env` and of shells for a command that is there and cannot be started.
const NOT_EXECUTABLE: u8 = 126;
/// The exit code for a failure of Sundew itself before the command ran.
const OWN_FAILURE: u8 = 125;
/// How often it is looked whether the task is suspended.
const LOOK_FOR_SUSPENSION: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to resume it.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Runs a command with the secrets and the token of a new task, and ends the task when the command
/// ends. Returns the command's exit code.
pub(crate) async fn run(connect: &Connect, run: Run) -> Result<ExitCode> {
    match start(connect, &run).await {
        Ok((task, command, pipe)) => supervise(task, command, pipe, &run).await,
        Err(error) => {
            eprintln!("sundew run: {error:#}");
            Ok(ExitCode::from(OWN_FAILURE))
        }
    }
}

/// Begins the task, and returns the task with the command that is to run. The descriptor is the
/// read end of the pipe with the token, which must stay open until the command has inherited it.
async fn start(connect: &Connect, run: &Run) -> Result<(Task, Command, Option<OwnedFd>)> {
    let settings = with_manifest(settings(connect), run.manifest.as_deref(), &run.command)?;
    let mut builder = Agent::builder(settings)
        .build()
        .await?
        .task(&run.task)
        .instruction(&run.instruction);
    for scope in &run.scopes {
        builder = builder.scope(scope);
    }
    if let Some(ttl) = run.ttl {
        builder = builder.ttl(ttl.to_std());
    }
    let task = builder.begin().await?;
    let (program, arguments) = run.command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("SUNDEW_TASK_ID", task.id())
        .env_remove("SUNDEW_TOKEN")
        .env_remove("SUNDEW_TOKEN_FD");
    for (variable, name) in &run.secrets {
        let secret = task
            .secret(name)
            .await
            .with_context(|| format!("secret {name}"))?;
        let value = std::os::unix::ffi::OsStrExt::from_bytes(secret.expose());
        command.env(
            variable,
            <std::ffi::OsStr as AsRef<std::ffi::OsStr>>::as_ref(value),
        );
    }
    let mut pipe = None;
    match run.token {
        TokenWay::None => {}
        TokenWay::Env => drop(command.env("SUNDEW_TOKEN", task.token().expose())),
        TokenWay::Fd => {
            // The token fits into the pipe's buffer; the read end stays open over exec.
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            std::fs::File::from(writer).write_all(task.token().expose().as_bytes())?;
            rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty())?;
            command.env("SUNDEW_TOKEN_FD", reader.as_raw_fd().to_string());
            pipe = Some(reader);
        }
    }
    Ok((task, command, pipe))
}

/// Starts the command, passes signals on to it, and ends it if the task ends first.
async fn supervise(
    task: Task,
    mut command: Command,
    pipe: Option<OwnedFd>,
    run: &Run,
) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!(
                "sundew run: {}: {error}",
                run.command.first().map_or("", String::as_str)
            );
            let _ = task.cancel().await;
            return Ok(ExitCode::from(
                if error.kind() == std::io::ErrorKind::NotFound {
                    NOT_FOUND
                } else {
                    NOT_EXECUTABLE
                },
            ));
        }
    };
    drop((pipe, command));
    let mut canceled = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => {
                canceled |= matches!(
                    signal,
                    Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT
                );
                // A terminal sends Ctrl-C to the command itself.
                if signal != Signal::INT || !std::io::stdin().is_terminal() {
                    send_signal(&child, signal);
                }
            }
            () = stay_resumed(&task) => {}
            ended = task.ended() => {
                eprintln!(
                    "sundew run: the task was ended: {ended}; \
                     its tokens and secrets are dead, stopping the command"
                );
                break stop(&mut child, run.kill_after).await?;
            }
        }
    };
    // However the command ended, the task ends. If the broker does not hear of it, the task ends
    // when its grace is over.
    let ended = match (status.success(), canceled) {
        (true, _) => task.complete().await,
        (false, true) => task.cancel().await,
        (false, false) => task.fail().await,
    };
    if let Err(error) = ended {
        eprintln!("sundew run: {error}");
    }
    Ok(exit_code(status))
}

/// Resumes the task whenever it is suspended, on fresh evidence. A responder's suspension has to be
/// lifted first.
async fn stay_resumed(task: &Task) {
    loop {
        tokio::time::sleep(LOOK_FOR_SUSPENSION).await;
        if !task.is_suspended() {
            continue;
        }
        eprintln!("sundew run: the task is suspended; trying to resume it");
        let mut pause = LOOK_FOR_SUSPENSION;
        while task.resume().await.is_err() {
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
        eprintln!("sundew run: the task is resumed; tokens from before stay dead");
    }
}

/// Asks the command to end, and kills the command if it does not end within a time.
async fn stop(child: &mut Child, kill_after: Ttl) -> Result<ExitStatus> {
    send_signal(child, Signal::TERM);
    match tokio::time::timeout(kill_after.to_std(), child.wait()).await {
        Ok(status) => Ok(status?),
        Err(_) => {
            eprintln!("sundew run: the command did not stop; killing it");
            child.kill().await?;
            Ok(child.wait().await?)
        }
    }
}

/// Sends a signal to the command, if it still runs.
fn send_signal(child: &Child, signal: Signal) {
    if let Some(pid) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
    {
        let _ = kill_process(pid, signal);
    }
}

/// Returns the command's own exit code, or, as shells do, 128 and the signal's number if a signal
/// ended the command.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The signals that are passed on to the command.
struct Signals(Vec<(Signal, SignalStream)>);

impl Signals {
    fn new() -> Result<Self> {
        let kinds = [
            (Signal::INT, SignalKind::interrupt()),
            (Signal::TERM, SignalKind::terminate()),
            (Signal::HUP, SignalKind::hangup()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
        ];
        Ok(Self(
            kinds
                .into_iter()
                .map(|(number, kind)| Ok((number, signal(kind)?)))
                .collect::<Result<_>>()?,
        ))
    }

    /// Waits for the next signal.
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (number, stream) in &mut self.0 {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{ExitCode, ExitStatus};

    use super::exit_code;

    #[test]
    fn the_exit_code_is_the_commands_own_or_that_of_a_shell_after_a_signal() {
        for (wait_status, code) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (15, 143)] {
            let status = ExitStatus::from_raw(wait_status);
            assert_eq!(exit_code(status), ExitCode::from(code), "{status}");
        }
    }
}
