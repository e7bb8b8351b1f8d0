//! The fields of an attestation report (AMD publication 56860, ATTESTATION_REPORT).

/// The length of a report, in bytes.
const LENGTH: usize = 1184;
/// The length of the signed part, in bytes; the signature follows.
const SIGNED: usize = 0x2A0;

/// The layouts of TCB versions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Layout {
    /// That of Milan and Genoa (family 19h).
    Milan,
    /// That of Turin and later products (family 1Ah), which have a component of their own in front.
    Turin,
}

impl Layout {
    /// Returns whether products of a processor family have this layout.
    pub(super) fn is_of(self, family: u8) -> bool {
        match self {
            Self::Milan => family < 0x1A,
            Self::Turin => family >= 0x1A,
        }
    }
}

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

    /// Returns the processor family, which reports name from version 3 on (CPUID_FAM_ID).
    pub(super) fn family(&self) -> Option<u8> {
        let [family] = *self.bytes::<1>(0x188);
        (self.u32(0) >= 3).then_some(family)
    }

    /// Returns the components of a TCB version (TCB_VERSION) by name, in the order of this layout.
    pub(super) fn tcb(&self, at: usize, layout: Layout) -> Vec<(&'static str, u8)> {
        let [first, second, third, fourth, _, _, seventh, last] = *self.bytes::<8>(at);
        match layout {
            Layout::Milan => vec![
                ("boot_loader", first),
                ("tee", second),
                ("snp", seventh),
                ("microcode", last),
            ],
            Layout::Turin => vec![
                ("fmc", first),
                ("boot_loader", second),
                ("tee", third),
                ("snp", fourth),
                ("microcode", last),
            ],
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
