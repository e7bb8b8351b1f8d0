//! Shows that an attestation key is in the TPM that a maker has certified (TCG "Trusted Platform
//! Module Library", part 1, "Credential Protection").

use std::path::Path;

use super::TpmError;
use super::device::{
    NO_SESSIONS, NULL, PASSWORD, READ_PUBLIC, SESSIONS, SHA256, Tpm, array, authorized, buffer,
    sized, take,
};

const ACTIVATE_CREDENTIAL: u32 = 0x0000_0147;
const FLUSH_CONTEXT: u32 = 0x0000_0165;
const NV_READ: u32 = 0x0000_014e;
const NV_READ_PUBLIC: u32 = 0x0000_0169;
const POLICY_SECRET: u32 = 0x0000_0151;
const START_AUTH_SESSION: u32 = 0x0000_0176;

const ENDORSEMENT: [u8; 4] = 0x4000_000b_u32.to_be_bytes();
const NOTHING: [u8; 4] = 0x4000_0007_u32.to_be_bytes();
const POLICY_SESSION: u8 = 1;
const RSA: u16 = 0x0001;
/// The indices of the certificates of the default keys (TCG EK Credential Profile, section 2.2.1.4).
const RSA_CERTIFICATE: u32 = 0x01c0_0002;
const P256_CERTIFICATE: u32 = 0x01c0_000a;
/// The length that every TPM reads at once, in bytes.
const CHUNK: u16 = 512;

/// An attestation key and the endorsement key that it is below, with the certificate that the TPM's
/// maker has put into it.
#[derive(Clone, Debug)]
pub struct TpmKey {
    /// TPM2B_PUBLIC of the attestation key.
    pub attestation_key: Vec<u8>,
    /// TPM2B_PUBLIC of the endorsement key.
    pub endorsement_key: Vec<u8>,
    /// Certificate of the endorsement key in DER, if the TPM has one.
    pub certificate: Option<Vec<u8>>,
}

impl TpmKey {
    /// Reads the public areas of the keys at these persistent handles from the TPM at `device`.
    pub fn read(device: &Path, key: u32, endorsement_key: u32) -> Result<Self, TpmError> {
        let attestation_key = public_area(&mut Tpm::open(device, key)?, key)?;
        let mut tpm = Tpm::open(device, endorsement_key)?;
        let endorsement_key = public_area(&mut tpm, endorsement_key)?;
        let is_rsa = endorsement_key.get(2..4) == Some(&RSA.to_be_bytes());
        let certificate = read_nv(
            &mut tpm,
            if is_rsa {
                RSA_CERTIFICATE
            } else {
                P256_CERTIFICATE
            },
        )
        .ok();
        Ok(Self {
            attestation_key,
            endorsement_key,
            certificate,
        })
    }

    /// Lets the TPM open a credential (`credential` is a TPM2B_ID_OBJECT, `secret` a
    /// TPM2B_ENCRYPTED_SECRET), and returns the value in it.
    pub fn open(
        device: &Path,
        key: u32,
        endorsement_key: u32,
        credential: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let mut tpm = Tpm::open(device, endorsement_key)?;
        // The default policy of endorsement keys: whoever knows the hierarchy's password, which is
        // empty.
        let mut command = [NOTHING, NOTHING].concat();
        command.extend(sized(&[0; 16]));
        command.extend(sized(&[]));
        command.push(POLICY_SESSION);
        command.extend(NULL.to_be_bytes());
        command.extend(SHA256.to_be_bytes());
        let session = array::<4>(&mut tpm.run(NO_SESSIONS, START_AUTH_SESSION, &command)?)?;
        let opened = open_in(&mut tpm, session, key, endorsement_key, credential, secret);
        if opened.is_err() {
            // A session that was used ends by itself.
            let _ = tpm.run(NO_SESSIONS, FLUSH_CONTEXT, &session);
        }
        opened
    }
}

fn open_in(
    tpm: &mut Tpm,
    session: [u8; 4],
    key: u32,
    endorsement_key: u32,
    credential: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let mut command = [ENDORSEMENT, session].concat();
    command.extend(authorized(&[&PASSWORD])?);
    for _ in 0..3 {
        // Nonce, parameters' digest and policy reference.
        command.extend(sized(&[]));
    }
    command.extend(0_i32.to_be_bytes());
    tpm.run(SESSIONS, POLICY_SECRET, &command)?;

    let mut policy = session.to_vec();
    policy.extend([0; 5]);
    let mut command = [key.to_be_bytes(), endorsement_key.to_be_bytes()].concat();
    command.extend(authorized(&[&PASSWORD, &policy])?);
    command.extend(credential);
    command.extend(secret);
    let mut answer = tpm.run(SESSIONS, ACTIVATE_CREDENTIAL, &command)?;
    take(&mut answer, 4)?;
    buffer(&mut answer)
}

fn public_area(tpm: &mut Tpm, handle: u32) -> Result<Vec<u8>, TpmError> {
    Ok(sized(&buffer(&mut tpm.run(
        NO_SESSIONS,
        READ_PUBLIC,
        &handle.to_be_bytes(),
    )?)?))
}

/// Reads an index that its own empty password opens, and returns the DER structure at its start.
fn read_nv(tpm: &mut Tpm, index: u32) -> Result<Vec<u8>, TpmError> {
    let mut public = buffer(&mut tpm.run(NO_SESSIONS, NV_READ_PUBLIC, &index.to_be_bytes())?)?;
    let length = public.len().checked_sub(2).ok_or(TpmError::CutShort)?;
    take(&mut public, length)?;
    let size = u16::from_be_bytes(array(&mut public)?);
    let mut content = Vec::new();
    for offset in (0..size).step_by(usize::from(CHUNK)) {
        let mut command = [index.to_be_bytes(), index.to_be_bytes()].concat();
        command.extend(authorized(&[&PASSWORD])?);
        command.extend(CHUNK.min(size.saturating_sub(offset)).to_be_bytes());
        command.extend(offset.to_be_bytes());
        let mut answer = tpm.run(SESSIONS, NV_READ, &command)?;
        take(&mut answer, 4)?;
        content.extend(buffer(&mut answer)?);
    }
    match content.get(..4) {
        Some([0x30, 0x82, high, low]) => {
            content.truncate(usize::from(u16::from_be_bytes([*high, *low])).saturating_add(4))
        }
        _ => return Err(TpmError::NoCertificate),
    }
    Ok(content)
}
