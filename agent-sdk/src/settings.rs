//! What the environment says.

use std::env;
use std::path::PathBuf;

/// Where things are. [`Settings::from_env`] reads `SUNDEW_BROKER`, `SUNDEW_BROKER_ID`, `SPIFFE_ENDPOINT_SOCKET`,
/// `SUNDEW_SVID_DIR`, and for evidence `SUNDEW_MANIFEST`, `SUNDEW_MODEL`, `SUNDEW_SYSTEM_PROMPT_FILE`, `SUNDEW_CODE`,
/// `SUNDEW_OIDC_TOKEN_FILE` and `SUNDEW_OIDC_TOKEN_COMMAND`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `host:port` of the broker.
    pub broker: Option<String>,
    /// The broker's SPIFFE ID; `/sundew/broker` of the agent's own trust domain if not set.
    pub broker_id: Option<String>,
    /// The Workload API, as `unix:/path` or `unix:///path`.
    pub endpoint_socket: Option<String>,
    /// A folder with `svid.pem`, `key.pem` and `bundle.pem`; takes precedence over the socket.
    pub svid_dir: Option<PathBuf>,
    /// A DSSE-signed manifest of this agent.
    pub manifest: Option<PathBuf>,
    /// The model in use, for the manifest.
    pub model: Option<String>,
    /// The system prompt in use, for the manifest.
    pub system_prompt_file: Option<PathBuf>,
    /// The file that is the agent's code, for the manifest; this program's executable if not set.
    pub code: Option<PathBuf>,
    /// A file with an OIDC token.
    pub oidc_token_file: Option<PathBuf>,
    /// A command that prints an OIDC token.
    pub oidc_token_command: Option<String>,
}

impl Settings {
    /// Reads the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        Self {
            broker: text("SUNDEW_BROKER"),
            broker_id: text("SUNDEW_BROKER_ID"),
            endpoint_socket: text("SPIFFE_ENDPOINT_SOCKET"),
            svid_dir: path("SUNDEW_SVID_DIR"),
            manifest: path("SUNDEW_MANIFEST"),
            model: text("SUNDEW_MODEL"),
            system_prompt_file: path("SUNDEW_SYSTEM_PROMPT_FILE"),
            code: path("SUNDEW_CODE"),
            oidc_token_file: path("SUNDEW_OIDC_TOKEN_FILE"),
            oidc_token_command: text("SUNDEW_OIDC_TOKEN_COMMAND"),
        }
    }
}
