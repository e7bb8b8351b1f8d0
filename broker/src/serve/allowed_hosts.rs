//! The hosts for which the operations listener answers (I12).
//!
//! A page in an operator's browser reaches every listener that the browser reaches, once the page's
//! own name leads there (DNS rebinding): then the answer is one of the page's own origin. The request
//! still has that name in it (RFC 9110, section 7.2). So only names that are configured are answered,
//! `localhost`, and addresses, which are no names: probes and scrapers come by address.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// What is said to whoever comes by another name.
const MISDIRECTED: &str = "this name is not one of this listener's: ask by an address, or add the \
                           name to listen.operations_hosts\n";

/// The names of the operations listener, in lower case, without ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct AllowedHosts(Arc<[String]>);

impl AllowedHosts {
    /// Names that the configuration has checked by [`is_host`].
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether the target and every `Host` field of a request are of this listener. Clients of
    /// HTTP/1.0 name none, and no browser is one.
    fn admits(&self, request: &Request) -> bool {
        let target = request.uri().authority().map(Authority::as_str);
        let fields = request.headers().get_all(header::HOST);
        let mut named = target.is_some() || request.version() < Version::HTTP_11;
        let mut all = true;
        for host in fields {
            named = true;
            all &= host.to_str().is_ok_and(|host| self.has(host));
        }
        named && all && target.is_none_or(|target| self.has(target))
    }

    /// Whether a host with or without a port is of this listener.
    fn has(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        let host = authority.host();
        let ipv6 = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_address = match ipv6 {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<IpAddr>().is_ok(),
        };
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        is_address || name == "localhost" || self.0.contains(&name)
    }
}

/// Whether a text is the name of a host, as the configuration has it: without port and last dot.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inner)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Answers 421 (RFC 9110, section 15.5.20) to requests for other hosts.
pub(super) async fn require(
    State(hosts): State<AllowedHosts>,
    request: Request,
    next: Next,
) -> Response {
    if hosts.admits(&request) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, MISDIRECTED).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn i12_names_of_others_are_not_answered() {
        let hosts = AllowedHosts::new(&["Broker.internal".to_owned()]);
        for host in [
            "127.0.0.1:9090",
            "localhost",
            "LOCALHOST.:9090",
            "[::1]:9090",
            "10.42.0.7:9090",
            "broker.internal:9090",
            "BROKER.INTERNAL.",
        ] {
            assert!(hosts.admits(&request("/readyz", &[host])), "{host}");
            let absolute = format!("http://{host}/readyz");
            assert!(hosts.admits(&request(&absolute, &[host])), "{host}");
            // One that is good lends nothing to another.
            for bad in ["evil.example", ""] {
                assert!(!hosts.admits(&request("/readyz", &[host, bad])));
                assert!(!hosts.admits(&request("/readyz", &[bad, host])));
                assert!(!hosts.admits(&request(&absolute, &[bad])));
            }
            assert!(!hosts.admits(&request("http://evil.example/", &[host])));
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "broker.internal.evil.example",
            "x.broker.internal",
            "evil.example@127.0.0.1:80@evil.example",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "[::1",
            "[evil.example]",
            "[127.0.0.1]",
            "broker.internal/",
        ] {
            assert!(!hosts.admits(&request("/readyz", &[host])), "{host}");
        }
    }

    #[test]
    fn i12_who_names_no_host_is_no_browser() {
        let hosts = AllowedHosts::default();
        assert!(!hosts.admits(&request("/readyz", &[])));
        let mut old = request("/readyz", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(hosts.admits(&old));
        let mut named = request("/readyz", &["evil.example"]);
        *named.version_mut() = Version::HTTP_10;
        assert!(!hosts.admits(&named));
    }

    #[test]
    fn a_configured_name_is_a_name_alone() {
        for good in ["broker", "sundew-0.sundew.svc.cluster.local"] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            "broker:9090",
            "*",
            "*.internal",
            "broker.",
            "http://broker",
            "a b",
            "é",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
