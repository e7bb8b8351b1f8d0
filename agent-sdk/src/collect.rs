//! Collectors: each collects one kind of evidence of what the agent is.

#![expect(
    clippy::disallowed_methods,
    reason = "what this machine can show is in its environment"
)]

mod audience;
mod chosen;
mod command;
mod error;
mod local_user;
mod manifest;
mod measure;
mod oidc;
mod process;
mod sets;
mod tpm2;
mod tsm;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use sundew_core::client::{Binding, hex};

use crate::error::Error;
use crate::identity::{self, Identity};
use crate::settings::Settings;
pub(crate) use audience::AudiencePin;
pub use command::EvidenceCollector;
pub use error::{CollectError, TpmError};
pub use local_user::LocalUserCollector;
pub use manifest::ManifestCollector;
pub use measure::measure;
pub use oidc::OidcCollector;
pub use process::ProcessCollector;
pub(crate) use sets::first_whole_set;
pub use tpm2::{Tpm2Collector, TpmKey};
pub use tsm::{TsmCollector, TsmKind};

/// The challenge that a collector answers.
pub struct Context<'a> {
    /// The bytes that fresh evidence must be bound to.
    pub binding: &'a Binding,
    /// The audience that tokens for this broker must have. It is empty if the broker named one that
    /// is neither set nor its own.
    pub audience: &'a str,
    /// The audience that the broker named and gets no token for.
    foreign: Option<&'a str>,
    key: Option<&'a PrivateKeyDer<'static>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        binding: &'a Binding,
        audience: &'a str,
        key: Option<&'a PrivateKeyDer<'static>>,
    ) -> Self {
        Self {
            binding,
            audience,
            foreign: None,
            key,
        }
    }

    /// Lets the pin decide about the audience that a broker named.
    pub(crate) fn pinned(mut self, pin: &'a AudiencePin) -> Self {
        match pin.audience(self.audience) {
            Some(audience) => self.audience = audience,
            None => self.foreign = Some(std::mem::take(&mut self.audience)),
        }
        self
    }

    /// Returns the audience for a token that is asked for.
    ///
    /// # Errors
    /// [`CollectError::Audience`] if the broker named one that is neither set nor its own.
    pub fn token_audience(&self) -> Result<&str, CollectError> {
        match self.foreign {
            Some(foreign) => Err(CollectError::Audience(foreign.chars().take(256).collect())),
            None => Ok(self.audience),
        }
    }

    /// Signs `message` with the SVID's key. The signature is ECDSA in ASN.1 DER, or Ed25519.
    ///
    /// # Errors
    /// [`CollectError::Key`] if there is no SVID, or if its key is of another type.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CollectError> {
        let key = self.key.ok_or_else(|| {
            CollectError::Key("there is no SVID here whose key could sign".to_owned())
        })?;
        identity::sign(key, message).map_err(|problem| CollectError::Key(problem.to_string()))
    }
}

/// The future that [`Collector::collect`] returns: the evidence, as the broker reads it.
pub type Collected<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, CollectError>> + Send + 'a>>;

/// Collects one kind of evidence.
pub trait Collector: Send + Sync {
    /// Returns the kind, such as `oidc`.
    fn kind(&self) -> &str;
    /// Collects the evidence anew, for one challenge.
    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a>;
}

/// Returns the collectors that these settings choose, with what the machine itself may show.
pub(crate) fn from_settings(settings: &Settings) -> Result<Vec<Arc<dyn Collector>>, Error> {
    chosen::collectors(settings, in_github())
}

/// Whether this is a GitHub Actions job that may ask for OIDC tokens.
fn in_github() -> bool {
    std::env::var("ACTIONS_ID_TOKEN_REQUEST_URL").is_ok()
}

/// Collects one piece of evidence away from any broker, bound to these 32 bytes. Kinds that the
/// SVID's key signs need `identity`.
pub async fn collect(
    settings: &Settings,
    kind: &str,
    binding: [u8; 32],
    audience: &str,
    identity: Option<&Identity>,
) -> Result<Vec<u8>, Error> {
    let binding = Binding::from_bytes(binding);
    let key = identity.map(|identity| &identity.key);
    collect_in(settings, kind, &Context::new(&binding, audience, key)).await
}

/// Collects one piece of evidence for a broker, bound to these 32 bytes. The broker is at `place`
/// (`host:port`), is in this trust domain, and names the audience.
pub async fn collect_for(
    settings: &Settings,
    kind: &str,
    binding: [u8; 32],
    audience: &str,
    (place, trust_domain): (&str, &str),
) -> Result<Vec<u8>, Error> {
    let pin = AudiencePin::new(settings, place, trust_domain);
    let binding = Binding::from_bytes(binding);
    let context = Context::new(&binding, audience, None).pinned(&pin);
    collect_in(settings, kind, &context).await
}

/// Looks whether this machine can show one OIDC token after the other, as brokers want it: collects
/// two for a broker that is at `place` (`host:port`), is in this trust domain, and names the audience.
/// Returns in one line what to change if both are one token, and `None` if nothing collects any.
///
/// # Errors
/// Returns why no token was collected.
pub async fn examine_tokens(
    settings: &Settings,
    audience: &str,
    (place, trust_domain): (&str, &str),
) -> Result<Option<String>, CollectError> {
    let Some(collector) = chosen::oidc(settings, in_github()) else {
        return Ok(None);
    };
    let pin = AudiencePin::new(settings, place, trust_domain);
    let binding = Binding::from_bytes([0; 32]);
    let context = Context::new(&binding, audience, None).pinned(&pin);
    collector.examine(&context).await
}

async fn collect_in(
    settings: &Settings,
    kind: &str,
    context: &Context<'_>,
) -> Result<Vec<u8>, Error> {
    let fail = |problem: String| Error::Evidence {
        kind: kind.to_owned(),
        problem,
    };
    let collectors = from_settings(settings)?;
    let collector = collectors
        .iter()
        .find(|c| c.kind() == kind)
        .ok_or_else(|| fail(format!("nothing here collects it{}", chosen::hint(kind))))?;
    collector
        .collect(context)
        .await
        .map_err(|problem| fail(problem.to_string()))
}

/// Returns the kinds of evidence that these settings let an agent collect, without looking whether
/// this machine can.
pub fn kinds(settings: &Settings) -> Result<Vec<String>, Error> {
    Ok(from_settings(settings)?
        .iter()
        .map(|collector| collector.kind().to_owned())
        .collect())
}
