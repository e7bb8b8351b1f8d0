//! The stored form of tasks and tokens, in Protocol Buffers.
//!
//! The form is compact, since a million records live in the store's memory: a token leaves out
//! every field that it shares with its task. Field numbers must never change.

use prost::Message;
use sundew_attestation::spiffe::SpiffeId;

use crate::id::TaskId;
use crate::position::Position;
use crate::record::{RecordError, TaskOrder, TaskRecord, TokenRecord};
use crate::scope::ScopeSet;
use crate::token_binding::TokenBinding;

#[derive(Clone, PartialEq, Message)]
struct StoredTask {
    #[prost(string, tag = "1")]
    workload: String,
    #[prost(string, tag = "2")]
    purpose: String,
    #[prost(string, tag = "3")]
    instruction: String,
    #[prost(string, repeated, tag = "4")]
    scopes: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    audience: Vec<String>,
    #[prost(int64, tag = "6")]
    created_at_ms: i64,
    #[prost(int64, tag = "7")]
    life_ms: i64,
    #[prost(bytes = "vec", tag = "8")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    svid_serial: Vec<u8>,
    #[prost(uint64, tag = "10")]
    position: u64,
    #[prost(int64, tag = "11")]
    grace_ms: i64,
    #[prost(string, tag = "12")]
    registration: String,
    #[prost(bytes = "vec", tag = "13")]
    request: Vec<u8>,
    #[prost(string, repeated, tag = "14")]
    evidence: Vec<String>,
    #[prost(string, repeated, tag = "15")]
    claims: Vec<String>,
    #[prost(bytes = "vec", repeated, tag = "16")]
    ancestors: Vec<Vec<u8>>,
    #[prost(uint32, tag = "17")]
    depth_left: u32,
    /// The text is empty if the task came of no order; then there are no labels.
    #[prost(string, tag = "18")]
    dispatcher: String,
    #[prost(string, repeated, tag = "19")]
    labels: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredToken {
    /// The list is empty if the token has all scopes of its task.
    #[prost(string, repeated, tag = "1")]
    scopes: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    audience: Vec<String>,
    /// The time between the task's beginning and the token's minting, in milliseconds.
    #[prost(int64, tag = "3")]
    issued_after_ms: i64,
    #[prost(int64, tag = "4")]
    life_ms: i64,
    #[prost(bool, tag = "5")]
    bearer: bool,
    /// The digest is empty if the token was minted for the certificate that began its task; then
    /// the serial number is left out too.
    #[prost(bytes = "vec", tag = "6")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    svid_serial: Vec<u8>,
    #[prost(uint64, tag = "8")]
    position: u64,
    /// The version is empty if the registration that allowed the task allowed the token too.
    #[prost(string, tag = "9")]
    registration: String,
    #[prost(bytes = "vec", tag = "10")]
    request: Vec<u8>,
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], RecordError> {
    bytes.try_into().map_err(|_| RecordError::Malformed)
}

fn scopes(texts: &[String]) -> Result<ScopeSet, RecordError> {
    ScopeSet::parse(texts).map_err(|_| RecordError::Malformed)
}

impl TaskRecord {
    /// Returns the bytes that the store keeps under the task's identifier. The identifier itself is
    /// not among them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        StoredTask {
            workload: self.workload.to_string(),
            purpose: self.purpose.clone(),
            instruction: self.instruction.clone(),
            scopes: self.scopes.to_strings(),
            audience: self.audience.clone(),
            created_at_ms: self.created_at_ms,
            life_ms: self.deadline_ms.saturating_sub(self.created_at_ms),
            certificate: self.certificate.to_vec(),
            svid_serial: self.svid_serial.clone(),
            position: self.position.0,
            grace_ms: self.grace_ms,
            registration: self.registration.clone(),
            request: self.request.to_vec(),
            evidence: self.evidence.clone(),
            claims: self.claims.clone(),
            ancestors: self
                .ancestors
                .iter()
                .map(|id| id.as_bytes().to_vec())
                .collect(),
            depth_left: self.depth_left,
            dispatcher: self
                .order
                .as_ref()
                .map(|order| order.dispatcher.to_string())
                .unwrap_or_default(),
            labels: self
                .order
                .as_ref()
                .map(|order| order.labels.clone())
                .unwrap_or_default(),
        }
        .encode_to_vec()
    }

    /// Reads the bytes that [`TaskRecord::encode`] returned for the task with this identifier.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`] if the bytes are anything else.
    pub fn decode(id: TaskId, bytes: &[u8]) -> Result<Self, RecordError> {
        let stored = StoredTask::decode(bytes).map_err(|_| RecordError::Malformed)?;
        Ok(Self {
            id,
            workload: SpiffeId::parse(&stored.workload).map_err(|_| RecordError::Malformed)?,
            purpose: stored.purpose,
            instruction: stored.instruction,
            scopes: scopes(&stored.scopes)?,
            audience: stored.audience,
            created_at_ms: stored.created_at_ms,
            deadline_ms: stored.created_at_ms.saturating_add(stored.life_ms),
            certificate: exactly(&stored.certificate)?,
            svid_serial: stored.svid_serial,
            position: Position(stored.position),
            grace_ms: stored.grace_ms,
            registration: stored.registration,
            request: exactly(&stored.request)?,
            evidence: stored.evidence,
            claims: stored.claims,
            ancestors: stored
                .ancestors
                .iter()
                .map(|id| exactly(id).map(TaskId::from_bytes))
                .collect::<Result<_, _>>()?,
            depth_left: stored.depth_left,
            order: match stored.dispatcher.as_str() {
                "" => None,
                dispatcher => Some(TaskOrder {
                    dispatcher: SpiffeId::parse(dispatcher).map_err(|_| RecordError::Malformed)?,
                    labels: stored.labels,
                }),
            },
        })
    }
}

