//! Reports and certificates of the chips of each product line (E5).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use sundew_attestation::kinds::sev_snp::{self, Endorsement, SnpError};
use sundew_attestation::{Claims, Roots};

const NOW_MS: i64 = 1_800_000_000_000;

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A chip of Turin, with AMD's place taken by the test.
struct Turin {
    root: KeyPair,
    key: KeyPair,
}

impl Turin {
    /// The chip's id, and its TCB: FMC, boot loader, TEE, SNP and microcode.
    const ID: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
    const TCB: [u8; 5] = [1, 2, 0, 4, 77];

    fn new() -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        Self {
            root: key(),
            key: key(),
        }
    }

    fn root_params() -> CertificateParams {
        let mut params = named("ARK-Turin");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    /// Returns a certificate for these components, by the last arcs of their identifiers.
    fn certificate(&self, id: &[u8], components: &[(u64, u8)]) -> Vec<u8> {
        let mut params = named("SEV-VCEK");
        let extension = |last: &[u64], value: &[u8]| {
            let oid = [&[1, 3, 6, 1, 4, 1, 3704, 1][..], last].concat();
            CustomExtension::from_oid_content(&oid, value.to_vec())
        };
        params.custom_extensions = components
            .iter()
            .map(|(arc, value)| extension(&[3, *arc], &[2, 1, *value]))
            .chain([extension(&[4], id)])
            .collect();
        let root = Self::root_params();
        let issuer = Issuer::from_params(&root, &self.root);
        params.signed_by(&self.key, &issuer).unwrap().der().to_vec()
    }

    fn own_certificate(&self) -> Vec<u8> {
        let arcs = [9, 1, 2, 3, 8];
        let components: Vec<_> = arcs.into_iter().zip(Self::TCB).collect();
        self.certificate(&Self::ID, &components)
    }

    /// Returns a report of this version; reports before version 3 name no processor family.
    fn report(&self, version: u8) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0] = version;
        report[0x34] = 1;
        report[0x50..0x90].fill(7);
        let [fmc, boot_loader, tee, snp, microcode] = Self::TCB;
        let tcb = [fmc, boot_loader, tee, snp, 0, 0, 0, microcode];
        report[0x180..0x188].copy_from_slice(&tcb);
        if version >= 3 {
            report[0x188] = 0x1a;
        }
        report[0x1A0..0x1A8].copy_from_slice(&Self::ID);
        self.signed(report)
    }

    fn signed(&self, mut report: Vec<u8>) -> Vec<u8> {
        let random = SystemRandom::new();
        let der = self.key.serialize_der();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &der, &random).unwrap();
        let signature = key.sign(&random, &report[..0x2A0]).unwrap();
        for (half, at) in signature.as_ref().chunks(48).zip([0x2A0, 0x2A0 + 72]) {
            for (to, from) in report[at..at + 48].iter_mut().zip(half.iter().rev()) {
                *to = *from;
            }
        }
        report
    }

    fn verify(&self, report: &[u8], certificate: &[u8]) -> Result<Claims, SnpError> {
        let evidence = sev_snp::Evidence {
            report: STANDARD.encode(report),
            certificate: STANDARD.encode(certificate),
        };
        let root = Self::root_params().self_signed(&self.root).unwrap();
        let roots = Roots {
            anchors: vec![root.der().to_vec()],
            ..Roots::default()
        };
        let evidence = serde_json::to_vec(&evidence).unwrap();
        sev_snp::verify(&evidence, &roots, Endorsement::Vcek, &[7; 64], NOW_MS)
    }
}

#[test]
fn e5_reports_of_turin_are_taken_in_each_version_with_all_components() {
    let chip = Turin::new();
    for version in [2, 3, 5] {
        let claims = chip
            .verify(&chip.report(version), &chip.own_certificate())
            .unwrap();
        for (name, value) in ["fmc", "boot_loader", "tee", "snp", "microcode"]
            .into_iter()
            .zip(Turin::TCB)
        {
            let claim = format!("tcb.{name}");
            assert_eq!(claims.values[&claim], [value.to_string()], "{version}");
        }
    }
}

#[test]
fn e5_a_certificate_of_another_tcb_or_chip_is_refused_on_turin() {
    let chip = Turin::new();
    let arcs = [9, 1, 2, 3, 8];
    for version in [2, 3] {
        let report = chip.report(version);
        for at in 0..arcs.len() {
            let mut components: Vec<_> = arcs.into_iter().zip(Turin::TCB).collect();
            components[at].1 += 1;
            let other = chip.certificate(&Turin::ID, &components);
            let refused = chip.verify(&report, &other);
            assert!(
                matches!(refused, Err(SnpError::Chip("TCB"))),
                "component {at}"
            );
            components.remove(at);
            let less = chip.certificate(&Turin::ID, &components);
            assert!(chip.verify(&report, &less).is_err(), "without {at}");
        }
        let components: Vec<_> = arcs.into_iter().zip(Turin::TCB).collect();
        let mut wide = Turin::ID.to_vec();
        wide.resize(64, 1);
        for id in [&[9; 8][..], &Turin::ID[..7], &[], &wide] {
            let other = chip.certificate(id, &components);
            let refused = chip.verify(&report, &other);
            assert!(
                matches!(refused, Err(SnpError::Chip("chip id"))),
                "{refused:?}"
            );
        }
    }
}

/// The order of the components comes from AMD's certificate, and the report must be of that product
/// line.
#[test]
fn e5_the_order_of_components_is_not_the_claimants_choice() {
    let chip = Turin::new();
    let mut report = chip.report(3);
    report[0x188] = 0x19;
    let refused = chip.verify(&chip.signed(report), &chip.own_certificate());
    assert!(
        matches!(refused, Err(SnpError::Chip("product line"))),
        "{refused:?}"
    );
}
