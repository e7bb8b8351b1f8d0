//! The key that the presenter of a token must hold.

use serde::{Deserialize, Serialize};

/// The proof of possession that the presenter of a token must give.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenBinding {
    /// No proof is needed: whoever has the token can use it. The registration must allow this.
    Bearer,
    /// The presenter must hold the key of the certificate that the token was minted for: that of the
    /// SVID, or one that was shown.
    Certificate,
}

impl TokenBinding {
    /// Returns the word that records and the command line use for this binding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Certificate => "certificate",
        }
    }
}
