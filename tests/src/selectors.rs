//! Selectors that tests use again and again.

use sundew_proto::v1::Selector;

use crate::pki::DOMAIN;

/// Selects everything of one workload.
pub fn of_workload(path: &str) -> Selector {
    Selector {
        spiffe_id: format!("spiffe://{}{path}", DOMAIN),
        ..Selector::default()
    }
}

/// Selects one task.
pub fn of_task(id: &str) -> Selector {
    Selector {
        task_id: id.to_owned(),
        ..Selector::default()
    }
}

/// Selects one token, by its credential or its id.
pub fn of_token(token: &str) -> Selector {
    Selector {
        token: token.to_owned(),
        ..Selector::default()
    }
}
