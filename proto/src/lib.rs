//! The wire: messages, clients and servers generated from `sundew/v1/*.proto`,
//! `spiffe/workload.proto` and `envoy/secret.proto`.
//!
//! Nothing here is written by hand but the redacting `Debug` of messages that carry credentials
//! (P9). The proto files hold the documentation.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::as_conversions,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

macro_rules! redacted {
    ($($message:path),* $(,)?) => {
        $(impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), " { .. }"))
            }
        })*
    };
}
use redacted;

/// Package `sundew.v1`.
pub mod v1 {
    include!("gen/sundew.v1.rs");
    super::redacted!(
        ActivateTpmKeyRequest,
        BeginTaskRequest,
        CreateJoinTokenResponse,
        CreateOrderResponse,
        Evidence,
        EnrollRequest,
        GetSecretResponse,
        IntrospectRequest,
        IssueEntryJwtResponse,
        Lease,
        PutEngineRequest,
        PutSecretRequest,
        Selector,
        Token,
    );
}

/// The SPIFFE Workload API.
pub mod spiffe {
    include!("gen/_.rs");
    super::redacted!(Jwtsvid, ValidateJwtsvidRequest, X509svid);
}

/// Envoy's Secret Discovery Service.
pub mod envoy {
    include!("gen/envoy.service.secret.v3.rs");
    super::redacted!(DataSource, DiscoveryResponse, data_source::Specifier);
}

/// The serialized `FileDescriptorSet` of all protos here.
pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.bin");
