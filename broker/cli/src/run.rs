//! `sundew run`: a task for as long as a command runs.

use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use sundew_sdk::Task;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use crate::args::{Connect, Run, TokenWay};
use crate::client::agent;

/// What `env` and shells answer for a command that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// Sundew itself failed before the command ran.
const OWN_FAILURE: u8 = 125;

pub(crate) async fn run(connect: &Connect, run: Run) -> Result<ExitCode> {
    match start(connect, &run).await {
        Ok((task, command, pipe)) => supervise(task, command, pipe, &run).await,
        Err(error) => {
            eprintln!("sundew run: {error:#}");
            Ok(ExitCode::from(OWN_FAILURE))
        }
    }
}

async fn start(connect: &Connect, run: &Run) -> Result<(Task, Command, Option<OwnedFd>)> {
    let mut builder = agent(connect)
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

async fn supervise(
    task: Task,
    mut command: Command,
    pipe: Option<OwnedFd>,
    run: &Run,
) -> Result<ExitCode> {
    let mut arrivals = Arriving::new()?;
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
    let mut called_off = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            arrived = arrivals.next() => {
                called_off |= matches!(arrived, Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT);
                // A terminal sends Ctrl-C to the command itself.
                if arrived != Signal::INT || !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                    tell(&child, arrived);
                }
            }
            ended = task.ended() => {
                eprintln!("sundew run: the task was ended: {ended}; its tokens and secrets are dead, stopping the command");
                tell(&child, Signal::TERM);
                break match tokio::time::timeout(run.kill_after.to_std(), child.wait()).await {
                    Ok(status) => status?,
                    Err(_) => {
                        eprintln!("sundew run: the command did not stop; killing it");
                        child.kill().await?;
                        child.wait().await?
                    }
                };
            }
        }
    };
    // However the command ended, the task ends; if this does not get through, its grace runs out.
    let ended = match (status.success(), called_off) {
        (true, _) => task.complete().await,
        (false, true) => task.cancel().await,
        (false, false) => task.fail().await,
    };
    if let Err(error) = ended {
        eprintln!("sundew run: {error}");
    }
    Ok(exit_code(status))
}

fn tell(child: &Child, signal: Signal) {
    if let Some(pid) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
    {
        let _ = kill_process(pid, signal);
    }
}

/// The command's own exit code; 128 and the signal's number if a signal ended it, as shells have
/// it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

struct Arriving(Vec<(Signal, Arrivals)>);

impl Arriving {
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

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (number, arrivals) in &mut self.0 {
                if arrivals.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
