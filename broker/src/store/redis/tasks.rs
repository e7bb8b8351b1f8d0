//! Tasks in Redis: their records, their places among their workload's, and when they are due.

use std::sync::Arc;

use ::redis::{Script, cmd};
use sundew_core::TaskId;
use sundew_core::store::{Created, NewTask, Reserved, StoreError, StoredTask, TaskPage};

use super::call::Call;
use super::executor::Executor;
use super::keys::{
    DUE, binding_key, binding_order_key, nonsense, places_key, task_key, task_of, token_value,
    tokens_key,
};
use crate::clock;

/// How many tasks one step of a scan asks for.
const TASKS_PER_SCAN: usize = 200;

/// How many tasks one call of `attend.lua` puts off.
const ATTENDED_TOGETHER: usize = 1000;

/// The tasks. Each has a slot of its own; the lists of tasks live outside and serve listing and
/// attendance, never liveness.
pub(super) struct Tasks {
    executor: Arc<Executor>,
    reserve: Script,
    create: Script,
    end: Script,
    attend: Script,
    list_due: Script,
    bind: Script,
}

impl Tasks {
    pub(super) fn new(executor: Arc<Executor>) -> Self {
        Self {
            executor,
            reserve: Script::new(include_str!("reserve_task.lua")),
            create: Script::new(include_str!("create_task.lua")),
            end: Script::new(include_str!("end_task.lua")),
            attend: Script::new(include_str!("attend.lua")),
            list_due: Script::new(include_str!("list_due.lua")),
            bind: Script::new(include_str!("bind_task.lua")),
        }
    }

    pub(super) async fn reserve(
        &self,
        workload: &str,
        task: TaskId,
        deadline_ms: i64,
        due_ms: i64,
        limit: u32,
        now_ms: i64,
    ) -> Result<Reserved, StoreError> {
        let place = Call::new(&self.reserve, &[&places_key(workload)])
            .arg(&task.as_bytes()[..])
            .arg(deadline_ms)
            .arg(limit)
            .arg(now_ms);
        let due = Call::new(&self.list_due, &[DUE])
            .arg(&task.as_bytes()[..])
            .arg(due_ms);
        // On the attendance list before it can live: a task that nobody watches must not exist.
        let (reserved, due) = tokio::join!(
            self.executor.script::<i64>(&place),
            self.executor.write::<i64>(&due)
        );
        due?;
        match reserved? {
            0 => Ok(Reserved::Full),
            1 => Ok(Reserved::Taken),
            2 => Ok(Reserved::Held),
            _ => Err(nonsense("reserve_task answered another number")),
        }
    }

    pub(super) async fn create(&self, task: NewTask<'_>) -> Result<Created, StoreError> {
        let call = Call::new(&self.create, &[&task_key(task.id), &tokens_key(task.id)])
            .arg(task.record.as_slice())
            .arg(task.retain_until_ms)
            .arg(&task.token.hash.token_id().as_bytes()[..])
            .arg(token_value(&task.token))
            .arg(task.token.retain_until_ms);
        let existing: Option<Vec<u8>> = self.executor.write(&call).await?;
        Ok(existing.map_or(Created::New, Created::Existing))
    }

    pub(super) async fn read(&self, task: TaskId) -> Result<Option<StoredTask>, StoreError> {
        let mut pipeline = ::redis::pipe();
        pipeline.get(task_key(task)).smembers(binding_key(task));
        let (record, bindings): (Option<Vec<u8>>, Vec<Vec<u8>>) =
            self.executor.pipeline(&pipeline).await?;
        Ok(record.map(|record| StoredTask { record, bindings }))
    }

    pub(super) async fn bind(
        &self,
        task: TaskId,
        binding: Vec<u8>,
        limit: usize,
    ) -> Result<(), StoreError> {
        let keys = [
            &*task_key(task),
            &binding_key(task),
            &binding_order_key(task),
        ];
        let call = Call::new(&self.bind, &keys)
            .arg(binding.as_slice())
            .arg(clock::now_ms())
            .arg(limit);
        self.executor.script::<i64>(&call).await.map(drop)
    }

