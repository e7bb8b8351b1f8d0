//! The requirements that a Redis server must meet.

use sundew_core::store::StoreError;

use super::settings::RedisSettings;

/// The oldest major version that has what the scripts need: script flags, and functions of streams.
const MIN_MAJOR: u32 = 7;

/// Checks a server by its answer to `INFO` and returns an error if the server would lose or evict
/// what must stay (T65, AC-86).
pub(super) fn check_node(info: &str, settings: &RedisSettings) -> Result<(), StoreError> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let version = field("redis_version").unwrap_or_default();
    let major: u32 = version
        .split('.')
        .next()
        .and_then(|m| m.parse().ok())
        .unwrap_or(0);
    if major < MIN_MAJOR {
        return Err(StoreError::Misconfigured(format!(
            "Redis {version} is too old: {MIN_MAJOR}.0 or later is needed"
        )));
    }
    match field("maxmemory_policy") {
        Some("noeviction") => {}
        Some(policy) => {
            return Err(StoreError::Misconfigured(format!(
                "maxmemory-policy is `{policy}` and would evict revocations: set it to `noeviction`"
            )));
        }
        None => {
            return Err(StoreError::Misconfigured(
                "INFO does not tell maxmemory_policy".to_owned(),
            ));
        }
    }
    if field("role") == Some("slave") {
        return Err(StoreError::Misconfigured(
            "this Redis is a replica: name the primary, or use redis+sentinel://".to_owned(),
        ));
    }
    let attached: u32 = field("connected_slaves")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    check_replicas(attached, settings)?;
    if field("aof_enabled") == Some("0") {
        tracing::warn!(
            "Redis has no append-only file: a restart of Redis loses live tasks (endings are kept by the brokers); set `appendonly yes`"
        );
    }
    Ok(())
}

/// P4, L3: returns an error if a primary has more replicas attached than the settings count. A
/// majority that is counted too small is none, and a deposed primary could go on renewing views.
/// Replicas come also while brokers run, so that each heartbeat asks.
pub(super) fn check_replicas(attached: u32, settings: &RedisSettings) -> Result<(), StoreError> {
    if settings.url.fails_over() && attached > settings.replicas {
        return Err(StoreError::Misconfigured(format!(
            "this primary has {attached} replicas: set store.replicas to how many each primary has, {} is too few",
            settings.replicas
        )));
    }
    Ok(())
}