impl TokenRecord {
    /// Returns the bytes that the store keeps beside the record of the token's task.
    #[must_use]
    pub fn encode(&self, task: &TaskRecord) -> Vec<u8> {
        // A serial number belongs to its certificate, so both are left out together.
        let same = self.certificate == task.certificate;
        StoredToken {
            scopes: if self.scopes == task.scopes {
                Vec::new()
            } else {
                self.scopes.to_strings()
            },
            audience: self.audience.clone(),
            issued_after_ms: self.issued_at_ms.saturating_sub(task.created_at_ms),
            life_ms: self.expires_at_ms.saturating_sub(self.issued_at_ms),
            bearer: self.binding == TokenBinding::Bearer,
            certificate: if same {
                Vec::new()
            } else {
                self.certificate.to_vec()
            },
            svid_serial: if same {
                Vec::new()
            } else {
                self.svid_serial.clone()
            },
            position: self.position.0,
            registration: if self.registration == task.registration {
                String::new()
            } else {
                self.registration.clone()
            },
            request: self.request.to_vec(),
        }
        .encode_to_vec()
    }

    /// Reads the bytes that [`TokenRecord::encode`] returned for a token of this task.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`] if the bytes are anything else.
    pub fn decode(task: &TaskRecord, bytes: &[u8]) -> Result<Self, RecordError> {
        let stored = StoredToken::decode(bytes).map_err(|_| RecordError::Malformed)?;
        let issued_at_ms = task.created_at_ms.saturating_add(stored.issued_after_ms);
        let same = stored.certificate.is_empty();
        Ok(Self {
            task: task.id,
            scopes: if stored.scopes.is_empty() {
                task.scopes.clone()
            } else {
                scopes(&stored.scopes)?
            },
            audience: stored.audience,
            issued_at_ms,
            expires_at_ms: issued_at_ms.saturating_add(stored.life_ms),
            binding: if stored.bearer {
                TokenBinding::Bearer
            } else {
                TokenBinding::Certificate
            },
            certificate: if same {
                task.certificate
            } else {
                exactly(&stored.certificate)?
            },
            svid_serial: if same {
                task.svid_serial.clone()
            } else {
                stored.svid_serial
            },
            position: Position(stored.position),
            registration: if stored.registration.is_empty() {
                task.registration.clone()
            } else {
                stored.registration
            },
            request: exactly(&stored.request)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::samples;

    proptest! {
        #[test]
        fn what_is_stored_is_what_is_read(
            position in any::<u64>(),
            rotated in any::<bool>(),
            narrowed in any::<bool>(),
            bearer in any::<bool>(),
            life in 1_i64..1 << 40,
        ) {
            let mut task = samples::task(position);
            task.ancestors = vec![TaskId::from_bytes([7; 16])];
            task.claims = vec!["oidc.sub=x".to_owned()];
            let mut token = samples::token(position);
            token.expires_at_ms = token.issued_at_ms + life;
            if bearer {
                task.order = Some(TaskOrder {
                    dispatcher: SpiffeId::parse("spiffe://a.test/ci").unwrap(),
                    labels: vec!["untrusted-input".to_owned()],
                });
            }
            if rotated {
                (token.certificate, token.svid_serial) = ([9; 32], vec![1, 2]);
            }
            if narrowed {
                token.scopes = ScopeSet::parse(&["tool:x"]).unwrap();
            }
            if bearer {
                token.binding = TokenBinding::Bearer;
            }
            let read = TaskRecord::decode(task.id, &task.encode()).unwrap();
            prop_assert_eq!(&read, &task);
            prop_assert_eq!(TokenRecord::decode(&read, &token.encode(&task)).unwrap(), token);
        }
    }

    #[test]
    fn a2_what_remains_of_a_task_is_small_whatever_it_was_begun_with() {
        let long: Vec<_> = (0..64).map(|n| format!("tool:{n:0250}")).collect();
        let task = TaskRecord {
            purpose: "p".repeat(1024),
            instruction: "i".repeat(64 << 10),
            scopes: ScopeSet::parse(&long).unwrap(),
            audience: vec!["a".repeat(256); 8],
            evidence: vec!["e".repeat(70); 16],
            claims: vec!["oidc.x=".to_owned() + &"c".repeat(16 << 10)],
            ancestors: vec![TaskId::from_bytes([7; 16]); 8],
            ..samples::task(1)
        };
        let remains = task.remains();
        assert!(task.encode().len() > 90_000 && remains.encode().len() <= 1536);
        assert_eq!(
            TaskRecord::decode(task.id, &remains.encode()).unwrap(),
            remains
        );
        let mut small = samples::task(1);
        small.claims = vec!["oidc.sub=x".to_owned()];
        assert_eq!(
            (small.remains().claims, small.remains().scopes),
            (small.claims, small.scopes)
        );
    }

    #[test]
    fn a_token_that_shares_everything_with_its_task_is_small() {
        assert!(
            samples::token(1 << 20)
                .encode(&samples::task(1 << 20))
                .len()
                <= 36
        );
    }
}
