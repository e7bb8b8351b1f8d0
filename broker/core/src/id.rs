//! Identifiers of tasks, tokens and leases: 128 random or derived bits.
//!
//! An identifier is no credential: whoever knows one can do nothing with it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The error for a text that is not an identifier of the wanted kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a valid identifier")]
pub struct IdParseError;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// Makes an identifier from its 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Returns the 16 bytes of the identifier.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Parses the prefix and 32 lower-case hexadecimal digits.
            ///
            /// # Errors
            ///
            /// [`IdParseError`] for any other spelling.
            pub fn parse(text: &str) -> Result<Self, IdParseError> {
                // An identifier has one spelling, so that texts can be compared instead of it.
                let digits = text
                    .strip_prefix($prefix)
                    .filter(|digits| !digits.bytes().any(|digit| digit.is_ascii_uppercase()))
                    .ok_or(IdParseError)?;
                let mut bytes = [0; 16];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| IdParseError)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // The text is written at once, since identifiers are in every answer and in every
                // record.
                let mut text = [0; $prefix.len() + 32];
                let (prefix, digits) = text.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                hex::encode_to_slice(self.0, digits).map_err(|_| fmt::Error)?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdParseError;
            fn try_from(text: String) -> Result<Self, IdParseError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

identifier!(
    /// The identifier of a task: `task-` and 32 hexadecimal digits.
    TaskId,
    "task-"
);
identifier!(
    /// The identifier of a token: `tok-` and 32 hexadecimal digits, the first half of its hash.
    TokenId,
    "tok-"
);
identifier!(
    /// The identifier of a lease: `lease-` and 32 hexadecimal digits, derived from the task and the
    /// name of the secret.
    LeaseId,
    "lease-"
);
identifier!(
    /// The identifier of an order: `order-` and 32 hexadecimal digits, which are those of the one task
    /// that the order is for.
    OrderId,
    "order-"
);

impl OrderId {
    /// Returns the order that a task comes of, if it comes of one.
    #[must_use]
    pub fn of_task(task: TaskId) -> Self {
        Self(task.0)
    }

    /// Returns the one task that the order is for. Whatever ends this task before it has begun ends
    /// the order (P4).
    #[must_use]
    pub fn task(&self) -> TaskId {
        TaskId(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_one_spelling() {
        let text = "task-00112233445566778899aabbccddeeff";
        let id = TaskId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), text);
        for bad in [
            "",
            "task-",
            "tok-00112233445566778899aabbccddeeff",
            "task-00112233445566778899AABBCCDDEEFF",
            "task-00112233445566778899aabbccddeef",
            "task-00112233445566778899aabbccddeeff0",
            "task-00112233445566778899aabbccddeefg",
            "task-+0112233445566778899aabbccddeeff",
        ] {
            assert_eq!(TaskId::parse(bad), Err(IdParseError), "{bad}");
        }
    }
}
