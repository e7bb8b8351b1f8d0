//! The section `traces`: where spans are sent to, and how many.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use reqwest::Url;
use serde::Deserialize;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::TracesError;
use crate::peer::files::{read_private, read_public};

/// For how long a collector is given time to take a batch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The section as it is written.
#[derive(Deserialize)]
#[serde(rename = "Traces", deny_unknown_fields)]
pub(crate) struct FileTraces {
    endpoint: String,
    headers_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default = "all")]
    sample: f64,
}

fn all() -> f64 {
    1.0
}

/// Where spans are sent to: OTLP over gRPC.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// The URL of the collector: `https`, or `http` on this machine.
    pub endpoint: String,
    /// A file with a header of each call to the collector on each line, as `name=value`.
    pub headers_file: Option<PathBuf>,
    /// The certificates that the collector's is checked against; without it, those of the web.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate and the key that the collector is shown.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The part of the traces that begin here of which spans are sent, between 0 and 1. Whoever
    /// brings a trace along says by it whether spans are sent.
    pub sample: f64,
}

impl FileTraces {
    /// What the program needs, if the section is right; adds what is wrong, by key.
    pub(crate) fn checked(self, errors: &mut Vec<String>) -> Option<TracesConfig> {
        let before = errors.len();
        if !is_private(&self.endpoint) {
            errors.push(
                "traces.endpoint: must be https, or http on this machine: http://127.0.0.1:4317"
                    .to_owned(),
            );
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            errors.push("traces: certificate_file and key_file go together".to_owned());
        }
        if !(0.0..=1.0).contains(&self.sample) {
            errors.push("traces.sample: must be between 0 and 1".to_owned());
        }
        (errors.len() == before).then_some(TracesConfig {
            endpoint: self.endpoint,
            headers_file: self.headers_file,
            ca_file: self.ca_file,
            client: self.certificate_file.zip(self.key_file),
            sample: self.sample,
        })
    }
}

/// Whether nobody on a network reads what is sent to this URL.
fn is_private(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else {
        return false;
    };
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

impl TracesConfig {
    /// What sends spans there. It connects when there is something to send.
    pub(super) fn exporter(&self) -> Result<SpanExporter, TracesError> {
        let mut builder = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&self.endpoint)
            .with_timeout(TIMEOUT)
            .with_metadata(self.headers()?);
        if self.endpoint.starts_with("https://") {
            builder = builder.with_tls_config(self.tls()?);
        }
        Ok(builder.build()?)
    }

    fn headers(&self) -> Result<MetadataMap, TracesError> {
        let mut headers = MetadataMap::new();
        let Some(file) = &self.headers_file else {
            return Ok(headers);
        };
        let bytes = read_private(file)?;
        let text = String::from_utf8_lossy(&bytes);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || TracesError::Header(number.saturating_add(1));
            let (name, value) = line.split_once('=').ok_or_else(wrong)?;
            let name = name.trim().to_ascii_lowercase();
            let name = MetadataKey::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let mut value = MetadataValue::try_from(value.trim()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn tls(&self) -> Result<ClientTlsConfig, TracesError> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_file {
            Some(file) => tls.ca_certificate(Certificate::from_pem(read_public(file)?)),
            None => tls.with_webpki_roots(),
        };
        if let Some((certificate, key)) = &self.client {
            let key = read_private(key)?;
            tls = tls.identity(Identity::from_pem(read_public(certificate)?, &*key));
        }
        Ok(tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        let file: FileTraces = toml::from_str(text).unwrap();
        file.checked(&mut errors);
        errors
    }

    #[test]
    fn o3_traces_go_over_tls_or_stay_on_this_machine() {
        for private in [
            "https://collector.example:4317",
            "http://localhost:4317",
            "http://127.0.0.1:4317",
            "http://[::1]:4317",
        ] {
            assert!(problems(&format!("endpoint = \"{private}\"")).is_empty());
        }
        for other in [
            "",
            "collector:4317",
            "http://collector.example:4317",
            "http://127.0.0.1.example:4317",
            "ftp://localhost",
        ] {
            let problems = problems(&format!("endpoint = \"{other}\""));
            assert!(problems[0].starts_with("traces.endpoint: "), "{other}");
        }
    }

    #[test]
    fn o3_what_is_wrong_with_traces_is_told_by_key_and_at_once() {
        let wrong = "endpoint = \"x\"\nkey_file = \"k\"\nsample = 1.5";
        assert_eq!(problems(wrong).len(), 3);
        assert!(toml::from_str::<FileTraces>("endpoint = \"x\"\nheaders = \"a=b\"").is_err());
    }

    #[test]
    fn o3_headers_are_read_line_by_line_and_a_wrong_one_is_told_without_its_text() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            TracesConfig {
                endpoint: String::new(),
                headers_file: Some(file.clone()),
                ca_file: None,
                client: None,
                sample: 1.0,
            }
            .headers()
        };
        let headers = read("# of the collector\nAuthorization=Bearer a=b\n\nx-team = c\n").unwrap();
        assert_eq!(headers.get("authorization").unwrap(), "Bearer a=b");
        assert_eq!(headers.get("x-team").unwrap(), "c");
        let error = read("a=b\nBearer-canary").unwrap_err().to_string();
        assert!(
            error.contains("line 2") && !error.contains("canary"),
            "{error}"
        );
    }
}
