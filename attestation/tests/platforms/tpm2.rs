//! Quotes and endorsements of a TPM, and what the certificates of its maker say.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SigningKey as _,
    date_time_ymd,
};
use sundew_attestation::kinds::tpm2::{self, AttestationKey, Endorsement, TpmError};
use sundew_attestation::{Claims, Loss, Roots, TrustItem, TrustKind, TrustMaterial};
use sundew_rebuilt::edits::{ber, structural};
use sundew_rebuilt::endorsement::{Chain, Maker};

const NOW_MS: i64 = 1_800_000_000_000;
/// The end of the endorsement certificate, 2030-01-01.
const END_MS: i64 = 1_893_456_000_000;

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, &parts.concat())
        .as_ref()
        .to_vec()
}

/// Returns a TPM2B: the length in 2 bytes, and the bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], bytes].concat()
}

/// Returns the public area of a P-256 key with these attributes.
fn area(key: &KeyPair, attributes: u32, cipher: &[u16]) -> Vec<u8> {
    let point = key.public_key_raw();
    let words =
        |words: &[u16]| -> Vec<u8> { words.iter().flat_map(|word| word.to_be_bytes()).collect() };
    [
        words(&[0x0023, 0x000b]),
        attributes.to_be_bytes().to_vec(),
        sized(&[]),
        words(cipher),
        words(&[0x0010, 0x0003, 0x0010]),
        sized(&point[1..33]),
        sized(&point[33..]),
    ]
    .concat()
}

/// The handle of the endorsement hierarchy, which is its qualified name.
const ENDORSEMENT: [u8; 4] = 0x4000_000b_u32.to_be_bytes();

/// Returns the name of a public area.
fn name(area: &[u8]) -> Vec<u8> {
    [&[0, 0x0b][..], &sha256(&[area])].concat()
}

/// Returns the qualified name of a key below a parent.
fn qualified(parent: &[u8], name: &[u8]) -> Vec<u8> {
    [&[0, 0x0b][..], &sha256(&[parent, name])].concat()
}

pub(crate) struct Tpm {
    maker: KeyPair,
    endorsement: KeyPair,
    attestation: KeyPair,
}

impl Tpm {
    pub(crate) fn new() -> Self {
        let key = || KeyPair::generate().unwrap();
        Self {
            maker: key(),
            endorsement: key(),
            attestation: key(),
        }
    }

    fn endorsement_area(&self) -> Vec<u8> {
        area(&self.endorsement, 0x0003_0072, &[0x0006, 128, 0x0043])
    }

    fn attestation_area(&self) -> Vec<u8> {
        area(&self.attestation, 0x0005_0072, &[0x0010])
    }

