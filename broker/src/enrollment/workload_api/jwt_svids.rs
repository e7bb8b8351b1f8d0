//! The JWT profile: issuing JWT-SVIDs, and verifying them for a process.

use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use sundew_attestation::spiffe::{JwtSvid, TrustDomain};
use sundew_proto::spiffe::{
    Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use tonic::Status;

use super::call_error::CallError;
use super::{Identities, WorkloadApi};
use crate::clock;
use crate::enrollment::local_process::LocalProcess;

impl<I: Identities> WorkloadApi<I> {
    /// Issues the JWT-SVIDs that a process asks for: one for each of its identities, or for the one
    /// that it names.
    pub(super) async fn jwt_svids(
        &self,
        process: &Arc<LocalProcess>,
        request: JwtsvidRequest,
    ) -> Result<Vec<Jwtsvid>, Status> {
        if request.audience.is_empty() {
            return Err(CallError::AudienceMissing.into());
        }
        let audience =
            crate::wire::audience(request.audience).map_err(|_| CallError::AudienceInvalid)?;
        let ids = self.matching("FetchJWTSVID", process).await?;
        let mut svids = Vec::new();
        let mut refused = Status::from(CallError::NoIdentity);
        for id in ids
            .iter()
            .map(|(id, _)| id)
            .filter(|id| request.spiffe_id.is_empty() || id.as_str() == request.spiffe_id)
        {
            // P12: each is signed and put on the record.
            if self.jwts.check_key(id).is_err() {
                return Err(CallError::RateLimit.into());
            }
            match self.identities.issue_jwt(id, &audience).await {
                Ok(svid) => svids.push(Jwtsvid {
                    spiffe_id: id.to_string(),
                    svid,
                    hint: String::new(),
                }),
                // Another identity of the process may be allowed to.
                Err(status) if status.code() == tonic::Code::PermissionDenied => refused = status,
                Err(status) => return Err(status),
            }
        }
        if svids.is_empty() {
            Err(refused)
        } else {
            Ok(svids)
        }
    }

    /// Verifies a JWT-SVID for a process; answers its subject and claims.
    pub(super) fn validated(
        &self,
        request: &ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let bundles = self.identities.bundles();
        let of = |domain: &TrustDomain| bundles.jwt.get(&domain.id()).map(AsRef::as_ref);
        let svid = JwtSvid::verify(
            request.svid.as_bytes(),
            &request.audience,
            of,
            clock::now_ms(),
        )
        .map_err(CallError::Svid)?;
        let claims = Struct {
            fields: svid
                .claims()
                .iter()
                .map(|(name, value)| (name.clone(), well_known(value)))
                .collect(),
        };
        Ok(ValidateJwtsvidResponse {
            spiffe_id: svid.id().to_string(),
            claims: Some(claims),
        })
    }
}

/// A JSON value as `google.protobuf.Value`, in which all numbers are `double`.
fn well_known(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(well_known).collect(),
        }),
        serde_json::Value::Object(members) => Kind::StructValue(Struct {
            fields: members
                .iter()
                .map(|(name, value)| (name.clone(), well_known(value)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}
