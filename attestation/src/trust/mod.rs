//! The trust material of verifiers: trust anchors (RFC 9334, section 7), endorsements (section
//! 8.2), reference values (section 8.3), and the keys of issuers.
//!
//! A [`TrustMaterial`] is an immutable snapshot. Background tasks of the broker publish new ones,
//! so that verification does no I/O.

mod item;
mod kind;
mod loss;
mod material;

pub(crate) use item::ITEM_CLAIMS;
pub use item::{MAX_CONTENT, TrustError, TrustItem};
pub use kind::TrustKind;
pub use loss::Loss;
pub use material::TrustMaterial;
