//! Documents over https with limits: no redirects, bounded in time and size.

use std::path::Path;
use std::time::Duration;

const FETCH_WITHIN: Duration = Duration::from_secs(5);
pub(crate) const MAX_DOCUMENT: usize = 1 << 20;

/// A client that trusts the public CAs, or only those in the file.
pub(crate) fn client(ca_file: Option<&Path>) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(FETCH_WITHIN)
        .user_agent(concat!("sundew/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        builder = builder.tls_certs_only(
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| e.to_string())?,
        );
    }
    builder.build().map_err(|e| e.to_string())
}

/// The document at a URL.
pub(crate) async fn get(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let fail = |e: reqwest::Error| format!("{url}: {}", e.without_url());
    let mut response = client
        .get(url)
        .send()
        .await
        .map_err(fail)?
        .error_for_status()
        .map_err(fail)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("{url}: answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(fail)? {
        if body.len().saturating_add(chunk.len()) > MAX_DOCUMENT {
            return Err(format!("{url}: larger than {MAX_DOCUMENT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
