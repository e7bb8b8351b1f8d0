//! Collectors: what the agent can show of itself. One per kind of evidence.

mod command;
mod process;
mod tpm2;
mod tsm;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use rustls_pki_types::PrivateKeyDer;
use sundew_core::client::manifest::{Evidence, Measured, signed_bytes};
use sundew_core::client::{Binding, hex};

use crate::error::Error;
use crate::identity::{self, Identity};
use crate::settings::Settings;
pub use command::EvidenceCollector;
use command::Source;
pub use process::ProcessCollector;
pub use tpm2::{Tpm2Collector, TpmKey};
pub use tsm::{TsmCollector, TsmKind};

/// What a collector gets to work with.
pub struct Context<'a> {
    /// What fresh evidence must be bound to.
    pub binding: &'a Binding,
    /// The audience that tokens for this broker must have.
    pub audience: &'a str,
    key: Option<&'a PrivateKeyDer<'static>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        binding: &'a Binding,
        audience: &'a str,
        key: Option<&'a PrivateKeyDer<'static>>,
    ) -> Self {
        Self {
            binding,
            audience,
            key,
        }
    }

    /// A signature of the SVID key: ECDSA in ASN.1 DER, or Ed25519.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        identity::sign(
            self.key
                .ok_or("there is no SVID here whose key could sign")?,
            message,
        )
    }
}

/// What [`Collector::collect`] returns.
pub type Collected<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;

/// Collects one kind of evidence.
pub trait Collector: Send + Sync {
    /// The kind, such as `oidc`.
    fn kind(&self) -> &str;
    /// Collects it anew, for one challenge.
    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a>;
}

pub(crate) fn from_settings(settings: &Settings) -> Result<Vec<Arc<dyn Collector>>, Error> {
    let mut collectors: Vec<Arc<dyn Collector>> = Vec::new();
    if let Some(path) = &settings.manifest {
        let mut manifest = ManifestCollector::open(path)?;
        if let Some(model) = &settings.model {
            manifest = manifest.model(model);
        }
        if let Some(prompt) = &settings.system_prompt_file {
            let text = std::fs::read(prompt).map_err(|e| Error::Evidence {
                kind: "manifest".to_owned(),
                problem: format!("{}: {e}", prompt.display()),
            })?;
            manifest = manifest.subject("system-prompt", &text);
        }
        if let Some(code) = &settings.code {
            manifest = manifest.code(code);
        }
        collectors.push(Arc::new(manifest));
    }
    let github = std::env::var("ACTIONS_ID_TOKEN_REQUEST_URL").is_ok();
    if let Some(path) = &settings.oidc_token_file {
        collectors.push(Arc::new(OidcCollector::file(path)));
    } else if let Some(command) = &settings.oidc_token_command {
        collectors.push(Arc::new(OidcCollector::command(command)));
    } else if github {
        // Fresh for each challenge, with the broker's audience.
        let script = "curl -fsS -H \"Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN\" \"$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$SUNDEW_AUDIENCE\" | sed -n 's/.*\"value\":\"\\([^\"]*\\)\".*/\\1/p'";
        collectors.push(Arc::new(OidcCollector::command(script)));
    }
    if let Some(text) = &settings.tpm2 {
        let tpm = Tpm2Collector::parse(text).map_err(|problem| Error::Evidence {
            kind: "tpm2".to_owned(),
            problem: format!("SUNDEW_TPM2: {problem}"),
        })?;
        collectors.push(Arc::new(match &settings.tpm2_event_log {
            Some(path) => tpm.event_log(path),
            None => tpm,
        }));
    }
    if let Some(socket) = &settings.node_socket {
        collectors.push(Arc::new(ProcessCollector::new(socket)));
    }
    for (kind, path) in &settings.evidence_files {
        collectors.push(Arc::new(EvidenceCollector::file(kind, path)));
    }
    for (kind, command) in &settings.evidence_commands {
        collectors.push(Arc::new(EvidenceCollector::command(kind, command)));
    }
    // What the machine itself can show, unless something else was set for it.
    let snp = TsmCollector::new(TsmKind::SevSnp);
    let own: [Arc<dyn Collector>; 3] = [
        Arc::new(match &settings.sev_snp_certificate {
            Some(path) => snp.certificate(path),
            None => snp,
        }),
        Arc::new(TsmCollector::new(TsmKind::Tdx)),
        Arc::new(EvidenceCollector::command("aws_iid", command::AWS_IID)),
    ];
    for collector in own {
        if collectors
            .iter()
            .all(|other| other.kind() != collector.kind())
        {
            collectors.push(collector);
        }
    }
    Ok(collectors)
}

