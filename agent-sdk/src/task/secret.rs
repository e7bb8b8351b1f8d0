//! A stored secret that a task has read.

use std::fmt;

use sundew_core::client::SecretBytes;

/// A secret's value. `Debug` shows nothing of it (P9), and the bytes are wiped when it is dropped.
pub struct Secret(pub(crate) SecretBytes);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Returns the value's bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Returns the value as text, or nothing if it is not UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(self.0.expose()).ok()
    }
}
