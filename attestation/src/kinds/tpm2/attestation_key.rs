//! Attestation keys: the documents that register them, and their place in a TPM's hierarchies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::endorsement::{self, Endorsement};
use super::public_area::Public;
use super::{TpmError, decode};
use crate::chain::Roots;
use crate::json;

/// The largest document, in bytes.
const MAX_DOCUMENT: usize = 16 << 10;

/// The document that registers an attestation key, as `sundew trust add tpm2_ak NAME` reads it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RegisteredKey {
    /// The TPM2B_PUBLIC of the key in base64, such as `tpm2_createak -u` writes.
    key: String,
    /// The TPM2B_PUBLIC of the key's parent in base64, such as `tpm2_createek -u` writes. A primary
    /// key has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    /// The hierarchy that the parent, or the key itself, is a primary key of.
    #[serde(default)]
    hierarchy: Hierarchy,
    /// The endorsement key of the TPM that the key was shown to be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endorsement: Option<endorsement::Document>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Hierarchy {
    #[default]
    Endorsement,
    Owner,
}

impl Hierarchy {
    /// Returns the permanent handle (TPM 2.0 Library, part 2, section 7.4).
    fn handle(self) -> [u8; 4] {
        match self {
            Self::Endorsement => 0x4000_000b_u32.to_be_bytes(),
            Self::Owner => 0x4000_0001_u32.to_be_bytes(),
        }
    }
}

/// An attestation key whose quotes are accepted.
#[derive(Clone, Debug)]
pub struct AttestationKey {
    pub(super) public: Public,
    pub(super) qualified_name: Vec<u8>,
    pub(super) endorsement: Option<Endorsement>,
}

impl AttestationKey {
    /// Reads `{"key": …, "parent": …, "hierarchy": "endorsement" | "owner"}`, where the first two
    /// are TPM2B_PUBLIC in base64, and a primary key has no parent.
    ///
    /// # Errors
    /// [`TpmError::NotAttestationKey`] if the key could sign more than quotes; other variants if
    /// the document is malformed.
    pub fn parse(document: &[u8]) -> Result<Self, TpmError> {
        let registered: RegisteredKey = json::read(document, MAX_DOCUMENT)?;
        let public = Public::parse(&decode(&registered.key)?)?;
        if !public.is_attestation_key() {
            return Err(TpmError::NotAttestationKey);
        }
        let parent = registered
            .parent
            .map(|area| Public::parse(&decode(&area)?))
            .transpose()?;
        let handle = registered.hierarchy.handle();
        let qualified_name = match &parent {
            Some(parent) => public.qualified_name(&parent.qualified_name(&handle)),
            None => public.qualified_name(&handle),
        };
        let endorsement = registered
            .endorsement
            .map(|document| {
                let parent = parent.ok_or(TpmError::NotEndorsementKey)?;
                Endorsement::read(&document, parent)
            })
            .transpose()?;
        Ok(Self {
            public,
            qualified_name,
            endorsement,
        })
    }

    /// Makes an attestation key of the TPM2B_PUBLIC of a key and of its parent, which must be the
    /// endorsement key of `certificate`; returns it with the endorsement and the document that
    /// registers both. The caller must not trust the key before the TPM has opened a credential
    /// that was made for it ("credential activation").
    pub fn endorsed(
        key: &[u8],
        parent: &[u8],
        certificate: &[u8],
        intermediates: &[Vec<u8>],
    ) -> Result<(Self, Endorsement, Vec<u8>), TpmError> {
        let endorsement = Endorsement::new(Public::parse(parent)?, certificate, intermediates)?;
        let (key, parent) = (STANDARD.encode(key), STANDARD.encode(parent));
        let registered = RegisteredKey {
            key,
            parent: Some(parent),
            hierarchy: Hierarchy::Endorsement,
            endorsement: Some(endorsement.document()),
        };
        let document = serde_json::to_vec(&registered).map_err(json::JsonError::from)?;
        Ok((Self::parse(&document)?, endorsement, document))
    }

    /// Returns the key's TPM name in bytes, as credentials are made for it.
    #[must_use]
    pub fn name_bytes(&self) -> &[u8] {
        self.public.name()
    }

    /// Returns the endorsement key of the TPM that the key was shown to be in.
    #[must_use]
    pub fn endorsement(&self) -> Option<&Endorsement> {
        self.endorsement.as_ref()
    }

    /// Returns whether this trusted key is `other`, in the same place of the same TPM, and rests on
    /// nothing that these manufacturers do not certify at `now_ms`, in milliseconds since the epoch.
    pub(crate) fn stands_for(&self, other: &Self, manufacturers: &Roots, now_ms: i64) -> bool {
        let ek = |key: &Self| key.endorsement.as_ref().map(|ek| ek.id().to_owned());
        let is_certified = |ek: &Endorsement| ek.verify(manufacturers, now_ms).is_ok();
        self.qualified_name == other.qualified_name
            && ek(self) == ek(other)
            && self.endorsement.as_ref().is_none_or(is_certified)
    }

    /// Returns the key's TPM name in lower-case hexadecimal.
    #[must_use]
    pub fn name(&self) -> String {
        hex::encode(self.public.name())
    }
}
