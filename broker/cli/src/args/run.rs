//! The command line of `sundew run`.

use clap::{Args, ValueEnum};
use sundew_sdk::Ttl;

use super::ArgumentError;

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
    /// A signed manifest to show: what `sundew manifest sign` wrote. It is held against the program or
    /// script that the command runs [env: SUNDEW_MANIFEST].
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<std::path::PathBuf>,
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
