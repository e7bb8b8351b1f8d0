//! Orders: leave for exactly one task, by somebody other than the workload that begins it.
//!
//! P3: the task is within the order, and the order within its dispatcher's bounds, or within the live
//! task from which an agent has ordered it; such an order is a delegation. An order has the
//! identifier of its task, so that whatever ends the task ends the order too, and a cancellation is
//! an ending like any other (P4). P8: the record has the hash of the ticket only. Nobody orders for
//! itself, nor for whoever may order for it.

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::audience;
use crate::delegation::{Grant, GrantRequest};
use crate::denial::Denial;
use crate::id::{OrderId, TaskId};
use crate::position::Position;
use crate::record::RecordError;
use crate::registration::Registration;
use crate::scope::ScopeSet;
use crate::selector::{
    Attribute, Subject, scope_attributes, serial_attribute, workload_attributes,
};
use crate::subject::KnownTask;
use crate::ttl::Ttl;

/// The task that a dispatcher orders.
#[derive(Clone, Debug)]
pub struct OrderRequest {
    /// The workload that may claim the task.
    pub workload: SpiffeId,
    /// The scopes that the task may use at most.
    pub scopes: ScopeSet,
    /// The audiences that the task's tokens may be meant for. An empty list sets no limit beyond the
    /// registration's, or means those of the task from which it is ordered.
    pub audience: Vec<String>,
    /// The time from now on in which the task must have ended.
    pub ttl: Ttl,
    /// The time from now on in which the task must have been claimed.
    pub claimable: Ttl,
    /// The reason for the task, for people.
    pub purpose: String,
    /// The instruction that the task is begun with.
    pub instruction: String,
    /// The labels of the task, such as `untrusted-input`.
    pub labels: Vec<String>,
    /// The number of levels that may be delegated below the task.
    pub depth: u32,
    /// Whether the task ends when its ticket is shown again.
    pub ends_on_reuse: bool,
}

/// The names under which an order is made.
#[derive(Clone, Debug)]
pub struct OrderOrigin {
    /// The identifier of the order.
    pub id: OrderId,
    /// The identity that orders.
    pub dispatcher: SpiffeId,
    /// The serial number of its SVID, big-endian.
    pub svid_serial: Vec<u8>,
    /// The SHA-256 digest of the ticket.
    pub ticket: [u8; 32],
    /// The digest of the request: an idempotency key is good for one request.
    pub request: [u8; 32],
    /// The log position that the broker had applied when it decided on the order.
    pub position: Position,
}

/// An order, as it was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The identifier, which is that of the task too.
    pub id: OrderId,
    /// The identity that ordered the task.
    pub dispatcher: SpiffeId,
    /// The serial number of its SVID, big-endian.
    pub svid_serial: Vec<u8>,
    /// The workload that may claim the task.
    pub workload: SpiffeId,
    /// The scopes that the task may use at most.
    pub scopes: ScopeSet,
    /// The ceiling of the audiences of the task's tokens. An empty list sets no limit.
    pub audience: Vec<String>,
    /// The time at which the task ends at the latest, in milliseconds since the epoch.
    pub deadline_ms: i64,
    /// The time from which the order cannot be claimed, in milliseconds since the epoch.
    pub claimable_until_ms: i64,
    /// The dispatcher's words for why the task exists. They never decide anything.
    pub purpose: String,
    /// The instruction that the task is begun with. It never decides anything.
    pub instruction: String,
    /// The labels of the task.
    pub labels: Vec<String>,
    /// The number of levels that may be delegated below the task.
    pub depth: u32,
    /// Whether the task ends when its ticket is shown again.
    pub ends_on_reuse: bool,
    /// The task of the dispatcher from within which the order was made, if it is an agent.
    pub parent: Option<TaskId>,
    /// The time at which the order was made, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// The log position that the broker had applied when it decided on the order.
    pub position: u64,
    /// The SHA-256 digest of the ticket (P8).
    pub ticket: [u8; 32],
    /// The digest of the request.
    pub request: [u8; 32],
}

impl Order {
    /// Makes an order at `now_ms`, in milliseconds since the epoch, by an identity whose role allows
    /// it. That the request is within the bounds of the role is decided before.
    ///
    /// # Errors
    ///
    /// The first [`Denial`] that applies.
    pub fn permit_standing(
        origin: OrderOrigin,
        request: OrderRequest,
        registration: &Registration,
        now_ms: i64,
    ) -> Result<Self, Denial> {
        if origin.dispatcher == request.workload {
            return Err(Denial::OrderCircle);
        }
        let deadline_ms = now_ms.saturating_add(request.ttl.as_ms());
        let audience = audience::narrow(registration.audience_ceiling(), request.audience.clone())?;
        Self::within(origin, request, registration, audience, deadline_ms, now_ms)
    }

