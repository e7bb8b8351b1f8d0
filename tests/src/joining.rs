//! First SVIDs from a broker's own CA, by join tokens.

use sundew_proto::v1::{CreateJoinTokenRequest, EnrollRequest};
use tonic::Status;

use crate::calls::Caller;
use crate::pki::{Svid, csr};

impl Caller {
    /// Makes a join token for an identity, as an operator.
    pub async fn join_token(&self, id: &str) -> String {
        let request = CreateJoinTokenRequest {
            spiffe_id: id.to_owned(),
            ttl_ms: 0,
        };
        let made = self.registry().create_join_token(request).await;
        made.expect("join token").into_inner().join_token
    }

    /// Redeems a join token; returns the SVID, and the roots of its trust domain in DER.
    pub async fn redeem(&self, join_token: &str) -> Result<(Svid, Vec<Vec<u8>>), Status> {
        let (key, csr) = csr();
        let request = EnrollRequest {
            join_token: join_token.to_owned(),
            csr,
            ..EnrollRequest::default()
        };
        let answer = self.enrollment().enroll(request).await?.into_inner();
        let svid = answer.svid.expect("SVID");
        let own = Svid {
            chain: svid.certificates.into_iter().map(Into::into).collect(),
            key: key.serialize_der(),
        };
        Ok((own, svid.bundle))
    }
}
