//! `manifest`: a signed list of what the agent consists of, and what of it is measured here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use sundew_core::client::manifest::{
    Evidence, ManifestError, Measured, SignedManifest, Statement, signed_bytes,
};

use super::{CollectError, Collected, Collector, Context, hex, measure};
use crate::error::Error;

/// A signed manifest with a measurement of this process, signed by the SVID key.
///
/// A part that was not given is measured where the manifest says that it is, relative to the folder
/// of the manifest. The code is always given, or is this program: what a manifest calls code need
/// not be what runs.
pub struct ManifestCollector {
    envelope: SignedManifest,
    /// What the manifest says. The broker finds out who signed it.
    statement: Statement,
    /// The folder of the manifest.
    folder: PathBuf,
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
        let envelope: SignedManifest = serde_json::from_slice(&text).map_err(|e| fail(&e))?;
        let payload = envelope.unverified_payload().map_err(|e| fail(&e))?;
        Ok(Self {
            statement: Statement::read(&payload).map_err(|e| fail(&e))?,
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
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

    /// Returns what the manifest says, which nobody has verified here.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Returns where a part of the manifest is, if the manifest says so.
    #[must_use]
    pub fn place(&self, subject: &str) -> Option<PathBuf> {
        let mut subjects = self.statement.subject.iter();
        let subject = subjects.find(|known| known.name == subject)?;
        Some(self.folder.join(subject.path()?))
    }

    /// Measures this file or folder as the agent's code, instead of this program's executable.
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

impl ManifestCollector {
    /// Returns where each part is that was not given.
    fn places(&self) -> BTreeMap<String, PathBuf> {
        let subjects = self.statement.subject.iter();
        let mut places: BTreeMap<_, _> = subjects
            .filter(|subject| !self.subjects.contains_key(&subject.name))
            .filter_map(|subject| Some((subject.name.clone(), self.place(&subject.name)?)))
            .collect();
        places.insert("code".to_owned(), self.code.clone());
        places
    }

    /// Says which part is not what was signed: the broker would refuse without a word (P11).
    fn require_signed(&self, measured: &Measured) -> Result<(), CollectError> {
        self.statement.compare(measured).map_err(|error| {
            let place = match &error {
                ManifestError::Measurement(name) if name == "model" => {
                    return CollectError::Model(self.statement.predicate.model.clone());
                }
                ManifestError::Measurement(name) => self.places().remove(name),
                ManifestError::Binding
                | ManifestError::Envelope(_)
                | ManifestError::Expired
                | ManifestError::Malformed(_)
                | ManifestError::Type => None,
            };
            CollectError::Manifest(error, place.unwrap_or_else(|| "no known place".into()))
        })
    }
}

/// Measures each part at its place, beside those that are known.
fn measured_at(
    mut subjects: BTreeMap<String, String>,
    places: BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<String, String>, CollectError> {
    for (name, place) in places {
        let digest = measure(&place).map_err(|error| CollectError::Other(error.to_string()))?;
        subjects.insert(name, digest);
    }
    Ok(subjects)
}

impl Collector for ManifestCollector {
    fn kind(&self) -> &str {
        "manifest"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async move {
            let places = self.places();
            let known = self.subjects.clone();
            let look = tokio::task::spawn_blocking(move || measured_at(known, places));
            let measured = Measured {
                subjects: look.await??,
                model: self.model.clone(),
            };
            self.require_signed(&measured)?;
            let measured = serde_json::to_string(&measured)?;
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
