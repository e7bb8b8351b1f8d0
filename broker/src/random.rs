//! Random names.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use sundew_core::SealError;

use crate::refusal::Refusal;

/// Makes a name of 16 random bytes in base64url: a correlation ID, or an idempotency key that
/// nobody knows.
pub(crate) fn random_name() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Refusal::Seal {
            what: "random name",
            cause: SealError::Random,
        })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
