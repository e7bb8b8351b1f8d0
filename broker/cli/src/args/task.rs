//! The command line of tasks and of their tokens.

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
