//! The two stores behind the port of `sundew_core::store`.

pub mod embedded;
pub mod redis;
