//! The two stores behind the port of `sundew_core::store`, and the file that one of them shares
//! with the journal.

pub(crate) mod chain_log;
pub mod embedded;
pub(crate) mod measured;
pub mod redis;
mod refusing;
