//! Folders with an SVID: svid.pem, key.pem and bundle.pem.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;
use sundew_core::client::pem;

/// Writes svid.pem, key.pem and bundle.pem into a folder, which is made if it is not there.
///
/// The key goes first and the certificate last: a reader that looks in between sees a pair that
/// does not fit, and keeps its old pair.
pub(crate) fn write_svid(
    folder: &Path,
    chain: &[CertificateDer<'_>],
    key: &[u8],
    bundle: &[CertificateDer<'_>],
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let all = |certificates: &[CertificateDer<'_>]| {
        certificates
            .iter()
            .map(|c| pem("CERTIFICATE", c))
            .collect::<String>()
    };
    replace(&folder.join("key.pem"), &pem("PRIVATE KEY", key), 0o600)?;
    replace(&folder.join("bundle.pem"), &all(bundle), 0o644)?;
    replace(&folder.join("svid.pem"), &all(chain), 0o644)
}

/// Replaces a file in one step: a reader sees the old content or the new, and never a part.
fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .with_context(|| fresh.display().to_string())?;
    file.write_all(text.as_bytes())?;
    fs::rename(&fresh, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::CertificateDer;

    use super::write_svid;

    #[test]
    fn the_key_of_an_svid_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let certificate = CertificateDer::from(vec![1, 2, 3]);
        let chain = [certificate.clone(), certificate.clone()];
        write_svid(&folder, &chain, b"key", &[certificate]).unwrap();
        let mode = |name: &str| {
            let metadata = std::fs::metadata(folder.join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!(mode("key.pem"), 0o600);
        let chain = std::fs::read_to_string(folder.join("svid.pem")).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
    }
}
