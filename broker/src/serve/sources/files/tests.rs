//! Bundles of files of which one is bad, one is gone, or one is not named any more.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn root(ca: IsCa) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = ca;
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

fn good() -> String {
    root(IsCa::Ca(BasicConstraints::Unconstrained))
}

/// The files of two trust domains.
struct Files {
    folder: tempfile::TempDir,
    trust: Arc<Trust>,
    bundles: FileBundles,
    named: TrustFiles,
}

impl Files {
    fn new() -> Self {
        let (folder, trust) = (tempfile::tempdir().unwrap(), Arc::new(Trust::default()));
        let names = ["own.example", "partner.example"];
        let named = names.map(|name| (domain(name), folder.path().join(name)));
        let files = Self {
            bundles: FileBundles::new(Arc::clone(&trust), LIMIT),
            folder,
            trust,
            named: named.into(),
        };
        names
            .into_iter()
            .for_each(|name| files.write(name, &good()));
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn look(&mut self) -> Result<(), FileError> {
        self.bundles.look(&self.named)
    }

    /// How many roots a trust domain has, if it is known.
    fn roots(&self, name: &str) -> Option<usize> {
        let current = self.trust.current();
        let bundle = current.bundles.of(&domain(name))?;
        Some(bundle.certificates().count())
    }
}

#[test]
fn i5_a_root_that_cannot_be_used_costs_no_other_and_health_says_whose_it_is() {
    let mut files = Files::new();
    files.write("partner.example", &(good() + &root(IsCa::NoCa)));
    files.look().unwrap();
    assert_eq!(files.roots("partner.example"), Some(1));
    assert_eq!(files.roots("own.example"), Some(1));
    assert_eq!(
        files.trust.problems(),
        ["bundle of partner.example: 1 left out: root 1: not a CA certificate"]
    );
    // A bundle without any usable root is one that trusts nobody, and not the one of before.
    files.write("partner.example", &root(IsCa::NoCa));
    files.look().unwrap();
    assert_eq!(files.roots("partner.example"), Some(0));
    assert_eq!(files.roots("own.example"), Some(1));
}

#[test]
fn i8_a_trust_domain_that_is_not_named_any_more_is_withdrawn() {
    let mut files = Files::new();
    files.look().unwrap();
    std::fs::remove_file(files.folder.path().join("partner.example")).unwrap();
    files.look().unwrap_err();
    assert_eq!(files.trust.problems().len(), 1);
    let generation = files.trust.current().generation;
    files.named.remove(&domain("partner.example"));
    files.look().unwrap();
    assert_eq!(files.roots("partner.example"), None);
    assert_eq!(files.roots("own.example"), Some(1));
    assert!(files.trust.current().generation > generation);
    assert!(files.trust.problems().is_empty());
}

#[test]
fn ac_09_a_bundle_whose_file_fails_is_used_until_its_limit_and_no_other_suffers() {
    let _stopped = clock::testing::stop();
    let mut files = Files::new();
    files.look().unwrap();
    files.write("partner.example", "-----BEGIN CERTIFICATE-----\nMII");
    clock::testing::advance(LIMIT);
    files.look().unwrap_err();
    assert_eq!(files.roots("partner.example"), Some(1));
    clock::testing::advance(Duration::from_millis(1));
    files.look().unwrap_err();
    assert_eq!(files.roots("partner.example"), Some(0));
    assert_eq!(files.roots("own.example"), Some(1));
    // Another source does not take the place of a file that fails.
    let served = STANDARD.decode(
        good()
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect::<String>(),
    );
    let served = TrustBundle::from_der(domain("partner.example"), [&served.unwrap()[..]]);
    files.trust.publish(Source::WorkloadApi, served);
    assert_eq!(files.roots("partner.example"), Some(0));
}
