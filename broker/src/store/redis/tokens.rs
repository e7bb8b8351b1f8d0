//! Tokens in Redis: a hash for each task, in the task's slot.

use std::sync::Arc;

use ::redis::{Script, Value, cmd};
use sundew_core::store::{CreatedToken, NewToken, StoreError, StoredToken, TokenPage};
use sundew_core::{TaskId, TokenHash, TokenId};

use super::Fields;
use super::call::Call;
use super::executor::Executor;
use super::keys::{nonsense, task_key, token_record, token_value, tokens_key};
use crate::clock;

/// How many tokens one step of a scan asks for.
const TOKENS_PER_SCAN: usize = 500;

/// The tokens of all tasks.
pub(super) struct Tokens {
    executor: Arc<Executor>,
    create: Script,
}

impl Tokens {
    pub(super) fn new(executor: Arc<Executor>) -> Self {
        Self {
            executor,
            create: Script::new(include_str!("create_token.lua")),
        }
    }

    pub(super) async fn create(
        &self,
        task: TaskId,
        token: NewToken<'_>,
        limit: u32,
    ) -> Result<Option<CreatedToken>, StoreError> {
        let call = Call::new(&self.create, &[&task_key(task), &tokens_key(task)])
            .arg(&token.hash.token_id().as_bytes()[..])
            .arg(token_value(&token))
            .arg(token.retain_until_ms)
            .arg(clock::now_ms())
            .arg(limit);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "replies of every other kind are nonsense"
        )]
        match self.executor.write(&call).await? {
            Value::Int(0) => Ok(None),
            Value::Int(1) => Ok(Some(CreatedToken::New)),
            Value::Int(2) => Ok(Some(CreatedToken::Full)),
            Value::BulkString(existing) => {
                Ok(Some(CreatedToken::Existing(token_record(&existing)?)))
            }
            _ => Err(nonsense(
                "create_token answered neither a number nor a record",
            )),
        }
    }

    pub(super) async fn read(
        &self,
        task: TaskId,
        hash: &TokenHash,
    ) -> Result<Option<StoredToken>, StoreError> {
        let mut pipeline = ::redis::pipe();
        pipeline
            .get(task_key(task))
            .hget(tokens_key(task), &hash.token_id().as_bytes()[..]);
        let (record, token): (Option<Vec<u8>>, Option<Vec<u8>>) =
            self.executor.pipeline(&pipeline).await?;
        let (Some(task), Some(token)) = (record, token) else {
            return Ok(None);
        };
        Ok(Some(StoredToken {
            task,
            record: token_record(&token)?,
        }))
    }

    pub(super) async fn scan(&self, task: TaskId, from: u64) -> Result<TokenPage, StoreError> {
        let mut command = cmd("HSCAN");
        command
            .arg(tokens_key(task))
            .arg(from)
            .arg("COUNT")
            .arg(TOKENS_PER_SCAN);
        let (next, found): (u64, Fields) = self.executor.query(&command).await?;
        let token = |(id, value): (Vec<u8>, Vec<u8>)| {
            Ok((
                TokenId::from_bytes(id.as_slice().try_into().map_err(|_| nonsense("token id"))?),
                token_record(&value)?,
            ))
        };
        Ok(TokenPage {
            tokens: found
                .into_iter()
                .map(token)
                .collect::<Result<_, StoreError>>()?,
            next,
        })
    }
}
