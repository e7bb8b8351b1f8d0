//! The manifest of the demo's agent.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;
use sundew_core::client::manifest::{
    PAYLOAD_TYPE, PREDICATE_TYPE, Predicate, STATEMENT_TYPE, SignedManifest as Envelope, Statement,
    Subject, pre_authentication_encoding,
};

use crate::example_agent::digest;

/// The model that the agent says it runs with.
pub(super) const MODEL: &str = "demo-model-1";

/// A manifest of the demo agent, signed with a key made for this demo.
pub(super) struct SignedManifest {
    pub(super) file: PathBuf,
    /// The public key in PEM, as a registration names it.
    pub(super) public_key: String,
}

impl SignedManifest {
    /// Measures the program `code`, and writes the manifest into `folder`.
    pub(super) fn new(folder: &Path, code: &Path) -> Result<Self> {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| anyhow!("no randomness"))?;
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|e| anyhow!("{e}"))?;
        let code = digest(&std::fs::read(code)?);
        let statement = Statement {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: vec![Subject {
                name: "code".to_owned(),
                digest: [("sha256".to_owned(), code)].into(),
            }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                name: "demo agent".to_owned(),
                model: MODEL.to_owned(),
                expires_ms: None,
            },
        };
        let payload = serde_json::to_vec(&statement)?;
        let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload));
        let envelope: Envelope = serde_json::from_value(json!({
            "payloadType": PAYLOAD_TYPE, "payload": STANDARD.encode(&payload),
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        }))?;
        let file = folder.join("manifest.json");
        std::fs::write(&file, serde_json::to_vec(&envelope)?)?;
        // SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4).
        let mut spki = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        spki.extend_from_slice(key.public_key().as_ref());
        Ok(Self {
            file,
            public_key: sundew_core::client::pem("PUBLIC KEY", &spki),
        })
    }
}
