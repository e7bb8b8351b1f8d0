//! The keys of one kind, as the store has them and as this broker has loaded them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use sundew_attestation::spiffe::TrustDomain;
use sundew_core::SealError;
use sundew_core::store::DocumentKind;

use super::CaError;
use super::schedule::{Schedule, StoredKey};
use crate::journal::{self, Record};
use crate::ledger::{Change, Ledger};
use crate::records::{CaKeys, Document, DocumentPlace};
use crate::refusal::Refusal;

/// How often a change is tried while other brokers change the same keys.
const CHANGE_ATTEMPTS: usize = 8;

/// A key of the CA that is ready to sign.
pub(super) trait Key: Sized {
    /// The kind.
    const KIND: CaKeys;
    /// Makes a new key.
    fn create(trust_domain: &TrustDomain) -> Result<StoredKey, CaError>;
    /// Loads a key that was stored.
    fn load(stored: &StoredKey) -> Result<Self, CaError>;
    /// What operators call the key.
    fn id(&self) -> String;
    /// When the key ends by itself, in milliseconds since the epoch.
    fn not_after_ms(&self) -> i64;
}

/// The keys of one kind. They are replaced as a whole.
pub(super) struct Keys<K> {
    /// The name of the document, under which it is sealed too.
    name: String,
    current: ArcSwap<Loaded<K>>,
    /// The number of gaps of the store after which the document was read last.
    gaps: AtomicU64,
    kind: PhantomData<K>,
}

/// The keys of one version of the document.
pub(super) struct Loaded<K> {
    pub(super) version: u64,
    pub(super) schedule: Schedule,
    /// In the order of the schedule.
    keys: Vec<K>,
}

impl<K: Key> Loaded<K> {
    fn new(version: u64, schedule: Schedule) -> Result<Self, CaError> {
        let keys = schedule.keys().iter().map(K::load);
        Ok(Self {
            version,
            keys: keys.collect::<Result<_, _>>()?,
            schedule,
        })
    }

    /// The keys with their times, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&StoredKey, &K)> {
        self.schedule.keys().iter().zip(&self.keys)
    }

    /// The key that signs at a time, and when nothing may live any more that it signs, in
    /// milliseconds since the epoch.
    pub(super) fn signer(&self, now_ms: i64) -> Result<(&K, i64), CaError> {
        let (stored, key) = self
            .iter()
            .nth(self.schedule.signer(now_ms))
            .ok_or(SealError::Opening)?;
        let retires_ms = stored.retires_at_ms.unwrap_or(i64::MAX);
        Ok((key, retires_ms.min(key.not_after_ms())))
    }

    /// The keys that are trusted at a time, oldest first.
    pub(super) fn trusted(&self, now_ms: i64) -> impl Iterator<Item = &K> {
        let trusted = self
            .iter()
            .filter(move |(stored, _)| stored.is_trusted(now_ms));
        trusted.map(|(_, key)| key)
    }
}

impl<K: Key> Keys<K> {
    /// Reads the keys of a trust domain from the store; makes them if there are none.
    pub(super) async fn open(ledger: &Ledger, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let name = K::KIND.name(trust_domain.as_str());
        let place = DocumentPlace::new(DocumentKind::Meta, &name);
        let gaps = ledger.records.gaps();
        let loaded = loop {
            if let Some(document) = ledger.records.document(place).await? {
                break open::<K>(ledger, &name, &document)?;
            }
            let first = Schedule::of(K::create(trust_domain)?);
            let sealed = ledger.root().wrap(&name, first.encode()?.expose())?;
            // If another broker is quicker, its key counts.
            ledger.records.put_back_document(place, 0, &sealed).await?;
            tracing::info!(name, "key of the embedded CA created");
        };
        Ok(Self {
            current: ArcSwap::from_pointee(loaded),
            gaps: AtomicU64::new(gaps),
            kind: PhantomData,
            name,
        })
    }

    /// The keys that this broker has loaded.
    pub(super) fn current(&self) -> Arc<Loaded<K>> {
        self.current.load_full()
    }

    fn place(&self) -> DocumentPlace<'_> {
        DocumentPlace::new(DocumentKind::Meta, &self.name)
    }

    /// Reads the keys anew if somebody has changed them, or if the store has lost something. L22:
    /// older ones that somebody put back are refused, and those of this broker stay.
    pub(super) async fn refresh(&self, ledger: &Ledger) -> Result<(), CaError> {
        let (gaps, version) = (ledger.records.gaps(), self.current().version);
        let is_known = ledger.records.require_current(self.place(), version);
        if is_known.is_ok() && self.gaps.load(Ordering::Acquire) == gaps {
            return Ok(());
        }
        self.reload(ledger).await?;
        self.gaps.store(gaps, Ordering::Release);
        Ok(())
    }

    /// Reads the keys from the store; puts those of this broker there if the store has none.
    async fn reload(&self, ledger: &Ledger) -> Result<(), CaError> {
        loop {
            if let Some(document) = ledger.records.document(self.place()).await? {
                let loaded = open(ledger, &self.name, &document)?;
                self.current.store(Arc::new(loaded));
                return Ok(());
            }
            let own = self.current();
            let sealed = self.seal(ledger, &own.schedule)?;
            let put = ledger
                .records
                .put_back_document(self.place(), own.version, &sealed);
            put.await?;
        }
    }

    /// L5: brings a change of the keys about, and returns when all brokers have heard of it.
    /// `decide` returns the keys that there are to be, with what goes on the record, or `None` if
    /// they are so already.
    pub(super) async fn change(
        &self,
        ledger: &Ledger,
        decide: impl Fn(&Schedule) -> Result<Option<(Schedule, Record)>, Refusal>,
    ) -> Result<(), Refusal> {
        for _ in 0..CHANGE_ATTEMPTS {
            let before = ledger.before_change(self.place()).await?;
            let stored = before.document.as_ref();
            let stored = stored.map(|document| open::<K>(ledger, &self.name, document));
            // L22: if what the store has is old, or gone, this broker's counts.
            let (current, is_stored) = match stored.transpose()? {
                Some(stored) => (stored.schedule, true),
                None => (self.current().schedule.clone(), false),
            };
            let change = match decide(&current)? {
                Some((next, record)) => Change::Write(self.seal(ledger, &next)?, record),
                None if is_stored => Change::Keep,
                None => {
                    let record = journal::record("ca_keys_put_back").with("keys", &self.name);
                    Change::Write(self.seal(ledger, &current)?, record)
                }
            };
            let put = ledger.put_document(self.place(), &before, change, ());
            if put.await?.is_some() {
                return Ok(self.reload(ledger).await?);
            }
        }
        Err(Refusal::Conflict(CaKeys::WHAT))
    }

    fn seal(&self, ledger: &Ledger, schedule: &Schedule) -> Result<Vec<u8>, CaError> {
        let sealed = ledger.root().wrap(&self.name, schedule.encode()?.expose());
        Ok(sealed?)
    }
}

/// Opens a document with keys.
fn open<K: Key>(ledger: &Ledger, name: &str, document: &Document) -> Result<Loaded<K>, CaError> {
    let text = ledger.root().unwrap(name, document.body())?;
    let schedule = Schedule::decode(K::KIND, text.expose())?;
    Loaded::new(document.version(), schedule)
}
