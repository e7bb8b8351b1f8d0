//! Making a credential that only one TPM can open, and only if a certain key is in it (TPM 2.0
//! Library, part 1, "Credential Protection", and annexes B and C).
//!
//! This covers endorsement keys of the default templates: names and integrity with SHA-256, AES-128
//! in CFB mode.

use aes::Aes128;
use cfb_mode::Encryptor;
use cfb_mode::cipher::KeyIvInit as _;
use num_bigint::BigUint;
use ring::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use sundew_attestation::kinds::tpm2::EndorsementKey;
use zeroize::Zeroizing;

/// Length of a SHA-256 digest, in bytes.
const HASH: usize = 32;
/// The label that seeds are made under.
const LABEL: &[u8] = b"IDENTITY\0";

/// No credential was made: the system's random generator failed, or the key is not usable.
#[derive(Debug, thiserror::Error)]
#[error("no credential can be made for this endorsement key")]
pub(crate) struct NoCredential;

/// A credential, as TPM2_ActivateCredential takes it.
pub(crate) struct Credential {
    /// TPM2B_ID_OBJECT.
    pub(crate) blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub(crate) secret: Vec<u8>,
}

/// Seals `value` for the TPM with this endorsement key, to be opened if it has the key with this
/// name.
pub(crate) fn make_credential(
    key: EndorsementKey<'_>,
    name: &[u8],
    value: &[u8; 32],
) -> Result<Credential, NoCredential> {
    let (seed, secret) = match key {
        EndorsementKey::P256(point) => agreed_seed(point)?,
        EndorsementKey::Rsa(modulus, exponent) => encrypted_seed(modulus, exponent)?,
    };
    let storage = kdf_a(&*seed, b"STORAGE\0", name, 128);
    let mut identity = buffer(&[value]);
    let storage: &[u8; 16] = storage.first_chunk().ok_or(NoCredential)?;
    Encryptor::<Aes128>::new(storage.into(), &[0; 16].into()).encrypt(&mut identity);
    let integrity = hmac::Key::new(hmac::HMAC_SHA256, &kdf_a(&*seed, b"INTEGRITY\0", &[], 256));
    let mut context = hmac::Context::with_key(&integrity);
    context.update(&identity);
    context.update(name);
    let tag = buffer(&[context.sign().as_ref()]);
    Ok(Credential {
        blob: buffer(&[&tag, &identity]),
        secret: buffer(&[&secret]),
    })
}

/// Agrees on a seed with an endorsement key on P-256 (annex C.6.4): answers the seed, which KDFe
/// makes of the agreement, and the ephemeral public key.
fn agreed_seed(point: &[u8]) -> Result<(Zeroizing<[u8; HASH]>, Vec<u8>), NoCredential> {
    let random = SystemRandom::new();
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &random).map_err(|_| NoCredential)?;
    let public = own.compute_public_key().map_err(|_| NoCredential)?;
    let (x, y) = halves(public.as_ref()).ok_or(NoCredential)?;
    let (theirs, _) = halves(point).ok_or(NoCredential)?;
    let seed =
        agreement::agree_ephemeral(own, &UnparsedPublicKey::new(&ECDH_P256, point), |agreed| {
            sha256(&[&1_u32.to_be_bytes(), agreed, LABEL, x, theirs])
        });
    Ok((
        Zeroizing::new(seed.map_err(|_| NoCredential)?),
        [buffer(&[x]), buffer(&[y])].concat(),
    ))
}

fn halves(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, coordinates) = point.split_first()?;
    coordinates.split_at_checked(32)
}

/// Annex B.10.4: a seed under RSAES-OAEP (RFC 8017, section 7.1.1).
fn encrypted_seed(
    modulus: &[u8],
    exponent: u32,
) -> Result<(Zeroizing<[u8; HASH]>, Vec<u8>), NoCredential> {
    if modulus.first().is_none_or(|first| *first == 0) {
        return Err(NoCredential);
    }
    let random = SystemRandom::new();
    let (mut seed, mut salt) = (Zeroizing::new([0; HASH]), [0; HASH]);
    random
        .fill(&mut *seed)
        .and_then(|()| random.fill(&mut salt))
        .map_err(|_| NoCredential)?;
    let block_len = modulus.len().checked_sub(HASH + 1).ok_or(NoCredential)?;
    let zeros = block_len.checked_sub(2 * HASH + 1).ok_or(NoCredential)?;
    let block = Zeroizing::new([&sha256(&[LABEL])[..], &vec![0; zeros], &[1], &*seed].concat());
    let masked = Zeroizing::new(xor(&block, &mask(&salt, block_len)));
    let salt = xor(&salt, &mask(&masked, HASH));
    let message = Zeroizing::new([&[0][..], &salt, &masked].concat());
    let encrypted = BigUint::from_bytes_be(&message)
        .modpow(&BigUint::from(exponent), &BigUint::from_bytes_be(modulus))
        .to_bytes_be();
    let padding = modulus
        .len()
        .checked_sub(encrypted.len())
        .ok_or(NoCredential)?;
    Ok((seed, [vec![0; padding], encrypted].concat()))
}

/// MGF1 (RFC 8017, appendix B.2.1).
fn mask(seed: &[u8], len: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|counter| sha256(&[seed, &counter.to_be_bytes()]))
        .take(len)
        .collect()
}

fn xor(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter()
        .zip(other)
        .map(|(one, other)| one ^ other)
        .collect()
}

/// KDFa (part 1, section 11.4.10.2) for one block, with an empty second context.
fn kdf_a(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in [&1_u32.to_be_bytes(), label, context, &bits.to_be_bytes()] {
        mac.update(part);
    }
    Zeroizing::new(mac.sign().as_ref().to_vec())
}

fn sha256(parts: &[&[u8]]) -> [u8; HASH] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; HASH];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A TPM2B: the length in two bytes, then the parts.
fn buffer(parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], &content].concat()
}
