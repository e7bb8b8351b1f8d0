//! `manifest`: a signed list of what the agent consists of, and what of it is measured here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use sundew_core::client::manifest::{Evidence, Measured, SignedManifest, signed_bytes};

use super::{CollectError, Collected, Collector, Context, hex};
use crate::error::Error;

/// A signed manifest with a measurement of this process, signed by the SVID key.
pub struct ManifestCollector {
    envelope: SignedManifest,
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

    /// Says which model the agent uses.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        model.clone_into(&mut self.model);
        self
    }

    /// Measures this file as the agent's code, instead of this program's executable.
    #[must_use]
    pub fn code(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.code);
        self
    }

    /// Adds one more subject of the manifest, named `system-prompt`, `tool:<name>` or
    /// `mcp:<name>`.
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
                .map_err(CollectError::file(&self.code))?;
            let mut subjects = self.subjects.clone();
            let digest = tokio::task::spawn_blocking(move || hex_digest(&code)).await?;
            subjects.insert("code".to_owned(), digest);
            let measured = serde_json::to_string(&Measured {
                subjects,
                model: self.model.clone(),
            })?;
            let signature =
                STANDARD.encode(context.sign(&signed_bytes(context.binding, &measured))?);
            Ok(serde_json::to_vec(&Evidence {
                envelope: self.envelope.clone(),
                measured,
                signature,
            })?)
        })
    }
}

fn hex_digest(content: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, content).as_ref())
}
