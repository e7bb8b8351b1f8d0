//! Lists for responders: leases, and how far a clean-up is.

use std::sync::Arc;

use sundew_proto::v1;
use tokio::sync::mpsc;

use super::{Responses, Stream, TELL_INTERVAL, entry_of};
use crate::clock;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder};

/// Most tasks or leases in one list.
const MAX_LISTED: usize = 1000;
/// Tasks or leases in a list whose caller names no limit.
const DEFAULT_LISTED: usize = 100;

impl Responses {
    /// Streams how far the clean-up after a revocation is.
    pub(crate) async fn watch_revocation(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::WatchRevocationRequest,
    ) -> Result<Stream<v1::RevocationStatus>, Refusal> {
        entry_of(&request.revocation_id)?;
        let (first, _) = self
            .action(&request.revocation_id)
            .await?
            .ok_or(Refusal::NotFound("revocation"))?;
        let within = self.within(&operator, &first.selector).await;
        let _ = within.map_err(|refusal| refusal.out_of_sight("revocation"))?;
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut action = first;
            while answers.send(Ok(action.status())).await.is_ok() && request.follow && !action.done
            {
                tokio::time::sleep(TELL_INTERVAL).await;
                match self.action(&request.revocation_id).await {
                    Ok(Some((now, _))) => action = now,
                    Ok(None) => return,
                    Err(refusal) => {
                        let status = self.refusals.refuse(
                            "WatchRevocation",
                            Some(operator.peer()),
                            &refusal,
                        );
                        let _ = answers.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// Lists the credentials in other systems that are still there, those that are due first.
    pub(crate) async fn list_leases(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::ListLeasesRequest,
    ) -> Result<v1::ListLeasesResponse, Refusal> {
        let limit = listed(request.limit)?;
        let now_ms = clock::now_ms();
        let mut answer = v1::ListLeasesResponse::default();
        self.leases
            .each_lease(|lease| {
                let is_of_another =
                    !request.engine.is_empty() && lease.record.engine != request.engine;
                if is_of_another || !operator.reaches(&lease.record.workload) {
                    return;
                }
                let due = lease.record.is_being_removed(lease.due_ms, now_ms);
                answer.total = answer.total.saturating_add(1);
                answer.total_due = answer.total_due.saturating_add(u64::from(due));
                if due || !request.due {
                    answer.leases.push(lease.message());
                }
            })
            .await?;
        // Those that are due first are shown, whatever the limit.
        answer.leases.sort_by_key(|lease| lease.due_ms);
        answer.more = answer.leases.len() > limit;
        answer.leases.truncate(limit);
        Ok(answer)
    }
}

/// Reads the field `limit`; 0 asks for nothing in particular.
pub(super) fn listed(limit: u32) -> Result<usize, Refusal> {
    match usize::try_from(limit).unwrap_or(usize::MAX) {
        0 => Ok(DEFAULT_LISTED),
        limit if limit <= MAX_LISTED => Ok(limit),
        _ => Err(Refusal::invalid("limit", "at most 1000")),
    }
}