    pub(super) async fn end(
        &self,
        task: TaskId,
        remains: Vec<u8>,
        retain_until_ms: i64,
    ) -> Result<(), StoreError> {
        let (bindings, order) = (binding_key(task), binding_order_key(task));
        let keys = [&*task_key(task), &tokens_key(task), &bindings, &order];
        let call = Call::new(&self.end, &keys)
            .arg(remains.as_slice())
            .arg(retain_until_ms);
        self.executor.script::<i64>(&call).await.map(drop)
    }

    pub(super) async fn release(&self, workload: &str, tasks: &[TaskId]) -> Result<(), StoreError> {
        if tasks.is_empty() {
            return Ok(());
        }
        let (mut places, mut due) = (cmd("ZREM"), cmd("ZREM"));
        places.arg(places_key(workload));
        due.arg(DUE);
        for task in tasks {
            places.arg(&task.as_bytes()[..]);
            due.arg(&task.as_bytes()[..]);
        }
        let (places, due) = tokio::join!(
            self.executor.query::<i64>(&places),
            self.executor.query::<i64>(&due)
        );
        places.and(due).map(drop)
    }

    pub(super) async fn list(
        &self,
        workload: Option<&str>,
        limit: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        let key = workload.map_or_else(|| DUE.to_owned(), places_key);
        let members: Vec<Vec<u8>> = self
            .executor
            .query(cmd("ZRANGE").arg(key).arg(0).arg(limit.saturating_sub(1)))
            .await?;
        // L20: what names no task hides none; the sweep removes it.
        Ok(members.iter().filter_map(|m| task_of(m).ok()).collect())
    }

    pub(super) async fn scan(&self, from: u64) -> Result<TaskPage, StoreError> {
        let mut command = cmd("ZSCAN");
        command.arg(DUE).arg(from).arg("COUNT").arg(TASKS_PER_SCAN);
        let (next, found): (u64, Vec<(Vec<u8>, f64)>) = self.executor.query(&command).await?;
        Ok(TaskPage {
            tasks: found
                .iter()
                .filter_map(|(member, _)| task_of(member).ok())
                .collect(),
            next,
        })
    }

    pub(super) async fn attend(&self, due: Vec<(TaskId, i64)>) -> Result<(), StoreError> {
        if due.is_empty() {
            return Ok(());
        }
        for some in due.chunks(ATTENDED_TOGETHER) {
            let mut call = Call::new(&self.attend, &[DUE]);
            for (task, at) in some {
                call = call.arg(*at).arg(&task.as_bytes()[..]);
            }
            // L12: a report that a failover takes back would be absence.
            self.executor.write_to_majority::<i64>(&call).await?;
        }
        Ok(())
    }

    /// Returns how many tasks there are on the attendance list.
    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        self.executor.query(cmd("ZCARD").arg(DUE)).await
    }

    pub(super) async fn due(&self, now_ms: i64, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        let mut command = cmd("ZRANGEBYSCORE");
        command
            .arg(DUE)
            .arg("-inf")
            .arg(now_ms)
            .arg("LIMIT")
            .arg(0)
            .arg(limit);
        let members: Vec<Vec<u8>> = self.executor.query(&command).await?;
        let mut tasks = Vec::new();
        for member in &members {
            match task_of(member) {
                Ok(task) => tasks.push(task),
                // L20: what names no task must not keep the tasks behind it from being looked at.
                Err(error) => {
                    let shown = hex::encode(member.get(..64).unwrap_or(member));
                    tracing::error!(%error, member = shown, "removed from the list of due tasks");
                    let mut remove = cmd("ZREM");
                    remove.arg(DUE).arg(member.as_slice());
                    self.executor.query::<i64>(&remove).await?;
                }
            }
        }
        Ok(tasks)
    }
}
