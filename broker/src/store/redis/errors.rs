//! The meaning of the errors that a Redis server answers.

use ::redis::RedisError;
use sundew_core::store::StoreError;

/// T64: returns what an error of the server means for the store. No error ever means "not there".
pub(super) fn classify_error(error: &RedisError) -> StoreError {
    let text = error.to_string();
    match error.code() {
        Some("OOM") => StoreError::Full(text),
        Some("MISCONF" | "NOPERM" | "NOAUTH" | "WRONGPASS") => StoreError::Misconfigured(text),
        Some(_) | None
            if matches!(
                error.kind(),
                ::redis::ErrorKind::UnexpectedReturnType | ::redis::ErrorKind::Parse
            ) =>
        {
            StoreError::Corrupt(text)
        }
        Some(_) | None if error.kind() == ::redis::ErrorKind::AuthenticationFailed => {
            StoreError::Misconfigured(text)
        }
        Some(_) | None => StoreError::Unavailable(text),
    }
}
