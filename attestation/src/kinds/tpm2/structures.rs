//! TPM structures from hostile hands (TCG "Trusted Platform Module Library", part 2): read whole,
//! big-endian, nothing left over.

use ring::digest::{self, Algorithm};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use super::TpmError;

/// Most PCRs of a bank.
const MAX_PCR: usize = 24;
/// Longest TPM2B that is taken, in bytes.
const MAX_BUFFER: usize = 1024;

/// What `TPM_GENERATED_VALUE` is: no key lets a caller sign bytes that begin with it, restricted
/// keys sign nothing else.
const MAGIC: u32 = 0xff54_4347;
const ATTEST_QUOTE: u16 = 0x8018;

const RSA: u16 = 0x0001;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;
const RSASSA: u16 = 0x0014;
const RSAPSS: u16 = 0x0016;
const ECDSA: u16 = 0x0018;
const ECC: u16 = 0x0023;
pub(super) const P256: u16 = 0x0003;
const P384: u16 = 0x0004;

const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// A hash algorithm that is taken. SHA-1 is not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hash {
    /// `TPM_ALG_SHA256`.
    Sha256,
    /// `TPM_ALG_SHA384`.
    Sha384,
    /// `TPM_ALG_SHA512`.
    Sha512,
}

impl Hash {
    /// By its TPM algorithm id.
    pub(super) fn of(id: u16) -> Option<Self> {
        match id {
            0x000b => Some(Self::Sha256),
            0x000c => Some(Self::Sha384),
            0x000d => Some(Self::Sha512),
            _ => None,
        }
    }

    fn id(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    pub(super) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// The name that claims have for the bank.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    pub(super) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(self.algorithm());
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }
}

/// Reads a structure from its front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], TpmError> {
        let (front, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(TpmError::Malformed("cut short"))?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], TpmError> {
        let (front, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(TpmError::Malformed("cut short"))?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn u16(&mut self) -> Result<u16, TpmError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TpmError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, TpmError> {
        self.array().map(u64::from_be_bytes)
    }

    fn buffer(&mut self) -> Result<&'a [u8], TpmError> {
        let length = usize::from(self.u16()?);
        if length > MAX_BUFFER {
            return Err(TpmError::Malformed("buffer too long"));
        }
        self.take(length)
    }

    pub(super) fn end(&self) -> Result<(), TpmError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(TpmError::Malformed("trailing bytes"))
        }
    }
}

/// A public area: TPM2B_PUBLIC, as tpm2-tools write it.
#[derive(Clone, Debug)]
pub struct Public {
    name: Vec<u8>,
    name_hash: Hash,
    attributes: u32,
    /// Algorithm, bits and mode of a storage key's cipher.
    cipher: Option<[u16; 3]>,
    key: Key,
}

#[derive(Clone, Debug)]
pub(super) enum Key {
    Rsa { modulus: Vec<u8>, exponent: u32 },
    Ecc { curve: u16, point: Vec<u8> },
}

