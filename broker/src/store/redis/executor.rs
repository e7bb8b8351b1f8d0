//! Commands and scripts whose keys the connection finds by itself.

use std::sync::Arc;

use ::redis::{Cmd, FromRedisValue, Pipeline, cmd};
use sundew_core::TaskId;
use sundew_core::store::StoreError;

use super::call::Call;
use super::keys::task_key;
use super::leader::Leader;
use super::link::Link;
use super::primaries::Primaries;
use super::settings::{Durability, RedisSettings};
use crate::store::refusing::Refusing;

/// Runs what the parts of the store ask for, except the revocation log, which has connections of
/// its own.
pub(super) struct Executor {
    settings: Arc<RedisSettings>,
    link: Link,
    /// Runs the writes that must be on replicas before they count.
    durable: Primaries,
    refusing: Refusing,
}

impl Executor {
    /// Returns an executor that connects when it is first used.
    pub(super) fn new(settings: Arc<RedisSettings>, leader: &Arc<Leader>) -> Self {
        let leader = || Some(Arc::clone(leader));
        Self {
            link: Link::new(Arc::clone(&settings), None, leader()),
            durable: Primaries::new(Arc::clone(&settings), leader()),
            refusing: Refusing::default(),
            settings,
        }
    }

    /// Says that the server refuses writes for want of memory.
    pub(super) fn problem(&self) -> Option<String> {
        self.refusing.text()
    }

    /// Returns the answer to `INFO` of each primary.
    pub(super) async fn info(&self) -> Result<Vec<String>, StoreError> {
        self.link.info().await
    }

    /// Runs a command and returns its answer.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link.settle(command.query_async(&mut connection).await)
    }

    /// Runs commands on keys of one slot in one round trip and returns all answers.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link
            .settle(pipeline.query_async(&mut connection).await)
    }

    /// Runs a script and returns its answer as soon as the primary has it.
    pub(super) async fn script<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link.settle(call.on(&mut connection).await)
    }

    /// Runs a script that writes something that should not be lost. Returns its answer when the
    /// write counts, by the store's [`Durability`].
    pub(super) async fn write<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        let written = match self.settings.durability {
            Durability::Primary => self.script(call).await,
            Durability::Replicated => self.write_to_majority(call).await,
        };
        match &written {
            Ok(_) => self.refusing.took(),
            Err(error @ StoreError::Full(_)) => self.refusing.refused(error),
            // A server that is away shows in the log.
            Err(_) => {}
        }
        written
    }

    /// Runs a script and returns its answer when a majority of the nodes has what it wrote, whatever
    /// the store's [`Durability`].
    pub(super) async fn write_to_majority<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
    ) -> Result<T, StoreError> {
        let needed = sundew_core::protocol::replicas_for_majority(self.settings.replicas);
        self.durable.call(call, needed).await
    }

    /// Adds a member to a set that expires with the record of its task. Nothing is added if the
    /// task does not exist.
    pub(super) async fn add_to_task(
        &self,
        task: TaskId,
        key: &str,
        member: &[u8],
    ) -> Result<(), StoreError> {
        let expires: i64 = self.query(cmd("PEXPIRETIME").arg(task_key(task))).await?;
        if expires <= 0 {
            return Ok(());
        }
        let mut pipeline = ::redis::pipe();
        pipeline
            .atomic()
            .sadd(key, member)
            .ignore()
            .cmd("PEXPIREAT")
            .arg(key)
            .arg(expires)
            .ignore();
        self.pipeline(&pipeline).await
    }
}
