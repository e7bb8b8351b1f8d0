//! What policies say about an action: Cedar, with the schema of Sundew.
//!
//! The crate upholds P3 and P11: policies only narrow what scopes cover, and a refusal says its
//! grounds to operators only. It has no runtime, no transport, no store and no clock.
//!
//! It must not be shown a purpose, an instruction, or another text that decides nothing: [`Question`]
//! has no room for them (AC-13). Whether a token is alive, bound, and covers the action is decided
//! before, by others.

mod action;
mod compiled;
mod document;
mod schema;

pub use action::{Action, ActionError, AskedBy, Attribute, Kind, Question};
pub use compiled::{Compiled, Decide, Ground, Grounds, Permitted, Refused, SameName};
pub use document::{Document, DocumentError, Version};
pub use schema::{SCHEMA, Schema, SchemaError};