    fn maker_params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "maker");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    fn roots(&self) -> Roots {
        let root = Self::maker_params().self_signed(&self.maker).unwrap();
        Roots {
            anchors: vec![root.der().to_vec()],
            ..Roots::default()
        }
    }

    /// Returns the endorsement of a certificate that a maker changed.
    pub(crate) fn endorsed(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<(AttestationKey, Endorsement), TpmError> {
        let (key, endorsement, _) = self.activated(change)?;
        Ok((key, endorsement))
    }

    /// Returns such an endorsement with the document of the item that the key becomes.
    fn activated(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<(AttestationKey, Endorsement, Vec<u8>), TpmError> {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.not_after = date_time_ymd(2030, 1, 1);
        change(&mut params);
        let maker = Self::maker_params();
        let issuer = Issuer::from_params(&maker, &self.maker);
        let certificate = params.signed_by(&self.endorsement, &issuer).unwrap();
        let (key, endorsement, document) = AttestationKey::endorsed(
            &sized(&self.attestation_area()),
            &sized(&self.endorsement_area()),
            certificate.der(),
            &[],
        )?;
        endorsement.verify(&self.roots(), NOW_MS)?;
        Ok((key, endorsement, document))
    }

    /// Returns evidence with a quote over these PCRs, bound to 32 bytes of 9, of the key below the
    /// endorsement key.
    pub(crate) fn evidence(&self, pcrs: &BTreeMap<usize, Vec<u8>>, log: Option<&[u8]>) -> Vec<u8> {
        let parent = qualified(&ENDORSEMENT, &name(&self.endorsement_area()));
        self.evidence_below(&parent, pcrs, log)
    }

    /// Returns such evidence of the key below a parent with this qualified name.
    fn evidence_below(
        &self,
        parent: &[u8],
        pcrs: &BTreeMap<usize, Vec<u8>>,
        log: Option<&[u8]>,
    ) -> Vec<u8> {
        let own = name(&self.attestation_area());
        let mut bits = [0_u8; 3];
        for index in pcrs.keys() {
            bits[index / 8] |= 1 << (index % 8);
        }
        let values: Vec<&[u8]> = pcrs.values().map(Vec::as_slice).collect();
        let quote = [
            &0xff54_4347_u32.to_be_bytes()[..],
            &0x8018_u16.to_be_bytes(),
            &sized(&qualified(parent, &own)),
            &sized(&[9; 32]),
            &[0; 16],
            &[1],
            &[0; 8],
            &[0, 0, 0, 1, 0, 0x0b, 3],
            &bits,
            &sized(&sha256(&values)),
        ]
        .concat();
        let signature = fixed(&self.attestation.sign(&quote).unwrap());
        let signature = [
            &[0, 0x18, 0, 0x0b][..],
            &sized(&signature[..32]),
            &sized(&signature[32..]),
        ]
        .concat();
        let evidence = tpm2::Evidence {
            key: hex::encode(own),
            quote: STANDARD.encode(quote),
            signature: STANDARD.encode(signature),
            pcrs: pcrs
                .iter()
                .map(|(index, value)| (*index, hex::encode(value)))
                .collect(),
            event_log: log.map(|log| STANDARD.encode(log)),
        };
        serde_json::to_vec(&evidence).unwrap()
    }

    pub(crate) fn verify(&self, key: &AttestationKey, evidence: &[u8]) -> Result<Claims, TpmError> {
        tpm2::verify(
            evidence,
            |name| (name == key.name()).then_some(key),
            &self.roots(),
            &[9; 32],
            NOW_MS,
        )
    }
}

/// Returns R and S of an ECDSA signature in ASN.1, 32 bytes each.
fn fixed(signature: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = &signature[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let digits = &number[number.len().saturating_sub(32)..];
        out.extend(vec![0; 32 - digits.len()]);
        out.extend(digits);
        rest = &rest[2 + length..];
    }
    out
}

/// Returns a log that has these events: PCR, type and content.
fn log(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut out = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20]].concat();
    out.extend(length(&header));
    out.extend(&header);
    for (pcr, kind, content) in events {
        for number in [*pcr, *kind, 1] {
            out.extend(number.to_le_bytes());
        }
        out.extend([0x0b, 0]);
        out.extend(sha256(&[content]));
        out.extend(length(content));
        out.extend(*content);
    }
    out
}

#[test]
fn e13_a_log_speaks_of_the_pcrs_that_it_mentions_and_the_quote_of_all() {
    let tpm = Tpm::new();
    let (key, _) = tpm.endorsed(|_| {}).unwrap();
    let extended = sha256(&[&[0; 32], &sha256(&[b"loader"])]);
    let pcrs = BTreeMap::from([
        (4, extended),
        // What the operating system measures is in another log; these PCRs begin with ones.
        (10, vec![7; 32]),
        (17, vec![0xff; 32]),
    ]);
    let events = log(&[(4, 13, b"loader"), (5, 13, b"not quoted")]);
    let claims = tpm
        .verify(&key, &tpm.evidence(&pcrs, Some(&events)))
        .unwrap();
    assert_eq!(claims.values["pcr.sha256.10"], ["07".repeat(32)]);
    let measured = hex::encode(sha256(&[b"loader"]));
    assert_eq!(claims.values["event.sha256.4"], [measured]);
    assert!(!claims.values.contains_key("event.sha256.10"));
    // A PCR that the log does mention must be what it says.
    for bad in [
        log(&[(4, 13, b"loader"), (10, 13, b"rules")]),
        log(&[(4, 13, b"another loader")]),
        log(&[(4, 13, b"loader"), (4, 13, b"and more")]),
    ] {
        let refused = tpm.verify(&key, &tpm.evidence(&pcrs, Some(&bad)));
        assert!(matches!(refused, Err(TpmError::EventLog(_))), "{refused:?}");
    }
}

