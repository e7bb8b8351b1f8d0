//! Calls of attested workloads.

use sundew_proto::v1::agent_service_server::AgentService;
use sundew_proto::v1::*;
use tonic::{Request, Streaming};

use super::Services;
use crate::serve::gate::Answer;
use crate::serve::stopping::{Stopping, UntilStopped};
use crate::task::Tasks;

#[tonic::async_trait]
impl AgentService for Services {
    type AttendStream = UntilStopped<AttendResponse>;

    async fn challenge(&self, request: Request<ChallengeRequest>) -> Answer<ChallengeResponse> {
        self.gate
            .serve("Challenge", &self.broker.tasks, request, Tasks::challenge)
            .await
    }
    async fn begin_task(&self, request: Request<BeginTaskRequest>) -> Answer<BeginTaskResponse> {
        self.gate
            .serve_issuing("BeginTask", &self.broker.tasks, request, Tasks::begin)
            .await
    }
    async fn mint_token(&self, request: Request<MintTokenRequest>) -> Answer<MintTokenResponse> {
        self.gate
            .serve_issuing("MintToken", &self.broker.tasks, request, Tasks::mint)
            .await
    }
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Answer<GetSecretResponse> {
        self.gate
            .serve_in_place("GetSecret", &self.broker.tasks, request, Tasks::secret)
            .await
    }
    async fn delegate(&self, request: Request<DelegateRequest>) -> Answer<DelegateResponse> {
        self.gate
            .serve_issuing("Delegate", &self.broker.tasks, request, Tasks::delegate)
            .await
    }
    async fn attend(
        &self,
        request: Request<Streaming<AttendRequest>>,
    ) -> Answer<Self::AttendStream> {
        let answer = tokio::select! {
            answer = self
                .gate
                .serve("Attend", &self.broker.tasks, request, Tasks::attend) => answer?,
            () = self.stopping.asked() => return Err(Stopping::status()),
        };
        Ok(answer.map(|answers| self.stopping.cut(answers)))
    }
    async fn suspend_task(
        &self,
        request: Request<SuspendTaskRequest>,
    ) -> Answer<SuspendTaskResponse> {
        self.gate
            .serve_detached("SuspendTask", &self.broker.tasks, request, Tasks::suspend)
            .await
    }
    async fn resume_task(&self, request: Request<ResumeTaskRequest>) -> Answer<ResumeTaskResponse> {
        self.gate
            .serve_issuing("ResumeTask", &self.broker.tasks, request, Tasks::resume)
            .await
    }
    async fn complete_task(
        &self,
        request: Request<CompleteTaskRequest>,
    ) -> Answer<CompleteTaskResponse> {
        self.gate
            .serve_detached("CompleteTask", &self.broker.tasks, request, Tasks::complete)
            .await
    }
}
