//! What platform teams do: registrations, stored secrets, the keyring, join tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest;
use sundew_attestation::hex;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::store::DocumentKind;
use sundew_core::{
    Changed, Event, Keyring, Registration, Scope, SealError, SecretRecord, Selector, Ttl,
    WorkloadRecord,
};
use sundew_proto::v1;

use crate::broker::{Broker, Role};
use crate::clock;
use crate::journal;
use crate::peer::Peer;
use crate::refusal::Refusal;

/// Most workloads in one request.
const MAX_APPLIED: usize = 1000;
/// Longest life of a join token.
const MAX_JOIN_TTL_MS: i64 = 24 * 3_600_000;
/// How often a change is tried again when another broker changed the same document.
const ATTEMPTS: usize = 8;

impl Broker {
    /// Creates or replaces registrations. All are looked at before one is written.
    pub(crate) async fn apply_workloads(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ApplyWorkloadsRequest,
    ) -> Result<v1::ApplyWorkloadsResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        if request.documents.len() > MAX_APPLIED {
            return Err(Refusal::invalid(
                "documents",
                format!("at most {MAX_APPLIED} workloads at a time"),
            ));
        }
        let trust = self.trusted().await?;
        let mut registrations: Vec<Registration> = Vec::new();
        let mut problems = Vec::new();
        for (index, document) in request.documents.iter().enumerate() {
            let parsed = sundew_attestation::json::parse(document.as_bytes(), 1 << 20)
                .map_err(|e| e.to_string());
            match parsed.and_then(|value| {
                serde_path_to_error::deserialize::<_, Registration>(value)
                    .map_err(|e| e.to_string())
            }) {
                Ok(registration)
                    if registrations
                        .iter()
                        .any(|r| r.spiffe_id == registration.spiffe_id) =>
                {
                    problems.push(format!("{}: named twice", registration.spiffe_id));
                }
                Ok(registration) => {
                    problems.extend(
                        registration
                            .problems(&trust)
                            .iter()
                            .map(ToString::to_string),
                    );
                    if self.ca.as_ref().is_some_and(|ca| {
                        registration
                            .spiffe_id
                            .as_str()
                            .starts_with(&format!("{}/sundew/", ca.trust_domain().id()))
                    }) {
                        problems.push(format!(
                            "{}: spiffe_id: `/sundew/…` is for brokers",
                            registration.spiffe_id
                        ));
                    }
                    if registration.max_task_ttl > self.limits.longest_task {
                        problems.push(format!(
                            "{}: max_task_ttl: this broker allows at most {}",
                            registration.spiffe_id, self.limits.longest_task
                        ));
                    }
                    registrations.push(registration);
                }
                Err(error) => {
                    problems.push(format!("workload {}: {error}", index.saturating_add(1)))
                }
            }
        }
        if !problems.is_empty() {
            return Err(Refusal::invalid("documents", problems.join("; ")));
        }
        let mut changes = Vec::new();
        for registration in registrations {
            changes.push(self.apply(&peer, registration, request.dry_run).await?);
        }
        Ok(v1::ApplyWorkloadsResponse { changes })
    }

    async fn apply(
        &self,
        peer: &Peer,
        registration: Registration,
        dry_run: bool,
    ) -> Result<v1::WorkloadChange, Refusal> {
        let id = registration.spiffe_id.clone();
        let version = version_of(&registration);
        let store = self.records.store();
        for _ in 0..ATTEMPTS {
            let before = store.document(DocumentKind::Workload, id.as_str()).await?;
            let old = before
                .as_ref()
                .map(|bytes| self.records.open_workload(id.as_str(), bytes))
                .transpose()?;
            let diff = registration.diff_from(old.as_ref().map(|o| &o.registration));
            let action = match &old {
                None => "created",
                Some(old) if old.version == version => "unchanged",
                Some(_) => "changed",
            };
            let change = v1::WorkloadChange {
                spiffe_id: id.to_string(),
                action: action.to_owned(),
                diff,
                version: version.clone(),
            };
            if dry_run || action == "unchanged" {
                return Ok(change);
            }
            let record = journal::record("workload_applied")
                .with("workload", &id)
                .with("actor", peer.id())
                .with("action", action);
            self.journal
                .write(
                    record
                        .with("version", &version)
                        .with("diff", change.diff.join("\n")),
                )
                .await?;
            let record = WorkloadRecord {
                registration: registration.clone(),
                version: version.clone(),
                applied_at_ms: clock::now_ms(),
                applied_by: peer.id().to_string(),
            };
            if store
                .replace_document(
                    DocumentKind::Workload,
                    id.as_str(),
                    before.as_deref(),
                    Some(&self.records.seal_workload(&record)),
                )
                .await?
            {
                self.changed(Changed::Workload(id.clone())).await?;
                return Ok(change);
            }
        }
        Err(Refusal::Store(sundew_core::store::StoreError::Unavailable(
            "the registration is being changed by others".to_owned(),
        )))
    }

    /// Tells every broker to read something anew; answers when they have.
    pub(crate) async fn changed(&self, what: Changed) -> Result<(), Refusal> {
        let entry = crate::liveness::Keeper::entry(
            Event::Changed(what),
            clock::now_ms().saturating_add(60_000),
        )?;
        self.keeper.append(entry).await?;
        Ok(())
    }

    /// All registrations.
    pub(crate) async fn list_workloads(
        self: Arc<Self>,
        peer: Arc<Peer>,
        _: v1::ListWorkloadsRequest,
    ) -> Result<v1::ListWorkloadsResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let documents = self
            .records
            .store()
            .documents(DocumentKind::Workload)
            .await?;
        let workloads = documents
            .iter()
            .map(|(name, bytes)| Ok(workload_message(&self.records.open_workload(name, bytes)?)))
            .collect::<Result<_, Refusal>>()?;
        Ok(v1::ListWorkloadsResponse { workloads })
    }

    /// One registration.
    pub(crate) async fn show_workload(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ShowWorkloadRequest,
    ) -> Result<v1::ShowWorkloadResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let id = spiffe_id(&request.spiffe_id)?;
        let bytes = self
            .records
            .store()
            .document(DocumentKind::Workload, id.as_str())
            .await?
            .ok_or(Refusal::Absent("workload"))?;
        Ok(v1::ShowWorkloadResponse {
            workload: Some(workload_message(
                &self.records.open_workload(id.as_str(), &bytes)?,
            )),
        })
    }

    /// Removes a registration, and with it everything issued to the workload.
    pub(crate) async fn delete_workload(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::DeleteWorkloadRequest,
    ) -> Result<v1::DeleteWorkloadResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let id = spiffe_id(&request.spiffe_id)?;
        let store = self.records.store();
        let before = store
            .document(DocumentKind::Workload, id.as_str())
            .await?
            .ok_or(Refusal::Absent("workload"))?;
        let record = journal::record("workload_deleted")
            .with("workload", &id)
            .with("actor", peer.id());
        self.journal.write(record).await?;
        if !store
            .replace_document(DocumentKind::Workload, id.as_str(), Some(&before), None)
            .await?
        {
            return Err(Refusal::Absent("workload"));
        }
        self.changed(Changed::Workload(id.clone())).await?;
        self.revoke_for(Selector::workload(id), peer.id(), "registration deleted")
            .await?;
        Ok(v1::DeleteWorkloadResponse {})
    }

    /// Writes a secret.
    pub(crate) async fn put_secret(
        self: Arc<Self>,
        peer: Arc<Peer>,
        mut request: v1::PutSecretRequest,
    ) -> Result<v1::PutSecretResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        Scope::of_secret(&request.name).map_err(|e| Refusal::invalid("name", e))?;
        let value = sundew_core::SecretBytes::new(std::mem::take(&mut request.value));
        if value.expose().is_empty() || value.expose().len() > self.limits.secret_bytes {
            return Err(Refusal::invalid(
                "value",
                format!("must be 1 to {} bytes", self.limits.secret_bytes),
            ));
        }
        let key = crate::broker::idempotency_key(request.idempotency_key)?;
        let written_by = URL_SAFE_NO_PAD.encode(self.root().derive(&[
            b"put-secret",
            peer.id().as_str().as_bytes(),
            key.as_bytes(),
            value.expose(),
        ]));
        for _ in 0..ATTEMPTS {
            let before = self
                .records
                .store()
                .document(DocumentKind::Secret, &request.name)
                .await?;
            let old = before
                .as_ref()
                .map(|bytes| self.secret_of(&request.name, bytes))
                .transpose()?;
            if let Some(old) = old.as_ref().filter(|old| old.request == written_by) {
                return Ok(v1::PutSecretResponse {
                    version: old.version,
                });
            }
            let version = old.map_or(1, |old| old.version.saturating_add(1));
            let record = journal::record("secret_written")
                .with("secret", &request.name)
                .with("actor", peer.id())
                .with("version", version);
            self.journal.write(record).await?;
            let record = SecretRecord {
                version,
                updated_at_ms: clock::now_ms(),
                sealed: self.seal_secret(&request.name, &value)?,
                request: written_by.clone(),
            };
            if self
                .replace_secret(&request.name, before.as_deref(), &record)
                .await?
            {
                return Ok(v1::PutSecretResponse { version });
            }
        }
        Err(Refusal::Store(sundew_core::store::StoreError::Unavailable(
            "the secret is being written by others".to_owned(),
        )))
    }

    fn seal_secret(&self, name: &str, value: &sundew_core::SecretBytes) -> Result<String, Refusal> {
        let sealed = self
            .keyring
            .load()
            .seal(name, value.expose())
            .map_err(|cause| Refusal::Seal {
                what: "secret",
                cause,
            })?;
        Ok(STANDARD.encode(sealed))
    }

    async fn replace_secret(
        &self,
        name: &str,
        before: Option<&[u8]>,
        record: &SecretRecord,
    ) -> Result<bool, Refusal> {
        let bytes = self
            .root()
            .tag(&[b"secret", name.as_bytes()], record.encode());
        Ok(self
            .records
            .store()
            .replace_document(DocumentKind::Secret, name, before, Some(&bytes))
            .await?)
    }

    /// Names and versions of secrets, never values.
    pub(crate) async fn list_secrets(
        self: Arc<Self>,
        peer: Arc<Peer>,
        _: v1::ListSecretsRequest,
    ) -> Result<v1::ListSecretsResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let mut secrets = Vec::new();
        for (name, bytes) in self.records.store().documents(DocumentKind::Secret).await? {
            let record = self.secret_of(&name, &bytes)?;
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
        peer: Arc<Peer>,
        request: v1::DeleteSecretRequest,
    ) -> Result<v1::DeleteSecretResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        Scope::of_secret(&request.name).map_err(|e| Refusal::invalid("name", e))?;
        let before = self
            .records
            .store()
            .document(DocumentKind::Secret, &request.name)
            .await?
            .ok_or(Refusal::Absent("secret"))?;
        self.journal
            .write(
                journal::record("secret_deleted")
                    .with("secret", &request.name)
                    .with("actor", peer.id()),
            )
            .await?;
        if self
            .records
            .store()
            .replace_document(DocumentKind::Secret, &request.name, Some(&before), None)
            .await?
        {
            Ok(v1::DeleteSecretResponse {})
        } else {
            Err(Refusal::Absent("secret"))
        }
    }

    /// Adds a key to the keyring and makes it the active one. Old records still open, and are
    /// sealed anew in the background.
    pub(crate) async fn rotate_keyring(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::RotateKeyringRequest,
    ) -> Result<v1::RotateKeyringResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let unusable = |cause| Refusal::Seal {
            what: "keyring",
            cause,
        };
        let key = crate::broker::idempotency_key(request.idempotency_key)?;
        let tag = URL_SAFE_NO_PAD.encode(self.root().derive(&[
            b"rotate-keyring",
            peer.id().as_str().as_bytes(),
            key.as_bytes(),
        ]));
        for _ in 0..ATTEMPTS {
            let before = self
                .records
                .store()
                .document(DocumentKind::Meta, KEYRING)
                .await?
                .ok_or(Refusal::Absent("keyring"))?;
            let current = Keyring::unwrap(self.root(), &before).map_err(unusable)?;
            if current.request() == tag {
                return Ok(v1::RotateKeyringResponse {
                    key_id: current.active_key_id(),
                });
            }
            let next = current.rotated(&tag).map_err(unusable)?;
            let key_id = next.active_key_id();
            self.journal
                .write(
                    journal::record("keyring_rotated")
                        .with("actor", peer.id())
                        .with("key_id", key_id),
                )
                .await?;
            let sealed = next.wrap(self.root()).map_err(unusable)?;
            if self
                .records
                .store()
                .replace_document(DocumentKind::Meta, KEYRING, Some(&before), Some(&sealed))
                .await?
            {
                self.reload_keyring().await?;
                self.changed(Changed::Keyring).await?;
                return Ok(v1::RotateKeyringResponse { key_id });
            }
        }
        Err(Refusal::Store(sundew_core::store::StoreError::Unavailable(
            "the keyring is being rotated by others".to_owned(),
        )))
    }

    /// Reads the keyring from the store; puts ours there if there is none.
    pub(crate) async fn reload_keyring(&self) -> Result<(), Refusal> {
        let unusable = |cause| Refusal::Seal {
            what: "keyring",
            cause,
        };
        loop {
            if let Some(sealed) = self
                .records
                .store()
                .document(DocumentKind::Meta, KEYRING)
                .await?
            {
                self.keyring.store(Arc::new(
                    Keyring::unwrap(self.root(), &sealed).map_err(unusable)?,
                ));
                return Ok(());
            }
            // At the first start, the one that was generated just now; in a store that was emptied,
            // the one that others still use.
            let own = self.keyring.load().wrap(self.root()).map_err(unusable)?;
            self.records
                .store()
                .replace_document(DocumentKind::Meta, KEYRING, None, Some(&own))
                .await?;
        }
    }

    /// Seals anew what an older key sealed. Answers how many.
    pub(crate) async fn reseal(&self) -> Result<usize, Refusal> {
        let active = self.keyring.load().active_key_id();
        let mut count = 0_usize;
        for (name, before) in self.records.store().documents(DocumentKind::Secret).await? {
            let mut record = self.secret_of(&name, &before)?;
            if key_of(&record)? < active {
                let sealed = STANDARD.decode(&record.sealed).map_err(|_| Refusal::Seal {
                    what: "secret",
                    cause: SealError::Opening,
                })?;
                record.sealed =
                    self.seal_secret(&name, &self.open_secret(&name, &sealed).await?)?;
                count = count.saturating_add(usize::from(
                    self.replace_secret(&name, Some(&before), &record).await?,
                ));
            }
        }
        Ok(count)
    }

    /// A join token for a registered workload's first SVID.
    pub(crate) async fn create_join_token(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let ca = self
            .ca
            .as_ref()
            .ok_or(Refusal::Unsupported("embedded CA"))?;
        let id = spiffe_id(&request.spiffe_id)?;
        if id.trust_domain() != ca.trust_domain() {
            return Err(Refusal::invalid(
                "spiffe_id",
                format!("the embedded CA is that of {}", ca.trust_domain()),
            ));
        }
        self.records
            .workload(&id)
            .await?
            .ok_or(Refusal::Absent("workload"))?;
        let ttl_ms = if request.ttl_ms == 0 {
            600_000
        } else {
            Ttl::from_ms(request.ttl_ms)
                .map_err(|e| Refusal::invalid("ttl_ms", e))?
                .as_ms()
        };
        if ttl_ms > MAX_JOIN_TTL_MS {
            return Err(Refusal::invalid(
                "ttl_ms",
                "a join token lives at most 24 hours",
            ));
        }
        let expires_at_ms = clock::now_ms().saturating_add(ttl_ms);
        self.journal
            .write(
                journal::record("join_token_created")
                    .with("workload", &id)
                    .with("actor", peer.id())
                    .with("expires_at_ms", expires_at_ms),
            )
            .await?;
        Ok(v1::CreateJoinTokenResponse {
            join_token: self.join_token(&id, expires_at_ms)?,
            expires_at_ms,
        })
    }
}

/// Where the store has the keyring.
const KEYRING: &str = "keyring";

fn key_of(record: &SecretRecord) -> Result<u32, Refusal> {
    let unreadable = |cause| Refusal::Seal {
        what: "secret",
        cause,
    };
    let sealed = STANDARD
        .decode(&record.sealed)
        .map_err(|_| unreadable(SealError::Opening))?;
    Keyring::key_id(&sealed).map_err(unreadable)
}

pub(crate) fn spiffe_id(text: &str) -> Result<SpiffeId, Refusal> {
    SpiffeId::parse(text).map_err(|e| Refusal::invalid("spiffe_id", e))
}

fn version_of(registration: &Registration) -> String {
    let digest = digest::digest(
        &digest::SHA256,
        registration.document().to_string().as_bytes(),
    );
    hex(digest.as_ref()).chars().take(16).collect()
}

fn workload_message(record: &WorkloadRecord) -> v1::Workload {
    v1::Workload {
        spiffe_id: record.registration.spiffe_id.to_string(),
        document: record.registration.document().to_string(),
        version: record.version.clone(),
    }
}
