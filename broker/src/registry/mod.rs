//! Registrations of workloads, by which platform teams say what a workload must prove and may ask
//! for.

mod bounds;
mod no_longer_enough;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ring::digest;
use sundew_attestation::json::{self, JsonError};
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_attestation::{TrustMaterial, hex};
use sundew_core::store::DocumentKind;
use sundew_core::{GivenFor, Registration, Selector, WorkloadRecord};
use sundew_proto::v1;

use self::no_longer_enough::NoLongerEnough;
use crate::clock;
use crate::evidence::Evidence;
use crate::journal;
use crate::ledger::{Change, Dependents, Ledger};
use crate::records::{Before, DocumentPlace};
use crate::refusal::Refusal;
use crate::response::{Plan, Responses};
use crate::role::{Operator, Registrar, Within};
use crate::wire::{deletion, spiffe_id};

/// Most registrations in one request.
const MAX_APPLIED: usize = 1000;
/// Longest registration as JSON, in bytes.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// How often a change is tried before it is refused because other brokers change the same
/// registration.
const REPLACE_ATTEMPTS: usize = 8;

/// The room of registrations.
pub(crate) struct Registry {
    ledger: Ledger,
    /// The trust domain of the embedded CA, if this broker has one.
    ca_domain: Option<TrustDomain>,
    evidence: Arc<Evidence>,
    no_longer_enough: NoLongerEnough,
    responses: Arc<Responses>,
}

impl Registry {
    /// A room that checks registrations against what `evidence` trusts.
    pub(crate) fn new(
        ledger: Ledger,
        ca_domain: Option<TrustDomain>,
        evidence: Arc<Evidence>,
        responses: Arc<Responses>,
    ) -> Self {
        Self {
            ledger,
            ca_domain,
            evidence,
            no_longer_enough: NoLongerEnough::default(),
            responses,
        }
    }

    /// Creates or replaces registrations. All are checked before the first is written.
    pub(crate) async fn apply_workloads(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::ApplyWorkloadsRequest,
    ) -> Result<v1::ApplyWorkloadsResponse, Refusal> {
        if request.documents.len() > MAX_APPLIED {
            return Err(Refusal::invalid(
                "documents",
                format!("at most {MAX_APPLIED} workloads at a time"),
            ));
        }
        let trust = self.evidence.trusted().await?;
        let mut registrations: Vec<Registration> = Vec::new();
        let mut problems = Vec::new();
        for (index, document) in request.documents.iter().enumerate() {
            match parse(document) {
                Ok(registration)
                    if registrations
                        .iter()
                        .any(|r| r.spiffe_id == registration.spiffe_id) =>
                {
                    problems.push(format!("{}: named twice", registration.spiffe_id));
                }
                Ok(registration) => {
                    problems.extend(self.problems(&registration, &trust));
                    registrations.push(registration);
                }
                Err(error) => {
                    problems.push(format!("workload {}: {error}", index.saturating_add(1)))
                }
            }
        }
        let mut within = Vec::new();
        for registration in registrations {
            within.push((operator.handing_out(&registration)?, registration));
        }
        if !problems.is_empty() {
            return Err(Refusal::invalid("documents", problems.join("; ")));
        }
        // Only now is anything written: a batch with one problem changes nothing.
        let mut changes = Vec::new();
        for (within, registration) in within {
            changes.push(self.apply(within, registration, request.dry_run).await?);
        }
        Ok(v1::ApplyWorkloadsResponse { changes })
    }

    /// Everything that is wrong with a registration at this broker.
    fn problems(&self, registration: &Registration, trust: &TrustMaterial) -> Vec<String> {
        let id = &registration.spiffe_id;
        let mut problems: Vec<_> = registration
            .problems(trust)
            .iter()
            .map(ToString::to_string)
            .collect();
        let is_for_brokers =
            |domain: &TrustDomain| id.as_str().starts_with(&format!("{}/sundew/", domain.id()));
        if self.ca_domain.as_ref().is_some_and(is_for_brokers) {
            problems.push(format!("{id}: spiffe_id: `/sundew/…` is for brokers"));
        }
        let longest = self.ledger.log.agreement().bounds.max_task_ttl;
        if registration.max_task_ttl > longest {
            problems.push(format!(
                "{id}: max_task_ttl: the brokers of this store allow at most {longest}"
            ));
        }
        problems
    }

