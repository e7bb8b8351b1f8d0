//! What the user said: the command line, and nothing that happens because of it.

mod attest;
mod respond;

pub(crate) use attest::{AttestCommand, TrustCommand};
pub(crate) use respond::{EngineCommand, LeaseCommand, Respond, Revoke, RevokeCommand, Select};

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sundew_sdk::Ttl;

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
    /// Run a broker for trying things out; prints an environment to paste.
    Dev {
        /// Where its state is.
        #[arg(long, default_value = ".sundew-dev", value_name = "DIR")]
        state: PathBuf,
        /// Where it listens.
        #[arg(long, default_value = "127.0.0.1:8443", value_name = "HOST:PORT")]
        listen: std::net::SocketAddr,
    },
    /// Run a broker in production.
    Serve {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Work on configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Begin a task, run a command with its secrets and token, and end the task when the command
    /// ends.
    Run(Run),
    /// Begin, complete and look at tasks.
    #[command(subcommand)]
    Task(TaskCommand),
    /// Ask about a token, or revoke one.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Register workloads. Needs the role `registrar`.
    #[command(subcommand)]
    Workload(WorkloadCommand),
    /// Write and list stored secrets. Needs the role `registrar`.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Work on the keys that seal stored secrets. Needs the role `registrar`.
    #[command(subcommand)]
    Keyring(KeyringCommand),
    /// Kill what a selector matches, at once and everywhere. Needs the role `responder`.
    #[command(
        override_usage = "sundew revoke --reason <TEXT> <SELECTOR>…\n       sundew revoke --preview <SELECTOR>…\n       sundew revoke <COMMAND>"
    )]
    Revoke(Revoke),
    /// Issue nothing new to what a selector matches, until lifted. Needs the role `responder`.
    #[command(
        override_usage = "sundew quarantine --reason <TEXT> <SELECTOR>…\n       sundew quarantine --preview <SELECTOR>…"
    )]
    Quarantine(Respond),
    /// Quarantine and revoke in one step. Needs the role `responder`.
    #[command(
        override_usage = "sundew contain --reason <TEXT> <SELECTOR>…\n       sundew contain --preview <SELECTOR>…"
    )]
    Contain(Respond),
    /// End a quarantine; what died stays dead. Needs the role `responder`.
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
    },
    /// Print a completion script.
    Completion { shell: Shell },
    /// The agent of the demo.
    #[command(hide = true)]
    ExampleAgent,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say everything that is wrong with a configuration file.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Why: the purpose that is kept with the task.
    #[arg(long, value_name = "PURPOSE")]
    pub(crate) task: String,
    /// What the agent was told to do; kept with the task.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) instruction: String,
    /// What the task may do, such as secret:demo/api-key. May be repeated.
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// Put a secret into a variable of the command's environment. May be repeated.
    #[arg(long = "secret", value_name = "ENV=NAME", value_parser = env_and_name)]
    pub(crate) secrets: Vec<(String, String)>,
    /// How long the task may take.
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// How the command gets the token.
    #[arg(long, default_value = "env", value_name = "HOW")]
    pub(crate) token: TokenWay,
    /// When the task is ended from outside: time between SIGTERM and SIGKILL.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub(crate) kill_after: Ttl,
    /// The command.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum TokenWay {
    /// In the variable SUNDEW_TOKEN.
    Env,
    /// To be read from the file descriptor that SUNDEW_TOKEN_FD names.
    Fd,
    /// Not at all.
    None,
}

