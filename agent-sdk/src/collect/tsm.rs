//! `sev_snp` and `tdx`: a report of the guest that this runs in, from the kernel's `configfs-tsm`
//! (Linux 6.7, Documentation/ABI/testing/ configfs-tsm).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_core::client::sev_snp;

use super::{CollectError, Collected, Collector, Context};

/// The kernel's folder of reports.
const FOLDER: &str = "/sys/kernel/config/tsm/report";
/// GUIDs of the certificate table (AMD publication 56421, "SEV-ES Guest-Hypervisor Communication
/// Block Standardization") as they lie in it: in the order of RFC 4122, section 4.1.2.
const VCEK: [u8; 16] = [
    0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd,
];
const VLEK: [u8; 16] = [
    0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1,
];

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A kind of confidential guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TsmKind {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
}

/// Collects reports of the guest that this process runs in.
#[derive(Clone, Debug)]
pub struct TsmCollector {
    kind: TsmKind,
    certificate: Option<PathBuf>,
}

impl TsmCollector {
    /// Collects reports of this kind of guest.
    #[must_use]
    pub fn new(kind: TsmKind) -> Self {
        Self {
            kind,
            certificate: None,
        }
    }

    /// Sends the VCEK or VLEK in this file (DER), for hosts that do not hand one out with the
    /// report.
    #[must_use]
    pub fn certificate(mut self, path: &Path) -> Self {
        self.certificate = Some(path.to_owned());
        self
    }

    fn report(&self, data: &[u8; 64]) -> Result<Vec<u8>, CollectError> {
        let folder = Path::new(FOLDER).join(format!(
            "sundew-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let fail = CollectError::file(&folder);
        if !Path::new(FOLDER).exists() {
            return Err(CollectError::NoGuest(FOLDER));
        }
        std::fs::create_dir(&folder).map_err(&fail)?;
        let read = || {
            std::fs::write(folder.join("inblob"), data)?;
            let provider = std::fs::read_to_string(folder.join("provider"))?;
            let report = std::fs::read(folder.join("outblob"))?;
            Ok((
                provider,
                report,
                std::fs::read(folder.join("auxblob")).unwrap_or_default(),
            ))
        };
        let got = read().map_err(&fail);
        let _ = std::fs::remove_dir(&folder);
        let (provider, report, certificates) = got?;
        let expected = match self.kind {
            TsmKind::SevSnp => "sev_guest",
            TsmKind::Tdx => "tdx_guest",
        };
        if provider.trim() != expected {
            return Err(CollectError::Provider {
                found: provider.trim().to_owned(),
                expected,
            });
        }
        match self.kind {
            TsmKind::Tdx => Ok(report),
            TsmKind::SevSnp => {
                let certificate = match &self.certificate {
                    Some(path) => std::fs::read(path).map_err(CollectError::file(path))?,
                    None => in_table(&certificates).ok_or(CollectError::NoCertificate)?,
                };
                let evidence = sev_snp::Evidence {
                    report: STANDARD.encode(report),
                    certificate: STANDARD.encode(certificate),
                };
                Ok(serde_json::to_vec(&evidence)?)
            }
        }
    }
}

impl Collector for TsmCollector {
    fn kind(&self) -> &str {
        match self.kind {
            TsmKind::SevSnp => "sev_snp",
            TsmKind::Tdx => "tdx",
        }
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        let (this, data) = (self.clone(), context.binding.wide());
        Box::pin(async move { tokio::task::spawn_blocking(move || this.report(&data)).await? })
    }
}

/// Returns the certificate of the VCEK or VLEK in the host's table, whose entries are GUID, offset
/// and length, little-endian.
fn in_table(table: &[u8]) -> Option<Vec<u8>> {
    for entry in table.chunks_exact(24) {
        let (guid, rest) = entry.split_first_chunk::<16>()?;
        if *guid == [0; 16] {
            return None;
        }
        let (offset, length) = rest.split_first_chunk::<4>()?;
        let (offset, length) = (
            u32::from_le_bytes(*offset),
            u32::from_le_bytes(length.try_into().ok()?),
        );
        if *guid == VCEK || *guid == VLEK {
            let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
            return table
                .get(offset..offset.checked_add(length)?)
                .map(<[u8]>::to_vec);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a table as a host hands it out: the entries, one of zeros, and then the certificates.
    fn table(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut head, mut certificates) = (Vec::new(), Vec::new());
        let start = (entries.len() + 1) * 24;
        for (guid, certificate) in entries {
            let digits: String = guid.chars().filter(|c| *c != '-').collect();
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
            head.extend((0..digits.len()).step_by(2).map(byte));
            let place = u32::try_from(start + certificates.len()).expect("small");
            head.extend(place.to_le_bytes());
            let length = u32::try_from(certificate.len()).expect("small");
            head.extend(length.to_le_bytes());
            certificates.extend_from_slice(certificate);
        }
        head.extend([0; 24]);
        head.extend(certificates);
        // Hosts fill the page.
        head.resize(head.len().next_multiple_of(4096), 0);
        head
    }

    const ARK: &str = "c0b406a4-a803-4952-9743-3fb6014cd0ae";
    const ASK: &str = "4ab7b379-bbac-4fe4-a02f-05aef327c782";
    const CRL: &str = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea";
    const OF_CHIP: &str = "63da758d-e664-4564-adc5-f4b93be8accd";
    const OF_HOST: &str = "a8074bc2-a25a-483e-aae6-39c045a0b8a1";

    #[test]
    fn e5_the_key_of_the_chip_or_of_the_host_is_found_in_the_table() {
        for guid in [OF_CHIP, OF_HOST] {
            let table = table(&[
                (ARK, b"root"),
                (ASK, b"intermediate"),
                (CRL, b"list"),
                (guid, b"the certificate"),
            ]);
            assert_eq!(in_table(&table).as_deref(), Some(&b"the certificate"[..]));
        }
    }

    #[test]
    fn a_table_without_such_a_key_or_with_a_wrong_place_has_none() {
        assert_eq!(
            in_table(&table(&[(ARK, b"root"), (ASK, b"intermediate")])),
            None
        );
        assert_eq!(in_table(&[]), None);
        let mut wrong = table(&[(OF_CHIP, b"the certificate")]);
        wrong[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(in_table(&wrong), None);
        // What comes after the last entry is no entry.
        let mut after = table(&[(ARK, b"root")]);
        after.truncate(48);
        after.extend(table(&[(OF_CHIP, b"x")]));
        assert_eq!(in_table(&after), None);
    }
}
