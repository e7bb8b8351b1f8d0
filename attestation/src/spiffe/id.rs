//! SPIFFE IDs (SPIFFE-ID specification, section 2). A string is accepted as it stands or rejected;
//! nothing is normalised, so two different strings are never one identity.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest SPIFFE ID that the specification demands support for, in bytes (SPIFFE-ID, section
/// 2.3).
const MAX_ID: usize = 2048;
/// The longest trust domain name, in bytes (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// The reasons why a string is not a SPIFFE ID.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdError {
    /// A path segment is empty, `.` or `..`, or the path ends in a slash.
    #[error("path segments must not be empty, `.` or `..`")]
    BadSegment,
    /// The string has a character that the specification does not allow there.
    #[error("character not allowed")]
    Character,
    /// The trust domain name is empty.
    #[error("trust domain is missing")]
    NoTrustDomain,
    /// The string does not begin with `spiffe://` in exactly this spelling.
    #[error("scheme must be `spiffe://`")]
    Scheme,
    /// The string has more than 2048 bytes, or its trust domain name more than 255.
    #[error("too long")]
    TooLong,
}

/// A trust domain name, such as `example.org`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name (`example.org`) or the SPIFFE ID of a trust domain
    /// (`spiffe://example.org`).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let name = text.strip_prefix("spiffe://").unwrap_or(text);
        if name.is_empty() {
            return Err(IdError::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(IdError::TooLong);
        }
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if !name.bytes().all(allowed) {
            return Err(IdError::Character);
        }
        Ok(Self(name.into()))
    }

    /// Returns the bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the trust domain's own SPIFFE ID, such as `spiffe://example.org`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

/// The SPIFFE ID of a workload: a trust domain and a path that is not empty. Cloning it copies no
/// text.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses the SPIFFE ID of a workload. An ID without a path is rejected: it names a trust
    /// domain, and the ID of a leaf certificate has a path (X509-SVID, section 3.1).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_ID {
            return Err(IdError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(IdError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdError::BadSegment)?;
        let trust_domain = TrustDomain::parse(domain)?;
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(IdError::BadSegment);
            }
            if !segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            {
                return Err(IdError::Character);
            }
        }
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }

    /// Returns the whole ID as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the trust domain, whose roots alone can vouch for the ID.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T05: each string is accepted or rejected, and no two spellings are one ID.
    #[test]
    fn t05_every_string_has_an_exact_verdict() {
        let long = format!("spiffe://a/{}", "x".repeat(2037));
        let too_long = format!("spiffe://a/{}", "x".repeat(2038));
        let domain = "d".repeat(255);
        let good = [
            "spiffe://example.org/a",
            "spiffe://a_b-c.1/X/y.Z/-_",
            "spiffe://10.0.0.1/agent",
            "spiffe://xn--caf-dma/a",
            &long,
        ];
        for text in good {
            assert_eq!(SpiffeId::parse(text).map(String::from).as_deref(), Ok(text));
        }
        assert!(SpiffeId::parse(&format!("spiffe://{domain}/a")).is_ok());
        let bad = [
            "",
            "spiffe:",
            "spiffe://",
            "spiffe:///a",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/a//b",
            "spiffe://example.org/.",
            "spiffe://example.org/a/../b",
            "Spiffe://example.org/a",
            "SPIFFE://example.org/a",
            "https://example.org/a",
            "spiffe://Example.org/a",
            "spiffe://example.org:443/a",
            "spiffe://user@example.org/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/a%2fb",
            "spiffe://example.org/a b",
            "spiffe://example.org/a\0",
            "spiffe://example.org/a\n",
            "spiffe://exämple.org/a",
            "spiffe://example.org/caf\u{e9}",
            "spiffe://example.org/cafe\u{301}",
            "spiffe://example.org/*",
            "spiffe://example.org/a,b",
            "spiffe://example.org/a:b",
            " spiffe://example.org/a",
            "spiffe://example.org/a ",
            &too_long,
        ];
        for text in bad {
            assert!(SpiffeId::parse(text).is_err(), "{text:?} was taken");
        }
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://{domain}d/a")),
            Err(IdError::TooLong)
        );
    }

    proptest::proptest! {
        #[test]
        fn what_parses_is_what_was_written(text in "spiffe://[a-z0-9.]{1,8}(/[a-zA-Z0-9._-]{0,4}){0,4}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                proptest::prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
