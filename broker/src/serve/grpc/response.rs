//! Calls of incident responders.

use sundew_proto::v1::response_service_server::ResponseService;
use sundew_proto::v1::*;
use tonic::Request;

use super::Services;
use crate::response::Responses;
use crate::serve::gate::Answer;
use crate::serve::stopping::UntilStopped;

#[tonic::async_trait]
impl ResponseService for Services {
    type PreviewStream = UntilStopped<PreviewResponse>;
    type WatchRevocationStream = UntilStopped<RevocationStatus>;

    async fn preview(&self, request: Request<PreviewRequest>) -> Answer<Self::PreviewStream> {
        let answer = self
            .gate
            .serve_as(
                "Preview",
                &self.broker.responses,
                request,
                Responses::preview,
            )
            .await?;
        Ok(answer.map(|answers| self.stopping.cut(answers)))
    }
    async fn revoke(&self, request: Request<RevokeRequest>) -> Answer<RevokeResponse> {
        self.gate
            .serve_detached_as("Revoke", &self.broker.responses, request, Responses::revoke)
            .await
    }
    async fn lift(&self, request: Request<LiftRequest>) -> Answer<LiftResponse> {
        self.gate
            .serve_detached_as("Lift", &self.broker.responses, request, Responses::lift)
            .await
    }
    async fn list_rules(&self, request: Request<ListRulesRequest>) -> Answer<ListRulesResponse> {
        self.gate
            .serve_as(
                "ListRules",
                &self.broker.responses,
                request,
                Responses::list_rules,
            )
            .await
    }
    async fn watch_revocation(
        &self,
        request: Request<WatchRevocationRequest>,
    ) -> Answer<Self::WatchRevocationStream> {
        let answer = self
            .gate
            .serve_as(
                "WatchRevocation",
                &self.broker.responses,
                request,
                Responses::watch_revocation,
            )
            .await?;
        Ok(answer.map(|answers| self.stopping.cut(answers)))
    }
    async fn list_leases(&self, request: Request<ListLeasesRequest>) -> Answer<ListLeasesResponse> {
        self.gate
            .serve_as(
                "ListLeases",
                &self.broker.responses,
                request,
                Responses::list_leases,
            )
            .await
    }
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        self.gate
            .serve_as(
                "ListTasks",
                &self.broker.responses,
                request,
                Responses::list_tasks,
            )
            .await
    }
    async fn show_task(&self, request: Request<ShowTaskRequest>) -> Answer<ShowTaskResponse> {
        self.gate
            .serve_as(
                "ShowTask",
                &self.broker.responses,
                request,
                Responses::show_task,
            )
            .await
    }
}
