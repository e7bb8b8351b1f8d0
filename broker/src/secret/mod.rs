//! Stored secrets, and the keyring that seals them.
//!
//! P8: a secret is sealed with its name as associated data, so that swapped records do not open.
//! P9: values never print.

mod keyring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_core::store::DocumentKind;
use sundew_core::{Keyring, Scope, SealError, SecretBytes, SecretRecord};
use sundew_proto::v1;
use tokio::sync::Notify;

use crate::clock;
use crate::journal;
use crate::ledger::{Change, Ledger, NoDependents};
use crate::records::DocumentPlace;
use crate::refusal::Refusal;
use crate::role::{Operator, Registrar};
use crate::wire::{RequestNames, deletion, idempotency_key};
use keyring::{VersionedKeyring, key_of};

/// How often a change is tried before it is refused because other brokers change the same secret or
/// the keyring.
const REPLACE_ATTEMPTS: usize = 8;

/// The room of stored secrets.
pub(crate) struct Secrets {
    ledger: Ledger,
    keyring: ArcSwap<VersionedKeyring>,
    /// Notified when secrets may be there that an older key sealed.
    look_at_seals: Notify,
    /// Largest secret, in bytes.
    max_bytes: usize,
}

impl Secrets {
    /// A room with a keyring of its own; [`reload_keyring`](Self::reload_keyring) takes over the
    /// one that the store has.
    pub(crate) fn new(ledger: Ledger, max_bytes: usize) -> Result<Self, SealError> {
        Ok(Self {
            ledger,
            keyring: ArcSwap::from_pointee(VersionedKeyring {
                keyring: Keyring::generate()?,
                version: 0,
            }),
            look_at_seals: Notify::new(),
            max_bytes,
        })
    }

    /// Writes a secret, as a new version of one that is there.
    pub(crate) async fn put_secret(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        mut request: v1::PutSecretRequest,
    ) -> Result<v1::PutSecretResponse, Refusal> {
        Scope::of_secret(&request.name).map_err(|e| Refusal::invalid("name", e))?;
        let within = operator.over_secret(&request.name)?;
        let value = SecretBytes::new(std::mem::take(&mut request.value));
        if value.expose().is_empty() || value.expose().len() > self.max_bytes {
            return Err(Refusal::invalid(
                "value",
                format!("must be 1 to {} bytes", self.max_bytes),
            ));
        }
        let key = idempotency_key(request.idempotency_key)?;
        let written_by = RequestNames::new(
            self.ledger.root(),
            &[
                b"put-secret",
                within.actor().as_str().as_bytes(),
                key.as_bytes(),
                value.expose(),
            ],
        );
        let place = DocumentPlace::new(DocumentKind::Secret, &request.name);
        for _ in 0..REPLACE_ATTEMPTS {
            let before = self.ledger.before_change(place).await?;
            let old = before.document.as_ref();
            let old = old.and_then(|old| old.decode(SecretRecord::decode).ok());
            // A retry of the request that wrote the present version gets its answer.
            let (version, change) = match old {
                Some(old) if written_by.have(&old.request) => (old.version, Change::Keep),
                old => {
                    let version = old.map_or(1, |old| old.version.saturating_add(1));
                    let record = journal::record("secret_written")
                        .with("secret", &request.name)
                        .with("actor", within.actor())
                        .with("version", version);
                    let body = SecretRecord {
                        version,
                        updated_at_ms: clock::now_ms(),
                        sealed: self.seal_text(&request.name, &value).await?,
                        request: written_by.name().to_owned(),
                    };
                    (version, Change::Write(body.encode(), record))
                }
            };
            let put = self.ledger.put_document(place, &before, change, version);
            if let Some(version) = put.await? {
                return Ok(v1::PutSecretResponse { version });
            }
        }
        Err(Refusal::Conflict("secret"))
    }

    /// Seals a value under the active key, with its name as associated data (P8).
    pub(crate) async fn seal(&self, name: &str, value: &SecretBytes) -> Result<Vec<u8>, Refusal> {
        self.current_keyring()
            .await?
            .keyring
            .seal(name, value.expose())
            .map_err(|cause| Refusal::Seal {
                what: "secret",
                cause,
            })
    }

    /// Seals a value, in base64.
    async fn seal_text(&self, name: &str, value: &SecretBytes) -> Result<String, Refusal> {
        Ok(STANDARD.encode(self.seal(name, value).await?))
    }

    /// Lists names and versions of the secrets that the operator's role is over, never values.
    pub(crate) async fn list_secrets(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        _: v1::ListSecretsRequest,
    ) -> Result<v1::ListSecretsResponse, Refusal> {
        let mut secrets = Vec::new();
        let records = &self.ledger.records;
        for (name, document) in records.readable_documents(DocumentKind::Secret).await? {
            if !operator.reaches_secret(&name) {
                continue;
            }
            let record = document.decode(SecretRecord::decode)?;
            secrets.push(v1::SecretInfo {
                key_id: key_of(&record)?,
                version: record.version,
                updated_at_ms: record.updated_at_ms,
                name,
            });
        }
        Ok(v1::ListSecretsResponse { secrets })
    }

    /// Removes a secret.
    pub(crate) async fn delete_secret(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::DeleteSecretRequest,
    ) -> Result<v1::DeleteSecretResponse, Refusal> {
        Scope::of_secret(&request.name).map_err(|e| Refusal::invalid("name", e))?;
        let within = operator.over_secret(&request.name)?;
        let record = journal::record("secret_deleted")
            .with("secret", &request.name)
            .with("actor", within.actor());
        let place = DocumentPlace::new(DocumentKind::Secret, &request.name);
        // What was handed out cannot be taken back from here.
        let withdrawn = self.ledger.withdraw_document(place, record, &NoDependents);
        let (existed, ()) = withdrawn.await?;
        Ok(v1::DeleteSecretResponse {
            action: deletion(existed).to_owned(),
        })
    }

    /// Reads the record of a secret, if there is one of this name.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<SecretRecord>, Refusal> {
        let place = DocumentPlace::new(DocumentKind::Secret, name);
        let document = self.ledger.records.document(place).await?;
        document
            .map(|document| document.decode(SecretRecord::decode))
            .transpose()
    }

    /// Opens a value that was sealed under a name. P8: the value opens under no other name.
    pub(crate) async fn open(&self, name: &str, sealed: &[u8]) -> Result<SecretBytes, Refusal> {
        let opened = self.current_keyring().await?.keyring.open(name, sealed);
        let opened = match opened {
            // Another broker may have rotated the keyring just now.
            Err(SealError::UnknownKey(_)) => {
                self.reload_keyring().await?;
                self.keyring.load().keyring.open(name, sealed)
            }
            other => other,
        };
        opened.map_err(|cause| Refusal::Seal {
            what: "secret",
            cause,
        })
    }
}
