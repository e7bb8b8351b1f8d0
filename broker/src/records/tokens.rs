//! Records of tokens, each beside that of its task.

use std::sync::Arc;

use sundew_core::store::{CreatedToken, NewToken};
use sundew_core::{KnownTask, KnownToken, TaskId, TokenHash, TokenId, TokenRecord};

use super::Records;
use crate::clock;
use crate::refusal::Refusal;

/// How long the record of a token stays in the store after the token expired, in milliseconds.
const RETAIN_TOKEN_AFTER_EXPIRY_MS: i64 = 1000;

impl Records {
    /// Returns a token as the store takes it.
    pub(super) fn new_token<'a>(&self, token: &KnownToken, hash: &'a TokenHash) -> NewToken<'a> {
        let record = self.of_task(
            token.task(),
            &[b"token", token.task().id.as_bytes(), token.id().as_bytes()],
            token.encode(token.task()),
        );
        NewToken {
            hash,
            record,
            retain_until_ms: token
                .expires_at_ms
                .saturating_add(RETAIN_TOKEN_AFTER_EXPIRY_MS),
        }
    }

    /// Writes a token of a task, which may have `limit` of them. Returns the token that counts: an
    /// earlier call with this idempotency key may have written it. Refuses if that was another
    /// request, or if the task does not exist or is at its limit.
    pub async fn create_token(
        &self,
        token: KnownToken,
        hash: &TokenHash,
        limit: u32,
    ) -> Result<Arc<KnownToken>, Refusal> {
        match self
            .store
            .create_token(token.task().id, self.new_token(&token, hash), limit)
            .await?
        {
            None => Err(Refusal::NotFound("task")),
            Some(CreatedToken::Full) => Err(Refusal::TokenLimit),
            Some(CreatedToken::New) => {
                let token = Arc::new(token);
                self.tokens.insert(*hash, Arc::clone(&token));
                Ok(token)
            }
            Some(CreatedToken::Existing(bytes)) => {
                let existing = self.open_token(Arc::clone(token.task()), token.id(), &bytes)?;
                require_same(&existing, &token)?;
                Ok(Arc::new(existing))
            }
        }
    }

    /// Returns the token that an earlier call with the same idempotency key has minted, if it is in
    /// memory. Refuses if that was another request, or if the token has expired.
    pub fn minted_before(
        &self,
        token: &KnownToken,
        hash: &TokenHash,
    ) -> Result<Option<Arc<KnownToken>>, Refusal> {
        let known = self.tokens.get(&token.task().id, hash);
        known
            .map(|known| require_same(&known, token).map(|()| known))
            .transpose()
    }

    /// Returns the token in a stored record, and a refusal if the record's tag does not fit.
    pub fn open_token(
        &self,
        task: Arc<KnownTask>,
        id: TokenId,
        bytes: &[u8],
    ) -> Result<KnownToken, Refusal> {
        let record = self.open(
            "token",
            &[b"token", task.id.as_bytes(), id.as_bytes()],
            bytes,
            |record| TokenRecord::decode(&task, record),
        )?;
        Ok(KnownToken::new(record, id, task))
    }

    /// Returns a token with its task from memory or from the store, if both exist. It takes one
    /// round trip to the store, and one for each ancestor of a delegated task that is not in
    /// memory.
    pub async fn token(
        &self,
        task: TaskId,
        hash: &TokenHash,
    ) -> Result<Option<Arc<KnownToken>>, Refusal> {
        if let Some(known) = self.tokens.get(&task, hash) {
            return Ok(Some(known));
        }
        let Some(stored) = self.store.token(task, hash).await? else {
            return Ok(None);
        };
        let known = match self.tasks.get(&task) {
            Some(known) => Arc::clone(&known.known),
            None => match self.open_task(task, &stored.task).await? {
                Some(known) => known,
                None => return Ok(None),
            },
        };
        let token = Arc::new(self.open_token(known, hash.token_id(), &stored.record)?);
        self.tokens.insert(*hash, Arc::clone(&token));
        Ok(Some(token))
    }
}

/// Refuses unless the token that exists is the one that was asked for, and is good still.
fn require_same(existing: &KnownToken, asked: &KnownToken) -> Result<(), Refusal> {
    if existing.request == asked.request && clock::now_ms() < existing.expires_at_ms {
        Ok(())
    } else {
        Err(Refusal::Idempotency)
    }
}
