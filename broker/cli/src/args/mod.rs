//! The command line as the user wrote it, and nothing that happens because of it.
//!
//! Doc comments of what `clap` reads are texts of `--help`.

mod attest;
mod error;
mod manifest;
mod operator;
mod order;
mod registry;
mod respond;
mod run;
mod svid;
mod task;

pub(crate) use attest::{
    ActivateKey, AttestCommand, CollectEvidence, TrustCommand, VerifyEvidence,
};
use error::ArgumentError;
pub(crate) use manifest::{
    InitManifest, ManifestCommand, ShowManifest, SignManifest, VerifyManifest,
};
pub(crate) use operator::{BreakGlassCommand, OperatorCommand, OwnerPlace};
pub(crate) use order::{CreateOrder, OrderCommand};
pub(crate) use registry::{
    CaCommand, EngineCommand, KeyringCommand, RootKeyCommand, SecretCommand, WorkloadChoice,
    WorkloadCommand,
};
pub(crate) use respond::{LeaseCommand, Respond, Revoke, RevokeCommand, Select};
pub(crate) use run::{Run, TokenWay};
pub(crate) use svid::{EnrollSvid, SvidCommand};
pub(crate) use task::{
    AskToken, BeginTask, DelegateTask, EndAs, IntrospectToken, ListTasks, TaskCommand,
    TaskStateFilter, TokenArguments, TokenCommand,
};

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use sundew_sdk::Ttl;

use crate::pending::EXIT_CODES;

/// The exit codes of what asks the task's socket.
const TASK_EXIT_CODES: &str = "Exit codes:
  0  it is printed
  1  it was refused, or the task has ended: standard error says which, and what to do
  2  the command line makes no sense";

/// Ephemeral credentials for AI agents: proven, scoped to a task, and certainly gone when the task
/// ends.
#[derive(Debug, Parser)]
#[command(
    name = "sundew",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Print JSON for machines.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the broker, and as whom.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// Where the broker is, host:port.
    #[arg(long, global = true, env = "SUNDEW_BROKER", value_name = "HOST:PORT")]
    pub(crate) broker: Option<String>,
    /// The broker's SPIFFE ID [default: /sundew/broker of your own trust domain].
    #[arg(
        long,
        global = true,
        env = "SUNDEW_BROKER_ID",
        value_name = "SPIFFE_ID"
    )]
    pub(crate) broker_id: Option<String>,
    /// Folder with svid.pem, key.pem and bundle.pem; takes precedence over the socket.
    #[arg(long, global = true, env = "SUNDEW_SVID_DIR", value_name = "DIR")]
    pub(crate) svid_dir: Option<PathBuf>,
    /// SPIFFE Workload API, such as unix:///run/spire/agent.sock.
    #[arg(
        long,
        global = true,
        env = "SPIFFE_ENDPOINT_SOCKET",
        value_name = "URI"
    )]
    pub(crate) endpoint_socket: Option<String>,
}

/// Which part of a list that is ordered by name is shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct Page {
    /// Most entries that are shown.
    #[arg(long, default_value_t = 1000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Show what comes after this name, with which the list before ended.
    #[arg(long, value_name = "NAME")]
    pub(crate) after: Option<String>,
}

/// How to run a broker for development.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where its state is.
    #[arg(long, default_value = ".sundew-dev", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Where it listens for agents and operators.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "HOST:PORT")]
    pub(crate) listen: SocketAddr,
    /// Where it serves health and metrics.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub(crate) operations: SocketAddr,
    /// Forget the state first: registrations, secrets, keys and the journal.
    #[arg(long)]
    pub(crate) reset: bool,
}