impl Public {
    /// Reads a TPM2B_PUBLIC.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut outer = Reader(bytes);
        let area = outer.buffer()?;
        outer.end()?;
        let mut reader = Reader(area);
        let kind = reader.u16()?;
        let name_hash = Hash::of(reader.u16()?).ok_or(TpmError::Malformed("name algorithm"))?;
        let attributes = reader.u32()?;
        reader.buffer()?;
        let cipher = match reader.u16()? {
            NULL => None,
            algorithm => Some([algorithm, reader.u16()?, reader.u16()?]),
        };
        if reader.u16()? != NULL {
            // Of the scheme: its hash.
            reader.take(2)?;
        }
        let key = match kind {
            RSA => {
                reader.take(2)?;
                let exponent = match reader.u32()? {
                    0 => 65537,
                    other => other,
                };
                Key::Rsa {
                    exponent,
                    modulus: reader.buffer()?.to_vec(),
                }
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

    /// Its name: the algorithm's id and the digest of the public area.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether it never leaves its TPM, was made there, and signs only what the TPM itself has
    /// made.
    #[must_use]
    pub fn is_attestation_key(&self) -> bool {
        let needed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN;
        self.attributes & needed == needed && self.attributes & DECRYPT == 0
    }

    /// Whether it is an endorsement key of the default templates of 2048-bit RSA or P-256 (TCG EK
    /// Credential Profile, annex B): it never leaves its TPM, and decrypts only what the TPM
    /// itself makes sense of.
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

    /// Its qualified name below a parent with this one; a hierarchy's is its handle.
    #[must_use]
    pub fn qualified_name(&self, parent: &[u8]) -> Vec<u8> {
        let mut out = self.name_hash.id().to_be_bytes().to_vec();
        out.extend(self.name_hash.digest(&[parent, &self.name]));
        out
    }

    /// Checks a TPMT_SIGNATURE over a message; answers the hash that it was made with.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<Hash, TpmError> {
        let mut reader = Reader(signature);
        let scheme = reader.u16()?;
        let hash = Hash::of(reader.u16()?).ok_or(TpmError::Malformed("signature hash"))?;
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
                let exponent = exponent.to_be_bytes();
                let leading = exponent.iter().take_while(|byte| **byte == 0).count();
                let key = signature::RsaPublicKeyComponents {
                    n: modulus.as_slice(),
                    e: exponent.get(leading..).unwrap_or_default(),
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

fn padded(number: &[u8], size: usize) -> Result<Vec<u8>, TpmError> {
    let zeros = size
        .checked_sub(number.len())
        .ok_or(TpmError::Malformed("number too long"))?;
    let mut out = vec![0; zeros];
    out.extend_from_slice(number);
    Ok(out)
}

/// A quote: TPMS_ATTEST of type `TPM_ST_ATTEST_QUOTE`.
#[derive(Debug)]
pub(super) struct Quote<'a> {
    pub(super) signer: &'a [u8],
    pub(super) extra_data: &'a [u8],
    pub(super) clock_ms: u64,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    pub(super) safe: bool,
    pub(super) firmware_version: u64,
    pub(super) bank: Hash,
    /// Indexes of the PCRs, ascending.
    pub(super) selection: Vec<usize>,
    pub(super) pcr_digest: &'a [u8],
}

impl<'a> Quote<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, TpmError> {
        let mut reader = Reader(bytes);
        if reader.u32()? != MAGIC || reader.u16()? != ATTEST_QUOTE {
            return Err(TpmError::Malformed("not a quote"));
        }
        let (signer, extra_data) = (reader.buffer()?, reader.buffer()?);
        let (clock_ms, reset_count, restart_count) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let safe = match reader.array::<1>()? {
            [0] => false,
            [1] => true,
            _ => return Err(TpmError::Malformed("clock")),
        };
        let firmware_version = reader.u64()?;
        // One bank only: what is quoted of several could be taken for each other.
        if reader.u32()? != 1 {
            return Err(TpmError::Selection);
        }
        let bank = Hash::of(reader.u16()?).ok_or(TpmError::Selection)?;
        let [length] = reader.array::<1>()?;
        let bits = reader.take(usize::from(length))?;
        let chosen = |index: &usize| {
            bits.get(index / 8)
                .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
        };
        let selection: Vec<usize> = (0..bits.len().saturating_mul(8)).filter(chosen).collect();
        if selection.is_empty() || selection.iter().any(|index| *index >= MAX_PCR) {
            return Err(TpmError::Selection);
        }
        let pcr_digest = reader.buffer()?;
        reader.end()?;
        Ok(Self {
            signer,
            extra_data,
            clock_ms,
            reset_count,
            restart_count,
            safe,
            firmware_version,
            bank,
            selection,
            pcr_digest,
        })
    }
}
