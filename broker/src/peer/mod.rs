//! Peers of connections: TLS with X.509-SVIDs, the peer that a handshake proved, the challenges of
//! its channel, and the bundles that decide whom this broker trusts.

pub(crate) mod accept;
mod caller;
mod channel;
pub(crate) mod endpoint;
pub(crate) mod files;
pub(crate) mod grounds;
mod pending;
mod places;
pub(crate) mod speaking;
mod tls;
pub(crate) mod trust;

pub use accept::ListenerLimits;
pub(crate) use accept::{AcceptObserver, Connection};
pub(crate) use caller::{Caller, Peer};
pub(crate) use channel::{Channel, new_nonce};
pub(crate) use tls::{Clients, HandshakeError};
pub(crate) use trust::Trust;
