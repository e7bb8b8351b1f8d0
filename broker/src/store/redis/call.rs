//! A script with the keys and arguments of one call.

use ::redis::{Cmd, FromRedisValue, RedisResult, Script, cmd};

use super::link::Connection;

/// The error code of a server that does not have the script yet.
pub(super) const NOT_LOADED: &str = "NOSCRIPT";

/// A call of a script. All its keys have one slot.
pub(super) struct Call<'a> {
    pub(super) script: &'a Script,
    /// The first key, which names the slot.
    pub(super) key: String,
    pub(super) command: Cmd,
}

impl<'a> Call<'a> {
    /// Returns a call of a script on these keys, without arguments.
    pub(super) fn new(script: &'a Script, keys: &[&str]) -> Self {
        let mut command = cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys);
        Self {
            script,
            key: keys.first().map(ToString::to_string).unwrap_or_default(),
            command,
        }
    }

    /// Adds an argument after those that the call has.
    pub(super) fn arg(mut self, argument: impl ::redis::ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    /// Runs the call on a connection that finds slots by itself, and loads the script first if the
    /// server does not have it.
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

/// Gives a script to the server.
pub(super) async fn load(script: &Script, connection: &mut Connection) -> RedisResult<()> {
    script
        .prepare_invoke()
        .load_async(connection)
        .await
        .map(drop)
}
