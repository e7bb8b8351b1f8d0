//! The bytes of a file: a header, and records that each carry a hash over all before them.

use ring::digest;

use super::ChainHash;

/// The first bytes of every file: a name and the format's number.
pub(super) const MAGIC: &[u8; 12] = b"SUNDEW-LOG\x00\x01";
/// The length of the header, in bytes.
pub(super) const HEADER: usize = 44;

/// Appends a record, as the file has it, to `out`. `hash` is the hash of the record before and
/// becomes the hash of this one.
pub(super) fn frame(hash: &mut ChainHash, payload: &[u8], out: &mut Vec<u8>) {
    *hash = chain(hash, payload);
    out.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(payload);
    out.extend_from_slice(hash);
}

/// Returns the hash of a record after the one with the hash `previous`.
pub(super) fn chain(previous: &ChainHash, payload: &[u8]) -> ChainHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(previous);
    context.update(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    context.update(payload);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
