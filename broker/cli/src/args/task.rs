//! The command line of tasks and of their tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sundew_sdk::Ttl;

use crate::pending::EXIT_CODES;

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Begin a task and attend it until Ctrl-C; prints its id and token.
    Begin(BeginTask),
    /// Let another workload open tasks below a task of your own; prints a grant for it.
    Delegate(DelegateTask),
    /// End a task of your own, or one that was delegated from a task of your own.
    #[command(after_help = EXIT_CODES)]
    Complete {
        task_id: String,
        #[arg(long, default_value = "completed")]
        outcome: EndAs,
    },
    /// List tasks, and say if there are more. Needs the role `responder`.
    List(ListTasks),
    /// Show one task: its evidence and claims, tokens, credentials in other systems, and what was
    /// delegated from it. Needs the role `responder`.
    Show { task_id: String },
}

#[derive(Debug, Args)]
pub(crate) struct ListTasks {
    /// Only those in this state; ended ones for as long as brokers know of them.
    #[arg(long, value_enum, default_value_t = TaskStateFilter::Live)]
    pub(crate) state: TaskStateFilter,
    /// Only those of one workload.
    #[arg(long, visible_alias = "spiffe-id", value_name = "SPIFFE_ID")]
    pub(crate) workload: Option<String>,
    /// Only those of a SPIFFE ID and of all below it, by whole path segments.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) spiffe_prefix: Option<String>,
    /// Only those that may do something that this scope allows; ends in /* for all below.
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// Only those that may read this secret.
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Option<String>,
    /// Only those with a verified claim, such as oidc.repository=org/repo. May be repeated.
    #[arg(long = "claim", value_name = "KIND.NAME=VALUE")]
    pub(crate) claims: Vec<String>,
    /// Only a task and everything that was delegated from it.
    #[arg(long, value_name = "TASK_ID")]
    pub(crate) task_tree: Option<String>,
    /// Only those that this version of a registration allowed.
    #[arg(long, value_name = "VERSION")]
    pub(crate) registration: Option<String>,
    /// Only those that began so long ago, or longer.
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: Option<Ttl>,
    /// Only those that began so long ago at most.
    #[arg(long, value_name = "DURATION")]
    pub(crate) younger_than: Option<Ttl>,
    /// Most tasks that are shown, 1000 at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum TaskStateFilter {
    /// Those that have not ended: alive and suspended ones.
    Live,
    /// Those that are alive and not suspended.
    Alive,
    Suspended,
    Ended,
    /// All of these.
    Any,
}

#[derive(Debug, Args)]
pub(crate) struct BeginTask {
    /// Why.
    pub(crate) purpose: String,
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) instruction: String,
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// A grant from the owner of another task: opens this one below it.
    #[arg(
        long,
        value_name = "GRANT",
        env = "SUNDEW_GRANT",
        hide_env_values = true
    )]
    pub(crate) grant: Option<String>,
    /// Do not attend: the task ends when its grace is over, unless something else attends it.
    #[arg(long)]
    pub(crate) no_attend: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DelegateTask {
    pub(crate) task_id: String,
    /// The SPIFFE ID of the workload that may use the grant.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) to: String,
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// Audiences that its tokens may be meant for.
    #[arg(long)]
    pub(crate) audience: Vec<String>,
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// How many levels it may delegate further.
    #[arg(long, default_value_t = 0)]
    pub(crate) depth: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum EndAs {
    Completed,
    Failed,
    Canceled,
}

/// What a command may do with tokens.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    pub(crate) command: Option<TokenCommand>,
    #[command(flatten)]
    pub(crate) ask: AskToken,
}

/// What a token of the task that this command is a part of is to be good for.
#[derive(Debug, Args)]
pub(crate) struct AskToken {
    /// Bind it to a new key: write the key's certificate, which it has signed itself, into a new file.
    #[arg(long, value_name = "FILE", requires = "key_out", conflicts_with_all = ["cert", "bearer"])]
    pub(crate) cert_out: Option<PathBuf>,
    /// Write the new key into a new file that only this user can read.
    #[arg(long, value_name = "FILE", requires = "cert_out")]
    pub(crate) key_out: Option<PathBuf>,
    /// Bind it to this certificate, in PEM. Nobody has to vouch for it.
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "bearer")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key, in PEM, which never leaves this process.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Bind it to nothing: whoever holds it may use it. The registration has to allow that.
    #[arg(long)]
    pub(crate) bearer: bool,
    /// What it may do, within the task; everything that the task may do if none is named. May be
    /// repeated.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// What it is meant for, such as `https://api.example`. May be repeated [default: all audiences
    /// that the registration names].
    #[arg(long = "audience", value_name = "AUDIENCE")]
    pub(crate) audiences: Vec<String>,
    /// How long it is to be good. The registration may allow less.
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Is a token good now? Reads it from standard input, so that it shows in no process list.
    Introspect(IntrospectToken),
    /// Revoke a token by its id. Needs the role `responder`.
    Revoke {
        token_id: String,
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct IntrospectToken {
    /// Hexadecimal SHA-256 of the certificate that presented it.
    #[arg(long, value_name = "HEX")]
    pub(crate) presenter: Option<String>,
    /// It must be meant for this audience.
    #[arg(long)]
    pub(crate) audience: Option<String>,
    /// It must cover this scope. May be repeated.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
}
