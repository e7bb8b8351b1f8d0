//! The settings of an agent, and how they are read from the environment.

#![expect(
    clippy::disallowed_methods,
    reason = "the environment is read here, once"
)]

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// The places of the broker, of the identity and of evidence.
///
/// [`Settings::from_env`] reads `SUNDEW_BROKER`, `SUNDEW_BROKER_ID`, `SPIFFE_ENDPOINT_SOCKET`,
/// `SUNDEW_SVID_ID`, `SUNDEW_SVID_HINT`, `SUNDEW_SVID_DIR`, and for evidence `SUNDEW_MANIFEST`, `SUNDEW_MODEL`,
/// `SUNDEW_SYSTEM_PROMPT_FILE`, `SUNDEW_CODE`, `SUNDEW_OIDC_TOKEN_FILE`,
/// `SUNDEW_OIDC_TOKEN_COMMAND`, `SUNDEW_OIDC_AUDIENCE`, `SUNDEW_TPM2`, `SUNDEW_TPM2_EVENT_LOG`,
/// `SUNDEW_SEV_SNP_CERTIFICATE`, `SUNDEW_NODE_SOCKET`, and for any other kind
/// `SUNDEW_EVIDENCE_FILE_<KIND>` or `SUNDEW_EVIDENCE_COMMAND_<KIND>`, such as
/// `SUNDEW_EVIDENCE_COMMAND_NITRO`. A program that is part of a task of another process finds
/// `SUNDEW_TASK_SOCKET` instead.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `host:port` of the broker.
    pub broker: Option<String>,
    /// The broker's SPIFFE ID; `/sundew/broker` of the agent's own trust domain if not set.
    pub broker_id: Option<String>,
    /// The Workload API, as `unix:/path` or `unix:///path`.
    pub endpoint_socket: Option<String>,
    /// The SPIFFE ID that this process wants to have, where the Workload API gives it several; the
    /// first one if neither this nor a hint is set.
    pub svid_id: Option<String>,
    /// The hint of the SVID that this process wants to have, instead of its ID.
    pub svid_hint: Option<String>,
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
    /// A file with an OIDC token; takes precedence over the command.
    pub oidc_token_file: Option<PathBuf>,
    /// A command that prints an OIDC token.
    pub oidc_token_command: Option<String>,
    /// The audience that tokens for the broker have. If it is not set, the broker names it, and only
    /// a name of the broker's host or trust domain is taken.
    pub oidc_audience: Option<String>,
    /// A TPM with an attestation key: `DEVICE,HANDLE,PCR+PCR…`, such as
    /// `/dev/tpmrm0,0x81010002,0+4+7`.
    pub tpm2: Option<String>,
    /// The event log that goes with its quotes; the firmware's own if not set.
    pub tpm2_event_log: Option<PathBuf>,
    /// The VCEK or VLEK of this machine in DER, where the host does not hand it out.
    pub sev_snp_certificate: Option<PathBuf>,
    /// The socket of this host's node, as `unix:/path` or `unix:///path`.
    pub node_socket: Option<String>,
    /// The socket of the task that this program is a part of.
    pub task_socket: Option<PathBuf>,
    /// For each kind of evidence, a file that holds it.
    pub evidence_files: BTreeMap<String, PathBuf>,
    /// For each kind of evidence, a command that prints it.
    pub evidence_commands: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the environment. An empty variable counts as one that is not set. Variables that are
    /// not UTF-8 do no harm: a path is taken as it is, and in any other value the bytes that are
    /// not UTF-8 become U+FFFD, which whoever uses the value refuses.
    #[must_use]
    pub fn from_env() -> Self {
        // A name that is not UTF-8 is none of ours.
        let named =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::from_variables(&named.collect())
    }

    fn from_variables(variables: &BTreeMap<String, OsString>) -> Self {
        let value = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        let text = |name: &str| value(name).map(|value| value.to_string_lossy().into_owned());
        let path = |name: &str| value(name).map(PathBuf::from);
        let by_kind = |prefix: &str| -> BTreeMap<String, OsString> {
            variables
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.strip_prefix(prefix)?.to_lowercase(), value.clone()))
                })
                .filter(|(kind, value)| !kind.is_empty() && !value.is_empty())
                .collect()
        };
        Self {
            broker: text("SUNDEW_BROKER"),
            broker_id: text("SUNDEW_BROKER_ID"),
            endpoint_socket: text("SPIFFE_ENDPOINT_SOCKET"),
            svid_id: text("SUNDEW_SVID_ID"),
            svid_hint: text("SUNDEW_SVID_HINT"),
            svid_dir: path("SUNDEW_SVID_DIR"),
            manifest: path("SUNDEW_MANIFEST"),
            model: text("SUNDEW_MODEL"),
            system_prompt_file: path("SUNDEW_SYSTEM_PROMPT_FILE"),
            code: path("SUNDEW_CODE"),
            oidc_token_file: path("SUNDEW_OIDC_TOKEN_FILE"),
            oidc_token_command: text("SUNDEW_OIDC_TOKEN_COMMAND"),
            oidc_audience: text("SUNDEW_OIDC_AUDIENCE"),
            tpm2: text("SUNDEW_TPM2"),
            tpm2_event_log: path("SUNDEW_TPM2_EVENT_LOG"),
            sev_snp_certificate: path("SUNDEW_SEV_SNP_CERTIFICATE"),
            node_socket: text("SUNDEW_NODE_SOCKET"),
            task_socket: path("SUNDEW_TASK_SOCKET"),
            evidence_files: by_kind("SUNDEW_EVIDENCE_FILE_")
                .into_iter()
                .map(|(kind, path)| (kind, path.into()))
                .collect(),
            evidence_commands: by_kind("SUNDEW_EVIDENCE_COMMAND_")
                .into_iter()
                .map(|(kind, command)| (kind, command.to_string_lossy().into_owned()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variables = variables.iter();
        Settings::from_variables(
            &variables
                .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
                .collect(),
        )
    }

    #[test]
    fn each_setting_has_its_variable() {
        let found = settings(&[
            ("SUNDEW_BROKER", "127.0.0.1:7443"),
            ("SPIFFE_ENDPOINT_SOCKET", "unix:/run/agent.sock"),
            ("SUNDEW_SVID_DIR", "/svid"),
            ("SUNDEW_SVID_ID", "spiffe://a.example/agent"),
            ("SUNDEW_SVID_HINT", "internal"),
            ("SUNDEW_TPM2", "/dev/tpmrm0,0x81010002,0+4+7"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(found.broker.as_deref(), Some("127.0.0.1:7443"));
        let socket = found.endpoint_socket.as_deref();
        assert_eq!(socket, Some("unix:/run/agent.sock"));
        assert_eq!(found.svid_dir.as_deref(), Some(Path::new("/svid")));
        assert_eq!(found.svid_id.as_deref(), Some("spiffe://a.example/agent"));
        assert_eq!(found.svid_hint.as_deref(), Some("internal"));
        let tpm = found.tpm2.as_deref();
        assert_eq!(tpm, Some("/dev/tpmrm0,0x81010002,0+4+7"));
        assert_eq!(found.broker_id, None);
        assert!(found.evidence_files.is_empty() && found.evidence_commands.is_empty());
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let found = settings(&[
            ("SUNDEW_BROKER", ""),
            ("SUNDEW_CODE", ""),
            ("SUNDEW_EVIDENCE_FILE_NITRO", ""),
        ]);
        assert_eq!((found.broker, found.code), (None, None));
        assert!(found.evidence_files.is_empty());
    }

    #[test]
    fn variables_that_are_not_utf_8_do_no_harm() {
        use std::os::unix::ffi::OsStringExt as _;
        let bytes = || OsString::from_vec(b"/run/\xff".to_vec());
        let variables = ["SUNDEW_BROKER", "SUNDEW_SVID_DIR", "UNRELATED"];
        let variables = variables.map(|name| (name.to_owned(), bytes()));
        let found = Settings::from_variables(&variables.into_iter().collect());
        assert_eq!(found.broker.as_deref(), Some("/run/\u{fffd}"));
        assert_eq!(found.svid_dir, Some(PathBuf::from(bytes())));
    }

    #[test]
    fn kinds_of_evidence_are_the_rest_of_a_name_in_lower_case() {
        let found = settings(&[
            ("SUNDEW_EVIDENCE_FILE_GCP_CS", "/token"),
            ("SUNDEW_EVIDENCE_COMMAND_NITRO", "nitro-cli"),
            ("SUNDEW_EVIDENCE_COMMAND_", "no kind"),
        ]);
        let file = (String::from("gcp_cs"), PathBuf::from("/token"));
        let command = ("nitro".to_owned(), "nitro-cli".to_owned());
        assert!(found.evidence_files.into_iter().eq([file]));
        assert!(found.evidence_commands.into_iter().eq([command]));
    }
}