    /// Writes a registration, unless it is there already; answers what changed. With `dry_run`,
    /// only answers what would change.
    async fn apply(
        &self,
        within: Within<'_>,
        registration: Registration,
        dry_run: bool,
    ) -> Result<v1::WorkloadChange, Refusal> {
        let id = registration.spiffe_id.clone();
        let version = version_of(&registration);
        let change_name = format!("registration of {id}");
        let place = DocumentPlace::new(DocumentKind::Workload, id.as_str());
        // The version is compared by content, so a repeated request changes nothing.
        for _ in 0..REPLACE_ATTEMPTS {
            let before = self.ledger.before_change(place).await?;
            let stored = before.document.as_ref();
            let old = stored.and_then(|old| old.decode(WorkloadRecord::decode).ok());
            let diff = registration.diff_from(old.as_ref().map(|o| &o.registration));
            let action = match &old {
                None => "created",
                Some(old) if old.version == version => "unchanged",
                Some(_) => "changed",
            };
            let mut answer = v1::WorkloadChange {
                spiffe_id: id.to_string(),
                action: action.to_owned(),
                diff,
                version: version.clone(),
                revocations: Vec::new(),
            };
            if dry_run {
                return Ok(answer);
            }
            // P4: what a narrower registration takes away ends what rests on it.
            let plan = match (&old, stored) {
                _ if action == "unchanged" => self.responses.left_of_plan(&change_name).await?,
                (None, None) => Plan::default(),
                (old, _) => {
                    // What a registration allowed that cannot be read is not known.
                    let selectors = old.as_ref().map_or_else(
                        || vec![Selector::workload(id.clone())],
                        |old| self.narrowing(&registration, &old.registration),
                    );
                    let (actor, reason) = (within.actor().as_str(), "registration narrowed");
                    let plan = self.responses.plan(&change_name, selectors, actor, reason);
                    plan.await?
                }
            };
            let change = if action == "unchanged" {
                Change::Keep
            } else {
                let record = journal::record("workload_applied")
                    .with("workload", &id)
                    .with("actor", within.actor())
                    .with("action", action)
                    .with("version", &version)
                    .with("diff", answer.diff.join("\n"));
                let body = WorkloadRecord {
                    registration: registration.clone(),
                    version: version.clone(),
                    applied_at_ms: clock::now_ms(),
                    applied_by: within.actor().to_string(),
                };
                Change::Write(body.encode(), record)
            };
            let put = self.ledger.put_document(place, &before, change, ());
            if put.await?.is_none() {
                self.responses.give_up(plan).await?;
                continue;
            }
            self.no_longer_enough.forget(id.as_str());
            let rules = self.responses.carry_out(plan).await?;
            answer.revocations = rules.into_iter().map(|(_, id)| id).collect();
            return Ok(answer);
        }
        Err(Refusal::Conflict("registration"))
    }

    /// The selectors of what a registration takes back, SVIDs included.
    fn narrowing(&self, new: &Registration, former: &Registration) -> Vec<Selector> {
        let mut selectors = new.narrowing_from(former);
        let before_ms = self.ledger.given_before_ms();
        for what in new.svids_narrowing_from(former) {
            selectors.extend(Selector::svids_given_for(&new.spiffe_id, what, before_ms));
        }
        selectors
    }

    /// Lists all registrations that the operator's role is over.
    pub(crate) async fn list_workloads(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        _: v1::ListWorkloadsRequest,
    ) -> Result<v1::ListWorkloadsResponse, Refusal> {
        let records = &self.ledger.records;
        let documents = records.readable_documents(DocumentKind::Workload).await?;
        let mut workloads = Vec::new();
        for (_, document) in &documents {
            let record = document.decode(WorkloadRecord::decode)?;
            if operator.reaches(&record.registration.spiffe_id) {
                workloads.push(workload_message(&record));
            }
        }
        Ok(v1::ListWorkloadsResponse { workloads })
    }

