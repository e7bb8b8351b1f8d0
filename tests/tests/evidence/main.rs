//! Evidence under keys of the tests' own, for what no recording shows: AC-05, T27, T28, T30, T32,
//! and composition.

mod composition;
mod local_user;
mod node;
mod platforms;
