//! WatchOrders: what becomes of orders, for whoever made them.

use std::sync::Arc;
use std::time::Duration;

use sundew_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::Dispatch;
use crate::peer::Peer;
use crate::refusal::Refusal;

/// Most orders of one watch.
const MAX_WATCHED: usize = 64;
/// How often a watch looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The messages of a stream, the last of which may be a status that says why the stream ended.
pub(crate) type Stream<T> = mpsc::Receiver<Result<T, Status>>;

impl Dispatch {
    /// Streams how orders stand, and each change, until all have ended.
    pub(crate) async fn watch_orders(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::WatchOrdersRequest,
    ) -> Result<Stream<v1::WatchOrdersResponse>, Refusal> {
        let ids = request.order_ids;
        if ids.is_empty() || ids.len() > MAX_WATCHED {
            return Err(Refusal::invalid("order_ids", "must be 1 to 64 orders"));
        }
        let mut watched = Vec::with_capacity(ids.len());
        for id in ids {
            watched.push(self.look(&peer, &id).await?);
        }
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            for order in &watched {
                if !tell(&answers, order).await {
                    return;
                }
            }
            while request.follow && watched.iter().any(may_change) {
                tokio::time::sleep(LOOK_INTERVAL).await;
                for order in watched.iter_mut().filter(|order| may_change(order)) {
                    match self.look(&peer, &order.order_id).await {
                        Ok(now) if now == *order => {}
                        Ok(now) => {
                            *order = now;
                            if !tell(&answers, order).await {
                                return;
                            }
                        }
                        Err(refusal) => {
                            let status = self.refusals.refuse("WatchOrders", Some(&peer), &refusal);
                            let _ = answers.send(Err(status)).await;
                            return;
                        }
                    }
                }
                if answers.is_closed() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn look(&self, peer: &Peer, id: &str) -> Result<v1::Order, Refusal> {
        let stored = self.own_order(peer, id).await?;
        self.message(&stored).await
    }
}

/// Sends how an order stands; answers whether anybody listens.
async fn tell(
    answers: &mpsc::Sender<Result<v1::WatchOrdersResponse, Status>>,
    order: &v1::Order,
) -> bool {
    let answer = v1::WatchOrdersResponse {
        order: Some(order.clone()),
    };
    answers.send(Ok(answer)).await.is_ok()
}

fn may_change(order: &v1::Order) -> bool {
    match order.state() {
        v1::OrderState::Open | v1::OrderState::Claimed => true,
        v1::OrderState::Canceled
        | v1::OrderState::Ended
        | v1::OrderState::Expired
        | v1::OrderState::Revoked
        | v1::OrderState::Unspecified => false,
    }
}
