//! `sundew operator`: SVIDs of operators for the owner of a broker's state.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use rcgen::{KeyPair, PublicKeyData as _};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde_json::Value;
use sundew_broker::serve::config::Config;
use sundew_core::client::manifest::SignedManifest as Envelope;
use sundew_core::client::{hex, pem, read_secret_file};
use sundew_proto::v1::owner_service_client::OwnerServiceClient;
use sundew_proto::v1::{AskBreakGlassRequest, BootstrapRequest, BreakGlassRequest, Svid};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use crate::args::{BreakGlassCommand, OperatorCommand, OwnerPlace};
use crate::client::status_error;
use crate::csr::{csr_of, generate_key_and_csr};
use crate::input::{read_file, read_text};
use crate::manifest::{Signer, add_signature, write_envelope};
use crate::output::{Output, View, escape};
use crate::svid_files::write_svid;
use crate::timestamp::format_timestamp;

/// The name of a key that waits for its SVID.
const WAITING_KEY: &str = "key.waiting.pem";

pub(crate) async fn operator(output: &Output, command: OperatorCommand) -> Result<ExitCode> {
    match command {
        OperatorCommand::Bootstrap { place, spiffe_id } => {
            bootstrap(output, &place, spiffe_id.unwrap_or_default()).await
        }
        OperatorCommand::BreakGlass(command) => match command {
            BreakGlassCommand::Ask {
                place,
                reason,
                file,
            } => ask(output, &place, reason, &file).await,
            BreakGlassCommand::Redeem { place, file } => redeem(output, &place, &file).await,
            BreakGlassCommand::Sign { key, file } => sign(output, &key, &file),
        },
    }
}

async fn bootstrap(output: &Output, place: &OwnerPlace, spiffe_id: String) -> Result<ExitCode> {
    let mut broker = connect(&place.config).await?;
    let waiting = Waiting::in_folder(&place.out)?;
    let csr = csr_of(&waiting.key)?;
    let answer = broker
        .bootstrap(request(BootstrapRequest { spiffe_id, csr }))
        .await;
    let svid = answer.map_err(|status| waiting.refused(status))?;
    keep(output, &place.out, &waiting.key, svid.into_inner().svid)
}

