//! The command line of `sundew run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sundew_sdk::Ttl;

use super::ArgumentError;

/// What `--help` says of signals, endings and exit codes.
const AFTER_HELP: &str = "Everything that the command starts ends with the task: SIGTERM, then \
SIGKILL. Signals to `sundew run` go to the command, once. A second SIGINT, SIGTERM, SIGHUP or \
SIGQUIT after the command's end does not wait for anything.

Exit codes:
  N    the command's own
  124  the task's time ran out, whatever the command then did
  125  Sundew failed before the command ran: no task, no secret; nothing was run
  126  the command was found and could not be started
  127  the command was not found
  128+N  signal N ended the command; 143 also if the task was ended from outside and the command
         then ended with 0, and 137 if the supervisor of the task was killed or stopped";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Run {
    /// Why: the purpose that is kept with the task. With an order, it is that of the order.
    #[arg(
        long,
        value_name = "PURPOSE",
        required_unless_present_any = ["order", "order_ticket"]
    )]
    pub(crate) task: Option<String>,
    /// What the agent was told to do; kept with the task.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) instruction: String,
    /// What the task may do, such as secret:demo/api-key. May be repeated. With an order, all that was
    /// ordered if none is named.
    #[arg(
        long = "scope",
        required_unless_present_any = ["order", "order_ticket"],
        value_name = "SCOPE"
    )]
    pub(crate) scopes: Vec<String>,
    /// Put a secret into a variable of the command's environment. May be repeated.
    #[arg(long = "secret", value_name = "ENV=NAME", value_parser = env_and_name)]
    pub(crate) secrets: Vec<(String, String)>,
    /// A signed manifest to show: what `sundew manifest sign` wrote. It is held against the program or
    /// script that the command runs [env: SUNDEW_MANIFEST].
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Put a secret into a file in memory that only this user can read and that goes with the task,
    /// and its path into a variable. May be repeated.
    #[arg(long = "secret-file", value_name = "ENV=NAME", value_parser = env_and_name)]
    pub(crate) secret_files: Vec<(String, String)>,
    /// Let the command read a secret from a file descriptor, and put its number into a variable. May
    /// be repeated.
    #[arg(long = "secret-fd", value_name = "ENV=NAME", value_parser = env_and_name)]
    pub(crate) secret_fds: Vec<(String, String)>,
    /// Put the variables of a file into the command's environment. Each line is NAME=VALUE, taken as
    /// it is, in which {{secret:NAME}} stands for a secret. May be repeated.
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_files: Vec<PathBuf>,
    /// What the first token is meant for, such as `https://api.example`. May be repeated [default:
    /// all audiences that the registration names].
    #[arg(long = "audience", value_name = "AUDIENCE")]
    pub(crate) audiences: Vec<String>,
    /// A grant from the owner of another task: opens this one below it.
    #[arg(
        long,
        value_name = "GRANT",
        env = "SUNDEW_GRANT",
        hide_env_values = true
    )]
    pub(crate) grant: Option<String>,
    /// A file with the ticket of an order, whose one task this is; `-` is standard input, and fd:N a
    /// file descriptor. Or SUNDEW_ORDER has the ticket; the command does not inherit it.
    #[arg(long, value_name = "FILE|-|fd:N", conflicts_with = "grant")]
    pub(crate) order: Option<String>,
    /// The ticket itself, which no command line should show.
    #[arg(
        long,
        value_name = "TICKET",
        env = "SUNDEW_ORDER",
        hide = true,
        hide_env_values = true
    )]
    pub(crate) order_ticket: Option<String>,
    /// How long the task may take. The registration may allow less; then it is said.
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// How the command gets the task's first token, which is bound to the SVID of this process and
    /// expires. SUNDEW_TASK_SOCKET gives fresh ones as long as the task lasts: `sundew token`, `sundew
    /// secret get`.
    #[arg(long, default_value = "env", value_name = "HOW")]
    pub(crate) token: TokenWay,
    /// The time between SIGTERM and SIGKILL when the task is ended from outside, and for what the
    /// command leaves behind.
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
    /// To be read from the file descriptor that SUNDEW_TOKEN_FD names, a low one that every shell
    /// can name.
    Fd,
    /// Not at all.
    None,
}

/// Reads `ENV=NAME` as the name of a variable and the name of a secret.
fn env_and_name(text: &str) -> Result<(String, String), ArgumentError> {
    let (variable, name) = text.split_once('=').ok_or(ArgumentError::SecretVariable)?;
    if variable.is_empty()
        || !variable
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return Err(ArgumentError::VariableName(variable.to_owned()));
    }
    Ok((variable.to_owned(), name.to_owned()))
}
