//! The one binary: broker, demo, and client.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests make what they need")
)]

mod args;
mod attest;
mod backup;
mod bounds;
mod ca;
mod client;
mod closed_output;
mod csr;
mod demo;
mod dev;
mod doctor;
mod enclosing;
mod engine;
mod example_agent;
mod failure;
mod health;
mod input;
mod journal;
mod lease;
mod local;
mod manifest;
mod node;
mod operator;
mod order;
mod output;
mod pending;
mod respond;
mod root_key;
mod run;
mod secret;
mod serve;
mod service_manager;
#[cfg(test)]
#[path = "shapes_tests.rs"]
mod shapes;
mod svid;
mod svid_files;
mod task;
mod timestamp;
mod token;
mod trust;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use args::{Cli, Command};
use clap::{CommandFactory as _, Parser as _};
use clap_complete::Shell;
use output::Output;
use sundew_proto::v1::Effect;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if let Some(code) = run::play_part() {
        return code;
    }
    closed_output::end_quietly();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let json = std::env::args_os().any(|argument| argument == "--json");
            return failure::usage(&error, json);
        }
    };
    if matches!(cli.command, Command::Run(_))
        && let Some(code) = run::enter()
    {
        return code;
    }
    let json = cli.json;
    // One crypto provider for everything that asks for the process default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    start_logging(&cli.command);
    if matches!(
        cli.command,
        Command::Serve { .. } | Command::Dev(_) | Command::Node { .. }
    ) {
        forbid_core_files();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return failure::fail(&error.into(), json);
        }
    };
    let output = Output::new(json);
    let done = runtime.block_on(dispatch(cli, &output));
    let code = done.unwrap_or_else(|error| failure::fail(&error, json));
    // A blocking read of standard input must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    code
}

/// Runs one command, and returns the exit code of the process.
async fn dispatch(cli: Cli, output: &Output) -> Result<ExitCode> {
    let connect = &cli.connect;
    match cli.command {
        Command::Attest(command) => attest::attest(connect, output, command).await,
        Command::Backup { config, file } => backup::backup(output, &config, &file).await,
        Command::Bounds(command) => bounds::bounds(connect, output, command).await,
        Command::Ca(command) => ca::ca(connect, output, command).await,
        Command::Completion { shell } => print_completion(output, shell),
        Command::Config(command) => serve::config(output, command),
        Command::Contain(command) => {
            respond::respond(connect, output, command, Effect::Contain).await
        }
        Command::Demo { command } => demo::demo(output, command).await,
        Command::Dev(arguments) => dev::dev(output, arguments).await,
        Command::Doctor {
            operations,
            manifest,
        } => doctor::doctor(connect, output, operations, manifest).await,
        Command::ExampleAgent => example_agent::run().await,
        Command::Health { operations, within } => {
            health::health(output, &operations, within.to_std()).await
        }
        Command::Journal(command) => journal::journal(output, command),
        Command::Keyring(command) => secret::keyring(connect, output, command).await,
        Command::Lease(command) => lease::lease(connect, output, command).await,
        Command::Lift {
            revocation_id,
            reason,
        } => respond::lift(connect, output, revocation_id, reason).await,
        Command::Manifest(command) => manifest::manifest(output, command),
        Command::Node { socket, ttl } => node::node(connect, socket, ttl).await,
        Command::Operator(command) => operator::operator(output, command).await,
        Command::Order(command) => order::order(connect, output, command).await,
        Command::Quarantine(command) => {
            respond::respond(connect, output, command, Effect::Quarantine).await
        }
        Command::Restore(command) => backup::restore(output, command).await,
        Command::Revoke(command) => respond::revoke(connect, output, command).await,
        Command::RootKey(command) => root_key::root_key(connect, output, command).await,
        Command::Run(command) => run::run(connect, command).await,
        Command::Secret(command) => secret::secret(connect, output, command).await,
        Command::Serve { config } => serve::serve(&config).await,
        Command::Suspend(command) => {
            respond::respond(connect, output, command, Effect::Suspend).await
        }
        Command::Svid(command) => svid::svid(connect, output, command).await,
        Command::Task(command) => task::task(connect, output, command).await,
        Command::Token(command) => token::token(connect, output, command).await,
        Command::Trust(command) => trust::trust(connect, output, command).await,
        Command::Workload(command) => workload::workload(connect, output, command).await,
    }
}

fn print_completion(output: &Output, shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sundew", &mut script);
    output.bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Forbids core files of this process. P9: a core file of a broker would hold keys and secrets
/// (T79).
fn forbid_core_files() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    if let Err(error) = none.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(%error, "core files could not be forbidden");
    }
}

/// Starts structured logs on standard error: JSON for the production broker, short text for people.
fn start_logging(command: &Command) {
    let json = matches!(command, Command::Serve { .. });
    let level = if json || matches!(command, Command::Dev(_) | Command::Node { .. }) {
        "info"
    } else {
        "error"
    };
    let filter = EnvFilter::try_from_env("SUNDEW_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where standard error is closed, nobody can be told, and printing that would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if json {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}
