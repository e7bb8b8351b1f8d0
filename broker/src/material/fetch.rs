//! Fetching documents over https within limits: no redirects, bounded in time and size.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use zeroize::Zeroizing;

use crate::peer::files::{FileError, read_public};

/// Longest time for one document, from the connection to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of a cause, in characters: a certificate that is refused may have many names.
const MAX_CAUSE: usize = 300;
/// Largest document, in bytes.
pub(crate) const MAX_DOCUMENT: usize = 1 << 20;

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The CA file cannot be read.
    #[error("{0}")]
    CaFile(FileError),
    /// The CA file holds no certificates, or the client cannot be built.
    #[error("{0}")]
    Client(reqwest::Error),
    /// The request failed, or its answer was an error.
    #[error("{url}: {cause}")]
    Request {
        /// The URL of the document.
        url: String,
        /// What failed, without the URL, and why.
        cause: String,
    },
    /// The answer is neither an error nor the document.
    #[error("{url}: answered {status}")]
    Status {
        /// The URL of the document.
        url: String,
        /// The status of the answer.
        status: reqwest::StatusCode,
    },
    /// The token has characters that no token has.
    #[error("the token in token_file is no bearer token")]
    Token,
    /// The document is longer than [`MAX_DOCUMENT`].
    #[error("{url}: larger than {MAX_DOCUMENT} bytes")]
    TooLarge {
        /// The URL of the document.
        url: String,
    },
}

fn limited() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(FETCH_TIMEOUT)
        .user_agent(concat!("sundew/", env!("CARGO_PKG_VERSION")))
}

/// A client that trusts whom this TLS configuration trusts.
pub(crate) fn client_with(tls: rustls::ClientConfig) -> Result<reqwest::Client, FetchError> {
    let builder = limited().tls_backend_preconfigured(tls);
    builder.build().map_err(FetchError::Client)
}

/// A client that trusts the public CAs, or only those in the file.
pub(crate) fn client(ca_file: Option<&Path>) -> Result<reqwest::Client, FetchError> {
    let mut builder = limited();
    if let Some(path) = ca_file {
        let pem = read_public(path).map_err(FetchError::CaFile)?;
        let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(FetchError::Client)?;
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(FetchError::Client)
}

/// Fetches the document at a URL.
pub(crate) async fn get(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, FetchError> {
    get_as(client, url, None).await
}

/// Fetches the document at a URL with a bearer token (RFC 6750), around which white space is left
/// out. No redirect is followed, so that nobody else gets the token.
pub(crate) async fn get_as(
    client: &reqwest::Client,
    url: &str,
    token: Option<&[u8]>,
) -> Result<Vec<u8>, FetchError> {
    let failed = |cause: reqwest::Error| FetchError::Request {
        url: url.to_owned(),
        cause: with_cause(&cause.without_url()),
    };
    let mut request = client.get(url);
    if let Some(token) = token {
        let mut value = Zeroizing::new(b"Bearer ".to_vec());
        value.extend_from_slice(token.trim_ascii());
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| FetchError::Token)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let mut response = request
        .send()
        .await
        .map_err(failed)?
        .error_for_status()
        .map_err(failed)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(FetchError::Status {
            url: url.to_owned(),
            status: response.status(),
        });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len().saturating_add(chunk.len()) > MAX_DOCUMENT {
            return Err(FetchError::TooLarge {
                url: url.to_owned(),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What failed, and the innermost cause: the text of the error itself says that a request could not
/// be sent, and not that the server's certificate is of another.
fn with_cause(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        let cause = innermost(cause).to_string();
        text.push_str(": ");
        text.extend(cause.chars().take(MAX_CAUSE));
    }
    text
}

/// The innermost cause of an error, which says more than all others.
pub(crate) fn innermost<'e>(
    mut error: &'e (dyn std::error::Error + 'static),
) -> &'e (dyn std::error::Error + 'static) {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}