/// Returns the document that registers the key by hand.
fn registered(tpm: &Tpm) -> Vec<u8> {
    let key = STANDARD.encode(sized(&tpm.attestation_area()));
    let parent = STANDARD.encode(sized(&tpm.endorsement_area()));
    format!(r#"{{"key": "{key}", "parent": "{parent}"}}"#).into_bytes()
}

/// E10: a bar takes away what rests on each key that the TPM activated, whichever key was removed.
#[test]
fn e10_no_key_that_a_barred_tpm_activated_counts_until_the_bar_is_removed() {
    let tpm = Tpm::new();
    let (key, endorsement, document) = tpm.activated(|_| {}).unwrap();
    let item = |kind, name: &str, content: &[u8]| TrustItem::parse(kind, name, content).unwrap();
    let root = sundew_attestation::pem("CERTIFICATE", &tpm.roots().anchors[0]);
    let trusted =
        TrustMaterial::default().with_item(item(TrustKind::Tpm2EkRoot, "maker", root.as_bytes()));
    let lost = Loss::Claim(TrustKind::Tpm2Ak, format!("tpm2.key={}", key.name()));
    for (content, losses) in [(document, vec![lost]), (registered(&tpm), vec![])] {
        let trusted = trusted.with_item(item(TrustKind::Tpm2Ak, "key", &content));
        for name in [endorsement.id(), &key.name()] {
            let barred = trusted.with_item(item(TrustKind::Tpm2Barred, name, b"lost"));
            assert_eq!(trusted.losses(&barred, NOW_MS), losses);
            let lifted = barred.without(TrustKind::Tpm2Barred, name);
            assert!(trusted.losses(&lifted, NOW_MS).is_empty());
        }
        let other = "00".repeat(32);
        let barred = trusted.with_item(item(TrustKind::Tpm2Barred, &other, b"lost"));
        assert!(trusted.losses(&barred, NOW_MS).is_empty());
    }
}

#[test]
fn e12_evidence_ends_with_the_certificates_of_the_tpms_maker() {
    let tpm = Tpm::new();
    let (key, _) = tpm.endorsed(|_| {}).unwrap();
    let pcrs = BTreeMap::from([(0, vec![0; 32])]);
    let claims = tpm.verify(&key, &tpm.evidence(&pcrs, None)).unwrap();
    assert_eq!(claims.not_after_ms, Some(END_MS));
}

#[test]
fn e12_e13_only_certificates_for_endorsement_keys_endorse() {
    let tpm = Tpm::new();
    let other = || ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3]);
    type Change<'a> = &'a dyn Fn(&mut CertificateParams);
    let changes: [(&str, Change<'_>); 5] = [
        ("no word of what it is for", &|p| {
            p.extended_key_usages.clear();
            p.key_usages.clear();
        }),
        ("another one", &|p| p.extended_key_usages = vec![other()]),
        ("a key that signs", &|p| {
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }),
        ("the key usage of RSA", &|p| {
            p.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        }),
        ("a CA", &|p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }),
    ];
    for (what, change) in changes {
        assert!(tpm.endorsed(change).is_err(), "{what}: taken");
    }
    tpm.endorsed(|p| p.key_usages.clear()).unwrap();
    // As swtpm makes them.
    tpm.endorsed(|p| p.extended_key_usages.clear()).unwrap();
}

/// Returns a critical extension.
fn critical(oid: &[u64], content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(true);
    extension
}

/// The shape of the EK Credential Profile: no subject, the TPM's model in a critical alternative
/// name, and, of some makers, critical policies.
#[test]
fn e13_certificates_in_the_shape_that_makers_issue_endorse() {
    let model = [
        &[0x30, 0x1c, 0xa4, 0x1a, 0x30, 0x18, 0x31, 0x16, 0x30, 0x14][..],
        &[0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x01, 0x0c, 0x0b],
        b"id:49465800",
    ]
    .concat();
    let policy = [0x30, 0x06, 0x30, 0x04, 0x06, 0x02, 0x2a, 0x03];
    let tpm = Tpm::new();
    let (key, _) = tpm
        .endorsed(|params| {
            params.distinguished_name = DistinguishedName::new();
            params.use_authority_key_identifier_extension = true;
            params.custom_extensions = vec![
                critical(&[2, 5, 29, 17], &model),
                critical(&[2, 5, 29, 32], &policy),
            ];
        })
        .unwrap();
    let pcrs = BTreeMap::from([(0, vec![0; 32])]);
    let claims = tpm.verify(&key, &tpm.evidence(&pcrs, None)).unwrap();
    assert!(claims.values.contains_key("ek"));
}

