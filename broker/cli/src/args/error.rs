//! Reasons why an argument is refused.

/// The reason why the text of an argument is refused; `clap` prints the reason after the argument
/// and its value.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("must be like 2026-11-24T06:00:00Z, or milliseconds since the epoch")]
    Instant,
    #[error("must be NAME=PATH, such as search=tools/search.json")]
    Part,
    #[error("must be NAME=VALUE, such as team=payments")]
    Label,
    #[error("must be ENV=NAME, such as API_KEY=demo/api-key")]
    SecretVariable,
    #[error("must be hexadecimal, such as 0x81010002")]
    TpmHandle,
    #[error("must be KIND/NAME=FILE")]
    TrustFile,
    #[error("`{0}` cannot be the name of a variable")]
    VariableName(String),
}
