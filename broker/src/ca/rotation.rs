//! Rotations: what registrars see of the CA's keys, how they replace them, and what every broker
//! does as time goes by (I10).

use sundew_core::Ttl;
use sundew_proto::v1;

use super::Ca;
use super::jwt_authority::MAX_LIFE_MS;
use super::keys::{Key, Keys};
use crate::clock;
use crate::journal;
use crate::refusal::Refusal;
use crate::role::{Registrar, Unbounded};
use crate::wire::{RequestNames, idempotency_key};

/// Everything on which the bundle and the broker's own SVID depend. Two moments that are equal need
/// nothing new.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Moment(Vec<(u64, usize, usize)>);

impl Ca {
    /// Which keys sign and are trusted now.
    pub(crate) fn moment(&self) -> Moment {
        let now_ms = clock::now_ms();
        Moment(vec![of(&self.roots, now_ms), of(&self.jwt, now_ms)])
    }

    /// Reads keys anew that somebody has changed.
    pub(crate) async fn refresh(&self) -> Result<(), Refusal> {
        self.roots.refresh(&self.ledger).await?;
        Ok(self.jwt.refresh(&self.ledger).await?)
    }

    /// Takes keys out of the store that no broker trusts any more, so that nobody finds them there.
    pub(crate) async fn forget_retired(&self) -> Result<(), Refusal> {
        forget(self, &self.roots).await?;
        forget(self, &self.jwt).await
    }

    /// Shows the keys with their times.
    pub(crate) fn show(&self, _: &Unbounded<Registrar>) -> v1::ShowCaResponse {
        let now_ms = clock::now_ms();
        v1::ShowCaResponse {
            trust_domain: self.trust_domain.to_string(),
            roots: infos(&self.roots, now_ms),
            jwt_keys: infos(&self.jwt, now_ms),
        }
    }

    /// Adds a root, or a key that signs JWT-SVIDs. Everybody gets it with the bundles from now on;
    /// it signs after an overlap, and the one before it is trusted until all that it signed ended.
    pub(crate) async fn rotate(
        &self,
        operator: &Unbounded<Registrar>,
        request: v1::RotateCaRequest,
    ) -> Result<v1::RotateCaResponse, Refusal> {
        let ttl_ms = self.ttl.as_ms();
        let overlap_ms = match request.activate_after_ms {
            // Whoever has an SVID renews it within its life, and gets the bundle with it.
            0 => ttl_ms,
            asked => Ttl::from_ms(asked)
                .map_err(|error| Refusal::invalid("activate_after_ms", error))?
                .as_ms(),
        };
        let key = idempotency_key(request.idempotency_key)?;
        let names = RequestNames::new(
            self.ledger.root(),
            &[
                b"rotate-ca",
                operator.id().as_str().as_bytes(),
                key.as_bytes(),
            ],
        );
        let keys = if request.jwt {
            let life_ms = ttl_ms.min(MAX_LIFE_MS);
            rotate(self, &self.jwt, operator, (overlap_ms, life_ms), &names).await?
        } else {
            rotate(self, &self.roots, operator, (overlap_ms, ttl_ms), &names).await?
        };
        Ok(v1::RotateCaResponse { keys })
    }

    /// Drops every key but the newest at once, and with it all that those keys signed. If the
    /// newest did not sign yet, it does now.
    pub(crate) async fn drop_old(
        &self,
        operator: &Unbounded<Registrar>,
        request: v1::DropOldCaKeysRequest,
    ) -> Result<v1::DropOldCaKeysResponse, Refusal> {
        let keys = if request.jwt {
            drop_old(self, &self.jwt, operator).await?
        } else {
            drop_old(self, &self.roots, operator).await?
        };
        Ok(v1::DropOldCaKeysResponse { keys })
    }
}

fn of<K: Key>(keys: &Keys<K>, now_ms: i64) -> (u64, usize, usize) {
    let current = keys.current();
    let trusted = current.trusted(now_ms).count();
    (current.version, current.schedule.signer(now_ms), trusted)
}

async fn rotate<K: Key>(
    ca: &Ca,
    keys: &Keys<K>,
    operator: &Unbounded<Registrar>,
    times: (i64, i64),
    names: &RequestNames,
) -> Result<Vec<v1::CaKey>, Refusal> {
    let change = keys.change(&ca.ledger, |current| {
        // A retry of the request that brought the present keys about gets its answer.
        if names.have(current.request()) {
            return Ok(None);
        }
        let now_ms = clock::now_ms();
        if let Some(until_ms) = current.under_way_until(now_ms) {
            return Err(Refusal::invalid(
                "rotation",
                format!(
                    "one is under way for another {} s: wait, or drop the old key",
                    until_ms.saturating_sub(now_ms).div_euclid(1000)
                ),
            ));
        }
        let next = K::create(&ca.trust_domain)?;
        let id = K::load(&next)?.id();
        let rotated = current.rotated(next, now_ms, times, names.name());
        let record = journal::record("ca_rotated")
            .with("actor", operator.id())
            .with("kind", K::KIND.as_str())
            .with("key_id", id)
            .with("active_from_ms", now_ms.saturating_add(times.0));
        Ok(Some((rotated, record)))
    });
    change.await?;
    Ok(infos(keys, clock::now_ms()))
}

async fn drop_old<K: Key>(
    ca: &Ca,
    keys: &Keys<K>,
    operator: &Unbounded<Registrar>,
) -> Result<Vec<v1::CaKey>, Refusal> {
    let change = keys.change(&ca.ledger, |current| {
        if current.keys().len() == 1 {
            return Ok(None);
        }
        let record = journal::record("ca_keys_dropped")
            .with("actor", operator.id())
            .with("kind", K::KIND.as_str());
        Ok(Some((current.newest_alone(clock::now_ms())?, record)))
    });
    change.await?;
    Ok(infos(keys, clock::now_ms()))
}

async fn forget<K: Key>(ca: &Ca, keys: &Keys<K>) -> Result<(), Refusal> {
    if !keys.current().schedule.has_retired(clock::now_ms()) {
        return Ok(());
    }
    let change = keys.change(&ca.ledger, |current| {
        let now_ms = clock::now_ms();
        if !current.has_retired(now_ms) {
            return Ok(None);
        }
        let record = journal::record("ca_keys_retired").with("kind", K::KIND.as_str());
        Ok(Some((current.without_retired(now_ms), record)))
    });
    change.await
}

fn infos<K: Key>(keys: &Keys<K>, now_ms: i64) -> Vec<v1::CaKey> {
    let current = keys.current();
    let signer = current.schedule.signer(now_ms);
    let infos = current.iter().enumerate().map(|(place, (stored, key))| {
        let state = if !stored.is_trusted(now_ms) {
            "retired"
        } else if place == signer {
            "active"
        } else if place > signer {
            "next"
        } else {
            "former"
        };
        v1::CaKey {
            id: key.id(),
            state: state.to_owned(),
            active_from_ms: stored.active_from_ms,
            retires_at_ms: stored.retires_at_ms.unwrap_or_default(),
            not_after_ms: if key.not_after_ms() == i64::MAX {
                0
            } else {
                key.not_after_ms()
            },
        }
    });
    infos.collect()
}
