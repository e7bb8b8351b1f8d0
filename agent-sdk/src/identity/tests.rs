use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::*;

mod workload_api;

struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca() -> Ca {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://test.example")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).expect("CA").pem();
    let issuer = Issuer::from_ca_cert_pem(&certificate, key).expect("issuer");
    Ca {
        certificate,
        issuer,
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ascii"))
}

impl Ca {
    /// Returns certificate and key of a new SVID.
    fn svid(&self) -> (String, String) {
        self.svid_of("/agent")
    }

    fn svid_of(&self, path: &str) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(&format!("spiffe://test.example{path}"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = params.signed_by(&key, &self.issuer).expect("leaf");
        (leaf.pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
    set_mode(folder, name, 0o600);
}

fn set_mode(folder: &Path, name: &str, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(folder.join(name), mode).expect("mode");
}

fn roots(source: &IdentitySource) -> usize {
    source
        .current()
        .trust
        .bundles()
        .iter()
        .map(|b| b.certificates().count())
        .sum()
}

/// Reads the folder once more, as happens every second.
struct Followed {
    folder: std::path::PathBuf,
    publisher: Publisher,
    source: IdentitySource,
}

impl Followed {
    fn begin(name: &str, ca: &Ca) -> Self {
        let folder = std::env::temp_dir().join(format!("sundew-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let (leaf, key) = ca.svid();
        write(&folder, "svid.pem", &leaf);
        write(&folder, "key.pem", &key);
        write(&folder, "bundle.pem", &ca.certificate);
        let (publisher, source) = Publisher::begin(files::read(&folder)).expect("usable");
        Self {
            folder,
            publisher,
            source,
        }
    }

    fn look(&self) {
        self.publisher.publish(files::read(&self.folder));
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn l14_a_changed_bundle_is_taken_by_identities_that_stay() {
    let (old, new) = (ca(), ca());
    let mut followed = Followed::begin("l14", &old);
    let before = followed.source.current();
    let both = format!("{}{}", old.certificate, new.certificate);
    write(&followed.folder, "bundle.pem", &both);
    followed.look();
    let told = tokio::time::timeout(Duration::from_secs(1), followed.source.changed());
    told.await.expect("whoever follows is told");
    assert_eq!(roots(&followed.source), 2);
    assert_eq!(before.roots()[0].1, followed.source.current().roots()[0].1);
    assert_eq!(before.chain(), followed.source.current().chain());
    // A root that was removed is not trusted any more, even if the agent's own SVID is under it.
    write(&followed.folder, "bundle.pem", &new.certificate);
    followed.look();
    assert_eq!(
        before
            .trust
            .bundles()
            .iter()
            .map(|b| b.certificates().count())
            .sum::<usize>(),
        1
    );
    assert_eq!(before.chain(), followed.source.current().chain());
    // What cannot be read changes nothing.
    write(&followed.folder, "bundle.pem", "-----BEGIN");
    followed.look();
    assert_eq!(roots(&followed.source), 1);
}

/// An SDK reads the key of its SVID by the rule of all files with secrets.
#[test]
fn d2_a_key_that_everybody_may_read_is_refused() {
    let folder = std::env::temp_dir().join(format!("sundew-d2-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let ca = ca();
    let (leaf, key) = ca.svid();
    write(&folder, "svid.pem", &leaf);
    write(&folder, "key.pem", &key);
    write(&folder, "bundle.pem", &ca.certificate);
    set_mode(&folder, "key.pem", 0o440);
    assert!(files::read(&folder).svid.is_ok(), "its group is ours");
    set_mode(&folder, "key.pem", 0o644);
    let refused = files::read(&folder)
        .svid
        .err()
        .expect("refused")
        .to_string();
    assert!(refused.contains("key.pem: others may read it"), "{refused}");
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[tokio::test]
async fn a_certificate_is_taken_together_with_its_key() {
    let ca = ca();
    let followed = Followed::begin("key", &ca);
    let before = followed.source.current();
    let (leaf, key) = ca.svid();
    write(&followed.folder, "svid.pem", &leaf);
    followed.look();
    assert_eq!(followed.source.current().chain(), before.chain());
    write(&followed.folder, "key.pem", &key);
    followed.look();
    assert_ne!(followed.source.current().chain(), before.chain());
}
