//! The proof of an engine before it is taken: the whole life of a lease of each of its roles.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use sundew_attestation::hex;
use sundew_core::{SealError, SecretBytes};

use super::engine::{Engine, EngineConfig, EngineError, NewCredential, Role, Session};
use crate::clock;
use crate::refusal::Refusal;

/// Longest time for the proof of all roles.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest time after its removal for which a credential's session may go on.
const SESSION_END: Duration = Duration::from_secs(2);
/// A credential that is made for a trial ends so much later by itself, in milliseconds. No sweep
/// takes the credential for an orphan before.
const TRIAL_MS: i64 = 60_000;
/// What follows an engine's prefix in the names of such credentials. No lease's name has it.
const TRIAL: &str = "trial_";

/// Refuses a configuration whose target does not work, or with a role whose leases could not be
/// made, used and removed: the operator hears which step failed, and what it takes.
pub(super) async fn try_target(
    config: &EngineConfig,
    password: SecretBytes,
    prefix: &str,
) -> Result<(), Refusal> {
    let driver = config
        .driver(password)
        .map_err(|e| Refusal::invalid("document", e))?;
    let trial = async {
        driver.check().await.map_err(|e| e.to_string())?;
        for (name, role) in &config.roles {
            let username = trial_name(prefix).map_err(|e| e.to_string())?;
            let lived = live(driver.as_ref(), role, &username).await;
            lived.map_err(|failure| format!("role {name}: {failure}"))?;
        }
        Ok(())
    };
    tokio::time::timeout(TRIAL_TIMEOUT, trial)
        .await
        .unwrap_or_else(|_| Err("it took too long".to_owned()))
        .map_err(|e: String| Refusal::invalid("document", format!("the target was tried: {e}")))
}

/// Whether a credential is one of a trial that may be under way.
pub(super) fn is_on_trial(prefix: &str, username: &str) -> bool {
    let began = username
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix(TRIAL))
        .and_then(|rest| rest.split('_').next()?.parse::<i64>().ok());
    began.is_some_and(|began| (clock::now_ms() - began).abs() < TRIAL_MS)
}

/// One life, from the making of a credential to the end of its session. What was made is removed
/// whatever fails.
async fn live(driver: &dyn Engine, role: &Role, username: &str) -> Result<(), String> {
    let password = random_password().map_err(|e| e.to_string())?;
    let credential = NewCredential {
        username,
        password: &password,
        expires_at_ms: clock::now_ms().saturating_add(TRIAL_MS),
    };
    let failed = |step: &str, error: EngineError, needs: &str| format!("{step}: {error} ({needs})");
    let made = driver.create(role, &credential).await.map_err(|e| {
        failed("a credential could not be made", e, "the administrator needs the right to make credentials, and whatever the role's grants give with the right to grant it")
    });
    let used = match made {
        Ok(()) => use_once(driver, role, &credential).await,
        Err(failure) => Err(failure),
    };
    let removed = driver.remove(username).await.map_err(|e| {
        let what = format!("the credential {username} could not be removed");
        failed(&what, e, "the administrator must be able to become a member of it, to take back what it granted and to connect wherever the credential may connect")
    });
    let session = used?;
    removed?;
    tokio::time::timeout(SESSION_END, session).await.map_err(|_| {
        "the credential was removed, and its session went on (the administrator needs the right to end sessions)".to_owned()
    })
}

/// Looks at what a credential may do, and logs in with it.
async fn use_once(
    driver: &dyn Engine,
    role: &Role,
    credential: &NewCredential<'_>,
) -> Result<Session, String> {
    let examined = driver.examine(role, credential.username).await;
    examined.map_err(|e| format!("the grants give too much: {e}"))?;
    let session = driver.log_in(credential.username, credential.password);
    session.await.map_err(|e| {
        format!("the credential could not log in: {e} (it needs the right to connect, and the target must let it in from here by password)")
    })
}

fn trial_name(prefix: &str) -> Result<String, Refusal> {
    let now_ms = clock::now_ms();
    Ok(format!("{prefix}{TRIAL}{now_ms}_{}", hex(&random::<4>()?)))
}

fn random_password() -> Result<SecretBytes, Refusal> {
    let password = URL_SAFE_NO_PAD.encode(random::<32>()?);
    Ok(SecretBytes::new(password.into_bytes()))
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Refusal::Seal {
            what: "trial of an engine",
            cause: SealError::Random,
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_left_alone_for_a_minute() {
        let young = trial_name("sdw_1_").unwrap();
        assert!(is_on_trial("sdw_1_", &young));
        assert!(!is_on_trial("sdw_2_", &young));
        assert!(!is_on_trial("sdw_1_", "sdw_1_trial_1000_00"));
        assert!(!is_on_trial("sdw_1_", "sdw_1_0123456789abcdef"));
    }
}
