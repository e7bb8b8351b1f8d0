//! What the environment says.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

/// Where things are. [`Settings::from_env`] reads `SUNDEW_BROKER`, `SUNDEW_BROKER_ID`,
/// `SPIFFE_ENDPOINT_SOCKET`, `SUNDEW_SVID_DIR`, and for evidence `SUNDEW_MANIFEST`, `SUNDEW_MODEL`,
/// `SUNDEW_SYSTEM_PROMPT_FILE`, `SUNDEW_CODE`, `SUNDEW_OIDC_TOKEN_FILE`,
/// `SUNDEW_OIDC_TOKEN_COMMAND`, `SUNDEW_TPM2`, `SUNDEW_TPM2_EVENT_LOG`,
/// `SUNDEW_SEV_SNP_CERTIFICATE`, `SUNDEW_NODE_SOCKET`, and for any other
/// kind `SUNDEW_EVIDENCE_FILE_<KIND>` or `SUNDEW_EVIDENCE_COMMAND_<KIND>`, such as
/// `SUNDEW_EVIDENCE_COMMAND_NITRO`.
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
    /// A TPM with an attestation key: `DEVICE,HANDLE,PCR+PCR…`, such as
    /// `/dev/tpmrm0,0x81010002,0+4+7`.
    pub tpm2: Option<String>,
    /// The event log that goes with its quotes; the firmware's own if not set.
    pub tpm2_event_log: Option<PathBuf>,
    /// The VCEK or VLEK of this machine in DER, where the host does not hand it out.
    pub sev_snp_certificate: Option<PathBuf>,
    /// The socket of this host's node, as `unix:/path` or `unix:///path`.
    pub node_socket: Option<String>,
    /// Kind of evidence to a file that has it.
    pub evidence_files: BTreeMap<String, PathBuf>,
    /// Kind of evidence to a command that prints it.
    pub evidence_commands: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        let by_kind = |prefix: &str| -> BTreeMap<String, String> {
            env::vars()
                .filter_map(|(name, value)| {
                    Some((name.strip_prefix(prefix)?.to_lowercase(), value))
                })
                .filter(|(kind, value)| !kind.is_empty() && !value.is_empty())
                .collect()
        };
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
            tpm2: text("SUNDEW_TPM2"),
            tpm2_event_log: path("SUNDEW_TPM2_EVENT_LOG"),
            sev_snp_certificate: path("SUNDEW_SEV_SNP_CERTIFICATE"),
            node_socket: text("SUNDEW_NODE_SOCKET"),
            evidence_files: by_kind("SUNDEW_EVIDENCE_FILE_")
                .into_iter()
                .map(|(kind, path)| (kind, path.into()))
                .collect(),
            evidence_commands: by_kind("SUNDEW_EVIDENCE_COMMAND_"),
        }
    }
}
