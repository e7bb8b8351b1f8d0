//! Scripts on the very node that has a slot, with `WAIT` for its replicas.
//!
//! `WAIT` counts only on the connection that wrote, so this goes by connections of its own: one to
//! the primary, or in a Cluster one to the primary of each slot, found by following `MOVED`. P4: a
//! heartbeat that a majority did not acknowledge renews nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Script, Value, cmd};
use sundew_core::store::StoreError;

use super::link::{Connection, Link, RedisSettings};

/// What a server answers that was not given the script yet.
const NOT_LOADED: &str = "NOSCRIPT";
/// Redirections followed and scripts loaded for one call.
const ATTEMPTS: usize = 4;

/// How long the replicas beyond a majority are waited for, in milliseconds: one that is down must
/// not slow every heartbeat.
const EVERYWHERE_WITHIN_MS: u64 = 5;

/// Host and port.
type Node = (String, u16);

/// See the module.
pub(super) struct Primaries {
    settings: Arc<RedisSettings>,
    /// Where there is no Cluster: the one link. In a Cluster: by node.
    links: Mutex<HashMap<Option<Node>, Arc<Link>>>,
    /// Where each slot was last seen.
    slots: Mutex<HashMap<u16, Node>>,
    turn: AtomicUsize,
}

/// A script with its keys, all of one slot, and its arguments.
pub(super) struct Call<'a> {
    script: &'a Script,
    /// Names the slot.
    key: String,
    command: Cmd,
}

impl<'a> Call<'a> {
    pub(super) fn new(script: &'a Script, keys: &[&str]) -> Self {
        let mut command = cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys);
        Self {
            script,
            key: keys.first().map(ToString::to_string).unwrap_or_default(),
            command,
        }
    }

    pub(super) fn arg(mut self, argument: impl ::redis::ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    /// Runs it on a connection that finds slots by itself.
    pub(super) async fn on<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
    ) -> RedisResult<T> {
        match self.command.query_async(connection).await {
            Err(error) if error.code() == Some(NOT_LOADED) => {
                load(self.script, connection).await?;
                self.command.query_async(connection).await
            }
            result => result,
        }
    }
}

async fn load(script: &Script, connection: &mut Connection) -> RedisResult<()> {
    script
        .prepare_invoke()
        .load_async(connection)
        .await
        .map(drop)
}

impl Primaries {
    pub(super) fn new(settings: Arc<RedisSettings>) -> Self {
        Self {
            settings,
            links: Mutex::default(),
            slots: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The link to whoever has this key.
    pub(super) fn link(&self, key: &str) -> Arc<Link> {
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
            let turn = self
                .turn
                .load(Ordering::Relaxed)
                .checked_rem(nodes.len())
                .unwrap_or(0);
            known.or_else(|| nodes.get(turn).cloned())
        };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            links
                .entry(node.clone())
                .or_insert_with(|| Arc::new(Link::new(Arc::clone(&self.settings), node))),
        )
    }

    /// Something is wrong with who was thought to have this key: asks another node next time.
    fn doubt(&self, key: &str) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&slot(key));
    }

    /// Runs a command on whoever has the key.
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

    /// Runs a script on whoever has its first key; answers once so many replicas have it.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        replicas: u32,
    ) -> Result<T, StoreError> {
        Ok(self.call_everywhere(call, replicas, replicas).await?.0)
    }

    /// The same, and whether as many as `all` have it.
    pub(super) async fn call_everywhere<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        needed: u32,
        all: u32,
    ) -> Result<(T, bool), StoreError> {
        let key = call.key.as_str();
        let wait_ms = u64::try_from(self.settings.timeout.as_millis() / 2)
            .unwrap_or(u64::MAX)
            .max(1);
        let mut pipeline = ::redis::pipe();
        pipeline.add_command(call.command.clone());
        if needed > 0 {
            pipeline.cmd("WAIT").arg(needed).arg(wait_ms);
        }
        if all > needed {
            pipeline.cmd("WAIT").arg(all).arg(EVERYWHERE_WITHIN_MS);
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

    /// Runs calls of one script on one slot, in order, in one round trip.
    pub(super) async fn call_all(&self, calls: &[Call<'_>]) -> Result<(), StoreError> {
        let Some(first) = calls.first() else {
            return Ok(());
        };
        let mut pipeline = ::redis::pipe();
        calls.iter().for_each(|call| {
            pipeline.add_command(call.command.clone());
        });
        self.on_primary(&first.key, &pipeline, Some(first.script))
            .await
            .map(drop)
    }

    async fn on_primary(
        &self,
        key: &str,
        pipeline: &Pipeline,
        script: Option<&Script>,
    ) -> Result<Vec<Value>, StoreError> {
        for _ in 0..ATTEMPTS {
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

fn moved(error: &RedisError) -> Option<Node> {
    let (node, _) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

fn parsed<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    ::redis::from_redis_value(value).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// The hash slot of a key: CRC-16/XMODEM of what is between the first braces (Redis Cluster
/// specification, "Key distribution model").
fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(super::slot("123456789"), 0x31c3);
        assert_eq!(super::slot("foo{bar}zap"), super::slot("bar"));
        assert_eq!(super::slot("foo{}{bar}"), super::slot("foo{}{bar}"));
    }
}
