//! A connection to Redis that is made anew when it broke, in its three forms: single, Sentinel,
//! Cluster.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo as _,
    RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value, cmd,
};
use sundew_core::SecretBytes;
use sundew_core::store::StoreError;

use crate::clock;

/// After a failed attempt to connect, the next one waits this long; calls meanwhile fail at once
/// (T68: no storm).
const RETRY_AFTER: Duration = Duration::from_millis(100);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Where Redis is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisUrl {
    tls: bool,
    form: Form,
    user: Option<String>,
    nodes: Vec<(String, u16)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    Single,
    Sentinel(String),
    Cluster,
}

/// Why a text is no place of Redis.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RedisUrlError {
    /// A host or port that is none.
    #[error("`{0}` is not a host and port")]
    Node(String),
    /// A password in the URL.
    #[error("a password does not belong in the URL: use `password_file`")]
    Password,
    /// Not one of the forms.
    #[error(
        "must be redis://, rediss://, redis+sentinel://…/MASTER or redis+cluster:// (rediss+… for TLS)"
    )]
    Scheme,
}

impl RedisUrl {
    /// Parses `redis[s][+sentinel|+cluster]://[USER@]HOST[:PORT][,HOST[:PORT]…][/MASTER]`.
    pub fn parse(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(RedisUrlError::Scheme)?;
        let (base, form) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(RedisUrlError::Scheme),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(RedisUrlError::Password),
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, rest),
        };
        let (nodes, path) = rest.split_once('/').unwrap_or((rest, ""));
        let form = match (form, path) {
            ("", "") => Form::Single,
            ("cluster", "") => Form::Cluster,
            ("sentinel", master) if !master.is_empty() => Form::Sentinel(master.to_owned()),
            _ => return Err(RedisUrlError::Scheme),
        };
        let default_port = if matches!(form, Form::Sentinel(_)) {
            26379
        } else {
            6379
        };
        let nodes: Vec<_> = nodes
            .split(',')
            .map(|node| parse_node(node, default_port))
            .collect::<Result<_, _>>()?;
        if form == Form::Single && nodes.len() != 1 {
            return Err(RedisUrlError::Scheme);
        }
        Ok(Self {
            tls,
            form,
            user,
            nodes,
        })
    }

    /// For logs and health.
    #[must_use]
    pub fn describe(&self) -> String {
        let form = match &self.form {
            Form::Single => "redis".to_owned(),
            Form::Sentinel(master) => format!("redis sentinel `{master}`"),
            Form::Cluster => "redis cluster".to_owned(),
        };
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|(host, port)| format!("{host}:{port}"))
            .collect();
        format!(
            "{form} at {}{}",
            nodes.join(","),
            if self.tls { " over TLS" } else { "" }
        )
    }

    /// Whether there may be a failover to another primary.
    #[must_use]
    pub fn fails_over(&self) -> bool {
        self.form != Form::Single
    }

    /// The nodes of a Cluster; empty if this is none.
    pub(super) fn cluster_nodes(&self) -> &[(String, u16)] {
        if self.form == Form::Cluster {
            &self.nodes
        } else {
            &[]
        }
    }

    /// Whether the way there is encrypted or stays on this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.tls
            || self
                .nodes
                .iter()
                .all(|(host, _)| matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1"))
    }
}

fn parse_node(node: &str, default_port: u16) -> Result<(String, u16), RedisUrlError> {
    let bad = || RedisUrlError::Node(node.to_owned());
    let (host, port) = match node.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(bad)?)),
        None => node
            .split_once(':')
            .map_or((node, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(bad());
    }
    Ok((
        host.to_owned(),
        port.map_or(Ok(default_port), str::parse)
            .map_err(|_| bad())?,
    ))
}

/// How to reach Redis.
pub struct RedisSettings {
    /// Where.
    pub url: RedisUrl,
    /// The ACL user's password.
    pub password: Option<SecretBytes>,
    /// PEM of the CA, if not the system's.
    pub ca: Option<Vec<u8>>,
    /// PEM of our client certificate and key.
    pub client: Option<(Vec<u8>, SecretBytes)>,
    /// Longest time for one command.
    pub timeout: Duration,
    /// How many replicas each primary has.
    pub replicas: u32,
    /// When a task or a token counts as written.
    pub durability: Durability,
}

/// When a task, a token or a document counts as written. Endings are always on a majority before
/// they are acknowledged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// When the primary has it: a failover may lose the newest ones, and their holders begin again.
    #[default]
    Primary,
    /// When so many replicas have it that a majority of the nodes does.
    Replicated,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a ::redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }
}

pub(super) struct Link {
    settings: Arc<RedisSettings>,
    /// One node of a Cluster, instead of what the URL says.
    node: Option<(String, u16)>,
    current: Mutex<Option<Connection>>,
    connecting: tokio::sync::Mutex<Option<Instant>>,
}

impl Link {
    pub(super) fn new(settings: Arc<RedisSettings>, node: Option<(String, u16)>) -> Self {
        Self {
            settings,
            node,
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(None),
        }
    }

