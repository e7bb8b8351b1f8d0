//! Why a broker did not start.

use std::fmt::Display;

/// Why a broker did not start: the part that failed, and a cause that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{part}: {cause}")]
pub struct StartError {
    part: String,
    cause: String,
}

/// Makes a cause the reason why a part of the broker did not start.
pub(super) fn during<E: Display>(part: &str) -> impl Fn(E) -> StartError + use<E> {
    let part = part.to_owned();
    move |cause| StartError {
        part: part.clone(),
        cause: cause.to_string(),
    }
}
