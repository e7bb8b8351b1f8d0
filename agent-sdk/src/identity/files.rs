//! An SVID and its bundle in files of one folder, which are read again every second.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sundew_core::client::{BundleSet, TrustBundle, read_secret_file, spiffe_id_of};

use super::{Found, IdentitySource, Publisher, Svid, SvidError};
use crate::error::Error;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows the files of a folder.
pub(super) fn follow(folder: PathBuf) -> Result<IdentitySource, Error> {
    let (publisher, source) = Publisher::begin(read(&folder))?;
    tokio::spawn(async move {
        while !publisher.is_closed() {
            tokio::time::sleep(LOOK_EVERY).await;
            publisher.publish(read(&folder));
        }
    });
    Ok(source)
}

/// Reads `svid.pem`, `key.pem` and `bundle.pem`; the bundle is that of the SVID's own trust domain.
pub(super) fn read(folder: &Path) -> Found {
    Found {
        bundles: bundles(folder),
        svid: svid(folder),
    }
}

fn file(folder: &Path, name: &str) -> Result<Vec<u8>, SvidError> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|cause| SvidError::File { path, cause })
}

fn chain(folder: &Path) -> Result<Vec<CertificateDer<'static>>, SvidError> {
    CertificateDer::pem_slice_iter(&file(folder, "svid.pem")?)
        .collect::<Result<_, _>>()
        .map_err(SvidError::malformed("svid.pem"))
}

fn svid(folder: &Path) -> Result<Svid, SvidError> {
    let chain = chain(folder)?;
    let key = PrivateKeyDer::from_pem_slice(&read_secret_file(&folder.join("key.pem"))?)
        .map_err(SvidError::malformed("key.pem"))?;
    Ok(Svid { chain, key })
}

fn bundles(folder: &Path) -> Result<BundleSet, SvidError> {
    let chain = chain(folder)?;
    let leaf = chain
        .first()
        .ok_or("no certificate")
        .map_err(SvidError::malformed("svid.pem"))?;
    let id = spiffe_id_of(leaf).map_err(SvidError::malformed("svid.pem"))?;
    let domain = id.trust_domain().clone();
    let bundle = TrustBundle::parse(domain, &file(folder, "bundle.pem")?)
        .map_err(SvidError::malformed("bundle.pem"))?;
    Ok(bundle.into())
}
