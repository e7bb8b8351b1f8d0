//! The collectors that settings choose.

use std::sync::Arc;

use super::command::AWS_IID;
use super::oidc::GITHUB;
use super::{
    Collector, EvidenceCollector, LocalUserCollector, ManifestCollector, OidcCollector,
    ProcessCollector, Tpm2Collector, TsmCollector, TsmKind,
};
use crate::error::Error;
use crate::settings::Settings;

/// Returns the collectors that these settings choose, and those of what the machine may be. Those
/// that were set come first. `in_github` says whether this is a GitHub Actions job that may ask for
/// OIDC tokens.
pub(super) fn collectors(
    settings: &Settings,
    in_github: bool,
) -> Result<Vec<Arc<dyn Collector>>, Error> {
    let mut collectors: Vec<Arc<dyn Collector>> = Vec::new();
    if let Some(manifest) = manifest(settings)? {
        collectors.push(Arc::new(manifest));
    }
    if let Some(oidc) = oidc(settings, in_github) {
        collectors.push(Arc::new(oidc));
    }
    if let Some(tpm) = tpm2(settings)? {
        collectors.push(Arc::new(tpm));
    }
    if let Some(socket) = &settings.node_socket {
        collectors.push(Arc::new(ProcessCollector::new(socket)));
    }
    if let Some(socket) = &settings.endpoint_socket {
        collectors.push(Arc::new(LocalUserCollector::new(socket)));
    }
    for (kind, path) in &settings.evidence_files {
        collectors.push(Arc::new(EvidenceCollector::file(kind, path)));
    }
    for (kind, command) in &settings.evidence_commands {
        collectors.push(Arc::new(EvidenceCollector::command(kind, command)));
    }
    // What the machine itself can show, unless something else was set for the kind.
    for collector in of_the_machine(settings) {
        if collectors
            .iter()
            .all(|other| other.kind() != collector.kind())
        {
            collectors.push(collector);
        }
    }
    Ok(collectors)
}

/// Tells what to set for a kind that nothing collects.
pub(super) fn hint(kind: &str) -> String {
    let own = match kind {
        "local_user" => "SPIFFE_ENDPOINT_SOCKET to the broker's own socket",
        "manifest" => "SUNDEW_MANIFEST",
        "oidc" => "SUNDEW_OIDC_TOKEN_FILE or SUNDEW_OIDC_TOKEN_COMMAND",
        "process" => "SUNDEW_NODE_SOCKET",
        "tpm2" => "SUNDEW_TPM2 (such as /dev/tpmrm0,0x81010002,0+4+7)",
        other => return format!("; set SUNDEW_EVIDENCE_COMMAND_{}", other.to_uppercase()),
    };
    format!("; set {own}")
}

fn manifest(settings: &Settings) -> Result<Option<ManifestCollector>, Error> {
    let Some(path) = &settings.manifest else {
        return Ok(None);
    };
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
    Ok(Some(manifest))
}

pub(super) fn oidc(settings: &Settings, in_github: bool) -> Option<OidcCollector> {
    match (&settings.oidc_token_file, &settings.oidc_token_command) {
        (Some(path), _) => Some(OidcCollector::file(path)),
        (None, Some(command)) => Some(OidcCollector::command(command)),
        (None, None) => in_github.then(|| OidcCollector::command(GITHUB)),
    }
}

fn tpm2(settings: &Settings) -> Result<Option<Tpm2Collector>, Error> {
    let Some(text) = &settings.tpm2 else {
        return Ok(None);
    };
    let tpm = Tpm2Collector::parse(text).map_err(|problem| Error::Evidence {
        kind: "tpm2".to_owned(),
        problem: format!("SUNDEW_TPM2: {problem}"),
    })?;
    Ok(Some(match &settings.tpm2_event_log {
        Some(path) => tpm.event_log(path),
        None => tpm,
    }))
}

fn of_the_machine(settings: &Settings) -> [Arc<dyn Collector>; 3] {
    let snp = TsmCollector::new(TsmKind::SevSnp);
    [
        Arc::new(match &settings.sev_snp_certificate {
            Some(path) => snp.certificate(path),
            None => snp,
        }),
        Arc::new(TsmCollector::new(TsmKind::Tdx)),
        Arc::new(EvidenceCollector::command("aws_iid", AWS_IID)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(settings: &Settings, in_github: bool) -> Vec<String> {
        let chosen = collectors(settings, in_github).expect("collectors");
        chosen.iter().map(|c| c.kind().to_owned()).collect()
    }

    #[test]
    fn what_is_set_comes_before_what_the_machine_may_show() {
        let nothing = Settings::default();
        assert_eq!(kinds(&nothing, false), ["sev_snp", "tdx", "aws_iid"]);
        assert_eq!(kinds(&nothing, true), ["oidc", "sev_snp", "tdx", "aws_iid"]);
        let settings = Settings {
            oidc_token_command: Some("print-token".to_owned()),
            node_socket: Some("unix:/node.sock".to_owned()),
            tpm2: Some("/dev/tpmrm0,0x81010002,0+4+7".to_owned()),
            evidence_files: [("nitro".to_owned(), "/nitro".into())].into(),
            // Replaces the machine's own collector of this kind.
            evidence_commands: [("tdx".to_owned(), "print-quote".to_owned())].into(),
            ..Settings::default()
        };
        let expected = [
            "oidc", "tpm2", "process", "nitro", "tdx", "sev_snp", "aws_iid",
        ];
        assert_eq!(kinds(&settings, true), expected);
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_an_error_and_not_left_out() {
        for (tpm2, manifest) in [
            (Some("/dev/tpmrm0".to_owned()), None),
            (Some("/dev/tpmrm0,81010002,0".to_owned()), None),
            (Some("/dev/tpmrm0,0x81010002,24".to_owned()), None),
            (Some("/dev/tpmrm0,0x81010002,0,".to_owned()), None),
            (None, Some("/nowhere".into())),
        ] {
            let settings = Settings {
                tpm2,
                manifest,
                ..Settings::default()
            };
            let chosen = collectors(&settings, false);
            assert!(matches!(chosen, Err(Error::Evidence { .. })));
        }
    }
}
