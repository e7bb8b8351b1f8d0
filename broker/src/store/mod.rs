//! The two stores behind the port of `sundew_core::store`.

pub(crate) mod chain_log;
pub mod embedded;
pub mod redis;