async fn ask(output: &Output, place: &OwnerPlace, reason: String, file: &Path) -> Result<ExitCode> {
    let mut broker = connect(&place.config).await?;
    let waiting = Waiting::in_folder(&place.out)?;
    let asked = broker.ask_break_glass(request(AskBreakGlassRequest {
        spiffe_id: String::new(),
        csr: csr_of(&waiting.key)?,
        reason,
    }));
    let asked = asked.await.map_err(|status| waiting.refused(status))?;
    let asked = asked.into_inner();
    write_envelope(
        file,
        &Envelope::unsigned(&asked.payload_type, &asked.statement),
    )?;
    output.show(&AskedView {
        file: file.to_owned(),
        expires_at_ms: asked.expires_at_ms,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Signs as a person. What is signed comes first, so that nobody signs what he has not seen.
fn sign(output: &Output, key: &Path, file: &Path) -> Result<ExitCode> {
    let name = || file.display().to_string();
    let text = read_text(file)?;
    let (mut envelope, statement) = statement_of(text.as_bytes()).with_context(name)?;
    let signer = Signer::read(key)?;
    add_signature(&mut envelope, &signer)?;
    write_envelope(file, &envelope)?;
    let keys: BTreeSet<_> = envelope.signatures.iter().map(|one| &one.keyid).collect();
    let keys = keys.len();
    output.show(&SignedView {
        file: file.to_owned(),
        statement,
        keys,
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn redeem(output: &Output, place: &OwnerPlace, file: &Path) -> Result<ExitCode> {
    let waiting = place.out.join(WAITING_KEY);
    let key = read_key(&waiting).context("`sundew operator break-glass ask` comes first")?;
    let envelope = read_file(file)?;
    // The broker gives an SVID once, and for the key of the statement.
    let (_, statement) = statement_of(&envelope).with_context(|| file.display().to_string())?;
    let digest = digest(&SHA256, &key.subject_public_key_info());
    if text_in(&statement, "key") != hex(digest.as_ref()) {
        bail!(
            "{}: is for another key than {}; take the --out of `sundew operator break-glass ask`",
            file.display(),
            waiting.display()
        );
    }
    let mut broker = connect(&place.config).await?;
    let answer = broker
        .break_glass(request(BreakGlassRequest { envelope }))
        .await;
    let svid = answer.map_err(status_error)?.into_inner().svid;
    keep(output, &place.out, &key, svid)
}

/// Writes an SVID with its key, which waits no more.
fn keep(output: &Output, out: &Path, key: &KeyPair, svid: Option<Svid>) -> Result<ExitCode> {
    let svid = svid.context("the broker sent no SVID")?;
    let all =
        |list: &[Vec<u8>]| -> Vec<_> { list.iter().cloned().map(CertificateDer::from).collect() };
    let der = Zeroizing::new(key.serialize_der());
    write_svid(out, &all(&svid.certificates), &der, &all(&svid.bundle))?;
    fs::remove_file(out.join(WAITING_KEY))?;
    let bundle = svid.bundle.iter().map(|root| pem("CERTIFICATE", root));
    output.show(&OperatorSvidView {
        bundle: bundle.collect(),
        spiffe_id: svid.spiffe_id,
        folder: out.to_owned(),
        not_after_ms: svid.not_after_ms,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A statement that waits for signatures.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AskedView {
    file: PathBuf,
    expires_at_ms: i64,
}

impl View for AskedView {
    const KIND: &'static str = "break_glass_asked";

    fn lines(&self) -> Vec<String> {
        let (name, until) = (self.file.display(), format_timestamp(self.expires_at_ms));
        vec![
            format!("{name}: two persons sign it until {until}, each by"),
            format!("  sundew operator break-glass sign --key KEY {name}"),
        ]
    }
}

/// A statement that was signed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SignedView {
    file: PathBuf,
    /// As it was signed.
    statement: Value,
    /// With how many keys it is signed. It is for the broker whether they are those of two persons.
    keys: usize,
}

impl View for SignedView {
    const KIND: &'static str = "break_glass_signed";

    fn lines(&self) -> Vec<String> {
        let text = |name: &str| escape(text_in(&self.statement, name), 1024);
        let keys = match self.keys {
            1 => "1 key".to_owned(),
            keys => format!("{keys} keys"),
        };
        vec![
            format!(
                "{}: signed, with {keys} in all; it takes those of two persons",
                self.file.display()
            ),
            format!("  an SVID of {}", text("spiffe_id")),
            format!("  because: {}", text("reason")),
            format!("  for the key {}", text("key")),
        ]
    }
}

/// An SVID of an operator that is in a folder now.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OperatorSvidView {
    spiffe_id: String,
    folder: PathBuf,
    not_after_ms: i64,
    /// The roots of the trust domain in PEM, as in the folder, for whoever does not see that.
    bundle: String,
}

impl View for OperatorSvidView {
    const KIND: &'static str = "operator_svid";

    fn lines(&self) -> Vec<String> {
        vec![format!(
            "{}: {}, good until {}",
            self.folder.display(),
            escape(&self.spiffe_id, 2048),
            format_timestamp(self.not_after_ms)
        )]
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<AskedView>(),
        crate::shapes::of::<SignedView>(),
        crate::shapes::of::<OperatorSvidView>(),
    ]
}

/// A key that waits for its SVID. If an answer is lost on its way, the same key may ask once more.
struct Waiting {
    key: KeyPair,
    path: PathBuf,
    is_new: bool,
}

impl Waiting {
    /// Returns the key that waits in a folder, or makes one.
    fn in_folder(out: &Path) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let path = out.join(WAITING_KEY);
        let mut options = fs::OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let key = read_key(&path)?;
                return Ok(Self {
                    key,
                    path,
                    is_new: false,
                });
            }
            opened => opened.with_context(|| path.display().to_string())?,
        };
        let (key, _) = generate_key_and_csr()?;
        file.write_all(Zeroizing::new(key.serialize_pem()).as_bytes())?;
        Ok(Self {
            key,
            path,
            is_new: true,
        })
    }

    /// Removes the key, if it was made for this call and the broker has refused it for certain.
    fn refused(&self, status: Status) -> anyhow::Error {
        let may_be_given = matches!(
            status.code(),
            Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Unknown
        );
        if self.is_new && !may_be_given {
            // Where it stays, it waits for nothing.
            fs::remove_file(&self.path).unwrap_or_default();
        }
        status_error(status)
    }
}

/// Reads an envelope, and the statement in it.
fn statement_of(text: &[u8]) -> Result<(Envelope, Value)> {
    let envelope: Envelope = serde_json::from_slice(text)?;
    let statement: Value = serde_json::from_slice(&envelope.unverified_payload()?)?;
    if text_in(&statement, "type") != envelope.payload_type {
        bail!("no statement of `sundew operator break-glass ask`");
    }
    Ok((envelope, statement))
}

fn text_in<'a>(statement: &'a Value, name: &str) -> &'a str {
    let text = statement.get(name).and_then(Value::as_str);
    text.unwrap_or_default()
}

fn read_key(path: &Path) -> Result<KeyPair> {
    let text = read_secret_file(path)?;
    let text = std::str::from_utf8(&text).with_context(|| path.display().to_string())?;
    KeyPair::from_pem(text).with_context(|| path.display().to_string())
}

/// Connects to the socket of the owner, which is in the folder of the journal.
async fn connect(config: &Path) -> Result<OwnerServiceClient<Channel>> {
    let name = config.display();
    let config = Config::load(config).map_err(|e| anyhow!("configuration {name}:\n{e}"))?;
    let socket: PathBuf = config.owner_socket();
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
    // The error says in each of its layers that there is no such file.
    let channel = endpoint.connect().await.map_err(|_| {
        anyhow!(
            "{}: no broker answers here; it has to run, with the embedded CA, and you have to be the \
             user who owns this folder",
            socket.display()
        )
    })?;
    Ok(OwnerServiceClient::new(channel))
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}
