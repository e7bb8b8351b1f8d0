//! Documents and single-use names in Redis.

use std::sync::Arc;

use ::redis::{Script, cmd};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_core::store::{DocumentKind, StoreError};

use super::call::Call;
use super::executor::Executor;
use super::keys::documents_key;
use crate::clock;

/// The documents, one hash for each kind, and the names that are taken, one key for each.
pub(super) struct Documents {
    executor: Arc<Executor>,
    replace: Script,
    consume: Script,
}

impl Documents {
    pub(super) fn new(executor: Arc<Executor>) -> Self {
        Self {
            executor,
            replace: Script::new(include_str!("replace_document.lua")),
            consume: Script::new(include_str!("consume.lua")),
        }
    }

    pub(super) async fn read(
        &self,
        kind: DocumentKind,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.executor
            .query(cmd("HGET").arg(documents_key(kind)).arg(name))
            .await
    }

    pub(super) async fn read_all(
        &self,
        kind: DocumentKind,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut all: Vec<(String, Vec<u8>)> = self
            .executor
            .query(cmd("HGETALL").arg(documents_key(kind)))
            .await?;
        all.sort();
        Ok(all)
    }

    pub(super) async fn replace(
        &self,
        kind: DocumentKind,
        name: &str,
        expected: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let flag = |present: bool| if present { "1" } else { "0" };
        let call = Call::new(&self.replace, &[&documents_key(kind)])
            .arg(name)
            .arg(flag(expected.is_some()))
            .arg(expected.unwrap_or_default())
            .arg(flag(value.is_some()))
            .arg(value.unwrap_or_default());
        self.executor.write(&call).await
    }

    pub(super) async fn consume(&self, name: &[u8; 32], until_ms: i64) -> Result<bool, StoreError> {
        if until_ms <= clock::now_ms() {
            return Ok(false);
        }
        let key = format!("sundew:used:{}", URL_SAFE_NO_PAD.encode(name));
        self.executor
            .write(&Call::new(&self.consume, &[&key]).arg(until_ms))
            .await
    }
}
