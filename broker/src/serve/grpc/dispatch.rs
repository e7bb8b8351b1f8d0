//! Calls of dispatchers.

use sundew_proto::v1::dispatch_service_server::DispatchService;
use sundew_proto::v1::*;
use tonic::Request;

use super::Services;
use crate::dispatch::Dispatch;
use crate::serve::gate::Answer;
use crate::serve::stopping::UntilStopped;

#[tonic::async_trait]
impl DispatchService for Services {
    type WatchOrdersStream = UntilStopped<WatchOrdersResponse>;

    async fn create_order(
        &self,
        request: Request<CreateOrderRequest>,
    ) -> Answer<CreateOrderResponse> {
        let room = &self.broker.dispatch;
        self.gate
            .serve_issuing("CreateOrder", room, request, Dispatch::create_order)
            .await
    }
    async fn list_orders(&self, request: Request<ListOrdersRequest>) -> Answer<ListOrdersResponse> {
        let room = &self.broker.dispatch;
        self.gate
            .serve("ListOrders", room, request, Dispatch::list_orders)
            .await
    }
    async fn watch_orders(
        &self,
        request: Request<WatchOrdersRequest>,
    ) -> Answer<Self::WatchOrdersStream> {
        let room = &self.broker.dispatch;
        let answer = self
            .gate
            .serve("WatchOrders", room, request, Dispatch::watch_orders)
            .await?;
        Ok(answer.map(|answers| self.stopping.cut(answers)))
    }
    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Answer<CancelOrderResponse> {
        let room = &self.broker.dispatch;
        self.gate
            .serve_detached("CancelOrder", room, request, Dispatch::cancel_order)
            .await
    }
}
