//! The fields of an attestation report (AMD publication 56860, ATTESTATION_REPORT).

/// The length of a report, in bytes.
const LENGTH: usize = 1184;
/// The length of the signed part, in bytes; the signature follows.
const SIGNED: usize = 0x2A0;

/// An attestation report. The offsets are those of ATTESTATION_REPORT.
pub(super) struct Report<'a>(&'a [u8; LENGTH]);

impl<'a> Report<'a> {
    /// Takes the bytes as a report; `None` if their number is not 1184.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the bytes that the signature covers.
    pub(super) fn signed(&self) -> &'a [u8] {
        self.0.split_at(SIGNED).0
    }

    /// Returns the bytes of a field. The offset is a constant of the specification.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> &'a [u8; N] {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .unwrap_or(&[0; N])
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.bytes(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes(at))
    }

    /// Returns the four components of a TCB version (TCB_VERSION) by name. Turin and later products
    /// (family 1Ah) have another order, with a component of their own in front.
    pub(super) fn tcb(&self, at: usize) -> [(&'static str, u8); 4] {
        let [first, second, third, fourth, _, _, snp, microcode] = *self.bytes::<8>(at);
        let [family] = *self.bytes::<1>(0x188);
        if self.u32(0) >= 3 && family >= 0x1A {
            [
                ("fmc", first),
                ("boot_loader", second),
                ("tee", third),
                ("snp", fourth),
            ]
        } else {
            [
                ("boot_loader", first),
                ("tee", second),
                ("snp", snp),
                ("microcode", microcode),
            ]
        }
    }

    /// Returns R and S of the signature, big-endian in 48 bytes each. The report has them
    /// little-endian in 72 bytes each; `None` if the bytes beyond 48 are not zero.
    pub(super) fn signature(&self) -> Option<[u8; 96]> {
        let mut out = [0; 96];
        for (half, at) in out.chunks_exact_mut(48).zip([SIGNED, SIGNED + 72]) {
            let number = self.bytes::<72>(at);
            let (low, high) = number.split_at(48);
            if high.iter().any(|byte| *byte != 0) {
                return None;
            }
            for (to, from) in half.iter_mut().rev().zip(low) {
                *to = *from;
            }
        }
        Some(out)
    }
}
