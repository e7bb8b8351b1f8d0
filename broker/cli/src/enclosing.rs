//! `sundew token` and `sundew secret get`: what a command asks of the task that it is a part of, by
//! the task's socket. It needs no identity.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sundew_sdk::{EnclosingTask, Presenter, Token, TokenRequest};

use crate::args::AskToken;
use crate::input::read_file;
use crate::output::{Output, View};

/// Prints a fresh token of the task, and writes the key that it is bound to if it is a new one.
pub(crate) async fn token(output: &Output, asked: AskToken) -> Result<ExitCode> {
    let task = EnclosingTask::from_env()?;
    let what = TokenRequest {
        scopes: asked.scopes,
        audience: asked.audiences,
        ttl: asked.ttl.map(sundew_sdk::Ttl::to_std),
    };
    let token = match (&asked.cert, &asked.key, &asked.cert_out, &asked.key_out) {
        _ if asked.bearer => task.bearer_token(&what).await?,
        (Some(certificate), Some(key), _, _) => {
            let key = zeroize::Zeroizing::new(read_file(key)?);
            let presenter = Presenter::from_pem(&read_file(certificate)?, &key)?;
            task.token(&presenter, &what).await?
        }
        (_, _, Some(certificate), Some(key)) => {
            let presenter = Presenter::generate()?;
            write_new(key, 0o600, presenter.key_pem().expose())?;
            let written = write_new(certificate, 0o644, presenter.certificate_pem().as_bytes());
            let token = match written {
                Ok(()) => task.token(&presenter, &what).await.map_err(|error| {
                    let _ = std::fs::remove_file(certificate);
                    error.into()
                }),
                Err(error) => Err(error),
            };
            // A key without a token is good for nothing.
            token.inspect_err(|_| drop(std::fs::remove_file(key)))?
        }
        _ => bail!(
            "say what the token is to be bound to: --cert-out and --key-out make a new key and \
             certificate, --cert and --key name some that are there, and --bearer binds it to \
             nothing, where the registration allows that"
        ),
    };
    output.show(&TokenView::of(&token))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a secret of the task, byte for byte.
pub(crate) async fn secret(output: &Output, name: String) -> Result<ExitCode> {
    let secret = EnclosingTask::from_env()?.secret(&name).await?;
    if output.is_json() {
        output.show(&SecretView {
            name,
            value: secret.expose_str().map(str::to_owned),
            value_base64: STANDARD.encode(secret.expose()),
        })?;
    } else {
        output.bytes(secret.expose())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.with_context(|| path.display().to_string())
}

/// A token that was handed out.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TokenView {
    /// The credential.
    token: String,
    token_id: String,
    scopes: Vec<String>,
    expires_at_ms: i64,
    /// Whether anybody who holds it may use it.
    bearer: bool,
    /// Hexadecimal SHA-256 of the certificate that it is bound to; absent from a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_sha256: Option<String>,
}

impl TokenView {
    fn of(token: &Token) -> Self {
        let bearer = token.is_bearer();
        Self {
            token: token.expose().to_owned(),
            token_id: token.id().to_owned(),
            scopes: token.scopes().to_vec(),
            expires_at_ms: token.expires_at_ms(),
            bearer,
            certificate_sha256: (!bearer).then(|| hex::encode(token.certificate_sha256())),
        }
    }
}

impl View for TokenView {
    const KIND: &'static str = "token_handed_out";

    /// The token alone, for scripts.
    fn lines(&self) -> Vec<String> {
        vec![self.token.clone()]
    }
}

/// A secret that was handed out.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SecretView {
    name: String,
    /// The value, if it is text.
    value: Option<String>,
    value_base64: String,
}

impl View for SecretView {
    const KIND: &'static str = "secret";

    fn lines(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<TokenView>(),
        crate::shapes::of::<SecretView>(),
    ]
}