    /// Makes an order at `now_ms`, in milliseconds since the epoch, from within a live task of the
    /// dispatcher. It is a delegation from that task, and ends with it.
    ///
    /// # Errors
    ///
    /// The first [`Denial`] that applies.
    pub fn permit_within(
        origin: OrderOrigin,
        mut request: OrderRequest,
        (task, of_dispatcher): (&KnownTask, &Registration),
        registration: &Registration,
        now_ms: i64,
    ) -> Result<Self, Denial> {
        // Whoever may order for somebody in this tree stands in its chain.
        let is_above = |each: &KnownTask| {
            let ordered_by = each.order.as_ref().map(|order| &order.dispatcher);
            each.workload == request.workload || ordered_by == Some(&request.workload)
        };
        if origin.dispatcher == request.workload || task.chain().any(is_above) {
            return Err(Denial::OrderCircle);
        }
        let grant = GrantRequest {
            delegate: request.workload.clone(),
            scopes: request.scopes.clone(),
            audience: request.audience.clone(),
            ttl: Some(request.ttl),
            depth: request.depth,
        };
        let grant = Grant::permit(of_dispatcher, task.record(), grant, now_ms)?;
        // A task's labels are those of whatever comes of it.
        let inherited = task.chain().filter_map(|each| each.order.as_ref());
        request
            .labels
            .extend(inherited.flat_map(|order| order.labels.clone()));
        let ceiling = audience::intersection(&grant.audience, registration.audience_ceiling())?;
        let mut order = Self::within(
            origin,
            request,
            registration,
            ceiling,
            grant.expires_at_ms,
            now_ms,
        )?;
        order.parent = Some(task.id);
        Ok(order)
    }

    fn within(
        origin: OrderOrigin,
        request: OrderRequest,
        registration: &Registration,
        audience: Vec<String>,
        deadline_ms: i64,
        now_ms: i64,
    ) -> Result<Self, Denial> {
        if registration.spiffe_id != request.workload {
            return Err(Denial::Subject);
        }
        if !registration.scopes.covers_all(&request.scopes) {
            return Err(Denial::Scope);
        }
        if deadline_ms <= now_ms {
            return Err(Denial::NoTime);
        }
        let mut labels = request.labels;
        labels.sort();
        labels.dedup();
        let claimable_until_ms = now_ms.saturating_add(request.claimable.as_ms());
        Ok(Self {
            id: origin.id,
            dispatcher: origin.dispatcher,
            svid_serial: origin.svid_serial,
            workload: request.workload,
            scopes: request.scopes,
            audience,
            deadline_ms,
            claimable_until_ms: claimable_until_ms.min(deadline_ms),
            purpose: request.purpose,
            instruction: request.instruction,
            labels,
            depth: request.depth,
            ends_on_reuse: request.ends_on_reuse,
            parent: None,
            created_at_ms: now_ms,
            position: origin.position.0,
            ticket: origin.ticket,
            request: origin.request,
        })
    }

    /// Returns the grant that the order stands for, if it was made from within a task.
    #[must_use]
    pub fn grant(&self) -> Option<Grant> {
        self.parent.map(|parent| Grant {
            parent,
            delegate: self.workload.clone(),
            scopes: self.scopes.clone(),
            audience: self.audience.clone(),
            expires_at_ms: self.deadline_ms,
            depth: self.depth,
        })
    }

    /// Returns the bytes that the store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`Order::encode`] returned. A field that this version does not know could
    /// be a restriction, so that it is refused.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`] if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// The claim of an order: who has begun its task.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClaimRecord {
    /// The workload that claimed the order.
    pub workload: SpiffeId,
    /// The serial number of its SVID, in hexadecimal.
    pub svid_serial: String,
    /// The address from which it came.
    pub remote: String,
    /// The time of the claim, in milliseconds since the epoch.
    pub claimed_at_ms: i64,
    /// The digest of the request to begin the task, by which a retry is told from another claim.
    pub request: [u8; 32],
}

impl ClaimRecord {
    /// Returns the bytes that the store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`ClaimRecord::encode`] returned.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`] if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// An order with the attributes by which rules find it, and with the task from within which it was
/// made.
#[derive(Debug)]
pub struct KnownOrder {
    order: Order,
    parent: Option<Arc<KnownTask>>,
    identity: Vec<Attribute>,
    scopes: Vec<Attribute>,
}

impl std::ops::Deref for KnownOrder {
    type Target = Order;
    fn deref(&self) -> &Order {
        &self.order
    }
}

impl KnownOrder {
    /// Makes an order from its record, and from the task that it names as its parent.
    #[must_use]
    pub fn new(order: Order, parent: Option<Arc<KnownTask>>) -> Self {
        let mut identity = vec![
            Attribute::Task(order.id.task()),
            Attribute::Tree(order.id.task()),
            Attribute::Order(order.id),
            Attribute::FromOrder(order.id),
            Attribute::Dispatcher(order.dispatcher.clone()),
            Attribute::OrderedBy(order.dispatcher.clone()),
            serial_attribute(&order.svid_serial),
        ];
        identity.extend(workload_attributes(&order.workload));
        Self {
            scopes: scope_attributes(order.scopes.iter()),
            order,
            parent,
            identity,
        }
    }

    /// Returns the task from within which the order was made.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<KnownTask>> {
        self.parent.as_ref()
    }

    /// Returns the unclaimed order as rules see it.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            position: Position(self.order.position),
            issued_at_ms: self.order.created_at_ms,
            task: &self.identity,
            own: &self.scopes,
        }
    }
}
