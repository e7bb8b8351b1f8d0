//! The keyring: rotation, and sealing values anew that an older key sealed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_core::store::DocumentKind;
use sundew_core::{Changed, Event, Keyring, SealError, SecretRecord};
use sundew_proto::v1;

use super::{REPLACE_ATTEMPTS, Secrets};
use crate::journal;
use crate::ledger::Change;
use crate::liveness::Subscriber;
use crate::records::{Document, DocumentPlace, KEYRING};
use crate::refusal::Refusal;
use crate::role::{Registrar, Unbounded};
use crate::wire::{RequestNames, idempotency_key};

/// How long after a look at all secrets the next one comes, if there is to be one.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// The longest time between two looks at secrets that cannot be sealed anew.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The number of looks that must find nothing. A broker that had not heard of a rotation yet may
/// seal something under the former key while the first look is under way.
const LOOKS_WITHOUT_A_FIND: u32 = 2;

impl Secrets {
    /// Adds a key to the keyring and makes it the active key. Older records still open, and are
    /// sealed anew in the background.
    pub(crate) async fn rotate_keyring(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        request: v1::RotateKeyringRequest,
    ) -> Result<v1::RotateKeyringResponse, Refusal> {
        let key = idempotency_key(request.idempotency_key)?;
        let request = RequestNames::new(
            self.ledger.root(),
            &[
                b"rotate-keyring",
                operator.id().as_str().as_bytes(),
                key.as_bytes(),
            ],
        );
        let place = DocumentPlace::new(DocumentKind::Meta, KEYRING);
        for _ in 0..REPLACE_ATTEMPTS {
            let before = self.ledger.before_change(place).await?;
            let (current, is_stored) = match &before.document {
                Some(document) => (Arc::new(self.versioned(document)?), true),
                // L22: the one in the store is old, or gone. This broker's has more.
                None => (self.keyring.load_full(), false),
            };
            let current = &current.keyring;
            // A retry of the request that made the present key gets its answer.
            let (key_id, change) = if is_stored && request.have(current.request()) {
                (current.active_key_id(), Change::Keep)
            } else {
                let next = current.rotated(request.name()).map_err(unusable)?;
                let record = journal::record("keyring_rotated")
                    .with("actor", operator.id())
                    .with("key_id", next.active_key_id());
                let sealed = next.wrap(self.ledger.root()).map_err(unusable)?;
                (next.active_key_id(), Change::Write(sealed, record))
            };
            let put = self.ledger.put_document(place, &before, change, key_id);
            if let Some(key_id) = put.await? {
                self.reload_keyring().await?;
                return Ok(v1::RotateKeyringResponse { key_id });
            }
        }
        Err(Refusal::Conflict("keyring"))
    }

    /// Returns the keyring, read anew if another broker has rotated it. L22: an older one that
    /// somebody put back into the store is refused.
    pub(super) async fn current_keyring(&self) -> Result<Arc<VersionedKeyring>, Refusal> {
        let place = DocumentPlace::new(DocumentKind::Meta, KEYRING);
        let keyring = self.keyring.load_full();
        let records = &self.ledger.records;
        if records.require_current(place, keyring.version).is_ok() {
            return Ok(keyring);
        }
        self.reload_keyring().await?;
        Ok(self.keyring.load_full())
    }

    fn versioned(&self, document: &Document) -> Result<VersionedKeyring, Refusal> {
        let keyring = Keyring::unwrap(self.ledger.root(), document.body()).map_err(unusable)?;
        Ok(VersionedKeyring {
            keyring,
            version: document.version(),
        })
    }

    /// Reads the keyring from the store; puts this broker's there if the store has none.
    pub(crate) async fn reload_keyring(&self) -> Result<(), Refusal> {
        let place = DocumentPlace::new(DocumentKind::Meta, KEYRING);
        let records = &self.ledger.records;
        loop {
            if let Some(document) = records.document(place).await? {
                self.keyring.store(Arc::new(self.versioned(&document)?));
                return Ok(());
            }
            // At the first start, that is the keyring that was generated just now; in a store that
            // was emptied, the keyring that other brokers still use.
            let own = self.keyring.load();
            let sealed = own.keyring.wrap(self.ledger.root()).map_err(unusable)?;
            records
                .put_back_document(place, own.version, &sealed)
                .await?;
        }
    }

    /// Reads the keyring anew without keeping the caller waiting.
    fn reload_keyring_in_background(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.reload_keyring().await {
                tracing::error!(%error, "keyring could not be read anew");
            }
            self.look_at_seals.notify_one();
        });
    }

    /// Seals anew what an older key sealed, for as long as it is polled. A6: looks at all secrets
    /// at the start, when the keyring changed, when the store lost something, and until there is
    /// nothing left; at no other time.
    pub(crate) async fn keep_sealed(self: Arc<Self>) {
        loop {
            let (mut looks, mut pause) = (LOOKS_WITHOUT_A_FIND, LOOK_AGAIN_AFTER);
            while looks > 0 {
                match self.reseal().await {
                    Ok(0) => looks = looks.saturating_sub(1),
                    Ok(count) => {
                        tracing::info!(count, "secrets sealed anew under the active key");
                        (looks, pause) = (LOOKS_WITHOUT_A_FIND, LOOK_AGAIN_AFTER);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "secrets could not be sealed anew");
                        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                    }
                }
                tokio::time::sleep(pause).await;
            }
            self.look_at_seals.notified().await;
        }
    }

    /// Seals anew the secrets that an older key sealed; answers how many. One that cannot be sealed
    /// anew does not keep the others from it, and makes the whole an error.
    pub(crate) async fn reseal(&self) -> Result<usize, Refusal> {
        let active = self.keyring.load().keyring.active_key_id();
        let records = &self.ledger.records;
        let (mut count, mut failed) = (0_usize, None);
        for (name, document) in records.readable_documents(DocumentKind::Secret).await? {
            match self.reseal_one(active, &name, &document).await {
                Ok(is_rewritten) => count = count.saturating_add(usize::from(is_rewritten)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// Seals a secret anew if an older key than `active` sealed it; answers whether it did.
    async fn reseal_one(
        &self,
        active: u32,
        name: &str,
        document: &Document,
    ) -> Result<bool, Refusal> {
        let mut record = document.decode(SecretRecord::decode)?;
        if key_of(&record)? >= active {
            return Ok(false);
        }
        let sealed = STANDARD.decode(&record.sealed).map_err(|_| Refusal::Seal {
            what: "secret",
            cause: SealError::Opening,
        })?;
        let value = self.open(name, &sealed).await?;
        record.sealed = self.seal_text(name, &value).await?;
        // The value is the same, so nobody has to hear of it.
        let place = DocumentPlace::new(DocumentKind::Secret, name);
        let records = &self.ledger.records;
        records
            .rewrite_document(place, document, &record.encode())
            .await
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

/// A keyring, and the version of the document that it was read from; 0 if it was just generated.
pub(super) struct VersionedKeyring {
    pub(super) keyring: Keyring,
    pub(super) version: u64,
}

fn unusable(cause: SealError) -> Refusal {
    Refusal::Seal {
        what: "keyring",
        cause,
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
