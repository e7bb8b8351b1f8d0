//! Delegation: the owner of a task lets another workload open tasks below it.
//!
//! P3: a child is within its parent in scope, audience, time and depth. The grant says what the
//! owner wants to give; the child still has to be attested and to stay within its own registration.
//! A grant is no credential: only the workload that it names can use it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use sundew_attestation::spiffe::SpiffeId;

use crate::audience;
use crate::denial::Denial;
use crate::id::TaskId;
use crate::record::{RecordError, TaskRecord};
use crate::registration::Registration;
use crate::scope::ScopeSet;
use crate::sealing::{KeyFingerprint, RootKey};
use crate::ttl::Ttl;

/// The text before the encoded part of every grant.
const GRANT_PREFIX: &str = "sdg_";
/// The longest encoded part of a grant, in bytes.
const MAX_GRANT: usize = 48 << 10;

/// The grant that the owner of a task asks for.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// The workload that may use the grant.
    pub delegate: SpiffeId,
    /// The scopes that tasks under the grant may use at most.
    pub scopes: ScopeSet,
    /// The audiences that tokens of those tasks may be meant for. An empty list means those of the
    /// parent.
    pub audience: Vec<String>,
    /// The time for which the grant and every task under it may live, if the owner asks for one.
    pub ttl: Option<Ttl>,
    /// The number of levels that may be delegated below those tasks.
    pub depth: u32,
}

/// The leave for one workload to open tasks below a task.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The task that the new tasks are opened below.
    pub parent: TaskId,
    /// The workload that may open them.
    pub delegate: SpiffeId,
    /// The scopes that such a task may use at most.
    pub scopes: ScopeSet,
    /// The ceiling of the audiences of such a task's tokens. An empty list sets no limit.
    pub audience: Vec<String>,
    /// The time at which the grant and all tasks under it end, in milliseconds since the epoch.
    pub expires_at_ms: i64,
    /// The number of levels that may be delegated below such a task.
    pub depth: u32,
}

/// The encoded form of a grant. Field numbers must never change.
#[derive(Clone, PartialEq, Message)]
struct StoredGrant {
    #[prost(bytes = "vec", tag = "1")]
    parent: Vec<u8>,
    #[prost(string, tag = "2")]
    delegate: String,
    #[prost(string, repeated, tag = "3")]
    scopes: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    audience: Vec<String>,
    #[prost(int64, tag = "5")]
    expires_at_ms: i64,
    #[prost(uint32, tag = "6")]
    depth: u32,
}

impl Grant {
    /// Decides on a grant by the owner of a task at `now_ms`, in milliseconds since the epoch.
    ///
    /// # Errors
    ///
    /// The first [`Denial`] that applies.
    pub fn permit(
        registration: &Registration,
        task: &TaskRecord,
        request: GrantRequest,
        now_ms: i64,
    ) -> Result<Self, Denial> {
        if task.depth_left == 0
            || registration.max_delegation_depth == 0
            || request.depth >= task.depth_left
        {
            return Err(Denial::Delegation);
        }
        // A foreign trust domain is another organisation: it gets registrations, not grants.
        if request.delegate.trust_domain() != task.workload.trust_domain() {
            return Err(Denial::Delegation);
        }
        if !task.scopes.covers_all(&request.scopes)
            || !registration.scopes.covers_all(&request.scopes)
        {
            return Err(Denial::Scope);
        }
        let ceiling = audience::intersection(&task.audience, registration.audience_ceiling())?;
        let audience = audience::narrow(&ceiling, request.audience)?;
        let expires_at_ms = request.ttl.map_or(task.deadline_ms, |ttl| {
            now_ms.saturating_add(ttl.as_ms()).min(task.deadline_ms)
        });
        if expires_at_ms <= now_ms {
            return Err(Denial::NoTime);
        }
        Ok(Self {
            parent: task.id,
            delegate: request.delegate,
            scopes: request.scopes,
            audience,
            expires_at_ms,
            depth: request.depth,
        })
    }

