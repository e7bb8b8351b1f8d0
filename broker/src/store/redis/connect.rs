//! New connections to Redis, one way for each form of URL.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _,
    RedisResult, TlsCertificates, TlsMode,
};

use super::settings::RedisSettings;
use super::url::Node;

/// The longest time that one attempt to connect may take.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Connects to one node.
pub(super) async fn connect_to_node(
    settings: &RedisSettings,
    node: Node,
) -> RedisResult<MultiplexedConnection> {
    let mut info = address(settings, node).into_connection_info()?;
    let mut redis = info.redis_settings().clone();
    if let Some(user) = &settings.url.user {
        redis = redis.set_username(user);
    }
    if let Some(password) = password(settings) {
        redis = redis.set_password(password);
    }
    info = info.set_redis_settings(redis);
    let client = if settings.url.tls {
        Client::build_with_tls(info, certificates(settings))?
    } else {
        Client::open(info)?
    };
    client
        .get_multiplexed_async_connection_with_config(&config(settings))
        .await
}

/// Connects to the primary that the Sentinels name for `master`.
pub(super) async fn connect_by_sentinel(
    settings: &RedisSettings,
    master: &str,
) -> RedisResult<MultiplexedConnection> {
    let mut builder =
        SentinelClientBuilder::new(addresses(settings), master, SentinelServerType::Master)?;
    if let Some(user) = &settings.url.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = password(settings) {
        builder = builder.set_client_to_redis_password(password);
    }
    if settings.url.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates(settings));
        builder = builder
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates(settings));
    }
    builder
        .build()?
        .get_async_connection_with_config(&config(settings))
        .await
}

/// Connects to a Cluster; the connection finds the node of each key by itself.
pub(super) async fn connect_to_cluster(settings: &RedisSettings) -> RedisResult<ClusterConnection> {
    let mut builder = ClusterClientBuilder::new(addresses(settings))
        .retries(2)
        .connection_timeout(CONNECT_WITHIN)
        .response_timeout(settings.timeout);
    if let Some(user) = &settings.url.user {
        builder = builder.username(user.clone());
    }
    if let Some(password) = password(settings) {
        builder = builder.password(password);
    }
    if settings.url.tls {
        builder = builder.tls(TlsMode::Secure).certs(certificates(settings));
    }
    builder.build()?.get_async_connection().await
}

fn config(settings: &RedisSettings) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_response_timeout(Some(settings.timeout))
        .set_connection_timeout(Some(CONNECT_WITHIN))
}

/// Returns the password without the line end that files of passwords have.
fn password(settings: &RedisSettings) -> Option<String> {
    settings
        .password
        .as_ref()
        .map(|p| String::from_utf8_lossy(p.expose()).trim().to_owned())
}

fn addresses(settings: &RedisSettings) -> Vec<ConnectionAddr> {
    settings
        .url
        .nodes
        .iter()
        .map(|node| address(settings, node.clone()))
        .collect()
}

fn address(settings: &RedisSettings, (host, port): Node) -> ConnectionAddr {
    if settings.url.tls {
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

fn certificates(settings: &RedisSettings) -> TlsCertificates {
    let client_tls = settings.client.as_ref().map(|(cert, key)| ClientTlsConfig {
        client_cert: cert.clone(),
        client_key: key.expose().to_vec(),
    });
    TlsCertificates {
        client_tls,
        root_cert: settings.ca.clone(),
    }
}