    fn current(&self) -> Option<Connection> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) async fn connection(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let mut failed_at = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if failed_at.is_some_and(|at| clock::since(at) < RETRY_AFTER) {
            return Err(StoreError::Unavailable(
                "connecting failed just now".to_owned(),
            ));
        }
        let result = tokio::time::timeout(CONNECT_WITHIN, self.connect()).await;
        match result {
            Ok(Ok(connection)) => {
                *failed_at = None;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(connection.clone());
                Ok(connection)
            }
            Ok(Err(e)) => {
                *failed_at = Some(clock::monotonic());
                Err(super::store_error(&e))
            }
            Err(_) => {
                *failed_at = Some(clock::monotonic());
                Err(StoreError::Unavailable(
                    "connecting took too long".to_owned(),
                ))
            }
        }
    }

    /// Lets go of the connection: whom it leads to is in doubt.
    pub(super) fn drop_connection(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Turns a result into ours, and lets go of a connection that is of no use any more.
    pub(super) fn settle<T>(&self, result: RedisResult<T>) -> Result<T, StoreError> {
        result.map_err(|e| {
            let deposed = matches!(e.code(), Some("READONLY" | "LOADING" | "MASTERDOWN"));
            if deposed || e.is_io_error() || e.is_connection_dropped() || e.is_unrecoverable_error()
            {
                self.drop_connection();
            }
            super::store_error(&e)
        })
    }

    /// `INFO` of each primary.
    pub(super) async fn info(&self) -> Result<Vec<String>, StoreError> {
        match self.connection().await? {
            Connection::One(mut connection) => Ok(vec![
                self.settle(cmd("INFO").query_async(&mut connection).await)?,
            ]),
            Connection::Cluster(mut connection) => {
                let routing = ::redis::cluster_routing::RoutingInfo::MultiNode((
                    ::redis::cluster_routing::MultipleNodeRoutingInfo::AllMasters,
                    None,
                ));
                let value = self.settle(connection.route_command(cmd("INFO"), routing).await)?;
                let by_node: std::collections::HashMap<String, String> =
                    self.settle(::redis::from_redis_value(value).map_err(RedisError::from))?;
                Ok(by_node.into_values().collect())
            }
        }
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let settings = &self.settings;
        let url = &settings.url;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(settings.timeout))
            .set_connection_timeout(Some(CONNECT_WITHIN));
        let password = settings
            .password
            .as_ref()
            .map(|p| String::from_utf8_lossy(p.expose()).trim().to_owned());
        let form = if self.node.is_some() {
            &Form::Single
        } else {
            &url.form
        };
        match form {
            Form::Single => {
                let (host, port) = self
                    .node
                    .clone()
                    .or_else(|| url.nodes.first().cloned())
                    .unwrap_or_default();
                let mut info = self.address(host, port).into_connection_info()?;
                let mut redis = info.redis_settings().clone();
                if let Some(user) = &url.user {
                    redis = redis.set_username(user);
                }
                if let Some(password) = password {
                    redis = redis.set_password(password);
                }
                info = info.set_redis_settings(redis);
                let client = if url.tls {
                    Client::build_with_tls(info, self.certificates())?
                } else {
                    Client::open(info)?
                };
                Ok(Connection::One(
                    client
                        .get_multiplexed_async_connection_with_config(&config)
                        .await?,
                ))
            }
            Form::Sentinel(master) => {
                let addresses: Vec<_> = url
                    .nodes
                    .iter()
                    .map(|(host, port)| self.address(host.clone(), *port))
                    .collect();
                let mut builder = SentinelClientBuilder::new(
                    addresses,
                    master.clone(),
                    SentinelServerType::Master,
                )?;
                if let Some(user) = &url.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if url.tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(self.certificates());
                    builder = builder
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(self.certificates());
                }
                Ok(Connection::One(
                    builder
                        .build()?
                        .get_async_connection_with_config(&config)
                        .await?,
                ))
            }
            Form::Cluster => {
                let nodes: Vec<_> = url
                    .nodes
                    .iter()
                    .map(|(host, port)| self.address(host.clone(), *port))
                    .collect();
                let mut builder = ClusterClientBuilder::new(nodes)
                    .retries(2)
                    .connection_timeout(CONNECT_WITHIN)
                    .response_timeout(settings.timeout);
                if let Some(user) = &url.user {
                    builder = builder.username(user.clone());
                }
                if let Some(password) = password {
                    builder = builder.password(password);
                }
                if url.tls {
                    builder = builder.tls(TlsMode::Secure).certs(self.certificates());
                }
                Ok(Connection::Cluster(
                    builder.build()?.get_async_connection().await?,
                ))
            }
        }
    }

    fn address(&self, host: String, port: u16) -> ConnectionAddr {
        if self.settings.url.tls {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn certificates(&self) -> TlsCertificates {
        let client_tls = self
            .settings
            .client
            .as_ref()
            .map(|(cert, key)| ClientTlsConfig {
                client_cert: cert.clone(),
                client_key: key.expose().to_vec(),
            });
        TlsCertificates {
            client_tls,
            root_cert: self.settings.ca.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_has_its_meaning_and_nothing_else_is_taken() {
        let text = |t: &str| RedisUrl::parse(t).map(|u| u.describe());
        assert_eq!(
            text("redis://localhost").as_deref(),
            Ok("redis at localhost:6379")
        );
        assert_eq!(
            text("rediss://sundew@r.example:7000").as_deref(),
            Ok("redis at r.example:7000 over TLS")
        );
        assert_eq!(
            text("redis+sentinel://a,b:2/main").as_deref(),
            Ok("redis sentinel `main` at a:26379,b:2")
        );
        assert_eq!(
            text("rediss+cluster://a:1,[::1]:2").as_deref(),
            Ok("redis cluster at a:1,::1:2 over TLS")
        );
        assert_eq!(
            RedisUrl::parse("redis://u:p@h"),
            Err(RedisUrlError::Password)
        );
        for bad in [
            "",
            "redis:",
            "http://h",
            "redis://",
            "redis://a,b",
            "redis://h/0",
            "redis+sentinel://h",
            "redis+x://h",
            "redis://h:x",
            "redis://[::1]x",
        ] {
            assert!(RedisUrl::parse(bad).is_err(), "{bad} was taken");
        }
    }
}
