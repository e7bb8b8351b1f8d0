//! Public areas of TPM keys (TCG "Trusted Platform Module Library", part 2, section 12.2) and the
//! signatures that they verify (section 11.3).

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use super::TpmError;
use super::hash::Hash;
use super::reader::{Reader, padded};
use crate::rsa::{is_roca, stripped};

const RSA: u16 = 0x0001;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;
const RSASSA: u16 = 0x0014;
const RSAPSS: u16 = 0x0016;
const ECDSA: u16 = 0x0018;
const ECC: u16 = 0x0023;
const P256: u16 = 0x0003;
const P384: u16 = 0x0004;

const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// The public area of a key (TPM2B_PUBLIC), as tpm2-tools write it.
#[derive(Clone, Debug)]
pub struct Public {
    name: Vec<u8>,
    name_hash: Hash,
    attributes: u32,
    /// The algorithm, key bits and mode of a storage key's symmetric cipher.
    cipher: Option<[u16; 3]>,
    key: Key,
}

#[derive(Clone, Debug)]
pub(super) enum Key {
    Ecc { curve: u16, point: Vec<u8> },
    Rsa { modulus: Vec<u8>, exponent: u32 },
}

impl Public {
    /// Reads a TPM2B_PUBLIC of a P-256, P-384 or RSA key; fails if it is malformed, if bytes are
    /// left over, or if the key is a broken one.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut outer = Reader(bytes);
        let area = outer.buffer()?;
        outer.end()?;
        let mut reader = Reader(area);
        let kind = reader.u16()?;
        let name_hash =
            Hash::from_id(reader.u16()?).ok_or(TpmError::Malformed("name algorithm"))?;
        let attributes = reader.u32()?;
        reader.buffer()?;
        let cipher = match reader.u16()? {
            NULL => None,
            algorithm => Some([algorithm, reader.u16()?, reader.u16()?]),
        };
        if reader.u16()? != NULL {
            // A scheme is followed by its hash, which each signature names again.
            reader.take(2)?;
        }
        let key = match kind {
            RSA => {
                reader.take(2)?;
                let exponent = match reader.u32()? {
                    0 => 65537,
                    other => other,
                };
                let modulus = reader.buffer()?.to_vec();
                if is_roca(&modulus) {
                    return Err(TpmError::BrokenKey);
                }
                Key::Rsa { modulus, exponent }
            }
            ECC => {
                let curve = reader.u16()?;
                if reader.u16()? != NULL {
                    reader.take(2)?;
                }
                let size = match curve {
                    P256 => 32,
                    P384 => 48,
                    _ => return Err(TpmError::Malformed("curve")),
                };
                let mut point = vec![4];
                point.extend(padded(reader.buffer()?, size)?);
                point.extend(padded(reader.buffer()?, size)?);
                Key::Ecc { curve, point }
            }
            _ => return Err(TpmError::Malformed("key type")),
        };
        reader.end()?;
        let mut name = name_hash.id().to_be_bytes().to_vec();
        name.extend(name_hash.digest(&[area]));
        Ok(Self {
            name,
            name_hash,
            attributes,
            cipher,
            key,
        })
    }

    /// Returns the key's name: the id of its name algorithm and the digest of the public area (TPM
    /// 2.0 Library, part 1, section 16).
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Returns whether the key was made in its TPM, never leaves it, and signs only structures that
    /// the TPM itself has made.
    #[must_use]
    pub fn is_attestation_key(&self) -> bool {
        let needed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN;
        self.attributes & needed == needed && self.attributes & DECRYPT == 0
    }

    /// Returns whether the key has a default template for endorsement keys of 2048-bit RSA or P-256
    /// (TCG EK Credential Profile, annex B): it never leaves its TPM, and decrypts only structures
    /// that the TPM itself interprets.
    pub(super) fn is_endorsement_key(&self) -> bool {
        let needed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT;
        let fits = match &self.key {
            Key::Rsa { modulus, .. } => modulus.len() >= 256,
            Key::Ecc { curve, .. } => *curve == P256,
        };
        fits && self.attributes & needed == needed
            && self.attributes & SIGN == 0
            && self.name_hash == Hash::Sha256
            && self.cipher == Some([AES, 128, CFB])
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the key's qualified name below a parent with the given qualified name; that of a
    /// hierarchy is its handle.
    #[must_use]
    pub fn qualified_name(&self, parent: &[u8]) -> Vec<u8> {
        let mut out = self.name_hash.id().to_be_bytes().to_vec();
        out.extend(self.name_hash.digest(&[parent, &self.name]));
        out
    }

    /// Verifies a TPMT_SIGNATURE over a message; returns the hash algorithm that it was made with.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<Hash, TpmError> {
        let mut reader = Reader(signature);
        let scheme = reader.u16()?;
        let hash = Hash::from_id(reader.u16()?).ok_or(TpmError::Malformed("signature hash"))?;
        let verified = match (&self.key, scheme) {
            (Key::Rsa { modulus, exponent }, RSASSA | RSAPSS) => {
                let parameters = match (scheme, hash) {
                    (RSASSA, Hash::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
                    (RSASSA, Hash::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
                    (RSASSA, Hash::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
                    (_, Hash::Sha256) => &signature::RSA_PSS_2048_8192_SHA256,
                    (_, Hash::Sha384) => &signature::RSA_PSS_2048_8192_SHA384,
                    (_, Hash::Sha512) => &signature::RSA_PSS_2048_8192_SHA512,
                };
                // ring takes no leading zeros.
                let exponent = exponent.to_be_bytes();
                let key = signature::RsaPublicKeyComponents {
                    n: stripped(modulus),
                    e: stripped(&exponent),
                };
                key.verify(parameters, message, reader.buffer()?)
            }
            (Key::Ecc { curve, point }, ECDSA) => {
                let (algorithm, size): (&dyn VerificationAlgorithm, _) = match (*curve, hash) {
                    (P256, Hash::Sha256) => (&signature::ECDSA_P256_SHA256_FIXED, 32),
                    (P384, Hash::Sha384) => (&signature::ECDSA_P384_SHA384_FIXED, 48),
                    _ => return Err(TpmError::Malformed("curve and hash")),
                };
                let mut fixed = padded(reader.buffer()?, size)?;
                fixed.extend(padded(reader.buffer()?, size)?);
                UnparsedPublicKey::new(algorithm, point).verify(message, &fixed)
            }
            _ => return Err(TpmError::Malformed("signature scheme")),
        };
        reader.end()?;
        verified.map_err(|_| TpmError::Signature)?;
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rsa::roca_modulus;

    #[test]
    fn e13_a_key_that_its_chip_made_badly_is_refused() {
        let area = |modulus: &[u8]| {
            let sized = |bytes: &[u8]| {
                let length = u16::try_from(bytes.len()).unwrap();
                [&length.to_be_bytes()[..], bytes].concat()
            };
            let words = [RSA, 0x000b, 0x0005, 0x0072, 0, NULL, NULL, 2048, 0, 0];
            let words = words.iter().flat_map(|word: &u16| word.to_be_bytes());
            let area: Vec<u8> = words.chain(sized(modulus)).collect();
            sized(&area)
        };
        let mut other = roca_modulus();
        assert!(matches!(
            Public::parse(&area(&other)),
            Err(TpmError::BrokenKey)
        ));
        other[200] ^= 0x5a;
        assert!(Public::parse(&area(&other)).unwrap().is_attestation_key());
    }
}
