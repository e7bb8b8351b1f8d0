//! URLs of Redis in its three forms: alone, behind Sentinel, or as a Cluster.

/// The host and port of a server.
pub(super) type Node = (String, u16);

/// The URL of a Redis: its form, its nodes, and the user and transport to reach them with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisUrl {
    pub(super) tls: bool,
    pub(super) form: Form,
    pub(super) user: Option<String>,
    pub(super) nodes: Vec<Node>,
}

/// How the nodes of a URL belong together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Cluster,
    /// The nodes are Sentinels, which know the primary of this name.
    Sentinel(String),
    Single,
}

/// Why a text is not the URL of a Redis.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RedisUrlError {
    /// A node is not a host with an optional port.
    #[error("`{0}` is not a host and port")]
    Node(String),
    /// The URL contains a password.
    #[error("a password does not belong in the URL: use `password_file`")]
    Password,
    /// The scheme, or what belongs to it, is none of the forms.
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

    /// Returns the form, the nodes and the transport, for logs and health.
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

    /// Returns whether there may be a failover to another primary.
    #[must_use]
    pub fn fails_over(&self) -> bool {
        self.form != Form::Single
    }

    /// Returns the nodes of a Cluster, or nothing if this is not a Cluster.
    pub(super) fn cluster_nodes(&self) -> &[Node] {
        if self.form == Form::Cluster {
            &self.nodes
        } else {
            &[]
        }
    }

    /// Returns whether the connection is encrypted, or stays on this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.tls
            || self
                .nodes
                .iter()
                .all(|(host, _)| matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1"))
    }
}

fn parse_node(node: &str, default_port: u16) -> Result<Node, RedisUrlError> {
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
