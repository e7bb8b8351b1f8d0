//! `sundew manifest`: what an agent consists of, measured and signed.
//!
//! The description (`description`) is a person's; the manifest is made of it for each release. What
//! brokers find in a manifest is in `kinds::manifest` of the attestation crate, and
//! `deploy/manifest.md` documents both forms.

mod description;
mod key;
mod program;
#[cfg(test)]
mod tests;
mod views;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sundew_core::client::manifest::{
    PAYLOAD_TYPE, SignedManifest as Envelope, Statement, Subject, pre_authentication_encoding,
};
use sundew_sdk::measure;

use crate::args::{InitManifest, ManifestCommand, ShowManifest, SignManifest, VerifyManifest};
use crate::input::{read_file, read_text};
use crate::output::{Output, escape, success_if, table};
use crate::timestamp::{format_timestamp, now_ms};
use description::{Description, folder_of};
pub(crate) use key::{PublicKey, Signer};
pub(crate) use program::{program_of, with_manifest};
use views::{DescribedView, ManifestView, RequirementView, SignedView, VerifiedPart, VerifiedView};

pub(crate) fn manifest(output: &Output, command: ManifestCommand) -> Result<ExitCode> {
    match command {
        ManifestCommand::Init(init) => describe(output, &init),
        ManifestCommand::Show(show) => say(output, &show),
        ManifestCommand::Sign(sign) => sign_file(output, &sign),
        ManifestCommand::Verify(verify) => verify_file(output, &verify),
    }
}

