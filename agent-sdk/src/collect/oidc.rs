//! `oidc`: a token of another issuer that says who this workload is.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ring::digest;

use super::command::Source;
use super::{CollectError, Collected, Collector, Context};

/// Prints a fresh token of a GitHub Actions job for the broker's audience.
pub(super) const GITHUB: &str = r#"curl -fsS -H "Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$SUNDEW_AUDIENCE" | sed -n 's/.*"value":"\([^"]*\)".*/\1/p'"#;

/// How often a platform is asked again that answers with a token that was collected before.
const ASKED_AGAIN: u32 = 3;
/// How long to wait before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// An OIDC token from a file, which is read anew each time, or from a command.
///
/// A broker takes each token once, and some platforms answer from a cache (E3). So a token that was
/// collected before is asked for again, a few times; if there is no other one, the log says what to
/// change.
pub struct OidcCollector {
    source: Source,
    /// The digest of the token that was collected last.
    last: Mutex<Option<Vec<u8>>>,
}

impl OidcCollector {
    /// The token is in a file, such as a projected service-account token.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self::from(Source::File(path.to_owned()))
    }

    /// A shell command prints the token; `SUNDEW_AUDIENCE` tells it the audience, and
    /// `SUNDEW_ATTEMPT` how often it was asked for this one: 1, and more if it printed the token of
    /// the time before.
    #[must_use]
    pub fn command(command: &str) -> Self {
        Self::from(Source::Command(command.to_owned()))
    }

    fn from(source: Source) -> Self {
        Self {
            source,
            last: Mutex::default(),
        }
    }

    /// Collects a token twice. Returns in one line what to change if the second one is the first one.
    pub(super) async fn examine(
        &self,
        context: &Context<'_>,
    ) -> Result<Option<String>, CollectError> {
        let first = self.token(context).await?;
        let second = self.token(context).await?;
        Ok((first == second).then(|| self.hint()))
    }

    async fn token(&self, context: &Context<'_>) -> Result<Vec<u8>, CollectError> {
        if matches!(self.source, Source::Command(_)) {
            context.token_audience()?;
        }
        let mut attempt = 1;
        loop {
            let read = self.source.read_again(context, attempt).await?;
            let token = read.trim_ascii().to_vec();
            if self.is_new(&token) {
                return Ok(token);
            }
            if attempt > ASKED_AGAIN {
                // An earlier call may have failed before the broker saw the token.
                tracing::warn!("{}", self.hint());
                return Ok(token);
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Remembers the token; says whether it is another one than that of the time before.
    fn is_new(&self, token: &[u8]) -> bool {
        let digest = digest::digest(&digest::SHA256, token).as_ref().to_vec();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref() != Some(&digest);
        *last = Some(digest);
        is_new
    }

    /// Returns in one line what to change where the same token comes again and again.
    fn hint(&self) -> String {
        format!(
            "the token is the one of before, and a broker takes each once: {}",
            advice(&self.source)
        )
    }
}

/// Returns what to change where a source gives one token again and again.
fn advice(source: &Source) -> &'static str {
    match source {
        Source::File(_) => {
            "kubelet keeps a projected token for most of its life; set SUNDEW_OIDC_TOKEN_COMMAND to \
             one that asks for a token each time, such as `kubectl create token`"
        }
        Source::Command(_) => {
            "where the platform's metadata service answers from a cache, let the command ask for a \
             token that is not cached, or keep one task for as long as the token would last"
        }
    }
}

impl Collector for OidcCollector {
    fn kind(&self) -> &str {
        "oidc"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(self.token(context))
    }
}

#[cfg(test)]
mod tests {
    use sundew_core::client::Binding;

    use super::super::AudiencePin;
    use super::*;
    use crate::settings::Settings;

    async fn collected(collector: &OidcCollector, times: usize) -> Vec<String> {
        let binding = Binding::from_bytes([0; 32]);
        let context = Context::new(&binding, "broker", None);
        let mut tokens = Vec::new();
        for _ in 0..times {
            let token = collector.token(&context).await.expect("a token");
            tokens.push(String::from_utf8(token).expect("text"));
        }
        tokens
    }

    #[tokio::test]
    async fn e3_a_platform_that_answers_from_a_cache_is_asked_again() {
        // A new token only if it is asked for a second time.
        let cached = OidcCollector::command("echo token-$(( SUNDEW_ATTEMPT > 1 ))");
        assert_eq!(
            collected(&cached, 3).await,
            ["token-0", "token-1", "token-0"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_stays_the_same_is_shown_again_and_the_log_says_what_to_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "token\n").expect("written");
        let projected = OidcCollector::file(&path);
        assert_eq!(collected(&projected, 2).await, ["token", "token"]);
        let binding = Binding::from_bytes([0; 32]);
        let context = Context::new(&binding, "broker", None);
        let hint = projected.examine(&context).await.expect("a token");
        assert_eq!(hint, Some(projected.hint()));
        assert!(projected.hint().contains("SUNDEW_OIDC_TOKEN_COMMAND"));
        assert!(!projected.hint().contains('\n'));
    }

    #[tokio::test]
    async fn e12_a_command_is_not_run_for_a_foreign_audience() {
        let folder = tempfile::tempdir().expect("a folder");
        let ran = folder.path().join("ran");
        let command = format!("touch {}", ran.display());
        let binding = Binding::from_bytes([0; 32]);
        let pin = AudiencePin::new(&Settings::default(), "", "");
        let context = Context::new(&binding, "sts.amazonaws.com", None).pinned(&pin);
        let refused = OidcCollector::command(&command).token(&context).await;
        assert!(matches!(refused, Err(CollectError::Audience(_))));
        assert!(!ran.exists());
    }
}
