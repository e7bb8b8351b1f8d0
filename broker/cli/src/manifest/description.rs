//! The description of an agent: which files it consists of. A person writes or keeps it, and each
//! release is signed by it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use sundew_core::client::manifest::{
    Annotations, PREDICATE_TYPE, Predicate, STATEMENT_TYPE, Statement, Subject,
};
use sundew_sdk::{Ttl, measure};

use crate::args::InitManifest;
use crate::timestamp::now_ms;

/// What is written above a new description.
const HEADING: &str = "\
# What the agent consists of. `sundew manifest sign` measures these files and folders, and signs what
# it found. Paths are relative to this file.
";

/// A description, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) name: String,
    #[serde(default)]
    pub(super) model: String,
    pub(super) code: PathBuf,
    pub(super) system_prompt: Option<PathBuf>,
    pub(super) valid_for: Option<Ttl>,
    pub(super) key: Option<PathBuf>,
    #[serde(default)]
    pub(super) tools: BTreeMap<String, PathBuf>,
    #[serde(default)]
    pub(super) mcp: BTreeMap<String, PathBuf>,
}

impl Description {
    /// Reads a description.
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("not a description of an agent (`sundew manifest init`)")
    }

    /// Describes what the command line names, with paths relative to the description.
    pub(super) fn new(init: &InitManifest, key: &Path) -> Result<Self> {
        let folder = folder_of(&init.file);
        let within = |path: &Path| within(folder, path);
        let parts = |list: &[(String, PathBuf)]| -> Result<BTreeMap<_, _>> {
            let parts = list.iter();
            parts
                .map(|(name, path)| Ok((name.clone(), within(path)?)))
                .collect()
        };
        let stem = init.code.file_stem().unwrap_or_default();
        let name = init.name.clone();
        Ok(Self {
            name: name.unwrap_or_else(|| stem.to_string_lossy().into_owned()),
            model: init.model.clone().unwrap_or_default(),
            code: within(&init.code)?,
            system_prompt: init.system_prompt.as_deref().map(within).transpose()?,
            valid_for: init.valid_for,
            key: Some(relative(folder, key)?),
            tools: parts(&init.tools)?,
            mcp: parts(&init.mcp)?,
        })
    }

    /// The text of a description for people.
    pub(super) fn text(&self) -> String {
        let mut out = HEADING.to_owned();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "{name} = {}", toml::Value::from(value));
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        line("name", &self.name);
        if !self.model.is_empty() {
            line("model", &self.model);
        }
        line("code", &text(&self.code));
        if let Some(prompt) = &self.system_prompt {
            line("system_prompt", &text(prompt));
        }
        if let Some(valid_for) = self.valid_for {
            line("valid_for", &valid_for.to_string());
        }
        if let Some(key) = &self.key {
            line("key", &text(key));
        }
        for (heading, parts) in [("tools", &self.tools), ("mcp", &self.mcp)] {
            if !parts.is_empty() {
                let _ = writeln!(out, "\n[{heading}]");
            }
            for (name, path) in parts {
                let name = toml::Value::from(name.as_str());
                let _ = writeln!(out, "{name} = {}", toml::Value::from(text(path)));
            }
        }
        out
    }

    /// The parts by the names of their subjects.
    fn parts(&self) -> Vec<(String, &Path)> {
        let mut parts = vec![("code".to_owned(), self.code.as_path())];
        parts.extend(
            self.system_prompt
                .as_deref()
                .map(|path| ("system-prompt".to_owned(), path)),
        );
        for (prefix, list) in [("tool", &self.tools), ("mcp", &self.mcp)] {
            let named = list.iter();
            parts.extend(named.map(|(name, path)| (format!("{prefix}:{name}"), path.as_path())));
        }
        parts
    }

    /// Measures every part below the folder of the description.
    pub(super) fn measured(&self, folder: &Path) -> Result<Statement> {
        let mut subject = Vec::new();
        for (name, path) in self.parts() {
            let path = within(folder, &folder.join(path))?;
            let digest = measure(&folder.join(&path)).with_context(|| name.clone())?;
            let path = path
                .to_str()
                .with_context(|| format!("{name}: a path that is not UTF-8"))?;
            subject.push(Subject {
                name,
                digest: [("sha256".to_owned(), digest)].into(),
                annotations: Some(Annotations {
                    path: path.to_owned(),
                }),
            });
        }
        let expires_ms = self
            .valid_for
            .map(|ttl| now_ms().saturating_add(ttl.as_ms()));
        Ok(Statement {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject,
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                name: self.name.clone(),
                model: self.model.clone(),
                expires_ms,
            },
        })
    }
}

/// The folder of a file.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The path of a part, relative to the folder of the manifest: there the agent finds the part again.
fn within(folder: &Path, path: &Path) -> Result<PathBuf> {
    let name = || path.display().to_string();
    let (part, whole) = (
        path.canonicalize().with_context(name)?,
        folder.canonicalize()?,
    );
    match part.strip_prefix(&whole) {
        // The folder itself would have the manifest in it.
        Ok(rest)
            if rest
                .components()
                .any(|part| matches!(part, Component::Normal(_))) =>
        {
            Ok(rest.to_owned())
        }
        _ => bail!(
            "{}: must lie in {}, where the manifest is, and not be all of it",
            name(),
            whole.display()
        ),
    }
}

/// A path as the description names it: relative to it where that can be.
fn relative(folder: &Path, path: &Path) -> Result<PathBuf> {
    let path = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    Ok(path
        .strip_prefix(folder.canonicalize()?)
        .map(Path::to_owned)
        .unwrap_or(path))
}
