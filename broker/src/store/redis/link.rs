//! A connection to Redis that is made anew after it broke.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Cmd, ErrorKind, RedisError, RedisFuture, RedisResult, Value, cmd};
use sundew_core::store::StoreError;

use super::connect::{CONNECT_WITHIN, connect_by_sentinel, connect_to_cluster, connect_to_node};
use super::errors::classify_error;
use super::leader::Leader;
use super::settings::RedisSettings;
use super::url::{Form, Node};
use crate::clock;

/// After a failed attempt to connect, the next attempt waits this long; calls meanwhile fail at
/// once (T68: no storm).
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A connection to one node, or to a whole Cluster.
#[derive(Clone)]
pub(super) enum Connection {
    Cluster(ClusterConnection),
    One(MultiplexedConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Cluster(connection) => connection.req_packed_command(command),
            Self::One(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a ::redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// The way to the servers that the settings name, with at most one connection at a time.
pub(super) struct Link {
    settings: Arc<RedisSettings>,
    /// A node of a Cluster to connect to, instead of what the URL says.
    node: Option<Node>,
    /// The primary to which the connection must lead; `None` if that is not asked for.
    leader: Option<Arc<Leader>>,
    /// The connection, and the term of the leader in which it was made.
    current: Mutex<Option<(Connection, u64)>>,
    /// Held by the caller that connects; contains when the last attempt failed.
    connecting: tokio::sync::Mutex<Option<Instant>>,
}

impl Link {
    /// Returns a link that connects when a connection is first asked for: to `node`, or to what the
    /// URL of the settings names. It follows `leader`, if there is one. In a Cluster the keys say
    /// which node has them.
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        node: Option<Node>,
        leader: Option<Arc<Leader>>,
    ) -> Self {
        let is_cluster = matches!(settings.url.form, Form::Cluster);
        Self {
            settings,
            node,
            leader: leader.filter(|_| !is_cluster),
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(None),
        }
    }

    fn current(&self) -> Option<Connection> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .filter(|(_, made_in)| *made_in == self.term())
            .map(|(connection, _)| connection.clone())
    }

    fn term(&self) -> u64 {
        self.leader.as_ref().map_or(0, |leader| leader.term())
    }

    /// Returns the current connection, or a new one if there is none.
    pub(super) async fn connection(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        // One caller connects; the others wait for the lock and find that caller's connection, or
        // that its attempt failed just now.
        let mut failed_at = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if failed_at.is_some_and(|at| clock::since(at) < RECONNECT_PAUSE) {
            return Err(StoreError::Unavailable(
                "connecting failed just now".to_owned(),
            ));
        }
        let term = self.term();
        let result = tokio::time::timeout(CONNECT_WITHIN, self.connect()).await;
        match result {
            Ok(Ok(connection)) => {
                *failed_at = None;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((connection.clone(), term));
                Ok(connection)
            }
            Ok(Err(e)) => {
                *failed_at = Some(clock::monotonic());
                Err(classify_error(&e))
            }
            Err(_) => {
                *failed_at = Some(clock::monotonic());
                Err(StoreError::Unavailable(
                    "connecting took too long".to_owned(),
                ))
            }
        }
    }

    /// Connects, to the leader if there is one.
    async fn connect(&self) -> RedisResult<Connection> {
        let mut connection = self.connect_anywhere().await?;
        if let Some(leader) = &self.leader
            && !leader.is_at(&mut connection).await?
        {
            return Err(RedisError::from((
                ErrorKind::Io,
                "not the primary that acknowledges heartbeats",
            )));
        }
        Ok(connection)
    }

    async fn connect_anywhere(&self) -> RedisResult<Connection> {
        let (settings, url) = (&self.settings, &self.settings.url);
        if let Some(node) = &self.node {
            return connect_to_node(settings, node.clone())
                .await
                .map(Connection::One);
        }
        match &url.form {
            Form::Cluster => connect_to_cluster(settings).await.map(Connection::Cluster),
            Form::Sentinel(master) => connect_by_sentinel(settings, master)
                .await
                .map(Connection::One),
            Form::Single => {
                let node = url.nodes.first().cloned().unwrap_or_default();
                connect_to_node(settings, node).await.map(Connection::One)
            }
        }
    }

    /// Lets go of the connection, because it is in doubt whom the connection leads to.
    pub(super) fn drop_connection(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Turns a result of the client library into one of the store, and lets go of the connection if
    /// the error shows that it is of no use any more.
    pub(super) fn settle<T>(&self, result: RedisResult<T>) -> Result<T, StoreError> {
        result.map_err(|e| {
            let deposed = matches!(e.code(), Some("READONLY" | "LOADING" | "MASTERDOWN"));
            if deposed || e.is_io_error() || e.is_connection_dropped() || e.is_unrecoverable_error()
            {
                self.drop_connection();
            }
            classify_error(&e)
        })
    }

    /// Returns the answer to `INFO` of each primary.
    pub(super) async fn info(&self) -> Result<Vec<String>, StoreError> {
        match self.connection().await? {
            Connection::One(mut connection) => Ok(vec![
                self.settle(cmd("INFO").query_async(&mut connection).await)?,
            ]),
            Connection::Cluster(mut connection) => {
                let routing = ::redis::cluster_routing::RoutingInfo::MultiNode((
                    ::redis::cluster_routing::MultipleNodeRoutingInfo::AllMasters,
                    None,
                ));
                let value = self.settle(connection.route_command(cmd("INFO"), routing).await)?;
                let by_node: std::collections::HashMap<String, String> =
                    self.settle(::redis::from_redis_value(value).map_err(RedisError::from))?;
                Ok(by_node.into_values().collect())
            }
        }
    }
}
