//! The keyring: rotation, and sealing values anew that an older key sealed.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sundew_core::store::DocumentKind;
use sundew_core::{Changed, Event, Keyring, SealError, SecretRecord};
use sundew_proto::v1;

use super::{REPLACE_ATTEMPTS, Secrets};
use crate::journal;
use crate::liveness::Subscriber;
use crate::refusal::Refusal;
use crate::role::{Operator, Registrar};
use crate::wire::idempotency_key;

/// The name of the keyring in the store.
const KEYRING: &str = "keyring";

impl Secrets {
    /// Adds a key to the keyring and makes it the active key. Older records still open, and are
    /// sealed anew in the background.
    pub(crate) async fn rotate_keyring(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::RotateKeyringRequest,
    ) -> Result<v1::RotateKeyringResponse, Refusal> {
        let unusable = |cause| Refusal::Seal {
            what: "keyring",
            cause,
        };
        let key = idempotency_key(request.idempotency_key)?;
        let tag = URL_SAFE_NO_PAD.encode(self.ledger.root().derive(&[
            b"rotate-keyring",
            operator.id().as_str().as_bytes(),
            key.as_bytes(),
        ]));
        for _ in 0..REPLACE_ATTEMPTS {
            let before = self
                .ledger
                .records
                .store()
                .document(DocumentKind::Meta, KEYRING)
                .await?
                .ok_or(Refusal::NotFound("keyring"))?;
            let current = Keyring::unwrap(self.ledger.root(), &before).map_err(unusable)?;
            // A retry of the request that made the present key gets its answer.
            if current.request() == tag {
                return Ok(v1::RotateKeyringResponse {
                    key_id: current.active_key_id(),
                });
            }
            let next = current.rotated(&tag).map_err(unusable)?;
            let key_id = next.active_key_id();
            self.ledger
                .journal
                .write(
                    journal::record("keyring_rotated")
                        .with("actor", operator.id())
                        .with("key_id", key_id),
                )
                .await?;
            let sealed = next.wrap(self.ledger.root()).map_err(unusable)?;
            if self
                .ledger
                .records
                .store()
                .replace_document(DocumentKind::Meta, KEYRING, Some(&before), Some(&sealed))
                .await?
            {
                self.reload_keyring().await?;
                self.ledger.announce(Changed::Keyring).await?;
                return Ok(v1::RotateKeyringResponse { key_id });
            }
        }
        Err(Refusal::Conflict("keyring"))
    }

    /// Reads the keyring from the store; puts this broker's there if the store has none.
    pub(crate) async fn reload_keyring(&self) -> Result<(), Refusal> {
        let unusable = |cause| Refusal::Seal {
            what: "keyring",
            cause,
        };
        loop {
            if let Some(sealed) = self
                .ledger
                .records
                .store()
                .document(DocumentKind::Meta, KEYRING)
                .await?
            {
                self.keyring.store(Arc::new(
                    Keyring::unwrap(self.ledger.root(), &sealed).map_err(unusable)?,
                ));
                return Ok(());
            }
            // At the first start, that is the keyring that was generated just now; in a store that
            // was emptied, the keyring that other brokers still use.
            let own = self
                .keyring
                .load()
                .wrap(self.ledger.root())
                .map_err(unusable)?;
            self.ledger
                .records
                .store()
                .replace_document(DocumentKind::Meta, KEYRING, None, Some(&own))
                .await?;
        }
    }

    /// Reads the keyring anew without keeping the caller waiting.
    fn reload_keyring_in_background(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.reload_keyring().await {
                tracing::error!(%error, "keyring could not be read anew");
            }
        });
    }

    /// Seals anew the secrets that an older key sealed; answers how many.
    pub(crate) async fn reseal(&self) -> Result<usize, Refusal> {
        let active = self.keyring.load().active_key_id();
        let mut count = 0_usize;
        for (name, before) in self
            .ledger
            .records
            .store()
            .documents(DocumentKind::Secret)
            .await?
        {
            let mut record = self.record_of(&name, &before)?;
            if key_of(&record)? < active {
                let sealed = STANDARD.decode(&record.sealed).map_err(|_| Refusal::Seal {
                    what: "secret",
                    cause: SealError::Opening,
                })?;
                record.sealed = self.seal_text(&name, &self.open(&name, &sealed).await?)?;
                count = count.saturating_add(usize::from(
                    self.replace(&name, Some(&before), &record).await?,
                ));
            }
        }
        Ok(count)
    }
}

impl Subscriber for Secrets {
    fn on_event(self: Arc<Self>, event: &Event) {
        if matches!(event, Event::Changed(Changed::Keyring)) {
            self.reload_keyring_in_background();
        }
    }

    fn on_gap(self: Arc<Self>) {
        self.reload_keyring_in_background();
    }
}

/// The number of the key that sealed a record.
pub(super) fn key_of(record: &SecretRecord) -> Result<u32, Refusal> {
    let unreadable = |cause| Refusal::Seal {
        what: "secret",
        cause,
    };
    let sealed = STANDARD
        .decode(&record.sealed)
        .map_err(|_| unreadable(SealError::Opening))?;
    Keyring::key_id(&sealed).map_err(unreadable)
}
