//! Calls of resource servers.

use sundew_proto::v1::access_service_server::AccessService;
use sundew_proto::v1::*;
use tonic::Request;

use super::Services;
use crate::role::RoleProof;
use crate::serve::gate::Answer;

#[tonic::async_trait]
impl AccessService for Services {
    async fn introspect(&self, request: Request<IntrospectRequest>) -> Answer<IntrospectResponse> {
        let operators = &self.gate.operators;
        self.gate
            .serve(
                "Introspect",
                &self.broker.access,
                request,
                |access, peer, body| {
                    let introspector = operators.prove(&peer).and_then(RoleProof::of);
                    access.introspect(peer, introspector, body)
                },
            )
            .await
    }
    async fn show_operator(
        &self,
        request: Request<ShowOperatorRequest>,
    ) -> Answer<ShowOperatorResponse> {
        self.gate
            .serve(
                "ShowOperator",
                &self.gate.operators,
                request,
                |operators, peer, _| async move { operators.show(&peer) },
            )
            .await
    }
}