    /// Shows a registration.
    pub(crate) async fn show_workload(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::ShowWorkloadRequest,
    ) -> Result<v1::ShowWorkloadResponse, Refusal> {
        let id = spiffe_id(&request.spiffe_id)?;
        let _ = operator.over(&id)?;
        let place = DocumentPlace::new(DocumentKind::Workload, id.as_str());
        let document = self.ledger.records.document(place).await?;
        let document = document.ok_or(Refusal::NotFound("workload"))?;
        Ok(v1::ShowWorkloadResponse {
            workload: Some(workload_message(&document.decode(WorkloadRecord::decode)?)),
        })
    }

    /// Removes a registration, and revokes everything that was issued to the workload: tokens, tasks,
    /// SVIDs of the embedded CA, and join tokens. L5: also if there is no registration any more.
    pub(crate) async fn delete_workload(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::DeleteWorkloadRequest,
    ) -> Result<v1::DeleteWorkloadResponse, Refusal> {
        let id = spiffe_id(&request.spiffe_id)?;
        let within = operator.over(&id)?;
        let record = journal::record("workload_deleted")
            .with("workload", &id)
            .with("actor", within.actor());
        let place = DocumentPlace::new(DocumentKind::Workload, id.as_str());
        let issued = IssuedTo {
            actor: within.actor(),
            ledger: &self.ledger,
            responses: &self.responses,
            workload: &id,
        };
        let withdrawn = self.ledger.withdraw_document(place, record, &issued);
        let (existed, ()) = withdrawn.await?;
        self.no_longer_enough.forget(id.as_str());
        Ok(v1::DeleteWorkloadResponse {
            action: deletion(existed).to_owned(),
        })
    }
}

/// Everything that was issued to a workload.
struct IssuedTo<'a> {
    actor: &'a SpiffeId,
    ledger: &'a Ledger,
    responses: &'a Responses,
    workload: &'a SpiffeId,
}

impl Dependents for IssuedTo<'_> {
    type Ended = ();
    async fn end(&self, _: &Before) -> Result<(), Refusal> {
        let before_ms = self.ledger.given_before_ms();
        let mut selectors = vec![Selector::workload(self.workload.clone())];
        // E9: also where somebody registers the same ID later.
        let what = GivenFor::Anything;
        selectors.extend(Selector::svids_given_for(self.workload, what, before_ms));
        for selector in selectors {
            let revoked = self
                .responses
                .revoke_for(selector, self.actor, "registration deleted");
            revoked.await?;
        }
        Ok(())
    }
}

/// Why a document is no registration.
#[derive(Debug, thiserror::Error)]
enum DocumentError {
    /// A field is missing, unknown or not valid; the text says which.
    #[error("{0}")]
    Field(serde_path_to_error::Error<serde_json::Error>),
    /// The document is not JSON, or is too large.
    #[error("{0}")]
    Json(JsonError),
}

/// Reads a registration; an error says where in the document the fault is.
fn parse(document: &str) -> Result<Registration, DocumentError> {
    let value =
        json::parse(document.as_bytes(), MAX_DOCUMENT_BYTES).map_err(DocumentError::Json)?;
    serde_path_to_error::deserialize(value).map_err(DocumentError::Field)
}

/// The version of a registration: 16 hexadecimal digits of the digest of its document.
fn version_of(registration: &Registration) -> String {
    let digest = digest::digest(
        &digest::SHA256,
        registration.document().to_string().as_bytes(),
    );
    hex(digest.as_ref()).chars().take(16).collect()
}

/// A registration as a message.
fn workload_message(record: &WorkloadRecord) -> v1::Workload {
    v1::Workload {
        spiffe_id: record.registration.spiffe_id.to_string(),
        document: record.registration.document().to_string(),
        version: record.version.clone(),
    }
}