    /// Returns the text that the delegate gets: `sdg_`, then base64url of the grant and its tag, under
    /// the root key of the parent.
    #[must_use]
    pub fn to_text(&self, root: &RootKey, key: KeyFingerprint) -> String {
        let stored = StoredGrant {
            parent: self.parent.as_bytes().to_vec(),
            delegate: self.delegate.to_string(),
            scopes: self.scopes.to_strings(),
            audience: self.audience.clone(),
            expires_at_ms: self.expires_at_ms,
            depth: self.depth,
        };
        format!(
            "{GRANT_PREFIX}{}",
            URL_SAFE_NO_PAD.encode(root.tag_under(key, &[b"grant"], stored.encode_to_vec()))
        )
    }

    /// Reads the text that [`Grant::to_text`] made under this root key.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`] for any other text, however it differs.
    pub fn parse(root: &RootKey, text: &str) -> Result<Self, RecordError> {
        let malformed = || RecordError::Malformed;
        let encoded = text
            .strip_prefix(GRANT_PREFIX)
            .filter(|e| e.len() <= MAX_GRANT)
            .ok_or_else(malformed)?;
        let tagged = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed())?;
        let stored =
            StoredGrant::decode(root.untag(&[b"grant"], &tagged).map_err(|_| malformed())?)
                .map_err(|_| malformed())?;
        Ok(Self {
            parent: TaskId::from_bytes(
                stored
                    .parent
                    .as_slice()
                    .try_into()
                    .map_err(|_| malformed())?,
            ),
            delegate: SpiffeId::parse(&stored.delegate).map_err(|_| malformed())?,
            scopes: ScopeSet::parse(&stored.scopes).map_err(|_| malformed())?,
            audience: stored.audience,
            expires_at_ms: stored.expires_at_ms,
            depth: stored.depth,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::samples;

    fn request(scopes: &[&str], depth: u32) -> GrantRequest {
        GrantRequest {
            delegate: SpiffeId::parse("spiffe://example.org/b").unwrap(),
            scopes: ScopeSet::parse(scopes).unwrap(),
            audience: vec![],
            ttl: None,
            depth,
        }
    }

    fn parent() -> (Registration, TaskRecord) {
        let mut task = samples::task(1);
        (task.depth_left, task.scopes) = (3, ScopeSet::parse(&["secret:a/*", "exec:git"]).unwrap());
        let registration = serde_json::from_value(serde_json::json!({
            "spiffe_id": "spiffe://example.org/a",
            "evidence": [],
            "scopes": ["secret:*", "exec:git"],
            "begin": "self",
            "owner": "x",
            "max_delegation_depth": 3,
        }));
        (registration.unwrap(), task)
    }

    #[test]
    fn ac_51_a_grant_is_within_its_task() {
        let (registration, task) = parent();
        let permit = |request| Grant::permit(&registration, &task, request, 10);
        assert_eq!(permit(request(&["secret:*"], 0)), Err(Denial::Scope));
        assert_eq!(permit(request(&["exec:git"], 3)), Err(Denial::Delegation));
        let foreign = GrantRequest {
            delegate: SpiffeId::parse("spiffe://other.org/b").unwrap(),
            ..request(&["exec:git"], 0)
        };
        assert_eq!(permit(foreign), Err(Denial::Delegation));
        assert_eq!(
            Grant::permit(
                &registration,
                &TaskRecord {
                    depth_left: 0,
                    ..task.clone()
                },
                request(&["exec:git"], 0),
                10
            ),
            Err(Denial::Delegation)
        );
        let long = GrantRequest {
            ttl: Ttl::from_ms(1 << 40).ok(),
            ..request(&["secret:a/b"], 2)
        };
        assert_eq!(
            permit(long).map(|grant| grant.expires_at_ms),
            Ok(task.deadline_ms)
        );
        assert_eq!(
            Grant::permit(
                &registration,
                &task,
                request(&["exec:git"], 0),
                task.deadline_ms
            ),
            Err(Denial::NoTime)
        );
    }

    proptest! {
        #[test]
        fn a_grant_that_was_touched_is_none(flip in 0_usize..1000, bit in 0_u8..8) {
            let root = RootKey::new(&[7; 32]).unwrap();
            let (registration, task) = parent();
            let grant = Grant::permit(&registration, &task, request(&["exec:git"], 1), 10).unwrap();
            let text = grant.to_text(&root, root.active());
            prop_assert_eq!(Grant::parse(&root, &text).unwrap(), grant);
            let mut bytes = text.into_bytes();
            let at = flip % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(Grant::parse(&root, &text).is_err());
            }
        }
    }
}
