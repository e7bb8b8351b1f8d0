//! What the commands of manifests tell.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use sundew_core::client::hex;
use sundew_core::client::manifest::{SignedManifest as Envelope, Statement};

use super::{expiry, names, subject_lines};
use crate::output::{View, escape, table};

/// A description that was written.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct DescribedView {
    pub(super) description: PathBuf,
    pub(super) key: PathBuf,
    pub(super) key_id: String,
    /// The file with the public half of the key, if it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) public: Option<PathBuf>,
    /// Whether the key is new.
    pub(super) made: bool,
}

impl View for DescribedView {
    const KIND: &'static str = "manifest_described";

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(public) = &self.public {
            let word = if self.made { "new key" } else { "key" };
            let (key, public) = (self.key.display(), public.display());
            lines.push(format!(
                "{key}: {word}, to be kept from agents; its public half is {public}"
            ));
        }
        let name = self.description.display();
        lines.push(format!("{name}: next, `sundew manifest sign {name}`"));
        lines
    }
}

/// What a manifest says, and who seems to have signed it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ManifestView {
    /// SHA-256 of the statement.
    digest: String,
    /// As it is signed.
    statement: Value,
    key_ids: Vec<Option<String>>,
    #[serde(skip)]
    #[cfg_attr(test, schemars(skip))]
    read: Statement,
}

impl ManifestView {
    pub(super) fn new(read: Statement, envelope: &Envelope) -> Result<Self> {
        let payload = envelope.unverified_payload()?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &payload);
        let signatures = envelope.signatures.iter();
        Ok(Self {
            digest: hex(digest.as_ref()),
            statement: serde_json::to_value(&read)?,
            key_ids: signatures.map(|one| one.keyid.clone()).collect(),
            read,
        })
    }
}

impl View for ManifestView {
    const KIND: &'static str = "manifest";

    fn lines(&self) -> Vec<String> {
        let signers = self.key_ids.iter();
        let signers = signers.map(|id| id.as_deref().unwrap_or("a key without a name"));
        let signers: Vec<_> = signers.map(|id| escape(id, 128)).collect();
        let model = match self.read.predicate.model.as_str() {
            "" => "none is named".to_owned(),
            model => escape(model, 128),
        };
        let mut lines = vec![
            format!("name      {}", escape(&self.read.predicate.name, 128)),
            format!("model     {model}"),
            format!("validity  {}", expiry(&self.read)),
            format!("digest    {}", self.digest),
            format!("signed    {} (not verified)", signers.join(", ")),
        ];
        lines.extend(subject_lines(&self.read));
        lines
    }
}

/// A manifest that was signed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct SignedView {
    #[serde(flatten)]
    pub(super) manifest: ManifestView,
    pub(super) file: PathBuf,
    /// The files of the keys.
    pub(super) keys: Vec<PathBuf>,
}

impl View for SignedView {
    const KIND: &'static str = "manifest_signed";

    fn lines(&self) -> Vec<String> {
        let read = &self.manifest.read;
        let (file, keys) = (self.file.display(), names(&self.keys));
        let mut lines = vec![format!("{file}: signed with {keys}; {}", expiry(read))];
        lines.extend(subject_lines(read));
        lines
    }
}

/// What a registration says to take manifests like one.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct RequirementView {
    /// A piece of `evidence` of a registration.
    pub(super) requirement: Value,
    /// The same for a registration's file.
    #[serde(skip)]
    pub(super) lines: Vec<String>,
}

impl View for RequirementView {
    const KIND: &'static str = "manifest_requirement";

    fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }
}

/// Whether a manifest is good, and its parts are what was signed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct VerifiedView {
    pub(super) file: PathBuf,
    pub(super) valid: bool,
    pub(super) problems: Vec<String>,
    pub(super) parts: Vec<VerifiedPart>,
    #[serde(skip)]
    pub(super) validity: String,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct VerifiedPart {
    pub(super) subject: String,
    pub(super) state: &'static str,
    #[serde(skip)]
    pub(super) place: String,
}

impl View for VerifiedView {
    const KIND: &'static str = "manifest_verified";

    fn lines(&self) -> Vec<String> {
        let row = |part: &VerifiedPart| {
            let name = escape(&part.subject, 64);
            vec![name, part.state.to_owned(), part.place.clone()]
        };
        let rows: Vec<_> = self.parts.iter().map(row).collect();
        let mut lines = table(&["PART", "STATE", "PATH"], &rows);
        let name = self.file.display();
        match self.valid {
            true => lines.push(format!("{name}: valid; {}", self.validity)),
            false => lines.extend(
                self.problems
                    .iter()
                    .map(|problem| format!("{name}: {problem}")),
            ),
        }
        lines
    }
}
