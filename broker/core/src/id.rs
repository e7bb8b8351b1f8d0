//! Names of tasks and tokens: 128 random or derived bits. Names, not credentials.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a string is not an identifier of that kind.
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
            /// From its 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its 16 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Parses the prefix and 32 lower-case hexadecimal digits; no other spelling.
            pub fn parse(text: &str) -> Result<Self, IdParseError> {
                let digits = text.strip_prefix($prefix).filter(|d| d.len() == 32).ok_or(IdParseError)?;
                let mut bytes = [0; 16];
                for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
                    *byte = match pair {
                        [high, low] => nibble(*high)? << 4 | nibble(*low)?,
                        _ => return Err(IdParseError),
                    };
                }
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Written at once: names are on every answer and in every record.
                let mut text = [0; $prefix.len() + 32];
                let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).map(|nibble| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble });
                text.iter_mut().zip($prefix.bytes().chain(digits)).for_each(|(to, from)| *to = from);
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
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
    /// Names a task: `task-` and 32 hexadecimal digits.
    TaskId,
    "task-"
);
identifier!(
    /// Names a token: `tok-` and 32 hexadecimal digits, the first half of its hash.
    TokenId,
    "tok-"
);

identifier!(
    /// Names a lease: `lease-` and 32 hexadecimal digits, derived from task and secret.
    LeaseId,
    "lease-"
);

fn nibble(digit: u8) -> Result<u8, IdParseError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(IdParseError),
    }
}