fn env_and_name(text: &str) -> Result<(String, String), String> {
    let (variable, name) = text
        .split_once('=')
        .ok_or("must be ENV=NAME, such as API_KEY=demo/api-key")?;
    if variable.is_empty()
        || !variable
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return Err(format!("`{variable}` cannot be the name of a variable"));
    }
    Ok((variable.to_owned(), name.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Begin a task and attend it until Ctrl-C; prints its id and token.
    Begin {
        /// Why.
        purpose: String,
        #[arg(long, default_value = "", value_name = "TEXT")]
        instruction: String,
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<String>,
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Ttl>,
        /// A grant from the owner of another task: opens this one below it.
        #[arg(
            long,
            value_name = "GRANT",
            env = "SUNDEW_GRANT",
            hide_env_values = true
        )]
        grant: Option<String>,
        /// Do not attend: the task ends when its grace is over, unless something else attends it.
        #[arg(long)]
        no_attend: bool,
    },
    /// Let another workload open tasks below a task of your own; prints a grant for it.
    Delegate {
        task_id: String,
        /// The SPIFFE ID of the workload that may use the grant.
        #[arg(long, value_name = "SPIFFE_ID")]
        to: String,
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Audiences that its tokens may be meant for.
        #[arg(long)]
        audience: Vec<String>,
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Ttl>,
        /// How many levels it may delegate further.
        #[arg(long, default_value_t = 0)]
        depth: u32,
    },
    /// End a task of your own.
    Complete {
        task_id: String,
        #[arg(long, default_value = "completed")]
        outcome: EndAs,
    },
    /// List tasks. Needs the role `responder`.
    List {
        /// Only those of one workload.
        #[arg(long, value_name = "SPIFFE_ID")]
        workload: Option<String>,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show one task. Needs the role `responder`.
    Show { task_id: String },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum EndAs {
    Completed,
    Failed,
    Canceled,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Is a token good now? Reads it from standard input, so that it shows in no process list.
    Introspect {
        /// Hexadecimal SHA-256 of the certificate that presented it.
        #[arg(long, value_name = "HEX")]
        presenter: Option<String>,
        /// It must be meant for this audience.
        #[arg(long)]
        audience: Option<String>,
        /// It must cover this scope. May be repeated.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// Revoke a token by its id. Needs the role `responder`.
    Revoke {
        token_id: String,
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkloadCommand {
    /// Create or replace workloads from a TOML or JSON file; shows what changes.
    Apply {
        /// The file, or - for standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Show what would change, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// List all workloads.
    List,
    /// Show one registration.
    Show { spiffe_id: String },
    /// Remove a registration; everything issued to it dies.
    Delete { spiffe_id: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Write a secret; the value comes from standard input or a file, byte for byte.
    Put {
        name: String,
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List names and versions, never values.
    List,
    /// Remove a secret.
    Delete { name: String },
    /// Work on engines, which make secrets for one task each in another system.
    #[command(subcommand)]
    Engine(EngineCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyringCommand {
    /// Add a new key; stored secrets are sealed anew in the background.
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SvidCommand {
    /// Create a single-use join token for a registered workload. Needs the role `registrar`.
    JoinToken {
        spiffe_id: String,
        #[arg(long, default_value = "10m", value_name = "DURATION")]
        ttl: Ttl,
    },
    /// Get a first SVID for a join token, read from standard input, or for evidence, and write it
    /// to a folder.
    Enroll {
        /// The broker's enrollment listener.
        #[arg(long, value_name = "HOST:PORT")]
        enrollment: String,
        /// PEM of the trust domain's roots.
        #[arg(long, value_name = "FILE")]
        bundle: PathBuf,
        /// The trust domain.
        #[arg(long, value_name = "NAME")]
        trust_domain: String,
        /// Show evidence instead of a join token: whose SVID it is to be.
        #[arg(long, value_name = "SPIFFE_ID", requires = "evidence")]
        spiffe_id: Option<String>,
        /// A kind of evidence to show. May be repeated.
        #[arg(long = "evidence", value_name = "KIND", requires = "spiffe_id")]
        evidence: Vec<String>,
        /// Where to write svid.pem, key.pem and bundle.pem.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Get a JWT-SVID from the Workload API and print it. It is a bearer token; the registration
    /// has to name the audience.
    Jwt {
        /// Whom it is for. May be repeated.
        #[arg(long, required = true, value_name = "NAME")]
        audience: Vec<String>,
        /// Which identity, where the process has several.
        #[arg(long, value_name = "SPIFFE_ID")]
        spiffe_id: Option<String>,
    },
    /// Verify a JWT-SVID, read from standard input, through the Workload API.
    VerifyJwt {
        /// Whom it must be for.
        #[arg(long, value_name = "NAME")]
        audience: String,
    },
    /// Replace the SVID in the folder that --svid-dir names by a new one with a new key.
    Renew {
        /// Go on doing it at half of each SVID's life.
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Verify the chain and print every record.
    Show {
        /// The journal's folder.
        #[arg(value_name = "DIR")]
        journal: PathBuf,
    },
    /// Verify the chain.
    Verify {
        /// The journal's folder.
        #[arg(value_name = "DIR")]
        journal: PathBuf,
    },
}