/// How to bring a backup back.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The configuration of a broker.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Write nothing; only tell what would become of each document.
    #[arg(long)]
    pub(crate) check: bool,
    /// Let the content of the backup count, also where something newer is known: registrations,
    /// secrets, engines and trusted items fall back to it, and each one is told.
    #[arg(long)]
    pub(crate) new_epoch: bool,
    /// The backup.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole story in one process: an attested agent gets a token and a secret, and both
    /// die with its task.
    Demo {
        /// Your own command as the agent instead of the example agent; it finds the secret in
        /// DEMO_API_KEY.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a broker for trying things out, with you as its first workload; prints commands to paste.
    Dev(Dev),
    /// Run a broker in production.
    Serve {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Write everything in a broker's store that outlives tasks into one file. Needs the broker's
    /// configuration and its root key, and no broker.
    Backup {
        /// The configuration of a broker.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The file to write.
        file: PathBuf,
    },
    /// Bring a backup back, and tell what becomes of each document. Nothing that ended comes back.
    Restore(Restore),
    /// Show and change the bounds on which all brokers of a store agree. Needs the role
    /// `registrar`.
    #[command(subcommand)]
    Bounds(BoundsCommand),
    /// Show and rotate the keys of the embedded CA. Needs the role `registrar`.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Work on configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Begin a task, run a command with its secrets and token, and end the task when the command
    /// ends.
    Run(Run),
    /// Order tasks for others: with the role `dispatcher`, or from within a task of your own.
    #[command(subcommand)]
    Order(OrderCommand),
    /// Begin, complete and look at tasks.
    #[command(subcommand)]
    Task(TaskCommand),
    /// Get a fresh token of the task that this command is a part of; ask about a token, or revoke one.
    ///
    /// What `sundew run` has started finds its task by SUNDEW_TASK_SOCKET, and needs no identity of
    /// its own. The token alone is printed.
    #[command(
        after_help = TASK_EXIT_CODES,
        override_usage = "sundew token --cert-out <FILE> --key-out <FILE> [OPTIONS]\n       sundew token --cert <FILE> --key <FILE> [OPTIONS]\n       sundew token --bearer [OPTIONS]\n       sundew token <COMMAND>"
    )]
    Token(TokenArguments),
    /// Register workloads. Needs the role `registrar`.
    #[command(subcommand)]
    Workload(WorkloadCommand),
    /// Read a secret of the task that this command is a part of. Write and list stored secrets, which
    /// needs the role `registrar`.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Work on the keys that seal stored secrets. Needs the role `registrar`.
    #[command(subcommand)]
    Keyring(KeyringCommand),
    /// Make a root key, and rotate the one that all brokers of a store have.
    #[command(subcommand)]
    RootKey(RootKeyCommand),
    /// Kill what a selector matches, at once and everywhere. Needs the role `responder`.
    #[command(
        after_help = EXIT_CODES,
        override_usage = "sundew revoke --reason <TEXT> <SELECTOR>…\n       sundew revoke --preview <SELECTOR>…\n       sundew revoke <COMMAND>"
    )]
    Revoke(Revoke),
    /// Issue nothing new to what a selector matches, until lifted. Needs the role `responder`.
    #[command(
        after_help = EXIT_CODES,
        override_usage = "sundew quarantine --reason <TEXT> <SELECTOR>…\n       sundew quarantine --preview <SELECTOR>…"
    )]
    Quarantine(Respond),
    /// Quarantine and revoke in one step. Needs the role `responder`.
    #[command(
        after_help = EXIT_CODES,
        override_usage = "sundew contain --reason <TEXT> <SELECTOR>…\n       sundew contain --preview <SELECTOR>…"
    )]
    Contain(Respond),
    /// Suspend what a selector matches, until lifted. Tokens die at once, and no task, token, secret
    /// or JWT-SVID is issued; X.509-SVIDs are, since agents resume by them. After the lift, agents
    /// resume their tasks with fresh evidence. Needs the role `responder`.
    #[command(
        after_help = EXIT_CODES,
        override_usage = "sundew suspend --reason <TEXT> <SELECTOR>…\n       sundew suspend --preview <SELECTOR>…"
    )]
    Suspend(Respond),
    /// End a quarantine or a suspension; what died stays dead. Needs the role `responder`.
    Lift {
        #[arg(value_name = "REVOCATION_ID")]
        revocation_id: String,
        /// Why; goes into the record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Look at credentials in other systems. Needs the role `responder`.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Say what verifiers of evidence trust. Needs the role `registrar`.
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Look at evidence: why it was refused, collect it, verify it.
    #[command(subcommand)]
    Attest(AttestCommand),
    /// Say what an agent consists of, sign it, and look at what was signed.
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Serve the processes of this host: say which they are, and give them the identities that are
    /// delegated to this node.
    Node {
        /// The Unix socket on which it serves the SPIFFE Workload API and process evidence.
        #[arg(long, default_value = "/run/sundew/node.sock", value_name = "PATH")]
        socket: PathBuf,
        /// How long one task of the node may last; it begins another one after.
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        ttl: Ttl,
    },
    /// Get an SVID of an operator as the owner of a broker's state: the first one, or one for an
    /// emergency.
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Get X.509-SVIDs from the embedded CA, and JWT-SVIDs from a Workload API.
    #[command(subcommand)]
    Svid(SvidCommand),
    /// Read and verify a broker's journal.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Find out what is broken: SVID source, handshake, clock, registration, evidence, broker.
    Doctor {
        /// The broker's operations listener, to ask about its health too.
        #[arg(long, env = "SUNDEW_OPERATIONS", value_name = "HOST:PORT")]
        operations: Option<String>,
        /// The manifest that the agent shows, as for `sundew run`.
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
    },
    /// Ask a broker's operations listener whether the broker is ready: exits with 0 if it is, and
    /// with 1 and the reasons if not, or without an answer.
    Health {
        /// The broker's operations listener.
        #[arg(
            long,
            env = "SUNDEW_OPERATIONS",
            default_value = "127.0.0.1:9090",
            value_name = "HOST:PORT"
        )]
        operations: String,
        /// How long to wait for an answer.
        #[arg(long, default_value = "5s", value_name = "DURATION")]
        within: Ttl,
    },
    /// Print a completion script.
    Completion { shell: Shell },
    /// The agent of the demo.
    #[command(hide = true)]
    ExampleAgent,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BoundsCommand {
    /// Show the agreement, and what the file of each broker allows.
    Show,
    /// Change the agreement for all brokers, which take it while they run. What the file of a
    /// broker does not allow is refused: its file comes first, then this, and a file that is to
    /// allow less comes last.
    #[command(group = clap::ArgGroup::new("bounds").required(true).multiple(true))]
    Set {
        /// How long a broker answers after it last heard of all endings.
        #[arg(long, group = "bounds", value_name = "DURATION")]
        freshness: Option<Ttl>,
        /// How far a broker's clock may be from the store's.
        #[arg(long, group = "bounds", value_name = "DURATION")]
        max_clock_skew: Option<Ttl>,
        /// The longest task.
        #[arg(long, group = "bounds", value_name = "DURATION")]
        max_task_ttl: Option<Ttl>,
        /// The number of replicas of each primary.
        #[arg(long, group = "bounds", value_name = "NUMBER")]
        replicas: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say everything that is wrong with a configuration file, and with the files that it names.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Verify the chain and print every record.
    Show {
        /// The journal's folder, and those with its archived segments.
        #[arg(value_name = "DIR", required = true)]
        folders: Vec<PathBuf>,
    },
    /// Verify the chain, and say which segments at its beginning are not there.
    Verify {
        /// The journal's folder, and those with its archived segments.
        #[arg(value_name = "DIR", required = true)]
        folders: Vec<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command, TokenWay};

    /// Parses a command line whose words have no spaces in them.
    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    fn refusal(line: &str) -> clap::Error {
        parse(line).map(drop).unwrap_err()
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_secrets_of_a_run_are_variables_and_names() {
        let line = "sundew run --task t --scope a:b --secret API_KEY=demo/a=b --token fd -- env -i";
        let Ok(Command::Run(run)) = parse(line) else {
            panic!("{line}");
        };
        assert_eq!(run.secrets, [("API_KEY".to_owned(), "demo/a=b".to_owned())]);
        assert_eq!(run.token, TokenWay::Fd);
        assert_eq!(run.command, ["env", "-i"]);
    }

    #[test]
    fn an_argument_that_cannot_be_read_is_refused_with_the_reason() {
        for (line, reason) in [
            (
                "sundew run --task t --scope a:b --secret API_KEY -- env",
                "must be ENV=NAME, such as API_KEY=demo/api-key",
            ),
            (
                "sundew run --task t --scope a:b --secret A-B=c -- env",
                "`A-B` cannot be the name of a variable",
            ),
            (
                "sundew attest activate --key 81010002",
                "must be hexadecimal, such as 0x81010002",
            ),
            (
                "sundew attest verify tpm2 --file a --requirement b --trust c",
                "must be KIND/NAME=FILE",
            ),
            (
                "sundew revoke --everything --issued-before today --reason r",
                "must be like 2026-11-24T06:00:00Z, or milliseconds since the epoch",
            ),
        ] {
            let error = refusal(line);
            assert_eq!(error.kind(), ErrorKind::ValueValidation, "{line}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn an_instant_is_read_as_a_date_or_as_milliseconds() {
        for instant in ["2000-02-29T00:00:00Z", "951782400000"] {
            let line = format!("sundew contain --issued-before {instant} --reason r");
            let Ok(Command::Contain(respond)) = parse(&line) else {
                panic!("{line}");
            };
            assert_eq!(respond.select.issued_before, Some(951_782_400_000));
        }
    }

    #[test]
    fn a_response_wants_a_selector_and_a_reason_or_a_preview() {
        for line in [
            "sundew quarantine --reason r",
            "sundew quarantine --everything",
            "sundew revoke",
        ] {
            assert_eq!(
                refusal(line).kind(),
                ErrorKind::MissingRequiredArgument,
                "{line}"
            );
        }
        assert!(parse("sundew quarantine --everything --preview").is_ok());
        assert!(parse("sundew revoke list").is_ok());
    }
}