/// Collects one piece of evidence away from any broker, bound to these 32 bytes; kinds that the
/// SVID key signs need `identity`.
pub async fn collect(
    settings: &Settings,
    kind: &str,
    binding: [u8; 32],
    audience: &str,
    identity: Option<&Identity>,
) -> Result<Vec<u8>, Error> {
    let fail = |problem: String| Error::Evidence {
        kind: kind.to_owned(),
        problem,
    };
    let collectors = from_settings(settings)?;
    let collector = collectors
        .iter()
        .find(|c| c.kind() == kind)
        .ok_or_else(|| fail(format!("nothing here collects it{}", hint(kind))))?;
    let binding = Binding::from_bytes(binding);
    collector
        .collect(&Context::new(
            &binding,
            audience,
            identity.map(|identity| &identity.key),
        ))
        .await
        .map_err(fail)
}

/// What to set for a kind that nothing collects.
pub(crate) fn hint(kind: &str) -> String {
    let own = match kind {
        "manifest" => "SUNDEW_MANIFEST",
        "oidc" => "SUNDEW_OIDC_TOKEN_FILE or SUNDEW_OIDC_TOKEN_COMMAND",
        "process" => "SUNDEW_NODE_SOCKET",
        "tpm2" => "SUNDEW_TPM2 (such as /dev/tpmrm0,0x81010002,0+4+7)",
        other => return format!("; set SUNDEW_EVIDENCE_COMMAND_{}", other.to_uppercase()),
    };
    format!("; set {own}")
}

/// The kinds of evidence that these settings let an agent collect, without looking whether this
/// machine can.
pub fn kinds(settings: &Settings) -> Result<Vec<String>, Error> {
    Ok(from_settings(settings)?
        .iter()
        .map(|collector| collector.kind().to_owned())
        .collect())
}

/// An OIDC token from a file (read anew each time) or from a command.
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

/// A signed manifest, and what is measured of this process.
pub struct ManifestCollector {
    envelope: sundew_core::client::manifest::SignedManifest,
    subjects: BTreeMap<String, String>,
    model: String,
    code: PathBuf,
}

impl ManifestCollector {
    /// Reads the envelope that the platform team signed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::Evidence {
            kind: "manifest".to_owned(),
            problem: format!("{}: {e}", path.display()),
        };
        let text = std::fs::read(path).map_err(|e| fail(&e))?;
        let envelope = serde_json::from_slice(&text).map_err(|e| fail(&e))?;
        Ok(Self {
            envelope,
            subjects: BTreeMap::new(),
            model: String::new(),
            code: PathBuf::from("/proc/self/exe"),
        })
    }

    /// The model in use.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        model.clone_into(&mut self.model);
        self
    }

    /// Another file than this program's executable is the agent's code.
    #[must_use]
    pub fn code(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.code);
        self
    }

    /// Something else that the manifest lists: `system-prompt`, `tool:<name>`, `mcp:<name>`.
    #[must_use]
    pub fn subject(mut self, name: &str, content: &[u8]) -> Self {
        self.subjects.insert(name.to_owned(), hex_digest(content));
        self
    }
}

impl Collector for ManifestCollector {
    fn kind(&self) -> &str {
        "manifest"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async move {
            let code = tokio::fs::read(&self.code)
                .await
                .map_err(|e| format!("{}: {e}", self.code.display()))?;
            let mut subjects = self.subjects.clone();
            let digest = tokio::task::spawn_blocking(move || hex_digest(&code))
                .await
                .map_err(|e| e.to_string())?;
            subjects.insert("code".to_owned(), digest);
            let measured = serde_json::to_string(&Measured {
                subjects,
                model: self.model.clone(),
            })
            .map_err(|e| e.to_string())?;
            let signature =
                STANDARD.encode(context.sign(&signed_bytes(context.binding, &measured))?);
            serde_json::to_vec(&Evidence {
                envelope: self.envelope.clone(),
                measured,
                signature,
            })
            .map_err(|e| e.to_string())
        })
    }
}

fn hex_digest(content: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, content).as_ref())
}