/// The makers' chains as they are: names, critical policies, an empty subject, authorities in the chip
/// that only the claimant can bring, and other makers' authorities of the same names beside.
#[test]
fn e13_chains_in_the_shape_of_each_maker_endorse_their_own_keys() {
    let tpm = Tpm::new();
    let spki = tpm.endorsement.subject_public_key_info();
    let published = |chains: &[Chain]| Roots {
        anchors: chains.iter().map(|of| of.published[0].clone()).collect(),
        intermediates: chains
            .iter()
            .flat_map(|of| of.published[1..].to_vec())
            .collect(),
        crls: Vec::new(),
    };
    let mut chains: Vec<_> = Maker::ALL.map(|maker| maker.certify(&spki)).into();
    let unknown = published(&chains);
    for maker in Maker::ALL {
        let chain = maker.certify(&spki);
        let endorsement = |certificate: &[u8], intermediates: &[Vec<u8>]| {
            let endorsed = AttestationKey::endorsed(
                &sized(&tpm.attestation_area()),
                &sized(&tpm.endorsement_area()),
                certificate,
                intermediates,
            );
            endorsed.unwrap_or_else(|e| panic!("{maker:?}: {e}")).1
        };
        chains.push(chain.clone());
        let trusted = published(&chains);
        let own = endorsement(&chain.certificate, &chain.intermediates);
        let ends_ms = own.verify(&trusted, NOW_MS);
        assert_eq!(ends_ms.unwrap(), 2_500_000_000_000, "{maker:?}");
        assert!(
            own.verify(&unknown, NOW_MS).is_err(),
            "{maker:?}: another root"
        );
        assert!(
            own.verify(&trusted, 2_500_000_001_000).is_err(),
            "{maker:?}"
        );
        if !chain.intermediates.is_empty() {
            let cut = endorsement(&chain.certificate, &chain.intermediates[1..]);
            assert!(cut.verify(&trusted, NOW_MS).is_err(), "{maker:?}: cut");
        }
        let mut forged = chain.certificate.clone();
        *forged.last_mut().unwrap() ^= 1;
        let forged = endorsement(&forged, &chain.intermediates);
        assert!(
            forged.verify(&trusted, NOW_MS).is_err(),
            "{maker:?}: forged"
        );
    }
}

/// T34: the edits know the elements of certificates. The attacker has authorities of the same names, and
/// another chain of the same maker.
#[test]
fn t34_no_structural_edit_of_a_makers_chain_endorses_anything_else() {
    let (tpm, other) = (Tpm::new(), Tpm::new());
    let spki = tpm.endorsement.subject_public_key_info();
    let (chain, fake) = (Maker::Intel.certify(&spki), Maker::Intel.certify(&spki));
    let theirs = Maker::Intel.certify(&other.endorsement.subject_public_key_info());
    let trusted = Roots {
        anchors: [&chain, &theirs].map(|of| of.published[0].clone()).into(),
        intermediates: [&chain, &theirs].map(|of| of.published[1].clone()).into(),
        crls: Vec::new(),
    };
    let genuine = (chain.certificate.clone(), chain.intermediates.clone());
    let outcome = structural(
        &genuine,
        0x5eed_0000_0000_0018,
        |dice| {
            let (mut certificate, mut intermediates) = genuine.clone();
            let from = if dice.one_in(2) { &fake } else { &theirs };
            let at = dice.roll(intermediates.len());
            match dice.roll(6) {
                0 => certificate.clone_from(&from.certificate),
                1 => intermediates[at].clone_from(&from.intermediates[at]),
                2 => intermediates[at] = ber::edited(&intermediates[at], dice),
                3 => drop(intermediates.remove(at)),
                4 => intermediates.push(ber::edited(&from.intermediates[at], dice)),
                _ => certificate = ber::edited(&certificate, dice),
            }
            if dice.one_in(3) && ber::parse(&certificate).is_some() {
                certificate = ber::edited(&certificate, dice);
            }
            (certificate, intermediates)
        },
        |(certificate, intermediates)| {
            let endorsed = AttestationKey::endorsed(
                &sized(&tpm.attestation_area()),
                &sized(&tpm.endorsement_area()),
                certificate,
                intermediates,
            );
            let (_, endorsement, _) = endorsed.ok()?;
            let ends_ms = endorsement.verify(&trusted, NOW_MS).ok()?;
            Some(format!("{} {ends_ms}", endorsement.id()))
        },
    );
    // An authority beside the path means nothing.
    assert!(outcome.taken < outcome.different / 3, "{outcome:?}");
}

/// The attestation keys of a cloud's TPMs are primary keys: their parent is the hierarchy itself.
#[test]
fn e11_a_primary_attestation_key_is_registered_without_a_parent() {
    let tpm = Tpm::new();
    let document = |hierarchy: &str| {
        let key = STANDARD.encode(sized(&tpm.attestation_area()));
        let document = serde_json::json!({ "key": key, "hierarchy": hierarchy });
        AttestationKey::parse(document.to_string().as_bytes()).unwrap()
    };
    let pcrs = BTreeMap::from([(0, vec![0; 32])]);
    let evidence = tpm.evidence_below(&ENDORSEMENT, &pcrs, None);
    let claims = tpm.verify(&document("endorsement"), &evidence).unwrap();
    assert_eq!(claims.not_after_ms, None);
    // The same key at another place is another key.
    for (key, evidence) in [
        (document("owner"), evidence),
        (document("endorsement"), tpm.evidence(&pcrs, None)),
    ] {
        let refused = tpm.verify(&key, &evidence);
        assert!(matches!(refused, Err(TpmError::Signer)), "{refused:?}");
    }
}
