//! Scripts that run on the very node that has a slot, with `WAIT` for the node's replicas.
//!
//! `WAIT` counts only on the connection that wrote, so these calls have connections of their own:
//! one to the primary, or in a Cluster one to the primary of each slot, found by following `MOVED`.
//! P4: a heartbeat that a majority did not acknowledge renews nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::redis::{Cmd, FromRedisValue, Pipeline, RedisError, Script, Value};
use sundew_core::store::StoreError;

use super::call::{Call, NOT_LOADED, load};
use super::leader::Leader;
use super::link::Link;
use super::settings::RedisSettings;
use super::slot::slot;
use super::url::Node;

/// How often one call is sent at most, counting the times that it was redirected or that its script
/// had to be loaded.
const MAX_SENDS: usize = 4;

/// How long the replicas beyond a majority are waited for, in milliseconds: one that is down must
/// not slow every heartbeat.
const ALL_REPLICAS_WITHIN_MS: u64 = 5;

/// The connections to the primaries. In a Cluster, the primary of each slot is remembered.
pub(super) struct Primaries {
    settings: Arc<RedisSettings>,
    leader: Option<Arc<Leader>>,
    /// The link to each node of a Cluster. Where there is no Cluster, the only link has no node.
    links: Mutex<HashMap<Option<Node>, Arc<Link>>>,
    /// The node that was last seen to have each slot.
    slots: Mutex<HashMap<u16, Node>>,
    /// Counts up to choose the node of the URL that is asked about a slot that is not known.
    next_node: AtomicUsize,
}

impl Primaries {
    /// Returns connections that are made when they are first used. They follow `leader`, if there is
    /// one.
    pub(super) fn new(settings: Arc<RedisSettings>, leader: Option<Arc<Leader>>) -> Self {
        Self {
            settings,
            leader,
            links: Mutex::default(),
            slots: Mutex::default(),
            next_node: AtomicUsize::new(0),
        }
    }

    /// Returns the link to the node that has this key, as far as is known.
    fn link(&self, key: &str) -> Arc<Link> {
        let nodes = self.settings.url.cluster_nodes();
        let node = if nodes.is_empty() {
            None
        } else {
            let known = self
                .slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&slot(key))
                .cloned();
            let next = self
                .next_node
                .load(Ordering::Relaxed)
                .checked_rem(nodes.len())
                .unwrap_or(0);
            known.or_else(|| nodes.get(next).cloned())
        };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |node| Link::new(Arc::clone(&self.settings), node, self.leader.clone());
        Arc::clone(
            links
                .entry(node.clone())
                .or_insert_with(|| Arc::new(new(node))),
        )
    }

    /// Notes that the node that was thought to have this key may not have it, so that another node
    /// is asked next time.
    fn doubt(&self, key: &str) {
        self.next_node.fetch_add(1, Ordering::Relaxed);
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&slot(key));
    }

    /// Runs a command on the node that has the key, and returns its answer.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        key: &str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        let mut pipeline = ::redis::pipe();
        pipeline.add_command(command.clone());
        parsed(
            self.on_primary(key, &pipeline, None)
                .await?
                .into_iter()
                .next()
                .unwrap_or(Value::Nil),
        )
    }

    /// Runs a script on the node that has its first key. Returns the answer once `replicas`
    /// replicas have what the script wrote, and an error if they do not have it in time.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        replicas: u32,
    ) -> Result<T, StoreError> {
        Ok(self.call_replicated(call, replicas, replicas).await?.0)
    }

    /// Runs a script as [`call`](Self::call) does, with `needed` replicas. Returns the answer, and
    /// whether as many replicas as `all` have what the script wrote.
    pub(super) async fn call_replicated<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        needed: u32,
        all: u32,
    ) -> Result<(T, bool), StoreError> {
        let key = call.key.as_str();
        // Half of the time of a command, so that the answer to `WAIT` arrives before the command is
        // given up.
        let wait_ms = u64::try_from(self.settings.timeout.as_millis() / 2)
            .unwrap_or(u64::MAX)
            .max(1);
        let mut pipeline = ::redis::pipe();
        pipeline.add_command(call.command.clone());
        if needed > 0 {
            pipeline.cmd("WAIT").arg(needed).arg(wait_ms);
        }
        if all > needed {
            pipeline.cmd("WAIT").arg(all).arg(ALL_REPLICAS_WITHIN_MS);
        }
        let mut answers = self
            .on_primary(key, &pipeline, Some(call.script))
            .await?
            .into_iter();
        let answer = answers
            .next()
            .ok_or_else(|| StoreError::Corrupt("no answer to a script".to_owned()))?;
        let acknowledged = answers.map(parsed::<u32>).collect::<Result<Vec<_>, _>>()?;
        let have = acknowledged.last().copied().unwrap_or(0);
        if have < needed {
            // Whether this is still the primary is in doubt.
            self.link(key).drop_connection();
            self.doubt(key);
            return Err(StoreError::Unavailable(format!(
                "{have} of {needed} replicas have acknowledged in time"
            )));
        }
        Ok((parsed(answer)?, have >= all))
    }

    /// Runs calls of one script on one slot, in this order, in one round trip. If it fails, some of
    /// the calls may have run. Returns the answer of each.
    pub(super) async fn call_all<T: FromRedisValue>(
        &self,
        calls: &[Call<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let Some(first) = calls.first() else {
            return Ok(Vec::new());
        };
        let mut pipeline = ::redis::pipe();
        calls.iter().for_each(|call| {
            pipeline.add_command(call.command.clone());
        });
        let answers = self
            .on_primary(&first.key, &pipeline, Some(first.script))
            .await?;
        answers.into_iter().map(parsed).collect()
    }

    /// Sends a pipeline to the node that has the key and returns its answers. A redirection is
    /// followed, and `script` is loaded if the node does not have it.
    async fn on_primary(
        &self,
        key: &str,
        pipeline: &Pipeline,
        script: Option<&Script>,
    ) -> Result<Vec<Value>, StoreError> {
        for _ in 0..MAX_SENDS {
            let link = self.link(key);
            let mut connection = match link.connection().await {
                Ok(connection) => connection,
                Err(error) => {
                    self.doubt(key);
                    return Err(error);
                }
            };
            let result = pipeline.query_async::<Vec<Value>>(&mut connection).await;
            if let Err(error) = &result {
                match (error.code(), script) {
                    (Some(NOT_LOADED), Some(script)) => {
                        link.settle(load(script, &mut connection).await)?;
                        continue;
                    }
                    (Some("MOVED"), _) => {
                        if let Some(node) = moved(error) {
                            self.slots
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .insert(slot(key), node);
                            continue;
                        }
                    }
                    _ => {}
                }
                if !self.settings.url.cluster_nodes().is_empty() {
                    self.doubt(key);
                }
            }
            return link.settle(result);
        }
        Err(StoreError::Unavailable(
            "the cluster redirects in circles".to_owned(),
        ))
    }
}

/// Returns the node that a `MOVED` error names.
fn moved(error: &RedisError) -> Option<Node> {
    let (node, _) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

fn parsed<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    ::redis::from_redis_value(value).map_err(|e| StoreError::Corrupt(e.to_string()))
}
