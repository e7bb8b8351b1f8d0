//! `sundew operator`: SVIDs of operators for the owner of a broker's state.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use sundew_broker::serve::config::Config;
use sundew_core::client::manifest::SignedManifest as Envelope;
use sundew_proto::v1::owner_service_client::OwnerServiceClient;
use sundew_proto::v1::{AskBreakGlassRequest, BootstrapRequest, BreakGlassRequest, Svid};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use crate::args::{BreakGlassCommand, OperatorCommand, OwnerPlace};
use crate::client::status_error;
use crate::csr::{csr_of, generate_key_and_csr};
use crate::input::{read_file, read_text};
use crate::manifest::{Signer, add_signature, write_envelope};
use crate::output::{Output, escape};
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
    let key = waiting_key(&place.out)?;
    let csr = csr_of(&key)?;
    let answer = broker
        .bootstrap(request(BootstrapRequest { spiffe_id, csr }))
        .await;
    let svid = answer.map_err(status_error)?.into_inner().svid;
    keep(output, &place.out, &key, svid)
}

async fn ask(output: &Output, place: &OwnerPlace, reason: String, file: &Path) -> Result<ExitCode> {
    let mut broker = connect(&place.config).await?;
    let key = waiting_key(&place.out)?;
    let asked = broker.ask_break_glass(request(AskBreakGlassRequest {
        spiffe_id: String::new(),
        csr: csr_of(&key)?,
        reason,
    }));
    let asked = asked.await.map_err(status_error)?.into_inner();
    write_envelope(
        file,
        &Envelope::unsigned(&asked.payload_type, &asked.statement),
    )?;
    let value = json!({ "file": file, "expires_at_ms": asked.expires_at_ms });
    output.result(&value, || {
        let (name, until) = (file.display(), format_timestamp(asked.expires_at_ms));
        vec![
            format!("{name}: two persons sign it until {until}, each by"),
            format!("  sundew operator break-glass sign --key KEY {name}"),
        ]
    });
    Ok(ExitCode::SUCCESS)
}

/// Signs as a person. What is signed comes first, so that nobody signs what he has not seen.
fn sign(output: &Output, key: &Path, file: &Path) -> Result<ExitCode> {
    let name = || file.display().to_string();
    let mut envelope: Envelope = serde_json::from_str(&read_text(file)?).with_context(name)?;
    let payload = envelope.unverified_payload().with_context(name)?;
    let statement: Value = serde_json::from_slice(&payload).with_context(name)?;
    if statement.get("type").and_then(Value::as_str) != Some(envelope.payload_type.as_str()) {
        bail!(
            "{}: no statement of `sundew operator break-glass ask`",
            name()
        );
    }
    let signer = Signer::read(key)?;
    add_signature(&mut envelope, &signer)?;
    write_envelope(file, &envelope)?;
    let value = json!({ "statement": statement, "signatures": envelope.signatures.len() });
    output.result(&value, || {
        let text = |name: &str| {
            let value = statement.get(name).and_then(Value::as_str);
            escape(value.unwrap_or_default(), 1024)
        };
        vec![
            format!("{}: signed, {} in all", name(), envelope.signatures.len()),
            format!("  an SVID of {}", text("spiffe_id")),
            format!("  because: {}", text("reason")),
            format!("  for the key {}", text("key")),
        ]
    });
    Ok(ExitCode::SUCCESS)
}

async fn redeem(output: &Output, place: &OwnerPlace, file: &Path) -> Result<ExitCode> {
    let waiting = place.out.join(WAITING_KEY);
    let key = read_key(&waiting).context("`sundew operator break-glass ask` comes first")?;
    let envelope = read_file(file)?;
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
    let value = json!({
        "spiffe_id": svid.spiffe_id, "folder": out, "not_after_ms": svid.not_after_ms,
    });
    output.result(&value, || {
        vec![format!(
            "{}: {}, good until {}",
            out.display(),
            svid.spiffe_id,
            format_timestamp(svid.not_after_ms)
        )]
    });
    Ok(ExitCode::SUCCESS)
}

/// Returns the key that waits in a folder, or makes one: if an answer is lost on its way, the same
/// key may ask once more.
fn waiting_key(out: &Path) -> Result<KeyPair> {
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let path = out.join(WAITING_KEY);
    let mut options = fs::OpenOptions::new();
    let mut file = match options.write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return read_key(&path),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    let (key, _) = generate_key_and_csr()?;
    file.write_all(Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

fn read_key(path: &Path) -> Result<KeyPair> {
    let text = Zeroizing::new(read_text(path)?);
    KeyPair::from_pem(&text).with_context(|| path.display().to_string())
}

/// Connects to the socket of the owner, which is in the folder of the journal.
async fn connect(config: &Path) -> Result<OwnerServiceClient<Channel>> {
    let name = config.display();
    let config = Config::load(config).map_err(|e| anyhow!("configuration {name}:\n{e}"))?;
    let socket: PathBuf = config.owner_socket();
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
    let channel = endpoint.connect().await.with_context(|| {
        format!(
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