fn describe(output: &Output, init: &InitManifest) -> Result<ExitCode> {
    let name = || init.file.display().to_string();
    if init.file.exists() {
        bail!(
            "{0}: is there already: `sundew manifest sign {0}` measures its parts anew and signs; \
             edit it for other parts, or remove it first",
            name()
        );
    }
    let folder = folder_of(&init.file);
    let beside = || init.file.with_file_name("signer.pem");
    let key = init.key.clone().unwrap_or_else(beside);
    let made = init.key.is_none() && !key.exists();
    // The parts are looked at before anything is written.
    let description = |key: &Path| Description::new(init, key);
    let signer = if made {
        description(folder)?;
        Signer::write_new(&key)?
    } else {
        Signer::read(&key)?
    };
    let public = init.key.is_none().then(|| key.with_extension("pub"));
    if let Some(public) = &public {
        let written = std::fs::write(public, signer.public().pem());
        written.with_context(|| public.display().to_string())?;
    }
    std::fs::write(&init.file, description(&key)?.text()).with_context(name)?;
    output.show(&DescribedView {
        description: init.file.clone(),
        key,
        key_id: signer.public().id(),
        public,
        made,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn sign_file(output: &Output, sign: &SignManifest) -> Result<ExitCode> {
    let text = read_text(&sign.file)?;
    let (mut envelope, keys, target) = if text.trim_start().starts_with('{') {
        let envelope = envelope_of(&sign.file)?.0;
        (envelope, sign.keys.clone(), sign.file.clone())
    } else {
        let folder = folder_of(&sign.file);
        let name = || sign.file.display().to_string();
        let description = Description::parse(&text).with_context(name)?;
        let payload = serde_json::to_vec(&description.measured(folder)?)?;
        let beside = |key| sign.file.with_file_name(key);
        let own = description.key.iter().map(beside).collect();
        let keys = if sign.keys.is_empty() {
            own
        } else {
            sign.keys.clone()
        };
        let envelope = Envelope::unsigned(PAYLOAD_TYPE, &payload);
        (envelope, keys, sign.file.with_extension("json"))
    };
    if keys.is_empty() {
        bail!("no key: name one by --key, or as `key` in the description");
    }
    for key in &keys {
        add_signature(&mut envelope, &Signer::read(key)?)?;
    }
    let target = sign.output.clone().unwrap_or(target);
    write_envelope(&target, &envelope)?;
    let statement = Statement::read(&envelope.unverified_payload()?)?;
    output.show(&SignedView {
        manifest: ManifestView::new(statement, &envelope)?,
        file: target,
        keys,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Signs what an envelope has. A key that signs once more is still one: its new signature takes the
/// place of the one before.
pub(crate) fn add_signature(envelope: &mut Envelope, signer: &Signer) -> Result<()> {
    let payload = envelope.unverified_payload()?;
    let own = Some(signer.public().id());
    envelope.signatures.retain(|one| one.keyid != own);
    let message = pre_authentication_encoding(&envelope.payload_type, &payload);
    envelope.add(&signer.public().id(), &signer.sign(&message)?);
    Ok(())
}

/// Writes an envelope in one step: who looks meanwhile sees the old one or the new.
pub(crate) fn write_envelope(path: &Path, envelope: &Envelope) -> Result<()> {
    let name = || path.display().to_string();
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec_pretty(envelope)?).with_context(name)?;
    std::fs::rename(&fresh, path).with_context(name)
}

fn verify_file(output: &Output, verify: &VerifyManifest) -> Result<ExitCode> {
    let (envelope, statement) = envelope_of(&verify.file)?;
    let keys = verify.keys.iter().map(|key| PublicKey::read(key));
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let mut problems = Vec::new();
    let verifying = keys
        .iter()
        .map(PublicKey::verifying)
        .collect::<Result<Vec<_>>>()?;
    if let Err(error) = envelope.verify(PAYLOAD_TYPE, &verifying, verify.threshold) {
        problems.push(error.to_string());
    }
    if statement
        .predicate
        .expires_ms
        .is_some_and(|end| now_ms() >= end)
    {
        problems.push("manifest has expired".to_owned());
    }
    let folder = folder_of(&verify.file);
    let states: Vec<_> = match verify.signatures_only {
        true => Vec::new(),
        false => statement
            .subject
            .iter()
            .map(|subject| state(folder, subject))
            .collect(),
    };
    for (subject, state) in statement.subject.iter().zip(&states) {
        if !matches!(*state, "same" | "not measured") {
            problems.push(format!("{}: {state}", escape(&subject.name, 64)));
        }
    }
    let parts = statement.subject.iter().zip(&states);
    let part = |(part, state): (&Subject, &&'static str)| VerifiedPart {
        subject: part.name.clone(),
        state,
        place: place(part),
    };
    let view = VerifiedView {
        parts: parts.map(part).collect(),
        file: verify.file.clone(),
        valid: problems.is_empty(),
        problems,
        validity: expiry(&statement),
    };
    output.show(&view)?;
    Ok(success_if(view.valid))
}

/// Whether a part is what was signed.
fn state(folder: &Path, subject: &Subject) -> &'static str {
    let Some(path) = subject.path() else {
        return "not measured";
    };
    match measure(&folder.join(path)) {
        Ok(digest) if subject.digest.get("sha256") == Some(&digest) => "same",
        Ok(_) => "differs",
        Err(_) => "cannot be read",
    }
}

fn say(output: &Output, show: &ShowManifest) -> Result<ExitCode> {
    let (envelope, statement) = envelope_of(&show.file)?;
    if show.requirement {
        let keys = show.keys.iter().map(|key| Ok(PublicKey::read(key)?.pem()));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        output.show(&RequirementView {
            requirement: requirement_json(&statement, &keys),
            lines: requirement_lines(&statement, &keys),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    output.show(&ManifestView::new(statement, &envelope)?)?;
    Ok(ExitCode::SUCCESS)
}

/// What a registration says to take manifests like this one.
fn requirement_json(statement: &Statement, keys: &[String]) -> Value {
    match statement.predicate.model.as_str() {
        "" => json!({ "kind": "manifest", "keys": keys }),
        model => json!({ "kind": "manifest", "keys": keys, "claims": { "model": [model] } }),
    }
}

/// [`requirement_json`] as lines of a registration's file.
fn requirement_lines(statement: &Statement, keys: &[String]) -> Vec<String> {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| format!("\"\"\"{key}\"\"\""))
        .collect();
    let mut lines = vec![
        "[[workload.evidence]]".to_owned(),
        "kind = \"manifest\"".to_owned(),
        format!("keys = [{}]", keys.join(", ")),
    ];
    if !statement.predicate.model.is_empty() {
        let model = toml::Value::from(statement.predicate.model.as_str());
        lines.push(format!("claims = {{ model = [{model}] }}"));
    }
    lines
}

fn subject_lines(statement: &Statement) -> Vec<String> {
    let row = |part: &Subject| {
        let digest = part.digest.get("sha256").map_or("-", String::as_str);
        vec![escape(&part.name, 64), escape(digest, 64), place(part)]
    };
    let rows: Vec<_> = statement.subject.iter().map(row).collect();
    table(&["PART", "SHA-256", "PATH"], &rows)
}

fn place(part: &Subject) -> String {
    part.path()
        .map_or("-".to_owned(), |path| escape(&path.to_string_lossy(), 256))
}

fn expiry(statement: &Statement) -> String {
    match statement.predicate.expires_ms {
        Some(end) => format!("good until {}", format_timestamp(end)),
        None => "good for ever".to_owned(),
    }
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}

/// Reads a manifest, and what it says; nothing is verified.
fn envelope_of(path: &Path) -> Result<(Envelope, Statement)> {
    let read = || -> Result<_> {
        let envelope: Envelope = serde_json::from_slice(&read_file(path)?)
            .context("not a signed manifest (`sundew manifest sign`)")?;
        let statement = Statement::read(&envelope.unverified_payload()?)?;
        Ok((envelope, statement))
    };
    read().with_context(|| path.display().to_string())
}

/// Signs a manifest of one program with a new key, for `sundew demo`. Returns the public key in PEM.
pub(crate) fn sign_program(file: &Path, name: &str, model: &str, program: &Path) -> Result<String> {
    let statement = json!({
        "_type": sundew_core::client::manifest::STATEMENT_TYPE,
        "subject": [{ "name": "code", "digest": { "sha256": measure(program)? } }],
        "predicateType": sundew_core::client::manifest::PREDICATE_TYPE,
        "predicate": { "name": name, "model": model },
    });
    let mut envelope = Envelope::unsigned(PAYLOAD_TYPE, statement.to_string().as_bytes());
    let signer = Signer::write_new(&file.with_extension("pem"))?;
    add_signature(&mut envelope, &signer)?;
    write_envelope(file, &envelope)?;
    Ok(signer.public().pem())
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<DescribedView>(),
        crate::shapes::of::<ManifestView>(),
        crate::shapes::of::<RequirementView>(),
        crate::shapes::of::<SignedView>(),
        crate::shapes::of::<VerifiedView>(),
    ]
}
