//! `oidc`: a token of another issuer that says who this workload is.

use std::path::Path;

use super::command::Source;
use super::{Collected, Collector, Context};

/// Prints a fresh token of a GitHub Actions job for the broker's audience.
pub(super) const GITHUB: &str = r#"curl -fsS -H "Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$SUNDEW_AUDIENCE" | sed -n 's/.*"value":"\([^"]*\)".*/\1/p'"#;

/// An OIDC token from a file, which is read anew each time, or from a command.
pub struct OidcCollector(Source);

impl OidcCollector {
    /// The token is in a file, such as a projected service-account token.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self(Source::File(path.to_owned()))
    }

    /// A shell command prints the token; `SUNDEW_AUDIENCE` tells it the audience.
    #[must_use]
    pub fn command(command: &str) -> Self {
        Self(Source::Command(command.to_owned()))
    }
}

impl Collector for OidcCollector {
    fn kind(&self) -> &str {
        "oidc"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async move { Ok(self.0.read(context).await?.trim_ascii().to_vec()) })
    }
}
