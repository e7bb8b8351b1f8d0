//! A store of some time ago, which is put back under brokers that run.

use std::time::Duration;

use redis::{Connection, Pipeline, RedisResult};
use sundew_tests::redis::Redis;

/// How long the server may take for all of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that was in the store at one moment: each key as the server dumps it, and for how many
/// milliseconds more it was to live, or 0.
pub(crate) struct OlderStore(Vec<(Vec<u8>, Vec<u8>, i64)>);

fn connection(node: &Redis) -> RedisResult<Connection> {
    let connection = redis::Client::open(node.url())?.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    Ok(connection)
}

impl OlderStore {
    /// Copies the store, unless this fails.
    pub(crate) fn copy(node: &Redis) -> Option<Self> {
        tokio::task::block_in_place(|| Self::copied(node)).ok()
    }

    fn copied(node: &Redis) -> RedisResult<Self> {
        let mut connection = connection(node)?;
        // In one step, so that it is the store of one moment.
        let all = "local all = {} \
            for _, key in ipairs(redis.call('KEYS', '*')) do \
              all[#all + 1] = { key, redis.call('DUMP', key), math.max(redis.call('PTTL', key), 0) } \
            end \
            return all";
        let all = redis::cmd("EVAL").arg(all).arg(0).query(&mut connection)?;
        Ok(Self(all))
    }

    /// Empties the store and writes what was in it then, in one step. Answers whether it was done.
    pub(crate) fn put_back(&self, node: &Redis) -> bool {
        tokio::task::block_in_place(|| self.is_put_back(node)).is_ok()
    }

    fn is_put_back(&self, node: &Redis) -> RedisResult<()> {
        let mut connection = connection(node)?;
        let mut all = Pipeline::new();
        all.atomic().cmd("FLUSHALL");
        for (key, dump, lives_ms) in &self.0 {
            all.cmd("RESTORE").arg(key).arg(lives_ms).arg(dump);
        }
        all.exec(&mut connection)
    }
}
