//! The configuration of an engine, as registrars write it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sundew_core::{Scope, SecretBytes};

use super::engine::{Engine, EngineError, Role};
use super::postgres::{Postgres, PostgresTarget};
use super::redis_acl::{RedisAcl, RedisTarget};

/// Longest role name, in bytes.
const MAX_ROLE: usize = 64;
/// Most statements or rules of one role.
const MAX_STATEMENTS: usize = 32;
/// Longest statement or rule, in bytes.
const MAX_STATEMENT: usize = 4096;

/// The document of an engine, as `sundew secret engine put` reads it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EngineConfig {
    /// The name of the engine; its secrets are called `NAME/ROLE`.
    pub(crate) name: String,
    /// The place of the target, and how it is reached.
    pub(crate) target: Target,
    /// The roles by name.
    pub(crate) roles: BTreeMap<String, Role>,
    /// Most connections to the target at a time.
    #[serde(default = "four")]
    pub(crate) max_connections: usize,
}

fn four() -> usize {
    4
}

/// Kinds of targets.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Target {
    /// PostgreSQL: a role per lease.
    Postgres(PostgresTarget),
    /// Redis: an ACL user per lease.
    Redis(RedisTarget),
}

impl EngineConfig {
    /// Everything that is wrong with the configuration, one line each, by field.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if Scope::of_secret(&self.name).is_err() || self.name.len() > 128 {
            problems.push(
                "name: must be the name of a secret, of at most 128 bytes, such as `db/reporting`"
                    .to_owned(),
            );
        }
        if self.roles.is_empty() {
            problems.push("roles: at least one is needed".to_owned());
        }
        if !(1..=64).contains(&self.max_connections) {
            problems.push("max_connections: must be between 1 and 64".to_owned());
        }
        for (name, role) in &self.roles {
            if name.contains('/') || name.len() > MAX_ROLE || Scope::of_secret(name).is_err() {
                problems.push(format!(
                    "roles.{name}: must be one segment of a secret's name"
                ));
            }
            if role.grants.len() > MAX_STATEMENTS
                || role
                    .grants
                    .iter()
                    .any(|grant| grant.trim().is_empty() || grant.len() > MAX_STATEMENT)
            {
                problems.push(format!("roles.{name}.grants: at most {MAX_STATEMENTS}, none of them blank or over {MAX_STATEMENT} bytes"));
            }
        }
        match &self.target {
            Target::Postgres(target) => problems.extend(target.problems()),
            Target::Redis(target) => problems.extend(target.problems(&self.roles)),
        }
        problems
    }

    /// Makes a driver for the target; the driver makes no connection yet.
    pub(crate) fn driver(&self, password: SecretBytes) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(match &self.target {
            Target::Postgres(target) => Arc::new(Postgres::new(
                target.clone(),
                password,
                self.max_connections,
            )?),
            Target::Redis(target) => Arc::new(RedisAcl::new(
                target.clone(),
                password,
                self.max_connections,
            )?),
        })
    }
}
