//! Tokens in the embedded store, each beside its task.

use sundew_core::store::{CreatedToken, NewToken, StoreError, StoredToken, TokenPage};
use sundew_core::{TaskId, TokenHash, TokenId};

use super::EmbeddedStore;
use super::operation::{self, kind::Kind};
use super::state::State;
use crate::clock;

impl EmbeddedStore {
    pub(super) async fn write_token(
        &self,
        task: TaskId,
        token: NewToken<'_>,
        limit: u32,
    ) -> Result<Option<CreatedToken>, StoreError> {
        let hash = token.hash;
        let durable = {
            let mut state = self.lock();
            let Some(found) = state.tasks.get_mut(&task) else {
                return Ok(None);
            };
            if let Some((record, _)) = found.tokens.get(token.hash.as_bytes()) {
                return Ok(Some(CreatedToken::Existing(record.clone())));
            }
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            if found.tokens.len() >= limit {
                let now_ms = clock::now_ms();
                found.tokens.retain(|_, (_, until)| *until > now_ms);
                if found.tokens.len() >= limit {
                    return Ok(Some(CreatedToken::Full));
                }
            }
            self.commit(&mut state, Kind::Token(new_token(task, token)))?
        };
        let undo = |state: &mut State| {
            if let Some(task) = state.tasks.get_mut(&task) {
                task.tokens.remove(hash.as_bytes());
            }
        };
        self.settled_or(durable, undo).await?;
        Ok(Some(CreatedToken::New))
    }

    pub(super) fn read_token(&self, task: TaskId, hash: &TokenHash) -> Option<StoredToken> {
        let state = self.lock();
        let task = state.tasks.get(&task)?;
        let (record, _) = task.tokens.get(hash.as_bytes())?;
        Some(StoredToken {
            task: task.record.clone(),
            record: record.clone(),
        })
    }

    /// Returns all tokens of a task in one page.
    pub(super) fn read_tokens(&self, task: TaskId) -> TokenPage {
        let state = self.lock();
        let tokens = state.tasks.get(&task).map(|task| {
            let name = |hash: &[u8; 32]| TokenHash::from_bytes(*hash).token_id();
            task.tokens
                .iter()
                .map(|(hash, (record, _))| (name(hash), record.clone()))
                .collect::<Vec<(TokenId, Vec<u8>)>>()
        });
        TokenPage {
            tokens: tokens.unwrap_or_default(),
            next: 0,
        }
    }
}

/// Returns the operation that writes a token.
pub(super) fn new_token(task: TaskId, token: NewToken<'_>) -> operation::NewToken {
    operation::NewToken {
        task: task.as_bytes().to_vec(),
        hash: token.hash.as_bytes().to_vec(),
        record: token.record,
        retain_until_ms: token.retain_until_ms,
    }
}
