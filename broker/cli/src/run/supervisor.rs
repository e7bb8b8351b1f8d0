//! The supervisor: has the task, starts the command, and ends both.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, getpid, set_child_subreaper};
use sundew_sdk::{Agent, Ended, Error, Task, Ttl};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::cgroup::Cgroup;
use super::command::{Change, Running};
use super::given::Given;
use super::signals::{self, asks_to_end};
use super::socket::{Members, TaskSocket};
use super::user::User;
use super::{NOT_EXECUTABLE, NOT_FOUND, OWN_FAILURE, SIGNALED, TIMED_OUT, adopted, say, stopping};
use crate::args::{Connect, Run};
use crate::client::{note_missing_identity, settings};
use crate::input::read_text;
use crate::manifest::with_manifest;

/// How often it is looked whether the task is suspended.
const LOOK_FOR_SUSPENSION: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to resume it.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long the broker's answer to the ending is waited for. The SDK's own thread may take a second
/// more, so that the user waits for three seconds at most.
const BROKER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How long after the deadline the broker's word is waited for.
const BROKER_SAYS_SO_WITHIN: Duration = Duration::from_secs(2);

/// Prepares this process before it has threads.
pub(super) fn prepare() -> io::Result<()> {
    signals::block()?;
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Runs a command with the secrets and the token of a new task, and ends the task when the command
/// ends. Returns the command's exit code.
pub(crate) async fn run(connect: &Connect, run: Run) -> Result<ExitCode> {
    let mut user = User::connect()?;
    let begun = tokio::select! {
        begun = begin(connect, &run) => begun,
        signal = user.wants_an_end() => return Ok(ExitCode::from(code_of(signal))),
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(error) => {
            say(format_args!("{error:#}"));
            return Ok(ExitCode::from(OWN_FAILURE));
        }
    };
    Ok(ExitCode::from(supervise(begun, &run, &mut user).await))
}

/// A task that was begun, and what the command is given.
struct Begun {
    task: Task,
    given: Given,
    socket: TaskSocket,
}

/// Begins the task.
async fn begin(connect: &Connect, run: &Run) -> Result<Begun> {
    let settings = with_manifest(settings(connect), run.manifest.as_deref(), &run.command)?;
    note_missing_identity(&settings).await;
    let mut builder = Agent::builder(settings)
        .build()
        .await?
        .task(run.task.as_deref().unwrap_or_default())
        .instruction(&run.instruction);
    for scope in &run.scopes {
        builder = builder.scope(scope);
    }
    for audience in &run.audiences {
        builder = builder.audience(audience);
    }
    if let Some(grant) = &run.grant {
        builder = builder.under(grant);
    }
    if let Some(ticket) = ticket(run)? {
        builder = builder.ordered(&ticket);
    }
    if let Some(ttl) = run.ttl {
        builder = builder.ttl(ttl.to_std());
    }
    let task = builder.begin().await?;
    // Whoever gave this process its identity may have looked at its program until now.
    super::close_to_others()?;
    if let Some(asked) = run.ttl
        && task.lifetime() < asked.to_std()
    {
        let lifetime = text_of(task.lifetime());
        say(format_args!("the task may take {lifetime}, not {asked}"));
    }
    let socket = TaskSocket::make()?;
    let given = Given::collect(&task, run, socket.path()).await?;
    Ok(Begun {
        task,
        given,
        socket,
    })
}

/// Returns the ticket of the order whose task this is, if there is one. A ticket is good once, so
/// that what is left of it is of no use to the command.
fn ticket(run: &Run) -> Result<Option<Zeroizing<String>>> {
    let text = match (&run.order, &run.order_ticket) {
        (Some(place), _) => {
            let path = match place.strip_prefix("fd:") {
                Some(number) => PathBuf::from(format!("/proc/self/fd/{number}")),
                None => PathBuf::from(place),
            };
            Zeroizing::new(read_text(&path).context("--order")?)
        }
        (None, Some(ticket)) => Zeroizing::new(ticket.clone()),
        (None, None) => return Ok(None),
    };
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// The reason for which a command is not waited for any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reason {
    /// The command has ended by itself.
    Command,
    /// The front was killed.
    Front,
    /// The task has ended.
    Task(Ended),
}

/// Starts the command, waits for an end, and brings everything else to an end too. Returns the exit
/// code.
async fn supervise(begun: Begun, run: &Run, user: &mut User) -> u8 {
    let Begun {
        task,
        given,
        socket,
    } = begun;
    let cgroup = Cgroup::make();
    tell_what_could_be_left(user, cgroup.as_ref(), &given, &socket);
    let members = Arc::new(Members::default());
    let socket = socket.serve(&task, Arc::clone(&members));
    let started = Running::start(&run.command, &given, user.group, cgroup.as_ref());
    let mut command = match started {
        Ok(command) => command,
        Err(error) => {
            if let Some(cgroup) = &cgroup {
                cgroup.remove();
            }
            let code = say_why_not_started(run, &given, &error);
            end(task, Some(Signal::TERM), false).await;
            return code;
        }
    };
    if let Some(cgroup) = &cgroup
        && command.is_in_cgroup
    {
        members.stay_in_group_of(command.pid(), cgroup.name());
    }
    let reaping = tokio::spawn(adopted::reap(command.pid()));
    let (reason, asked) = watch(&task, &mut command, user).await;
    socket.end(match reason {
        Reason::Task(ended) => Some(ended),
        Reason::Command | Reason::Front => None,
    });
    // P9: what is left of the command has no secrets while it is given time to end.
    drop(given);
    // What has ended waits to be reaped by one only.
    reaping.abort();
    let grace = match reason {
        Reason::Command | Reason::Task(_) => run.kill_after.to_std(),
        Reason::Front => Duration::ZERO,
    };
    let succeeded = command.exit_code() == Some(0);
    let (hurry, hurried) = watch::channel(false);
    let hurried = || {
        let mut hurried = hurried.clone();
        async move { drop(hurried.wait_for(|hurry| *hurry).await) }
    };
    let ending = async {
        // A task that is known to have ended is only dropped.
        if matches!(reason, Reason::Task(_)) {
            return drop(task);
        }
        let grace = text_of(task.attendance_grace());
        tokio::select! {
            biased;
            () = end(task, asked, succeeded) => {}
            () = hurried() => {
                say(format_args!("not waiting for the broker; the task ends by itself within {grace}"));
            }
        }
    };
    {
        let stopping = stopping::stop(&mut command, cgroup.as_ref(), grace, hurried());
        let all = async { tokio::join!(ending, stopping) };
        let mut all = std::pin::pin!(all);
        tokio::select! {
            biased;
            _ = &mut all => {}
            Some(_) = user.wants_an_end() => {
                hurry.send_replace(true);
                all.await;
            }
        }
    }
    drop(socket);
    exit_code(reason, command.exit_code())
}

/// Tells the front what it has to clear away if this process is killed.
fn tell_what_could_be_left(
    user: &User,
    cgroup: Option<&Cgroup>,
    given: &Given,
    socket: &TaskSocket,
) {
    if let Some(cgroup) = cgroup {
        user.tell(&format!("cgroup {}", cgroup.path().display()));
    }
    for folder in given.folder().into_iter().chain([socket.folder()]) {
        user.tell(&format!("folder {}", folder.display()));
    }
}

/// Waits for an end, and passes signals on until then. Returns why, and the signal by which the
/// user has asked for an end, if he has.
async fn watch(task: &Task, command: &mut Running, user: &mut User) -> (Reason, Option<Signal>) {
    let mut asked = None;
    let mut kept_resumed = std::pin::pin!(keep_resumed(task));
    let mut time_over = std::pin::pin!(tokio::time::sleep(
        task.lifetime().saturating_add(BROKER_SAYS_SO_WITHIN)
    ));
    let ended = loop {
        tokio::select! {
            change = command.changed() => match change {
                Change::Ended => return (Reason::Command, asked),
                Change::Stopped => user.tell("stopped"),
            },
            news = user.next() => {
                let Some(news) = news else {
                    return (Reason::Front, Some(Signal::KILL));
                };
                if asks_to_end(news.signal) {
                    asked = Some(news.signal);
                }
                command.send(news.signal, news.has_reached_job);
            }
            ended = task.ended() => break ended,
            () = &mut time_over => break Ended::Expired,
            never = &mut kept_resumed => match never {},
        }
    };
    say(format_args!(
        "the task was ended: {ended}; its tokens and secrets are dead, stopping the command"
    ));
    (Reason::Task(ended), asked)
}

/// Resumes the task whenever it is suspended, on fresh evidence. A responder's suspension has to be
/// lifted first.
async fn keep_resumed(task: &Task) -> Infallible {
    loop {
        tokio::time::sleep(LOOK_FOR_SUSPENSION).await;
        if !task.is_suspended() {
            continue;
        }
        say(format_args!("the task is suspended; trying to resume it"));
        let mut pause = LOOK_FOR_SUSPENSION;
        while task.resume().await.is_err() {
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
        say(format_args!(
            "the task is resumed; tokens from before stay dead"
        ));
    }
}

/// Ends the task, as the command has ended. Says what will happen by itself if the broker does not
/// answer.
async fn end(task: Task, asked: Option<Signal>, succeeded: bool) {
    let grace = text_of(task.attendance_grace());
    let answer = async {
        match (succeeded, asked) {
            (true, _) => task.complete().await,
            (false, Some(_)) => task.cancel().await,
            (false, None) => task.fail().await,
        }
    };
    let answer = tokio::time::timeout(BROKER_ANSWERS_WITHIN, answer).await;
    let problem = match answer {
        // P11: the broker knows no such task of ours any more.
        Ok(Ok(_) | Err(Error::NotPermitted { .. })) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer from the broker".to_owned(),
    };
    say(format_args!(
        "{problem}; the task ends by itself, and its tokens and secrets with it, when nobody has \
         attended it for {grace}"
    ));
}

/// Says why a command could not be started, and returns the exit code.
fn say_why_not_started(run: &Run, given: &Given, error: &io::Error) -> u8 {
    let program = run.command.first().map_or("", String::as_str);
    if error.kind() == io::ErrorKind::ArgumentListTooLong {
        let largest = given.largest().unwrap_or_default();
        say(format_args!(
            "{program}: {error}; {largest}: give a secret by --secret-file or --secret-fd"
        ));
        return NOT_EXECUTABLE;
    }
    say(format_args!("{program}: {error}"));
    if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

/// Returns the exit code. A command whose task was ended from outside has not succeeded.
fn exit_code(reason: Reason, command: Option<u8>) -> u8 {
    match (reason, command) {
        (Reason::Task(Ended::Expired), _) => TIMED_OUT,
        (Reason::Task(_), Some(0) | None) => code_of(Some(Signal::TERM)),
        (_, Some(code)) => code,
        (_, None) => code_of(None),
    }
}

/// Returns the exit code of shells for a command that a signal has ended; nothing is SIGKILL.
fn code_of(signal: Option<Signal>) -> u8 {
    let number = signal.unwrap_or(Signal::KILL).as_raw();
    u8::try_from(number).map_or(OWN_FAILURE, |number| SIGNALED.saturating_add(number))
}

/// Returns a duration as the command line has it, in whole seconds: brokers end a task at one.
fn text_of(duration: Duration) -> String {
    let seconds = i64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let ttl = Ttl::from_ms(seconds.saturating_mul(1000));
    ttl.map_or_else(|_| format!("{duration:?}"), |ttl| ttl.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_a_command_whose_task_was_ended_has_not_succeeded_whatever_it_says() {
        for (reason, command, code) in [
            (Reason::Command, Some(0), 0),
            (Reason::Command, Some(137), 137),
            (Reason::Task(Ended::Expired), Some(0), 124),
            (Reason::Task(Ended::Expired), Some(137), 124),
            (Reason::Task(Ended::Revoked), Some(0), 143),
            (Reason::Task(Ended::Revoked), Some(33), 33),
            (Reason::Front, Some(137), 137),
            (Reason::Front, None, 137),
        ] {
            assert_eq!(exit_code(reason, command), code, "{reason:?} {command:?}");
        }
    }

    #[test]
    fn durations_are_written_as_the_command_line_takes_them() {
        assert_eq!(text_of(Duration::from_millis(898_700)), "899s");
        assert_eq!(text_of(Duration::from_secs(900)), "15m");
    }
}
